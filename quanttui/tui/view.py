"""From what is known to what is shown: state, summary, cursor and own cost in, a frozen View out. Pure.

Knows no widget, no size but the number of chart columns, and no clock: the same log at the same moment gives the
same view, be it live, attached, replayed or a snapshot.
"""

from __future__ import annotations

from quanttui.diagnosis.verdicts import Verdict
from quanttui.format import ABSENT, clean, clock, duration, gib, percent, significant
from quanttui.state import State
from quanttui.summary import ArmSummary, Summary, eta, peak, phase_left, tainted
from quanttui.transport import FROZEN, LIVE, Cursor
from quanttui.tui import panels
from quanttui.tui.panels import LEVELS, Charts, Now
from quanttui.tui.parts import Entry, Line, Mark, Own, Row, Span, Step, Stretch, View

COLUMNS = {
    "quant": "quant",
    "size": "GB",
    "bits": "bpw",
    "prompt": "prompt tok/s",
    "gen": "gen tok/s",
    "bus": "%bus",
    "ppl": "perplexity",
    "delta": "Δppl % ±",
    "energy": "J/token",
    "efficiency": "tok/s/W",
    "peak": "peak GiB",
    "verdict": "verdict",
}
"""The table's columns by key, with their headings."""

SIGNS = {"planned": ("·", "dim"), "running": ("▶", "accent"), "ok": ("✓", "ok"), "skipped": ("-", "dim")}
_LEVELS = {"info": ("[i]", "info"), "ok": ("[ok]", "ok"), "warn": ("[!]", "warn"), "bad": ("[x]", "bad")}
_STEPS = {"load": "load", "prompt": "prompt", "decode": "gen", "perplexity": "ppl"}


def charts(state: State, summary: Summary, columns: int) -> Charts:
    """The traces of all charts, `columns` wide: the part of a view that changes slowly."""
    return panels.charts(state, summary, columns)


def of(
    state: State,
    summary: Summary,
    drawn: Charts,
    cursor: Cursor,
    own: Own,
    selected: str = "",
    over: bool = False,
) -> View:
    """What the screen shows.

    Args:
        drawn: from `charts`.
        selected: the quant whose verdict is spelled out; none: the one under way.
        over: the log ends here and nobody writes it any more.
    """
    at = panels.now(state, summary, drawn)
    gen, speed = panels.speed(at)
    ppl, perplexity = panels.perplexity(at)
    mem, memory = panels.memory(at)
    swap_, swap = panels.swap(at)
    bus_, bus = panels.bus(at)
    watts, power = panels.power(at)
    fraction, seconds = phase_left(state)
    mode, role = _mode(state, cursor, over)
    rows = tuple(_row(at, one) for one in summary.arms)
    chosen = selected if selected in state.arms else state.arm
    return View(
        t=state.t,
        mode=mode,
        mode_role=role,
        model=clean(state.model, 80),
        where=_where(summary),
        done=sum(arm.outcome not in ("planned", "running") for arm in state.arms.values()),
        total=len(state.arms),
        clock=clock(state.t),
        left=_left(state, over),
        phase=state.phase,
        fraction=fraction,
        phase_left=_phase_words(state, fraction, seconds),
        marks=tuple(_mark(one) for one in summary.arms),
        lane=_lane(state),
        lane_end=state.t + (0.0 if over else eta(state) or 0.0),
        steps=_steps(at, fraction),
        metrics={
            one.name: one for one in (gen, ppl, bus_, panels.reread(at), mem, swap_, panels.gpu(at), watts)
        },
        panels={
            "speed": speed, "perplexity": perplexity, "memory": memory, "swap": swap, "bus": bus, "power": power
        },
        rows=rows,
        headings=_headings(summary),
        selected=chosen,
        verdict=_verdict(state, summary, chosen),
        events=_events(state, summary),
        notes=tuple(clean(note) for note in summary.notes),
        probes=_probes(state),
        own=own,
        quiet=is_quiet(state),
    )  # fmt: skip


