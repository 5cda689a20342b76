"""The pool on a Ray cluster of several nodes, made on this machine: placement, losses, logs."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from g3d.cluster import Needs, connected, crew, fetch, inquest, outcome, run_pool, watch
from g3d.errors import AssetError, MissingDependency

pytestmark = [pytest.mark.long, pytest.mark.slow]


def _load_nodes():
    place = Path(__file__).resolve().parent.parent / "benchmarks" / "nodes.py"
    spec = importlib.util.spec_from_file_location("g3d_ray_nodes", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


nodes = _load_nodes()


@pytest.fixture(scope="module")
def cluster() -> Iterator:
    """A head without cores, a node with two and one with two and a GPU, as Ray thinks."""
    import ray

    with nodes.ray_cluster(0) as made, pytest.MonkeyPatch.context() as patch:
        made.add(2, resources={"plain": 2})
        made.add(2, gpus=1, resources={"drawing": 2})
        patch.setenv("RAY_ADDRESS", made.address)
        with connected():  # the pools of the tests below find it: joining is what takes long
            _until_nodes(3)
            yield made
        assert not ray.is_initialized()


@pytest.fixture(autouse=True)
def quick_to_see_losses(monkeypatch) -> None:
    monkeypatch.setattr(inquest, "GRACE_S", 4.0)


def where() -> Callable[[object], str]:
    """A job function that tells the node's kind and takes a moment."""

    def call(job: object) -> str:
        import ray

        time.sleep(0.3)
        mine = ray.get_runtime_context().get_node_id()
        [node] = [n for n in ray.nodes() if n["NodeID"] == mine]
        return next((k for k in ("plain", "drawing", "new") if k in node["Resources"]), "head")

    return call


def test_workers_go_where_they_fit(cluster):
    def kinds(needs: Needs, **options) -> Counter:
        return Counter(o.value for o in run_pool(where, range(6), needs=needs, **options))

    assert set(kinds(Needs(cpus=0.5, gpus=0.25))) == {"drawing"}
    assert set(kinds(Needs(avoid_gpu_nodes=True))) == {"plain"}
    assert set(kinds(Needs(avoid_gpu_nodes=True), workers=4)) == {"plain", "drawing"}


def test_no_node_with_room_is_said(cluster, monkeypatch, caplog):
    monkeypatch.setattr(crew, "ROOM_NOTICE_S", 0.5)
    monkeypatch.setattr(crew, "ROOM_DEADLINE_S", 2.0)
    with pytest.raises(MissingDependency, match="no node of the Ray cluster has") as caught:
        list(run_pool(where, [1], needs=Needs(gpus=2)))
    assert "1 CPU and 2 GPU" in caught.value.message
    assert "1 CPU and 2 GPU of the Ray cluster, which is on no node" in caplog.text


def test_fetched_ahead_on_the_node_that_works(cluster, tmp_path):
    """Both stages leave marks, so that the bound can be counted from outside."""
    marks = str(tmp_path)

    def bring(job: int) -> None:
        import ray

        tries = len(list(Path(marks).glob(f"try-{job}-*")))
        Path(marks, f"try-{job}-{tries}").touch()
        if job == 3:
            raise AssetError("gated", "ask its owner", stage="fetch")
        if job == 4:
            os._exit(1)
        if job == 5 and not tries:
            os._exit(1)
        node = ray.get_runtime_context().get_node_id()
        Path(marks, f"fetched-{job}").write_text(node)

    def factory() -> Callable[[int], tuple]:
        def call(job: int) -> tuple:
            import ray

            begun = len(list(Path(marks).glob("fetched-*")))
            ended = len(list(Path(marks).glob("done-*")))
            time.sleep(0.4)  # longer than to fetch: there is a choice of jobs
            Path(marks, f"done-{job}").touch()
            node = ray.get_runtime_context().get_node_id()
            return begun - ended, Path(marks, f"fetched-{job}").read_text() == node

        return call

    out = {o.job: o for o in run_pool(factory, range(20), fetch=bring, fetch_parallel=2, ahead=6)}
    assert sorted(out) == list(range(20))
    assert {n for n, o in out.items() if o.failure} == {3, 4}
    assert out[3].failure.reason == "asset"
    assert out[3].failure.stage == "fetch"
    assert (out[3].failure.error.reason, out[3].failure.error.stage) == ("gated", "fetch")
    assert out[3].failure.message == "ask its owner"
    assert (out[4].failure.reason, out[4].failure.stage) == ("crash", "fetch")
    tries = Counter(int(path.name.split("-")[1]) for path in tmp_path.glob("try-*"))
    assert tries == {**dict.fromkeys(range(20), 1), 4: 2, 5: 2}
    done = [o.value for o in out.values() if o.value]
    assert max(ahead for ahead, _ in done) <= 6
    assert sum(near for _, near in done) > len(done) / 2


