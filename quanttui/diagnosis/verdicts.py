"""Verdicts: what may be believed of a speed, and why it is what it is. Pure functions of the log's fold.

Owns the decision tree; its rules stand in `memory`, `devices` and `processor`, its lines in `thresholds`. The same log
gives the same verdicts, whoever looks and when: there is no memory in here.

Contamination is one-sided: bytes read again so far convict at once, even inside the first token, while their absence
clears a phase only once enough was timed. What was timed too short is called just that. A speed is put down to
memory bandwidth only when the bytes moved say so; what nothing explains is called unexplained.

A prompt is processed in batches that read the weights once for hundreds of tokens, so its speed is compute: it is
never put down to bandwidth, and its re-reads are held against the bytes of one pass over the weights.
"""

from __future__ import annotations

from collections.abc import Iterable

from quanttui.diagnosis import devices, drift, memory, parts, processor, taint, thresholds, windows
from quanttui.diagnosis.case import CODES, GLYPHS, Case, Verdict
from quanttui.diagnosis.taint import Found
from quanttui.diagnosis.thresholds import DEFAULTS, Thresholds
from quanttui.diagnosis.windows import Bounds, Window
from quanttui.format import clean, size
from quanttui.state import Arm, Attempt, State

_PHASES = ("", "decode", "prompt", "perplexity")
_KINDS = tuple(GLYPHS)


Parts = dict[tuple[str, int], tuple[Window | None, tuple[Bounds, Found] | None]]
"""Of phases of attempts of one arm: the window, and its contaminated stretches under bounds."""


def of_arm(
    state: State, arm: Arm, limits: Thresholds | None = None, known: Parts | None = None
) -> tuple[Verdict, ...]:
    """All verdicts on an arm, finished and running phases alike: contaminated first, then decode before prompt.

    A phase is judged in the latest attempt that has repetitions of it, which is the one whose figures count. `limits`
    are the session's own unless given.

    Args:
        known: what was found before of the same arm, unchanged since and not running; what is found now joins it.
    """
    limits = limits or thresholds.of(state.settings)
    found = list(_out_of_memory(state, arm))
    for kind in ("decode", "prompt", "perplexity"):
        attempt = windows.latest(arm, kind) if kind != "perplexity" else None
        attempt = attempt or parts.under_way(state, arm, kind)
        if attempt is not None:
            found += _phase(state, arm, attempt, kind, limits, None, known)
    return ranked([*found, *_drifting(state, arm)])


def live(state: State, limits: Thresholds | None = None) -> tuple[Verdict, ...]:
    """The verdicts on the unit under way and the repetitions of its phase before it; none between units."""
    if state.running is None:
        return ()
    unit = state.running.unit
    arm = state.arms.get(unit.arm) if unit.kind in _PHASES else None
    attempt = parts.under_way(state, arm, unit.kind) if arm is not None else None
    if arm is None or attempt is None:
        return ()
    return ranked(_phase(state, arm, attempt, unit.kind, limits or thresholds.of(state.settings)))


