"""Which units an arm consists of: whole, in order, and never twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.state import Arm, Attempt, Repetition
from quanttui.sweep import plan


def timed(attempt: Attempt, seconds: float) -> None:
    index = len(attempt.decode)
    unit = e.Unit(arm="A", kind="decode", index=index, tokens=128)
    attempt.decode.append(Repetition(unit, 0.0, 128, int(seconds * 1e9), e.Counters()))


def run(settings: e.Settings, seconds: float) -> int:
    """How many repetitions of decode a sweep makes when each lasts `seconds`."""
    attempt = Attempt(number=1)
    for _ in plan.repetitions(settings, "A", attempt, "decode"):
        timed(attempt, seconds)
    return len(attempt.decode)


@given(st.integers(1, 2000), st.sampled_from([128, 512, 2048]), st.sampled_from([512, 1024]))
def test_groups_cover_every_chunk_once_in_order(chunks: int, batch: int, context: int) -> None:
    units = plan.groups(e.Settings(batch=batch, context=context), chunks, "A")
    assert [k for unit in units for k in range(unit.index, unit.index + unit.count)] == list(range(chunks))
    assert all(unit.count == max(1, batch // context) for unit in units[:-1])


@given(st.integers(0, 40), st.sets(st.integers(0, 40)))
def test_what_is_recorded_is_not_missing_and_the_rest_is(chunks: int, done: set[int]) -> None:
    arm = Arm(plan=e.PlannedArm(id="A", quant="Q8_0"))
    units = plan.groups(e.Settings(), chunks, "A")
    recorded = [unit for index, unit in enumerate(units) if index in done]
    arm.units = {unit.id: 0.0 for unit in recorded}
    assert plan.missing(units, arm) == [unit for unit in units if unit not in recorded]


def test_slow_decode_gets_llama_benchs_repetitions_and_fast_decode_enough_to_judge_by() -> None:
    assert run(e.Settings(repetitions=5), seconds=10.0) == 5
    assert run(e.Settings(repetitions=8), seconds=10.0) == 8
    assert run(e.Settings(repetitions=5), seconds=0.05) == 60
    assert run(e.Settings(repetitions=5), seconds=1e-6) == plan.MOST_REPETITIONS


def test_who_asks_for_fewer_repetitions_gets_just_those() -> None:
    assert run(e.Settings(repetitions=2), seconds=0.05) == 2


def test_prompt_is_repeated_as_often_as_asked_for() -> None:
    units = list(plan.repetitions(e.Settings(repetitions=5, depths=(64,)), "A", Attempt(number=2), "prompt"))
    assert [unit.index for unit in units] == [0, 1, 2, 3, 4]
    assert {(unit.tokens, unit.depth, unit.attempt) for unit in units} == {(512, 64, 2)}


def test_zero_leaves_a_part_out() -> None:
    assert plan.kinds(e.Settings(prompt=0)) == ["decode"]
    assert plan.kinds(e.Settings(decode=0)) == ["prompt"]
    assert plan.kinds(e.Settings(repetitions=0)) == []
    assert plan.kinds(e.Settings(tasks=("ppl",))) == []
    assert not plan.wants_perplexity(e.Settings(chunks=0))
    assert not plan.wants_perplexity(e.Settings(tasks=("speed",)))
    assert plan.wants_perplexity(e.Settings(chunks=None))
