"""What the start screen shows, as frozen data: the models that were found, then one model's quants with what they
need. Pure: found files and plans in, an Offer or a Selection out; it knows no file, no widget and no sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from quanttui.catalog import Found, Model
from quanttui.diagnosis.fit import Fitted, Plan, Range
from quanttui.format import ABSENT, clean, duration, gib, significant, size
from quanttui.session import Info
from quanttui.tui.parts import Span

DEMO = "pocket"
"""The shipped model's place in the list."""

SESSIONS = 20
"""So many of the latest sessions are offered to be watched again."""

TASKS = {
    "speed": "speed", "ppl": "perplexity", "kld": "KL divergence",
    "prompts": "prompts", "traps": "traps", "structured": "JSON", "mmlu": "MMLU", "ner": "NER",
}  # fmt: skip
"""What can be measured, as it is said."""

ANSWERED = ("prompts", "traps", "structured", "mmlu", "ner")
"""Those that every quant answers, item by item."""

VERDICTS = {"fits": ("✓", "ok"), "tight": ("!", "warn"), "no": ("✗", "bad"), "unknown": ("?", "dim")}


class Choice(msgspec.Struct, frozen=True):
    """What the start screen was left with.

    act: sweep, with `models` as `quanttui run` takes them (none: the shipped one), `quants`, `tasks` and `until`;
    attach or replay, with the session's `folder`.
    """

    act: str
    models: tuple[str, ...] = ()
    quants: str = ""
    tasks: tuple[str, ...] = ()
    until: str = "full"
    folder: str = ""


class Row(msgspec.Struct, frozen=True):
    """A line that can be chosen, with what choosing it means: the model's arguments, or a session. `heading`: it begins
    a part of the list."""

    id: str
    sign: Span
    name: str
    detail: str
    note: Span = ("", "dim")
    heading: str = ""


class Offer(msgspec.Struct, frozen=True):
    """The first page: what there is to be swept or watched. `where` says what was searched, `busy` that it goes on."""

    machine: str
    rows: tuple[Row, ...]
    selected: str
    where: str
    busy: bool
    notice: str = ""


class Line(msgspec.Struct, frozen=True):
    """A quant on the second page: whether it is wanted, and its cells by column."""

    id: str
    wanted: bool
    cells: dict[str, Span]


class Selection(msgspec.Struct, frozen=True):
    """The second page: one model's quants, what is measured of them, and how long that may take."""

    model: str
    machine: str
    lines: tuple[Line, ...]
    selected: str
    tasks: tuple[tuple[str, str, bool], ...]
    decided: bool
    text: str
    takes: str
    notes: tuple[str, ...]
    error: str = ""


HEADINGS = {
    "quant": "quant", "size": "size", "need": "needs", "fit": "fits?", "rate": "tok/s", "context": "longest ctx",
    "time": "takes",
}  # fmt: skip
"""The second page's columns."""


def offer(
    found: Found, plans: dict[str, Plan | str], infos: Sequence[Info], machine: str, selected: str, notice: str = ""
) -> Offer:
    """The first page.

    Args:
        plans: what is known to fit, by a model's key; a text says why nothing is.
        infos: sessions, newest first.
    """
    running = [one for one in infos if one.state == "running"]
    rows = [
        Row(f"session:{one.folder}", ("▶", "ok"), clean(one.name, 60), f"running: {_session(one)}",
            heading="running now" if index == 0 else "")
        for index, one in enumerate(running)
    ]  # fmt: skip
    rows.append(
        Row(DEMO, ("·", "accent"), "quanttui pocket", "the shipped model: nine quants, about a minute, no download",
            ("fits", "ok"), "models")
    )  # fmt: skip
    rows += [Row(key(model), ("·", "text"), clean(model.name, 80), _model(model), _fit(plans.get(key(model))))
             for model in found.models]  # fmt: skip
    rows += [
        Row(f"broken:{clean(one.path, 400)}", ("✗", "bad"), clean(one.path.rsplit("/", 1)[-1], 60),
            clean(one.error, 200), heading="cannot be used" if index == 0 else "")
        for index, one in enumerate(found.broken)
    ]  # fmt: skip
    signs = {"done": ("✓", "ok"), "interrupted": ("!", "warn")}
    past = [one for one in infos if one.state != "running"][:SESSIONS]
    rows += [
        Row(f"session:{one.folder}", signs.get(one.state, ("·", "dim")), clean(one.name, 60), _session(one),
            (one.state, "dim"), heading="sessions" if index == 0 else "")
        for index, one in enumerate(past)
    ]  # fmt: skip
    known = [row.id for row in rows]
    places = ", ".join(dict.fromkeys(clean(place.name, 40) for place in found.places))
    return Offer(
        machine, tuple(rows), selected if selected in known else known[0], f"looked in: {places}" if places else "",
        not found.complete, notice,
    )  # fmt: skip