def ranked(found: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """Contaminated before all else; then by phase (the whole arm, decode, prompt, perplexity) and kind; then by what
    they cost, the dearest first; then in the tree's order."""

    def rank(one: Verdict) -> tuple[bool, int, int, float, int]:
        phase = _PHASES.index(one.phase) if one.phase in _PHASES else len(_PHASES)
        return one.kind != "contaminated", phase, _KINDS.index(one.kind), -(one.cost or 0.0), CODES.index(one.code)

    return tuple(sorted(found, key=rank))


def judge(
    window: Window, bounds: Bounds, limits: Thresholds = DEFAULTS, tainted: Found | None = None
) -> tuple[Verdict, ...]:
    """The decision tree on one window: what contaminates it, else what explains it.

    Perplexity is judged by its re-reads alone, and they are a caution there: they cost time, never the value; and the
    CPU share of scoring, which uses fewer threads than decoding, says nothing.

    Args:
        tainted: the window's contaminated stretches, which convict even where the whole does not.
    """
    case = Case(
        window=window,
        bounds=bounds,
        reread=windows.reread(window, bounds.resident),
        limits=limits,
        tainted=tainted or Found(),
    )
    found = memory.rules(case)
    if window.phase == "perplexity":
        return ranked(found)
    found += devices.rules(case)
    for rule in (processor.contention, processor.bus):
        # Threads that wait for storage use little of the CPU, and the bus: what is read again explains that.
        if not _contaminated(found) and (one := rule(case)) is not None:
            found.append(one)
    return ranked(found if _contaminated(found) else [*found, *_explained(case, found)])


def _contaminated(found: Iterable[Verdict]) -> bool:
    return any(one.kind == "contaminated" for one in found)


def _explained(case: Case, found: list[Verdict]) -> list[Verdict]:
    """Why a speed that nothing contaminates is what it is."""
    decoding, cache = case.window.phase == "decode", case.bounds.cache
    explained = [processor.cache_resident(case, cache)] if decoding and cache is not None else []
    if case.is_short:
        return [*explained, processor.too_short(case)]
    codes = {one.code for one in found}
    if not decoding or explained or "partial-offload" in codes:
        return explained
    if any(one.code == "memory-bus-contention" and one.words == "busy neighbour" for one in found):
        return []  # beside a busy neighbour neither the speed nor the ceiling is known to be what it would be
    return [processor.explanation(case)]


def at_depth(state: State, arm: Arm, attempt: Attempt, kind: str, depth: int) -> tuple[Verdict, ...]:
    """The verdicts on prompt or decode at one of the deeper depths."""
    return _phase(state, arm, attempt, kind, thresholds.of(state.settings), depth)


def _phase(
    state: State,
    arm: Arm,
    attempt: Attempt,
    kind: str,
    limits: Thresholds,
    depth: int | None = None,
    known: Parts | None = None,
) -> tuple[Verdict, ...]:
    key = kind, attempt.number
    window, judged = known[key] if known is not None and key in known else (None, None)
    if window is None:
        window = windows.window(state, arm, attempt, kind, depth)
    bounds = windows.bounds(state, arm, attempt, kind, depth)
    if window is None or bounds is None or bounds.active <= 0:
        return ()
    if judged is None or not taint.is_under_the_same(judged[0], bounds):
        judged = bounds, taint.of(state, arm, attempt, kind, bounds, limits, depth)
    if known is not None:
        known[key] = window, judged
    return judge(window, bounds, limits, judged[1])


def _out_of_memory(state: State, arm: Arm) -> list[Verdict]:
    failed = arm.attempt.failed if arm.attempt else None
    if failed is None or arm.outcome != "oom":
        return []
    evidence: dict[str, float | str] = {"error": clean(failed.error)}
    if failed.signal is not None:
        evidence["signal"] = float(failed.signal)
    needed = arm.file.bytes if arm.file else arm.plan.bytes
    if needed is not None:
        evidence["bytes of the file"] = float(needed)
    limit = (state.host.memory_limit or state.host.memory) if state.host else None
    if limit is not None:
        evidence["bytes of memory"] = float(limit)
    place = f" in the {clean(failed.phase)} phase" if failed.phase else ""
    return [
        Verdict(
            code="out-of-memory",
            phase="",
            kind="contaminated",
            words="oom",
            sentence=f"It ran out of memory{place}: weights of {size(needed)} against {size(limit)} of memory.",
            advice="Take a smaller quant or a shorter context, or free memory and run it again.",
            evidence=evidence,
            cost=1.0,
        )
    ]


def _drifting(state: State, arm: Arm) -> list[Verdict]:
    """The machine changed between the anchor's rounds before and after the arm's decode."""
    change, attempt = drift.of(state, arm), windows.latest(arm, "decode")
    anchor, around = drift.anchor(state), drift.bracket(state, arm)
    if change is None or attempt is None or anchor is None or around is None:
        return []
    before, after = around
    how = "changed by" if drift.drifted(state, before, after) else "was off its usual speed by"
    name = clean(anchor.id, 40)
    again = attempt.number > 1
    return [
        Verdict(
            code="drifting",
            phase="decode",
            kind="caution",
            words=f"drifting {100 * change:+.0f}%",
            sentence=f"{name}, the anchor, {how} {100 * change:+.1f} % while this was "
            f"{'measured again' if again else 'measured'}: its speed is not comparable with the others'.",
            advice="Let the machine cool down and hold its clock, or take turns: --schedule abba."
            if again
            else "It is measured once more when the others are done; a sweep that was ended before: --resume.",
            evidence={
                "anchor": name,
                "anchor's tok/s before": before.tok_s,
                "anchor's tok/s after": after.tok_s,
                "change, %": 100 * change,
                "change that counts as drift, %": 100 * state.settings.drift,
                "seconds between the two rounds": after.start - before.end,
            },
        )
    ]
