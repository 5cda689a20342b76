"""How kernels are compiled and spread: threads over images, each of which owns what it writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from numba import njit

kernel = njit(nogil=True, cache=True, error_model="numpy")
"""Compile without the GIL; dividing by zero gives inf or nan, as in NumPy. Never with fastmath."""


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="g3d-ops")


# The threads of a pool do not survive a fork; its object does, and would wait for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


def each_image(job: Callable[[int], None], count: int, threads: int) -> None:
    """Call ``job(0) .. job(count - 1)``, on up to ``threads`` threads.

    A job may write only what belongs to its own image; then the result does not depend on
    ``threads``. The first error of a job is raised here.
    """
    if threads <= 1 or count <= 1:
        for image in range(count):
            job(image)
        return
    for _ in _pool(threads).map(job, range(count)):
        pass
