"""The shape of the code, enforced: layers, restricted imports, sizes, no prints, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_CODE = {"tests", "benchmarks", "docs", "third_party", "build", "dist", "node_modules"}

GROUND = ("errors", "config", "console", "cluster")
LAYERS = {
    "__init__": 0,
    **dict.fromkeys(GROUND, 0),
    "manifests": 1,
    "renderers": 2,
    "pipeline": 3,
    "trainer": 3,
    "commands": 4,
    "cli": 5,
    "__main__": 6,
}
"""A module imports what stands lower, or its own folder. pipeline and trainer share a number, so
neither may import the other."""

ONLY_IN = {
    "bpy": ("renderers/blender/inside/*.py",),
    "mathutils": ("renderers/blender/inside/*.py",),
    "nvdiffrast": ("renderers/ops/*.py",),
    "ray": ("cluster/*.py", "trainer/launch*.py"),
    "objaverse": ("pipeline/sources/*.py",),
    "typer": ("cli.py", "commands/options.py"),
    "rich": ("console.py",),
    "click": (),
    "torchvision": (),
    "pickle": (),
    "joblib": (),
}
TORCH_FREE = (
    *(f"{name}.py" for name in GROUND),
    "cluster/*.py",
    "manifests/**/*.py",
    "pipeline/**/*.py",
    "renderers/cameras.py",
    "renderers/base.py",
    "renderers/meshes/*.py",
    "renderers/blender/**/*.py",
    *(
        f"renderers/raster/{name}.py"
        for name in (
            "__init__",
            "renderer",
            "mipmaps",
            "resolve",
            "sampling",
            "shading",
            "visibility",
        )
    ),
)
HEAVY = {"torch", "ray", "bpy", "numba", "trimesh", "scipy", "pyarrow", "matplotlib", "tensorboard"}
EAGER = (
    *("g3d", "g3d.cli", "g3d.config", "g3d.console", "g3d.errors"),
    *(
        f"g3d.commands.{name}"
        for name in (
            "options",
            "places",
            "reports",
            "describe",
            "demo",
            "prepare",
            "render",
            "view",
        )
    ),
    "g3d.trainer.trained",
)
MAX_FILE, MAX_FUNCTION = 400, 60


def sources() -> list[Path]:
    """Every file of the package."""
    return sorted(
        path
        for path in ROOT.rglob("*.py")
        if not any(
            part in NOT_CODE or part.startswith(".") for part in path.relative_to(ROOT).parts
        )
    )


SOURCES = sources()
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]
every_file = pytest.mark.parametrize("path", SOURCES, ids=IDS)


class Import(NamedTuple):
    """One imported name, absolute (``g3d.x.y`` inside g3d)."""

    name: str
    line: int
    relative: bool


def imports(path: Path, tree: ast.AST) -> Iterator[Import]:
    """All that a file imports, at whatever depth."""
    package = ["g3d", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, False)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield Import(".".join([*module, alias.name]), node.lineno, node.level > 0)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer_of(name: str) -> str | None:
    """``g3d.renderers.cameras`` to ``renderers``; None for ``g3d`` itself and for others."""
    parts = name.split(".")
    return parts[1] if parts[0] == "g3d" and len(parts) > 1 and parts[1] in LAYERS else None


def violations(path: Path, tree: ast.AST) -> list[str]:
    """Imports that break the order of the layers."""
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    found = []
    for name, line, _ in imports(path, tree):
        other = layer_of(name)
        if other is None or other == own:
            continue
        ground = LAYERS[own] == LAYERS[other] == 0
        if not ground and LAYERS[other] >= LAYERS[own]:
            found.append(f"{path.relative_to(ROOT)}:{line} {own} imports {other}")
    return found


def matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(path in ROOT.glob(pattern) for pattern in patterns)


@every_file
def test_layers(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    assert own in LAYERS, f"{own} has no layer: add it to LAYERS and to docs/architecture.md"
    assert not violations(path, parse(path))


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("pipeline/plan.py", "from ..trainer.loop import train"),
        ("trainer/get3d/losses.py", "from ...pipeline import job"),
        ("renderers/cameras.py", "import g3d.trainer"),
        ("config.py", "from .manifests import records"),
        ("manifests/records.py", "def f():\n    from .. import cli"),
    ],
)
def test_the_layer_test_can_fail(where: str, text: str) -> None:
    assert violations(ROOT / where, ast.parse(text))


@every_file
def test_restricted_imports(path: Path) -> None:
    found = []
    for name, line, relative in imports(path, parse(path)):
        top = name.split(".")[0]
        if top in ONLY_IN and not matches(path, ONLY_IN[top]):
            found.append(f"{path.relative_to(ROOT)}:{line} imports {top}")
        if top == "torch" and matches(path, TORCH_FREE):
            found.append(f"{path.relative_to(ROOT)}:{line} imports torch")
        if not relative and (top == "g3d" or top in LAYERS):
            found.append(f"{path.relative_to(ROOT)}:{line} imports {name}, not relatively")
    assert not found


@every_file
def test_files_are_short(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= MAX_FILE, f"{path.relative_to(ROOT)} has {count} lines"


@every_file
def test_functions_are_short(path: Path) -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {_code_lines(node)} lines"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and _code_lines(node) > MAX_FUNCTION
    ]
    assert not long


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


@every_file
def test_returns_of_more_than_three_values_are_dataclasses(path: Path) -> None:
    """Compiled kernels, and one colour or box as ``tuple[float, float, float, float]``, may."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} returns {len(node.value.elts)} values"
        for function in ast.walk(parse(path))
        if isinstance(function, ast.FunctionDef) and not _is_kernel_or_vector(function)
        for node in ast.walk(function)
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Tuple)
        and len(node.value.elts) > 3
    ]
    assert not found


