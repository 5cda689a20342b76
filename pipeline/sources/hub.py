"""One file of a dataset on the Hugging Face hub, read by ranges with the user's own token.

The address of the hub and the token are found as ``huggingface_hub`` finds them: ``HF_ENDPOINT``;
``HF_TOKEN`` or what ``hf auth login`` wrote.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ... import __version__
from ...errors import AssetError, DatasetError, G3DError, MissingDependency
from ...manifests.atomic import write_atomic
from ..transfer.fetch import FetchSettings
from ..transfer.ranges import HttpRanges
from ..transfer.web import Refused, Transient, broken, patiently, retry_after

log = logging.getLogger(__name__)

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKENS = "https://huggingface.co/settings/tokens"
_LOGIN = "run `hf auth login` or set HF_TOKEN"
GATED = {"ShapeNet/ShapeNetCore"}
"""Repositories that are known to need a token: without one they are not asked."""
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class HubRefusal(AssetError):
    """The hub does not let this user read a file.

    Args:
        reason: ``gated`` or ``gone``.
        message: What was found.
        hint: What the user can do.
        stage: As of :class:`AssetError`.
    """

    def __init__(self, reason: str, message: str, hint: str = "", *, stage: str = "fetch") -> None:
        super().__init__(reason, message, stage=stage)
        self.hint = hint

    def for_user(self) -> G3DError:
        """The same, as the end of a run."""
        kind = MissingDependency if self.reason == "gated" else DatasetError
        return kind(self.message, hint=self.hint)


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset.

    Attributes:
        repo: ``OWNER/NAME``.
        path: In the repository.
        revision: Branch, tag or commit.
    """

    repo: str
    path: str
    revision: str = "main"

    @classmethod
    def parse(cls, address: str, file: str) -> HubFile:
        """Of ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER or /FILE.zip]``.

        Args:
            address: Of a repository, a folder or a file.
            file: Its name, if the address is not of a file.

        Raises:
            AssetError: ``gone``: it is no such address.
        """
        found = _ADDRESS.fullmatch(address)
        if found is None:
            message = f"{address} is not of the form hf://datasets/OWNER/NAME"
            raise AssetError("gone", message, stage="fetch")
        path = (found[3] or "").strip("/")
        if not path.endswith(Path(file).suffix):
            path = f"{path}/{file}".lstrip("/")
        return cls(found[1], path, found[2] or "main")

    @property
    def name(self) -> str:
        """Its address, as ``fsspec`` writes it."""
        return f"hf://datasets/{self.repo}@{self.revision}/{self.path}"

    @property
    def page(self) -> str:
        """Where people ask for access."""
        return f"https://huggingface.co/datasets/{self.repo}"


@dataclass(frozen=True)
class Pin:
    """One version of a file: it never changes.

    Attributes:
        commit: Of the repository.
        size: Bytes.
        etag: Of the content.
    """

    commit: str
    size: int
    etag: str


@dataclass(frozen=True)
class Found:
    """A version of a file, and the address of its bytes for the next minutes, if it was asked.

    Two are equal if their versions are.
    """

    pin: Pin
    location: str = field(default="", compare=False)


