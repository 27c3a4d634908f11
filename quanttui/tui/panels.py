"""The metrics and panels of a view: what each says, and why it says nothing. Pure: state and summary in, parts out."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from quanttui import state as fold
from quanttui.diagnosis import parts, windows
from quanttui.diagnosis.case import Verdict
from quanttui.diagnosis.windows import Bounds, Window
from quanttui.flags import LEVELS
from quanttui.format import ABSENT, clean, clock, gib, percent, significant, size
from quanttui.series import Series
from quanttui.state import Arm, Attempt, State
from quanttui.summary import ArmSummary, Summary, peak, tainted
from quanttui.tui import answers
from quanttui.tui.parts import Line, Metric, Panel, Share
from quanttui.tui.trace import Trace, at_cursor, ceiling, joined, mapped, over_progress, over_time

LEAST_WINDOW = 120.0
"""Seconds that charts over time show at least, once they have passed."""

LEAST_COLUMN = 0.5
"""Seconds; the narrowest column of a chart over time, as wide as a reading's narrowest bin."""

FRESH = 3.0
"""Seconds after which a rate is no longer said to be the present one."""

WAITED = 0.1
"""Share of the time in which some task waited for memory from which on it is said louder; it decides nothing."""

PRESSURES = {1: ("normal", "dim"), 2: ("warning", "warn"), 4: ("critical", "bad")}
"""macOS's levels of memory pressure."""

PLACES = {
    "out-of-memory": "memory",
    "edge-of-memory": "memory",
    "swap-contaminated": "swap",
    "page-in-thrash": "reread",
    "settling": "reread",
    "vram-spill": "gpu",
    "gpu-contention": "gpu",
    "partial-offload": "gpu",
    "throttled": "gpu",
}
"""The metric beside which a verdict stands; all others belong to the bus."""


class Charts(msgspec.Struct, frozen=True):
    """The traces of all charts; None where there is nothing to draw yet."""

    speed: Trace | None = None
    perplexity: Trace | None = None
    memory: Trace | None = None
    swap: Trace | None = None
    bus: Trace | None = None
    power: Trace | None = None
    gpu: Trace | None = None
    other: str = ""
    base: str = ""


class Now(msgspec.Struct, frozen=True):
    """What the panels are about: the quant under way or the last one, and what is known of its decoding."""

    state: State
    summary: Summary
    charts: Charts
    arm: Arm | None = None
    mine: ArmSummary | None = None
    attempt: Attempt | None = None
    window: Window | None = None
    bounds: Bounds | None = None

    @property
    def flags(self) -> dict[str, Verdict]:
        """The first verdict for each metric; a phase that is only just being judged flags nothing."""
        found: dict[str, Verdict] = {}
        for one in self.mine.verdicts if self.mine else ():
            if not pending(self.state, self.mine, one):
                found.setdefault(PLACES.get(one.code, "bus"), one)
        return found

    def running(self, phase: str) -> bool:
        return self.state.phase == phase and self.arm is not None and self.state.arm == self.arm.id


def now(state: State, summary: Summary, charts: Charts) -> Now:
    """Everything the panels ask for, looked up once."""
    arm = state.arms.get(state.arm)
    mine = next((one for one in summary.arms if one.id == state.arm), None)
    if arm is None:
        return Now(state, summary, charts)
    attempt = parts.under_way(state, arm, "decode") or windows.latest(arm, "decode")
    window = windows.window(state, arm, attempt, "decode") if attempt else None
    held = windows.bounds(state, arm, attempt, "decode") if attempt else None
    return Now(state, summary, charts, arm, mine, arm.attempt, window, held)


def pending(state: State, mine: ArmSummary | None, one: Verdict) -> bool:
    """Whether a verdict says no more than that its phase, which is under way, was timed too short so far."""
    return mine is not None and one.words == "too short" and state.phase == one.phase and state.arm == mine.id


def flag(one: Verdict) -> str:
    """A verdict as its glyph and words."""
    return f"{one.glyph} {clean(one.words, 40)}"


# --- charts ---------------------------------------------------------------------------------------------------------


