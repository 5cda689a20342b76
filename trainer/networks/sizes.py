"""How large a network is: parameters, and what it keeps for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import nn

from ...config import Config
from .compact import CompactConfig, CompactNetwork
from .conditioning import CAMERA_CODES, CAMERA_DIM
from .discriminator import Discriminator, DiscriminatorConfig
from .field import FieldNetwork, Lattices
from .separate import SeparateConfig, SeparateNetwork
from .shared import SharedConfig, SharedNetwork
from .trunk import Trunk, TrunkConfig


class Count(NamedTuple):
    """Parameters of one part of a network."""

    part: str
    parameters: int


def count_parameters(net: nn.Module) -> list[Count]:
    """Parameters of each direct part of ``net`` that has any, and the total as last row."""
    rows = [Count(name, _count(part)) for name, part in net.named_children()]
    own = sum(p.numel() for p in net.parameters(recurse=False))
    rows.append(Count("own", own))
    return [*(row for row in rows if row.parameters), Count("total", _count(net))]


def parameter_table(net: nn.Module) -> str:
    """:func:`count_parameters` as a Markdown table."""
    lines = ["| part | parameters |", "| --- | ---: |"]
    lines += [f"| `{part}` | {count:,} |" for part, count in count_parameters(net)]
    return "\n".join(lines)


def _count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def saved_bytes(net: nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps from ``run()`` until its backward pass.

    Every storage counts once, parameters and buffers of ``net`` not at all.
    """
    known = {t.untyped_storage()._cdata for t in [*net.parameters(), *net.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage  # held, so that no other storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
        result = run()
    total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


@singledispatch
def activation_bytes(config: Config, batch: int, size: int, where: Lattices | None = None) -> int:
    """Bytes of activations that one forward pass keeps for its backward pass.

    Found by running the network of ``config`` on torch's ``meta`` device, which knows shapes and
    computes nothing: so any size takes a second and no memory. The backward pass needs a little
    more, the gradients of the largest layer; the second-order pass of R1 about twice as much. Not
    counted: weights, gradients and optimiser state (16 bytes a parameter with Adam), rendering.

    Args:
        config: Of a discriminator or a generator network.
        batch: Samples.
        size: Discriminators: side of the images (pixels), three channels. Generators: colour
            queries a sample.
        where: Generators: the nodes of the grid; default: none of the geometry is evaluated.

    Raises:
        TypeError: Not the config of a network.
    """
    raise TypeError(f"{type(config).__name__} is not the config of a network")


@activation_bytes.register
def _(config: TrunkConfig, batch: int, size: int, where: Lattices | None = None) -> int:
    with torch.device("meta"):
        net = Trunk(config, 3, size)
        camera = torch.zeros(batch, CAMERA_CODES[config.camera].dim)
        images = torch.zeros(batch, 3, size, size)
    return saved_bytes(net, lambda: net(images, camera))


@activation_bytes.register
def _(config: DiscriminatorConfig, batch: int, size: int, where: Lattices | None = None) -> int:
    with torch.device("meta"):
        net = Discriminator(config, 3, size)
        camera, images = torch.zeros(batch, CAMERA_DIM), torch.zeros(batch, 3, size, size)
    return saved_bytes(net, lambda: net(images, camera))


@activation_bytes.register
def _(config: SharedConfig, batch: int, size: int, where: Lattices | None = None) -> int:
    with torch.device("meta"):
        net = SharedNetwork(config)
    return _field_bytes(net, config.z_dim, config.label_dim, batch, size, where)


@activation_bytes.register
def _(config: SeparateConfig, batch: int, size: int, where: Lattices | None = None) -> int:
    with torch.device("meta"):
        net = SeparateNetwork(config)
    return _field_bytes(net, config.z_dim, config.label_dim, batch, size, where)


@activation_bytes.register
def _(config: CompactConfig, batch: int, size: int, where: Lattices | None = None) -> int:
    net = CompactNetwork(config).to("meta")
    return _field_bytes(net, config.z_dim, config.label_dim, batch, size, where)


def _field_bytes(
    net: FieldNetwork, z_dim: int, label_dim: int, batch: int, size: int, where: Lattices | None
) -> int:
    z = torch.zeros(batch, z_dim, device="meta")
    label = torch.zeros(batch, label_dim, device="meta") if label_dim else None
    points = torch.zeros(batch, size, 3, device="meta")

    def run() -> list[object]:
        codes = net.map(z, z, label=label)
        features = net.planes(codes)
        out: list[object] = [net.colors(features, codes, points)]
        if where is not None:
            out.append(net.geometry(features, codes, where))
        return out

    assert isinstance(net, nn.Module)
    return saved_bytes(net, run)
