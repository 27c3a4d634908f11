"""What the tasks say of the quants: how many answers of each are right, and which differences from the base are real.
Pure: a state in, a Study out; it knows no screen and no report.

Owns what is paired with what, and the calls. All arms are held against one base over the same items: those that every
arm with an answer to the task was asked in the same words and had room for. The formulas are stats.paired's. One seed
and sorted items: a log gives the same Study each time, digit for digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from quanttui.decide import paired
from quanttui.format import clean
from quanttui.state import Answer, Arm, State
from quanttui.stats.intervals import wilson
from quanttui.stats.paired import (
    Delta,
    Tost,
    Watched,
    accuracy_sequence,
    difference_sequence,
    f1_bootstrap,
    f1_interval,
    f1_p,
    f1_tost,
    holm,
    mcnemar,
    mean_interval,
    minimum_detectable,
    paired_bootstrap,
    pooled_f1,
    tost,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]
    Ints = npt.NDArray[np.int64]
else:
    from quanttui.stats.late import numpy as np

ALPHA = 0.05
"""The chance of a call that is wrong: for each task's family of arms together where a difference is called, for each
arm by itself where two quants are called equivalent."""

POWER = 0.8
"""Of studies, the share that would find the difference called detectable: the usual four in five (Cohen 1988,
Statistical Power Analysis for the Behavioral Sciences, 2.4)."""

RESAMPLES, SEED = 10_000, 42

THINKING = "-thinking"
"""What the name of a task ends with that was given once more, with thinking."""

EMPTY = "none"
"""The group of sentences without entities."""

CALLS = ("worse", "better", "equivalent", "open")


class Measure(msgspec.Struct, frozen=True):
    """A share of one over `n` answers, with the 95 % interval that `how` names; None where there is none.

    `hits`: how many of the `n`, where it is a share of answers.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    how: str
    hits: int | None = None


class Thought(msgspec.Struct, frozen=True):
    """How much was thought in `n` answers: `thinking` of them have some, with so many `tokens` in all; `cut` became too
    long, over it or after it. `share` is that of answers with thinking, `low` and `high` its interval (Wilson).
    `switch`: what the chat template's switch was to be set to, on or off, "" where it was left alone."""

    n: int
    thinking: int
    tokens: int
    cut: int
    share: float
    low: float
    high: float
    switch: str


class Standing(msgspec.Struct, frozen=True):
    """How an arm did in a task, over all of its own answers. Text is clean.

    `answers` of `planned` items came. Of them `cut` became too long and were judged as they stood; `too_long` had a
    prompt that filled the context: there is no answer, and they are in no measure. `thought`: None where no arm's
    answers show any thinking. `measures`: the headline first; none where nothing tells right from wrong. `right`: items
    that are wholly right, of as many as the headline is over.
    """

    task: str
    arm: str
    answers: int
    planned: int
    cut: int
    too_long: int
    thought: Thought | None
    measures: tuple[Measure, ...]
    right: int = 0


class Subject(msgspec.Struct, frozen=True):
    """An arm against the base within one group of items. Suggestive only. `p` by McNemar's test, `p_holm` corrected
    over the groups of this arm and task."""

    group: str
    n: int
    delta: float
    p: float
    p_holm: float


class Finding(msgspec.Struct, frozen=True):
    """An arm against the base in a task's headline, over `n` pairs. Shares of one; text is clean.

    excluded: items that some arm answered and that are no pairs.
    delta: the arm's less the base's; `low` and `high` its 95 % interval (paired bootstrap, percentile), `cluster_low`
        and `cluster_high` that with whole groups drawn again, None where there are not two groups.
    lost, gained: items that the base alone has wholly right, and the arm alone.
    p: by `test`; `p_holm` corrected over the arms of this task.
    call: worse or better (p_holm < 0.05), else equivalent (two one-sided tests against ± `margin`: `tost_p` < 0.05),
        else open. That no difference was found never makes two quants equivalent, and within a margin of 0 nothing is.
    detectable: the least difference that had been found in four of five studies of so many pairs.
    """

    task: str
    measure: str
    arm: str
    base: str
    n: int
    excluded: int
    delta: float
    low: float
    high: float
    cluster_low: float | None
    cluster_high: float | None
    lost: int
    gained: int
    p: float
    test: str
    p_holm: float
    call: str
    margin: float
    tost_p: float
    detectable: float
    subjects: tuple[Subject, ...] = ()