def is_quiet(state: State) -> bool:
    """Whether a repetition is timed on all cores, so that every repaint would slow what is measured."""
    unit = state.running.unit if state.running else None
    if unit is None or unit.kind not in ("prompt", "decode") or state.host is None:
        return False
    arm = state.arms.get(unit.arm)
    loaded = arm.attempt.loaded if arm and arm.attempt else None
    if loaded is not None and 0 < loaded.layers <= loaded.gpu_layers:
        return False
    threads = loaded.threads if loaded is not None else state.settings.threads
    return threads >= state.host.cores


# --- the top --------------------------------------------------------------------------------------------------------


def _mode(state: State, cursor: Cursor, over: bool) -> tuple[str, str]:
    if cursor.mode != LIVE:
        return cursor.words, "warn" if cursor.mode == FROZEN else "accent"
    if state.closed and state.closed != "interrupted":
        return "DONE", "ok"
    if state.closed or over:
        return "INTERRUPTED", "warn"
    return "LIVE ●", "ok"


def _where(summary: Summary) -> str:
    """The machine and the engine in a few words."""
    host, build = summary.host, summary.build
    words = []
    if host is not None:
        words.append(f"{clean(host.name, 24)} {gib(host.memory_limit or host.memory, 2)} GiB")
        words += [clean(gpu.name, 30) for gpu in host.gpus[:1]]
    if build is not None:
        words.append(f"llama.cpp {clean(build.llama_cpp, 24)}")
    return " · ".join(words)


def _left(state: State, over: bool) -> str:
    seconds = None if over else eta(state)
    return f"{duration(seconds)} left" if seconds is not None else ""


def _phase_words(state: State, fraction: float, seconds: float | None) -> str:
    if not state.phase:
        return ""
    left = f"  {duration(seconds)} left" if seconds is not None else ""
    return f"{short(state.phase)} {fraction * 100:.0f}%{left}"


def short(phase: str) -> str:
    """A phase's name in few letters."""
    return {"decode": "gen", "perplexity": "ppl", "bandwidth": "bus", "quantize": "make"}.get(phase, phase)


def sign(one: ArmSummary) -> Span:
    """A quant's sign and role: running, done, done with a doubt, failed, not begun."""
    kinds = {v.kind for v in one.verdicts if v.kind == "contaminated" or v.phase in ("decode", "")}
    if one.outcome == "ok" and "contaminated" in kinds:
        return "!", "bad"
    if one.outcome == "ok" and "caution" in kinds:
        return "!", "warn"
    return SIGNS.get(one.outcome, ("✗", "bad"))


def _mark(one: ArmSummary) -> Mark:
    glyph, role = sign(one)
    return Mark(one.id, glyph, clean(one.id, 24), role)


def _lane(state: State) -> tuple[Stretch, ...]:
    now, t = state.span, state.t
    return tuple(
        Stretch(clean(span.arm, 24), span.phase, span.start, t if span.end is None else span.end, span is now)
        for span in state.spans
    )


def _steps(at: Now, fraction: float) -> tuple[Step, ...]:
    """How far each phase of the quant under way is."""
    if at.arm is None or at.attempt is None:
        return ()
    settings = at.state.settings
    wanted = {
        "load": True,
        "prompt": "speed" in settings.tasks and settings.prompt > 0 and settings.repetitions > 0,
        "decode": "speed" in settings.tasks and settings.decode > 0 and settings.repetitions > 0,
        "perplexity": "ppl" in settings.tasks and settings.chunks != 0,
    }
    here = at.arm.id, at.attempt.number
    ended = {span.phase for span in at.state.spans if (span.arm, span.attempt) == here and span.end is not None}
    steps = []
    for phase, is_wanted in wanted.items():
        if is_wanted:
            done = fraction if at.running(phase) else 1.0 if phase in ended else 0.0
            steps.append(Step(_STEPS[phase], min(1.0, max(0.0, done))))
    return tuple(steps)


# --- the table ------------------------------------------------------------------------------------------------------