def test_a_fetch_that_hangs_is_stopped(cluster, tmp_path):
    mark = str(tmp_path / "pid")

    def hang(job: int) -> None:
        Path(mark).write_text(str(os.getpid()))
        time.sleep(600)

    seen = watch.Watch()
    try:
        fetcher = fetch.Fetcher(hang, parallel=1, deadline_s=300.0, watch=seen)
        item = outcome.Try(7)
        fetcher.start(item, {seen.here: 1}, [])
        assert not fetcher.has_room
        _until(lambda: Path(mark).exists() and Path(mark).read_text(), 60)
        assert fetcher.overdue() == []
        [flight] = fetcher.flights.values()
        flight.until = 0.0
        [(late, failure)] = fetcher.overdue()
    finally:
        seen.stop()
    assert late.item is item
    assert (failure.reason, failure.stage) == ("timeout", "fetch")
    assert fetcher.has_room
    process = int(Path(mark).read_text())
    _until(lambda: not nodes.command_line(process), 20)
    assert not nodes.command_line(process)


def test_the_last_words_of_a_lost_worker_are_kept(cluster):
    def factory() -> Callable[[str], str]:
        def hang_here() -> None:
            time.sleep(300)

        def call(job: str) -> str:
            sys.stdout.write(f"python of {job}\n")
            os.system(f"echo a child of {job} >&2")
            if job == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            if job == "hang":
                hang_here()
            if job == "much":
                os.write(2, b"x" * 200_000 + b"\nthe end\n")
                os._exit(1)
            return job

        return call

    jobs = ["fine", "segfault", "hang", "much", "good"]
    needs = Needs(resources={"plain": 1})  # not the node of this process
    found = {
        o.job: o for o in run_pool(factory, jobs, deadline_s=3.0, strikes=1, needs=needs, workers=2)
    }
    assert {job for job, o in found.items() if o.failure} == {"segfault", "hang", "much"}
    log = {job: o.failure.log for job, o in found.items() if o.failure}
    assert "python of segfault\na child of segfault" in log["segfault"]
    assert "fine" not in log["segfault"]
    assert "test_cluster_nodes.py" in log["segfault"], "no stack"
    assert "hang_here" in log["hang"], "no stack"
    assert log["much"].endswith("the end")
    assert all(len(text) <= 4096 and len(text.splitlines()) <= 40 for text in log.values())


def test_a_lost_node_is_no_strike_and_a_new_one_is_used(cluster, tmp_path):
    """The nodes with a resource of their own: one is lost, later another joins."""
    doomed = cluster.add(2, resources={"extra": 2})
    _until_nodes(4)
    marks = str(tmp_path)

    def factory() -> Callable[[int], int]:
        def call(job: int) -> int:
            Path(marks, f"{job}-{time.monotonic_ns()}").touch()
            time.sleep(0.2 if job == 0 else 1.5)  # the other one is under way
            return os.getpid()

        return call

    needs = Needs(resources={"extra": 1})
    results = run_pool(factory, range(6), needs=needs, strikes=1)
    first = next(results)
    before = doomed.workers()
    assert len(before) == 2
    cluster.remove(doomed)
    cluster.add(1, resources={"extra": 1})
    rest = list(results)
    assert all(o.failure is None and o.attempts == 1 for o in [first, *rest])
    assert sorted(o.job for o in [first, *rest]) == list(range(6))
    after = {o.value for o in rest} - set(before)
    assert len(after) == 1, "one worker on the new node"
    assert len(list(tmp_path.iterdir())) > 6, "nothing was under way when the node was lost"


DRIVER = """
import pathlib, sys, time
from g3d.cluster import run_pool, watch
from g3d.errors import G3DError
watch.HEAD_LOST_S = 5.0
folder = pathlib.Path(sys.argv[1])
def factory():
    def call(job):
        (folder / str(job)).touch()
        time.sleep(60 if job else 0)
    return call
try:
    for outcome in run_pool(factory, range(3), workers=1):
        pass
except G3DError as error:
    print(error.message, "|", error.hint, flush=True)
"""


def _driver(address: str, folder: Path) -> subprocess.Popen[str]:
    """A process that has done one job on the cluster, when there are two marks, and hangs."""
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)],
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Not what a suite in the background inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _at_work(*folders: Path) -> bool:
    return all(len(list(folder.iterdir())) == 2 for folder in folders)


def test_lost_drivers_leave_nothing_that_blocks_the_next(cluster, tmp_path):
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    folders = [tmp_path / number.name for number in numbers]
    drivers = [_driver(cluster.address, folder) for folder in folders]
    _until(lambda: _at_work(*folders), 90)
    assert len(cluster.workers()) == 3
    for driver, number in zip(drivers, numbers, strict=True):
        driver.send_signal(number)
    for driver in drivers:
        driver.communicate(timeout=30)
    _until(lambda: not cluster.workers(), 30)
    assert not cluster.workers()
    assert len(list(run_pool(where, range(4)))) == 4


def test_a_lost_head_is_one_clear_error(tmp_path):
    with nodes.ray_cluster(0, 2) as small:
        process = _driver(small.address, tmp_path / "marks")
        _until(lambda: _at_work(tmp_path / "marks"), 60)
        small.head.kill()
        start = time.monotonic()
        out, err = process.communicate(timeout=50)
        assert time.monotonic() - start < 30
        assert process.returncode == 0, err
    assert "the Ray cluster is gone: its head node does not answer" in out
    assert "run the same command again" in out
    assert "Traceback" not in err


def _until_nodes(count: int) -> None:
    """Wait until so many nodes have joined."""
    import ray

    _until(lambda: sum(node["Alive"] for node in ray.nodes()) == count, 60)


def _until(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
