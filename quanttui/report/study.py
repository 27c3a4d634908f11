"""The tasks' part of a report: tables and sentences of a Study, and the same as data. Owns their words, and knows no
format: text, Markdown and HTML lay them out as they do their other tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from quanttui.decide.study import Finding, Measure, Standing, Study
from quanttui.format import ABSENT
from quanttui.stats.paired import FEW_CLUSTERS

SUBJECTS = 3
"""So many groups are named of a quant, those least likely by chance first; the data has all of them."""


class Sheet(NamedTuple):
    """A table: headings of two lines (name and unit), rows as wide; of `may_lack` a column may be left out where it has
    nothing in it."""

    heads: tuple[tuple[str, str], ...]
    rows: list[list[str]]
    may_lack: tuple[str, ...] = ()


class Section(NamedTuple):
    """A task: what it is called, its tables, and sentences below them."""

    title: str
    tables: tuple[Sheet, ...]
    lines: tuple[str, ...]


def sections(study: Study) -> tuple[Section, ...]:
    """One section for each task that has an answer, in the plan's order."""
    return tuple(_section(study, task) for task in tasks(study))


def tasks(study: Study) -> tuple[str, ...]:
    """The tasks that have an answer."""
    return tuple(dict.fromkeys(one.task for one in study.standings))


def legend(study: Study) -> Iterator[str]:
    """What the words and intervals mean, those that were used."""
    names = {one.name for standing in study.standings for one in standing.measures}
    hows = {one.how for standing in study.standings for one in standing.measures}
    if "Wilson" in hows:
        yield "right/n, and shares of answers: 95 % interval after Wilson."
    if "micro-F1" in names:
        yield (
            "micro-F1: conlleval's, of all sentences' entities together (exact span and type); right/n are sentences "
            "with all of their entities and no others; macro-F1 is the mean of the sentences' own. Intervals of F1, "
            "precision and recall: 95 %, percentile bootstrap over sentences."
        )
    if "valid but wrong" in names:
        yield "valid but wrong: the answer meets its JSON schema, and its content is wrong: a schema does not see it."
    if not study.findings:
        return
    yield (
        "Δ: less the base's over the same items, in percentage points; 95 % paired bootstrap (percentile). lost: items "
        "that the base alone has right; gained: that the quant alone has."
    )
    yield f"p (Holm): {_tests(study)}, corrected over the quants of its task."
    points = _points(study.margin)
    yield (
        f"call: worse or better where that p is below 0.05; else equivalent where two one-sided tests find the "
        f"difference within ±{points} pp (p < 0.05, each quant by itself); else open: neither is shown. That no "
        "difference was found does not make two quants equivalent."
    )


def data(study: Study) -> list[dict[str, Any]]:
    """The tasks as report.json documents them; structs and numbers as they are."""
    return [_data(study, task) for task in tasks(study)]


def _data(study: Study, task: str) -> dict[str, Any]:
    standings, findings = _of(study, task)
    first = next(iter(findings.values()), None)
    headlines = [one.measures[0].name for one in standings if one.measures]
    return {
        "task": task,
        "base": first.base if first else None,
        "measure": headlines[0] if headlines else None,
        "margin": study.margin,
        "pairs": first.n if first else None,
        "excluded": first.excluded if first else None,
        "quants": [_quant(one, findings.get(one.arm)) for one in standings],
    }


def _quant(one: Standing, finding: Finding | None) -> dict[str, Any]:
    left = ("task", "measure", "arm", "base", "margin")
    names = [name for name in Finding.__struct_fields__ if name not in left]
    return {
        "id": one.arm,
        "answers": one.answers,
        "planned": one.planned,
        "cut": one.cut,
        "too_long": one.too_long,
        "right": one.right,
        "thought": one.thought,
        "measures": one.measures,
        "against": {name: getattr(finding, name) for name in names} if finding else None,
    }


def _of(study: Study, task: str) -> tuple[list[Standing], dict[str, Finding]]:
    """A task's arms, and what is known of each against the base."""
    return (
        [one for one in study.standings if one.task == task],
        {one.arm: one for one in study.findings if one.task == task},
    )