class Study(msgspec.Struct, frozen=True):
    """All tasks of a session, in the plan's order of arms. `base` is "" where no arm has answered anything; a task that
    it has no answer to has another one, which its findings name."""

    base: str
    margin: float
    standings: tuple[Standing, ...] = ()
    findings: tuple[Finding, ...] = ()


Answers = Mapping[str, Answer]
"""One arm's answers to one task, by item."""


class _Test(NamedTuple):
    """What a comparison over pairs gives, before it is corrected for the others of its family."""

    arm: str
    delta: Delta
    clusters: Delta | None
    lost: int
    gained: int
    p: float
    test: str
    same: Tost | None
    detectable: float
    subjects: tuple[Subject, ...]


def study(state: State, resamples: int = RESAMPLES) -> Study:
    """What the session's answers say; ghosts, whose weights are random, have none."""
    arms = [arm for arm in paired.scored(state) if arm.items]
    base = paired.choose(state.settings, arms)
    standings: list[Standing] = []
    findings: list[Finding] = []
    for task in dict.fromkeys(task for arm in arms for task in arm.items_planned):
        known = {arm.id: found for arm in arms if (found := answers(arm, task))}
        judge = _judge(known)
        switch = _switch(task, known, state.settings.thinking)
        standings += [_standing(state.arms[arm], task, found, judge, switch, resamples) for arm, found in known.items()]
        held = paired.choose(state.settings, [state.arms[arm] for arm in known])
        if held is not None and judge is not None:
            findings += _findings(task, known, held.id, judge, state.settings.margin, resamples)
    return Study(clean(base.id, 80) if base else "", state.settings.margin, tuple(standings), tuple(findings))


def answers(arm: Arm, task: str) -> dict[str, Answer]:
    """What an arm answered to a task, by item, in the order in which that came."""
    return {one.unit.item: one for one in arm.items.values() if one.unit.task == task}


def pairs(known: Mapping[str, Answers]) -> list[str]:
    """The items that all arms were asked in the same words and had room for, and that can be right or wrong; sorted."""
    first, *others = known.values()
    return sorted(
        item
        for item, one in first.items()
        if counts(one)
        and all(item in each and counts(each[item]) and each[item].prompt == one.prompt for each in others)
    )


def counts(answer: Answer) -> bool:
    """Whether the answer is in the measures: there was room for the prompt, and a check. An answer that says nothing
    (it ended while the model still thought) is wrong."""
    return answer.stopped != "context" and (answer.correct is not None or answer.expected != "")


def is_right(answer: Answer) -> bool:
    """Whether the answer is wholly right: of a sentence, all of its entities and no others."""
    return answer.correct is True


# --- while the answers come -----------------------------------------------------------------------------------------


class Live(msgspec.Struct, frozen=True):
    """An arm in a task so far, by intervals that may be looked at after every item (95 % confidence sequences).

    `measure` is accuracy, or "whole sentences" where entities are asked for, whose F1 has no such interval. `value` is
    over the arm's own answers of `planned`; `against` the difference from `base` over the items that both were asked
    in the same words, None for the base itself and without such an item. Text is clean.
    """

    task: str
    arm: str
    measure: str
    planned: int
    value: Watched
    base: str
    against: Watched | None


