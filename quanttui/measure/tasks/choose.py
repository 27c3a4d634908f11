"""A choice between texts by how likely the model finds each after a prompt. Owns the sums; knows no engine, no check.

The log-likelihood of a text is the sum of ln p(token | all before it) over its tokens, p the softmax over the whole
vocabulary: lm-evaluation-harness's `loglikelihood`, and what the original MMLU evaluation compares for " A" to " D".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quanttui.errors import UserError
from quanttui.events import Event, Unit, UnitDone, UnitStarted
from quanttui.measure.counters import Meter
from quanttui.measure.speed import Clock, TokenArray
from quanttui.measure.tasks import prefix


class Context(prefix.Context, Protocol):
    """What weighing needs of a context with one sequence. Any call may raise what its engine raises."""

    n_ctx: int

    def step(self, token: int, position: int) -> None:
        """Decode one token at the end of what the memory holds, with logits, and wait for it."""

    def next_logits(self) -> npt.NDArray[np.float32]:
        """The logits after the last token that was submitted, [vocabulary]: a view, good until the next is."""


@dataclass(frozen=True)
class Weighed:
    """The choices' log-likelihoods in nats, none where they do not fit: it took `ns`, from session time `at` on.

    The first `shared` tokens of the prompt were in memory before.
    """

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

    def choose(
        self, unit: Unit, prompt: TokenArray, choices: Sequence[TokenArray], shared: TokenArray = prefix.NONE
    ) -> Iterator[Event | Weighed]:
        """UnitStarted, the weights, UnitDone.

        Args:
            choices: the tokens of the prompt and each choice behind it, together. Where a choice changes the prompt's
                last tokens, all of them are weighed from before the first change on.
            shared: as in generate.Answering.answer.

        Raises:
            UserError: nothing of the prompt is left, or the logits are no numbers.
        """
        before, start = self.meter.read(), self.clock.read()
        at = self.clock.at(start)
        yield UnitStarted(unit=unit, at=at)
        length = min([len(prompt), *(prefix.common(prompt, whole) for whole in choices)])
        if length == 0:
            raise UserError(f"{unit.task} item {unit.item}: a choice leaves nothing of its prompt: give a longer one")
        logs: tuple[float, ...] = ()
        there, stopped = 0, "context"
        if max(map(len, choices)) <= self.context.n_ctx:
            there = self.memory.put(prompt[:length], shared)
            logs, stopped = self._weigh(prompt[:length], shared, [whole[length:] for whole in choices]), "choice"
        if not np.isfinite(logs).all():
            raise UserError(f"{unit.arm}: its logits for {unit.task} item {unit.item} are no numbers")
        ns = self.clock.read() - start
        yield Weighed(logs, stopped, at, ns, there)
        yield UnitDone(unit=unit, at=at, tokens=0, ns=ns, counters=self.meter.since(before))

    def _weigh(self, prompt: TokenArray, shared: TokenArray, choices: Sequence[TokenArray]) -> tuple[float, ...]:
        """Each choice's sum over its tokens after the prompt. Only one of several tokens takes more decoding."""
        first = _logs(self.context.next_logits())
        sums, is_bare = [], True
        for tokens in choices:
            total = float(first[tokens[0]]) if len(tokens) else 0.0
            for place, token in enumerate(tokens[:-1]):
                if place == 0 and not is_bare:
                    self.memory.back(prompt, shared)
                is_bare = False
                self.context.step(int(token), len(prompt) + place)
                total += float(_logs(self.context.next_logits())[tokens[place + 1]])
            sums.append(total)
        return tuple(sums)


def _logs(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """ln softmax, in float64."""
    each = logits.astype(np.float64)
    each -= each.max()
    each -= np.log(np.exp(each).sum())
    return each
