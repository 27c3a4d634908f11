"""Prompt and decode speed, as llama-bench measures them. Owns the loop of one repetition; knows no engine.

Source of the method: llama-bench of llama.cpp (tools/llama-bench). A series of repetitions shares one context. It
begins with a warm-up: the whole prompt, or one token. Every repetition starts from an empty memory, or from one
that holds `depth` tokens put there off the clock. A prompt goes in pieces of n_batch tokens, with logits for the last
token of a piece, and one synchronize at the end; a decode is one token and one synchronize at a time, nothing sampled.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quanttui.events import Event, PhaseProgress, Tokens, Unit, UnitDone, UnitStarted
from quanttui.measure.counters import Meter

TELL_NS, TELL_QUIET_NS = 200_000_000, 1_000_000_000
"""Tokens are told about this often inside a repetition, in nanoseconds; the second where the decode fills every core,
from one of which whoever listens takes the time to."""

TokenArray = npt.NDArray[np.int32]


class Context(Protocol):
    """What a speed test needs of a context with one sequence. Any call may raise what its engine raises."""

    def clear(self) -> None:
        """Forget all tokens; the memory's contents need not be wiped."""

    def keep(self, length: int) -> bool:
        """Forget all tokens but the first `length`; False where the memory cannot be what it was with just these."""

    def prompt(self, tokens: TokenArray, position: int) -> None:
        """Submit tokens (at most n_batch of them) from `position` on, with logits for the last.

        `position` is the end of what the memory holds.
        """

    def step(self, token: int, position: int) -> None:
        """Decode one token at `position`, the end of what the memory holds, with logits, and wait for it."""

    def synchronize(self) -> None:
        """Wait for all that was submitted."""


@dataclass(frozen=True)
class Vocabulary:
    """How many tokens there are, and the one that begins a text (None where none is added)."""

    size: int
    bos: int | None


@dataclass(frozen=True)
class Clock:
    """The monotonic clock, and where session time 0 lies on it."""

    origin_ns: int = 0
    read: Callable[[], int] = time.monotonic_ns

    def at(self, ns: int) -> float:
        """Session time in seconds of a moment of this clock."""
        return (ns - self.origin_ns) / 1e9


class Series:
    """Repetitions of one test on one context: llama-bench's inner loop."""

    def __init__(
        self,
        context: Context,
        vocabulary: Vocabulary,
        batch: int,
        seed: int,
        clock: Clock,
        meter: Meter,
        tell_ns: int = TELL_NS,
    ):
        self._context = context
        self._tell_ns = tell_ns
        self._vocabulary = vocabulary
        self._batch = batch
        self._seed = seed
        self._clock = clock
        self._meter = meter
        self._held = 0

    def warm(self, unit: Unit) -> Iterator[Event]:
        """The warm-up that opens a series: the whole prompt, or one token. An anchor is a decode like any other."""
        self._context.clear()
        self._held = 0
        yield from self._fill(unit.arm, self._tokens(unit, unit.tokens if unit.kind == "prompt" else 1))

    def repetition(self, unit: Unit) -> Iterator[Event]:
        """One timed repetition: UnitStarted, Tokens (of a decode), UnitDone."""
        yield from self._descend(unit)
        tokens = self._tokens(unit, unit.tokens)
        yield UnitStarted(unit=unit, at=self._clock.at(self._clock.read()))
        with _no_collection():
            yield from self._prompt(unit, tokens) if unit.kind == "prompt" else self._decode(unit, tokens)

    def _prompt(self, unit: Unit, tokens: TokenArray) -> Iterator[Event]:
        before = self._meter.read()
        start = self._clock.read()
        for first in range(0, len(tokens), self._batch):
            self._context.prompt(tokens[first : first + self._batch], unit.depth + first)
        self._context.synchronize()
        ns = self._clock.read() - start
        counters = self._meter.since(before)
        yield UnitDone(unit=unit, at=self._clock.at(start), tokens=unit.tokens, ns=ns, counters=counters)

    def _decode(self, unit: Unit, tokens: TokenArray) -> Iterator[Event]:
        """Token by token. What telling of them takes (tens of microseconds, now and then) is no token's."""
        step, read, tell_ns = self._context.step, self._clock.read, self._tell_ns
        each: list[int] = []
        told = 0
        before = self._meter.read()
        start = last = reported = read()
        for position, token in enumerate(tokens.tolist(), start=unit.depth):
            step(token, position)
            now = read()
            each.append(now - last)
            last = now
            if now - reported >= tell_ns:
                yield Tokens(unit=unit, first=told, ns=tuple(each[told:]))
                told, reported = len(each), now
                last = read()
        counters = self._meter.since(before)
        if told < len(each):
            yield Tokens(unit=unit, first=told, ns=tuple(each[told:]))
        yield UnitDone(unit=unit, at=self._clock.at(start), tokens=unit.tokens, ns=sum(each), counters=counters)

    def _descend(self, unit: Unit) -> Iterator[Event]:
        """Put `depth` tokens into the memory, off the clock: those that lie there already are kept.

        llama-bench restores a saved copy of that state; forgetting what came after it leaves the same state without a
        copy of the KV cache in memory.
        """
        if unit.depth and self._held == unit.depth and self._context.keep(unit.depth):
            return
        self._context.clear()
        self._held = 0
        if unit.depth:
            yield from self._fill(unit.arm, self._tokens(unit, unit.depth))
            self._held = unit.depth

    def _fill(self, arm: str, tokens: TokenArray) -> Iterator[Event]:
        for first in range(0, len(tokens), self._batch):
            self._context.prompt(tokens[first : first + self._batch], first)
            self._context.synchronize()
            yield PhaseProgress(arm=arm, phase="warm", fraction=min(1.0, (first + self._batch) / len(tokens)))

    def _tokens(self, unit: Unit, count: int) -> TokenArray:
        """Random tokens, the same for the same repetition of every arm, begun as the vocabulary begins a text."""
        random = np.random.default_rng((self._seed, unit.index, count))
        tokens = random.integers(0, self._vocabulary.size, count, dtype=np.int32)
        if self._vocabulary.bos is not None and count:
            tokens[0] = self._vocabulary.bos
        return tokens


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector rests."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
