"""A training step on tensors without data: what would be alive, and how large, at every moment.

The code of the method runs as it is, on torch's ``meta`` device. Two kinds of things need help:
sizes that depend on data (how many edges a surface crosses, how many pixels it covers), which are
assumed, and the rasteriser, whose backend ``shapes`` computes nothing.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


@dataclass(frozen=True)
class Assumptions:
    """What stands for the data.

    Attributes:
        images: Sizes (elements) of the boolean images of a step; the others are grids.
        coverage: Share of their pixels that objects cover.
        surface: A surface meets ``surface * n ** (2 / 3)`` of the n edges or cells of a grid.
            Untrained networks, which are the most ragged, give 4 to 6 for the edges and 7 to 10
            for the tetrahedra of the presets' grids.
    """

    images: frozenset[int]
    coverage: float = 0.4
    surface: float = 10.0

    def true_elements(self, mask: torch.Tensor) -> int:
        """How many elements of ``mask`` (``[..., n]``, the last axis within a sample) are true."""
        if mask.numel() in self.images:
            return math.ceil(self.coverage * mask.numel())
        row = mask.shape[-1] if mask.ndim > 1 else mask.numel()
        found = min(row, math.ceil(self.surface * row ** (2 / 3)))
        return found * (mask.numel() // max(row, 1))


class StepTracer(TorchDispatchMode):
    """Counts the bytes of all ``meta`` storages that are alive, while it is active.

    Attributes:
        alive: Bytes now.
        peak: The most since :meth:`restart`.
        flops: Multiplications and additions of convolutions and matrix products since then.
    """

    def __init__(self, assumptions: Assumptions) -> None:
        super().__init__()
        self._assumptions = assumptions
        self._storages: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._per_sample = 1  # the number that data would have given, last asked for
        self.alive = self.peak = self.flops = 0

    def restart(self) -> None:
        """Forget the peak and the operations so far."""
        self.peak, self.flops = self.alive, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        args, kwargs = _on_one_device(func, args, kwargs)
        help_ = _HELP.get(func.overloadpacket)
        out = help_(self, func, args, kwargs) if help_ else func(*args, **kwargs)
        tree_map_only(torch.Tensor, self._see, out)
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        return out

    def _see(self, tensor: torch.Tensor) -> None:
        if tensor.device.type != "meta":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes()
        self._storages[key] = (weakref.ref(storage, lambda _: self._drop(key)), size)
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _drop(self, key: int) -> None:
        self.alive -= self._storages.pop(key)[1]

    def true_elements(self, mask: torch.Tensor) -> int:
        """The assumed number, remembered for the code that asks for it next."""
        count = self._assumptions.true_elements(mask)
        self._per_sample = max(1, count // (len(mask) if mask.ndim > 1 else 1))
        return count

    def number(self) -> int:
        """What a tensor's value is taken for."""
        return self._per_sample


def _on_one_device(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Small constants made on the CPU follow the tensors that have no data."""
    leaves = tree_leaves((args, kwargs))
    devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
    if devices != {"cpu", "meta"} or func.overloadpacket is aten.copy_:
        return args, kwargs

    def move(x: torch.Tensor) -> torch.Tensor:
        return x if x.device.type == "meta" or x.ndim == 0 else x.to("meta")

    return tree_map_only(torch.Tensor, move, (args, kwargs))


def _nonzero(tracer: StepTracer, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    mask = args[0]
    if mask.device.type != "meta":
        return func(*args, **kwargs)
    count = tracer.true_elements(mask)
    return torch.zeros((count, mask.ndim), dtype=torch.long, device="meta")


def _value(tracer: StepTracer, func: Any, args: Any, kwargs: Any) -> Any:
    if args[0].device.type != "meta":
        return func(*args, **kwargs)
    return False if args[0].dtype == torch.bool else tracer.number()


def _copy(tracer: StepTracer, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    if args[0].device.type == "meta" and str(kwargs.get("device")) == "cpu":
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*args, **kwargs)


def _index(tracer: StepTracer, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    """A boolean mask keeps everything: the upper bound of what it may keep."""
    source, indices = args
    if not any(i is not None and i.dtype in {torch.bool, torch.uint8} for i in indices):
        return func(*args, **kwargs)
    mask = next(i for i in indices if i is not None)
    kept = mask.numel()
    return torch.zeros((kept, *source.shape[mask.ndim :]), dtype=source.dtype, device="meta")


def _counts(tracer: StepTracer, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
    if args[0].device.type != "meta":
        return func(*args, **kwargs)
    size = kwargs.get("minlength", args[2] if len(args) > 2 else 0) or tracer.number()
    return torch.zeros(size, dtype=torch.long, device="meta")


_HELP: dict[Any, Callable[[StepTracer, Any, Any, Any], Any]] = {
    aten.nonzero: _nonzero,
    aten._local_scalar_dense: _value,
    aten._to_copy: _copy,
    aten.index: _index,
    aten.bincount: _counts,
}
"""What to do where shapes or values depend on data."""


_CAST = {F.conv2d, F.conv3d, F.linear, torch.conv2d, torch.conv3d, torch.matmul}
"""What autocast computes in half precision and the networks use."""


class _Casting(TorchFunctionMode):
    """What ``torch.autocast`` does, for tensors without data, which it does not know."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _CAST:

            def cast(x: torch.Tensor) -> torch.Tensor:
                return x.to(self._dtype) if x.dtype == torch.float32 else x

            args, kwargs = tree_map_only(torch.Tensor, cast, (args, kwargs))
        return func(*args, **(kwargs or {}))


@contextmanager
def _autocast(
    device_type: str,
    dtype: torch.dtype = torch.bfloat16,
    enabled: bool = True,
    cache_enabled: bool | None = None,
) -> Iterator[None]:
    if not enabled:
        yield
        return
    with _Casting(dtype):
        yield


@contextmanager
def tracing(assumptions: Assumptions) -> Iterator[StepTracer]:
    """A tracer that is active within the block, where autocast works on ``meta`` too."""
    original = torch.autocast
    torch.autocast = _autocast  # type: ignore[assignment, misc]
    try:
        with StepTracer(assumptions) as tracer:
            yield tracer
    finally:
        torch.autocast = original  # type: ignore[misc]