def live(state: State, task: str, arm: Arm) -> Live | None:
    """How an arm stands in a task while its answers come; None without one that has a check. O(its items and the
    base's): the answers of other arms stay packed."""
    base = answering_base(state, task)
    if base is None or task not in arm.items_planned:
        return None
    known = {one.id: answers(one, task) for one in (base, arm)}
    judge = _judge(known)
    if judge is None:
        return None
    measure = "whole sentences" if judge.name == "micro-F1" else judge.name
    return _live(arm, known[arm.id], base.id, known[base.id], task, measure)


def answering_base(state: State, task: str) -> Arm | None:
    """The base among the arms that have answered anything of a task."""
    return paired.choose(state.settings, [arm for arm in paired.scored(state) if task in arm.items_planned])


def _live(arm: Arm, ours: Answers, base: str, theirs: Answers, task: str, measure: str) -> Live | None:
    value = accuracy_sequence([is_right(one) for one in ours.values() if counts(one)])
    if value is None:
        return None
    common = pairs({base: theirs, arm.id: ours}) if arm.id != base else []
    one, other = ([is_right(found[item]) for item in common] for found in (ours, theirs))
    return Live(
        task=clean(task, 40),
        arm=clean(arm.id, 80),
        measure=measure,
        planned=arm.items_planned[task],
        value=value,
        base=clean(base, 80),
        against=difference_sequence(one, other) if common else None,
    )


# --- how an arm did -------------------------------------------------------------------------------------------------


class _Judge(NamedTuple):
    """A task's headline: its name, and how it is taken of answers and tested on pairs."""

    name: str
    measures: Callable[[Sequence[Answer], int], list[Measure]]
    test: Callable[[str, Sequence[Answer], Sequence[Answer], float, float, int], _Test]


def _judge(known: Mapping[str, Answers]) -> _Judge | None:
    """What the task is judged by, going by what its answers tell; None where none of them has a check."""
    checked = [one for found in known.values() for one in found.values() if counts(one)]
    judged = [one for one in checked if one.correct is not None]
    if not checked:
        return None
    if judged and all(one.spans is not None for one in judged):
        return _Judge("micro-F1", _entities, _pooled)
    name = "content right" if judged and all(one.valid is not None for one in judged) else "accuracy"
    return _Judge(name, lambda found, _: _shares(name, found), _share)


def _standing(
    arm: Arm, task: str, found: Answers, judge: _Judge | None, switch: str | None, resamples: int
) -> Standing:
    """An arm's own answers; `switch` as `_switch` has it."""
    each = [found[item] for item in sorted(found)]
    counted = [one for one in each if counts(one)]
    return Standing(
        task=clean(task, 40),
        arm=clean(arm.id, 80),
        answers=len(each),
        planned=arm.items_planned[task],
        cut=sum(one.stopped == "length" for one in each),
        too_long=sum(one.stopped == "context" for one in each),
        thought=_thought(each, switch) if switch is not None else None,
        measures=tuple(judge.measures(counted, resamples)) if judge is not None and counted else (),
        right=sum(map(is_right, counted)),
    )


def _thought(each: Sequence[Answer], switch: str) -> Thought | None:
    """What is told of thinking in answers that were generated; one without its marks has none of it."""
    said = [one for one in each if one.stopped not in ("context", "choice")]
    if not said:
        return None
    spent = [one.thought or 0 for one in said]
    thinking, cut = sum(tokens > 0 for tokens in spent), sum(one.stopped == "length" for one in said)
    share = wilson(thinking, len(said))
    return Thought(len(said), thinking, sum(spent), cut, thinking / len(said), *share, switch)


def _switch(task: str, known: Mapping[str, Answers], asked: str) -> str | None:
    """What the chat template's switch was to be set to in a task, "" where nobody asked; None where that does not
    matter: no answer shows any thinking, and no prompt came from a template whose switch was to be set.

    Where both were asked for, the task by its own name has it off.
    """
    every = [one for found in known.values() for one in found.values()]
    if not any(one.thought is not None or (asked and one.form == "chat") for one in every):
        return None
    return ("on" if task.endswith(THINKING) else "off") if asked == "both" else asked


