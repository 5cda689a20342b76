"""One call of the package ``objaverse``, in a process of its own.

The package has no time limits, writes where it reads, prints on stdout, starts process pools and
clones repositories with ``git``. Here it does all that in a folder made for one call, and it ends
when the process that asked for it ends. Run as a script by ``objaverse_store``; nothing imports it,
and it imports nothing of g3d.

stdin: one line of JSON, the call; it is held open until the answer was read. The answer is the
file ``answer.json`` in the folder of the call.
"""

from __future__ import annotations

import functools
import gzip
import json
import multiprocessing.pool
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSIONED = "hf-objaverse-v1"
GONE_WORDS = ("not found", "could not read username", "authentication failed", "not exist",
              "not appear to be a git repository")  # fmt: skip
"""What git says of a repository that is deleted or private, in lower case."""

Call = dict[str, Any]
Answer = dict[str, Any]


def _package(call: Call) -> Any:
    """The package, with its folder in the folder of this call."""
    import objaverse

    objaverse.BASE_PATH = call["folder"]
    objaverse._VERSIONED_PATH = str(Path(call["folder"]) / VERSIONED)
    return objaverse


def _know(call: Call) -> None:
    """Give the package the one object path that it needs, or it would fetch all 800,000."""
    if not call.get("path"):
        return
    file = Path(call["folder"]) / VERSIONED / "object-paths.json.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt") as out:
        json.dump({call["uid"]: call["path"]}, out)


def labels(call: Call) -> Answer:
    """The LVIS labels."""
    _package(call).load_lvis_annotations()
    return {"event": "done"}


def paths(call: Call) -> Answer:
    """Where every object lies."""
    _package(call).load_uids()
    return {"event": "done"}


def metadata(call: Call) -> Answer:
    """The annotations of the 5,000 objects that one file has."""
    _know(call)
    _package(call).load_annotations([call["uid"]])
    return {"event": "done"}


def one_object(call: Call) -> Answer:
    """One object of Objaverse 1.0."""
    _know(call)
    found = _package(call).load_objects([call["uid"]])
    return {"event": "done", "path": found[call["uid"]]}


def table(call: Call) -> Answer:
    """The annotation table of one collection of Objaverse-XL."""
    downloader = _downloaders(call)[call["collection"]]
    downloader.get_annotations(download_dir=call["folder"])
    return {"event": "done"}


def xl_object(call: Call) -> Answer:
    """One object of Objaverse-XL; of GitHub, the repository that holds it."""
    _downloaders(call)
    import pandas  # type: ignore[import-untyped]
    from objaverse import xl

    _know(call)
    said: list[Answer] = []

    def handler(event: str) -> Callable[..., None]:
        def handle(**told: Any) -> None:
            local = told.get("local_path")
            head = Path(local).open("rb").read(64).hex() if local else ""  # noqa: SIM115
            said.append({"event": event, "sha256": told.get("new_sha256"), "head": head})

        return handle

    columns = {"fileIdentifier": "identifier", "source": "collection", "sha256": "sha256"}
    frame = pandas.DataFrame([{column: call[key] for column, key in columns.items()}])
    found = xl.download_objects(
        frame, download_dir=call["folder"], processes=1, handle_found_object=handler("done"),
        handle_modified_object=handler("modified"), handle_missing_object=handler("missing"),
        save_repo_format="files",
    )  # fmt: skip
    answer = said[-1] if said else {"event": "error", "message": "nothing came"}
    if answer["event"] == "missing" and call["collection"] == "github":
        answer = _missing_of_github(call["identifier"])
    return answer | {"path": found.get(call["identifier"])}


def _missing_of_github(identifier: str) -> Answer:
    """Whether a repository is gone, or out of reach for now: the package calls both missing."""
    url = "/".join(identifier.split("/")[:5]) + ".git"
    done = subprocess.run(
        ["git", "ls-remote", "--exit-code", url, "HEAD"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    words = done.stderr.lower()
    if done.returncode == 0 or any(word in words for word in GONE_WORDS):
        return {"event": "missing"}
    return {"event": "error", "message": done.stderr.strip()[-300:] or "git found no branch"}


def _downloaders(call: Call) -> Any:
    """The downloaders of the package, with a time limit and without processes of their own."""
    import requests  # type: ignore[import-untyped]

    request = functools.partialmethod(requests.Session.request, timeout=call["timeout_s"])
    requests.Session.request = request  # type: ignore[assignment,method-assign]
    from objaverse import xl
    from objaverse.xl import github, sketchfab, smithsonian, thingiverse

    for module in (github, sketchfab, smithsonian, thingiverse):
        # For one object a pool is a waste, and a process loses the status of an HTTP error.
        module.Pool = multiprocessing.pool.ThreadPool
    return xl.downloaders


CALLS: dict[str, Callable[[Call], Answer]] = {
    "labels": labels,
    "paths": paths,
    "metadata": metadata,
    "object": one_object,
    "table": table,
    "xl-object": xl_object,
}


def _failure(error: BaseException) -> Answer:
    """An exception as plain values."""
    response = getattr(error, "response", None)
    status = getattr(error, "code", None) or getattr(response, "status_code", None)
    headers = getattr(error, "headers", None) or getattr(response, "headers", None) or {}
    reason = getattr(error, "reason", None)
    number = getattr(error, "errno", None) or getattr(reason, "errno", None)
    return {
        "event": "error",
        "message": f"{type(error).__name__}: {error}"[:300],
        "status": status if isinstance(status, int) else None,
        "errno": number if isinstance(number, int) else None,
        "retry_after": headers.get("Retry-After"),
    }


def _end_with_parent() -> None:
    """End, with all that was started here, when the other end of stdin is closed."""
    os.read(0, 1)  # not through sys.stdin, whose lock would be held when the interpreter ends
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main() -> None:
    """Do one call."""
    call: Call = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    socket.setdefaulttimeout(call["timeout_s"])
    try:
        answer = CALLS[call["call"]](call)
    except Exception as error:
        traceback.print_exc()
        answer = _failure(error)
    (Path(call["folder"]) / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