def charts(state: State, summary: Summary, columns: int, tail: State | None = None) -> Charts:
    """The traces of all charts, `columns` wide.

    Args:
        tail: all that is known, where the cursor stands at an earlier moment: charts then show what follows, too.
    """
    known = tail if tail is not None else state
    arm = known.arms.get(state.arm)
    begin, end = window(state, known)

    def timed(name: str, binary: bool = True) -> Trace | None:
        series = known.series.get(name)
        drawn = over_time(series, end, begin, columns, LEAST_COLUMN, binary) if series is not None else None
        return at_cursor(drawn, state.t)

    base = known.arms.get(summary.base)
    before = _previous(state, summary)
    other = state.arms.get(before.id) if before else None
    memory, used = timed("engine.rss"), timed("mem.used")
    util = timed("gpu.util", binary=False)
    return Charts(
        speed=_speed_trace(state, arm, other, columns),
        perplexity=answers.trace(state, known, task, columns)
        if (task := answers.task(state))
        else _perplexity_trace(state, arm, base, columns),
        memory=_both(memory or used, used if memory else None),
        swap=_both(timed("engine.read/s"), timed("swap.in/s")),
        bus=at_cursor(_bus_trace(known, begin, end, columns, util), state.t),
        power=timed("gpu.power", binary=False),
        gpu=msgspec.structs.replace(util, high=100.0) if util else None,
        other=clean(other.id, 40) if other is not None else "",
        base=clean(base.id, 40) if base is not None and base is not arm else "",
    )


def window(state: State, known: State) -> tuple[float, float]:
    """What charts over time cover: the quant under way from its beginning, a little more where that is short, to the
    end of what is known of it; all of the session once it is closed.

    Args:
        known: the state at the tail, which may be the same.
    """
    if state.closed:
        return 0.0, state.t
    spans = [span for span in known.spans if span.arm == state.arm]
    end = spans[-1].end if spans and spans[-1].end is not None else known.t
    end = max(end, state.t)
    return max(0.0, min(spans[0].start if spans else 0.0, end - LEAST_WINDOW)), end


def _both(front: Trace | None, back: Trace | None) -> Trace | None:
    if front is None or back is None:
        return front
    high = max(front.high, back.high)
    return msgspec.structs.replace(front, ghost=back.values, high=high)


def _speed_trace(state: State, arm: Arm | None, other: Arm | None, columns: int) -> Trace | None:
    """The speed over the token, and the other's at the same token; `arm` may know more than is shown now."""
    here = _decoded(state.arms.get(arm.id)) if arm is not None else None
    if here is None or arm is None:
        return None
    attempt = next((one for one in arm.attempts if one.number == here.number), here)
    before = _decoded(other)
    span = max(attempt.tokens, state.settings.decode * max(1, state.settings.repetitions))
    drawn = over_progress(attempt.rate, before.rate if before is not None else None, span, columns)
    return at_cursor(drawn, here.tokens) if here.tokens < attempt.tokens else drawn


def _decoded(arm: Arm | None) -> Attempt | None:
    """The latest attempt that has decoded anything."""
    return next((one for one in reversed(arm.attempts) if one.tokens), None) if arm is not None else None


def running_perplexity(arm: Arm, order: Iterable[int] | None = None) -> Series:
    """The perplexity over the chunks so far, by how many were scored: in the order of scoring, or in that given.

    A chunk of the order that the arm has not scored is a break.
    """
    series, total, nll = Series(width=1.0), 0, 0.0
    for place, index in enumerate(arm.chunks if order is None else order):
        chunk = arm.chunks.get(index)
        if chunk is None:
            continue
        total, nll = total + chunk.scored, nll + chunk.nll
        if total:
            # Beyond e^700 there is no float; a model that bad is shown at the chart's edge.
            series.add(place, math.exp(min(nll / total, 700.0)))
    return series


def _perplexity_trace(state: State, arm: Arm | None, base: Arm | None, columns: int) -> Trace | None:
    """The running perplexity, and the base's over the same chunks in the same order.

    Where an arm may be decided long before the last chunk, the chart goes as far as any has come.
    """
    here = state.arms.get(arm.id) if arm is not None else None
    if arm is None or here is None or not here.chunks:
        return None
    ghost, most = None, len(arm.chunks)
    if base is not None and base is not arm and base.chunks:
        order = [*arm.chunks, *(index for index in base.chunks if index not in arm.chunks)]
        ghost, most = running_perplexity(base, order), len(order)
    span = most if state.settings.until == "decided" else max(arm.chunks_planned or 0, most)
    drawn = over_progress(running_perplexity(arm), ghost, span, columns)
    return at_cursor(drawn, len(here.chunks)) if len(here.chunks) < len(arm.chunks) else drawn


