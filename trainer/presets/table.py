"""The page of presets, ``docs/presets.md``: ``python -m g3d.trainer.presets.table FILE``."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import yaml

from ...config import list_presets
from ..config import PRESETS, TrainConfig, preset_config
from ..memory import MemoryEstimate, estimate

HEAD = """# Presets of `g3d train`

Made by `make docs` from the files in `trainer/presets/`: do not edit. `g3d presets show NAME`
prints one in full; `--set a.b=c` changes a value. Precedence: defaults < `--preset` < `--config
FILE` < named flags < `--set`. A preset that names a `base` is laid over that one.
"""
SIZES = """
## Sizes and cost

Memory is what one process needs for a step of the whole batch, on the CPU, besides the process
itself (about 0.5 GB) and the views, which are kept in memory (4 x size x size bytes each). *1 of 8*
is each of eight workers that share the batch. *GFLOP* counts multiplications and additions of
convolutions and matrix products for one image, on average over a step; *run* is that times the
images of the run.

| preset | image | batch | kimg | generator | discriminators | memory | 1 of 8 | GFLOP | run |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
PARTS = """
## Where the memory goes

GB; the phases of a step follow one another, so only the largest counts: `D` and `G` train the
discriminators and the generator, `D_r1` is the gradient penalty. The estimate traces the step's own
code on tensors without data; `benchmarks/memory.py` compares it with real steps.

| preset | weights, gradients | optimisers | average | tables | D | D_r1 | G |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def presets_page() -> str:
    """Markdown: what every preset is for, its sizes, memory and cost."""
    names = list_presets(PRESETS)
    text = [HEAD, "\n| preset | what it is for |\n| --- | --- |\n"]
    text += [f"| `{name}` | {_purpose(name)} |\n" for name in names]
    sizes, parts = zip(*(preset_rows(name) for name in names), strict=True)
    return "".join([*text, SIZES, *sizes, PARTS, *parts])


def preset_rows(name: str) -> tuple[str, str]:
    """A preset's line in the table of sizes and in that of memory."""
    config = preset_config(name)
    found = estimate(config)
    return _sizes(name, config, found), _parts(name, found)


def _purpose(name: str) -> str:
    """The first line of the file, which is a comment, and its base."""
    text = (resources.files(PRESETS) / f"{name}.yaml").read_text(encoding="utf-8")
    base = (yaml.safe_load(text) or {}).get("base")
    line = text.splitlines()[0].removeprefix("#").strip()
    return line + (f" Base: `{base}`." if base else "")


def _sizes(name: str, config: TrainConfig, found: MemoryEstimate) -> str:
    run = config.run
    shared = "-"
    if run.batch % (8 * config.get3d.render.views) == 0 and run.batch // 8 >= 4:
        eight = config.model_copy(update={"run": run.model_copy(update={"workers": 8})})
        shared = _gb(estimate(eight).total)
    others = sum(count for net, count in found.weights.items() if net != "generator")
    cells = [f"`{name}`", config.data.size, run.batch, f"{run.kimg:g}"]
    cells += [f"{count / 1e6:.4g} M" for count in (found.weights["generator"], others)]
    cells += [_gb(found.total), shared, _digits(found.flops / 1e9), _flop(found.flops * run.kimg)]
    return f"| {' | '.join(map(str, cells))} |\n"


def _parts(name: str, found: MemoryEstimate) -> str:
    values = [found.parameters + found.gradients, found.optimizer, found.ema, found.buffers]
    values += [found.activations.get(phase, 0) for phase in ("D", "D_r1", "G")]
    return f"| `{name}` | " + " | ".join(_digits(value / 1e9) for value in values) + " |\n"


def _gb(size: float) -> str:
    return f"{_digits(size / 1e9)} GB"


def _flop(thousands: float) -> str:
    """Operations of a run, from those of an image times its thousands of images."""
    for size, unit in ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP")):
        if thousands * 1000 >= size:
            return f"{_digits(thousands * 1000 / size)} {unit}"
    return f"{_digits(thousands * 1000 / 1e9)} GFLOP"


def _digits(value: float) -> str:
    """Two digits that count, nothing finer than a thousandth."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(presets_page(), encoding="utf-8")
