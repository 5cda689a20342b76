"""The supervised pool: results, deadlines, dead workers, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from g3d.cluster import ONE_THREAD, Failure, _temp_folder, run_pool
from g3d.errors import DiskError, MissingDependency


def _g3d_ray_folders() -> set[str]:
    return {p.name for p in Path("/tmp").glob(f"g3d-ray-{os.getpid()}-*")}


def test_in_process_results_and_failures():
    def factory() -> Callable[[int], float]:
        return lambda x: 6 / x

    outcomes = list(run_pool(factory, [1, 0, 3], workers=0))
    assert [o.value for o in outcomes] == [6, None, 2]
    failure = outcomes[1].failure
    assert isinstance(failure, Failure)
    assert failure.reason == "error"
    assert "ZeroDivisionError" in failure.message
    assert [o.attempts for o in outcomes] == [1, 1, 1]


def test_in_process_takes_jobs_one_by_one():
    taken = []

    def jobs():
        for n in range(5):
            taken.append(n)
            yield n

    results = run_pool(lambda: lambda x: x, jobs(), workers=0)
    assert next(results).value == 0
    assert taken == [0]


def test_an_error_that_is_not_the_jobs_stops_the_pool():
    def fail(job: int) -> int:
        raise DiskError("full", hint="make room")

    with pytest.raises(DiskError, match="full"):
        list(run_pool(lambda: fail, [1], workers=0))


def test_workers_that_die_hang_or_raise_are_survived_and_jobs_quarantined(tmp_path):
    """One pool for all of it: starting Ray is what costs."""
    marks = str(tmp_path)

    def factory() -> Callable[[int], dict]:
        def call(job: int) -> dict:
            mark = Path(marks) / f"{job}-{time.monotonic_ns()}"
            mark.touch()
            tries = len(list(Path(marks).glob(f"{job}-*")))
            if job == 3:
                os._exit(3)
            if job == 4 and tries == 1:
                os.kill(os.getpid(), signal.SIGSEGV)
            if job == 5:
                time.sleep(600)
            if job == 6:
                raise ValueError("six")
            threads = {name: os.environ.get(name) for name in ONE_THREAD}
            return {"pid": os.getpid(), "threads": threads, "torch": "torch" in sys.modules}

        return call

    start = time.monotonic()
    env = dict(os.environ)
    outcomes = {
        o.job: o for o in run_pool(factory, range(12), workers=2, deadline_s=1.0, strikes=2)
    }
    assert time.monotonic() - start < 60
    assert {**os.environ, **env} == os.environ
    assert {name: os.environ.get(name) for name in ONE_THREAD} == {
        name: env.get(name) for name in ONE_THREAD
    }
    assert sorted(outcomes) == list(range(12))
    reasons = {job: o.failure.reason for job, o in outcomes.items() if o.failure}
    assert reasons == {3: "crash", 5: "timeout", 6: "error"}
    assert {job: o.attempts for job, o in outcomes.items() if o.attempts > 1} == {3: 2, 4: 2, 5: 2}
    for o in outcomes.values():
        if o.value is not None:
            assert o.value["threads"] == ONE_THREAD
            assert not o.value["torch"]
    pids = {o.value["pid"] for o in outcomes.values() if o.value}
    assert os.getpid() not in pids
    assert not _g3d_ray_folders()
    assert not any(_alive(pid) for pid in pids)


def test_workers_are_recycled_and_errors_end_the_run_cleanly():
    def factory() -> Callable[[int], int]:
        def call(job: int) -> int:
            if job == 6:
                raise MissingDependency("no such renderer", hint="install it")
            return os.getpid()

        return call

    pids = []
    results = run_pool(factory, range(9), workers=1, recycle_after=2)
    with pytest.raises(MissingDependency, match="renderer") as caught:
        pids.extend(outcome.value for outcome in results)
    assert caught.value.hint == "install it"
    assert len(pids) == 6
    assert len(set(pids)) == 3
    assert not _g3d_ray_folders()


def test_an_address_that_answers_nothing_is_one_clear_error():
    code = (
        "from g3d.cluster import run_pool\n"
        "from g3d.errors import MissingDependency\n"
        "try: list(run_pool(lambda: abs, [1], workers=1))\n"
        "except MissingDependency as e: print(e.message, e.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": "ray-nowhere"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "ray-nowhere" in done.stdout
    assert "unset RAY_ADDRESS" in done.stdout


def test_killing_the_driver_takes_its_cluster_along(tmp_path):
    """SIGKILL leaves the driver no chance to clean up; the next run removes its folder."""
    code = (
        "import os, time, pathlib\n"
        "from g3d.cluster import run_pool\n"
        f"mark = {str(tmp_path / 'pid')!r}\n"
        "def f():\n"
        "    def call(x):\n"
        "        pathlib.Path(mark).write_text(str(os.getpid())); time.sleep(600)\n"
        "    return call\n"
        "list(run_pool(f, [1], workers=1))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    try:
        _until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 60)
        worker = int((tmp_path / "pid").read_text())
    finally:
        driver.kill()
        driver.wait()
    _until(lambda: not _alive(worker), 30)
    assert not _alive(worker)
    _temp_folder().rmdir()
    assert not list(Path("/tmp").glob(f"g3d-ray-{driver.pid}-*"))


def _until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