def _is_kernel_or_vector(function: ast.FunctionDef) -> bool:
    if function.name == "backward":  # torch asks for one gradient an argument
        return True
    if any("jit" in ast.unparse(decorator) for decorator in function.decorator_list):
        return True
    returns = function.returns
    if not isinstance(returns, ast.Subscript) or not isinstance(returns.slice, ast.Tuple):
        return False
    return len({ast.unparse(part) for part in returns.slice.elts}) == 1


@every_file
def test_only_the_console_prints(path: Path) -> None:
    if path.name == "console.py":
        return
    found = []
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in {"print", "sys.stdout.write", "sys.stderr.write", "typer.echo", "sys.exit"}:
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    allowed = {"cli.py": ["sys.exit"]}.get(path.name, [])
    assert not [line for line in found if line.split()[-1] not in allowed]


def test_the_package_list_is_what_is_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    on_disk = {".".join(["g3d", *folder.parts]) for folder in folders}
    assert set(listed) == on_disk
    assert len(listed) == len(set(listed))
    for folder in folders:
        assert (ROOT / folder / "__init__.py").is_file(), f"{folder} has no __init__.py"


def test_the_version_is_said_once() -> None:
    from g3d import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


def test_the_command_line_imports_nothing_heavy() -> None:
    program = f"import sys; import {', '.join(EAGER)}"
    program += "; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


@every_file
def test_importing_does_no_work(path: Path) -> None:
    """At module level: definitions, imports and assignments; loops and calls belong in functions.

    Calls that stand alone are allowed only to register a callback or a group of commands.
    """
    allowed = ("main", "register", "register_at_fork", "add_typer")
    found = []
    for node in parse(path).body:
        if isinstance(node, ast.For | ast.While | ast.With):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {type(node).__name__}")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if not called.endswith(allowed):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}()")
    assert not found


def test_top_level_holds_what_the_design_lists() -> None:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in done.stdout.splitlines()}
    folders = {"cluster", "manifests", "renderers", "pipeline", "trainer", "commands"}
    folders |= {"tests", "docs", "benchmarks"}
    files = {f"{name}.py" for name in (*GROUND, "__init__", "__main__", "cli")}
    files |= {"py.typed", "pyproject.toml", "Makefile"}
    files |= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"}
    assert top <= folders | files | {".ci", ".github", ".gitignore", ".gitattributes"}