def _rate(name: str, found: Sequence[bool]) -> list[Measure]:
    """A share with its interval; nothing where there is nothing to count."""
    hits, n = sum(found), len(found)
    return [Measure(name, hits / n, *wilson(hits, n), n, "Wilson", hits)] if n else []


def _shares(name: str, each: Sequence[Answer]) -> list[Measure]:
    """The share that is right; where it is known, how many answers have the form that was asked for, how many meet
    their schema, and how many do that while they are wrong."""
    formed = [one for one in each if one.valid is not None]
    return [
        *_rate(name, [is_right(one) for one in each]),
        *_rate("schema-valid", [bool(one.valid) for one in formed]),
        *_rate("parsed", [one.parsed for one in each if one.parsed is not None]),
        *_rate("valid but wrong", [bool(one.valid) and not one.correct for one in formed]),
    ]


def _entities(each: Sequence[Answer], resamples: int) -> list[Measure]:
    """conlleval's micro-F1 first, then the mean of the sentences' own, precision and recall.

    Precision is the pooled F1 of (tp, 2 fp, 0), and recall that of (tp, 0, 2 fn): 2 tp / (2 tp + 2 fp).
    """
    spans, sentences = _spans(each), [_sentence(one) for one in each]
    mean = math.fsum(sentences) / len(sentences)
    return [
        _micro("micro-F1", spans, resamples),
        Measure("macro-F1", mean, *mean_interval(sentences, resamples, SEED), len(each), "bootstrap"),
        _micro("precision", spans * np.array([1, 2, 0]), resamples),
        _micro("recall", spans * np.array([1, 0, 2]), resamples),
        *_rate("parsed", [one.parsed for one in each if one.parsed is not None]),
        *_rate("rightly empty", [is_right(one) for one in each if one.group == EMPTY]),
    ]


def _micro(name: str, spans: Ints, resamples: int) -> Measure:
    return Measure(name, pooled_f1(spans), *f1_interval(spans, resamples, SEED), len(spans), "bootstrap")


def _spans(each: Sequence[Answer]) -> Ints:
    """Entities right, wrong and missed, int64 [n, 3]."""
    return np.array([one.spans or (0, 0, 0) for one in each], dtype=np.int64).reshape(-1, 3)


def _sentence(one: Answer) -> float:
    """The F1 of a sentence; one without entities has 1 where the answer says so, 0 where that cannot be read."""
    if one.spans is None:
        return 0.0
    right, wrong, missed = one.spans
    of = 2 * right + wrong + missed
    return 2 * right / of if of else float(one.parsed is not False)


# --- an arm against the base ----------------------------------------------------------------------------------------


def _findings(
    task: str, known: Mapping[str, Answers], base: str, judge: _Judge, margin: float, resamples: int
) -> list[Finding]:
    """All arms of a task but the base, corrected together; none without a pair."""
    common, every = pairs(known), {item for found in known.values() for item in found}
    others = [arm for arm in known if arm != base]
    if not common or not others:
        return []
    theirs = [known[base][item] for item in common]
    alpha = ALPHA / len(others)
    tests = [judge.test(arm, [known[arm][item] for item in common], theirs, margin, alpha, resamples) for arm in others]
    corrected = holm([one.p for one in tests])
    return [
        Finding(
            task=clean(task, 40),
            measure=judge.name,
            arm=clean(one.arm, 80),
            base=clean(base, 80),
            n=len(common),
            excluded=len(every) - len(common),
            delta=one.delta.delta,
            low=one.delta.low,
            high=one.delta.high,
            cluster_low=one.clusters.low if one.clusters else None,
            cluster_high=one.clusters.high if one.clusters else None,
            lost=one.lost,
            gained=one.gained,
            p=one.p,
            test=one.test,
            p_holm=p_holm,
            call=call(one.delta.delta, p_holm, one.same),
            margin=margin,
            tost_p=one.same.p if one.same else 1.0,
            detectable=one.detectable,
            subjects=one.subjects,
        )
        for one, p_holm in zip(tests, corrected, strict=True)
    ]


