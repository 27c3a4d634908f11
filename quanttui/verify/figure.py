"""One thing that was checked, and when two values count as the same. Owns the form and its words; knows no session."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from quanttui.format import clean

VERDICTS = ("same", "differs", "missing", "unreadable")
"""Same; not the same; not recomputed, because what it rests on is not there; or because that is damaged."""

WITHIN = 1e-9
"""Two values this close, as a share of the larger, are the same: sums were taken in another order."""

ERRORS = 1e-6
"""The same for standard errors, which are roots of small differences of large sums."""

LEAST = 1e-12
"""Values closer than this are the same whatever their size; of standard errors a thousand times as much."""

SHOWN = 5
"""So many values are written out; of more, only how many they are and the first that differs."""


class Lacking(Exception):
    """What figures rest on is not there, or (`damaged`) is there and cannot be read. The words say which file."""

    def __init__(self, why: str, damaged: bool = False) -> None:
        super().__init__(why)
        self.damaged = damaged


class Figure(msgspec.Struct, frozen=True):
    """A figure of a quant (`about` its id, "session" for the whole): as the session tells it, as it came out of what
    `source` names, and one of VERDICTS. Where it was not recomputed `source` says why. Text is clean."""

    about: str
    what: str
    recorded: str
    recomputed: str
    verdict: str
    source: str = ""


def numbers(
    about: str,
    what: str,
    recorded: Sequence[float | None],
    found: Sequence[float | None],
    source: str,
    names: Sequence[str] = (),
    within: float = WITHIN,
) -> Figure:
    """Values that belong together, each held against its own. `names` tell them apart where there are many."""
    pairs = list(zip(recorded, found, strict=False))
    least = LEAST if within <= WITHIN else 1000 * LEAST
    differing = [at for at, (a, b) in enumerate(pairs) if not close(a, b, within, least)]
    told = _shown([_number(value) for value in recorded], differing, names)
    ours = _shown([_number(value) for value in found], differing, names)
    same = len(recorded) == len(found) and not differing
    return _made(about, what, told, ours, same, source)


def texts(
    about: str, what: str, recorded: Sequence[str], found: Sequence[str], source: str, names: Sequence[str] = ()
) -> Figure:
    """The same of texts."""
    differing = [at for at, (a, b) in enumerate(zip(recorded, found, strict=False)) if a != b]
    told, ours = _shown(recorded, differing, names), _shown(found, differing, names)
    return _made(about, what, told, ours, list(recorded) == list(found), source)


def lacking(about: str, what: str, recorded: Sequence[float | None] | str, why: Lacking) -> Figure:
    """A figure that cannot be recomputed."""
    told = recorded if isinstance(recorded, str) else _shown([_number(value) for value in recorded], [], ())
    verdict = "unreadable" if why.damaged else "missing"
    words = f"cannot be recomputed: {why}"
    return Figure(clean(about, 80), what, clean(told, 100), "", verdict, clean(words, 300))


def close(a: float | None, b: float | None, within: float = WITHIN, least: float = LEAST) -> bool:
    """Whether two values are the same; None and NaN each are only the same as themselves."""
    if a is None or b is None:
        return a is b
    return (a != a and b != b) or math.isclose(a, b, rel_tol=within, abs_tol=least)


def _made(about: str, what: str, recorded: str, found: str, same: bool, source: str) -> Figure:
    words = clean(recorded, 100), clean(found, 100)
    return Figure(clean(about, 80), clean(what, 80), *words, "same" if same else "differs", clean(source, 300))


def _shown(values: Sequence[str], differing: Sequence[int], names: Sequence[str]) -> str:
    if len(values) <= SHOWN and (not names or not differing):
        return " ".join(values) or "none"
    if not differing:
        return f"{len(values)} values"
    at = differing[0]
    name = f"{names[at]}: " if at < len(names) else ""
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"{name}{values[at] if at < len(values) else 'nothing'}{more}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.12g}"
