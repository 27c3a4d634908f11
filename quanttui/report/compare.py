"""Comparisons for people and for programs: what differs around the sessions first, then speed, perplexity and answers
of arms side by side. Plain text of 120 columns; or one JSON object, schema 1:

    {"schema": 1, "sessions": [{"letter", "name"}], "differences": [{"about", "name", "values": [text]}],
     "comparisons": [{"first": name, "differences": [… of these arms …], "arms": [{"name", "session", "arm", "quant",
       "outcome", "bytes", "bits_per_weight", "tok_s", "radius", "repetitions", "tainted", "perplexity", "chunks",
       "planned", "right", "checked", "answers"}],
       "against": [{"name",
         "speed": null or {"ratio", "low", "high", "paired", "n", "floor", "call"}, "why_speed",
         "perplexity": null or {"percent", "low", "high", "chunks", "of_text"}, "why_perplexity",
         "answers": {"pairs", "lost", "gained", "differs", "same", "alone"},
         "tasks": [{"task", "measure", "n", "first", "other", "delta", "low", "high", "how", "lost", "gained", "p",
           "test", "p_holm"}]}]}]}

What is absent is null. `tok_s` is tokens per second, `radius` half of its 95 % sequence; a ratio's and a perplexity's
ends are of 95 % sequences, which may be watched; those of `tasks` are of paired bootstraps over a number of items that
was fixed before. `values` has one for each session, or of arms for each arm. decide.compare's structs say what each key
means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from quanttui import session
from quanttui.decide import compare
from quanttui.decide.compare import Against, Chosen, Comparison, Difference, Shift, Side
from quanttui.errors import UserError
from quanttui.format import ABSENT, clean, gib, percent, significant
from quanttui.report.json import plain
from quanttui.report.study import p_value
from quanttui.report.text import Line, Table, drawn, to_ascii, wrapped
from quanttui.state import State
from quanttui.summary import Summary, summarize

SCHEMA = 1

_SPEED = (
    ("quant", ""), ("size", "GiB"), ("bpw", "bits"), ("gen", "tok/s"), ("±", "tok/s"), ("n", ""), ("against", ""),
    ("ratio", "×"), ("95 % sequence", "×"), ("pairs", ""), ("noise", "%"), ("call", ""),
)  # fmt: skip
_QUALITY = (
    ("quant", ""), ("perplexity", ""), ("chunks", ""), ("against", ""), ("Δppl", "%"), ("95 % sequence", "%"),
    ("common", "chunks"), ("of", ""), ("call", ""),
)  # fmt: skip
_TASKS = (
    ("quant", ""), ("task", ""), ("measure", ""), ("n", "pairs"), ("%", ""), ("against", ""), ("Δ", "points"),
    ("95 % interval", "points"), ("lost", ""), ("gained", ""), ("p", "Holm"),
)  # fmt: skip
_SIDE = (
    "name", "session", "arm", "quant", "outcome", "bytes", "bits_per_weight", "tok_s", "radius", "repetitions",
    "tainted", "perplexity", "chunks", "planned", "right", "checked", "answers",
)  # fmt: skip

_SEQUENCES = (
    "± and ratios: 95 % confidence sequences, which hold however often they are looked at. pairs: repetitions that "
    "took turns in time are held against one another one by one (in turns), others by groups of neighbours (apart). "
    "noise: what the sessions' own repetitions differ by; within it nothing is called faster or slower. A star: "
    "contaminated, not to be believed."
)
_CHUNKS = (
    "Δppl: paired over the chunks of the same text that both have scored, 95 % confidence sequence; of this text where "
    "its chunks were drawn at random, else of such texts."
)
_ANSWERS = (
    "Tasks: over the items that both were asked in the same words. The interval is a paired bootstrap's, for a number "
    "of items that was fixed before; p by McNemar's test (of micro-F1 by the bootstrap), corrected after Holm over the "
    "quants that are held against the same one in this task. That no difference was found does not make two quants the "
    "same."
)


def read(words: Sequence[str], sessions: Path, base: str = "") -> tuple[Comparison, ...]:
    """What is to be said of sessions: each a name or a folder, or one arm of it as SESSION:QUANT.

    Args:
        sessions: the folder in which names are looked up.
        base: the arm that all others are held against.

    Raises:
        UserError: no such session or arm.
    """
    known: dict[Path, tuple[str, State, Summary]] = {}
    found = []
    for word in words or ("latest",):
        folder, arm = _named(word, sessions)
        key = folder.resolve()
        if key not in known:
            state = session.load(folder)
            known[key] = key.name, state, summarize(state, over=session.status(state, folder) != "running")
        name, state, summary = known[key]
        found.append(Chosen(state, summary, _arm(summary, arm, name), name))
    try:
        groups = compare.pick(found, base)
        return tuple(compare.of(group, found) for group in groups)
    except ValueError as error:
        raise UserError(str(error)) from None


def _named(word: str, sessions: Path) -> tuple[Path, str]:
    """A session's folder, and the arm that is named after a colon, "" for all."""
    try:
        return session.find(sessions, word), ""
    except UserError as error:
        name, colon, arm = word.rpartition(":")
        if not colon or not arm:
            raise
        try:
            return session.find(sessions, name), arm
        except UserError:
            raise error from None