def key(model: Model) -> str:
    """A model's id on the first page."""
    return "model:" + "\0".join(arm.argument for arm in model.arms)


def arguments(row: str) -> tuple[str, ...]:
    """What `quanttui run` takes for a model of the first page."""
    return tuple(row.removeprefix("model:").split("\0"))


def _model(model: Model) -> str:
    quants = " ".join(dict.fromkeys(clean(arm.quant, 20) for arm in model.arms))
    most = max((arm.bytes or 0 for arm in model.arms), default=0)
    return f"{_count(model.parameters)} · {size(most)} · {quants}"


def _count(parameters: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{significant(parameters / unit)}{letter}"
    return str(parameters)


def _fit(plan: Plan | str | None) -> Span:
    """How many of a model's quants fit, or why that is not known."""
    if plan is None:
        return "", "dim"
    if isinstance(plan, str):
        return clean(plan, 60), "warn"
    fitting = sum(arm.verdict in ("fits", "tight") for arm in plan.arms)
    if any(arm.verdict == "unknown" for arm in plan.arms):
        return "fit not known", "dim"
    if fitting == len(plan.arms):
        return ("all fit" if fitting > 1 else "fits"), "ok"
    return (f"{fitting} of {len(plan.arms)} fit", "warn") if fitting else ("does not fit", "bad")


def _session(one: Info) -> str:
    return f"{clean(one.model, 40)}, {one.arms_done}/{one.arms} quants, {duration(one.seconds)}"


def selection(
    plan: Plan,
    wanted: Iterable[str],
    selected: str,
    tasks: Sequence[str],
    until: str,
    text: str,
    error: str = "",
) -> Selection:
    """The second page. `wanted` are ids of quants, `text` names what the perplexity is of, `error` is why the sweep
    cannot begin."""
    chosen = set(wanted)
    lines = tuple(_line(arm, arm.id in chosen) for arm in plan.arms)
    known = [line.id for line in lines]
    free = f"{gib(plan.free)} of {gib(plan.total)} GiB free" if plan.free is not None else "free memory not known"
    return Selection(
        model=clean(plan.model, 80),
        machine=free,
        lines=lines,
        selected=selected if selected in known else known[0] if known else "",
        tasks=tuple((name, words, name in tasks) for name, words in TASKS.items()),
        decided=until == "decided",
        text=clean(text, 60) if {"ppl", "kld"} & set(tasks) else "",
        takes=_takes([arm for arm in plan.arms if arm.id in chosen]),
        notes=tuple(clean(note, 300) for note in plan.notes),
        error=error,
    )


def _takes(arms: Sequence[Fitted]) -> str:
    """How long the wanted quants take together: a guess, and said to be one."""
    if not arms:
        return "no quant is chosen"
    whole = sum((arm.seconds for arm in arms), Range(0.0, 0.0))
    count = f"{len(arms)} quant{'s' if len(arms) != 1 else ''}"
    return f"{count}: about {between(whole)}, a guess"


def between(found: Range) -> str:
    """From one duration to another."""
    low, high = duration(found.low), duration(found.high)
    return low if low == high else f"{low} to {high}"


def _line(arm: Fitted, wanted: bool) -> Line:
    sign, role = VERDICTS.get(arm.verdict, ("?", "dim"))
    rate = arm.tok_s
    return Line(
        arm.id,
        wanted,
        {
            "quant": (clean(arm.id, 24), "text"),
            "size": (size(arm.bytes), "text"),
            "need": (f"~{size(arm.total)}", "dim"),
            "fit": (f"{sign} {arm.words}", role),
            "rate": (f"~{significant(rate.low, 2)}–{significant(rate.high, 2)}" if rate else ABSENT, "dim"),
            "context": (_tokens(arm.longest), "dim"),
            "time": (between(arm.seconds), "dim"),
        },
    )


def _tokens(count: int | None) -> str:
    if count is None:
        return ABSENT
    return f"{significant(count / 1024)}k" if count >= 1024 else str(count)
