"""The panel of a task: how many answers are right so far, and against the base, with intervals that may be watched.
Pure: a state in, a metric and a panel out.
"""

from __future__ import annotations

from quanttui.decide import study
from quanttui.decide.study import Live
from quanttui.format import clean
from quanttui.series import Series
from quanttui.state import Answer, Arm, State
from quanttui.tui.parts import Line, Metric, Panel
from quanttui.tui.trace import Trace, at_cursor, over_progress


def task(state: State) -> str:
    """The task to show: the one under way, else the last that the quant under way has answered anything of, where it
    has no perplexity; "" where a perplexity is to be shown."""
    arm = state.arms.get(state.arm)
    if arm is None:
        return ""
    if state.running is not None and state.running.unit.kind == "task":
        return state.running.unit.task
    if arm.items and (state.phase == "task" or not arm.chunks):
        return next(reversed(arm.items.values())).unit.task
    return ""


def trace(state: State, known: State, name: str, columns: int) -> Trace | None:
    """The share of right answers so far in percent, over the items in the order in which they came; dotted the base's
    over the same ones."""
    arm, here = known.arms.get(state.arm), state.arms.get(state.arm)
    if arm is None or here is None or not (found := study.answers(arm, name)):
        return None
    other = study.answering_base(known, name)
    ghost = _running(found, study.answers(other, name)) if other is not None and other is not arm else None
    span = max(arm.items_planned.get(name, 0), len(found))
    drawn = over_progress(_running(found, found), ghost, span, columns)
    now = len(study.answers(here, name))
    return at_cursor(drawn, now) if now < len(found) else drawn


def _running(order: dict[str, Answer], of: dict[str, Answer]) -> Series:
    """The share right in percent after each item of `order`; one that is not answered, or not judged, is a break."""
    series, right, judged = Series(width=1.0), 0, 0
    for place, item in enumerate(order):
        one = of.get(item)
        if one is not None and study.counts(one):
            right, judged = right + bool(one.correct), judged + 1
            series.add(place, 100 * right / judged)
    return series


def panel(state: State, name: str, drawn: Trace | None, is_running: bool) -> tuple[Metric, Panel]:
    """The task's figures of the quant under way, in one line and at length."""
    title = clean(name, 30)
    arm = state.arms[state.arm]
    told = study.live(state, name, arm)
    status = "running" if is_running else "waiting" if _is_open(arm, name) else "done"
    level = "accent" if is_running else "dim"
    if told is None:
        why = f"{len(study.answers(arm, name))} answers, none of them with a check"
        return Metric(title, why, "text", trace=drawn), Panel(title, status, level, "perplexity", why=why)
    share, right = _percent(told.value.value), round(told.value.value * told.value.n)
    head: Line = ((share, "perplexity"), (f"  {right} of {told.value.n} right", "text"))
    count: Line = (("items ", "dim"), (f"{len(study.answers(arm, name))}/{told.planned}", "text"))
    lines: list[tuple[Line, Line]] = [
        (head, count),
        (((f"±95 {_percent(told.value.low)} to {_percent(told.value.high)}", "text"), (f" {told.measure}", "dim")), ()),
    ]
    gap = _against(told)
    if gap:
        lines.append((gap, ((f"{told.against.n if told.against else 0} pairs", "dim"),)))
    dotted = f"dotted: {told.base} over the same items" if drawn is not None and drawn.ghost else "by items answered"
    made = Panel(title, status, level, "perplexity", tuple(lines), (), drawn, (dotted, "95 % sequence"))
    note = " ".join(text for text, _ in gap) if gap else "base" if told.arm == told.base else ""
    return Metric(title, f"{share} {right}/{told.value.n}", "perplexity", note, "text", trace=drawn), made


def _is_open(arm: Arm, name: str) -> bool:
    return arm.outcome == "running" and len(study.answers(arm, name)) < arm.items_planned.get(name, 0)


def _against(told: Live) -> Line:
    """The difference from the base in percentage points, with its interval; nothing for the base itself."""
    if told.against is None:
        return ()
    gap = told.against
    return (
        (f"Δ {100 * gap.value:+.1f} pp", "text"),
        (f" ±95 {100 * gap.low:+.1f} to {100 * gap.high:+.1f}", "text"),
        (f" vs {told.base}", "dim"),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