def _bus_trace(state: State, begin: float, until: float, columns: int, util: Trace | None) -> Trace | None:
    """Percent of the ceiling over time; decoding only. Breaks that a slow token explains are closed."""
    series = state.series.get("decode.tok_s")
    if series is None:
        return msgspec.structs.replace(util, values=(), ghost=util.values, high=100.0) if util else None
    factors: dict[tuple[str, int], float | None] = {}
    stretches = []
    for span in state.spans:
        if span.phase == "decode" and (span.end is None or span.end >= begin - LEAST_WINDOW):
            key = span.arm, span.attempt
            if key not in factors:
                factors[key] = _per_tok_s(state, span)
            stretches.append((span.start, span.end, factors[key]))
    starts = [start for start, _, _ in stretches]
    trace = joined(over_time(series, until, begin, columns, LEAST_COLUMN), lambda rate: 1.5 / rate if rate > 0 else 0)

    def share(x: float, rate: float) -> float | None:
        place = bisect_left(starts, x + trace.width) - 1
        if place < 0:
            return None
        _, end, factor = stretches[place]
        return rate * factor if factor is not None and (end is None or x <= end) else None

    found = mapped(trace, share)
    high = max(100.0, ceiling(found.values)) if found.high > 100 else 100.0
    return msgspec.structs.replace(found, high=high, ghost=util.values if util else ())


def _per_tok_s(state: State, span: fold.Span) -> float | None:
    """Percent of the ceiling that one token per second is, in the attempt of a span."""
    arm = state.arms.get(span.arm)
    attempt = next((one for one in arm.attempts if one.number == span.attempt), None) if arm else None
    held = windows.bounds(state, arm, attempt, "decode") if arm and attempt else None
    if held is None or held.cache is not None or held.ceiling is None or not held.ceiling.gb_s:
        return None
    return 100 * held.active / 1e9 / held.ceiling.gb_s


def _previous(state: State, summary: Summary) -> ArmSummary | None:
    """The last quant before the one under way whose decoding can be compared with."""
    found = None
    for one in summary.arms:
        if one.id == state.arm:
            break
        if one.decode is not None:
            found = one
    return found


# --- metrics and panels ---------------------------------------------------------------------------------------------


def speed(at: Now) -> tuple[Metric, Panel]:
    """Tokens per second of decoding, and of the prompt."""
    state, mine = at.state, at.mine
    decoding, prompting = at.running("decode"), at.running("prompt")
    rate = at.window.tok_s if at.window else None
    mark = "*" if mine is not None and mine.tainted else "…" if decoding else ""
    why = _waiting(at, "decode") if rate is None else ""
    value = f"{significant(rate)}{mark} tok/s" if rate is not None else _nothing(at)
    gen = at.mine.decode if at.mine else None
    before = _previous(state, at.summary)
    note = ""
    if rate is not None and before is not None and before.decode is not None and not before.tainted:
        note = against(rate, before.decode.tok_s, clean(before.id, 20), at.summary.floor)
    progress = _repetition(at) if decoding else _round(at) or ("done" if rate is not None else "")
    present = state.running.tokens * 1e9 / state.running.ns if decoding and state.running and state.running.ns else None
    left: list[tuple[str, str]] = [("gen ", "dim"), (value, "speed")]
    if rate is not None and gen is not None:
        left[1:] = [(f"{significant(rate)}{mark}", "speed"), (f" {within(gen.radius)}", "text")]
        left.append((f" (95 %, {gen.n} rep{'s' if gen.n != 1 else ''})", "dim"))
    left.append((f"  {progress}", "dim"))
    aside = f"now {significant(present)}" if present is not None else note
    trace = at.charts.speed
    lines = [(tuple(left), ((aside, "dim"),)), *_prompt_line(at, prompting)]
    dotted = f"dotted: {at.charts.other} at same token" if trace and trace.ghost else "by token"
    panel = Panel(
        "speed, tok/s",
        "running" if decoding or prompting or at.running("anchor") else "",
        "accent" if decoding or prompting or at.running("anchor") else "dim",
        "speed",
        tuple(lines),
        (),
        trace,
        (dotted if trace else "", _range(trace)),
        "" if trace or why == "not yet" else why,
    )
    short = f"{progress} {note}".strip() if progress else note
    return Metric("gen", value, "speed", short, "dim", trace=trace), panel


def against(rate: float, other: float, name: str, floor: float | None) -> str:
    """A speed against another's: `+3.5 vs Q6_K`, or that they are the same where an arm differs as much from itself."""
    if floor is not None and abs(rate - other) <= floor * other:
        return f"same as {name}"
    return f"{_signed(rate - other)} vs {name}"


def within(radius: float | None) -> str:
    """The half-width of an interval: `±0.31`, or that it is not known yet."""
    return f"±{significant(radius, 2)}" if radius is not None else "±?"


def _repetition(at: Now) -> str:
    """Which repetition of the decode is under way."""
    unit = at.state.running.unit if at.state.running else None
    depth = unit.depth if unit is not None else at.state.settings.depths[0]
    wanted = at.state.settings.repetitions
    count = 1 + len(at.attempt.at_depth("decode", depth)) if at.attempt else 1
    deep = f" at depth {depth}" if depth != at.state.settings.depths[0] else ""
    return f"rep {count}/{wanted}{deep}" if count <= wanted else f"rep {count}{deep}"


