"""The small discriminator: strided convolutions. :mod:`.trunk` has the one of the paper's size."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from ...config import Config
from .conditioning import CAMERA_DIM, camera_code, join_condition
from .layers import Conv2d, Linear, lrelu, minibatch_stddev

__all__ = ["CAMERA_DIM", "Discriminator", "DiscriminatorConfig", "camera_code"]


class DiscriminatorConfig(Config):
    """Size of one trunk."""

    kind: Literal["compact"] = "compact"
    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Of the first 3x3 layer, then of each 4x4 stride-2 layer."""
    features: int = 64
    """Width of the fully connected layers and of the camera code."""
    group_size: int = 4
    """Samples per group of the minibatch standard deviation."""


class Discriminator(nn.Module):
    """``images [N, C, H, W] in [-1, 1], camera code [N, 6] -> logits [N]``.

    The camera enters by projection (Miyato and Koyama 2018): the logit is the product of the image
    features with an embedding of the camera, and of the class if there is one.

    Args:
        config: Size.
        image_channels: Of the images.
        size: Side of the images (pixels).
        label_dim: Width of the one-hot class that is joined to the camera; 0 = none.
    """

    def __init__(
        self, config: DiscriminatorConfig, image_channels: int, size: int, label_dim: int = 0
    ) -> None:
        super().__init__()
        self.label_dim = label_dim
        widths = config.channels
        self.group_size = config.group_size
        self.stem = Conv2d(image_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        final = size >> (len(widths) - 1)
        self.final = Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.features = nn.ModuleList(
            [
                Linear(widths[-1] * final**2, config.features),
                Linear(config.features, config.features),
            ]
        )
        self.camera = nn.ModuleList(
            [
                Linear(CAMERA_DIM + label_dim, config.features),
                Linear(config.features, config.features),
            ]
        )
        self.scale = config.features**-0.5
        # A sixth off a training step on the CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        images: torch.Tensor,
        camera: torch.Tensor,
        label: torch.Tensor | None = None,
        *,
        full_precision: bool = False,
    ) -> torch.Tensor:
        """Score a batch; its size is a multiple of the group size or smaller than it.

        It always computes in the precision of ``images``.
        """
        del full_precision
        x = lrelu(self.stem(images.contiguous(memory_format=torch.channels_last)))
        for layer in self.down:
            x = lrelu(layer(x))
        x = lrelu(self.final(minibatch_stddev(x, min(self.group_size, len(x))))).flatten(1)
        x = self.features[1](lrelu(self.features[0](x)))
        condition = join_condition(camera, label, self.label_dim)
        embedding = self.camera[1](lrelu(self.camera[0](condition)))
        return (x * embedding).sum(dim=1) * self.scale
