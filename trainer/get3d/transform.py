"""Applying drawn augmentations to views: linear in the images, differentiable twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F


class Transform(NamedTuple):
    """What is done to each of N views, in this order; all tensors on one device.

    Attributes:
        flipped: bool ``[N]``, mirrored left to right.
        moved: bool ``[N]``, resampled by ``inverse``; other views keep their very pixels.
        inverse: ``[N, 2, 3]``, where a pixel's content comes from: see
            :func:`.augment.inverse_affine`.
        cut: bool ``[N]``, ``box`` is filled with background.
        box: ``[N, 4]`` left, top, right, bottom as shares of the image.
        colored: bool ``[N]``, recoloured by ``color``.
        color: ``[N, 3, 4]``, linear part and shift of colours in [-1, 1].
        noise: ``[N]``, standard deviation.
        seed: Of the noise; None = no noise.
    """

    flipped: torch.Tensor
    moved: torch.Tensor
    inverse: torch.Tensor
    cut: torch.Tensor
    box: torch.Tensor
    colored: torch.Tensor
    color: torch.Tensor
    noise: torch.Tensor
    seed: int | None

    def azimuth(self, azimuth: torch.Tensor) -> torch.Tensor:
        """Azimuths ``[N]`` of the cameras of the transformed views."""
        return torch.where(self.flipped, -azimuth, azimuth)

    def images(
        self, images: Mapping[str, torch.Tensor], background: torch.Tensor | float
    ) -> dict[str, torch.Tensor]:
        """Transform images of the same N views.

        Args:
            images: Any of ``rgb [N, 3, H, W]``, ``mask [N, 1, H, W]`` (-1 = nothing there) and
                ``normal [N, 3, H, W]`` (0 = nothing there), all in [-1, 1].
            background: Of ``rgb``: a grey, or colours ``[N, 3, 1, 1]``.
        """
        behind = {"rgb": background, "mask": -1.0, "normal": 0.0}
        # Relative to what is behind, a move brings in zeros: one resampling serves all images.
        x = torch.cat([image - behind[kind] for kind, image in images.items()], dim=1)
        x = torch.where(_rows(self.flipped), x.flip(3), x)
        height, width = x.shape[2:]
        grid = F.affine_grid(self.inverse, [len(x), 1, height, width], align_corners=False)
        x = torch.where(_rows(self.moved), _Warp.apply(x, grid), x)
        x = torch.where(_rows(self.cut) & self._inside_box(height, width), 0.0, x)
        channels = [image.shape[1] for image in images.values()]
        out = {}
        for (kind, image), part in zip(images.items(), x.split(channels, dim=1), strict=True):
            changed = _rows(self.flipped | self.moved | self.cut)
            # Pixels of untouched views stay as they are to the last bit.
            out[kind] = torch.where(changed, part + behind[kind], image)
        if "normal" in out:  # the mirror image of a normal
            side = out["normal"].new_tensor([-1.0, 1.0, 1.0]).reshape(1, 3, 1, 1)
            out["normal"] = torch.where(_rows(self.flipped), out["normal"] * side, out["normal"])
        if "rgb" in out:
            out["rgb"] = torch.where(_rows(self.colored), self._recolored(out["rgb"]), out["rgb"])
        return self._noisy(out) if self.seed is not None else out

    def _recolored(self, rgb: torch.Tensor) -> torch.Tensor:
        shift, flat = self.color[:, :, 3:], rgb.flatten(2)
        return torch.baddbmm(shift, self.color[:, :, :3], flat).reshape(rgb.shape)

    def _inside_box(self, height: int, width: int) -> torch.Tensor:
        y = ((torch.arange(height, device=self.box.device) + 0.5) / height)[None, :, None]
        x = ((torch.arange(width, device=self.box.device) + 0.5) / width)[None, None, :]
        left, top, right, bottom = self.box[:, :, None, None].unbind(1)
        return ((x > left) & (x < right) & (y > top) & (y < bottom))[:, None]

    def _noisy(self, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert self.seed is not None
        generator = torch.Generator(self.noise.device).manual_seed(self.seed)
        return {
            kind: image
            + _rows(self.noise)
            * torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
            for kind, image in images.items()
        }


def _rows(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


class _Warp(torch.autograd.Function):
    """Bilinear sampling with zeros outside; torch's own cannot be differentiated twice.

    It is linear in the image, so its derivative is its transpose, and the derivative of that is the
    sampling again. ``(image [N, C, H, W], grid [N, H', W', 2]) -> [N, C, H', W']``; the grid gets
    no gradient.
    """

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = image.shape
        return F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Unwarp.apply(gradients[0], grid, ctx.shape), None


class _Unwarp(torch.autograd.Function):
    """The transpose of :class:`_Warp`: ``[N, C, H', W'] -> [N, C, H, W]``."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, grid: torch.Tensor, shape: torch.Size
    ) -> torch.Tensor:
        ctx.save_for_backward(grid)
        unused = values.new_zeros(shape)  # the image: it matters for the grid's gradient only
        return torch.ops.aten.grid_sampler_2d_backward(
            values.contiguous(), unused, grid, 0, 0, False, [True, False]
        )[0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Warp.apply(gradients[0].contiguous(), grid), None, None
