"""Calls of the package ``objaverse``, each in a process of its own, with what they end in."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...errors import AssetError
from ...manifests.atomic import disk_error

CHILD = Path(__file__).with_name("objaverse_child.py")
_POLL_S = 0.25
_SLACK = 64 * 1024  # the folder of a call also holds its log and its answer
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class CallFailure(Exception):
    """A call that failed.

    Args:
        error: What becomes of the asset, if no other try goes better.
        wait_s: What the server asked for; 0: nothing; None: another try would not help.
    """

    def __init__(self, error: AssetError, wait_s: float | None) -> None:
        super().__init__(error.message)
        self.error, self.wait_s = error, wait_s


def run_call(folder: Path, call: str, timeout_s: float, limit: int | None, **values: Any) -> Any:
    """One call of the package.

    Args:
        folder: New and empty; all that comes is put into it.
        call: One of ``objaverse_child.CALLS``.
        timeout_s: A server that says nothing for this long has failed.
        limit: Most bytes that may come; None: no limit.
        values: What the call needs.

    Returns:
        Its answer, a mapping; ``path`` is what was fetched.

    Raises:
        CallFailure: It failed.
        DiskError: The folder cannot be written.
    """
    (folder / "tmp").mkdir()
    values |= {"call": call, "folder": str(folder), "timeout_s": timeout_s}
    with (folder / "log").open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-P", str(CHILD)],
            stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True,
            env=_environment(folder, timeout_s),
        )  # fmt: skip
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended at once: its log says why
                child.stdin.write(json.dumps(values).encode() + b"\n")
                child.stdin.flush()
            running = True
            while running:
                running = _running(child)
                if limit is not None and _size(folder) > limit + _SLACK:
                    raise too_large("the download", limit)
        finally:
            _end(child)
    return _judged(folder, values)


def too_large(what: str, limit: int) -> CallFailure:
    """The error for a download above the limit."""
    message = f"{what} is larger than fetch.max_bytes, {limit}"
    return CallFailure(AssetError("download", message, stage="fetch"), None)


def _judged(folder: Path, call: dict[str, Any]) -> Any:
    """The answer of a call that is over, or what it failed with."""
    what = call.get("identifier") or call.get("uid") or call.get("collection") or call["call"]
    try:
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        tail = (folder / "log").read_text(encoding="utf-8", errors="replace")[-300:]
        answer = {"event": "error", "message": f"the package ended without an answer: {tail}"}
    if answer["event"] == "done":
        return answer
    if answer["event"] == "missing":
        message = f"{what} is no longer where Objaverse found it"
        raise CallFailure(AssetError("gone", message, stage="fetch"), None)
    if answer["event"] == "modified":
        # A page about an error, in the place of a model, has another digest too.
        page = bytes.fromhex(answer["head"]).lstrip()[:1] in (b"<", b"{", b"")
        message = f"{what} has the digest {answer['sha256']}, not {call['sha256']}"
        raise CallFailure(AssetError("checksum", message, stage="fetch"), 0.0 if page else None)
    raise _failure_of(what, answer)


def _failure_of(what: str, answer: dict[str, Any]) -> Exception:
    """The typed error of a failed request."""
    status, number = answer.get("status"), answer.get("errno")
    message = f"{what}: {answer.get('message')}"
    if number in _DISK and status is None:
        return disk_error(Path(what), OSError(number, os.strerror(number)))
    reason = {401: "gated", 403: "gated", 404: "gone", 410: "gone"}.get(status or 0, "download")
    passing = status is None or status in (408, 425, 429) or status >= 500
    asked = str(answer.get("retry_after") or "")
    wait = (float(asked) if asked.isdigit() else 0.0) if passing else None
    return CallFailure(AssetError(reason, message, stage="fetch"), wait)


def _running(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and all that it started, and collect it."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()


def _size(folder: Path) -> int:
    """Bytes of all files below ``folder``; files come and go meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total


def _environment(folder: Path, timeout_s: float) -> dict[str, str]:
    """Of a child: its own place for temporary files, and a git that never asks or hangs.

    Links in a repository are not made: they could name any file of this machine.
    """
    out = dict(os.environ)
    out |= {"TMPDIR": str(folder / "tmp"), "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true"}
    more = {
        "core.symlinks": "false",
        "core.hooksPath": os.devnull,
        "http.lowSpeedLimit": "1",
        "http.lowSpeedTime": str(max(1, round(timeout_s))),
    }
    count = int(out.get("GIT_CONFIG_COUNT") or 0)
    for number, (key, value) in enumerate(more.items(), count):
        out |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    out["GIT_CONFIG_COUNT"] = str(count + len(more))
    return out
