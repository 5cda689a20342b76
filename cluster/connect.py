"""Join the cluster of ``RAY_ADDRESS``, or start one on this machine for the time of a run."""

from __future__ import annotations

import importlib
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import MissingDependency
from .outcome import Needs
from .worker import alive

OBJECT_STORE_BYTES = 200 * 2**20
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
"""Environment of a worker: the pool is the parallelism."""
_QUIET = {
    "RAY_AUTH_MODE": "disabled",  # nobody else can reach the throw-away cluster
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_TEMP_PREFIX = "g3d-ray-"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def connected(workers: int | None = None, needs: Needs | None = None) -> Iterator[bool]:
    """Join the cluster of ``RAY_ADDRESS``, or start a local one for the time of the block.

    A local cluster has room for ``workers`` with ``needs``; None is one a core. Yields whether the
    cluster is a local one: that one never grows.

    Raises:
        MissingDependency: Ray does not start, or cannot be reached.
    """
    import ray

    if ray.is_initialized():
        yield False
        return
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith("ray://"):
        raise MissingDependency(
            f"RAY_ADDRESS={address} is of Ray Client, which g3d does not use",
            hint="run g3d on a node of the cluster, with RAY_ADDRESS=auto",
        )
    folder = None if address else temp_folder()
    try:
        if folder is None:
            _init(address=address, runtime_env={"env_vars": ONE_THREAD})
        else:
            _start(workers, needs or Needs(), folder)
        yield folder is not None
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(workers: int | None, needs: Needs, folder: Path) -> None:
    """Start a local cluster that lives as long as this process."""
    with _environment({**_QUIET, **ONE_THREAD}):
        _init(
            address="local",
            num_cpus=math.ceil(workers * needs.cpus) if workers else cores(),
            num_gpus=None if needs.gpus else 0,  # None: those that Ray finds
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
        )


def _init(**options: Any) -> None:
    import ray

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise MissingDependency(
            f"cannot start or join Ray (address {options['address']}): {cause(error)}",
            hint="--workers 0 runs without Ray; `unset RAY_ADDRESS` starts one on this machine",
        ) from error
    # Ray has no public way to keep a lost worker off our stderr; the pool reports it.
    vars(importlib.import_module("ray._private.worker"))["_worker_logs_enabled"] = False


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes started in the block, then put the old ones back."""
    old = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(old)


def temp_folder() -> Path:
    """A folder for Ray's sockets and logs, with a short path: sockets allow 107 characters."""
    base = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    for old in base.glob(f"{_TEMP_PREFIX}*"):
        owner = old.name.removeprefix(_TEMP_PREFIX).partition("-")[0]
        if owner.isdigit() and not alive(int(owner)):
            shutil.rmtree(old, ignore_errors=True)  # of a run that was killed
    return Path(tempfile.mkdtemp(prefix=f"{_TEMP_PREFIX}{os.getpid()}-", dir=base))


def cause(error: BaseException) -> str:
    """What Ray's long report says of the cause, in one line."""
    text = str(error).strip() or type(error).__name__
    if getattr(error, "actor_init_failed", False):
        return text.splitlines()[-1][:200]  # of a traceback
    text = " ".join(text.split())
    _, found, detail = text.partition("exit detail: ")
    return (detail if found else text).partition(". ")[0][:200]
