"""Answers, read again from raw/<arm>.items.jsonl and judged again; and the measures of each task, taken of that.

What is a hit is written anew here; intervals are stats'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from quanttui import events as e
from quanttui.decide.study import EMPTY, RESAMPLES, SEED, Measure, Standing, Study
from quanttui.format import clean
from quanttui.measure.tasks.judge import Judged
from quanttui.stats import paired
from quanttui.stats.intervals import wilson
from quanttui.summary import ArmSummary
from quanttui.verify import findings
from quanttui.verify.answers import F1, Answered, Answers, of_task, pooled, read, spans
from quanttui.verify.figure import Figure, Lacking, lacking, numbers, texts
from quanttui.verify.raw import Session


def of_all(known: Session, rows: Mapping[str, ArmSummary], found: Study) -> Iterator[Figure]:
    """All that is told of answers: each arm's own, then what the study makes of them."""
    every: dict[str, Answers] = {}
    for arm in known.log.items:
        try:
            every[arm] = read(known, arm)
        except Lacking as why:
            yield lacking(arm, "answers", f"{len(known.log.items[arm])} answers", why)
            continue
        yield from _lines(arm, every[arm])
        yield from _scores(arm, rows.get(arm), every[arm])
    shown = {clean(arm, 80): each for arm, each in every.items()}
    for standing in found.standings:
        if standing.arm in shown:
            yield from _standing(standing, shown[standing.arm])
    if known.log.items.keys() <= every.keys():
        scored = {arm: each for arm, each in shown.items() if not _is_ghost(known, arm)}
        yield from findings.of_all(found.findings, scored)
    else:
        some = Lacking("answers of some quant are missing in raw/")
        for one in found.findings:
            yield lacking(one.arm, f"{one.task}: against {one.base}", (one.delta, one.low, one.high), some)


def _is_ghost(known: Session, shown: str) -> bool:
    return any(plan.ghost and clean(name, 80) == shown for name, plan in known.log.plans.items())


# --- the lines ------------------------------------------------------------------------------------------------------


def _lines(arm: str, each: Answers) -> Iterator[Figure]:
    """Whether log and raw/ say the same, and both what comes out anew."""
    source, names = f"raw/{arm}.items.jsonl", list(each)
    known = list(each.values())
    yield texts(arm, "units", [one.told.unit.id for one in known], [one.line.unit for one in known], source, names)
    for what in ("SHA-256 of prompts", "SHA-256 of prompts by raw/"):
        told = [one.told.prompt if what.endswith("prompts") else one.line.prompt_sha256 for one in known]
        yield texts(arm, what, told, [_sha256(one.line.prompt) for one in known], source, names)
    told = [one.told.answer for one in known]
    yield texts(arm, "answers", told, [one.line.answer[: e.ANSWER] for one in known], source, names)
    told = [f"{one.told.stopped} {one.told.tokens} {one.told.prompt_tokens}" for one in known]
    found = [f"{one.line.stopped} {one.line.tokens} {one.line.prompt_tokens}" for one in known]
    yield texts(arm, "how answers ended, and tokens", told, found, source, names)
    yield from _chosen(arm, source, each)
    anew = {key: one for key, one in each.items() if one.anew}
    if len(anew) < len(each):
        why = Lacking(f"raw/ lacks the items of {len(each) - len(anew)} answers")
        yield lacking(arm, "judgements", f"{len(each) - len(anew)} answers", why)
    told = [_words(one.told) for one in anew.values()]
    found = [_words(one.judged) for one in anew.values()]
    yield texts(arm, "judgements, judged again", told, found, source, list(anew))


def _chosen(arm: str, source: str, each: Answers) -> Iterator[Figure]:
    """Of weighed choices the answer is the likeliest."""
    weighed = {key: one for key, one in each.items() if one.line.logs and one.line.asked is not None}
    if weighed:
        told, found = zip(*((one.told.answer, _likeliest(one)) for one in weighed.values()), strict=True)
        yield texts(arm, "likeliest choices", told, found, source, list(weighed))
        logs = [value for one in weighed.values() for value in one.told.logs]
        read = [value for one in weighed.values() for value in one.line.logs]
        yield numbers(arm, "log-likelihoods of choices", logs, read, source)