def _round(at: Now) -> str:
    """That it is the anchor's turn to be measured again."""
    if not at.running("anchor") or at.arm is None:
        return ""
    unit = at.state.running.unit if at.state.running else None
    number = unit.attempt if unit is not None else at.arm.anchor[-1].unit.attempt if at.arm.anchor else 1
    return f"anchor round {number}"


def _prompt_line(at: Now, prompting: bool) -> list[tuple[Line, Line]]:
    """The prompt's speed, and the decode's at the largest depth."""
    prompt, deep = at.mine.prompt if at.mine else None, at.mine.deeper[-1] if at.mine and at.mine.deeper else None
    left: Line = ()
    if prompt is not None:
        spread = f" ±{significant(prompt.sd, 2)} sd" if prompt.sd is not None else ""
        star = "*" if at.mine and tainted(at.mine.verdicts, "prompt") else ""
        left = (("prompt ", "dim"), (f"{significant(prompt.tok_s)}{star}", "prompt"), (spread, "text"))
    elif prompting:
        left = (("prompt ", "dim"), ("running", "text"))
    right: Line = ()
    if deep is not None and deep.decode is not None:
        right = (
            (f"at depth {deep.depth}: gen ", "dim"),
            (f"{significant(deep.decode.tok_s)}{'*' if deep.decode_tainted else ''} ", "text"),
            (within(deep.decode.radius), "text"),
        )
    return [(left, right)] if left or right else []


def perplexity(at: Now) -> tuple[Metric, Panel]:
    """Perplexity so far, its paired difference from the base with its call, and the KL divergence; in its place the
    answers, while there are some and no perplexity is scored."""
    if task := answers.task(at.state):
        return answers.panel(at.state, task, at.charts.perplexity, at.running("task"))
    quality = at.mine.perplexity if at.mine else None
    trace = at.charts.perplexity
    running = at.running("perplexity")
    if quality is None or at.mine is None:
        why = _waiting(at, "perplexity")
        return (
            Metric("ppl", _nothing(at, "perplexity"), "perplexity", why if why != "not yet" else "", "dim"),
            Panel("perplexity", "running" if running else "", "accent", "perplexity", why=why),
        )
    mark = "…" if quality.running else ""
    planned = quality.chunks_planned
    chunks = f"{quality.chunks}/{planned}" if planned else str(quality.chunks)
    error = f" ±{significant(quality.se, 2)} se" if quality.se is not None else ""
    value = f"{ppl(quality.value)}{mark}"
    left = ((value, "perplexity"), (error, "text"), ("   chunks ", "dim"), (chunks, "text"))
    is_base = at.mine.id == at.summary.base
    said, level = call(at.mine)
    rests = after(at.mine, at.state.settings.until)
    called: Line = ((said, level), (f" {rests}", "dim")) if said else ()
    lines: list[tuple[Line, Line]] = [(left, (("base", "dim"),) if is_base else called)]
    delta, short = at.mine.delta, ""
    if delta is not None:
        name, gap = clean(delta.base, 20), difference(at.mine)
        short = f"{gap} (95%) vs {name}" + (f", {said}" if said else "")
        about = "over this text" if delta.of_text else "over texts like it"
        lines.append(((("Δppl ", "dim"), (gap, "text"), (" (95 % sequence)", "dim"), (f" vs {name}", "dim")),
                      ((about, "dim"),)))  # fmt: skip
    lines += _divergence_line(at.mine)
    dotted = f"dotted: {at.charts.base} over the same chunks" if trace and trace.ghost else "by chunks scored"
    state = "running" if quality.running and running else "waiting" if quality.running else "done"
    panel = Panel(
        "perplexity",
        state,
        "accent" if state == "running" else "dim",
        "perplexity",
        tuple(lines),
        (),
        trace,
        (dotted, _range(trace)),
    )
    return Metric("ppl", f"{value}  {chunks}", "perplexity", short or ("base" if is_base else ""), "text",
                  trace=trace), panel  # fmt: skip


def _divergence_line(mine: ArmSummary) -> list[tuple[Line, Line]]:
    """The KL divergence with its sequence, and how often both hold the same token for the likeliest."""
    if mine.kld is None:
        return []
    found = mine.kld.found
    fewer = mine.perplexity is not None and mine.kld.chunks < mine.perplexity.chunks
    over = f", {mine.kld.chunks} chunks" if fewer else ""
    left = (
        ("KLD ", "dim"),
        (f"{divergence(mine)} {within(radius(found.kld.value, mine.kld.low, mine.kld.high))}", "text"),
        (f" (95 %{over})", "dim"),
    )
    error = f" ±{significant(100 * found.same_top.error, 2)}" if found.same_top.error is not None else ""
    right = (("same top ", "dim"), (f"{100 * found.same_top.value:.1f}{error} %", "text"), (" se", "dim"))
    return [(left, right)]


