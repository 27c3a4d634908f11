"""From what is known to what is shown: state, summary, cursor and own cost in, a frozen View out. Pure.

Knows no widget, no size but the number of chart columns, and no clock: the same log at the same moment gives the
same view, be it live, attached, replayed or a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quanttui import flags
from quanttui.diagnosis.case import Verdict
from quanttui.flags import LEVELS
from quanttui.flags import brief as short
from quanttui.format import ABSENT, clean, clock, duration, gib, percent, significant, size
from quanttui.state import TIMED, State
from quanttui.summary import (
    AGAIN,
    ArmSummary,
    Energy,
    Summary,
    at_most,
    broken,
    eta,
    peak,
    phase_left,
    share_done,
    tainted,
)
from quanttui.transport import FROZEN, LIVE, Cursor
from quanttui.tui import panels
from quanttui.tui.panels import Charts, Now
from quanttui.tui.parts import Entry, Line, Mark, Observed, Own, Row, Span, Step, Stretch, View
from quanttui.tui.widgets import pareto

COLUMNS = {
    "quant": "quant",
    "size": "GB",
    "bits": "bpw",
    "prompt": "prompt tok/s",
    "gen": "gen tok/s ±sd",
    "bus": "%bus",
    "ppl": "perplexity",
    "delta": "Δppl % ±95",
    "call": "call",
    "kld": "KLD",
    "top": "same top %",
    "right": "right",
    "energy": "J/token",
    "efficiency": "tok/s/W",
    "peak": "peak GiB",
    "verdict": "verdict",
}
"""The table's columns by key, with their headings."""

ORDERS = {"": "sweep order", "gen": "gen tok/s", "delta": "perplexity", "size": "size", "energy": "J/token"}
"""What the table can be sorted by, in words."""

SIGNS = {"planned": ("·", "dim"), "running": ("▶", "accent"), "ok": ("✓", "ok"), "skipped": ("-", "dim")}
BEGUN = ("◐", "info")
"""The sign of an arm that has begun while another one is under way."""

LANE = 500
"""Spans are drawn together where they are narrower than this part of the lane: no screen has as many columns."""

_STEPS = {"load": "load", "prompt": "prompt", "decode": "gen", "perplexity": "ppl", "task": "task"}


def charts(state: State, summary: Summary, columns: int, tail: State | None = None) -> Charts:
    """The traces of all charts, `columns` wide: the part of a view that changes slowly."""
    return panels.charts(state, summary, columns, tail)


def of(
    state: State,
    summary: Summary,
    drawn: Charts,
    cursor: Cursor,
    own: Own,
    selected: str = "",
    over: bool = False,
    tail: State | None = None,
    order: str = "",
    keymap: Mapping[str, str] = {},
) -> View:
    """What the screen shows.

    Args:
        drawn: from `charts`.
        selected: the quant whose verdict is spelled out; none: the one under way.
        over: the log ends here and nobody writes it any more.
        tail: all that is known, where the cursor stands at an earlier moment.
        order: the column that the table is sorted by, one of ORDERS.
        keymap: the user's own keys.
    """
    at = panels.now(state, summary, drawn)
    known = tail if tail is not None else state
    gen, speed = panels.speed(at)
    ppl, perplexity = panels.perplexity(at)
    mem, memory = panels.memory(at)
    swap_, swap = panels.swap(at)
    bus_, bus, both = panels.bus(at)
    gpu_, gpu = panels.gpu(at)
    watts, power = panels.power(at)
    fraction, seconds = phase_left(state)
    mode, role = _mode(state, cursor, over)
    left = None if over else eta(state)
    ends = left if known is state else eta(known)
    units = _file_unit(summary)[1], _memory_unit(summary)[1]
    rows = tuple(_row(at, one, *units) for one in ordered(summary.arms, order))
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
        left=_left(state, left),
        phase=clean(state.phase, 20),
        fraction=fraction,
        phase_left=_phase_words(state, fraction, seconds),
        marks=tuple(_mark(one, state.arm) for one in summary.arms),
        lane=_lane(known, known.t + (ends or 0.0)),
        lane_end=known.t + (ends or 0.0),
        cursor=state.t if known.t > state.t else None,
        end=clock(known.t) if known.t > state.t else "",
        steps=_steps(at, fraction),
        metrics={
            "ppl": ppl, **{one.name: one for one in (gen, bus_, panels.reread(at), mem, swap_, gpu_, watts)}
        },
        panels={
            "speed": speed, "perplexity": perplexity, "memory": memory, "swap": swap, "bus": bus, "gpu": gpu,
            "both": both, "power": power,
        },
        rows=rows,
        headings=_headings(summary),
        order=ORDERS[order],
        keymap=dict(keymap),
        scatter=pareto.points(summary),
        selected=chosen,
        verdict=_verdict(state, summary, chosen),
        events=_events(state, summary),
        notes=tuple(clean(note) for note in summary.notes),
        probes=_probes(state),
        own=own,
        quiet=is_quiet(state),
        observer=_observed(state),
    )  # fmt: skip