def _section(study: Study, task: str) -> Section:
    standings, findings = _of(study, task)
    tables = (_headline(study, standings, findings), _further(standings), _answered(standings))
    return Section(task, tuple(table for table in tables if table.rows), tuple(_lines(study, standings, findings)))


# --- tables ---------------------------------------------------------------------------------------------------------


def _headline(study: Study, standings: Sequence[Standing], findings: dict[str, Finding]) -> Sheet:
    """The headline of each quant and how it stands against the base's."""
    named = [one.measures[0] for one in standings if one.measures]
    if not named:
        return Sheet((), [])
    bases = {one.base for one in findings.values()}
    base = bases.pop() if bases else ""
    heads = (
        ("quant", ""),
        ("right/n", ""),
        (named[0].name, "%"),
        (f"95 % {named[0].how}", "%"),
        (f"Δ vs {base}"[:14].rstrip() if base else "Δ", "pp"),
        ("95 % bootstrap", "pp"),
        ("lost/gained", ""),
        ("p", "Holm"),
        ("call", ""),
    )
    rows = [[one.arm[:20], *_value(one), *_against(findings.get(one.arm), one.arm == base)] for one in standings]
    return Sheet(heads, rows)


def _value(one: Standing) -> list[str]:
    if not one.measures:
        return [ABSENT, ABSENT, ""]
    first = one.measures[0]
    return [f"{one.right}/{first.n}", f"{100 * first.value:.1f}", _span(first.low, first.high, ".1f")]


def _against(found: Finding | None, is_base: bool) -> list[str]:
    if found is None:
        return ["base" if is_base else ABSENT, "", "", "", ""]
    return [
        f"{100 * found.delta:+.1f}",
        _span(found.low, found.high, "+.1f"),
        f"{found.lost}/{found.gained}",
        p_value(found.p_holm),
        called(found),
    ]


def called(found: Finding) -> str:
    """The call in words: a difference that is real and yet within the margin is said to be both."""
    small = found.call in ("worse", "better") and found.tost_p < 0.05
    if found.call == "equivalent" or small:
        return f"{found.call} (within ±{_points(found.margin)} pp)"
    return found.call


