"""measure.speed: llama-bench's loop, on a context that keeps what it was told and a clock that only steps move."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.measure.counters import Meter
from quanttui.measure.speed import TELL_NS, Clock, Series, Vocabulary

VOCABULARY = Vocabulary(size=50, bos=1)
METER = Meter()


class Context:
    """A memory of tokens. Every decode moves the clock: `step_ns` for a token alone, 1 µs for each of a prompt."""

    def __init__(self, keeps: bool = True, step_ns: Iterable[int] = ()) -> None:
        self.ns = 5_000_000_000
        self.held: list[int] = []
        self.collecting: set[bool] = set()
        self.calls: list[str] = []
        self.prompts: list[list[int]] = []
        self.pending = 0
        self._keeps = keeps
        self._steps = iter(step_ns)

    def clear(self) -> None:
        self.calls.append("clear")
        self.held = []

    def keep(self, length: int) -> bool:
        self.calls.append("keep")
        if self._keeps:
            self.held = self.held[:length]
        return self._keeps

    def prompt(self, tokens: npt.NDArray[np.int32], position: int) -> None:
        assert position == len(self.held)
        self.calls.append("prompt")
        self.prompts.append(tokens.tolist())
        self.held += tokens.tolist()
        self.pending += 1_000 * len(tokens)

    def step(self, token: int, position: int) -> None:
        assert position == len(self.held) and self.pending == 0
        self.collecting.add(gc.isenabled())
        self.calls.append("step")
        self.held.append(token)
        self.ns += next(self._steps, 1_000_000)

    def synchronize(self) -> None:
        self.calls.append("synchronize")
        self.ns += self.pending
        self.pending = 0


def series(context: Context, batch: int = 64, vocabulary: Vocabulary = VOCABULARY, seed: int = 1) -> Series:
    return Series(context, vocabulary, batch, seed, Clock(origin_ns=10**9, read=lambda: context.ns), METER)


def unit(kind: str, tokens: int, depth: int = 0, index: int = 0) -> e.Unit:
    return e.Unit(arm="A", kind=kind, index=index, tokens=tokens, depth=depth)


@given(tokens=st.integers(1, 300), batch=st.integers(1, 128))
def test_a_prompt_goes_in_whole_batches_and_waits_once(tokens: int, batch: int) -> None:
    context = Context()
    events = list(series(context, batch).repetition(unit("prompt", tokens)))
    assert [len(prompt) for prompt in context.prompts] == [batch] * (tokens // batch) + [tokens % batch] * (
        tokens % batch > 0
    )
    assert context.calls.count("synchronize") == 1 and context.calls[-1] == "synchronize"
    assert [type(event) for event in events] == [e.UnitStarted, e.UnitDone]
    done = events[-1]
    assert isinstance(done, e.UnitDone) and (done.tokens, done.ns) == (tokens, 1_000 * tokens)


@given(st.lists(st.integers(1, 2 * TELL_NS), min_size=1, max_size=60))
def test_every_token_of_a_decode_is_told_once_in_order_and_sums_to_the_whole(steps: list[int]) -> None:
    events = list(series(Context(step_ns=steps)).repetition(unit("decode", len(steps))))
    told = [event for event in events if isinstance(event, e.Tokens)]
    assert [ns for event in told for ns in event.ns] == steps
    assert [event.first for event in told] == [sum(len(event.ns) for event in told[:at]) for at in range(len(told))]
    done = events[-1]
    assert isinstance(done, e.UnitDone) and (done.tokens, done.ns) == (len(steps), sum(steps))


def test_an_anchor_is_measured_as_a_decode_is() -> None:
    decode, anchor = ([event for event in series(Context()).repetition(unit(kind, 6))] for kind in ("decode", "anchor"))
    assert [type(event) for event in anchor] == [type(event) for event in decode]
    done = anchor[-1], decode[-1]
    assert all(isinstance(event, e.UnitDone) and (event.tokens, event.ns) == (6, 6_000_000) for event in done)


@given(st.lists(st.integers(1, 2 * TELL_NS), min_size=1, max_size=60))
def test_tokens_are_told_as_soon_as_a_fifth_of_a_second_has_passed(steps: list[int]) -> None:
    events = list(series(Context(step_ns=steps)).repetition(unit("decode", len(steps))))
    told = [event.ns for event in events if isinstance(event, e.Tokens)]
    assert all(sum(ns[:-1]) < TELL_NS for ns in told)
    assert all(sum(ns) >= TELL_NS for ns in told[:-1])


def test_session_time_counts_from_the_origin() -> None:
    started, *_, done = series(Context()).repetition(unit("decode", 3))
    assert isinstance(started, e.UnitStarted) and isinstance(done, e.UnitDone)
    assert started.at == done.at == 4.0


@pytest.mark.parametrize(("kind", "tokens", "warmed"), [("prompt", 100, 100), ("decode", 100, 1), ("anchor", 100, 1)])
def test_the_warm_up_is_the_whole_prompt_or_one_token(kind: str, tokens: int, warmed: int) -> None:
    context = Context()
    events = list(series(context).warm(unit(kind, tokens)))
    assert len(context.held) == warmed
    assert events[-1] == e.PhaseProgress(arm="A", phase="warm", fraction=1.0)


def test_a_repetition_starts_from_an_empty_memory() -> None:
    context = Context()
    test = series(context)
    list(test.warm(unit("decode", 4)))
    for index in range(3):
        list(test.repetition(unit("decode", 4, index=index)))
        assert len(context.held) == 4


@pytest.mark.parametrize("kind", ["prompt", "decode"])
@pytest.mark.parametrize("keeps", [True, False])
def test_a_depth_is_filled_off_the_clock_and_kept_where_that_can_be_done(kind: str, keeps: bool) -> None:
    context = Context(keeps)
    test = series(context)
    list(test.warm(unit(kind, 8, depth=100)))
    fills = []
    for index in range(3):
        before = sum(map(len, context.prompts))
        done = list(test.repetition(unit(kind, 8, 100, index)))[-1]
        timed = 8 if kind == "prompt" else 0
        fills.append(sum(map(len, context.prompts)) - before - timed)
        assert len(context.held) == 108
        assert isinstance(done, e.UnitDone) and done.ns == (8_000 if kind == "prompt" else 8_000_000)
    assert fills == ([100, 0, 0] if keeps else [100, 100, 100])


@pytest.mark.parametrize("kind", ["prompt", "decode"])
def test_a_text_begins_with_bos_where_the_vocabulary_adds_one(kind: str) -> None:
    for vocabulary, first in ((VOCABULARY, True), (Vocabulary(50, None), False)):
        begins = []
        for index in range(40):
            context = Context()
            list(series(context, vocabulary=vocabulary).repetition(unit(kind, 4, index=index)))
            begins.append(context.held[0] == 1)
        assert all(begins) == first


def test_a_repetition_has_the_same_tokens_on_every_arm_and_others_than_the_next() -> None:
    def tokens(index: int, seed: int = 1) -> list[int]:
        context = Context()
        list(series(context, seed=seed).repetition(unit("decode", 32, index=index)))
        assert all(0 <= token < VOCABULARY.size for token in context.held)
        return context.held

    assert tokens(0) == tokens(0)
    assert tokens(0) != tokens(1)
    assert tokens(0) != tokens(0, seed=2)


def test_an_interrupted_filling_is_done_again() -> None:
    """What a stopped depth left in memory is not taken for the whole of it."""
    context = Context()
    test = series(context, batch=10)
    stopped = test.repetition(unit("decode", 2, depth=40))
    next(stopped)
    stopped.close()
    list(test.repetition(unit("decode", 2, depth=40, index=1)))
    assert len(context.held) == 42 and "keep" not in context.calls


@pytest.mark.parametrize(
    ("kind", "depth", "warm", "first", "second"),
    [
        ("prompt", 0, "clear 3 prompts", "clear 3 prompts", "clear 3 prompts"),
        ("decode", 0, "clear 1 prompts", "clear 5 steps", "clear 5 steps"),
        ("prompt", 3, "clear 3 prompts", "clear 5 prompts", "keep 3 prompts"),
        ("decode", 3, "clear 1 prompts", "clear 2 prompts 5 steps", "keep 5 steps"),
    ],
)
def test_the_calls_come_in_llama_benchs_order(kind: str, depth: int, warm: str, first: str, second: str) -> None:
    """Warm-up, then each repetition: forget, put the depth back, and then what is timed, in batches of two tokens."""
    context = Context()
    test = series(context, batch=2)
    told = []
    for index, part in enumerate((test.warm, test.repetition, test.repetition)):
        context.calls.clear()
        list(part(unit(kind, 5, depth, index)))
        calls = [call for call in context.calls if call != "synchronize"]
        runs = [(name, len(list(group))) for name, group in itertools.groupby(calls)]
        told.append(" ".join(name if name in ("clear", "keep") else f"{count} {name}s" for name, count in runs))
    assert told == [warm, first, second]


@given(st.lists(st.integers(1, TELL_NS), min_size=2, max_size=30), st.integers(1, 10**9))
def test_what_telling_of_tokens_takes_is_nobodys_time(steps: list[int], telling: int) -> None:
    """A reader that stalls (a stopped parent, a full pipe) makes no token slow."""
    context = Context(step_ns=steps)
    events = []
    for event in series(context).repetition(unit("decode", len(steps))):
        events.append(event)
        context.ns += telling
    assert [ns for event in events if isinstance(event, e.Tokens) for ns in event.ns] == steps
    assert isinstance(events[-1], e.UnitDone) and events[-1].ns == sum(steps)


def test_the_garbage_collector_rests_while_a_repetition_is_timed_and_works_again_after() -> None:
    context = Context(step_ns=[TELL_NS] * 4)
    test = series(context)
    repetition = test.repetition(unit("decode", 4))
    assert [type(next(repetition)) for _ in range(2)] == [e.UnitStarted, e.Tokens] and not gc.isenabled()
    repetition.close()
    assert gc.isenabled()
    list(test.repetition(unit("decode", 4)))
    assert context.collecting == {False} and gc.isenabled()


def test_a_warm_up_at_a_depth_leaves_nothing_that_is_taken_for_it() -> None:
    context = Context()
    test = series(context)
    list(test.repetition(unit("decode", 2, depth=7)))
    list(test.warm(unit("decode", 2, depth=7)))
    context.calls.clear()
    list(test.repetition(unit("decode", 2, depth=7)))
    assert context.calls[0] == "clear" and len(context.held) == 9
