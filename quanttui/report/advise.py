"""The advice for people and for programs: plain text of 100 columns at most, or one JSON object, schema 1:

    {"schema": 1, "kind": "advice", "model", "pick", "by", "base", "memory", "context",
     "needs": {"memory", "ctx", "tolerance", "tok_s", "tasks"},
     "why": [{"text", "evidence": [key]}], "smaller": […], "bigger": […], "avoid": […], "open": […], "notes": […],
     "evidence": [{"key", "about", "arm", "text", "unit", "value", "low", "high", "n", "p"}],
     "candidates": [{"arm", "quant", "outcome", "ghost", "bytes", "quality", "pace", "room", "losses": [{"key", "task",
       "measure", "base", "value", "low", "high", "n", "of", "p", "call"}], "others": […], "tok_s", "radius", "tainted",
       "need", "longest", "overfull", "crowded", "most"}]}

`pick` is null where none is to be named; the first sentence of `why` has it in words. `by` says what quality was held
against: "perplexity", "tasks", or null where none was measured. `context` is the longest that fits with the pick into
`memory`. Memory in bytes, contexts in tokens, tolerance and losses as shares of one (of the base's perplexity; of a
task's items), `most` the upper end of the worst of them. `evidence` is in its own `unit`; `low` and `high` are ends of
95 % intervals (of perplexity and speed: sequences, which may be watched), `p` is corrected by Holm. A candidate's
quality is base, within, beyond, open or unknown; its pace enough, slow, open or "" where none was asked; its room fits,
no, unknown or "".
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from quanttui.decide import advise as rule
from quanttui.decide.advise import Advice, Sentence
from quanttui.decide.candidates import Needs, Room
from quanttui.decide.study import Study, study
from quanttui.diagnosis import fit
from quanttui.diagnosis.fit import Buffers, Machine, Prospect, Use
from quanttui.events import ContextMade, Settings
from quanttui.format import clean, size
from quanttui.quants import BY_TYPE_NAME
from quanttui.report.json import plain
from quanttui.state import Arm, State
from quanttui.summary import Summary, summarize

SCHEMA = 1
WIDTH = 100

TITLES = {
    "smaller": "take less",
    "bigger": "take more",
    "avoid": "avoid",
    "open": "undecided",
    "notes": "to know",
}
"""What the parts after the pick are called."""


def of(
    state: State, needs: Needs, over: bool = False, summary: Summary | None = None, answers: Study | None = None
) -> Advice:
    """The advice on a session, with what its own arms need in memory.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        summary: of the same state, where there is one already.
        answers: what its answers say, where that was worked out already.
    """
    found = summary or summarize(state, over)
    if answers is None and any(arm.items for arm in state.arms.values()):
        answers = study(state)
    return rule.advise(state, found, answers, needs, room(state))


def room(state: State) -> Room:
    """What the arms of a session need in one memory at any context, by what their headers say and by the buffers that
    llama.cpp reported while they ran; None for an arm whose header is not known."""
    known = {clean(arm.id, 80): arm for arm in state.arms.values()}
    asked: dict[tuple[str, int], int | None] = {}

    def need(arm: str, context: int) -> int | None:
        key = arm, context
        if key not in asked:
            asked[key] = _need(state, known[arm], context) if arm in known else None
        return asked[key]

    return need


def _need(state: State, arm: Arm, context: int) -> int | None:
    settings = msgspec.structs.replace(state.settings, gpu_layers=0, kv=arm.plan.kv or state.settings.kv)
    prospect = _prospect(arm)
    if prospect is None or settings.kv.upper() not in BY_TYPE_NAME:
        return None
    measured = _measured(arm)

    def weigh(_: Prospect, use: Use) -> Buffers | None:
        return None if measured is None else _moved(prospect, measured, use, settings)

    return fit.fitted(prospect, Use(context=context), settings, Machine(), weigh).total


def _prospect(arm: Arm) -> Prospect | None:
    """What is known of an arm that ran: its tensors by role, spread evenly over its layers."""
    file = arm.file
    if file is None or not file.shape.tensors or not file.shape.layers:
        return None
    tables = sum(one.bytes for one in file.shape.tensors if one.role in ("embedding", "rows"))
    rest = sum(one.bytes for one in file.shape.tensors) - tables
    places = file.shape.layers + 1
    layers = tuple(rest * (place + 1) // places - rest * place // places for place in range(places))
    return Prospect(
        id=arm.id, quant=file.quant, shape=file.shape, bytes=file.bytes, layers=layers, input=tables
    )  # fmt: skip


def _measured(arm: Arm) -> ContextMade | None:
    """The context of one sequence whose buffers llama.cpp told, the longest one."""
    every = [one for attempt in arm.attempts for one in attempt.contexts.values()]
    made = [one for one in every if one.compute_bytes and one.n_seq == 1]
    return max(made, key=lambda one: (one.n_ubatch, one.n_ctx), default=None)


def _moved(prospect: Prospect, measured: ContextMade, use: Use, settings: Settings) -> Buffers:
    """What was measured of one context carried over to another, by what the estimates of both differ in."""
    then = msgspec.structs.replace(settings, ubatch=measured.n_ubatch)
    here = fit.estimated(prospect, Use(context=measured.n_ctx), then)
    there = fit.estimated(prospect, use, settings)
    compute = (measured.compute_bytes or 0) + there.compute["cpu"] - here.compute["cpu"]
    return Buffers(compute={"cpu": max(0, compute)}, output=there.output)


# --- words ----------------------------------------------------------------------------------------------------------


def report(found: Advice) -> str:
    """The advice as text: the pick, when it is another one, what to avoid, what is open, and what all of it rests on,
    by the numbers in brackets. No newline at its end."""
    return "\n".join(_lines(found))


def blocks(found: Advice) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The advice as headings with their sentences, for a report's first page; the pick's heading is "take"."""
    parts = [("take", found.why), *((title, getattr(found, name)) for name, title in TITLES.items())]
    return tuple((title, tuple(one.text for one in sentences)) for title, sentences in parts if sentences)