def _headings(summary: Summary) -> dict[str, str]:
    """The columns that have something in them, in order; sizes in a unit that suits them all."""
    empty = () if any(one.energy for one in summary.arms) else ("energy", "efficiency")
    found = {key: title for key, title in COLUMNS.items() if key not in empty}
    return found | {"size": _file_unit(summary)[0], "peak": f"peak {_memory_unit(summary)[0]}"}


def _file_unit(summary: Summary) -> tuple[str, float]:
    most = max((one.bytes or 0 for one in summary.arms), default=0)
    return ("GB", 1e9) if most >= 1e8 else ("MB", 1e6)


def _memory_unit(summary: Summary) -> tuple[str, float]:
    most = max((peak(one) or one.bytes or 0 for one in summary.arms), default=0)
    return ("GiB", 2.0**30) if most >= 0.1 * 2**30 else ("MiB", 2.0**20)


def _row(at: Now, one: ArmSummary) -> Row:
    state = at.state
    glyph, role = sign(one)
    running = one.outcome == "running"
    decoding = running and state.arm == one.id and state.phase == "decode"
    prompt = "*" if tainted(one.verdicts, "prompt") else "…" if running and state.phase == "prompt" else ""
    taint = "*" if one.tainted else "…" if decoding else ""
    file_unit, unit = _file_unit(at.summary)[1], _memory_unit(at.summary)[1]
    energy = one.energy
    most = peak(one)
    guess, needs = _predicted(at, one)
    cells: dict[str, Span] = {
        "quant": (f"{glyph}{clean(one.id, 24)}", role),
        "size": (significant(one.bytes / file_unit) if one.bytes is not None else ABSENT, "text"),
        "bits": (significant(one.bits_per_weight) if one.bits_per_weight is not None else ABSENT, "dim"),
        "prompt": _speed(one.prompt.tok_s, one.prompt.sd, prompt) if one.prompt else (ABSENT, "dim"),
        "gen": _speed(one.decode.tok_s, one.decode.sd, taint) if one.decode else _guess(guess),
        "bus": (percent(one.decode.mbu), "text") if one.decode and one.decode.mbu is not None else (ABSENT, "dim"),
        "ppl": _quality(one),
        "delta": _delta(at, one),
        "energy": (significant(energy.joules_per_token if energy else None), "text"),
        "efficiency": (significant(energy.tok_s_per_w if energy else None), "text"),
        "peak": (significant(most / unit), "text")
        if most is not None
        else (f"~{significant(needs / unit)}" if needs else ABSENT, "dim"),
        "verdict": _judged(at, one),
    }
    return Row(one.id, cells)


def _speed(value: float, sd: float | None, mark: str) -> Span:
    error = f" ±{significant(sd, 2)}" if sd is not None else ""
    return f"{significant(value)}{mark}{error}", "bad" if mark == "*" else "text"


def _guess(value: float | None) -> Span:
    return (f"~{significant(value)}", "dim") if value is not None else (ABSENT, "dim")


def _quality(one: ArmSummary) -> Span:
    if one.perplexity is None:
        return ABSENT, "dim"
    return f"{panels.ppl(one.perplexity.value)}{'…' if one.perplexity.running else ''}", "text"


def _delta(at: Now, one: ArmSummary) -> Span:
    if one.delta is None:
        return ("base", "dim") if one.id == at.summary.base and one.perplexity else (ABSENT, "dim")
    running = "…" if one.perplexity is not None and one.perplexity.running else ""
    return panels.difference(one).replace("%", "") + running, "text"


def _predicted(at: Now, one: ArmSummary) -> tuple[float | None, float | None]:
    """Speed and memory of a quant that has not begun.

    The speed by one whose speed the memory bandwidth sets, the memory by what the last one needed beside its file.
    """
    if one.outcome != "planned" or not one.bytes:
        return None, None
    beside = [most - known.bytes for known in at.summary.arms if known.bytes and (most := peak(known)) is not None]
    walls = [
        known for known in at.summary.arms
        if known.decode and known.bytes and any(v.code == "bandwidth-wall" for v in known.verdicts)
    ]  # fmt: skip
    known = walls[-1] if walls else None
    rate = known.decode.tok_s * known.bytes / one.bytes if known and known.decode and known.bytes else None
    return rate, one.bytes + max(0.0, beside[-1] if beside else 0.0)