def radius(middle: float, low: float | None, high: float | None) -> float | None:
    """The larger side of an interval around a value."""
    return None if low is None or high is None else max(high - middle, middle - low, 0.0)


def divergence(mine: ArmSummary) -> str:
    """The mean KL divergence in nats per token."""
    value = mine.kld.found.kld.value if mine.kld else None
    return significant(value) if value is None or abs(value) >= 1e-4 else f"{value:.1e}"


CALLS = {"within": "ok", "worse": "warn", "better": "info", "undecided": "dim"}
"""A call's role."""


def call(mine: ArmSummary) -> tuple[str, str]:
    """Whether the perplexity lies within the tolerance, in words, and its role; "" where there is nothing to say."""
    found = mine.decision
    if found is None:
        return "", "dim"
    word = f"within {100 * found.tolerance:g} %" if found.call == "within" else found.call
    if found.call == "undecided" and mine.perplexity is not None and mine.perplexity.running:
        word = "open"
    return word, CALLS.get(found.call, "text")


def after(mine: ArmSummary, until: str) -> str:
    """Upon how much a call rests: `after 24 chunks`; `so far` where a full sweep scores on, whatever the call."""
    found, quality = mine.decision, mine.perplexity
    if found is None or quality is None:
        return ""
    if until == "full" and quality.running and found.call != "undecided":
        return "so far"
    return f"after {found.chunks} chunk{'s' if found.chunks != 1 else ''}"


def bus(at: Now) -> tuple[Metric, Panel, Panel]:
    """Achieved bandwidth against the measured ceiling: the panel of it alone, and that with the GPU in it."""
    held, rate = at.bounds, at.window.tok_s if at.window else None
    verdict = at.flags.get("bus")
    said, level = (flag(verdict), LEVELS[verdict.kind]) if verdict else ("", "dim")
    trace = at.charts.bus
    why = how = ""
    if held is None or rate is None:
        value, why = _nothing(at), ""
    else:
        achieved = held.active * rate / 1e9
        top = held.ceiling
        if held.cache is not None:
            value, how = f"{significant(achieved)} GB/s", "out of the cache, not over the bus"
        elif top is not None and top.gb_s:
            star = "*" if at.mine and at.mine.tainted else ""
            value = f"{significant(achieved)}{star}/{significant(top.gb_s)} GB/s {percent(achieved / top.gb_s)}{star} %"
            how = f"{clean(top.how, 20)} over {clean(top.over, 30)}" if top.over else clean(top.how, 20)
        else:
            value, how = f"{significant(achieved)} GB/s", f"no ceiling: {clean(held.why)}"
            said = said or how
    metric = Metric("bus", value, "bus", said, level, trace=trace)
    lines: list[tuple[Line, Line]] = [((("bus ", "dim"), (value, "bus")), ((how, "dim"),))]
    high = f"0–{_bound(trace.high)} %" if trace else ""
    dotted = "bus % of ceiling; dotted: gpu %" if trace and trace.ghost else "bus % of ceiling"
    drawn = trace if trace and (any(v is not None for v in trace.values) or trace.ghost) else None
    alone = Panel("bus", said if verdict else "", level, "bus", tuple(lines), (), drawn, (dotted, high), why)
    both = msgspec.structs.replace(alone, title="bus + gpu", lines=(*lines, _gpu_line(gpu(at)[0])))
    return metric, alone, both


def _gpu_line(card: Metric) -> tuple[Line, Line]:
    if card.why:
        return (("gpu ", "dim"), (f"none: {card.why}", "text")), ()
    return (("gpu ", "dim"), (card.value, "gpu"), (f"  {card.note}", card.level)), ()


def reread(at: Now) -> Metric:
    """Bytes read again for each token, as a share of the active bytes."""
    verdict = at.flags.get("reread") or at.flags.get("swap")
    level = LEVELS[verdict.kind] if verdict else "dim"
    trace = at.charts.swap
    if at.window is None or at.bounds is None:
        return Metric("reread", _nothing(at), "swap", "", level, trace=trace)
    again = windows.reread(at.window, at.bounds.resident)
    passes = max(1, at.window.most_passes)
    known = [count for count in (again.swap, again.file) if count is not None]
    if not known or not at.bounds.active:
        return Metric("reread", "none", "swap", "", level, why=clean(again.note), trace=trace)
    share = sum(known) / passes / at.bounds.active
    parts = [
        f"{name} {size(count / passes)}" if count >= passes else f"{name} 0"
        for name, count in (("swap", again.swap), ("file", again.file))
        if count is not None
    ]
    note = f"{'  '.join(parts)} per token" if sum(known) else "  ".join(parts)
    return Metric("reread", f"{share * 100:.1f} % of A", "swap", note, level, trace=trace)


