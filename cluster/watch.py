"""Which nodes a cluster has, which it has lost, and whether it is there at all."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping

from ..errors import G3DError

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the nodes are looked at."""
HEAD_LOST_S = 25.0
"""A head node that is silent for so long is gone; Ray ends this process after 60 s of it."""


class Watch:
    """Looks at the nodes of the cluster in a thread of its own.

    Asking a head node that is gone blocks for a minute, and then Ray ends the process; so nothing
    but this thread asks, and it first sees whether anybody listens there.

    Attributes:
        here: Id of the node that this process is connected to.
    """

    def __init__(self) -> None:
        import ray

        context = ray.get_runtime_context()
        self.here: str = context.get_node_id()
        host, _, port = context.gcs_address.rpartition(":")
        self._head = (host.strip("[]"), int(port))
        self._alive: dict[str, Mapping[str, float]] = {}
        self._dead: frozenset[str] = frozenset()
        self._seen = time.monotonic()
        self._look()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="g3d-nodes", daemon=True)
        self._thread.start()

    @property
    def nodes(self) -> Mapping[str, Mapping[str, float]]:
        """Resources of the nodes that are there, by id."""
        return self._alive

    @property
    def is_alone(self) -> bool:
        """Whether there never was a node but the one of this process."""
        return not self._dead and set(self._alive) == {self.here}

    def is_lost(self, node: str | None) -> bool:
        """Whether a node was there and is no more."""
        return node in self._dead

    def check(self) -> None:
        """See that there is a cluster.

        Raises:
            G3DError: The head node, or the node of this process, is gone.
        """
        if time.monotonic() - self._seen > HEAD_LOST_S:
            raise cluster_lost("its head node does not answer")
        if self.here in self._dead:
            raise cluster_lost("the node that this process was connected to was lost")

    def stop(self) -> None:
        """End the thread, before this process leaves the cluster."""
        self._stop.set()
        self._thread.join(2 * LOOK_S)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                # The head is one process of Ray; nobody listens once it is gone.
                with socket.create_connection(self._head, timeout=2.0):
                    pass
                if not self._stop.is_set():
                    self._look()
            except Exception as error:  # whatever it is, the nodes were not seen
                logger.debug("the head node of the Ray cluster: %s", error)

    def _look(self) -> None:
        import ray

        nodes = ray.nodes()
        self._alive = {n["NodeID"]: n["Resources"] for n in nodes if n["Alive"]}
        dead = frozenset(n["NodeID"] for n in nodes if not n["Alive"])
        for node in dead - self._dead:
            logger.info("node %s of the Ray cluster is lost", node[:8])
        self._dead = dead
        self._seen = time.monotonic()


def cluster_lost(why: str) -> G3DError:
    """The error of a run whose cluster went away."""
    return G3DError(
        f"the Ray cluster is gone: {why}",
        hint="what was finished is kept: mend the cluster, or `unset RAY_ADDRESS`, "
        "and run the same command again",
    )