def _likeliest(one: Answered) -> str:
    choices = one.line.asked.choices if one.line.asked else ()
    best = int(np.argmax(one.line.logs))
    return choices[best].strip() if best < len(choices) else ""


def _sha256(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _words(one: e.Item | Judged) -> str:
    """What an answer is worth, in one line: right, asked for, chosen, in form, by its schema, entities."""
    values = one.correct, one.expected[: e.ANSWER], one.chosen, one.parsed, one.valid, one.spans
    return " ".join(str(value) for value in values)


# --- the figures ----------------------------------------------------------------------------------------------------


def _scores(arm: str, row: ArmSummary | None, each: Answers) -> Iterator[Figure]:
    """The share of right answers as the tables have it."""
    for told in row.scores if row is not None else ():
        mine = [one for one in each.values() if clean(one.told.unit.task, 40) == told.task]
        checked = [one for one in mine if one.judged.correct is not None]
        right = sum(one.is_right for one in checked)
        cut = sum(one.line.stopped in ("length", "context") for one in mine)
        source = f"raw/{arm}.items.jsonl"
        recorded = [told.right, told.checked, told.answers, told.cut]
        found = [right, len(checked), len(mine), cut]
        yield numbers(arm, f"{told.task}: right, checked, answers, cut", recorded, found, source)
        ends = wilson(right, len(checked)) if checked else (None, None)
        yield numbers(arm, f"{told.task}: share right, 95 % interval", [told.low, told.high], ends, source)


def _standing(told: Standing, each: Answers) -> Iterator[Figure]:
    """Each measure of a task, with its interval."""
    mine = [one for _, one in of_task(each, told.task)]
    counted = [one for one in mine if one.counts]
    source = f"raw/{told.arm}.items.jsonl"
    for measure in told.measures:
        what = f"{told.task}: {measure.name}"
        found = _measured(measure.name, counted)
        if found is None:
            yield lacking(told.arm, what, (measure.value,), Lacking("verify does not know this measure"))
            continue
        yield numbers(told.arm, f"{what}, of n", [measure.value, measure.n], found[:2], source)
        yield numbers(told.arm, f"{what}, interval", [measure.low, measure.high], _interval(measure, counted), source)


def _measured(name: str, each: Sequence[Answered]) -> tuple[float, int] | None:
    """A measure's value over so many answers, None where nobody knows the measure."""
    if name in F1:
        return pooled(name, each), len(each)
    shares = _shares(name, each)
    return (sum(shares) / len(shares), len(shares)) if shares else None


def _shares(name: str, each: Sequence[Answered]) -> list[float]:
    """What a measure that is a mean of answers' own values is the mean of."""
    formed = [one for one in each if one.judged.valid is not None]
    known = {
        "accuracy": [float(one.is_right) for one in each],
        "content right": [float(one.is_right) for one in each],
        "schema-valid": [float(bool(one.judged.valid)) for one in formed],
        "valid but wrong": [float(bool(one.judged.valid) and not one.is_right) for one in formed],
        "parsed": [float(one.judged.parsed) for one in each if one.judged.parsed is not None],
        "rightly empty": [float(one.is_right) for one in each if one.told.group == EMPTY],
        "macro-F1": [_sentence(one) for one in each],
    }
    return known.get(name, [])


def _sentence(one: Answered) -> float:
    right, wrong, missed = one.judged.spans or (0, 0, 0)
    entities = 2 * right + wrong + missed
    return 2 * right / entities if entities else float(one.judged.parsed is not False)


def _interval(told: Measure, each: Sequence[Answered]) -> tuple[float, float]:
    if told.name in F1:
        return paired.f1_interval(spans(each) * np.array(F1[told.name]), RESAMPLES, SEED)
    shares = _shares(told.name, each)
    if told.how == "Wilson":
        return wilson(round(sum(shares)), len(shares))
    return paired.mean_interval(shares, RESAMPLES, SEED)
