"""The one place that prints: what goes where in each mode."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from g3d import console
from g3d.errors import ConfigError, G3DError


def test_result_is_a_path_for_people_and_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup("human", command="export")
    console.result({"path": Path("exports/a"), "meshes": 2})
    assert capsys.readouterr() == ("exports/a\n", "")


def test_quiet_prefers_the_path_to_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup("quiet", command="inspect")
    console.result({"path": "a"}, "a long table")
    console.result({"rows": 1}, "only a table")
    console.say("talk")
    assert capsys.readouterr() == ("a\nonly a table\n", "")


def test_json_is_one_object_and_no_talk(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup("json", command="export")
    console.say("talk")
    with console.track("working", total=2) as task:
        task.advance()
    console.result({"path": Path("a")}, "text")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": 1, "command": "export", "path": "a"}
    assert err == ""


def test_an_error_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup("human", command="train")
    console.error(G3DError("no dataset here", hint="g3d prepare procedural"))
    assert capsys.readouterr() == (
        "",
        "error: no dataset here\nhint:  g3d prepare procedural\n",
    )


def test_an_error_in_json_mode(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup("json", command="train")
    console.error(ConfigError("bad"))
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["error"] == {"type": "ConfigError", "message": "bad", "hint": None}


def test_plain_progress_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup("human")
    with console.track("rendering", total=3, unit="asset") as task:
        for i in range(3):
            task.advance(failed=i)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("rendering  3/3 asset  100%  failed 2  done in ")


def test_plain_progress_speaks_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    console.setup("human")
    with console.track("training", total=200, unit="image") as task:
        for _ in range(200):
            clock[0] += 1
            task.advance(loss=0.123456)
    lines = capsys.readouterr().err.splitlines()
    assert 7 <= len(lines) <= 12  # 200 s, one line every 10 to 30 s, and the last
    assert "10/200 image  5%  1 image/s  3 min 10 s left  loss 0.123" in lines[0]


def test_rate_of_a_resumed_task_leaves_out_what_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    task = console._PlainTask("training", 1000, "image")
    clock[0] = 1
    task.update(completed=900)
    clock[0] = 11
    task.update(completed=920)
    assert task._rate() == pytest.approx(2.0)


def test_a_failed_task_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def fail_halfway() -> None:
        with console.track("rendering", total=3) as task:
            task.advance()
            raise ValueError("boom")

    console.setup("human")
    with pytest.raises(ValueError, match="boom"):
        fail_halfway()
    assert "rendering  1/3  33%  stopped in" in capsys.readouterr().err


def test_bars_share_one_display_on_a_terminal() -> None:
    """A pseudo-terminal on stderr: bars there, the result alone on stdout."""
    program = (
        "from g3d import console\n"
        "import logging\n"
        "console.setup()\n"
        "with console.group():\n"
        "    with console.track('rendering', total=2, unit='asset') as task:\n"
        "        task.advance(2, failed=1)\n"
        "        logging.getLogger('g3d.x').warning('odd [asset]')\n"
        "    with console.track('training') as task:\n"
        "        task.advance(5)\n"
        "console.result({'path': 'made/here'})\n"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=slave,
        env=environment,
        check=True,
    )
    os.close(slave)
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert done.stdout == b"made/here\n"
    assert "warning: odd [asset]" in shown
    last = shown[shown.rindex("rendering") :]
    assert "2/2" in last
    assert "training" in last


def test_log_file_takes_info_while_the_terminal_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.setup("human")
    with console.log_file(tmp_path / "log.txt"):
        logging.getLogger("g3d.trainer").info("step %d", 3)
    logging.getLogger("g3d.trainer").info("after")
    text = (tmp_path / "log.txt").read_text()
    assert "INFO g3d.trainer: step 3" in text
    assert "after" not in text
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert console.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e12, "2.5 TB")]
)
def test_format_bytes(size: float, text: str) -> None:
    assert console.format_bytes(size) == text
