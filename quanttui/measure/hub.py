"""Rows of Hugging Face's data sets, as the library `datasets` has them. Knows no data set.

Fetched in a process of its own: the library takes well over 100 MiB of memory, which would lie beside what is to be
measured, and it can be ended when it takes too long. `main` is that process.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

SECONDS = 300.0
"""How long fetching may take in all."""

ANSWER_SECONDS = 5.0
"""How long the Hub may take to answer at all: the library itself tries for half a minute before it gives up."""

COMMAND = "from quanttui.measure import hub; hub.main()"

Rows = list[dict[str, Any]]


class Part(msgspec.Struct, frozen=True):
    """One split of one configuration of a data set ("" where it has but one), of a revision where one is named."""

    dataset: str
    configuration: str
    split: str
    revision: str | None = None


def rows(parts: Sequence[Part], seconds: float = SECONDS) -> list[Rows]:
    """The rows of each part, class labels by their names, from the library's cache where they lie there.

    Raises:
        OSError: they could not be had, in one line.
    """
    command = [sys.executable, "-c", COMMAND]
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    wanted = msgspec.json.encode(parts)
    try:
        done = subprocess.run(command, input=wanted, capture_output=True, env=environment, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it took more than {seconds:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise OSError(said[-1])
    return msgspec.json.decode(done.stdout, type=list[Rows])


def main() -> None:
    """Print the rows of the parts on stdin as JSON, or why not in one line on stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        found = list(_fetched(msgspec.json.decode(sys.stdin.buffer.read(), type=list[Part])))
    except Exception as error:  # the library raises whatever its transport does
        sys.exit(str(error).strip().split("\n")[0] or type(error).__name__)
    with os.fdopen(out, "wb") as stream:
        stream.write(msgspec.json.encode(found))


def _fetched(parts: Sequence[Part]) -> Iterator[Rows]:
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    reachable = _answers(constants.ENDPOINT)
    if not reachable:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    for part in parts:
        name, revision = part.configuration or None, part.revision
        try:
            found = datasets.load_dataset(part.dataset, name, split=part.split, revision=revision)
        except Exception as error:
            if reachable:
                raise
            raise ConnectionError(f"{constants.ENDPOINT} cannot be reached, and its cache does not have it") from error
        yield [{name: _named(value, found.features[name]) for name, value in row.items()} for row in found]


def _named(value: Any, feature: Any) -> Any:
    """A class label by its name, and each of a list of them; other values as they are."""
    inner = getattr(feature, "feature", None)
    if inner is not None and isinstance(value, list):
        return [_named(one, inner) for one in value]
    return feature.int2str(value) if hasattr(feature, "int2str") and isinstance(value, int) else value


def _answers(address: str) -> bool:
    """Whether anything can be had from there, through the library's own client and so its proxies."""
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=ANSWER_SECONDS)
    except Exception:  # the client raises whatever its transport does
        return False
    return True
