"""An answer to a prompt, each token the likeliest. Owns the loop and where it ends; knows no engine, no check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from quanttui.events import Event, Tokens, Unit, UnitDone, UnitStarted
from quanttui.measure.counters import Meter
from quanttui.measure.speed import Clock, TokenArray


class Context(Protocol):
    """What answering needs of a context with one sequence. Any call may raise what its engine raises."""

    n_ctx: int
    n_batch: int

    def clear(self) -> None:
        """Forget all tokens."""

    def prompt(self, tokens: TokenArray, position: int) -> None:
        """Submit tokens (at most n_batch of them) at the end of what the memory holds, with logits for the last."""

    def step(self, token: int, position: int) -> None:
        """Decode one token at the end of what the memory holds, with logits, and wait for it."""

    def synchronize(self) -> None:
        """Wait for all that was submitted."""

    def likeliest(self) -> int:
        """The token with the largest logit after the last that was submitted."""


class Vocabulary(Protocol):
    """What tokens mean."""

    def ends(self, token: int) -> bool:
        """Whether a token ends the answer."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for."""


@dataclass(frozen=True)
class Answered:
    """An answer: `tokens` of it came in `ns`, the prompt's time among them, from session time `at` on."""

    text: str
    stopped: str
    tokens: int
    at: float
    ns: int


@dataclass(frozen=True)
class Answering:
    """Answers prompts on one context, each from an empty memory: what came before changes nothing.

    `tell_ns`: tokens are told about this often, in nanoseconds.
    """

    context: Context
    vocabulary: Vocabulary
    clock: Clock
    meter: Meter
    tell_ns: int

    def answer(
        self, unit: Unit, prompt: TokenArray, max_tokens: int, stop: Sequence[str] = ()
    ) -> Iterator[Event | Answered]:
        """UnitStarted, Tokens, the answer, UnitDone. A prompt that leaves no room for a token has none."""
        before, start = self.meter.read(), self.clock.read()
        at = self.clock.at(start)
        yield UnitStarted(unit=unit, at=at)
        said = _Said(tuple(text.encode() for text in stop if text))
        if len(prompt) >= self.context.n_ctx:
            said.stopped = "context"
        else:
            yield from self._decode(unit, prompt, max_tokens, said)
        ns = self.clock.read() - start
        yield Answered(said.text, said.stopped, said.tokens, at, ns)
        yield UnitDone(unit=unit, at=at, tokens=said.tokens, ns=ns, counters=self.meter.since(before))

    def _decode(self, unit: Unit, prompt: TokenArray, max_tokens: int, said: _Said) -> Iterator[Event]:
        self.context.clear()
        for first in range(0, len(prompt), self.context.n_batch):
            self.context.prompt(prompt[first : first + self.context.n_batch], first)
        self.context.synchronize()
        each: list[int] = []
        told, position = 0, len(prompt)
        last = reported = self.clock.read()
        while not said.stopped:
            token = self.context.likeliest()
            if self.vocabulary.ends(token):
                said.stopped = "eos"
                break
            said.add(self.vocabulary.piece(token))
            if not said.stopped and (said.tokens == max_tokens or position >= self.context.n_ctx):
                said.stopped = "length"
            if not said.stopped:
                self.context.step(token, position)
                position += 1
            now = self.clock.read()
            each.append(now - last)
            last = now
            if now - reported >= self.tell_ns:
                yield Tokens(unit=unit, first=told, ns=tuple(each[told:]))
                told, reported = len(each), now
        if told < len(each):
            yield Tokens(unit=unit, first=told, ns=tuple(each[told:]))


class _Said:
    """The bytes of an answer so far, cut before the first of its stop strings. `stopped` says why it ended, or ""."""

    def __init__(self, stop: tuple[bytes, ...]) -> None:
        self.tokens = 0
        self.stopped = ""
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._bytes = bytearray()

    def add(self, piece: bytes) -> None:
        """Take the next token's bytes."""
        self.tokens += 1
        since = max(0, len(self._bytes) - self._longest)
        self._bytes += piece
        found = [at for stop in self._stop if (at := self._bytes.find(stop, since)) >= 0]
        if found:
            del self._bytes[min(found) :]
            self.stopped = "stop"

    @property
    def text(self) -> str:
        """What it says; bytes that are no UTF-8 become replacement characters."""
        return self._bytes.decode("utf-8", "replace")
