"""What the command line promises: help, examples, JSON, exit codes, speed, generated reference."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from g3d import cli
from g3d.commands import doctor, places
from g3d.commands.options import COMMON_OPTIONS
from g3d.errors import G3DError, PartialFailure
from g3d.pipeline.plan import Share

ROOT = Path(__file__).resolve().parent.parent


def leaves(group: Any, prefix: str = "") -> dict[str, Any]:
    """Every command that does something, by its full name."""
    out = {}
    for name, command in group.commands.items():
        full = f"{prefix}{name}"
        out.update(leaves(command, f"{full} ") if hasattr(command, "commands") else {full: command})
    return out


COMMANDS = leaves(typer.main.get_command(cli.app))
every_command = pytest.mark.parametrize("name", COMMANDS)

MOST_OPTIONS = {"prepare": 19, "train": 11, "export": 9, "demo": 5, "render": 10, "view": 4}
"""Ratchet: a new flag needs a reason, everything else goes through --set."""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def g3d(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["g3d", *words])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.environ.pop("G3D_DEBUG", None)
        return Done(code, *capsys.readouterr())

    return run


def examples(name: str) -> list[str]:
    return re.findall(r"^\$ (.+)$", COMMANDS[name].epilog, flags=re.MULTILINE)


def parse(line: str) -> None:
    """Parse a command line as the shell and typer would; run nothing."""
    words = shlex.split(re.split(r"\s(?:#|>|\|)", line)[0])
    assert words[0] == "g3d"
    name = " ".join(words[1:3]) if " ".join(words[1:3]) in COMMANDS else words[1]
    command = COMMANDS[name]
    command.make_context(name, words[1 + len(name.split()) :])


@every_command
def test_help_and_examples(name: str) -> None:
    command = COMMANDS[name]
    first = command.help.splitlines()[0]
    assert first[0].isupper()
    assert first.endswith(".")
    assert len(first) <= 60, "the list of commands shows it whole"
    assert examples(name)
    for example in examples(name):
        assert example.startswith(f"g3d {name}")
        parse(example)
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name} has no help"
        assert "[" not in parameter.help, "rich takes it for markup and swallows it"


@every_command
def test_common_options_are_on_every_command(name: str) -> None:
    found = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    for names, _ in COMMON_OPTIONS.values():
        assert set(names) <= found


@every_command
def test_the_number_of_options_does_not_grow(name: str) -> None:
    own = [
        parameter.name
        for parameter in COMMANDS[name].params
        if parameter.name not in COMMON_OPTIONS and parameter.opts[0].startswith("-")
    ]
    assert len(own) <= MOST_OPTIONS.get(name, 3), own


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_commands_in_the_documents_parse(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    for line in re.findall(r"^g3d .+$", blocks, flags=re.MULTILINE):
        parse(line)


def test_the_reference_is_up_to_date(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "typer", "g3d.cli", "utils", "docs", "--name", "g3d"]
    subprocess.run([*program, "--output", tmp_path / "cli.md"], check=True, capture_output=True)
    fresh = (tmp_path / "cli.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == fresh, "make docs"


def test_help_is_fast() -> None:
    """Half a second of a core: wall time would tell of what else the machine does."""
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "g3d", "--help"], check=True, capture_output=True)
        after = os.times()
        times.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
    assert statistics.median(times) < 0.5


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nsys.argv = ['g3d', '--help']\nfrom g3d.cli import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "prepare" in done.stdout
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert not loaded & {"torch", "ray", "bpy", "numba", "trimesh", "numpy", "pyarrow"}


def test_version_and_no_arguments(g3d: Run) -> None:
    from g3d import __version__

    assert g3d("--version") == (0, f"g3d {__version__}\n", "")
    done = g3d()
    assert done.code == 2
    assert "Workflow" in done.out


# ---- errors: exit code, two lines, the nearest word -------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("prepre", 2, "Did you mean 'prepare'"),
        ("prepare", 2, "one of: procedural, folder, shapenet"),
        ("prepare --list-categories nosuch", 2, "unknown source 'nosuch'"),
        ("prepare shapenet --category motorbike --set fetch.offline=true", 1, "not in the cache"),
        ("prepare shapenet --category human", 2, "--list-categories shapenet"),
        ("prepare procedural --categori chair", 2, "--category"),
        ("prepare procedural --category chiar", 2, "did you mean 'chair'?"),
        ("prepare proceduarl --category chair", 2, "did you mean 'procedural'?"),
        ("prepare folder --root nowhere --category car", 2, "nowhere"),
        ("prepare folder --category car", 2, "--root"),
        ("prepare procedural --category chair --views 0", 2, "views: "),
        ("prepare procedural --category chair --set rendr.size=3", 2, "did you mean 'render'?"),
        ("prepare procedural --category chair --renderer blendr", 2, "renderer: "),
        ("prepare procedural --category chair --renderer blender", 4, "is not an interpreter"),
        ("prepare procedural --category chair --preset nothing", 2, "unknown preset 'nothing'"),
        ("train", 1, "there is no dataset below"),
        ("train --data nowhere", 1, "nowhere"),
        ("train --preset cpuu", 2, "did you mean 'cpu'?"),
        ("train --config nowhere.yaml", 2, "nowhere.yaml"),
        ("train --set run.kimgs=1", 2, "did you mean 'kimg'?"),
        ("export", 1, "there is no trained run below"),
        ("export nowhere", 1, "nowhere"),
        ("export --seeds 9-1", 2, "--seeds"),
        ("eval nowhere", 1, "nowhere"),
        ("validate nowhere", 1, "nowhere"),
        ("inspect nowhere", 1, "nowhere"),
        ("presets show cpuu", 2, "did you mean 'cpu'?"),
        ("demo --preset cpuu", 2, "did you mean 'cpu'?"),
        ("demo --category chiar", 2, "did you mean 'chair'?"),
    ],
)
def test_wrong_use(
    g3d: Run, words: str, code: int, message: str, own_home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("G3D_BLENDER_PYTHON", str(tmp_path / "nowhere"))
    done = g3d(*words.split())
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("g3d ")]
    if "Usage:" not in done.err:
        assert lines[0].startswith("error: ")
        assert lines[1].startswith("hint:  ")
        assert len(lines) == 2
    assert not own_home.exists(), "nothing half-written is left behind"


@pytest.mark.parametrize("words", ["train --json", "export --json", "inspect nowhere --json"])
def test_an_error_in_json_keeps_its_code(g3d: Run, words: str) -> None:
    done = g3d(*words.split())
    assert (done.code, done.out) == (1, "")
    error = json.loads(done.err)["error"]
    assert set(error) == {"type", "message", "hint"}
    assert error["type"].endswith("Error")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make ``g3d inspect`` fail as given."""

    def install(failure: BaseException) -> None:
        def fail(path: Path) -> dict[str, Any]:
            raise failure

        monkeypatch.setattr("g3d.commands.describe.describe", fail)

    return install


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (G3DError("odd", hint="mend"), 1, "error: odd\nhint:  mend\n"),
        (PartialFailure("two failed"), 3, "error: two failed\n"),
        (OSError(errno.ENOSPC, "full", "some/file"), 1, "no space left while writing some/file"),
        (OSError(errno.EACCES, "Permission denied", "x"), 1, "error: x: Permission denied"),
        (ModuleNotFoundError("no", name="ray"), 4, "the package ray is not installed"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes(
    g3d: Run,
    failing: Callable[[BaseException], None],
    failure: BaseException,
    code: int,
    message: str,
) -> None:
    failing(failure)
    done = g3d("inspect", ".")
    assert done.code == code
    assert message in done.err


@pytest.mark.parametrize("failure", [ValueError("a defect"), ModuleNotFoundError(name="g3d.x")])
def test_a_defect_is_not_dressed_up(
    g3d: Run, failing: Callable[[BaseException], None], failure: Exception
) -> None:
    failing(failure)
    with pytest.raises(type(failure)):
        g3d("inspect", ".")


def test_debug_shows_the_traceback(g3d: Run, failing: Callable[[BaseException], None]) -> None:
    failing(G3DError("odd"))
    with pytest.raises(G3DError, match="odd"):
        g3d("inspect", ".", "--debug")
    assert g3d("inspect", ".").code == 1


# ---- results ------------------------------------------------------------------------------------


def test_categories(g3d: Run) -> None:
    found = g3d("prepare", "shapenet", "--list-categories", "--json").json()["categories"]
    assert len(found) == 55
    chair = next(c for c in found if c["name"] == "chair")
    assert chair["synset"] == "03001627"
    lines = g3d("prepare", "--list-categories").out.splitlines()
    assert len(lines) > 55
    assert any(line.startswith("human ") for line in lines)


def test_presets(g3d: Run) -> None:
    names = g3d("presets", "ls", "--json").json()["presets"]["train"]
    assert {"smoke", "cpu"} <= set(names)
    assert "train  cpu" in g3d("presets", "ls").out.splitlines()
    shown = g3d("presets", "show", "cpu", "--json").json()["config"]
    assert shown["preset"] == "cpu"
    assert shown["run"]["kimg"] < g3d("presets", "show", "--json").json()["config"]["run"]["kimg"]


def test_doctor(g3d: Run, own_home: Path) -> None:
    done = g3d("doctor", "--json")
    report = done.json()
    assert done.code == 0
    assert (report["schema"], report["command"], report["ok"]) == (1, "doctor", True)
    found = {check["name"]: check for check in report["checks"]}
    assert {"python", "memory", "disk", "torch", "ray", "numba cache", "bpy"} <= set(found)
    assert found["G3D_HOME"]["found"] == str(own_home.resolve())
    assert not own_home.exists(), "looking makes nothing"


def test_doctor_says_how_to_mend(g3d: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda name: ["nothing-like-it>=1", "numpy>=1"]
    )
    done = g3d("doctor")
    assert done.code == 4
    assert "pip install 'nothing-like-it>=1'" in done.out
    assert re.search(r"^missing +nothing-like-it", done.out, flags=re.MULTILINE)


def test_doctor_sees_an_unwritable_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_writable", lambda place: False)
    report = doctor.examine()
    assert [check.name for check in report.missing] == ["G3D_HOME"]
    assert "export G3D_HOME" in report.as_text()


def test_every_option_of_prepare_reaches_the_config(
    g3d: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def prepare(config: Any, out: Path, **more: Any) -> None:
        seen.update(config=config, out=out, **more)
        raise G3DError("seen")

    monkeypatch.setattr("g3d.pipeline.prepare.prepare", prepare)
    (tmp_path / "c.yaml").write_text("shard_size: 7\nviews: 5\n")
    words = (
        f"prepare folder --category car --root {tmp_path} --limit 3 --views 6 --size 48 "
        f"--renderer raster --workers 1 --config {tmp_path}/c.yaml -s seed=9 -s render.light=flat "
        "--offline --table t.csv --license cc0,by --shard-index 2/5 -o s3://bucket/out "
        "--overwrite --add --dry-run"
    )
    g3d(*words.split())
    config = seen.pop("config")
    flags = {"overwrite": True, "add": True, "dry_run": True, "share": Share(2, 5)}
    assert seen == {"out": "s3://bucket/out", **flags}
    assert (config.license, config.table, config.fetch.offline) == (("cc0", "by"), "t.csv", True)
    assert (config.source, config.category, config.root) == ("folder", "car", str(tmp_path))
    assert (config.limit, config.views, config.render.size, config.workers) == (3, 6, 48, 1)
    assert (config.renderer, config.shard_size, config.seed) == ("raster", 7, 9)
    assert config.render.light == "flat"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight procedural chairs of three small views."""
    from g3d.pipeline.config import PrepareConfig
    from g3d.pipeline.prepare import prepare

    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    values = {"limit": 8, "views": 3, "render": {"size": 32}, "workers": 0}
    prepare(PrepareConfig(source="procedural", category="chair", **values), out)
    return out


def test_every_option_of_train_reaches_the_config(
    g3d: Run, dataset: Path, tmp_path: Path, own_home: Path
) -> None:
    (tmp_path / "c.yaml").write_text("run: {batch: 2, tick_kimg: 0.5}\n")
    words = (
        f"train --data {dataset} --preset cpu --config {tmp_path}/c.yaml --kimg 3 --batch 4 "
        f"--seed 5 -s run.threads=1 --dry-run --json"
    )
    done = g3d(*words.split())
    assert done.code == 0, done.err
    run = done.json()["config"]["run"]
    assert (run["kimg"], run["batch"], run["seed"], run["tick_kimg"]) == (3, 4, 5, 0.5)
    assert run["threads"] == 1
    assert done.json()["out"] == str(own_home / "runs" / "00000-procedural-chair-cpu")
    assert not own_home.exists(), "a dry run writes nothing"


def test_a_dataset_is_validated_and_described(g3d: Run, dataset: Path, tmp_path: Path) -> None:
    assert g3d("inspect", str(dataset), "--json").json()["kind"] == "dataset"
    assert g3d("validate", str(dataset), "--json").json()["ok"] is True
    copy = tmp_path / "damaged"
    shutil.copytree(dataset, copy)
    shard = next((copy / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[700] ^= 0xFF
    shard.write_bytes(data)
    done = g3d("validate", str(copy), "--json")
    assert done.code == 3
    assert done.json()["findings"]
    assert not done.json()["fixes"]
    assert g3d("inspect", str(shard)).out.startswith("kind")
    fixed = g3d("validate", str(copy), "--fix", "--json")
    assert fixed.code == 3
    assert [fix["action"] for fix in fixed.json()["fixes"]] == ["quarantined"]
    assert not shard.exists()
    assert list((copy / "quarantine").rglob("*.tar*"))


def test_the_three_commands_as_they_stand(g3d: Run, dataset: Path, own_home: Path) -> None:
    """``g3d train`` takes the newest dataset, ``g3d export`` the newest run."""
    shutil.copytree(dataset, own_home / "datasets" / dataset.name)
    trained = g3d("train", "--preset", "smoke", "-q")
    assert trained.code == 0, trained.err
    run = own_home / "runs" / "00000-procedural-chair-smoke"
    assert trained.out == f"{run}\n"
    again = g3d("train", "--preset", "smoke", "--json").json()
    assert (again["path"], again["finished_before"]) == (str(run), True)
    other = g3d("train", "--preset", "smoke", "--seed", "1", "--dry-run", "--json").json()
    assert other["out"] == str(own_home / "runs" / "00001-procedural-chair-smoke")
    refused = g3d("train", "--preset", "smoke", "--seed", "1", "-o", str(run))
    assert refused.code == 1
    assert "run.seed  0 -> 1" in refused.err

    exported = g3d("export", "--n", "2", "--texture-size", "64", "--json")
    report = exported.json()
    assert report["path"] == str(own_home / "exports" / run.name)
    made = sorted(path.name for path in Path(report["path"]).glob("*.glb"))
    empty = sum(record["status"] == "empty" for record in report["records"])
    assert len(made) + empty == 2
    assert exported.code == (3 if empty else 0)
    assert g3d("inspect", str(run), "--json").json()["preset"] == "smoke"
    assert g3d("eval", "--n", "2", "--json").json()["held_out"] >= 1
    assert (run / "learning.md").is_file()


def test_interrupting_a_command_ends_with_130(own_home: Path) -> None:
    words = "prepare procedural --category chair --limit 400 --workers 0"
    with subprocess.Popen(
        [sys.executable, "-m", "g3d", *words.split()],
        stderr=subprocess.PIPE,
        text=True,
        # A suite in the background of a script ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 60
        while not list(own_home.glob("**/.staging/*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        err = _interrupt(process)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err


def test_interrupting_an_import_ends_with_130_too(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import sys; from g3d import cli; from g3d.commands import describe\n"
        "def interrupted(path): exec('raise KeyboardInterrupt')\n"
        "describe.describe = interrupted\n"
        "sys.argv = ['g3d', 'inspect', '.']\n"
        "cli.main()\n"
    )
    program = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130
    assert "interrupted" in done.stderr


def test_an_interrupt_in_a_callback_of_c_is_not_lost(tmp_path: Path) -> None:
    """While numba compiles, Python code runs below C: there an exception is printed and dropped."""
    (tmp_path / "callback.py").write_text(
        "import ctypes, sys, time; from g3d import cli; from g3d.commands import describe\n"
        "@ctypes.CFUNCTYPE(None)\n"
        "def inner(): raise KeyboardInterrupt\n"
        "def interrupted(path):\n"
        "    inner()\n"
        "    for _ in range(1000): time.sleep(0.01)\n"
        "describe.describe = interrupted\n"
        "sys.argv = ['g3d', 'inspect', '.']\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "callback"], capture_output=True, text=True, cwd=tmp_path,
        timeout=60,
        # Where a script runs the suite in the background, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def _interrupt(process: subprocess.Popen[str]) -> str:
    """Ctrl-C as people press it: again if nothing happens, as while a kernel is being compiled."""
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=3)[1]
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    return process.communicate()[1]


def test_places(own_home: Path) -> None:
    from g3d.trainer.config import preset_config

    assert places.dataset_place("folder", "cars") == own_home / "datasets" / "folder-car"
    config, runs = preset_config("cpu"), own_home / "runs"
    for name in ("00000-chairs-cpu", "00007-chairs-cpu", "notes", "123-chairs-cpu"):
        (runs / name).mkdir(parents=True)
    assert places.run_place(config, "cpu", "chairs").name == "00008-chairs-cpu"
    from g3d.config import dump

    (runs / "00007-chairs-cpu" / "config.yaml").write_text(dump(config))
    assert places.run_place(config, "cpu", "chairs").name == "00007-chairs-cpu"
    assert places.run_place(config, "cpu", "mugs").name == "00008-mugs-cpu"
    snapshot = runs / "00007-chairs-cpu" / "snapshot-000000001.safetensors"
    assert places.export_place(snapshot) == own_home / "exports" / "00007-chairs-cpu"
