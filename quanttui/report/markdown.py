"""The report as Markdown (GitHub's flavour): what pastes into an issue.

The tables are the text report's, cell for cell, with a `*` at what is contaminated and the reason below the table. Text
from outside is cleaned, and escaped so that it stays text wherever it lands: no table cell, link, markup, HTML or
mention comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from quanttui.decide.study import Study, study
from quanttui.format import clean
from quanttui.report import study as task_words
from quanttui.report import text
from quanttui.state import State
from quanttui.summary import ArmSummary, Summary, summarize

_FIRST = ("host", "build", "note")
"""Facts that stand before the figures."""
_LEFT = ("quant", "verdict", "call")
_SPECIAL = re.compile(r"([\\`*\[\]|~$])")
_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_LINK = re.compile(r"(?<=\w):(?=//)|(?<=\bwww)\.(?=\w)|(?<=\bmailto):|(?<=\bxmpp):", re.IGNORECASE)
_MENTION = re.compile(r"@(?=\w)")
_BLOCK = re.compile(r"^(?:[-+](?=\s|$)|-(?=-)|[=#]|(\d{1,9})(?=[.)](?:\s|$)))")

Advice = Sequence[tuple[str, Sequence[str]]]
"""Headings and sentences."""


def report(state: State, over: bool = False, advice: Advice = (), answers: Study | None = None) -> str:
    """The session as Markdown, a newline at its end.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        advice: what is advised, which then comes first.
        answers: what the answers to tasks say; worked out here where it is not given.
    """
    found = summarize(state, over)
    blocks = [
        f"## quanttui: {escape(found.model) or 'no model'}",
        *_measured(state, found, over),
        *_advised(advice),
        _table(text.speed_table(found)),
        _bullets(_reasons(found)),
        _table(text.quality_table(found)),
        _bullets(line.text for line in text.decisions(state, found)),
        _table(text.depth_table(found)),
        *_tasks(answers or study(state)),
        *_titled("Cautions", _bullets(_cautions(found))),
        *_titled("What the figures are", _bullets(line.text for line in text.legend(found))),
        *_titled("Settings", _bullets(_settings(state, found, over))),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def escape(foreign: str) -> str:
    """Text as Markdown that shows just that text, on one line, anywhere but within a code span."""
    return _BLOCK.sub(lambda match: f"{match[1]}\\" if match[1] else f"\\{match[0]}", _inline(foreign))


def _inline(foreign: str) -> str:
    """The same within a line, where nothing begins a block: a table's cell."""
    told = _SPECIAL.sub(r"\\\1", clean(foreign, 4000))
    told = told.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    told = _UNDERSCORE.sub(r"\\_", told)
    told = _LINK.sub(lambda match: f"\\{match[0]}", told)
    return _MENTION.sub("@<!-- -->", told)


def _measured(state: State, found: Summary, over: bool) -> Iterator[str]:
    """What was measured, on what and with what, and what is to be noted of it, before any figure."""
    facts = [(name, said) for name, said in text.facts(state, found, over) if name in _FIRST]
    yield "  \n".join(f"**{name}** {escape(said)}" for name, said in facts if name != "note")
    yield "\n".join(f"> {escape(said)}  " for name, said in facts if name == "note")


def _settings(state: State, found: Summary, over: bool) -> Iterator[str]:
    for name, said in text.facts(state, found, over):
        if name not in _FIRST:
            yield f"{name}: {said.strip()}"


def _advised(advice: Advice) -> Iterator[str]:
    for heading, sentences in advice:
        yield from _titled(heading, _bullets(sentences))


def _titled(heading: str, body: str) -> Iterator[str]:
    """A part with its heading; nothing where there is nothing in it."""
    if body:
        yield f"### {escape(heading)}"
        yield body


def _reasons(found: Summary) -> Iterator[str]:
    """Why an arm failed, and why a figure has its star."""
    for arm in found.arms:
        if arm.error:
            yield f"{arm.id} {arm.outcome}: {arm.error}"
        yield from (f"* {said}" for said in _judged(arm, "contaminated"))


def _cautions(found: Summary) -> Iterator[str]:
    """What else is to be known before a figure is used."""
    for arm in found.arms:
        yield from _judged(arm, "caution")
        if arm.label_note:
            yield f"{arm.id}: label: {arm.label_note}"
        if arm.reproduced:
            yield f"{arm.id}: {arm.reproduced}"


def _judged(arm: ArmSummary, kind: str) -> Iterator[str]:
    for one in arm.verdicts:
        if one.kind == kind:
            phase = f"{one.phase}: " if one.phase else ""
            yield f"{arm.id}: {one.glyph} {phase}{one.code}: {one.sentence} {one.advice}"


def _tasks(found: Study) -> Iterator[str]:
    """The tasks' tables with what is to be said of each, then what their words mean; nothing without an answer."""
    for part in task_words.sections(found):
        yield f"### Task {escape(part.title)}"
        for sheet in part.tables:
            yield _table(text.Table(*sheet))
        yield _bullets(part.lines)
    yield _bullets(task_words.legend(found))


def _bullets(said: Iterable[str]) -> str:
    return "\n".join(f"- {escape(one)}" for one in said)


def _table(table: text.Table) -> str:
    """A table with its headings of two lines in one: `prompt tok/s`. "" without rows."""
    shown = [
        column for column, (name, _) in enumerate(table.heads)
        if name not in table.may_lack or any(row[column] for row in table.rows)
    ]  # fmt: skip
    if not table.rows:
        return ""
    heads = [_inline(" ".join(filter(None, table.heads[column]))) for column in shown]
    rules = [":--" if table.heads[column][0] in _LEFT else "--:" for column in shown]
    rows = [[_inline(row[column]) for column in shown] for row in table.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))