def _judged(at: Now, one: ArmSummary) -> Span:
    """The table's last word on a quant: why it failed, else its first verdict, and a second one where that is bad."""
    if one.outcome == "planned":
        return "", "dim"
    if one.outcome not in ("ok", "running"):
        return clean(f"{one.outcome}: {one.error}" if one.error else one.outcome, 80), "bad"
    said = [v for v in one.verdicts if not panels.pending(at.state, one, v)]
    decode = [v for v in said if v.phase in ("decode", "")]
    known = {v.words for v in decode}
    others = [v for v in said if v.kind == "contaminated" and v not in decode and v.words not in known]
    words = [panels.flag(v) for v in decode] + [f"{panels.flag(v)} ({short(v.phase)})" for v in others]
    again = [clean(one.reproduced, 60)] if one.reproduced else []
    if not words:
        return (", ".join(again) or (short(at.state.phase) if one.outcome == "running" else "ok")), "dim"
    return "  ".join([*words[:2], *again]), LEVELS[(decode or others)[0].kind]


# --- the bottom -----------------------------------------------------------------------------------------------------


def _verdict(state: State, summary: Summary, chosen: str) -> tuple[Line, ...]:
    """The verdicts on one quant with their evidence, a line each: flag, sentence, advice."""
    one = next((one for one in summary.arms if one.id == chosen), None)
    if one is None:
        return ()
    lines: list[Line] = []
    name = clean(one.id, 24)
    if one.error:
        lines.append(((f"{name} ", "text"), ("[x] ", "bad"), (clean(f"{one.outcome}: {one.error}"), "text")))
    for verdict in one.verdicts:
        if panels.pending(state, one, verdict):
            lines.append(((f"{name} {short(verdict.phase)} ", "text"), (clean(verdict.sentence), "dim")))
        else:
            lines.append(_spelled(name, verdict))
    if one.label_note:
        lines.append(((f"{name} ", "text"), ("[!] ", "warn"), (clean(one.label_note), "text")))
    if not lines:
        lines.append(((f"{name} ", "text"), ("no verdict yet" if one.outcome != "ok" else "nothing to object", "dim")))
    return tuple(lines)


def _spelled(name: str, verdict: Verdict) -> Line:
    phase = f"{short(verdict.phase)} " if verdict.phase else ""
    return (
        (f"{name} {phase}", "text"),
        (f"{panels.flag(verdict)}: ", LEVELS[verdict.kind]),
        (clean(verdict.sentence), "text"),
        (f" → {clean(verdict.advice)}", "dim"),
    )


def _events(state: State, summary: Summary) -> tuple[Entry, ...]:
    """What happened, newest first: the notes of the log, and verdicts where their phase ended or now stands."""
    entries = [Entry(note.t, *_LEVELS.get(note.level, ("[i]", "info")), clean(note.text)) for note in state.notes]
    for one in summary.arms:
        arm = state.arms.get(one.id)
        for verdict in one.verdicts if arm is not None else ():
            if verdict.kind == "contaminated" or one.outcome != "running":
                text = f"{clean(one.id, 24)} {short(verdict.phase)}: {clean(verdict.sentence)}"
                entries.append(Entry(_when(state, one.id, verdict.phase), verdict.glyph, LEVELS[verdict.kind], text))
    return tuple(sorted(entries, key=lambda entry: -entry.t))


def _when(state: State, arm: str, phase: str) -> float:
    """When a phase of an arm last ended, or now where it has not."""
    spans = [span for span in state.spans if span.arm == arm and (not phase or span.phase == phase)]
    return state.t if not spans or spans[-1].end is None else spans[-1].end


def _probes(state: State) -> str:
    """Which sources answer, and which do not."""
    found = [f"{clean(name, 12)} ok" for name in sorted(state.probes) if name != "self"]
    lost = [f"{clean(name, 12)} n/a" for name in sorted(state.lost)]
    return ", ".join(found + lost)
