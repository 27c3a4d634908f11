"""What a session's raw/ holds: per-token values as float64, little-endian, and lines of JSON. Owns how it is read, and
what is said where it is missing or cut off; knows no figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quanttui import session
from quanttui.state import State
from quanttui.verify.figure import Lacking
from quanttui.verify.log import Log

Array = npt.NDArray[np.float64]


class Session(NamedTuple):
    """What is recomputed: a session's folder, its log, and the state that its report is made of."""

    folder: Path
    log: Log
    state: State


def per_token(known: Session, arm: str) -> dict[int, Array]:
    """The nll of each scored token, in nats, [scored], by chunk in the order in which they were scored.

    Raises:
        Lacking: they are not there, or not all of them.
    """
    chunks = known.log.chunks.get(arm, {})
    placed = {chunk: (one.file, one.offset, one.scored) for chunk, one in chunks.items()}
    return _read(known.folder, f"{arm}.nll", placed)


def per_token_base(known: Session, arm: str) -> dict[int, Array]:
    """nll under the base's 16-bit rows, KL divergence, change of the probability and same favourite, [4, scored], of
    the chunks that were compared.

    Raises:
        Lacking: they are not there, or not all of them.
    """
    chunks = known.log.chunks.get(arm, {})
    placed = {
        chunk: (one.diverged.file, one.diverged.offset, 4 * one.scored)
        for chunk, one in chunks.items()
        if one.diverged is not None
    }
    return {chunk: row.reshape(4, -1) for chunk, row in _read(known.folder, f"{arm}.kld", placed).items()}


def _read(folder: Path, name: str, placed: Mapping[int, tuple[str, int, int]]) -> dict[int, Array]:
    """Rows of a file by chunk, of (the file that the log names, byte offset, values) each."""
    path = session.part(folder, "raw", name)
    shown = f"raw/{path.name}"
    named = {PurePosixPath(file.replace("\\", "/")).name for file, _, _ in placed.values()}
    if named == {""}:
        raise Lacking("the log names no file of per-token values")
    if named != {path.name}:
        raise Lacking(f"the log names {', '.join(sorted(named))} for {shown}", damaged=True)
    data = load(folder, path)
    found = {}
    for chunk, (_, offset, count) in placed.items():
        if not 0 <= offset <= len(data) - 8 * count:
            raise Lacking(f"{shown} is cut off: chunk {chunk} lies beyond its {len(data)} bytes", damaged=True)
        found[chunk] = np.frombuffer(data, "<f8", count, offset).astype(np.float64)
    return found


def load(folder: Path, path: Path) -> bytes:
    """A file of raw/ whole.

    Raises:
        Lacking: it is not there, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Lacking(f"raw/{path.name} is missing") from None
    except OSError as error:
        raise Lacking(f"raw/{path.name} cannot be read: {error.strerror}", damaged=True) from None
