"""Single requests over http(s), and patience with servers: what may pass is tried again."""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from ...errors import AssetError

if TYPE_CHECKING:
    import urllib3

log = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_WAIT_S = 900.0
"""A server that asks for more than this is not waited for."""
_LONGEST_BACKOFF_S = 60.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_GATED, _GONE = {401, 403}, {404, 410}
_REDIRECTS = 8
_CHUNK = 1 << 18
_SOON_S = 5.0


@dataclass(frozen=True)
class Patience:
    """How long a server is borne with.

    Attributes:
        retries: Further tries after one that failed for a reason that may pass.
        backoff_s: Wait before the second try; it doubles with each.
        timeout_s: A server that says nothing for this long has failed.
    """

    retries: int = 5
    backoff_s: float = 1.0
    timeout_s: float = 60.0


class Refused(AssetError):
    """A server answered that it will not.

    Args:
        reason: As of :class:`AssetError`.
        message: What was found.
        status: Of the answer.
        stage: As of :class:`AssetError`.
    """

    def __init__(self, reason: str, message: str, *, status: int = 0, stage: str = "fetch") -> None:
        super().__init__(reason, message, stage=stage)
        self.status = status


class Transient(AssetError):
    """A try failed for a reason that may pass.

    Args:
        reason: As of :class:`AssetError`; what it is in the end, if it does not pass.
        message: What was found.
        retry_after: Seconds that the server asked for.
        progress: Some of the data came: the tries are counted anew.
        stage: As of :class:`AssetError`.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retry_after: float | None = None,
        progress: bool = False,
        stage: str = "fetch",
    ) -> None:
        super().__init__(reason, message, stage=stage)
        self.retry_after, self.progress = retry_after, progress


def patiently(attempt: Callable[[], T], patience: Patience) -> T:
    """Call ``attempt`` until it ends without :class:`Transient`, or the tries are used up.

    Raises:
        AssetError: What the last try found.
    """
    tries = 0
    while True:
        try:
            return attempt()
        except Transient as error:
            tries = 1 if error.progress else tries + 1
            wait = error.retry_after
            if tries > patience.retries or (wait or 0.0) > LONGEST_WAIT_S:
                asked = f", and asks to wait {wait:.0f} s" if wait else ""
                message = f"{error.message} ({tries} tries{asked})"
                raise AssetError(error.reason, message, stage=error.stage) from error
            if wait is None:
                # Half of it by chance: workers that failed together do not come back together.
                wait = min(patience.backoff_s * 2.0 ** (tries - 1), _LONGEST_BACKOFF_S)
                wait *= random.uniform(0.5, 1.0)
            level = logging.INFO if wait < _SOON_S else logging.WARNING
            log.log(level, "%s: trying again in %.1f s", error.message, wait)
        time.sleep(wait)


def shown(url: str) -> str:
    """A URL for messages: without its query and user, which may be secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_web(url: str) -> bool:
    """Whether this module can read it."""
    return url.lower().startswith(("http://", "https://"))


def get(
    url: str, headers: Mapping[str, str], patience: Patience, name: str | None = None
) -> urllib3.BaseHTTPResponse:
    """One GET whose body is not read yet; the caller closes it.

    Redirects are followed; to another server without ``headers``, but for ``Range`` and its like.

    Args:
        url: ``http://`` or ``https://``.
        headers: Sent along.
        patience: Of which only the timeout counts here.
        name: What messages call it.

    Raises:
        Refused: ``gated`` (401, 403), ``gone`` (404, 410), ``download``.
        Transient: ``download``: another try may do.
        AssetError: ``download``: no try will do.
    """
    import urllib3

    name = name or shown(url)
    own = {"Accept-Encoding": "identity", "User-Agent": _agent()}
    private = [h for h in headers if h.lower() not in ("range", "if-range", "accept")]
    redirects = urllib3.Retry(
        total=None, connect=0, read=0, other=0, status=0, redirect=_REDIRECTS,
        respect_retry_after_header=False,
        remove_headers_on_redirect=[*private, "Authorization", "Cookie"],
    )  # fmt: skip
    try:
        response = _pool(url, os.getpid()).request(
            "GET", url, headers={**own, **headers}, retries=redirects, preload_content=False,
            timeout=patience.timeout_s,
        )  # fmt: skip
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreached(name, error) from error
    if response.status in (200, 206):
        return response
    try:
        raise _refusal(response, name)
    finally:
        response.close()


def pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The body as it comes in: of a connection that breaks, all that came before."""
    while data := response.read1(_CHUNK):
        yield data


def broken(error: Exception) -> str:
    """What happened to a connection, in words that fit into a line."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None)) and isinstance(inner, BaseException):
        cause = inner
    text = str(cause) or type(cause).__name__
    text = re.sub(r"^.*Connection\(host=.*?\): ", "", text)
    return re.sub(r"<.*?object at 0x[0-9a-f]+>:? ?", "", text)[:200]


def _unreached(name: str, error: Exception) -> AssetError:
    import urllib3

    message = f"{name} cannot be read: {broken(error)}"
    final = (urllib3.exceptions.LocationParseError, urllib3.exceptions.URLSchemeUnknown)
    cause = getattr(error, "reason", None)
    lasting = (urllib3.exceptions.SSLError, urllib3.exceptions.ResponseError)
    if isinstance(error, final) or isinstance(cause, lasting):
        return AssetError("download", message, stage="fetch")
    return Transient("download", message)


def _refusal(response: urllib3.BaseHTTPResponse, name: str) -> AssetError:
    status = response.status
    message = f"{name} cannot be read: the server answers {status} {response.reason or ''}".strip()
    if status in _PASSING:
        return Transient("download", message, retry_after=retry_after(response.headers))
    reason = "gated" if status in _GATED else "gone" if status in _GONE else "download"
    return Refused(reason, message, status=status)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait: a number or a date; None: it does not ask."""
    import urllib3

    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return urllib3.Retry(retry_after_max=10 * int(LONGEST_WAIT_S)).parse_retry_after(value)
    except urllib3.exceptions.InvalidHeader:
        return None


def content_range(value: str | None) -> tuple[int, int, int] | None:
    """First byte, the one after the last, and the size of the whole, of a ``Content-Range``."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", (value or "").strip())
    return (int(found[1]), int(found[2]) + 1, int(found[3])) if found else None


def validator(headers: Mapping[str, str]) -> str:
    """What tells for certain whether a file is still the same: a strong ETag, else its date."""
    etag = headers.get("ETag") or ""
    if etag and not etag.startswith("W/"):
        return etag
    return headers.get("Last-Modified") or ""


def _agent() -> str:
    from ... import __version__

    return f"g3d/{__version__}"


def _pool(url: str, pid: int) -> urllib3.PoolManager:
    """The connections of this process, through a proxy where the system names one."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme.lower()) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return _manager(None, pid)
    return _manager(proxy, pid)


@lru_cache(maxsize=4)
def _manager(proxy: str | None, pid: int) -> urllib3.PoolManager:
    del pid  # a child that was forked must not share its parent's connections
    import urllib3

    options: dict[str, Any] = {"maxsize": 16, "num_pools": 32}
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        options["ca_certs"] = bundle
    if proxy is None:
        return urllib3.PoolManager(**options)
    user = urlsplit(proxy)
    if user.username:
        secret = f"{user.username}:{user.password or ''}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=secret)
    return urllib3.ProxyManager(proxy, **options)
