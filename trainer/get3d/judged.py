"""What the discriminators judge: images of views, their cameras, their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from ...errors import ConfigError
from ..method import Background, Batch, DataContext
from ..networks.conditioning import CameraCode
from .transform import Transform


class Judged(NamedTuple):
    """N views, real or generated.

    Attributes:
        images: ``rgb [N, 3, H, W]``, ``mask [N, 1, H, W]`` and, if they are judged, ``normal
            [N, 3, H, W]``; all in [-1, 1].
        azimuth: ``[N]`` (radians).
        elevation: ``[N]`` (radians).
        label: One-hot class ``[N, classes]``, or None.
        background: Of ``rgb``: a grey in [-1, 1], or colours ``[N, 3, 1, 1]``.
    """

    images: Mapping[str, torch.Tensor]
    azimuth: torch.Tensor
    elevation: torch.Tensor
    label: torch.Tensor | None
    background: torch.Tensor | float

    def detach(self) -> Judged:
        """The same without gradients."""
        return self._replace(images={k: v.detach() for k, v in self.images.items()})

    def augmented(self, transform: Transform | None) -> Judged:
        """The same through a transformation, if there is one."""
        if transform is None:
            return self
        return self._replace(
            images=transform.images(self.images, self.background),
            azimuth=transform.azimuth(self.azimuth),
        )

    def condition(self, code: CameraCode) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The camera as ``code`` says and, where there are classes, a network's ``label``."""
        camera = code.encode(self.azimuth, self.elevation)
        return camera, {} if self.label is None else {"label": self.label}


def real_views(
    batch: Batch, context: DataContext, background: Background, *, normals: bool
) -> Judged:
    """The real views of a batch.

    Raises:
        ConfigError: Normals or classes are asked for and the batch has none.
    """
    images = {"rgb": batch.rgb * 2 - 1, "mask": batch.alpha * 2 - 1}
    if normals:
        if batch.normal is None:
            raise ConfigError(
                "get3d.normals is on and the dataset has no normal maps",
                hint="--set get3d.normals=false",
            )
        images["normal"] = batch.normal * batch.alpha
    label = None
    if context.labels:
        if batch.label is None:
            raise ConfigError(f"views of the classes {', '.join(context.labels)} carry no class")
        label = one_hot(batch.label, len(context.labels))
    behind: torch.Tensor | float
    if background == "random":
        behind = background_of(images["rgb"], batch.alpha)
    else:
        behind = background * 2 - 1
    return Judged(images, batch.azimuth, batch.elevation, label, behind)


@torch.no_grad()
def background_of(rgb: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Colours ``[N, 3, 1, 1]`` behind ``rgb [N, 3, H, W]``: those of the pixels that are all empty.

    A view without any gets the colour of its least covered pixel.
    """
    covered = alpha.flatten(1).argmin(dim=1)
    return torch.gather(
        rgb.flatten(2), 2, covered[:, None, None].expand(-1, rgb.shape[1], 1)
    ).unsqueeze(3)


def draw_labels(
    context: DataContext,
    count: int,
    rng: np.random.Generator,
    device: torch.device,
    rows: np.ndarray | None = None,
) -> torch.Tensor | None:
    """One-hot classes ``[count, classes]`` with the data's frequencies, or None without classes.

    ``rows`` picks some of them.
    """
    if not context.labels:
        return None
    shares = np.array(context.label_shares or [1.0] * len(context.labels))
    drawn = rng.choice(len(context.labels), size=count, p=shares / shares.sum())
    drawn = drawn if rows is None else drawn[rows]
    return one_hot(torch.from_numpy(drawn).to(device), len(context.labels))


def one_hot(label: torch.Tensor, classes: int) -> torch.Tensor:
    """``[N] -> float [N, classes]``."""
    return torch.nn.functional.one_hot(label.long(), classes).float()


def draw_cutoff(rows: int, probability: float, rng: np.random.Generator) -> int:
    """Where styles change, uniform in [1, rows); ``rows``, with 1 - ``probability``: nowhere."""
    mixed, cutoff = rng.random() < probability, int(rng.integers(1, max(rows, 2)))
    return cutoff if mixed else rows