def _arm(summary: Summary, name: str, where: str) -> str:
    """The id of an arm that is given by its id or its quant.

    Raises:
        UserError: there is none.
    """
    if not name:
        return ""
    by_quant = [row.id for row in summary.arms if row.quant == name]
    if name in [row.id for row in summary.arms] or not by_quant:
        if name not in [row.id for row in summary.arms]:
            there = ", ".join(row.id for row in summary.arms) or "none"
            raise UserError(f"{clean(name, 80)}: no such quant in {clean(where, 80)}: there are {there}")
        return name
    return by_quant[0]


# --- text -----------------------------------------------------------------------------------------------------------


def report(found: Sequence[Comparison], ascii: bool = False) -> str:
    """The comparisons as text, a newline at its end."""
    safe: Callable[[str], str] = to_ascii if ascii else str
    shown = [compare.shifts(one) for one in found]

    def said(lines: Iterator[Line]) -> str:
        return "\n".join(wrapped(safe(line.text), line) for line in lines)

    blocks = [
        said(_sessions(found)),
        said(_different(found)),
        _table(_SPEED, [row for one in found for row in _speeds(one)], ("noise",), safe),
        _table(_QUALITY, [row for one in found for row in _qualities(one)], (), safe),
        _table(_TASKS, [row for one, each in zip(found, shown, strict=True) for row in _tasks(one, each)], (), safe),
        said(_reasons(found)),
        said(_legend(found, shown)),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _table(
    heads: tuple[tuple[str, str], ...], rows: list[list[str]], may_lack: tuple[str, ...], safe: Callable[[str], str]
) -> str:
    return "\n".join(drawn(Table(heads, rows, may_lack), safe))


def _sessions(found: Sequence[Comparison]) -> Iterator[Line]:
    names = found[0].sessions
    yield Line("quanttui compare: " + ("one session" if len(names) == 1 else f"{len(names)} sessions"))
    for place, name in enumerate(names):
        letter = f"{compare.letter(place)}  " if len(names) > 1 else ""
        yield Line(f"{letter}{name or 'unnamed'}")


def _different(found: Sequence[Comparison]) -> Iterator[Line]:
    """Hosts, builds and settings that differ, then what the arms themselves ran with."""
    around = [one for one in found[0].differences if one.about != "arm"]
    if len(found[0].sessions) > 1:
        yield Line("what differs:" if around else "what differs: nothing in host, build and settings")
    for one in around:
        yield _difference(one.about, one.name, [compare.letter(at) for at in range(len(one.values))], one.values)
    for part in found:
        for one in _of_arms(part):
            yield _difference("quants", one.name, [side.name for side in part.sides], one.values)


def _difference(about: str, name: str, of: Sequence[str], values: Sequence[str]) -> Line:
    each = "; ".join(f"{who}: {value}" for who, value in zip(of, values, strict=True))
    return Line(f"{about:<9}{name:<14}{each}", 2, 23)


def _of_arms(part: Comparison) -> list[Difference]:
    return [one for one in part.differences if one.about == "arm"]


def _paired(part: Comparison) -> Iterator[tuple[Side, Against | None]]:
    """Each side with what is known of it against the first."""
    known = {one.name: one for one in part.against}
    for side in part.sides:
        yield side, known.get(side.name)


def _speeds(part: Comparison) -> Iterator[list[str]]:
    for side, one in _paired(part):
        star = "*" if side.tainted and side.tok_s is not None else ""
        found = one.speed if one is not None else None
        row = [
            _called(side), gib(side.bytes), significant(side.bits_per_weight), f"{significant(side.tok_s)}{star}",
            significant(side.radius, 2), str(side.repetitions) if side.repetitions else ABSENT,
            one.first if one is not None else "",
        ]  # fmt: skip
        if found is None:
            yield [*row, *([ABSENT] * 3 if one is not None else [""] * 3), "", ABSENT if one is not None else ""]
            continue
        yield [
            *row, f"{found.ratio:.3f}", _span(found.low, found.high, "{:.3f}"),
            f"{found.n} {'in turns' if found.paired else 'apart'}",
            percent(found.floor) if found.floor is not None else "", found.call or "open",
        ]  # fmt: skip


def _called(side: Side) -> str:
    return side.name if side.outcome in ("ok", "running") else f"{side.name} ({side.outcome})"


def _qualities(part: Comparison) -> Iterator[list[str]]:
    if all(side.perplexity is None for side in part.sides):
        return
    for side, one in _paired(part):
        chunks = f"{side.chunks}/{side.planned}" if side.planned and side.chunks != side.planned else f"{side.chunks}"
        value = ABSENT if side.perplexity is None else f"{side.perplexity:.4f}"
        row = [side.name, value, chunks, one.first if one is not None else ""]
        if one is None or one.loss is None:
            yield [*row, *([ABSENT if one is not None else ""] * 2), "", "", ""]
            continue
        loss = one.loss
        of = "this text" if loss.of_text else "such texts"
        yield [*row, f"{loss.percent:+.3f}", _span(loss.low, loss.high, "{:+.3f}"), f"{loss.chunks}", of, _moved(loss)]


def _moved(loss: compare.Loss) -> str:
    """What the interval says of the difference by itself."""
    if loss.low is None or loss.high is None:
        return "open"
    return "worse" if loss.low > 0 else "better" if loss.high < 0 else "open"


def _span(low: float | None, high: float | None, form: str) -> str:
    return ABSENT if low is None or high is None else f"{form.format(low)} … {form.format(high)}"


def _tasks(part: Comparison, shifts: Sequence[Shift]) -> Iterator[list[str]]:
    first = part.sides[0].name
    for one in shifts:
        yield [
            one.name, one.task, one.measure, f"{one.n}", f"{100 * one.other:.1f}", f"{first} {100 * one.first:.1f}",
            f"{100 * one.delta:+.1f}", _span(100 * one.low, 100 * one.high, "{:+.1f}"), f"{one.lost}", f"{one.gained}",
            p_value(one.p_holm),
        ]  # fmt: skip


def _reasons(found: Sequence[Comparison]) -> Iterator[Line]:
    """Why there is no figure, and who has nobody to be held against."""
    for part in found:
        if not part.against:
            yield Line(f"{part.sides[0].name}: nothing to hold it against")
        for one in part.against:
            for what, why in (("speed", one.why_speed), ("perplexity", one.why_loss)):
                if why:
                    yield Line(f"{one.name} against {one.first}: no {what}: {why}")
            if one.alone:
                yield Line(f"{one.name} against {one.first}: {one.alone} answers have none to the same words")


def _legend(found: Sequence[Comparison], shifts: Sequence[Sequence[Shift]]) -> Iterator[Line]:
    yield Line(_SEQUENCES)
    if any(one.loss is not None for part in found for one in part.against):
        yield Line(_CHUNKS)
    if any(shifts):
        yield Line(_ANSWERS)


# --- data -----------------------------------------------------------------------------------------------------------


def data(found: Sequence[Comparison]) -> dict[str, Any]:
    """The comparisons as the object above."""
    names = found[0].sessions
    return {
        "schema": SCHEMA,
        "sessions": [{"letter": compare.letter(place), "name": name} for place, name in enumerate(names)],
        "differences": [plain(one) for one in found[0].differences if one.about != "arm"],
        "comparisons": [_data(one) for one in found],
    }


def _data(part: Comparison) -> dict[str, Any]:
    moved = compare.shifts(part)
    return {
        "first": part.sides[0].name,
        "differences": [plain(one) for one in _of_arms(part)],
        "arms": [{name: plain(getattr(side, name)) for name in _SIDE} for side in part.sides],
        "against": [_against(one, [each for each in moved if each.name == one.name]) for one in part.against],
    }


def _against(one: Against, moved: Sequence[Shift]) -> dict[str, Any]:
    loss, counts = one.loss, {change: one.count(change) for change in compare.CHANGES}
    ends = ("percent", "low", "high", "chunks", "of_text")
    return {
        "name": one.name,
        "speed": plain(one.speed) if one.speed is not None else None,
        "why_speed": one.why_speed or None,
        "perplexity": {name: plain(getattr(loss, name)) for name in ends} if loss is not None else None,
        "why_perplexity": one.why_loss or None,
        "answers": {"pairs": len(one.answers), **counts, "alone": one.alone},
        "tasks": [{name: value for name, value in plain(each).items() if name != "name"} for each in moved],
    }