def memory(at: Now) -> tuple[Metric, Panel]:
    """Memory in use: weights, KV cache, everything else; and whether the next quant fits."""
    readings = at.state.readings
    total, used = readings.get("mem.total"), readings.get("mem.used")
    rss, own = readings.get("engine.rss"), readings.get("engine.anonymous")
    verdict = at.flags.get("memory")
    said, level = (flag(verdict), LEVELS[verdict.kind]) if verdict else ("", "dim")
    if total is None or used is None:
        why = clean(at.state.lost.get("memory", "no reading yet"))
        metric = Metric("memory", "none", "memory", said, level, why=why)
        return metric, Panel("memory", said, level, "memory", why=f"none: {why}")
    mapped_in = max(0.0, rss - own) if rss is not None and own is not None else 0.0
    in_use = min(total, used + mapped_in)
    weights, kv = _held(at, rss)
    other = max(0.0, in_use - weights - kv)
    free = max(0.0, total - in_use)
    value = f"{gib(in_use)}/{gib(total)} GiB"
    legend: list[tuple[str, str]] = []
    shares = []
    for sign, name, count, role in (
        ("█", "weights", weights, "weights"),
        ("▓", "kv", kv, "kv"),
        ("▒", "other", other, "other"),
        ("░", "free", free, "dim"),
    ):
        shares.append(Share(count / total if total else 0.0, sign, role))
        legend += [(sign, role), (f" {name} ", "dim"), (f"{part(count)}  ", "text")]
    trace = at.charts.memory
    dotted = "engine; dotted: all used" if trace and trace.ghost else "used"
    panel = Panel(
        "memory",
        said,
        level,
        "memory",
        ((((value, "memory"),), _engine(at, rss, own)), (tuple(legend), (pressure(at.state),))),
        tuple(shares),
        trace,
        (upcoming(at, total, used - (own or 0.0)) or dotted, _sizes(trace)),
    )
    note = said or f"w {part(weights)} kv {part(kv)} oth {part(other)}"
    return Metric("memory", value, "memory", note, level, trace=trace), panel


def _engine(at: Now, rss: float | None, own: float | None) -> Line:
    if rss is None:
        return ()
    anonymous = f", {size(own)} of its own" if own is not None else ""
    return ((f"engine {size(rss)}{anonymous}", "dim"),)


def _held(at: Now, rss: float | None) -> tuple[float, float]:
    """Bytes of weights and of KV cache in the engine's host memory now."""
    loaded = at.attempt.loaded if at.attempt else None
    if rss is None or loaded is None:
        return 0.0, 0.0
    context = at.attempt.contexts.get(at.state.phase) if at.attempt else None
    kv = float(context.kv_bytes or 0) if context is not None and not loaded.gpu_layers else 0.0
    host = sum(count for name, count in loaded.buffers.items() if "CPU" in name or "Host" in name)
    if not loaded.buffers and not loaded.gpu_layers and at.arm is not None and at.arm.file is not None:
        host = at.arm.file.bytes
    return min(float(host), max(0.0, rss - kv)), min(kv, rss)


def upcoming(at: Now, total: float, others: float) -> str:
    """Whether the quant that comes next fits beside what others use, and how fast it may be."""
    coming = next((arm for arm in at.state.ordered if arm.outcome == "planned" and arm.plan.bytes), None)
    one = next((one for one in at.summary.arms if coming is not None and one.id == clean(coming.id, 80)), None)
    rate, needs = forecast(at, one) if one is not None else (None, None)
    if one is None or needs is None:
        return ""
    fits = "fits" if needs < total - others else "does not fit"
    speed = f", ~{significant(rate)} tok/s" if rate is not None else ""
    return f"next {clean(one.id, 20)} needs ~{size(needs)}: {fits}{speed}"


