"""All forms that a report can have, by name: the one place that knows which module writes which. Pure text out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quanttui.decide.study import Study, study
from quanttui.format import json_text
from quanttui.state import State

NAMES = ("text", "md", "json", "csv", "html", "llama-bench", "llama-bench-jsonl")
"""llama-bench's own JSON and JSONL carry speeds only."""


def write(name: str, state: State, over: bool = False, folder: Path | None = None, ascii: bool = False) -> str:
    """The session in one of NAMES, a newline at its end. The same log gives the same bytes, whoever asks and when.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        folder: the session's, whose raw folder the percentiles of the KL divergence are taken from.
        ascii: nothing but ASCII, in `text`.
    """
    if name.startswith("llama-bench"):
        from quanttui.report import bench

        return bench.lines(state) if name.endswith("jsonl") else bench.report(state)
    answers = study(state)
    if name == "json":
        from quanttui.report import json as data

        return json_text(data.report(state, over, folder, answers)) + "\n"
    if name == "csv":
        from quanttui.report import csv

        return csv.report(state, over, answers)
    advice = _advice(state, over, answers)
    if name == "md":
        from quanttui.report import markdown

        return markdown.report(state, over, advice, answers)
    if name == "html":
        from quanttui.report import html

        return html.report(state, over, folder, advice, answers)
    from quanttui.report import text

    return text.report(state, over, ascii, folder, advice, answers)


def _advice(state: State, over: bool, answers: Study) -> Sequence[tuple[str, Sequence[str]]]:
    """What is advised without any constraint of the user's, for the first page; nothing before an arm has ended."""
    from quanttui.decide.candidates import Needs
    from quanttui.report import advise

    if not any(arm.outcome not in ("planned", "running") for arm in state.arms.values()):
        return ()
    return advise.blocks(advise.of(state, Needs(), over, None, answers))
