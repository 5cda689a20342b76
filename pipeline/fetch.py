"""Bringing files over a network: retries, checksums, a cache that all runs share."""

from __future__ import annotations

from pydantic import Field

from ..config import Config


class FetchSettings(Config):
    """How files are brought over a network. None of it changes a pixel."""

    offline: bool = False
    """Take everything from the cache; what is not there is an error."""
    retries: int = Field(5, ge=0)
    """Further tries of a request that failed for a reason that may pass."""
    backoff_s: float = Field(1.0, ge=0)
    """Wait before the second try; it doubles with each, unless the server names a time."""
    timeout_s: float = Field(60.0, gt=0)
    """A server that says nothing for this long has failed."""
    max_bytes: int | None = Field(None, ge=1)
    """An asset with a larger download is not fetched; unset: no limit."""
    cache_bytes: int | None = Field(None, ge=1)
    """Most that the cache may hold; what was used longest ago goes first; unset: no limit."""
    parallel: int = Field(8, ge=1)
    """Assets that are fetched at the same time."""