def forecast(at: Now, one: ArmSummary) -> tuple[float | None, float | None]:
    """Speed and memory of a quant that has not begun, in tok/s and bytes.

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


def pressure(state: State) -> tuple[str, str]:
    """How much memory is waited for, by the source that this host has, and its role; "" without one."""
    level = state.readings.get("mem.pressure")
    if level is not None:
        said, role = PRESSURES.get(int(level), ("?", "dim"))
        return f"memorystatus {said}", role
    waits = state.series.get("psi.memory.some/s")
    if waits is None or waits.last is None or waits.last_x < state.t - FRESH:
        return "", "dim"
    share = waits.last / 1e6
    return f"psi {percent(share)} %", "warn" if share >= WAITED else "dim"


def since(state: State, name: str) -> float | None:
    """Since when a rate has not been zero, in session time; None where it is zero now, or not known."""
    series = state.series.get(name)
    if series is None or not series.last or series.last_x < state.t - FRESH:
        return None
    begun = len(series.sums) - 1
    while begun > 0 and (series.sums[begun - 1] > 0 or not series.counts[begun - 1]):
        begun -= 1
    return begun * series.width


def swap(at: Now) -> tuple[Metric, Panel]:
    """Swap in use and its rates; re-reads stand in the same panel."""
    readings, state = at.state.readings, at.state
    total, used = readings.get("swap.total"), readings.get("swap.used")
    verdict = at.flags.get("swap")
    said, level = (flag(verdict), LEVELS[verdict.kind]) if verdict else ("", "dim")
    again = reread(at)
    head: Line
    rates = "  ".join(f"{name} {_rate(state, key)}" for name, key in (("in", "swap.in/s"), ("out", "swap.out/s")))
    if total is None and used is None:
        why = clean(state.lost.get("swap", "no reading yet"))
        value, head = "none", ((f"none: {why}", "text"),)
        metric = Metric("swap", value, "swap", said, level, why=why)
    elif total == 0:
        value, head = "no swap space", (("no swap space", "text"),)
        metric = Metric("swap", value, "swap", said, level, trace=at.charts.swap)
    else:
        value = f"{size(used) if used else '0'} used"
        of = f" of {size(total)}" if total else ""
        begun = since(state, "swap.in/s")
        told = f" since {clock(begun)}" if begun is not None else ""
        head = ((value, "swap"), (of, "dim"), (f"  {rates}", "text"), (told, "warn"))
        metric = Metric("swap", value, "swap", said or rates, level, trace=at.charts.swap)
    second: Line = (("reread ", "dim"), (f"none: {again.why}" if again.why else again.value, "swap"))
    trace = at.charts.swap
    top = verdict or at.flags.get("reread")
    panel = Panel(
        "swap + reread",
        flag(top) if top else "",
        LEVELS[top.kind] if top else "dim",
        "swap",
        ((head, ()), (second, ((again.note if not again.why else "", again.level),))),
        (),
        trace,
        ("engine reads; dotted: swap-ins" if trace and trace.ghost else "engine reads", _sizes(trace, "/s")),
        "" if trace else "nothing read yet",
    )
    return metric, panel


def gpu(at: Now) -> tuple[Metric, Panel]:
    """The GPUs' use, as the driver tells it; or why there is nothing to tell."""
    readings = at.state.readings
    util = fold.highest(readings, "util")
    used, total = fold.total(readings, "mem_used"), fold.total(readings, "mem_total")
    verdict = at.flags.get("gpu")
    if util is None and used is None:
        why = clean(at.state.lost.get("nvidia", "no NVIDIA driver"))
        return Metric("gpu", "none", "gpu", why=why), Panel("gpu", "", "dim", "gpu", why=f"none: {why}")
    loaded = at.attempt.loaded if at.attempt else None
    words = [f"layers {loaded.gpu_layers}/{loaded.layers}"] if loaded is not None else []
    if used is not None and total is not None:
        words.append(f"vram {gib(used)}/{gib(total)} GiB")
    clock, heat = fold.highest(readings, "clock"), fold.highest(readings, "temperature")
    words += [f"{clock / 1000:.2f} GHz"] if clock is not None else []
    words += [f"{heat:.0f} °C"] if heat is not None else []
    note, level = (flag(verdict), LEVELS[verdict.kind]) if verdict else ("  ".join(words), "dim")
    value = f"{util:.0f} %" if util is not None else "use not told"
    trace = at.charts.gpu
    said = flag(verdict) if verdict else ""
    lines: tuple[tuple[Line, Line], ...] = ((((value, "gpu"),), (("  ".join(words), "text"),)),)
    panel = Panel("gpu", said, level, "gpu", lines, (), trace, ("use", "0–100 %") if trace else ("", ""))
    return Metric("gpu", value, "gpu", note, level, trace=trace), panel


