"""Every GLB of an export: Khronos validator, trimesh, colours against the generator's own.

    python benchmarks/glb_quality.py RUN EXPORT
    python benchmarks/glb_quality.py --quick      # makes a smoke run and 4 meshes first

Needs node and `npm install --prefix third_party gltf-validator`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from common import g3d, report, smoke_run
from g3d.trainer.export.verify import color_error, khronos_issues
from g3d.trainer.sampler import SnapshotSampler


def smoke_export(folder: Path) -> tuple[Path, Path]:
    """A few seconds' run and its export."""
    _, run = smoke_run(folder)
    g3d("export", str(run), "--n", "4", "-o", str(folder / "out"))
    return run, folder / "out"


def main() -> None:
    """Check every file; print one line each, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="run folder or snapshot")
    parser.add_argument("export", type=Path, nargs="?", help="what `g3d export` made of it")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, out = smoke_export(Path(folder)) if args.quick else (args.run, args.export)
        if run is None or out is None:
            parser.error("give RUN and EXPORT, or --quick")
        psi = json.loads((out / "export.json").read_text())["config"]["psi"]
        sampler = SnapshotSampler(run)
        errors = warnings = 0
        means, worst = [], []
        for path in sorted(out.glob("*.glb")):
            issues = khronos_issues(path)
            colors = color_error(path, sampler(int(path.stem), psi))
            errors, warnings = errors + issues.errors, warnings + issues.warnings
            means.append(colors.mean)
            worst.append(colors.p99)
            print(f"{path.name}: {issues.errors} errors, {issues.warnings} warnings, "
                  f"colour error mean {colors.mean:.4f} p99 {colors.p99:.4f}")  # fmt: skip
    results = {
        "files": len(means),
        "validator_errors": errors,
        "validator_warnings": warnings,
        "color_error_mean_worst": max(means),
        "color_error_p99_worst": max(worst),
    }
    report("glb_quality", args.quick, results)


if __name__ == "__main__":
    main()
