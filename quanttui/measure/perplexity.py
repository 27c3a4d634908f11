"""Perplexity, as llama-perplexity computes it. Owns the chunks, the scoring and the raw rows; knows no engine.

Source of the method: llama-perplexity of llama.cpp (tools/perplexity). A text's tokens are cut into chunks of n_ctx;
n_batch / n_ctx of them are decoded together, from an empty memory, each begun with BOS where the vocabulary adds it.
The positions n_ctx/2 … n_ctx-2 of a chunk score the token that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quanttui.errors import UserError
from quanttui.events import Event, Perplexity, Unit, UnitDone, UnitStarted
from quanttui.measure.counters import Meter, total
from quanttui.measure.speed import Clock, TokenArray

BLOCK = 2**20
"""Logits scored at once by one thread: 4 MiB as float32, what a cache holds."""

Rows = npt.NDArray[np.float64]


class Context(Protocol):
    """What the scoring needs of a context with `group` sequences. Any call may raise what its engine raises."""

    def wipe(self) -> None:
        """Forget all tokens of all sequences, contents included."""

    def decode(self, tokens: TokenArray, position: int, outputs: npt.NDArray[np.bool_]) -> None:
        """Submit tokens[sequence, k] at positions `position` + k, with logits where outputs[k], and wait."""

    def logits(self, index: int, rows: int) -> npt.NDArray[np.float32]:
        """A view of the logits of `rows` tokens from the index-th submitted one on, float32 [rows, vocabulary]."""


@dataclass(frozen=True)
class Frame:
    """How the chunks of an arm are decoded: n_ctx, n_batch, the BOS token (None: not added), threads to score with."""

    context: int
    batch: int
    bos: int | None
    threads: int = 1

    @property
    def first(self) -> int:
        """The first position of a chunk that scores its next token."""
        return self.context // 2

    @property
    def scored(self) -> int:
        """How many tokens of a chunk are scored."""
        return self.context - 1 - self.first


def group(context: int, batch: int) -> int:
    """How many chunks llama-perplexity decodes together: n_batch / n_ctx, at least 1."""
    return max(1, batch // context)


def chunks(tokens: int, context: int, limit: int | None, text: str) -> int:
    """How many chunks a text of that many tokens gives, at most `limit`; the tail is dropped.

    Raises:
        UserError: the text `text` (its name, for the message) is too short to be scored: under two chunks.
    """
    if tokens < 2 * context:
        raise UserError(
            f"{text}: {tokens} tokens are too few for a perplexity with context {context}, which needs at least "
            f"{2 * context}: take a longer text (--text) or a smaller context"
        )
    whole = tokens // context
    return whole if limit is None else min(limit, whole)


def nll(logits: npt.NDArray[np.float32], targets: npt.NDArray[np.integer]) -> Rows:
    """Negative log-likelihood of each target under its row of logits, in nats.

    The arithmetic is llama-perplexity's: float32 maximum, difference and exponential, a float64 sum.

    Args:
        logits: float32 [n, vocabulary].
        targets: integer [n].

    Returns:
        float64 [n].
    """
    peak = logits.max(axis=1, keepdims=True)
    shifted = logits - peak
    target = shifted[np.arange(len(targets)), targets].astype(np.float64)
    np.exp(shifted, out=shifted)
    result: Rows = np.log(shifted.sum(axis=1, dtype=np.float64)) - target
    return result


def score(
    context: Context, frame: Frame, tokens: TokenArray, unit: Unit, chunks: int, raw: Raw, clock: Clock, meter: Meter
) -> Iterator[Event]:
    """Decode and score the chunks of one unit. Only the decoding is timed and counted.

    Args:
        tokens: the whole text's, int32.
        unit: its `index` is the first chunk, its `count` how many.
        chunks: how many the arm will score in all.
        raw: where the per-token values go, before an event tells of them.

    Raises:
        UserError: the text has no such chunks, more of them are asked for than go together, or the logits are broken.
    """
    original = _cut(tokens, unit, frame)
    submitted = original.copy()
    if frame.bos is not None:
        submitted[:, 0] = frame.bos
    rows = np.empty((unit.count, frame.scored))
    width = min(frame.batch, frame.context)
    ns, counted = 0, []
    started = clock.at(clock.read())
    yield UnitStarted(unit=unit, at=started)
    context.wipe()
    for begin in range(0, frame.context, width):
        piece = submitted[:, begin : begin + width]
        outputs = np.arange(begin, begin + piece.shape[1]) >= frame.first
        before = meter.read()
        start = clock.read()
        context.decode(piece, begin, outputs)
        ns += clock.read() - start
        counted.append(meter.since(before))
        _score_piece(context, frame, original, begin, piece.shape[1], rows)
    if not np.isfinite(rows).all():
        raise UserError(f"{unit.id}: the logits are no numbers: the file or this llama.cpp build is broken")
    for chunk, row in enumerate(rows, start=unit.index):
        yield _told(unit, chunk, chunks, row, raw, started, ns // unit.count)
    yield UnitDone(unit=unit, at=started, tokens=unit.count * frame.context, ns=ns, counters=total(counted))


def _cut(tokens: TokenArray, unit: Unit, frame: Frame) -> TokenArray:
    """The unit's chunks, [count, context]."""
    size, end = frame.context, unit.index + unit.count
    if unit.index < 0 or unit.count > group(size, frame.batch) or end * size > len(tokens):
        raise UserError(
            f"{unit.id}: there are no such chunks: the text makes {len(tokens) // size} of {size} tokens, and "
            f"{group(size, frame.batch)} go together with batch {frame.batch}"
        )
    return tokens[unit.index * size : end * size].reshape(unit.count, size)


def _score_piece(context: Context, frame: Frame, original: TokenArray, begin: int, width: int, rows: Rows) -> None:
    """Score the positions of one decoded piece that count, into `rows`."""
    low, high = max(begin, frame.first), min(begin + width, frame.context - 1)
    if low >= high:
        return
    jobs = []
    for sequence in range(len(original)):
        logits = context.logits(sequence * width + low - begin, high - low)
        step = max(1, BLOCK // logits.shape[1])
        jobs += [(sequence, logits, low, at, min(at + step, high)) for at in range(low, high, step)]

    def one(job: tuple[int, npt.NDArray[np.float32], int, int, int]) -> None:
        sequence, logits, base, start, stop = job
        targets = original[sequence, start + 1 : stop + 1]
        rows[sequence, start - frame.first : stop - frame.first] = nll(logits[start - base : stop - base], targets)

    with ThreadPoolExecutor(frame.threads) as pool:
        list(pool.map(one, jobs))


def _told(unit: Unit, chunk: int, chunks: int, row: Rows, raw: Raw, at: float, ns: int) -> Perplexity:
    offset = raw.put(chunk, row)
    return Perplexity(
        unit=unit,
        chunk=chunk,
        chunks=chunks,
        scored=len(row),
        nll=float(row.sum()),
        nll2=float((row * row).sum()),
        at=at,
        ns=ns,
        file=raw.name,
        offset=offset,
    )


class Raw:
    """The file of an arm's per-token values: float64, little-endian, one row per chunk, at a place of its own.

    Writing a chunk again puts the same bytes in the same place, so that a unit may be repeated.
    """

    def __init__(self, path: Path, name: str):
        self.name = name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        self._path = path

    def put(self, chunk: int, row: Rows) -> int:
        """Write one chunk's row; its byte offset.

        Raises:
            OSError: a full disk, with the file's name.
        """
        offset = chunk * len(row) * 8
        left = memoryview(row.astype("<f8").tobytes())
        try:
            self._file.seek(offset)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        return offset

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
