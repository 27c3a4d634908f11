"""A Hub for tests: a server on this machine that speaks what huggingface_hub asks of the real one.

    with hubs.serving({"org/repo": {"m-Q8_0.gguf": data}}) as hub:
        hub.run("hf:org/repo", cache=tmp_path)      # a process of its own, told where its Hub is

Files come through a redirect to another host's name, as they do from the Hub. Faults are asked for by path, each for
one request: see `Fault`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "1234567" * 5 + "abcde"

SCRIPT = """
import sys
from pathlib import Path
from quanttui import errors, events
from quanttui.models.fetch import command
cache, yes, as_json, ensure, *arguments = sys.argv[1:]
try:
    if ensure == "1":
        command.ensure(arguments, Path(cache), yes=yes == "1")
    else:
        command.run(arguments, events.Settings(), Path(cache), yes=yes == "1", as_json=as_json == "1")
except errors.UserError as error:
    print(f"quanttui: {error}", file=sys.stderr)
    raise SystemExit(2)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@dataclass(frozen=True)
class Fault:
    """What one request for a file's bytes gets: a `status` alone, or the bytes, `cut` after so many, or in `stall` held
    back after so many until the server ends; `whole`: no ranges; `data`: other bytes."""

    status: int = 0
    code: str = ""
    cut: int | None = None
    stall: int | None = None
    whole: bool = False
    data: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """The server's state: what it has, what goes wrong next, and what it was asked."""

    port: int
    repositories: dict[str, dict[str, bytes]]
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    plain: frozenset[str] = frozenset()
    gated: bool = False
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str]:
        """The Range headers of requests for bytes, in order, "" where there was none."""
        return [headers.get("range", "") for verb, path, headers in self.asked if path.startswith("/cdn/")]

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """That of a process that uses this Hub and the cache below this folder."""
        kept = {key: text for key, text in os.environ.items() if not key.startswith(("HF_", "HUGGING", "QUANTTUI_"))}
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{self.port}", "HF_HOME": str(cache / "hf"), "NO_PROXY": "*"}
        return kept | own | {"HF_HUB_DISABLE_TELEMETRY": "1"} | more

    def command(self, cache: Path, arguments: tuple[str, ...], **how: bool) -> list[str]:
        """The command line of such a process: `yes`, `as_json`, `ensure`."""
        flags = ["1" if how.get(name) else "0" for name in ("yes", "as_json", "ensure")]
        return [sys.executable, "-c", SCRIPT, str(cache / "own"), *flags, *arguments]

    def run(
        self, *arguments: str, cache: Path, environment: dict[str, str] | None = None, **how: bool
    ) -> subprocess.CompletedProcess[str]:
        """Fetch in a process of its own."""
        return subprocess.run(
            self.command(cache, arguments, **how), env=self.environment(cache, **(environment or {})),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def git(data: bytes) -> str:
    """git's digest of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving(repositories: dict[str, dict[str, bytes]], **more: Any) -> Iterator[Hub]:
    """The server while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(server.server_address[1], repositories, **more)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        found: Hub = self.server.hub  # type: ignore[attr-defined]
        return found

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, {key.lower(): text for key, text in self.headers.items()}))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._about(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[3])
        elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._bytes(found[2], self.hub.repositories[found[1]][found[2]])
        else:
            self._send(404, b"", {})

    def _about(self, repo: str, revision: str) -> None:
        if self._fault("api"):
            return
        if repo not in self.hub.repositories:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = [self._sibling(path, data) for path, data in self.hub.repositories[repo].items()]
        said = {"id": repo, "modelId": repo, "sha": COMMIT, "gated": "auto" if self.hub.gated else False,
                "private": False, "tags": [], "downloads": 0, "siblings": siblings}  # fmt: skip
        self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _sibling(self, path: str, data: bytes) -> dict[str, Any]:
        about: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git(data)}
        if path not in self.hub.plain:
            about["lfs"] = {"sha256": digest(data), "size": len(data), "pointerSize": 134}
        return about

    def _resolve(self, repo: str, path: str) -> None:
        if self.hub.gated and "authorization" not in {key.lower() for key in self.headers}:
            return self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        data = self.hub.repositories[repo][path]
        etag = git(data) if path in self.hub.plain else digest(data)
        self._send(302, b"", {
            "Location": f"http://localhost:{self.hub.port}/cdn/{repo}/{path}", "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data)), "ETag": f'"{etag}"',
        })  # fmt: skip

    def _fault(self, path: str) -> Fault | None:
        """The next fault of the path; one that is a status alone is answered at once."""
        waiting = self.hub.faults.get(path)
        if not waiting:
            return None
        fault = waiting.pop(0)
        if fault.status:
            self._send(fault.status, b"{}", {**fault.headers, **({"X-Error-Code": fault.code} if fault.code else {})})
        return fault

    def _bytes(self, path: str, data: bytes) -> None:
        fault = self._fault(path) or Fault()
        if fault.status:
            return
        data = data if fault.data is None else fault.data
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers, status = {"ETag": f'"{digest(data)}"'}, 200
        if found and not fault.whole:
            start, end = int(found[1]), int(found[2]) + 1 if found[2] else len(data)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}"
            data, status = data[start:end], 206
        limit = fault.cut if fault.cut is not None else fault.stall
        self._send(status, data, headers, limit)
        if fault.stall is not None:
            self.hub.stalled.set()
            self.hub.over.wait(60)

    def _send(self, status: int, data: bytes, headers: dict[str, str], limit: int | None = None) -> None:
        self.send_response(status)
        for key, text in headers.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(data)))
        if limit is not None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:limit])
            self.wfile.flush()