def _lines(found: Advice) -> Iterator[str]:
    numbers = {one.key: number for number, one in enumerate(found.evidence, 1)}
    for sentence in found.why:
        yield from _wrapped(_numbered(sentence, numbers))
    for name, title in TITLES.items():
        sentences: tuple[Sentence, ...] = getattr(found, name)
        if sentences:
            yield ""
            yield title
            for sentence in sentences:
                yield from _wrapped(_numbered(sentence, numbers), "  ")
    yield ""
    yield from _wrapped(f"asked: {asked(found.needs)}")
    if found.evidence:
        yield ""
        yield "what that rests on"
        wide = len(str(len(found.evidence))) + 2
        for one in found.evidence:
            yield from _wrapped(f"{f'[{numbers[one.key]}]':>{wide}} {one.text}", "  ", wide + 1)


def asked(needs: Needs) -> str:
    """What is asked for, in words."""
    words = [f"a loss of at most {100 * needs.tolerance:g} % of perplexity, or points of a task"]
    if needs.memory is not None:
        words.append(f"memory {size(needs.memory)}, all of it free")
    if needs.ctx is not None:
        words.append(f"context {needs.ctx} tokens")
    if needs.tok_s is not None:
        words.append(f"at least {needs.tok_s:g} tok/s")
    if needs.tasks:
        words.append(f"for {', '.join(clean(word, 40) for word in needs.tasks)}")
    return "; ".join(words)


def _numbered(sentence: Sentence, numbers: dict[str, int]) -> str:
    each = ", ".join(str(number) for number in sorted(numbers[key] for key in sentence.evidence))
    return f"{sentence.text} [{each}]" if each else sentence.text


def _wrapped(text: str, indent: str = "", more: int = 2) -> list[str]:
    later = indent + " " * more
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=later, break_on_hyphens=False)


# --- data -----------------------------------------------------------------------------------------------------------


def data(found: Advice, model: str = "") -> dict[str, Any]:
    """The advice as the object above."""
    made: dict[str, Any] = plain(found)
    for one, candidate in zip(made["candidates"], found.candidates, strict=True):
        one["most"] = plain(candidate.most)
    made |= {"pick": found.pick or None, "by": found.by or None, "base": found.base or None}
    return {"schema": SCHEMA, "kind": "advice", "model": clean(model) or None, **made}
