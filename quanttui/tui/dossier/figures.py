"""What a quant is, and its speeds: every repetition, every depth, every attempt."""

from __future__ import annotations

from collections.abc import Iterator

from quanttui.diagnosis import windows
from quanttui.events import ArmStarted
from quanttui.flags import brief as short
from quanttui.format import clean, percent, significant, size
from quanttui.state import Attempt, Repetition
from quanttui.summary import AGAIN, Speed, broken, tainted
from quanttui.tui import panels, view
from quanttui.tui.dossier.forms import Fact, Item, Section, Subject, absent, fact, plural, test_name
from quanttui.tui.dossier.judged import stretches
from quanttui.tui.parts import Line, Span

EACH = 40
"""Repetitions that are told one by one; of more the first and the last, and between which rates the others lie."""


def head(at: Subject) -> Section:
    """What it is: quant, outcome, file, where that comes from, model."""
    mine, arm, file = at.mine, at.arm, at.arm.file
    sign, role = view.sign(mine, clean(at.state.arm, 80))
    items: list[Item] = [fact("quant", (mine.quant, "strong"), *([f" as {mine.id}"] if mine.id != mine.quant else []))]
    items.append(fact("outcome", (f"{sign} {mine.outcome}", role), f": {mine.error}" if mine.error else ""))
    if mine.label_note:
        items.append(fact("label", ("[!] ", "warn"), mine.label_note))
    items.append(fact("file", clean((file.file if file else "") or arm.plan.file) or "to be made"))
    bits = f", {mine.bits_per_weight:.2f} bits per weight" if mine.bits_per_weight is not None else ""
    guess = "~" if file is None and mine.bytes is not None else ""
    exact = f" ({mine.bytes} bytes)" if file is not None and mine.bytes is not None else ""
    items.append(fact("size", f"{guess}{size(mine.bytes)}{exact}{bits}" if mine.bytes is not None else "not known"))
    items.append(fact("sha256", clean(file.sha256, 64) if file and file.sha256 else "not known"))
    items.append(fact("made from", clean(arm.plan.source) or "nothing: the file was there"))
    items.append(fact("imatrix", clean((file.imatrix if file else "") or arm.plan.imatrix) or "none named"))
    return Section("quant", (*items, *_shape(file)))


def _shape(file: ArmStarted | None) -> Iterator[Fact]:
    if file is None:
        return
    shape = file.shape
    experts = f", {shape.experts_used} of {plural(shape.experts, 'expert')} a token" if shape.experts else ""
    weights = f", {_large(shape.parameters)} weights" if shape.parameters else ""
    yield fact(
        "model",
        f"{clean(shape.name, 80) or 'unnamed'}: {clean(shape.architecture, 40)}, {plural(shape.layers, 'layer')}"
        f"{weights}{experts}, trained on {plural(shape.context, 'token')} of context",
    )
    if shape.note:
        yield fact("header", ("[!] ", "warn"), clean(shape.note))


def _large(count: int) -> str:
    """A number of weights in words: 1.3 billion, 3.93 million."""
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"


def speeds(at: Subject) -> Section:
    """Prompt and decode at every depth, with every repetition."""
    items: list[Item] = []
    for kind, speed in (("prompt", at.mine.prompt), ("decode", at.mine.decode)):
        attempt = windows.latest(at.arm, kind)
        if speed is None or attempt is None:
            items.append(fact(short(kind), (absent(at, kind), "dim")))
            continue
        starred = tainted(at.mine.verdicts, kind)
        items += _speed(at, attempt, kind, at.state.settings.depths[0], speed, starred)
    items += _deeper(at)
    if at.mine.disturbed:
        times = plural(at.mine.disturbed, "repetition")
        items.append(fact("disturbed", ("[i] ", "info"), f"{times} done again, and in no figure: {AGAIN}"))
    items += _attempts(at)
    if at.mine.drift is not None:
        items.append(
            fact("drift", ("[!] ", "warn"), f"the anchor changed by {100 * at.mine.drift:+.1f} % meanwhile: these "
                  "speeds are not comparable with the others'")
        )  # fmt: skip
    if at.summary.floor is not None:
        noise = f"±{percent(at.summary.floor)} %"
        items.append(fact("A/A floor", f"{noise}: the anchor against itself; no difference below it is one"))
    return Section("figures, tok/s", tuple(items), ("* contaminated", "dim") if at.mine.tainted else ("", "dim"))


