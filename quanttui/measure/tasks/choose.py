"""A choice between texts by how likely the model finds each after a prompt. Owns the sums; knows no engine, no check.

The log-likelihood of a text is the sum of ln p(token | all before it) over its tokens, p the softmax over the whole
vocabulary: lm-evaluation-harness's `loglikelihood`, and what the original MMLU evaluation compares for " A" to " D".

Prompts that begin alike are read together, each behind the beginning in a sequence of its own. A value may depend on
its neighbours by rounding: so who asks names them, the same ones each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from quanttui.errors import UserError
from quanttui.events import Counters, Event, Unit, UnitDone, UnitStarted
from quanttui.measure.counters import Meter
from quanttui.measure.speed import Clock, TokenArray
from quanttui.measure.tasks import prefix

Logits = npt.NDArray[np.float32]


class Context(prefix.Context, Protocol):
    """What weighing needs of a context with `n_seq` sequences in one memory. Any call may raise what its engine raises.
    """

    n_ctx: int
    n_seq: int

    def fork(self, source: int, target: int) -> None:
        """Have the empty sequence `target` begin with all tokens of `source`."""

    def forget(self, sequence: int) -> None:
        """Forget all tokens of a sequence; those that another one has as well stay with that."""

    def decode_each(
        self, tokens: TokenArray, positions: TokenArray, sequences: TokenArray, outputs: npt.NDArray[np.bool_]
    ) -> None:
        """Submit tokens (at most n_batch of them), each at the end of its sequence, with logits where `outputs`; wait.
        """

    def logits_of(self, index: int) -> Logits:
        """The logits of the `index`-th token submitted, [vocabulary]: a view, good until others are."""


BESIDE = 2
"""Sequences that a context needs beside those of the questions: of their beginning, and of a choice's own tokens."""


