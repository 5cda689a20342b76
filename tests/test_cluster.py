"""The supervised pool: results, deadlines, dead workers, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from g3d.cluster import ONE_THREAD, Failure, Needs, inquest, run_pool
from g3d.cluster.connect import connected, temp_folder
from g3d.cluster.crew import Slot
from g3d.cluster.inquest import Inquest
from g3d.cluster.outcome import Try
from g3d.cluster.pool import _Pool
from g3d.errors import AssetError, DiskError, G3DError, MissingDependency


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


@pytest.mark.parametrize("ahead", [1, 4])
def test_in_process_fetches_ahead_and_no_further(ahead):
    begun, done, most = [], [], []

    def fetch(job: int) -> None:
        begun.append(job)
        if job == 2:
            raise AssetError("gone", "no such file", stage="fetch")
        if job == 5:
            raise ValueError("five")

    def work(job: int) -> int:
        most.append(len(begun) - len(done))
        time.sleep(0.01)
        return job

    out = {}
    for o in run_pool(
        lambda: work, iter(range(12)), workers=0, fetch=fetch, fetch_parallel=3, ahead=ahead
    ):
        done.append(o.job)
        out[o.job] = o
    assert sorted(out) == sorted(begun) == list(range(12))
    assert ahead >= max(most)
    assert max(most) > min(ahead - 1, 1), "nothing was fetched ahead"
    failed = {n: o.failure for n, o in out.items() if o.failure}
    assert sorted(failed) == [2, 5]
    assert (failed[2].reason, failed[2].stage, failed[2].message) == (
        "asset",
        "fetch",
        "no such file",
    )
    assert failed[2].error.reason == "gone"
    assert (failed[5].reason, failed[5].stage) == ("error", "fetch")


def test_in_process_a_fetch_that_is_not_the_jobs_fault_stops_all():
    def fetch(job: int) -> None:
        raise DiskError("the cache is full")

    with pytest.raises(DiskError, match="cache"):
        list(run_pool(lambda: abs, [1], workers=0, fetch=fetch))


def test_what_fits_on_a_node():
    assert Needs().fit({"CPU": 4.0}) == 4
    assert Needs(gpus=0.1).fit({"CPU": 64.0, "GPU": 1.0}) == 10
    assert Needs(gpus=0.25).fit({"CPU": 2.0, "GPU": 1.0}) == 2
    assert Needs(memory=2**30).fit({"CPU": 8.0, "memory": 3.5 * 2**30}) == 3
    assert Needs(resources={"disk": 2}).fit({"CPU": 8.0}) == 0
    nodes = {"a": {"CPU": 2.0}, "b": {"CPU": 8.0, "GPU": 1.0}, "head": {}}
    assert Needs().slots(nodes, every=False) == {"a": 2, "b": 8}
    assert Needs(gpus=0.5).slots(nodes, every=False) == {"b": 2}
    gentle = Needs(avoid_gpu_nodes=True)
    assert gentle.slots(nodes, every=False) == {"a": 2}
    assert gentle.slots(nodes, every=True) == {"a": 2, "b": 8}
    assert gentle.slots({"b": nodes["b"]}, every=False) == {"b": 8}
    assert str(Needs(gpus=0.25, resources={"disk": 2})) == "1 CPU and 0.25 GPU and 2 disk"


class Nodes:
    """A cluster of two nodes, as the inquest sees it."""

    here, is_alone = "here", False

    def __init__(self) -> None:
        self.lost: set[str | None] = set()

    def is_lost(self, node: str | None) -> bool:
        return node in self.lost


def test_a_strike_stands_once_its_node_is_known_to_live(monkeypatch):
    monkeypatch.setattr(inquest, "GRACE_S", 0.1)
    court: Inquest = Inquest(Nodes(), strikes=2)
    item, crash = Try("job", tries=1), Failure("crash", "died")
    assert court.failed(item, crash, "there") == (item, None)
    assert court.failed(item, crash, "there") is None
    assert court.verdicts() == []
    time.sleep(0.15)
    assert court.verdicts() == [(item, crash)]
    assert court.open == []
    other = Try("other", struck=[("there", 0.0)])
    assert court.failed(other, crash, "here") is None
    assert court.verdicts() == [(other, crash)], "its own node is there"


def test_strikes_of_a_node_that_turns_out_lost_are_taken_back():
    from ray.exceptions import NodeDiedError, ObjectLostError

    nodes = Nodes()
    court: Inquest = Inquest(nodes, strikes=2)
    item, crash = Try("job", tries=2), Failure("crash", "died")
    assert court.failed(item, crash, "here") == (item, None)
    assert court.failed(item, crash, "there") is None
    nodes.lost.add("there")
    assert court.verdicts() == [(item, None)]
    assert (item.losses, item.attempts, len(item.struck)) == (1, 1, 1)
    lost = [NodeDiedError("gone"), ObjectLostError("00" * 28, "owner", "site")]
    for n in range(inquest.LOSSES - 1):
        assert court.failed(item, lost[n % 2], "there") == (item, None)
    _, failure = court.failed(item, lost[0], "there")
    assert failure.reason == "crash"
    assert "6 tries" in failure.message


def test_workers_that_do_not_start_are_an_error_only_if_none_does(monkeypatch):
    monkeypatch.setattr(inquest, "GRACE_S", 0.05)
    court: Inquest = Inquest(Nodes(), strikes=2)
    for _ in range(3):
        assert court.may_start(ready=False)
        court.failed_start("there", Failure("crash", "no such module"))
    assert not court.may_start(ready=False), "not yet sure"
    time.sleep(0.1)
    assert not court.may_start(ready=True)
    with pytest.raises(G3DError, match="do not start: no such module"):
        court.may_start(ready=False)
    court.started()
    assert court.may_start(ready=False)


def test_the_address_of_a_ray_client_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    with pytest.raises(MissingDependency, match="Ray Client"), connected():
        pass


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
    temp_folder().rmdir()
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


def test_a_worker_gets_what_was_fetched_on_its_node_else_the_oldest():
    def pool(idle: list[str], waiting: list[str | None]) -> tuple[list[Slot], _Pool]:
        slots = [Slot(None, None, node=node) for node in idle]
        made = _Pool(SimpleNamespace(idle=list(slots)), None, None, None, None)
        for job, node in enumerate(waiting):
            made._waiting.append(Try(job))
            made._waiting[-1].node = node
        return slots, made

    (here,), made = pool(["b"], ["a", None, "b", "b"])
    slot, item = made._match()
    assert (slot, item.job) == (here, 2)
    assert [one.job for one in made._waiting] == [0, 1, 3]
    assert made._crew.idle == []
    slots, made = pool(["a", "b"], ["c", "a"])
    assert made._match()[0] is slots[0]
    slot, item = made._match()
    assert (slot, item.job) == (slots[1], 0)  # nobody is on its node: any may have it