def is_quiet(state: State) -> bool:
    """Whether repetitions are being timed on all cores, so that every repaint slows what is measured."""
    return (state.running.unit.kind if state.running else state.phase) in TIMED and state.fills_cores


def is_timed(state: State) -> bool:
    """Whether a repetition is being timed."""
    return state.running is not None and state.running.unit.kind in TIMED


def _observed(state: State) -> Observed | None:
    found = state.observer
    return Observed(found.live, found.headless, found.pairs) if found is not None else None


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
        memory = f" {gib(host.memory_limit or host.memory, 2)} GiB" if host.memory else ""
        words.append(f"{clean(host.name, 24)}{memory}")
        words += [clean(gpu.name, 30) for gpu in host.gpus[:1]]
    if build is not None:
        words.append(f"llama.cpp {clean(build.llama_cpp, 24)}")
    return " · ".join(words)


def _left(state: State, seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{'≤' if at_most(state) else ''}{duration(seconds)} left"


def _phase_words(state: State, fraction: float, seconds: float | None) -> str:
    if not state.phase:
        return ""
    if state.phase == "cool":
        return "cool: waiting"
    if state.paused_at is not None:
        return f"paused since {clock(state.paused_at)}" if state.phase == "paused" else "pauses after this unit"
    bound = "≤" if state.phase == "perplexity" and at_most(state) else ""
    left = f"  {bound}{duration(seconds)} left" if seconds is not None else ""
    return f"{short(state.phase)} {fraction * 100:.0f}%{left}"


def sign(one: ArmSummary, here: str = "") -> Span:
    """A quant's sign and role: under way, begun, done, done with a doubt, failed, not begun.

    Args:
        here: the quant that is under way.
    """
    kinds = {v.kind for v in one.verdicts if v.kind == "contaminated" or v.phase in ("decode", "")}
    if one.outcome == "ok" and "contaminated" in kinds:
        return "!", "bad"
    if one.outcome == "ok" and "caution" in kinds:
        return "!", "warn"
    if one.outcome == "running" and one.id != here:
        return BEGUN
    return SIGNS.get(one.outcome, ("✗", "bad"))


def _mark(one: ArmSummary, here: str) -> Mark:
    glyph, role = sign(one, clean(here, 80))
    return Mark(one.id, glyph, clean(one.id, 24), role)


def _lane(state: State, end: float) -> tuple[Stretch, ...]:
    """The phases so far. Those too narrow to be seen are drawn as one: of the phase that takes most of it, while they
    are of no other phase for as long as turns are taken in it."""
    now, t, least = state.span, state.t, max(end, state.t) / LANE
    found: list[Stretch] = []
    shares: dict[str, float] = {}
    for span in state.spans:
        until = t if span.end is None else span.end
        seconds, last = until - span.start, found[-1] if found and shares else None
        if seconds < least and last and (last.end - last.start < least or span.phase == last.phase):
            shares[span.phase] = shares.get(span.phase, 0.0) + seconds
            phase = max(shares, key=shares.__getitem__)
            found[-1] = Stretch(last.arm, clean(phase, 20), last.start, until, span is now)
            continue
        shares = {span.phase: seconds} if seconds < least else {}
        found.append(Stretch(clean(span.arm, 24), clean(span.phase, 20), span.start, until, span is now))
    return tuple(found)


def _steps(at: Now, fraction: float) -> tuple[Step, ...]:
    """How far each phase of the quant under way is."""
    if at.arm is None or at.attempt is None:
        return ()
    settings = at.state.settings
    wanted = {
        "load": True,
        "prompt": "speed" in settings.tasks and settings.prompt > 0 and settings.repetitions > 0,
        "decode": "speed" in settings.tasks and settings.decode > 0 and settings.repetitions > 0,
        "perplexity": bool({"ppl", "kld"} & set(settings.tasks)) and settings.chunks != 0 and not at.arm.plan.ghost,
        "task": "prompts" in settings.tasks and not at.arm.plan.ghost,
    }
    steps = [Step(short(at.state.phase), fraction)] if at.running("anchor") or at.running("warm") else []
    for phase, is_wanted in wanted.items():
        if is_wanted:
            done = fraction if at.running(phase) else share_done(at.state, at.arm, phase)
            steps.append(Step(_STEPS[phase], min(1.0, max(0.0, done))))
    return tuple(steps)


# --- the table ------------------------------------------------------------------------------------------------------


def ordered(arms: Iterable[ArmSummary], order: str) -> list[ArmSummary]:
    """The arms as the table has them: the one that runs first, those without the figure last, tainted ones of no rank
    before them."""

    def rank(one: ArmSummary) -> tuple[bool, int, float]:
        value = _rank(one, order)
        starred = one.tainted and order in ("gen", "energy")
        return not one.pinned, 2 if value is None else int(starred), value or 0.0

    return sorted(arms, key=rank) if order else list(arms)


def _rank(one: ArmSummary, order: str) -> float | None:
    """Where an arm comes, the lowest first: the fastest, the best, the smallest."""
    if order == "gen":
        return -one.decode.tok_s if one.decode else None
    if order == "delta":
        return one.perplexity.value if one.perplexity else None
    if order == "energy":
        return one.energy.joules_per_token if one.energy else None
    return one.bytes


def _headings(summary: Summary) -> dict[str, str]:
    """The columns that have something in them, in order; sizes in a unit that suits them all."""
    empty: set[str] = set() if any(one.energy for one in summary.arms) else {"energy", "efficiency"}
    empty |= set() if any(one.kld for one in summary.arms) else {"kld", "top"}
    empty |= set() if any(one.scores for one in summary.arms) else {"right"}
    empty |= set() if any(one.decision for one in summary.arms) else {"call"}
    found = {key: title for key, title in COLUMNS.items() if key not in empty}
    tolerance = next((one.decision.tolerance for one in summary.arms if one.decision), 0.0)
    found |= {"call": f"call ±{100 * tolerance:g} %"} if "call" in found else {}
    return found | {"size": _file_unit(summary)[0], "peak": f"peak {_memory_unit(summary)[0]}"}


def _file_unit(summary: Summary) -> tuple[str, float]:
    most = max((one.bytes or 0 for one in summary.arms), default=0)
    return ("GB", 1e9) if most >= 1e8 else ("MB", 1e6)


def _memory_unit(summary: Summary) -> tuple[str, float]:
    most = max((peak(one) or one.bytes or 0 for one in summary.arms), default=0)
    return ("GiB", 2.0**30) if most >= 0.1 * 2**30 else ("MiB", 2.0**20)


def _row(at: Now, one: ArmSummary, file_unit: float, unit: float) -> Row:
    """An arm's row; `file_unit` and `unit` are the bytes that sizes of files, and of memory, are told in."""
    state = at.state
    glyph, role = sign(one, clean(state.arm, 80))
    running = one.outcome == "running"
    decoding = running and state.arm == one.id and state.phase == "decode"
    prompt = "*" if tainted(one.verdicts, "prompt") else "…" if running and state.phase == "prompt" else ""
    taint = "*" if one.tainted else "…" if decoding else ""
    energy = one.energy
    most = peak(one)
    guess, needs = panels.forecast(at, one)
    cells: dict[str, Span] = {
        "quant": (f"{glyph}{clean(one.id, 24)}", role),
        "size": (significant(one.bytes / file_unit) if one.bytes is not None else ABSENT, "text"),
        "bits": (significant(one.bits_per_weight) if one.bits_per_weight is not None else ABSENT, "dim"),
        "prompt": _speed(one.prompt.tok_s, None, prompt) if one.prompt else (ABSENT, "dim"),
        "gen": _speed(one.decode.tok_s, one.decode.sd, taint) if one.decode else _guess(guess),
        "bus": (f"{percent(one.decode.mbu)}{'*' if one.tainted else ''}", "bad" if one.tainted else "text")
        if one.decode and one.decode.mbu is not None
        else (ABSENT, "dim"),
        "ppl": _quality(at, one),
        "delta": _delta(at, one),
        "call": _call(at, one),
        "kld": _kld(at, one),
        "top": (f"{100 * one.kld.found.same_top.value:.1f}", "text") if one.kld else _kld(at, one),
        "right": _right(one),
        "energy": _joules(energy.joules_per_token if energy else None, energy),
        "efficiency": _joules(energy.tok_s_per_w if energy else None, energy),
        "peak": (significant(most / unit), "text")
        if most is not None
        else (f"~{significant(needs / unit)}" if needs else ABSENT, "dim"),
        "verdict": _judged(at, one),
    }
    return Row(one.id, cells)


def _speed(value: float, sd: float | None, mark: str) -> Span:
    error = f" ±{significant(sd, 2)}" if sd is not None else ""
    return f"{significant(value)}{mark}{error}", "bad" if mark == "*" else "text"


def _joules(value: float | None, energy: Energy | None) -> Span:
    """A figure of energy, starred where the decoding was contaminated."""
    star = value is not None and energy is not None and energy.tainted
    return f"{significant(value)}{'*' if star else ''}", "bad" if star else "text"


def _guess(value: float | None) -> Span:
    return (f"~{significant(value)}", "dim") if value is not None else (ABSENT, "dim")


def _quality(at: Now, one: ArmSummary) -> Span:
    """The perplexity; `@12` chunks where the quants are scored over different ones, whose values do not compare."""
    found = one.perplexity
    if found is None:
        return "ghost" if one.ghost else ABSENT, "dim"
    over = f"@{found.chunks}" if any(arm.delta and arm.delta.of_text for arm in at.summary.arms) else ""
    return f"{panels.ppl(found.value)}{over}{'…' if found.running else ''}", "text"


def _delta(at: Now, one: ArmSummary) -> Span:
    if one.delta is None:
        return ("base", "dim") if one.id == at.summary.base and one.perplexity else (ABSENT, "dim")
    running = "…" if one.perplexity is not None and one.perplexity.running else ""
    return panels.difference(one).replace("%", "") + running, "text"


def _call(at: Now, one: ArmSummary) -> Span:
    """The call in one word; the tolerance stands in the heading."""
    word, role = panels.call(one)
    if word and one.decision is not None:
        short_word = {"within": "within", "undecided": "open"}.get(one.decision.call, word)
        return short_word if one.decision.sure else f"({short_word})", role
    return ("base", "dim") if one.id == at.summary.base and one.perplexity else (ABSENT, "dim")


def _kld(at: Now, one: ArmSummary) -> Span:
    if one.kld is None:
        return ("base", "dim") if one.id == at.summary.base and one.perplexity else (ABSENT, "dim")
    return panels.divergence(one) + ("…" if one.perplexity is not None and one.perplexity.running else ""), "text"


def _right(one: ArmSummary) -> Span:
    """How many answers are right, of those that have a check; how many there are, where none has one."""
    if not one.scores:
        return ABSENT, "dim"
    right, checked = sum(score.right for score in one.scores), sum(score.checked for score in one.scores)
    answers, planned = sum(score.answers for score in one.scores), sum(score.planned for score in one.scores)
    running = "…" if answers < planned and one.outcome == "running" else ""
    return (f"{right}/{checked}{running}" if checked else f"{answers} answers{running}"), "text"


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
        doing = short(at.state.phase) if one.id == clean(at.state.arm, 80) else "begun, waiting"
        return (", ".join(again) or (doing if one.outcome == "running" else "ok")), "dim"
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
    called = _called(state, name, one)
    for verdict in one.verdicts:
        if called and verdict.kind != "contaminated":
            lines.append(called)
            called = ()
        if panels.pending(state, one, verdict):
            lines.append(((f"{name} {short(verdict.phase)} ", "text"), (clean(verdict.sentence), "dim")))
        else:
            lines.append(_spelled(name, verdict))
    lines += [called] if called else []
    lines += _deeper(name, one)
    if one.decode is not None and one.decode.clean is not None:
        found = one.decode.clean
        said = f"{significant(found.tok_s)} tok/s over the {significant(found.seconds)} of {significant(found.of)} s"
        lines.append(
            ((f"{name} gen ", "text"), (f"clean-only: {said} without re-reading and CPU contention", "text"))
        )
    if one.placed is not None and one.placed.doubtful:
        apart = percent(one.placed.gap)
        said = f"the driver counts {size(one.placed.counted)} on the GPU, llama.cpp says {size(one.placed.reserved)}"
        lines.append(((f"{name} ", "text"), ("[!] ", "warn"), (f"{said}: {apart} % apart", "text")))
    if one.disturbed:
        times = f"{one.disturbed} repetition{'s' if one.disturbed > 1 else ''}"
        lines.append(((f"{name} ", "text"), ("[i] ", "info"), (f"{times} done again: {AGAIN}", "text")))
    for kind, speed in (("prompt", one.prompt), ("gen", one.decode)):
        if told := broken(speed):
            lines.append(((f"{name} {kind} ", "text"), ("[i] ", "info"), (told, "text")))
    if one.label_note:
        lines.append(((f"{name} ", "text"), ("[!] ", "warn"), (clean(one.label_note), "text")))
    if not lines:
        said = "no verdict yet" if one.outcome != "ok" else "nothing to object" if one.tensor_types else "not judged"
        lines.append(((f"{name} ", "text"), (said, "dim")))
    return tuple(lines)


def _called(state: State, name: str, one: ArmSummary) -> Line:
    """The call on its perplexity with what it rests on; empty where there is none."""
    said, role = panels.call(one)
    delta, found = one.delta, one.decision
    if not said or delta is None or found is None:
        return ()
    base = clean(delta.base, 20)
    against = f"{said} of {base}" if found.call == "within" else f"{said} against {base}"
    if found.call in ("worse", "better"):
        against = f"{said} than {base}"
    so_far = "so far, " if panels.after(one, state.settings.until) == "so far" else ""
    total = f" of {found.of}" if found.of else ""
    span = "not known yet"
    if delta.low is not None and delta.high is not None:
        span = f"{delta.low:+.2f} to {delta.high:+.2f} %"
    about = "this text" if delta.of_text else "texts like it"
    only = "" if found.sure else ", not sure of those"
    kld = one.kld.found if one.kld else None
    top = f"; KLD {panels.divergence(one)}, same top {100 * kld.same_top.value:.1f} %" if kld else ""
    rest = f" {so_far}after {found.chunks}{total} chunks: 95 % sequence {span} over {about}{only}{top}"
    return (f"{name} ppl ", "text"), (against, role), (rest, "text")


def _deeper(name: str, one: ArmSummary) -> list[Line]:
    """The speeds at the depths after the first."""
    lines: list[Line] = []
    for depth in one.deeper:
        known = [("prompt", depth.prompt), ("gen", depth.decode)]
        stars = {"prompt": "*" if depth.prompt_tainted else "", "gen": "*" if depth.decode_tainted else ""}
        said = ", ".join(
            f"{kind} {significant(x.tok_s)}{stars[kind]} {panels.within(x.radius)}" for kind, x in known if x
        )
        lines.append(((f"{name} ", "text"), (f"at depth {depth.depth}: {said} tok/s (95 %)", "text")))
    return lines


def _spelled(name: str, verdict: Verdict) -> Line:
    phase = f"{short(verdict.phase)} " if verdict.phase else ""
    return (
        (f"{name} {phase}", "text"),
        (f"{panels.flag(verdict)}: ", LEVELS[verdict.kind]),
        (clean(verdict.sentence), "text"),
        (f" → {clean(verdict.advice)}", "dim"),
    )


def _events(state: State, summary: Summary) -> tuple[Entry, ...]:
    """What happened, newest first."""
    return tuple(Entry(one.t, one.glyph, one.level, one.text) for one in reversed(flags.of(state, summary)))


def _probes(state: State) -> str:
    """Which sources answer, and which do not."""
    found = [f"{clean(name, 12)} ok" for name in sorted(state.probes) if name != "self"]
    lost = [f"{clean(name, 12)} n/a" for name in sorted(state.lost)]
    return ", ".join(found + lost)