@dataclass(frozen=True)
class Question:
    """A prompt, and of each choice the tokens that come behind it."""

    unit: Unit
    prompt: TokenArray
    choices: tuple[TokenArray, ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return max(map(len, self.choices), default=0)

    @property
    def rest(self) -> int:
        """Tokens of the choices that are decoded: all but each one's last."""
        return sum(max(0, len(choice) - 1) for choice in self.choices)


def question(unit: Unit, prompt: TokenArray, wholes: Sequence[TokenArray]) -> Question:
    """What is to be weighed.

    Args:
        wholes: the tokens of the prompt and each choice behind it, together. Where a choice changes the prompt's last
            tokens, all of them are weighed from before the first change on.

    Raises:
        UserError: nothing of the prompt is left.
    """
    length = min([len(prompt), *(prefix.common(prompt, whole) for whole in wholes)])
    if length == 0:
        raise UserError(f"{unit.task} item {unit.item}: a choice leaves nothing of its prompt: give a longer one")
    return Question(unit, prompt[:length], tuple(whole[length:] for whole in wholes))


@dataclass(frozen=True)
class Weighed:
    """The choices' log-likelihoods in nats, none where they do not fit: it took `ns`, from session time `at` on.

    The first `shared` tokens of the prompt were in memory before. Of questions that were read together each has its
    share of the time by its tokens, one after the other.
    """

    unit: Unit
    logs: tuple[float, ...]
    stopped: str
    at: float
    ns: int
    shared: int


@dataclass(frozen=True)
class Choosing:
    """Weighs choices on one context, whose memory is `memory`: what came before changes nothing."""

    context: Context
    clock: Clock
    meter: Meter
    memory: prefix.Memory

    def choose(self, questions: Sequence[Question], shared: TokenArray = prefix.NONE) -> Iterator[Event | Weighed]:
        """UnitStarted, the weights, UnitDone of each question. As many as the context has room for are read together.

        Args:
            shared: the tokens of what the prompts and others begin with, tokenized alone.

        Raises:
            UserError: the logits are no numbers.
        """
        for together in self._fitting(questions, shared):
            yield from self._told(together, shared)

    def _fitting(self, questions: Sequence[Question], shared: TokenArray) -> Iterator[list[Question]]:
        """The questions in their order, as many at a time as fit: one at least."""
        together: list[Question] = []
        for one in questions:
            with_it = [*together, one]
            fits = len(with_it) + BESIDE <= self.context.n_seq and _room(with_it, shared) <= self.context.n_ctx
            if together and not fits:
                yield together
                with_it = [one]
            together = with_it
        if together:
            yield together

    def _told(self, together: Sequence[Question], shared: TokenArray) -> Iterator[Event | Weighed]:
        before, start = self.meter.read(), self.clock.read()
        first = together[0].unit
        yield UnitStarted(unit=first, at=self.clock.at(start))
        fits = _room(together, shared) <= self.context.n_ctx
        found = self._weighed(together, shared) if fits else [_Found((), 0, 1)]
        ns, spent, done = self.clock.read() - start, self.meter.since(before), 0
        cuts = np.cumsum([0, *(one.read for one in found)]).tolist()
        for one, weighed, upto in zip(together, found, cuts[1:], strict=True):
            if not np.isfinite(weighed.logs).all():
                raise UserError(f"{one.unit.arm}: its logits for {one.unit.task} item {one.unit.item} are no numbers")
            begin, end = ns * done // cuts[-1], ns * upto // cuts[-1]
            at = self.clock.at(start + begin)
            if one.unit != first:
                yield UnitStarted(unit=one.unit, at=at)
            yield Weighed(one.unit, weighed.logs, "choice" if fits else "context", at, end - begin, weighed.shared)
            counters = _part(spent, done, upto, cuts[-1])
            yield UnitDone(unit=one.unit, at=at, tokens=0, ns=end - begin, counters=counters)
            done = upto

    def _weighed(self, together: Sequence[Question], shared: TokenArray) -> list[_Found]:
        """Each question's sums. The first one has read their common beginning, where that was not there."""
        begun, there = self.memory.begin([one.prompt for one in together], shared)
        heads = self._heads(together, begun)
        found = []
        for sequence, (one, head) in enumerate(zip(together, heads, strict=True), start=1):
            known = there if sequence == 1 else begun
            found.append(_Found(self._sums(sequence, one, head), known, len(one.prompt) - known + one.rest))
        return found

    def _heads(self, together: Sequence[Question], begun: int) -> list[npt.NDArray[np.float64]]:
        """Read the prompts from their common beginning on, from sequence 1 on: ln p of what follows each."""
        lengths = [len(one.prompt) - begun for one in together]
        numbers = range(1, 1 + len(together))
        for sequence in numbers if begun else ():
            self.context.fork(0, sequence)
        last = np.zeros(sum(lengths), dtype=np.bool_)
        last[np.cumsum(lengths) - 1] = True
        tokens = np.concatenate([one.prompt[begun:] for one in together])
        positions = np.concatenate([np.arange(begun, len(one.prompt), dtype=np.int32) for one in together])
        sequences = np.repeat(np.array(numbers, dtype=np.int32), lengths)
        return [_logs(row) for row in self._decoded(tokens, positions, sequences, last)]

    def _sums(self, sequence: int, one: Question, head: npt.NDArray[np.float64]) -> tuple[float, ...]:
        """Each choice's sum over its tokens, behind the prompt that a sequence holds."""
        return tuple(
            float(head[choice[:1]].sum()) + self._rest(sequence, len(one.prompt), choice) for choice in one.choices
        )

    def _rest(self, sequence: int, position: int, choice: TokenArray) -> float:
        """The sum over a choice's tokens after its first: only one of several tokens takes more decoding."""
        count, spare = len(choice) - 1, self.context.n_seq - 1
        if count < 1:
            return 0.0
        self.context.fork(sequence, spare)
        positions = np.arange(position, position + count, dtype=np.int32)
        sequences = np.full(count, spare, dtype=np.int32)
        rows = self._decoded(choice[:-1], positions, sequences, np.ones(count, dtype=np.bool_))
        total = sum(float(_logs(row)[token]) for row, token in zip(rows, choice[1:], strict=True))
        self.context.forget(spare)
        return total

    def _decoded(
        self, tokens: TokenArray, positions: TokenArray, sequences: TokenArray, outputs: npt.NDArray[np.bool_]
    ) -> Iterator[Logits]:
        """The logits of those tokens that have some, each good until the next are asked for."""
        for begin in range(0, len(tokens), self.context.n_batch):
            part = slice(begin, begin + self.context.n_batch)
            self.context.decode_each(tokens[part], positions[part], sequences[part], outputs[part])
            yield from map(self.context.logits_of, np.flatnonzero(outputs[part]).tolist())


@dataclass(frozen=True)
class _Found:
    """A question's sums. `shared` tokens of its prompt were there before it, `read` were read for it."""

    logs: tuple[float, ...]
    shared: int
    read: int


def _room(together: Sequence[Question], shared: TokenArray) -> int:
    """How many tokens a memory holds of questions that are read together, and of a choice behind one of them."""
    begun = min(prefix.common(shared, one.prompt[:-1]) for one in together)
    return begun + sum(len(one.prompt) - begun for one in together) + max(one.longest for one in together)


def _part(whole: Counters, begin: int, end: int, of: int) -> Counters:
    """What of a region's counters falls to the share from `begin` to `end` of it; the memory at its end is all's."""
    counts = {
        name: None if (value := getattr(whole, name)) is None else value * end // of - value * begin // of
        for name in ("cpu_ns", "majflt", "minflt", "read", "nvcsw", "nivcsw", "swap_in", "zswap_in", "busy_ns")
    }
    return msgspec.structs.replace(whole, **counts)


def _logs(logits: Logits) -> npt.NDArray[np.float64]:
    """ln softmax, in float64."""
    each = logits.astype(np.float64)
    each -= each.max()
    each -= np.log(np.exp(each).sum())
    return each