def power(at: Now) -> tuple[Metric, Panel]:
    """Watts and energy per token, or which counter is missing."""
    state = at.state
    watts = fold.total(state.readings, "power")
    energy = at.mine.energy if at.mine else None
    counted = at.attempt.energy.get("decode") if at.attempt else None
    if watts is None and counted is not None and counted.seconds > 0:
        watts = counted.joules / counted.seconds
    per = energy.joules_per_token if energy else None
    efficiency = energy.tok_s_per_w if energy else None
    if watts is None and per is None and fold.energy_counter(state.readings) is None:
        why = clean(state.lost.get("power") or "this host has no energy counter")
        return Metric("power", "none", "power", why=f"no counter: {why}"), Panel(
            "power", "no counter", "dim", "power", why=f"no counter: {why}"
        )
    value = f"{significant(watts)} W" if watts is not None else "not yet"
    star = "*" if energy is not None and energy.tainted else ""
    note = f"{significant(efficiency)}{star} tok/s/W" if efficiency is not None else ""
    if energy is not None and energy.idle_watts is not None and note:
        note += f", idle {significant(energy.idle_watts)} W off"
    left: list[tuple[str, str]] = [(value, "power")]
    if per is not None:
        left.append((f"   {significant(per)}{star} J/token", "text"))
    source = counted.source if counted else (fold.energy_counter(state.readings) or ("", 0))[0]
    trace = at.charts.power
    panel = Panel(
        "power",
        "",
        "dim",
        "power",
        ((tuple(left), ((note, "text"),)),),
        (),
        trace,
        (clean(source, 60), f"0–{_bound(trace.high)} W" if trace else ""),
        "" if trace else f"{clean(source, 60)}: watts are told only per repetition" if source else "",
    )
    return Metric("power", value, "power", note, "dim", trace=trace), panel


# --- words ----------------------------------------------------------------------------------------------------------


def ppl(value: float) -> str:
    """A perplexity with four significant digits, as comparisons of it need."""
    return significant(value, 4) if value < 1e6 else f"{value:.3g}"


def part(count: float) -> str:
    """Bytes in few characters: GiB without a unit, little ones as 17M."""
    return gib(count, 2) if count >= 0.1 * 2**30 else f"{count / 2**20:.0f}M" if count else "0"


def difference(mine: ArmSummary | None) -> str:
    """The paired difference from the base in percent, with the larger side of its 95 % sequence: `+1.7% ±0.3`."""
    delta = mine.delta if mine else None
    if delta is None:
        return ""
    known = radius(delta.percent, delta.low, delta.high)
    # As many decimals as the error has a say in: its first digit is the last one shown.
    places = 2 if not known else min(2, max(1, -math.floor(math.log10(known))))
    places = places if abs(delta.percent) < 100 else 0
    known = max(known, 10.0**-places) if known else known  # what rounds to 0 is not 0
    error = " ±?" if known is None else f" ±{known:.{places}f}" if known < 1e5 else f" ±{known:.1e}"
    return f"{delta.percent:+.{places}f}%{error}" if abs(delta.percent) < 1e5 else f"{delta.percent:+.1e}%"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'}{significant(abs(value))}"


def _range(trace: Trace | None) -> str:
    return f"{_bound(trace.low)}–{_bound(trace.high)}" if trace is not None else ""


def _bound(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e6 else f"{value:.3g}"


def _sizes(trace: Trace | None, per: str = "") -> str:
    return f"0–{size(trace.high)}{per}" if trace and trace.high else "0" if trace else ""


def _rate(state: State, name: str) -> str:
    series = state.series.get(name)
    if series is None or series.last is None or series.last_x < state.t - FRESH:
        return ABSENT
    return f"{size(series.last)}/s" if series.last else "0"


def _nothing(at: Now, phase: str = "decode") -> str:
    """What stands in the place of a figure of a phase: it may still come, or not."""
    if _waiting(at, phase).startswith(("not measured", "never")):
        return "none"
    return "not yet" if at.mine is None or at.mine.outcome in ("running", "planned") else "none"


def _waiting(at: Now, phase: str) -> str:
    """Why there is no figure of a phase yet."""
    settings = at.state.settings
    if phase == "decode" and (not settings.decode or not settings.repetitions or "speed" not in settings.tasks):
        return "not measured: the plan has no decoding"
    if phase == "perplexity" and at.mine is not None and at.mine.ghost:
        return "never: a ghost, its weights are random"
    if phase == "perplexity" and (settings.chunks == 0 or not {"ppl", "kld"} & set(settings.tasks)):
        return "not measured: the plan has no perplexity"
    if at.mine is not None and at.mine.outcome not in ("ok", "running", "planned"):
        return clean(f"none: {at.mine.outcome}: {at.mine.error}" if at.mine.error else f"none: {at.mine.outcome}")
    return "not yet" if not at.running(phase) else "its first figures are under way"
