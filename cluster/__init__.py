"""The one place that talks to Ray Core: start or join a cluster, run jobs in a supervised pool.

Ray sees to processes and transport; what it has no notion of is here: a deadline for every job, a
bounded number of jobs under way, quarantine of the jobs that kill their worker, and the difference
between a job that kills its worker and a machine that was lost under it.
"""

from .connect import ONE_THREAD, connected, cores
from .outcome import Failure, Needs, Outcome
from .pool import run_pool

__all__ = ["ONE_THREAD", "Failure", "Needs", "Outcome", "connected", "cores", "run_pool"]