def call(delta: float, p_holm: float, same: Tost | None) -> str:
    """What the tests say of a difference: a real one comes before one that is too small to matter."""
    if p_holm < ALPHA and delta:
        return "worse" if delta < 0 else "better"
    return "equivalent" if same is not None and same.equivalent else "open"


def _share(
    arm: str, ours: Sequence[Answer], theirs: Sequence[Answer], margin: float, alpha: float, resamples: int
) -> _Test:
    """Shares of right answers: McNemar's test.

    The least difference that can be detected goes by the share of pairs that are not alike, with one more on either
    side (Laplace's estimate, as Bonett and Price 2012 have it for such pairs): none seen does not mean that there are
    none.
    """
    a, b = _right(ours), _right(theirs)
    found = mcnemar(a, b)
    names = [one.group for one in theirs]
    groups = sorted(set(names))
    codes = np.array([groups.index(name) for name in names], dtype=np.int64)
    clusters = None
    if len(groups) > 1:
        clusters = paired_bootstrap(a, b, clusters=codes, resamples=resamples, seed=SEED)
    unlike = (found.lost + found.gained + 2) / (len(a) + 2)
    return _Test(
        arm=arm,
        delta=paired_bootstrap(a, b, resamples=resamples, seed=SEED),
        clusters=clusters,
        lost=found.lost,
        gained=found.gained,
        p=found.p,
        test=found.test,
        same=tost(a, b, margin, ALPHA) if margin > 0 else None,
        detectable=minimum_detectable(len(a), unlike, alpha, POWER),
        subjects=_subjects(a, b, codes, groups) if len(groups) > 1 else (),
    )


def _right(each: Sequence[Answer]) -> Bools:
    return np.array([is_right(one) for one in each], dtype=np.bool_)


def _subjects(ours: Bools, base: Bools, codes: Ints, groups: Sequence[str]) -> tuple[Subject, ...]:
    """Each group by itself, corrected over all of them."""
    within = [(ours[codes == code], base[codes == code]) for code in range(len(groups))]
    ps = [mcnemar(a, b).p for a, b in within]
    return tuple(
        Subject(clean(group, 80), len(a), float(a.mean() - b.mean()), p, p_holm)
        for group, (a, b), p, p_holm in zip(groups, within, ps, holm(ps), strict=True)
    )


def _pooled(
    arm: str, ours: Sequence[Answer], theirs: Sequence[Answer], margin: float, alpha: float, resamples: int
) -> _Test:
    """Micro-F1: sentences drawn again, their counts pooled. The least difference that can be detected goes by the
    width of the interval."""
    a, b = _spans(ours), _spans(theirs)
    delta = f1_bootstrap(a, b, resamples, SEED)
    error = (delta.high - delta.low) / 2 / _normal(1 - ALPHA / 2)
    whole, held = ([is_right(one) for one in each] for each in (ours, theirs))
    return _Test(
        arm=arm,
        delta=delta,
        clusters=None,
        lost=sum(theirs and not ours for ours, theirs in zip(whole, held, strict=True)),
        gained=sum(ours and not theirs for ours, theirs in zip(whole, held, strict=True)),
        p=f1_p(a, b, resamples, SEED),
        test="bootstrap",
        same=f1_tost(a, b, margin, ALPHA, resamples, SEED) if margin > 0 else None,
        detectable=(_normal(1 - alpha / 2) + _normal(POWER)) * error,
        subjects=(),
    )


def _normal(share: float) -> float:
    """The normal distribution's quantile."""
    return NormalDist().inv_cdf(share)