def p_value(p: float) -> str:
    """A p-value with three places."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _further(standings: Sequence[Standing]) -> Sheet:
    """All other measures, a column each."""
    names = list(dict.fromkeys(one.name for standing in standings for one in standing.measures[1:]))
    heads = (("quant", ""), *((name, "% [95 %]") for name in names))
    rows = []
    for standing in standings:
        known = {one.name: one for one in standing.measures}
        rows.append([standing.arm[:20], *(_cell(known.get(name)) for name in names)])
    return Sheet(heads, rows if names else [])


def _cell(one: Measure | None) -> str:
    if one is None:
        return ABSENT
    ends = "" if one.low is None or one.high is None else f" [{100 * one.low:.1f}, {100 * one.high:.1f}]"
    return f"{100 * one.value:.1f}{ends}"


def _answered(standings: Sequence[Standing]) -> Sheet:
    """How many answers came, were cut off, or have thinking in them; nothing where all came whole and none thought."""
    whole = all(one.answers == one.planned and not (one.cut or one.too_long or one.thought) for one in standings)
    heads = (
        ("quant", ""), ("answered", "of planned"), ("cut off", ""), ("too long", ""), ("thinks", "% [95 %]"),
        ("thinking", "tokens"),
    )  # fmt: skip
    rows = [
        [one.arm[:20], f"{one.answers - one.too_long}/{one.planned}", str(one.cut), str(one.too_long), *_thinks(one)]
        for one in standings
    ]
    return Sheet(heads, [] if whole else rows, ("thinks", "thinking"))


def _thinks(one: Standing) -> list[str]:
    found = one.thought
    if found is None:
        return ["", ""]
    return [f"{100 * found.share:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]", str(found.tokens)]


def _span(low: float | None, high: float | None, form: str) -> str:
    return ABSENT if low is None or high is None else f"{100 * low:{form}} to {100 * high:{form}}"


# --- sentences ------------------------------------------------------------------------------------------------------


def _lines(study: Study, standings: Sequence[Standing], findings: dict[str, Finding]) -> Iterator[str]:
    yield from _paired(study, standings, findings)
    wrong = [(one.arm, found) for one in standings for found in one.measures if found.name == "valid but wrong"]
    if wrong:
        counts = ", ".join(f"{arm} {found.hits} of {found.n}" for arm, found in wrong)
        yield f"The schema is met while the content is wrong: {counts}."
    thinking = [(one.arm, one.thought) for one in standings if one.thought is not None and one.thought.switch == "off"]
    if thinking:
        counts = ", ".join(f"{arm} in {thought.thinking} of {thought.n}" for arm, thought in thinking)
        yield f"Thinking was to be switched off; answers with thinking in spite of that: {counts}."
    for arm, finding in findings.items():
        if finding.cluster_low is not None:
            yield f"{arm}: {_subjects(finding)}"


def _paired(study: Study, standings: Sequence[Standing], findings: dict[str, Finding]) -> Iterator[str]:
    """How many pairs there are and why not more, and what they could have shown."""
    able = [one for one in standings if one.measures]
    if not able:
        room = any(one.answers > one.too_long for one in standings)
        why = "Nothing tells a right answer from a wrong one here" if room else "No prompt left room for an answer"
        yield f"{why}."
        return
    if not findings:
        alone = len(standings) < 2
        why = "one quant alone has answers" if alone else "no item was answered by all quants in the same words"
        yield f"Nothing to compare: {why}."
        return
    first = next(iter(findings.values()))
    left = f"; {first.excluded} more are left out{_short(standings)}" if first.excluded else ""
    yield (
        f"{first.n} pairs: the items that all {len(standings)} quants answered in the same words{left}. "
        f"Margin ±{_points(study.margin)} pp."
    )
    found = ", ".join(f"{arm} {100 * one.detectable:.1f} pp" for arm, one in findings.items())
    yield (
        f"Least difference that so many pairs would have shown in four of five studies: {found}"
        f"{' (corrected for so many quants)' if len(findings) > 1 else ''}."
    )


def _short(standings: Sequence[Standing]) -> str:
    """Why items are left out, where that is known: which quants have fewer answers, and that prompts were too long."""
    most = max(one.answers - one.too_long for one in standings)
    fewer = [one for one in standings if one.answers - one.too_long < most]
    why = [", ".join(f"{one.arm} has {one.answers - one.too_long}" for one in fewer) + f" of {most}"] if fewer else []
    why += ["prompts too long for the context"] if any(one.too_long for one in standings) else []
    return f" ({'; '.join(why)})" if why else ""


def _subjects(found: Finding) -> str:
    """The interval with whole groups drawn again, and the groups that stand out."""
    k, words = len(found.subjects), "subjects" if found.task.startswith("mmlu") else "kinds of items"
    how = f"Student's t over {k} {words}" if k < FEW_CLUSTERS else f"whole {words} drawn again, {k} of them"
    interval = f"95 % {_span(found.cluster_low, found.cluster_high, '+.1f')} pp ({how})"
    known = sorted((one for one in found.subjects if one.p_holm < 0.05), key=lambda one: (one.p_holm, one.p, one.group))
    if not known:
        return f"{interval}; none of them differs by itself (Holm)."
    told = ", ".join(
        f"{one.group} {100 * one.delta:+.1f} pp (n {one.n}, p {p_value(one.p_holm)})" for one in known[:SUBJECTS]
    )
    more = f" and {len(known) - SUBJECTS} more" if len(known) > SUBJECTS else ""
    return f"{interval}; suggestive only (Holm over them): {told}{more}."


def _tests(study: Study) -> str:
    """The tests that gave the p-values, in words."""
    used = {one.test for one in study.findings}
    parts = []
    if used - {"bootstrap"}:
        parts.append("McNemar's test (exact up to 25 discordant pairs, else chi-squared, continuity-corrected)")
    if "bootstrap" in used:
        parts.append("of F1 a two-sided bootstrap test")
    return ", ".join(parts)


def _points(share: float) -> str:
    """A share as percentage points: 0.01 is 1."""
    return f"{100 * share:g}"
