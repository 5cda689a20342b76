"""A hub on the loopback, for tests: answers as the Hugging Face hub and its store of files do.

Two servers on two ports, as the two are two hosts: the hub tells who may read a file and redirects
to the store, with an address that is good until :meth:`Hub.expire`; the store sends ranges. Faults
are put in by :meth:`Hub.fault`. Every request is written down in ``Hub.log``.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

GRANTED, PENDING, NOT_ASKED = "granted", "pending", "not asked"
_RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/datasets/([^/]+/[^/]+?)(?:/revision/([^/]+)|/(auth-check))?")
_WORDS = {
    PENDING: "Your request to access dataset {repo} is awaiting a review from the repo authors.",
    NOT_ASKED: "Access to dataset {repo} is restricted and you are not in the authorized list. "
    "Visit the page of the dataset to ask for access.",
}


@dataclass
class Request:
    """What was asked, and how many bytes of a body went out."""

    server: str
    method: str
    path: str
    token: str | None
    range: str | None
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Fault:
    """Something that goes wrong ``times`` times, where ``path`` matches.

    ``status`` with ``headers`` answers an error; ``cut`` ends the connection after so many bytes
    of the body; ``flip`` changes a byte of the body; ``hang`` closes without an answer.
    """

    path: str
    times: int = 1
    server: str = ""
    method: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    flip: int | None = None
    hang: bool = False
    skip: int = 0


@dataclass
class Hub:
    """What the servers know; tests change it while they run."""

    repo: str = "ShapeNet/ShapeNetCore"
    gated: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    commit: str = "1" * 40
    faults: list[Fault] = field(default_factory=list)
    log: list[Request] = field(default_factory=list)
    plain: dict[str, bytes] = field(default_factory=dict)
    """Files of the store that anybody may read, without the hub."""
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of earlier commits."""
    redirects: bool = True
    """Whether the bytes are in the store; small files come from the hub itself."""
    no_ranges: bool = False
    no_length: bool = False
    no_etag: bool = False
    signed: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    store: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, path: str = ".", **what: Any) -> Fault:
        """Put in a fault."""
        self.faults.append(Fault(path, **what))
        return self.faults[-1]

    def expire(self) -> None:
        """Addresses in the store that were given out are no longer good."""
        self.signed.clear()

    def asked(self, server: str = "", path: str = ".") -> list[Request]:
        """The requests to a server (``hub`` or ``store``), in their order."""
        return [r for r in self.log if server in ("", r.server) and re.search(path, r.path)]

    @property
    def sent(self) -> int:
        """Bytes of bodies that went out of the store."""
        return sum(r.sent for r in self.asked("store"))

    def take_fault(self, request: Request) -> Fault | None:
        """The fault that this request runs into."""
        with self.lock:
            for fault in self.faults:
                hit = re.search(fault.path, request.path)
                where = fault.server in ("", request.server)
                if hit and where and fault.method in ("", request.method) and fault.times > 0:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    role: str

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        return

    def _serve(self) -> None:
        words = (self.headers.get("Authorization") or "").split()
        self.request_ = Request(
            self.role, self.command, self.path, words[-1] if words else None,
            self.headers.get("Range"), dict(self.headers),
        )  # fmt: skip
        with self.hub.lock:
            self.hub.log.append(self.request_)
        self.fault = self.hub.take_fault(self.request_)
        if self.fault is not None and self.fault.hang:
            self.close_connection = True
            return
        if self.fault is not None and self.fault.status:
            self._answer(self.fault.status, b"trouble", self.fault.headers)
            return
        getattr(self, f"_{self.role}")()

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        self.request_.status = status
        self.send_response(status)
        if self.hub.no_length and status == 200 and self.role == "store":
            del headers["Content-Length"]  # the end of the connection is the end of the body
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is not None and self.fault.flip is not None and body:
            at = self.fault.flip % len(body)
            body = body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
        if self.fault is not None and self.fault.cut is not None:
            body = body[: self.fault.cut]
            self.close_connection = True
        try:
            for at in range(0, len(body), 1 << 16):
                piece = body[at : at + (1 << 16)]
                self.request_.sent += len(piece)  # before: the client may be quick
                self.wfile.write(piece)
        except ConnectionError:
            self.close_connection = True

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    # ---- the hub -----------------------------------------------------------------------------

    def _refused(self, repo: str) -> bool:
        """Answer whoever may not read the repository."""
        token = self.request_.token
        if repo != self.hub.repo:
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
            return True
        if token is not None and token not in self.hub.tokens:
            self._error(401, "", "Invalid credentials in Authorization header")
            return True
        if not self.hub.gated:
            return False
        if token is None:
            words = f"Access to dataset {repo} is restricted. You must have access to it and be "
            self._error(401, "GatedRepo", words + "authenticated to access it. Please log in.")
            return True
        grant = self.hub.tokens[token]
        if grant != GRANTED:
            self._error(403, "GatedRepo", _WORDS.get(grant, grant).format(repo=repo))
        return grant != GRANTED

    def _hub(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            if self.request_.token in self.hub.tokens:
                self._answer(200, json.dumps({"name": "somebody", "type": "user"}).encode())
            else:
                self._error(401, "", "Invalid username or password.")
        elif found := _RESOLVE.fullmatch(path):
            if not self._refused(found[1]):
                self._resolve(found[2], found[3])
        elif found := _API.fullmatch(path):
            if (found[3] or found[1] != self.hub.repo) and self._refused(found[1]):
                return
            info = {"id": found[1], "sha": self.hub.commit, "gated": "manual", "private": False}
            self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        else:
            self._error(404, "", "Not found")

    def _resolve(self, revision: str, name: str) -> None:
        now = {"main": self.hub.files, self.hub.commit: self.hub.files}
        files = {**self.hub.history, **now}.get(revision)
        commit = self.hub.commit if revision == "main" else revision
        if files is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
        elif name not in files:
            self._error(404, "EntryNotFound", "Entry not found")
        elif not self.hub.redirects:
            self._send_data(files[name], {"X-Repo-Commit": commit})
        else:
            data, signature = files[name], secrets.token_hex(4)
            self.hub.signed[signature] = data
            digest = hashlib.sha256(data).hexdigest()
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(data)),
                "X-Linked-ETag": f'"{digest}"',
                "Location": f"{self.hub.store}/repos/{digest}?Signature={signature}&file={name}",
            }
            self._answer(302, b"", headers)

    # ---- the store ---------------------------------------------------------------------------

    def _store(self) -> None:
        parts = urlsplit(self.path)
        asked = parse_qs(parts.query)
        if parts.path.startswith("/redirect/"):
            there = f"{self.hub.url}{parts.path.removeprefix('/redirect')}"
            self._answer(302, b"", {"Location": there})
            return
        data = self.hub.plain.get(unquote(parts.path))
        if data is None and parts.path.startswith("/repos/"):
            data = self.hub.signed.get(asked.get("Signature", [""])[0])
            if data is None:
                self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
                return
        if data is None:
            self._answer(404)
        else:
            self._send_data(data)

    def _send_data(self, data: bytes, more: dict[str, str] | None = None) -> None:
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        headers = {"Accept-Ranges": "bytes", **(more or {})}
        if not self.hub.no_etag:
            headers["ETag"] = etag
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.request_.range or "")
        if_range = self.headers.get("If-Range")
        if not found or self.hub.no_ranges or (if_range is not None and if_range != etag):
            self._answer(200, data, headers)
            return
        start = int(found[1]) if found[1] else len(data) - int(found[2])
        end = min(int(found[2]) + 1, len(data)) if found[1] and found[2] else len(data)
        if start >= len(data):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._answer(206, data[start:end], headers)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        return  # a client that goes away in the middle


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run both servers; ``hub.url`` and ``hub.store`` are their addresses."""
    servers = []
    for role in ("hub", "store"):
        handler = type(f"{role}Handler", (_Handler,), {"hub": hub, "role": role})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    hub.url, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
