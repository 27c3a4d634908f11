"""Perplexity, as llama-perplexity computes it. Owns the chunks, the scoring and the raw rows; knows no engine.

Source of the method: llama-perplexity of llama.cpp (tools/perplexity). A text's tokens are cut into chunks of n_ctx;
n_batch / n_ctx of them are decoded together, from an empty memory, each begun with BOS where the vocabulary adds it.
The positions n_ctx/2 … n_ctx-2 of a chunk score the token that follows.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from quanttui.errors import UserError
from quanttui.events import Against, Counters, Diverged, Event, Perplexity, Unit, UnitDone, UnitStarted
from quanttui.measure.counters import Meter, total
from quanttui.measure.speed import Clock, TokenArray

BLOCK = 2**18
"""Logits scored at once by one thread: 1 MiB as float32, what a core's own cache holds."""

Logits = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float64]


class Context(Protocol):
    """What the scoring needs of a context with `group` sequences. Any call may raise what its engine raises."""

    def wipe(self) -> None:
        """Forget all tokens of all sequences, contents included."""

    def decode(self, tokens: TokenArray, position: int, outputs: npt.NDArray[np.bool_]) -> None:
        """Submit tokens[sequence, k] at positions `position` + k, with logits where outputs[k], and wait."""

    def logits(self, sequence: int, start: int, stop: int) -> Sequence[Logits]:
        """The logits of the submitted tokens [sequence, start … stop - 1], all of which were asked for.

        Views, in order: float32 [some, vocabulary] each, valid until the next decode.
        """


class Judge(Protocol):
    """What becomes of the logits of a chunk's scored positions."""

    @property
    def values(self) -> int:
        """How many values a token gets. The first is its nll."""

    def rows(self, chunk: int, first: int, logits: Logits, targets: npt.NDArray[np.integer]) -> Rows:
        """The values of the scored positions from the `first` on, float64 [values, n]. Called by threads at once."""

    def told(self, chunk: int, rows: Rows) -> tuple[Against | None, Diverged | None]:
        """What the event says of a chunk besides its nll, of which all rows, [values, scored], are there."""


class Alone:
    """Judges an arm by its own nll."""

    values = 1

    def rows(self, chunk: int, first: int, logits: Logits, targets: npt.NDArray[np.integer]) -> Rows:
        return nll(logits, targets)[None]

    def told(self, chunk: int, rows: Rows) -> tuple[Against | None, Diverged | None]:
        return None, None


@dataclass(frozen=True)
class Frame:
    """How the chunks of an arm are decoded: n_ctx, n_batch, the BOS token (None: not added)."""

    context: int
    batch: int
    bos: int | None

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


class _Room(threading.local):
    """Memory that a thread works in again and again: fresh pages would cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._held: dict[str, Logits] = {}

    def floats(self, name: str, shape: tuple[int, int]) -> Logits:
        """The thread's array of that name, float32, in this shape; what it holds is left over."""
        count = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.size < count:
            held = self._held[name] = np.empty(count, np.float32)
        return held[:count].reshape(shape)


room = _Room()


