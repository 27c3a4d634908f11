"""An answer to a prompt, each token the likeliest. Owns the loop and where it ends; knows no engine, no check."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from quanttui.events import Event, Tokens, Unit, UnitDone, UnitStarted
from quanttui.measure import thought
from quanttui.measure.counters import Meter
from quanttui.measure.speed import Clock, TokenArray
from quanttui.measure.tasks import prefix


class Context(prefix.Context, Protocol):
    """What answering needs of a context with one sequence. Any call may raise what its engine raises."""

    n_ctx: int

    def step(self, token: int, position: int) -> None:
        """Decode one token at the end of what the memory holds, with logits, and wait for it."""

    def likeliest(self) -> int:
        """The token with the largest logit after the last that was submitted."""


class Vocabulary(Protocol):
    """What tokens mean."""

    def ends(self, token: int) -> bool:
        """Whether a token ends the answer."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for."""


@dataclass(frozen=True)
class Ending:
    """Where an answer ends: with `max_tokens` tokens, before the first of the strings `stop`, right after the first of
    the letters `until` that stands alone.

    Strings and letters end nothing while the model thinks, for which there is room for `thinking` tokens more.
    `opened`: the mark with which the prompt has begun the thinking already (measure.thought).
    """

    max_tokens: int
    stop: Sequence[str] = ()
    until: str = ""
    thinking: int = 0
    opened: bytes = b""


@dataclass(frozen=True)
class Answered:
    """An answer: `tokens` of it came in `ns`, the prompt's time among them, from session time `at` on.

    The first `shared` tokens of the prompt were in memory before. `text` is what follows the model's thinking, none
    where that has no end; `thinking` is what it thought, in `thought` of the tokens, None where it has no marks.
    """

    text: str
    stopped: str
    tokens: int
    at: float
    ns: int
    shared: int = 0
    thinking: str = ""
    thought: int | None = None


@dataclass(frozen=True)
class Answering:
    """Answers prompts on one context, whose memory is `memory`: what came before changes nothing.

    `tell_ns`: tokens are told about this often, in nanoseconds.
    """

    context: Context
    vocabulary: Vocabulary
    clock: Clock
    meter: Meter
    tell_ns: int
    memory: prefix.Memory

    def answer(
        self, unit: Unit, prompt: TokenArray, ending: Ending, shared: TokenArray = prefix.NONE
    ) -> Iterator[Event | Answered]:
        """UnitStarted, Tokens, the answer, UnitDone. A prompt that leaves no room for a token has none.

        `shared` are the tokens of what the prompt and others begin with, tokenized alone.
        """
        before, start = self.meter.read(), self.clock.read()
        at = self.clock.at(start)
        yield UnitStarted(unit=unit, at=at)
        said, there = _Said(ending), 0
        if len(prompt) >= self.context.n_ctx:
            said.stopped = "context"
        else:
            there = self.memory.put(prompt, shared)
            yield from self._decode(unit, len(prompt), said)
        ns = self.clock.read() - start
        yield Answered(said.text, said.stopped, said.tokens, at, ns, there, said.thinking, said.thought)
        yield UnitDone(unit=unit, at=at, tokens=said.tokens, ns=ns, counters=self.meter.since(before))

    def _decode(self, unit: Unit, position: int, said: _Said) -> Iterator[Event]:
        each: list[int] = []
        told = 0
        last = reported = self.clock.read()
        while not said.stopped:
            token = self.context.likeliest()
            if self.vocabulary.ends(token):
                said.stopped = "eos"
                break
            said.add(self.vocabulary.piece(token))
            if not said.stopped and (said.is_full or position >= self.context.n_ctx):
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
    """The bytes that came so far, and what of them is the answer. `stopped` says why it ended, or ""."""

    def __init__(self, ending: Ending) -> None:
        self.stopped = ""
        self._ending = ending
        self._stop = tuple(text.encode() for text in ending.stop if text)
        self._longest = max(map(len, self._stop), default=0)
        self._until = re.compile(rf"(?<![^\W_])[{re.escape(ending.until)}](?=[\W_])") if ending.until else None
        self._bytes = bytearray()
        self._ends: list[int] = []
        self._thought: thought.Thought | None = None
        self._may_think = True

    @property
    def tokens(self) -> int:
        return len(self._ends)

    @property
    def is_full(self) -> bool:
        """Whether there is no room for one more token."""
        return self.tokens >= self._ending.max_tokens + (self._ending.thinking if self._thought else 0)

    def add(self, piece: bytes) -> None:
        """Take the next token's bytes."""
        before = len(self._bytes)
        self._bytes += piece
        self._ends.append(len(self._bytes))
        self._think()
        begin = self._begin
        if begin is None:
            return
        since = max(begin, before - self._longest)
        found = [at for stop in self._stop if (at := self._bytes.find(stop, since)) >= 0]
        if found:
            del self._bytes[min(found) :]
            self.stopped = "stop"
        elif self._until is not None:
            self._end_after_letter(self._until, begin)

    def _think(self) -> None:
        """See whether it thinks, as long as that is open."""
        if self._may_think and (self._thought is None or self._thought.answer is None):
            self._thought = thought.find(self._bytes, self._ending.opened)
            self._may_think = self._thought is not None or thought.could_begin(self._bytes)

    def _end_after_letter(self, until: re.Pattern[str], begin: int) -> None:
        """End it where the next character, of which all bytes must be there, shows that a letter stands alone."""
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._bytes[begin:]))
        if found := until.search(text):
            self._bytes[begin:] = text[: found.end()].encode()
            self.stopped = "stop"

    @property
    def _begin(self) -> int | None:
        """Where the answer begins, None while it thinks."""
        return self._thought.answer if self._thought is not None else 0

    @property
    def text(self) -> str:
        """The answer; bytes that are no UTF-8 become replacement characters."""
        begin = self._begin
        return "" if begin is None else self._bytes[begin:].decode("utf-8", "replace")

    @property
    def thinking(self) -> str:
        """What it thought before, without the marks."""
        one = self._thought
        return "" if one is None else self._bytes[one.begin : one.end].decode("utf-8", "replace")

    @property
    def thought(self) -> int | None:
        """In how many tokens it thought: those that lie between the marks, none where these hold nothing but blanks."""
        one = self._thought
        if one is None or not self.thinking.strip():
            return None if one is None else 0
        return bisect_left(self._ends, one.end) + 1 - bisect_right(self._ends, one.begin)
