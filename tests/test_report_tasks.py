"""The report of a session of eleven quants with tasks: as small as it is to be, and its resamples those of any way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.decide import study
from quanttui.measure.tasks import Task
from quanttui.measure.tasks.judge import judge
from quanttui.report import html
from quanttui.state import fold
from quanttui.stats import paired
from tests import builders
from tests.benchmarks import report as made


def answers(arm: str, place: int, task: Task) -> Iterator[e.Event]:
    """What the `place`-th quant answers, as a sweep's log says it."""
    told = made.said(place, task)
    for index, item in enumerate(task.items):
        unit = e.Unit(arm=arm, kind="task", index=index, task=task.name, item=item.id)
        judged, text = judge(item, told[item.id]), item.prompt or item.messages[0].content
        yield e.Item(
            unit=unit, items=len(task.items), prompt=hashlib.sha256(text.encode()).hexdigest(), form="plain",
            answer=told[item.id], stopped="choice" if item.choices else "eos", tokens=4, prompt_tokens=90, at=9.0,
            ns=10**8, correct=judged.correct, expected=judged.expected, group=item.group, chosen=judged.chosen,
            logs=(-1.0, -2.0, -3.0, -4.0) if item.choices else (), parsed=judged.parsed, spans=judged.spans,
        )  # fmt: skip
        yield e.UnitDone(unit=unit, at=9.0, tokens=4, ns=10**8)


def test_eleven_quants_that_answered_eight_hundred_items_take_less_than_two_megabytes() -> None:
    arms = [
        builders.Arm(name, tok_s=40.0 + place, chunks=60, ppl=8 + place / 20, kld=0.01)
        for place, name in enumerate(made.QUANTS)
    ]
    asked = builders.settings(tasks=("speed", "ppl", "kld", "mmlu", "ner"), mmlu_score="logits")
    log: list[e.Event] = []
    for event in builders.events(*arms, settings=asked):
        if isinstance(event, e.ArmDone):
            for task in (made.questions(), made.sentences()):
                log += answers(event.arm, made.QUANTS.index(event.arm), task)
        log.append(event)
    state = fold(log)
    found = study.study(state, resamples=200)
    assert {(one.task, one.n) for one in found.findings} == {("mmlu", 500), ("ner", 300)}
    assert len(found.findings) == 2 * (len(made.QUANTS) - 1) and {one.call for one in found.findings} > {"worse"}
    page = html.report(state, answers=found)
    assert all(name in page for name in ("micro-F1", *made.QUANTS))
    assert len(page.encode()) < made.BYTES


ROWS = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0])] * 2), min_size=n, max_size=n)
)


@given_settings(deadline=None)
@given(ROWS, st.integers(1, 60), st.integers(0, 5))
def test_resampled_sums_are_those_of_rows_drawn_one_after_the_other(
    rows: list[tuple[float, ...]], resamples: int, seed: int
) -> None:
    each, n = np.array(rows), len(rows)
    distinct, times = np.unique(each, axis=0, return_counts=True)
    random, wanted = np.random.Generator(np.random.PCG64(seed)), []
    ordered = np.repeat(distinct, times, axis=0)
    for _ in range(resamples):
        if 4 * len(distinct) <= n:
            wanted.append(random.multinomial(n, times / n) @ distinct)
        else:
            wanted.append(ordered[random.integers(n, size=n)].sum(axis=0))
    assert np.array_equal(paired._sums(each, resamples, seed), np.array(wanted))


def test_rows_drawn_in_parts_and_kept_are_those_drawn_one_after_the_other() -> None:
    n, resamples = 300, paired.CELLS // 300 + 100
    random = np.random.Generator(np.random.PCG64(7))
    wanted = [np.bincount(random.integers(n, size=n), minlength=n) for _ in range(resamples)]
    for drawn in (paired._draws(n, resamples, 7), paired._kept(n, resamples, 7)):
        assert np.array_equal(np.concatenate(list(drawn)), np.array(wanted))
