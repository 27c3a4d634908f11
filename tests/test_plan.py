"""Which units an arm consists of: whole, in order, and never twice."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.state import Arm, Attempt, Repetition
from quanttui.sweep import plan

TEST = ("decode", 128, 0)


def run(settings: e.Settings, seconds: Callable[[int], float], disturbed: frozenset[int] = frozenset()) -> Attempt:
    """The repetitions of decode that a sweep makes when the n-th lasts `seconds(n)`; disturbed ones do not count."""
    arm, attempt = Arm(plan=e.PlannedArm(id="A", quant="Q8_0")), Attempt(number=1)
    arm.attempts.append(attempt)
    while unit := plan.repetition(settings, arm, attempt, TEST):
        assert unit.id not in arm.units
        arm.units[unit.id] = None
        if unit.index not in disturbed:
            attempt.decode.append(Repetition(unit, 0.0, 128, int(seconds(unit.index) * 1e9), e.Counters()))
    return attempt


def count(settings: e.Settings, seconds: float) -> int:
    return len(run(settings, lambda _: seconds).decode)


@given(st.integers(1, 2000), st.sampled_from([128, 512, 2048]), st.sampled_from([512, 1024]), st.booleans())
def test_groups_cover_every_chunk_once(chunks: int, batch: int, context: int, drawn: bool) -> None:
    settings = e.Settings(batch=batch, context=context, until="decided" if drawn else "full")
    units = plan.groups(settings, chunks, "A")
    places = [k for unit in units for k in unit.places]
    assert sorted(places) == list(range(chunks))
    assert drawn or places == sorted(places)
    assert [k for unit in units for k in range(unit.index, unit.index + unit.count)] == list(range(chunks))
    assert all(unit.count == max(1, batch // context) == len(unit.places) for unit in units[:-1])


@given(st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_every_arm_draws_the_same_chunks_and_another_seed_others(chunks: int, seed: int) -> None:
    settings = e.Settings(until="decided", seed=seed)
    a, b = (plan.groups(settings, chunks, name) for name in "AB")
    assert [unit.chunks for unit in a] == [unit.chunks for unit in b]
    assert sorted(plan.draws(chunks, seed)) == list(range(chunks))
    if chunks > 100:
        assert plan.draws(chunks, seed) != plan.draws(chunks, seed + 1)


def test_the_draws_of_a_seed_are_these_for_ever() -> None:
    assert plan.draws(8, 1) == (0, 3, 5, 4, 6, 2, 7, 1)


@given(st.integers(0, 40), st.sets(st.integers(0, 40)))
def test_what_is_recorded_is_not_missing_and_the_rest_is(chunks: int, done: set[int]) -> None:
    arm = Arm(plan=e.PlannedArm(id="A", quant="Q8_0"))
    units = plan.groups(e.Settings(), chunks, "A")
    recorded = [unit for index, unit in enumerate(units) if index in done]
    arm.recorded = {unit.id: 0.0 for unit in recorded}
    assert plan.missing(units, arm) == [unit for unit in units if unit not in recorded]


def test_slow_decode_gets_llama_benchs_repetitions_and_fast_decode_enough_to_judge_by() -> None:
    assert count(e.Settings(repetitions=5), seconds=10.0) == 5
    assert count(e.Settings(repetitions=8), seconds=10.0) == 8
    assert count(e.Settings(repetitions=5), seconds=0.05) == 60
    assert count(e.Settings(repetitions=5), seconds=1e-6) == plan.MOST_REPETITIONS


def test_who_asks_for_fewer_repetitions_gets_just_those() -> None:
    assert count(e.Settings(repetitions=2, precision=0.01), seconds=0.05) == 2


def test_decode_goes_on_until_it_is_precise_or_its_time_is_over() -> None:
    noise = random.Random(1)

    def noisy(_: int) -> float:
        return 1.0 + noise.gauss(0.0, 0.02)

    precise = run(e.Settings(repetitions=5, precision=0.01, speed_seconds=1e9), noisy).decode
    assert 20 < len(precise) < plan.MOST_REPETITIONS
    assert plan.is_precise([one.tok_s for one in precise], 0.01)
    assert not plan.is_precise([one.tok_s for one in precise[:-1]], 0.01)
    assert 15 <= len(run(e.Settings(repetitions=5, precision=0.001, speed_seconds=15), noisy).decode) <= 17
    assert count(e.Settings(repetitions=5, precision=0.01), seconds=1.0) == 5


def test_disturbed_repetitions_are_done_again_but_not_for_ever() -> None:
    settings = e.Settings(repetitions=5)
    assert [one.unit.index for one in run(settings, lambda _: 10.0, frozenset({1, 3})).decode] == [0, 2, 4, 5, 6]
    assert not run(settings, lambda _: 10.0, frozenset(range(1000))).decode


def test_prompt_is_repeated_as_often_as_asked_for_at_each_depth() -> None:
    settings = e.Settings(repetitions=5, depths=(64, 128))
    tests = [("prompt", 512, 64), ("decode", 128, 64), ("prompt", 512, 128), ("decode", 128, 128)]
    assert plan.tests(settings) == tests
    arm = Arm(plan=e.PlannedArm(id="A", quant="Q8_0"), attempts=[Attempt(number=2)])
    unit = plan.repetition(settings, arm, arm.attempt, ("prompt", 512, 128))
    assert unit is not None and (unit.index, unit.depth, unit.attempt) == (0, 128, 2)


def test_zero_leaves_a_part_out() -> None:
    assert [test[0] for test in plan.tests(e.Settings(prompt=0))] == ["decode"]
    assert [test[0] for test in plan.tests(e.Settings(decode=0))] == ["prompt"]
    assert plan.tests(e.Settings(repetitions=0)) == []
    assert plan.tests(e.Settings(tasks=("ppl",))) == []
    assert not plan.wants_perplexity(e.Settings(chunks=0))
    assert not plan.wants_perplexity(e.Settings(tasks=("speed",)))
    assert plan.wants_perplexity(e.Settings(chunks=None))
    assert plan.wants_perplexity(e.Settings(tasks=("kld",)))


PLANNED = tuple(
    e.PlannedArm(id=quant, quant=quant, bytes=size)
    for quant, size in (("F16", 16), ("Q8_0", 8), ("Q4_K_M", 5), ("Q2_K", 3))
)


@given(st.integers(0, 10**6))
def test_a_random_order_has_every_arm_once_and_the_base_first(seed: int) -> None:
    order = plan.shuffled(e.Settings(seed=seed), PLANNED)
    assert sorted(order) == sorted(arm.id for arm in PLANNED) and order[0] == "F16"
    assert plan.shuffled(e.Settings(seed=seed, base="Q8_0"), PLANNED)[0] == "Q8_0"


def test_random_orders_differ_by_seed() -> None:
    assert len({plan.shuffled(e.Settings(seed=seed), PLANNED) for seed in range(50)}) == 6


def test_a_type_of_kv_cache_is_an_arm_of_its_own_and_the_base_has_the_first() -> None:
    arms = plan.with_kv(PLANNED, ("f16", "q8_0"))
    assert [arm.id for arm in arms[4:]] == ["F16-kv-q8_0", "Q8_0-kv-q8_0", "Q4_K_M-kv-q8_0", "Q2_K-kv-q8_0"]
    assert all(arm.kv == "q8_0" for arm in arms[4:])
    assert plan.base_first(e.Settings(), arms[::-1])[0] == "F16"
