"""What comes from elsewhere: Ollama's manifests, and what a Hub says of a repository."""

from __future__ import annotations

import json
import os
import shutil
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from quanttui.errors import UserError
from quanttui.models import ollama
from quanttui.models.fetch import cached, hub, named, offers
from quanttui.report import fetch as told

from ..structures import JSON, WHOLE, WORDS, encoded, keyed
from ..target import Target, check, finite, printable, put, strict_json

# --- Ollama ---------------------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "ab" * 32
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": "sha256:" + "cd" * 32,
        "size": 485,
    },
    "layers": [
        {"mediaType": ollama.LAYER, "digest": DIGEST, "size": 1000},
        {"mediaType": "x", "digest": "sha256:" + "ef" * 32},
    ],
}


def _ollama(data: bytes, folder: Path) -> None:
    """A manifest names the blob of its model in this store, or there is a line that names it."""
    store = folder / "store"
    place = store / "manifests" / ollama.HOST / "library" / "case"
    place.mkdir(parents=True, exist_ok=True)
    (store / "blobs").mkdir(exist_ok=True)
    put(store / "blobs", f"sha256-{'ab' * 32}", b"GGUF")
    put(place, "latest", data)
    (found,) = ollama.models(store)
    if found.error:
        raise UserError(found.error)
    check(found.path == store / "blobs" / f"sha256-{'ab' * 32}", f"{found.path} is another file")
    check(DIGEST.encode()[7:20] in data.replace(b"\0", b"") or b"\\u" in data, "a digest that is not there")
    check(ollama.resolve("ollama:case", (store,)) == found, "another one")


LAYERS = keyed(
    {
        "layers": st.lists(
            keyed(
                {
                    "mediaType": st.just(ollama.LAYER) | WORDS,
                    "digest": st.just(DIGEST) | WORDS | st.just("sha256:../../../etc/passwd"),
                    "size": WHOLE,
                }
            ),
            max_size=3,
        )
        | JSON
    }
).map(encoded)


# --- the Hub --------------------------------------------------------------------------------------------------------

COMMIT = "1234567" * 5 + "abcde"


def _sibling(path: str, size: int) -> dict[str, Any]:
    return {
        "rfilename": path,
        "size": size,
        "blobId": "0" * 40,
        "lfs": {"sha256": "ab" * 32, "size": size, "pointerSize": 134},
    }


SAID = {
    "id": "org/repo",
    "modelId": "org/repo",
    "sha": COMMIT,
    "gated": False,
    "private": False,
    "tags": [],
    "downloads": 0,
    "siblings": [
        _sibling("m-Q4_K_M.gguf", 1000),
        _sibling("m-Q8_0-00001-of-00002.gguf", 2000),
        _sibling("m-Q8_0-00002-of-00002.gguf", 1500),
        {"rfilename": "README.md", "size": 10, "blobId": "1" * 40},
    ],
}
ANSWERS = (
    json.dumps(SAID).encode(),
    json.dumps(SAID | {"gated": "auto", "siblings": [_sibling("F16/m-F16.gguf", 7)]}).encode(),
)


class _Saying(BaseHTTPRequestHandler):
    """Says whatever it was given as the answer to any question."""

    protocol_version = "HTTP/1.1"
    said = b"{}"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.said)))
        self.end_headers()
        self.wfile.write(self.said)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@lru_cache(maxsize=1)
def _asking(_: int) -> hub.Hub:
    """The program's own Hub, which asks a server on this machine; one in each process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Saying)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }
    os.environ.pop("HF_HUB_OFFLINE", None)
    return hub.Hub()


def _hub(data: bytes, folder: Path) -> None:
    """What is offered lies below the cache, has sizes that can be, and is shown in clean lines and plain data."""
    asking = _asking(os.getpid())
    _Saying.said = data
    cache = folder / "hub"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    wanted = named.parse("hf:org/repo")
    found = offers.listing(asking, wanted, cache)
    place = cached.folder(cache, wanted.repo).resolve()
    check(found.offers, "nothing is offered")
    for offer in found.offers:
        check(offer.bytes >= 0 and offer.missing >= 0, f"{offer.bytes} bytes")
        for file in offer.files:
            check(isinstance(file.bytes, int) and isinstance(file.path, str), "a file")
            for path in (
                cached.blob(place, file),
                cached.partial(place, file),
                cached.snapshot(place, found.commit, file.path),
            ):
                inside = Path(os.path.normpath(path))
                check(
                    inside.is_relative_to(place) and len(inside.relative_to(place).parts) > 1, f"{path} lies elsewhere"
                )
    printable(told.report(found), "the list")
    finite(strict_json(json.dumps(told.data(found, found.offers)), "its data"), "its data")


REPOSITORIES = keyed(
    {
        "id": st.just("org/repo") | JSON,
        "sha": st.just(COMMIT) | WORDS | st.just("../../../x") | JSON,
        "gated": JSON,
        "siblings": st.lists(
            keyed(
                {
                    "rfilename": st.sampled_from(
                        ["m-Q4_K_M.gguf", "../../x.gguf", "/x.gguf", "a/../b.gguf", "m-00001-of-00001.gguf"]
                    )
                    | JSON,
                    "size": st.integers(0, 10**12) | WHOLE | JSON,
                    "blobId": st.just("0" * 40) | WORDS | st.just("../../x"),
                    "lfs": st.just({"sha256": "ab" * 32, "size": 1, "pointerSize": 1})
                    | st.just({"sha256": "../../../x", "size": 1, "pointerSize": 1})
                    | JSON,
                },
                ["rfilename", "size"],
            ),
            max_size=3,
        )
        | JSON,
    },
    ["siblings"],
).map(encoded)

TARGETS = (
    Target(
        "ollama",
        lambda: (json.dumps(MANIFEST).encode(),),
        _ollama,
        "json",
        LAYERS,
        ("quanttui.models.ollama",),
        (b"sha256:", b"../", ollama.LAYER.encode()),
        names=("ollama:case",),
        share=2.0,
    ),
    Target(
        "hub",
        lambda: ANSWERS,
        _hub,
        "json",
        REPOSITORIES,
        (
            "quanttui.models.fetch.hub",
            "quanttui.models.fetch.offers",
            "quanttui.models.fetch.named",
            "quanttui.models.fetch.cached",
        ),
        (b"../", b".gguf", b"-00001-of-00002"),
        names=("hf:org/repo",),
        share=0.25,
    ),
)