def find(file: HubFile, settings: FetchSettings, cache: Path) -> Found:
    """The version of a file that its revision names: with one request, or from the cache.

    A commit is looked up in the cache, and everything is if ``settings.offline``.

    Raises:
        HubRefusal: ``gated``: no token, one that the hub does not know, or one without access;
            ``gone``: there is no such file.
        AssetError: ``download``: the hub does not answer; it is not in the cache.
        MissingDependency: ``huggingface_hub`` is not installed.
    """
    note = _folder(file, cache) / f"{quote(file.revision, safe='')}.json"
    if settings.offline or _COMMIT.fullmatch(file.revision):
        try:
            return Found(Pin(**json.loads(note.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            if settings.offline:
                raise settings.absent(f"the listing of {file.name}") from error
    found = patiently(lambda: _ask(file, settings), settings.patience)
    data = json.dumps(asdict(found.pin)).encode()
    for name in {file.revision, found.pin.commit}:
        write_atomic(note.with_name(f"{quote(name, safe='')}.json"), data)
    return found


def _folder(file: HubFile, cache: Path) -> Path:
    repo = "datasets--" + file.repo.replace("/", "--")
    return cache / "hub" / repo / quote(file.path, safe="")


class HubRanges:
    """A version of a file on the hub. Threads may share it.

    The hub is asked for the address of the bytes when the first are read, and again when that
    address is no longer good; they then come from its store without troubling the hub. The end of
    a zip, with its directory, is kept in the cache by :meth:`keep`.

    Args:
        file: Which; its revision is the commit of ``found``.
        found: The version, and its address if that is known.
        settings: Retries, and whether to go to the network at all.
        cache: Where the end is kept.
    """

    def __init__(self, file: HubFile, found: Found, settings: FetchSettings, cache: Path) -> None:
        self.file, self.pin, self.size = file, found.pin, found.pin.size
        self._settings = settings
        etag = re.sub(r"[^A-Za-z0-9._-]", "_", self.pin.etag)[:128]
        self._place = _folder(file, cache) / f"{etag}.{self.size}.end"
        self._lock = threading.Lock()
        self._inner: HttpRanges | None = None
        self.offer(found.location)
        self._seen: dict[int, bytes] | None = {}
        try:
            self._end = self._place.read_bytes()
            self._seen = None
        except OSError:
            self._end = b""

    def read(self, start: int, end: int) -> bytes:
        """The bytes ``start`` to ``end``.

        Raises:
            AssetError: As of :func:`find`; ``checksum``: the file is another one now.
        """
        kept = self.size - len(self._end)
        if start >= kept:
            return self._end[start - kept : end - kept]
        if self._settings.offline:
            raise self._settings.absent(f"a part of {self.file.name}")
        inner = self._inner or self._locate(None)
        try:
            data = inner.read(start, end)
        except Refused as error:
            log.info("%s: its address is asked for again", error.message)
            data = self._locate(inner).read(start, end)
        if self._seen is not None:
            self._seen[start] = data
        return data

    def offer(self, location: str) -> None:
        """The address of the bytes, where it is known already."""
        if location:
            self._inner = self._at(location)

    def keep(self) -> None:
        """Keep what was read by now, as far as it reaches to the end, for the next time."""
        pieces, self._seen = sorted((self._seen or {}).items()), None
        end, start = b"", self.size
        for begin, data in reversed(pieces):
            if begin < start <= begin + len(data):
                end, start = data[: start - begin] + end, begin
        if end:
            self._end = end
            write_atomic(self._place, end)

    def _locate(self, stale: HttpRanges | None) -> HttpRanges:
        """Ask the hub for the address, unless another thread did meanwhile."""
        with self._lock:
            if self._inner is None or self._inner is stale:
                settings = self._settings
                found = patiently(lambda: _ask(self.file, settings), settings.patience)
                if (found.pin.size, found.pin.etag) != (self.pin.size, self.pin.etag):
                    message = f"{self.file.name} is another file than when it was listed"
                    raise AssetError("checksum", message, stage="fetch")
                self._inner = self._at(found.location)
            return self._inner

    def _at(self, location: str) -> HttpRanges:
        own = urlsplit(location)[:2] == urlsplit(_endpoint())[:2]
        token = _hub().get_token() if own else None  # the token is the hub's, not its store's
        return HttpRanges(
            location,
            self._settings.patience,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            size=self.size,
            name=self.file.name,
        )


def _hub() -> Any:
    """The package of the hub."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingDependency(
            f"the Hugging Face hub is read with the package huggingface_hub ({error})",
            hint="pip install 'g3d[hub]', or give a copy that is on this machine with --root",
        ) from error
    return huggingface_hub


def _endpoint() -> str:
    # Read now: the package keeps what it was when it was imported.
    address = os.environ.get("HF_ENDPOINT")
    if not address:
        _hub()
        from huggingface_hub import constants

        address = str(constants.ENDPOINT)
    return address.rstrip("/")


def _ask(file: HubFile, settings: FetchSettings) -> Found:
    """One request for the version and the address of a file; it also tells who may read it."""
    hub, endpoint = _hub(), _endpoint()
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    url = hub.hf_hub_url(
        file.repo, file.path, repo_type="dataset", revision=file.revision, endpoint=endpoint
    )
    token = hub.get_token()
    if file.repo in GATED and not token:
        raise _no_token(file)
    try:
        meta = hub.get_hf_file_metadata(
            url, token=token or False, timeout=settings.timeout_s, endpoint=endpoint,
            library_name="g3d", library_version=__version__,
        )  # fmt: skip
    except OfflineModeIsEnabled as error:
        message = f"{file.name} is not read: HF_HUB_OFFLINE is set"
        raise AssetError("download", message, stage="fetch") from error
    except HfHubHTTPError as error:
        raise _refusal(file, error, token) from error
    except (HTTPError, OSError) as error:
        message = f"the hub at {endpoint} cannot be reached: {broken(error)}"
        raise Transient("download", message) from error
    if not meta.commit_hash or not meta.size or not meta.etag:
        message = f"{endpoint} does not answer like a hub: it names no version of {file.path}"
        raise AssetError("download", message, stage="fetch")
    return Found(Pin(meta.commit_hash, int(meta.size), meta.etag), meta.location)


def _no_token(file: HubFile) -> HubRefusal:
    return HubRefusal(
        "gated",
        f"the hub gives {file.repo} only to people who were granted access, and you have no token",
        f"ask for access at {file.page}, make a token at {_TOKENS}, then {_LOGIN}; "
        f"or give a copy of {file.path} with --root",
    )


def _refusal(file: HubFile, error: Any, token: str | None) -> AssetError:
    """An answer of the hub that is an error, in terms of what the user can do."""
    status, headers = error.response.status_code, error.response.headers
    words = " ".join((headers.get("X-Error-Message") or "").split())[:200]
    if status == 401 and not token:
        return _no_token(file)
    if status == 401:
        where = "in HF_TOKEN" if os.environ.get("HF_TOKEN") else "of `hf auth login`"
        return HubRefusal(
            "gated",
            f"the hub does not accept the token {where} for {file.repo}: "
            "it is wrong, expired or revoked",
            f"make a new one at {_TOKENS}, then {_LOGIN}; access is asked for at {file.page}",
        )
    if status == 403:
        return HubRefusal(
            "gated",
            f"your token may not read {file.repo} yet: {words or 'access is not granted'}",
            f"ask for access, or see what became of it, at {file.page}; a fine-grained token also "
            f"needs the permission to read gated repositories: {_TOKENS}",
        )
    if status in (404, 410):
        return HubRefusal(
            "gone",
            f"the hub has no {file.path} in {file.repo} at {file.revision}",
            f"see {file.page}; or give a copy with --root",
        )
    message = f"the hub answers {status} for {file.name}{': ' if words else ''}{words}"
    if status in _PASSING:
        return Transient("download", message, retry_after=_wait(headers))
    return AssetError("download", message, stage="fetch")


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait: by ``Retry-After``, or by the hub's ``RateLimit`` if it is used up."""
    asked = retry_after(headers)
    if asked is None and (
        found := re.search(r";\s*r=0\s*;\s*t=(\d+)", headers.get("RateLimit", ""))
    ):
        return float(found[1])
    return asked
