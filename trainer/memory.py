"""How much memory a training step will need, before the run starts.

The step's own code is traced on tensors without data (:mod:`.tracing`), so the figures follow the
networks, losses and renderer as they are. Sizes that depend on shapes are assumed: objects that
cover 40 % of an image, surfaces as ragged as those of untrained networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import nn

from ..console import format_bytes
from ..manifests.records import Get3dPrior
from .checkpoint import optimizers
from .config import TrainConfig
from .method import Batch, DataContext, Phase
from .sampler import build_method
from .tracing import Assumptions, StepTracer, tracing

RUNTIME = {"cpu": 32 * 2**20, "cuda": 640 * 2**20}
"""What a step takes besides tensors (bytes): on the CPU stacks and scratch memory of its threads,
on a GPU the context and the libraries' workspaces, a usual figure that was not measured here."""
SLACK = 1.25
"""Factor on activations: what allocators cannot fill, reordered copies inside convolutions."""
HOLES = 160 * 2**20
"""A heap also keeps up to half as much as it holds in holes between small blocks; large ones are
given back, so that it is no more than this (bytes). Measured with glibc on the CPU: 1.65 times the
traced bytes at 0.2 GB, 0.97 times where every block is given back, 1.2 times above 2 GB."""
ANY_OBJECT = DataContext(name="any", category="any", extent=1.0, camera=Get3dPrior())
"""Shapes of tensors do not depend on the dataset."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that one process of a run needs, on the device that it computes on.

    Attributes:
        weights: Number of parameters, of each network.
        parameters: Of all networks.
        buffers: Constants of the networks, the grid's tables above all.
        gradients: Of all parameters.
        optimizer: State of the optimisers.
        ema: The averaged generator.
        activations: Most that a phase holds besides all that, by the phase's name.
        data: The views in memory; 0 where their number is not known.
        runtime: Besides tensors.
        flops: Multiplications and additions of a step's convolutions and matrix products, for
            one image, on average over steps with and without lazy phases.
    """

    weights: Mapping[str, int]
    parameters: int
    buffers: int
    gradients: int
    optimizer: int
    ema: int
    activations: Mapping[str, int]
    data: int
    runtime: int
    flops: int

    @property
    def total(self) -> int:
        """All of it at the worst moment of a step."""
        kept = self.parameters + self.buffers + self.gradients + self.optimizer + self.ema
        return kept + max(self.activations.values()) + self.data + self.runtime

    def line(self) -> str:
        """One line for people."""
        phase = max(self.activations, key=lambda name: self.activations[name])
        kept = self.parameters + self.buffers + self.gradients + self.optimizer + self.ema
        data = f", views {format_bytes(self.data)}" if self.data else ""
        return (
            f"needs about {format_bytes(self.total)} of memory: weights and their optimisers "
            f"{format_bytes(kept)}, a step (phase {phase}) "
            f"{format_bytes(self.activations[phase])}{data}"
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values, for ``--json``."""
        return {**dataclasses.asdict(self), "total": self.total}


def estimate(
    config: TrainConfig, *, views: int = 0, device: str = "cpu", context: DataContext = ANY_OBJECT
) -> MemoryEstimate:
    """Trace one training step of ``config``.

    Takes a second, or the time to build its grid of tetrahedra (5 s at the paper's size).

    Args:
        config: Of the run; the batch is shared by ``run.workers`` processes.
        views: Images of the dataset's split, which are kept in memory.
        device: ``cpu`` or ``cuda``, where the run computes.
        context: Of the dataset, where it is known.

    Returns:
        Bytes for each process.
    """
    count, size = config.run.batch // config.run.workers, config.data.size
    samples = size * config.get3d.render.color_samples
    with tracing(Assumptions(frozenset({count * samples**2}))) as tracer:
        with torch.device("meta"):
            method = build_method(config, context)
        nets = method.nets()
        host = sum(_array_bytes(net) for net in nets.values())
        for net in nets.values():
            net.to("meta")
        phases = method.phases()
        batch = _batch(count, size)
        later = prod(phase.every for phase in phases)
        _step(phases, batch, 0, tracer)  # afterwards gradients and optimisers have their state
        peaks, flops = _step(phases, batch, later, tracer)
    parameters = {name: _bytes(net.parameters()) for name, net in nets.items()}
    buffers = sum(_bytes(net.buffers()) for net in nets.values())
    state = _optimizer_bytes(phases)
    kept = 2 * sum(parameters.values()) + buffers + state
    tables = host if device == "cpu" else 0  # and the average has tables of its own
    generator = nets["generator"]
    return MemoryEstimate(
        weights={name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()},
        parameters=sum(parameters.values()),
        buffers=buffers + tables,
        gradients=sum(parameters.values()),
        optimizer=state,
        ema=parameters["generator"] + _bytes(generator.buffers()) + tables,
        activations={name: _with_slack(max(0, peak - kept)) for name, peak in peaks.items()},
        data=views * 4 * size**2,
        runtime=RUNTIME[device],
        flops=round(sum(flops[phase.name] / phase.every for phase in phases) / count),
    )


def _with_slack(size: int) -> int:
    return int(SLACK * size + min(size / 2, HOLES))


def _batch(count: int, size: int) -> Batch:
    """Real views without data."""
    rgb, alpha = (torch.zeros(count, c, size, size, device="meta") for c in (3, 1))
    angles = torch.zeros(count, device="meta")
    return Batch(rgb, alpha, angles, angles.clone(), np.random.default_rng(0))


def _step(
    phases: list[Phase], batch: Batch, step: int, tracer: StepTracer
) -> tuple[dict[str, int], dict[str, int]]:
    """The peak of each phase (bytes), and its floating-point operations."""
    peaks, flops = {}, {}
    for phase in phases:
        tracer.restart()
        phase.optimizer.zero_grad(set_to_none=True)
        loss, terms = phase.loss(batch, step)
        loss.backward()
        del loss, terms
        phase.optimizer.step()
        peaks[phase.name], flops[phase.name] = tracer.peak, tracer.flops
    return peaks, flops


def _bytes(tensors: Iterator[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _optimizer_bytes(phases: list[Phase]) -> int:
    states = [state for opt in optimizers(phases).values() for state in opt.state.values()]
    tensors = [x for state in states for x in state.values() if isinstance(x, torch.Tensor)]
    return _bytes(iter(tensors))


def _array_bytes(net: nn.Module) -> int:
    """NumPy tables that a network's parts hold (a grid), each counted once."""
    found = {}
    for module in net.modules():
        for value in vars(module).values():
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                arrays = [x for x in vars(value).values() if isinstance(x, np.ndarray)]
                found[id(value)] = sum(array.nbytes for array in arrays)
    return sum(found.values())
