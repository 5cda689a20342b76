"""How a command ends: what was made, where, how long it took, and the next command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..config import home
from ..console import format_bytes, format_seconds
from ..errors import PartialFailure

if TYPE_CHECKING:
    from ..manifests.categories import Category
    from ..manifests.repair import Validation
    from ..pipeline.estimate import Estimate
    from ..pipeline.report import PrepareReport
    from ..trainer.export.driver import ExportReport
    from ..trainer.loop import TrainReport
    from .demo import DemoReport


def prepared(report: PrepareReport) -> None:
    """The end of ``g3d prepare``.

    Raises:
        PartialFailure: Some assets failed; the others are in the dataset.
    """
    counts = f"{report.accepted} of {report.total} assets"
    if report.rejected or report.failed:
        counts += f" ({report.rejected} rejected, {report.failed} failed)"
    for reason, count in report.excluded.items():
        console.say(f"left out: {count} {reason}")
    if report.dry_run:
        console.say(f"would prepare {report.made} assets, {report.kept} are there; wrote nothing")
        _estimated(report.estimate)
    else:
        done = "found" if report.nothing_to_do else "prepared"
        console.say(
            f"{done} {counts}, {report.views} images in {report.shards} shards "
            f"({format_bytes(report.bytes)}), in {format_seconds(report.seconds)}"
        )
        for reason, count in list(report.reasons.items())[:8]:
            console.say(f"  {count:>6} {reason}")
    if report.duplicates:
        console.say(
            f"{report.duplicates} shapes are nearly the same as another: -s duplicates=drop"
        )
    console.result(asdict(report))
    if report.failed and not report.dry_run:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons.items())
        raise PartialFailure(
            f"{report.failed} of {report.total} assets failed: {reasons}",
            hint=f"see {report.path}/assets.jsonl; the others are ready: g3d train",
        )
    if report.waiting:
        console.say(f"{report.waiting} shards are left to the runs of the other --shard-index")
    elif not report.dry_run:
        _next("g3d train", "--data", report.path, home() / "datasets")


def _estimated(found: Estimate | None) -> None:
    """What a run would take."""
    if found is None:
        return
    console.say(
        f"it would take {format_seconds(found.seconds)} on {found.workers} workers of this "
        f"machine, {format_bytes(found.bytes)} of shards"
        + (f", {format_bytes(found.download)} of downloads" if found.download else "")
        + f"; measured on {found.tried} assets, {found.accepted} of them accepted"
    )
    needed = 2 * found.bytes + found.download  # an asset is staged before its shard is written
    if needed > found.free:
        console.say(f"that does not fit: {format_bytes(found.free)} of disk are free")


def trained(report: TrainReport) -> None:
    """The end of ``g3d train``."""
    for line in report.restarts:
        console.say(line)
    done = "found finished" if report.finished_before else "trained"
    console.say(
        f"{done}: {report.nimg / 1000:g} kimg, snapshot {report.snapshot}, "
        f"in {format_seconds(report.seconds)}"
    )
    console.result({"path": report.run, **asdict(report)})
    _next("g3d export", "", report.run, home() / "runs")


def exported(report: ExportReport) -> None:
    """The end of ``g3d export``.

    Raises:
        PartialFailure: Some seeds gave no mesh.
    """
    ok, empty, failed = (report.count(status) for status in ("ok", "empty", "failed"))
    console.say(
        f"exported {ok} meshes ({report.made} new, {report.kept} kept), gallery {report.gallery}, "
        f"in {format_seconds(report.seconds)}"
    )
    facts = asdict(report)
    facts["records"] = [record.model_dump() for record in report.records]
    console.result({"path": report.out, **facts})
    if empty or failed:
        raise PartialFailure(
            f"{empty} seeds gave an empty shape, {failed} failed",
            hint=f"see {report.out / 'export.jsonl'}; the other {ok} are ready",
        )


def demonstrated(report: DemoReport) -> None:
    """The end of ``g3d demo``: every place.

    Raises:
        PartialFailure: Some seeds gave no mesh.
    """
    console.say(
        f"\ndataset  {report.dataset}   {report.assets} shapes x {report.views} views\n"
        f"run      {report.run}   {report.nimg / 1000:g} kimg\n"
        f"meshes   {report.out}   {report.meshes} textured GLB files\n"
        f"gallery  {report.gallery}\n"
        f"in {format_seconds(report.seconds)}"
    )
    console.result({"path": report.out, **asdict(report)})
    if report.missing:
        raise PartialFailure(
            f"{report.missing} seeds gave no mesh", hint=f"see {report.out / 'export.jsonl'}"
        )
    console.say("next: open the gallery in a browser, or measure the run: g3d eval")


def validated(done: Validation) -> None:
    """The end of ``g3d validate``.

    Raises:
        PartialFailure: There are findings.
    """
    names = ("findings", "fixes", "left")
    facts = {name: [asdict(one) for one in getattr(done, name)] for name in names}
    console.result(
        {"dataset": done.dataset, "ok": not done.findings, **facts},
        "\n".join(map(str, done.findings)) or f"{done.dataset}: no finding",
    )
    for fix in done.fixes:
        console.say(f"{fix.action} {fix.file}" + (f" -> {fix.kept}" if fix.kept else ""))
    if done.findings:
        mended = f", {len(done.findings) - len(done.left)} dealt with" if done.fixes else ""
        raise PartialFailure(
            f"{done.dataset}: {len(done.findings)} findings{mended}",
            hint="the same `g3d prepare` again makes anew what is damaged",
        )


def categories(found: list[Category]) -> None:
    """A line a category: name, synset, extent, other names."""
    lines = [
        f"{c.name:<14} {c.synset or '':<8}  {c.extent:<4g} {', '.join(c.aliases)}" for c in found
    ]
    console.result({"categories": [c.model_dump(mode="json") for c in found]}, "\n".join(lines))


def _next(command: str, option: str, path: Path | str, usual: Path) -> None:
    """Name the next command; its argument only where it would not find the path by itself."""
    found_anyway = isinstance(path, Path) and path.resolve().parent == usual.resolve()
    words = [command] if found_anyway else [command, option, str(path)]
    console.say("next: " + " ".join(filter(None, words)))