def blocks(rows: int, vocabulary: int, most: int) -> Iterator[slice]:
    """Rows of logits, cut so that a block has at most `most` of them, or one row."""
    step = max(1, most // vocabulary)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def sums(values: Logits) -> Rows:
    """The float64 sum of each row of float32 values. A row's does not depend on the others."""
    found: Rows = np.einsum("ij->i", values, dtype=np.float64, casting="unsafe")
    return found


def nll(logits: Logits, targets: npt.NDArray[np.integer]) -> Rows:
    """Negative log-likelihood of each target under its row of logits, in nats.

    The arithmetic is llama-perplexity's: float32 maximum, difference and exponential, a float64 sum.

    Args:
        logits: float32 [n, vocabulary].
        targets: integer [n].

    Returns:
        float64 [n].
    """
    found = np.empty(len(targets))
    for block in blocks(len(logits), logits.shape[1], BLOCK):
        part = logits[block]
        peak = part.max(axis=1, keepdims=True)
        shifted = np.subtract(part, peak, out=room.floats("nll", part.shape))
        target = shifted[np.arange(len(part)), targets[block]].astype(np.float64)
        np.exp(shifted, out=shifted)
        found[block] = np.log(sums(shifted)) - target
    return found


class Workers:
    """Threads that score, and the memory for a copy of logits; kept from one unit to the next."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "score")
        self._copy = np.empty(0, np.float32)

    def begin(self, jobs: Iterable[Callable[[], object]]) -> list[Future[None]]:
        """Have the jobs done: each thread takes one after the other, until none is left."""
        left = deque(jobs)

        def drain() -> None:
            while True:
                try:
                    job = left.popleft()
                except IndexError:
                    return
                job()

        return [self._pool.submit(drain) for _ in range(min(self.threads, len(left)))]

    def do(self, jobs: Iterable[Callable[[], object]]) -> None:
        """Have the jobs done, and wait for them."""
        _all(self.begin(jobs))

    def copy(self, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
        """Memory for a unit's logits, float32, the same each time."""
        count = math.prod(shape)
        if self._copy.size < count:
            self._copy = np.empty(count, np.float32)
        return self._copy[:count].reshape(shape)

    def forget(self) -> None:
        """Give that memory back."""
        self._copy = np.empty(0, np.float32)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        self.forget()


def _all(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        future.result()


@dataclass
class _Work:
    """A unit under way: its chunks' tokens [count, context], its values [count, values, scored] as far as they are."""

    unit: Unit
    tokens: TokenArray
    rows: Rows
    at: float = 0.0
    ns: int = 0
    counted: list[Counters] = field(default_factory=list)
    scoring: list[Future[None]] = field(default_factory=list)


@dataclass(frozen=True)
class Scorer:
    """Decodes and scores units of one arm. Only the decoding is timed and counted.

    tokens: the whole text's, int32.
    chunks: how many the arm will score in all.
    raw: where the per-token nll go, before an event tells of them.
    ahead: a unit is decoded while the one before it is scored, from a copy of its logits. Of that decoding those
        counters are absent in which the scoring would be counted too.
    """

    context: Context
    frame: Frame
    tokens: TokenArray
    chunks: int
    raw: Raw
    clock: Clock
    meter: Meter
    workers: Workers
    judge: Judge = Alone()  # noqa: RUF009 (it holds nothing)
    ahead: bool = False

    def score(self, units: Sequence[Unit]) -> Iterator[Event]:
        """UnitStarted, Perplexity for each chunk and UnitDone of each unit in turn.

        What a unit gave is told even if the decoding of the next comes to nothing.

        Raises:
            UserError: the text has no such chunks, more of them are asked for than go together, or the logits are
                broken.
        """
        left = [self._work(unit) for unit in units]
        before: _Work | None = None
        try:
            for work in left:
                work.at = self.clock.at(self.clock.read())
                if before is None:
                    yield UnitStarted(unit=work.unit, at=work.at)
                try:
                    self._decode(work, before)
                finally:
                    if before is not None:
                        yield from self._told(before)
                        yield UnitStarted(unit=work.unit, at=work.at)
                if self.ahead:
                    before = work
                else:
                    yield from self._told(work)
            if before is not None:
                yield from self._told(before)
        finally:
            wait([future for work in left for future in work.scoring])

    def _work(self, unit: Unit) -> _Work:
        size, places = self.frame.context, unit.places
        whole, together = len(self.tokens) // size, group(size, self.frame.batch)
        if len(places) != unit.count or not 0 < unit.count <= together or not 0 <= min(places) <= max(places) < whole:
            raise UserError(
                f"{unit.id}: there are no such chunks: the text makes {whole} of {size} tokens, and {together} go "
                f"together with batch {self.frame.batch}"
            )
        tokens = self.tokens[: whole * size].reshape(whole, size)[list(places)]
        return _Work(unit, tokens, np.empty((unit.count, self.judge.values, self.frame.scored)))

    def _decode(self, work: _Work, before: _Work | None) -> None:
        """Decode a unit's chunks piece by piece, and score them or begin to."""
        frame, submitted = self.frame, work.tokens.copy()
        if frame.bos is not None:
            submitted[:, 0] = frame.bos
        self.context.wipe()
        width = min(frame.batch, frame.context)
        for begin in range(0, frame.context, width):
            piece = submitted[:, begin : begin + width]
            outputs = np.arange(begin, begin + piece.shape[1]) >= frame.first
            counted = self.meter.read()
            start = self.clock.read()
            self.context.decode(piece, begin, outputs)
            work.ns += self.clock.read() - start
            counters = self.meter.since(counted)
            work.counted.append(_decodings(counters) if self.ahead and (before or work.scoring) else counters)
            self._take(work, begin, piece.shape[1], before)

    def _take(self, work: _Work, begin: int, width: int, before: _Work | None) -> None:
        """Score the positions of one decoded piece that count; ahead of that, copy them."""
        frame = self.frame
        low, high = max(begin, frame.first), min(begin + width, frame.context - 1)
        if low >= high:
            return
        parts: list[tuple[int, int, Logits]] = []
        for sequence in range(work.unit.count):
            at = low - frame.first
            for view in self.context.logits(sequence, low - begin, high - begin):
                parts.append((sequence, at, view))
                at += len(view)
        if not self.ahead:
            self.workers.do(self._jobs(work, parts))
            return
        if before is not None:
            wait(before.scoring)
        work.scoring += self.workers.begin(self._jobs(work, self._copied(work, parts)))

    def _copied(self, work: _Work, parts: list[tuple[int, int, Logits]]) -> list[tuple[int, int, Logits]]:
        held = self.workers.copy((work.unit.count, self.frame.scored, parts[0][2].shape[1]))
        copies = [(sequence, at, held[sequence, at : at + len(view)]) for sequence, at, view in parts]
        pairs = zip(copies, parts, strict=True)
        self.workers.do([partial(np.copyto, copy, view) for (*_, copy), (*_, view) in pairs])
        return copies

    def _jobs(self, work: _Work, parts: list[tuple[int, int, Logits]]) -> Iterator[Callable[[], None]]:
        """The scoring in blocks."""
        for sequence, at, logits in parts:
            for block in blocks(len(logits), logits.shape[1], BLOCK):
                yield partial(self._judge, work, sequence, at + block.start, logits[block])

    def _judge(self, work: _Work, sequence: int, at: int, logits: Logits) -> None:
        follows = self.frame.first + at + 1
        targets = work.tokens[sequence, follows : follows + len(logits)]
        chunk = work.unit.places[sequence]
        work.rows[sequence, :, at : at + len(logits)] = self.judge.rows(chunk, at, logits, targets)

    def _told(self, work: _Work) -> Iterator[Event]:
        unit, count = work.unit, work.unit.count
        _all(work.scoring)
        if not np.isfinite(work.rows[:, 0]).all():
            raise UserError(f"{unit.id}: the logits are no numbers: the file or this llama.cpp build is broken")
        for chunk, rows in zip(unit.places, work.rows, strict=True):
            nll, offset = rows[0], self.raw.put(chunk, rows[0])
            against, diverged = self.judge.told(chunk, rows)
            yield Perplexity(
                unit=unit,
                chunk=chunk,
                chunks=self.chunks,
                scored=len(nll),
                nll=float(nll.sum()),
                nll2=float((nll * nll).sum()),
                at=work.at,
                ns=work.ns // count,
                file=self.raw.name,
                offset=offset,
                against=against,
                diverged=diverged,
            )
        yield UnitDone(
            unit=unit, at=work.at, tokens=count * self.frame.context, ns=work.ns, counters=total(work.counted)
        )


def _decodings(counters: Counters) -> Counters:
    """Of counters over a decoding and a scoring at once, those that the decoding alone has."""
    return msgspec.structs.replace(counters, cpu_ns=None, minflt=None, read=None, nvcsw=None, nivcsw=None)


class Raw:
    """The file of an arm's per-token values: float64, little-endian, one row per chunk, at a place of its own.

    Writing a chunk again puts the same bytes in the same place, so that a unit may be repeated.
    """

    def __init__(self, path: Path, name: str):
        self.name = name
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)  # not what is above it: a session may have been moved
            path.touch(0o600)
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        self._path = path

    def put(self, chunk: int, row: Rows) -> int:
        """Write one chunk's row, float64; its byte offset.

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
