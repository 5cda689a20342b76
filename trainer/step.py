"""One phase of a step: backward passes, the exchange between workers, the check, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .guard import Finding, as_text, not_finite
from .method import Batch, Logs, Phase
from .workers import Worker


class LeftOut(Exception):
    """A phase was left out because it is not finite. Raised and caught within the trainer."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.phase)
        self.finding = finding


class PhaseStep:
    """Runs phases on one worker.

    Args:
        worker: Its place.
        nets: Of the method.
        phases: All of them; the learning rates that they start with count as whole.
        clip: Longest gradient, None for any.

    Attributes:
        buffers: Those named ``..._avg``, which the batches move.
        stopping: Whether some worker asked to stop, in the step that is under way.
    """

    def __init__(
        self,
        worker: Worker,
        nets: Mapping[str, nn.Module],
        phases: Sequence[Phase],
        clip: float | None,
    ) -> None:
        self.worker, self.nets, self.clip = worker, nets, clip
        self.buffers = [
            buffer
            for net in nets.values()
            for name, buffer in net.named_buffers()
            if name.endswith("_avg")
        ]
        self.stopping = False
        self._stop = False
        self._before: list[torch.Tensor] = []
        self._rates = {id(p.optimizer): p.optimizer.param_groups[0]["lr"] for p in phases}

    def begin(self, stop: bool) -> None:
        """A step begins; ``stop``: this worker was asked to stop after it."""
        self._stop, self.stopping = stop, stop
        self._before = [buffer.clone() for buffer in self.buffers]

    def __call__(self, phase: Phase, batches: Sequence[Batch], step: int, rate: float) -> Logs:
        """One optimiser step on the mean over ``batches`` and workers.

        Args:
            phase: Which.
            batches: Equal parts of this worker's share.
            step: From 0.
            rate: What the learning rate is multiplied by.

        Returns:
            Logged terms (of this worker), and the norm of the gradient.

        Raises:
            LeftOut: Loss or gradient is not finite, on some worker. Nothing has moved.
        """
        phase.optimizer.zero_grad(set_to_none=True)
        loss, terms = self._backward(phase, batches, step)
        figures = [loss]
        if self.worker.count > 1:
            figures.append(loss.new_full((), float(self._stop)))
        norm, figures = self.worker.average_gradients(phase.parameters, *figures)
        # One look at the device a phase: both are finite if this is.
        sound = norm + 0 * figures[0]
        if self.worker.count > 1:
            check, stop = torch.stack([sound, figures[1]]).tolist()
            self.stopping = self.stopping or stop > 0
        else:
            check = sound.item()
        if not math.isfinite(check):
            raise LeftOut(self._leave_out(phase, figures[0], norm, terms))
        if self.clip is not None and check > self.clip:
            gradients = [p.grad for p in phase.parameters if p.grad is not None]
            torch._foreach_mul_(gradients, self.clip / check)
        for group in phase.optimizer.param_groups:
            group["lr"] = self._rates[id(phase.optimizer)] * rate
        phase.optimizer.step()
        terms[f"grad/{phase.name}"] = norm
        return terms

    def _backward(
        self, phase: Phase, batches: Sequence[Batch], step: int
    ) -> tuple[torch.Tensor, Logs]:
        """Gradients of the mean loss over ``batches``; the loss and the terms without graph.

        Running means start anew for every batch and end as the mean of what each made of them:
        the same as one batch would have made.
        """
        if len(batches) == 1:
            loss, terms = phase.loss(batches[0], step)
            loss.backward()
            return loss.detach(), {name: value.detach() for name, value in terms.items()}
        share = 1 / len(batches)
        start = [buffer.clone() for buffer in self.buffers]
        moved = [torch.zeros_like(buffer) for buffer in self.buffers]
        total = torch.zeros(())
        logs: Logs = {}
        for batch in batches:
            loss, terms = phase.loss(batch, step)
            (loss * share).backward()
            total = total.to(loss.device) + loss.detach() * share
            for name, value in terms.items():
                part = value.detach() * share
                logs[name] = logs[name] + part if name in logs else part
            for buffer, before, sum_ in zip(self.buffers, start, moved, strict=True):
                sum_ += buffer - before
                buffer.copy_(before)
        for buffer, sum_ in zip(self.buffers, moved, strict=True):
            buffer += sum_ * share
        return total, logs

    def _leave_out(
        self, phase: Phase, loss: torch.Tensor, norm: torch.Tensor, terms: Logs
    ) -> Finding:
        """Undo what the step did to running means, and say what was found."""
        for buffer, before in zip(self.buffers, self._before, strict=True):
            buffer.copy_(before)
        mine = {id(parameter) for parameter in phase.parameters}
        named = [(name, p) for name, p in self._named() if id(p) in mine]
        return Finding(
            phase.name,
            as_text(loss),
            as_text(norm),
            not_finite(named, gradients=True),
            {name: as_text(value) for name, value in terms.items()},
        )

    def unsound_weights(self) -> Finding | None:
        """What is wrong with the weights; None if all are finite."""
        names = not_finite(self._named(), gradients=False)
        return Finding("weights", "", "", names, {}) if names else None

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{net}.{name}", parameter)
            for net, module in self.nets.items()
            for name, parameter in module.named_parameters()
        ]
