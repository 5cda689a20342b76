"""A Ray cluster of several nodes on this machine, each of which can be killed like a machine.

Every node is a ``ray start`` of its own, with its own folder and ports. ``ray stop`` would end all
that is Ray on the machine, so what is ended here is known by process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    # A lost node is seen after a few seconds; Ray's own figures make that up to half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
_OBJECT_STORE_BYTES = 80 * 2**20
_START_S = 60.0


@dataclass
class RayNode:
    """One node: the ``ray start`` that stands for it, and its folder."""

    process: subprocess.Popen[bytes]
    folder: Path

    def processes(self) -> list[int]:
        """All that runs on it: Ray's own, workers and their children."""
        return [self.process.pid, *descendants(self.process.pid)]

    def workers(self) -> list[int]:
        """Workers of a pool that are at work or idle there."""
        return [pid for pid in self.processes() if command_line(pid).startswith("ray::Worker")]

    def kill(self) -> None:
        """SIGKILL to all of it, as when a machine loses its power."""
        left = self.processes()
        while left:
            for pid in left:  # stopped first, so that nobody has time to notice
                _signal(pid, signal.SIGSTOP)
            for pid in left:
                _signal(pid, signal.SIGKILL)
            killed = set(left)
            left = [pid for pid in descendants(self.process.pid) if pid not in killed]
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class RayCluster:
    """A head and what joined it. ``address`` is what RAY_ADDRESS takes."""

    address: str
    nodes: list[RayNode] = field(default_factory=list)

    @property
    def head(self) -> RayNode:
        """The first node; the cluster does not outlive it."""
        return self.nodes[0]

    def add(
        self, cpus: int = 1, gpus: int = 0, resources: dict[str, float] | None = None
    ) -> RayNode:
        """Start another node; it joins within some seconds."""
        join = [] if self.nodes else ["--head", "--port", self.address.rpartition(":")[2]]
        # On a machine with one address the defaults of these would meet.
        own = ["--include-dashboard", "false", "--ray-client-server-port", str(free_port())]
        join = [*join, *own] if join else ["--address", self.address]
        folder = Path(tempfile.mkdtemp(prefix="g3d-node-"))
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", *join,
            "--num-cpus", str(cpus), "--num-gpus", str(gpus), "--temp-dir", str(folder),
            "--resources", json.dumps(resources or {}), "--disable-usage-stats",
            "--object-store-memory", str(_OBJECT_STORE_BYTES), "--include-log-monitor", "false",
        ]  # fmt: skip
        environment = {**os.environ, **_ENVIRONMENT}
        environment.pop("RAY_ADDRESS", None)
        with (folder / "start.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.nodes.append(RayNode(process, folder))
        if len(self.nodes) == 1:
            self._wait_for_head()
        return self.nodes[-1]

    def remove(self, node: RayNode) -> None:
        """Kill a node."""
        node.kill()
        self.nodes.remove(node)

    def workers(self) -> list[int]:
        """Workers of a pool on any node."""
        return [pid for node in self.nodes for pid in node.workers()]

    def _wait_for_head(self) -> None:
        host, _, port = self.address.rpartition(":")
        end = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1.0).close()
                return
            except OSError:
                if time.monotonic() > end or self.head.process.poll() is not None:
                    text = (self.head.folder / "start.log").read_text()
                    raise RuntimeError(f"the head node did not start: {text[-500:]}") from None
                time.sleep(0.1)


@contextmanager
def ray_cluster(*cpus: int) -> Iterator[RayCluster]:
    """A cluster with a head and further nodes of so many cores, for the time of the block."""
    cluster = RayCluster(f"127.0.0.1:{free_port()}")
    try:
        for count in cpus:
            cluster.add(count)
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            node.kill()


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def descendants(root: int) -> list[int]:
    """Ids of the children of a process, and of theirs."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found: list[int] = []
    frontier = {root}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found += sorted(frontier)
    return found


def command_line(pid: int) -> str:
    """Of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
