"""Texts to measure perplexity on: a file, the pocket model's own held-out text, or WikiText-2's test part.

Owns where a text lies and its digest. A text is bytes in a file; what it means is the tokenizer's business.
`python -m quanttui.measure.corpus` fetches WikiText-2's rows for `rows`, and prints them as JSON.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from quanttui import paths
from quanttui.errors import UserError
from quanttui.format import clean

WIKITEXT = "wikitext-2"
WIKITEXT_SHA256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
"""Of wiki.test.raw as everybody's perplexities are measured on it (1,290,590 bytes)."""

FETCH_SECONDS = 300.0
"""How long fetching it may take in all."""

ANSWER_SECONDS = 5.0
"""How long the Hub may take to answer at all: the library itself tries for half a minute before it gives up."""


class Text(msgspec.Struct, frozen=True):
    """A text in a file: absolute `path`, hexadecimal `sha256`, a `name` for people."""

    path: Path
    sha256: str
    name: str


def text(spec: str, cache: Path | None = None) -> Text:
    """The text that `spec` names: "pocket", "wikitext-2" (kept in the folder `cache`, else the user's), or a file.

    Raises:
        UserError: it cannot be read or fetched, with what to do instead.
    """
    if spec == "pocket":
        from quanttui.models import pocket

        return _file(Path(pocket.TEXT), "pocket held-out text")
    if spec in (WIKITEXT, "wikitext", "wikitext2"):
        return wikitext((cache or paths.cache_dir()) / "wiki.test.raw")
    return _file(Path(spec), Path(spec).name)


def _file(path: Path, name: str) -> Text:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"--text {clean(str(path))}: cannot be read ({error.strerror})") from None
    if not data:
        raise UserError(f"--text {clean(str(path))}: is empty: give a text of two contexts at least")
    return Text(path.resolve(), hashlib.sha256(data).hexdigest(), clean(name))


def rows(seconds: float = FETCH_SECONDS) -> list[str]:
    """WikiText-2's test part as the `datasets` library has it.

    Fetched in a process of its own: the library takes well over 100 MiB of memory, which would lie beside what is to
    be measured, and it can be ended when it takes too long.

    Raises:
        OSError: it could not be had, in one line.
    """
    command = [sys.executable, "-m", "quanttui.measure.corpus"]
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it took more than {seconds:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise OSError(said[-1])
    return msgspec.json.decode(done.stdout, type=list[str])


def wikitext(kept: Path, fetch: Callable[[], Iterable[str]] = rows) -> Text:
    """WikiText-2's test part, byte for byte, from the file `kept`, or fetched into it.

    Raises:
        UserError: it cannot be fetched or kept, or is not the canonical text.
    """
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == WIKITEXT_SHA256:
        return Text(kept, WIKITEXT_SHA256, "WikiText-2 test")
    data = _fetched(fetch)
    found = hashlib.sha256(data).hexdigest()
    if found != WIKITEXT_SHA256:
        raise UserError(
            f"--text {WIKITEXT}: what was fetched has sha256 {found[:12]}…, not {WIKITEXT_SHA256[:12]}…: "
            "give the canonical wiki.test.raw as a file with --text FILE"
        )
    try:
        _keep(kept, data)
    except OSError as error:
        raise UserError(f"{kept}: cannot be written ({error.strerror}): set cache_dir in config.toml") from None
    return Text(kept, WIKITEXT_SHA256, "WikiText-2 test")


def rebuilt(rows: Iterable[str]) -> bytes:
    """The file that the data set's rows were cut from: a row is a line with its newline; an empty one was " \\n"."""
    return "".join(row if row else " \n" for row in rows).encode()


def _fetched(fetch: Callable[[], Iterable[str]]) -> bytes:
    try:
        return rebuilt(fetch())
    except Exception as error:
        line = clean(next(iter(str(error).split("\n")), ""), 120) or type(error).__name__
        raise UserError(
            f"--text {WIKITEXT}: cannot be fetched ({line}): give the text as a file with --text FILE, "
            "or leave perplexity out with --tasks speed"
        ) from None


def _keep(path: Path, data: bytes) -> None:
    paths.made(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _fetch() -> Iterable[str]:
    """The rows, from the library's own cache where they lie there."""
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    reachable = _answers(constants.ENDPOINT)
    if not reachable:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        found: Iterable[str] = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="test")["text"]
        return found
    except Exception as error:
        if reachable:
            raise
        raise ConnectionError(f"{constants.ENDPOINT} cannot be reached, and its cache does not have it") from error


def _answers(address: str) -> bool:
    """Whether anything can be had from there, through the library's own client and so its proxies."""
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=ANSWER_SECONDS)
    except Exception:  # the client raises whatever its transport does
        return False
    return True


def main() -> None:
    """Print the rows as JSON, or why not in one line on stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        found = list(_fetch())
    except Exception as error:  # the library raises whatever its transport does
        sys.exit(str(error).strip().split("\n")[0] or type(error).__name__)
    with os.fdopen(out, "wb") as stream:
        stream.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