def _speed(at: Subject, attempt: Attempt, kind: str, depth: int, speed: Speed, starred: bool) -> Iterator[Fact]:
    """The mean with its interval, the clean-only speed, and every repetition."""
    mean: Span = (f"{significant(speed.tok_s)}{'*' if starred else ''}", "bad" if starred else _role(kind))
    spread = f", sd {significant(speed.sd, 2)}" if speed.sd is not None else ""
    yield fact(
        test_name(at, kind, depth),
        mean,
        f" {panels.within(speed.radius)} (95 % confidence sequence)",
        (f"{spread}, median {significant(speed.tok_s_median)}, {plural(speed.n, 'repetition')}", "dim"),
    )
    if (found := speed.clean) is not None:
        lasted = f"{significant(found.seconds)} of {significant(found.of)} s"
        said = f" over the {lasted} without re-reading and CPU contention"
        yield fact("  clean-only", (significant(found.tok_s), _role(kind)), said)
    if said := broken(speed):
        yield fact("  break", ("[i] ", "info"), said)
    yield Fact("  each", _each(at, attempt, kind, depth, starred))


def _role(kind: str) -> str:
    """The colour of a kind of unit."""
    return {"decode": "speed"}.get(kind, kind)


def _each(at: Subject, attempt: Attempt, kind: str, depth: int, starred: bool) -> Line:
    """The rate of every repetition; one that a contaminated stretch touches, or all of a contaminated phase that has no
    such stretches, with a star."""
    found = stretches(at, attempt, kind, depth).intervals
    done = attempt.at_depth(kind, depth)
    spans: list[Span] = []
    for one in done:
        bad = any(_touches(one, stretch.start, stretch.end) for stretch in found) or (starred and not found)
        spans.append((f"{significant(one.tok_s)}{'*' if bad else ''}  ", "bad" if bad else "text"))
    if len(spans) <= EACH:
        return tuple(spans)
    left = done[EACH // 2 : -EACH // 2]
    rates = [one.tok_s for one in left]
    stars = sum(role == "bad" for _, role in spans[EACH // 2 : -EACH // 2])
    said = f"… {len(left)} more, {significant(min(rates))} to {significant(max(rates))}"
    said += f", {stars} of them starred" if stars else ""
    return (*spans[: EACH // 2], (f"{said} …  ", "bad" if stars else "dim"), *spans[-EACH // 2 :])


def _touches(one: Repetition, start: float, end: float) -> bool:
    return one.at < end and one.at + one.ns / 1e9 > start


def _deeper(at: Subject) -> Iterator[Fact]:
    attempt = next((one for one in reversed(at.arm.attempts) if one.deeper), None)
    for one in at.mine.deeper if attempt is not None else ():
        for kind, speed, starred in (
            ("prompt", one.prompt, one.prompt_tainted),
            ("decode", one.decode, one.decode_tainted),
        ):
            if speed is not None and attempt is not None:
                yield from _speed(at, attempt, kind, one.depth, speed, starred)


def _attempts(at: Subject) -> Iterator[Fact]:
    """Whether running it again gave the same, and what the other attempts gave."""
    if at.mine.reproduced:
        yield fact("run again", f"in a fresh process: {at.mine.reproduced}")
    depth = at.state.settings.depths[0]
    for attempt in at.arm.attempts:
        if attempt is at.attempt:
            continue
        label = f"attempt {attempt.number}"
        if attempt.decode:
            starred = bool(stretches(at, attempt, "decode", depth).intervals)
            yield Fact(label, (("gen ", "dim"), *_each(at, attempt, "decode", depth, starred)))
        if attempt.failed is not None:
            yield fact(label, f"{attempt.failed.outcome}: {clean(attempt.failed.error)}")
