"""The panel of a task: which task it is of, and that its figures are those of the study."""

from __future__ import annotations

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import state as fold
from quanttui.decide import study
from quanttui.packed import Packed, Shelf
from quanttui.state import State
from quanttui.tui import answers
from quanttui.tui.glyphs import SETS
from quanttui.tui.parts import Panel
from quanttui.tui.widgets.panel import boxed

RIGHTS = st.lists(st.booleans(), min_size=1, max_size=40)


def log(base: list[bool], ours: list[bool], ppl: float | None = None) -> list[e.Event]:
    """A session in which both arms answered; the second is the one under way at its end."""

    def said(rights: list[bool]) -> dict[str, tuple[str, bool | None]]:
        return {f"item-{at}": ("so", right) for at, right in enumerate(rights)}

    return builders.events(
        builders.Arm("F16", ppl=ppl, answers=said(base)),
        builders.Arm("Q4_K_M", ppl=ppl, answers=said(ours)),
        settings=builders.settings(tasks=("speed", "ppl", "prompts") if ppl else ("speed", "prompts")),
    )


def until(events: list[e.Event], items: int) -> State:
    """The state right after the second arm's so many answers."""
    state, told = State(), 0
    for event in events:
        state.apply(event)
        told += isinstance(event, e.Item) and event.unit.arm == "Q4_K_M"
        if told == items:
            return state
    raise AssertionError("fewer answers")


def shown(panel: Panel) -> str:
    lines = boxed(panel, 90, 12, SETS["ascii"])
    return "\n".join("".join(text for text, _ in line) for line in lines)


def made(state: State, known: State | None = None) -> Panel:
    drawn = answers.trace(state, known or state, "prompts", 60)
    return answers.panel(state, "prompts", drawn, state.phase == "task")[1]


@given(RIGHTS, RIGHTS)
def test_the_share_its_interval_and_the_difference_are_the_studys(base: list[bool], ours: list[bool]) -> None:
    state = fold.fold(log(base, ours))
    told = study.live(state, "prompts", state.arms["Q4_K_M"])
    assert told is not None
    text = shown(made(state))
    assert f"{100 * sum(ours) / len(ours):.1f} %  {sum(ours)} of {len(ours)} right" in text
    assert f"{100 * told.value.low:.1f} % to {100 * told.value.high:.1f} %" in text
    assert told.against is not None and f"{100 * told.against.value:+.1f} pp" in text
    assert f"{min(len(base), len(ours))} pairs" in text and "vs F16" in text


def test_while_a_task_is_under_way_its_answers_stand_in_place_of_the_perplexity() -> None:
    events = log([True] * 6, [True, False, True, True, False, True], ppl=8.0)
    state = until(events, 3)
    assert answers.task(state) == "prompts"
    assert "3/6" in shown(made(state)) and "66.7 %" in shown(made(state))


def test_where_no_perplexity_was_asked_for_the_answers_stay() -> None:
    assert answers.task(fold.fold(log([True], [False]))) == "prompts"
    assert answers.task(fold.fold(builders.events(builders.Arm("F16", ppl=8.0)))) == ""


def test_at_an_earlier_moment_what_follows_is_drawn_and_not_counted() -> None:
    events = log([True] * 8, [True, False] * 4)
    state, known = until(events, 2), fold.fold(events)
    drawn = answers.trace(state, known, "prompts", 40)
    assert drawn is not None and drawn.cursor == 2
    assert "50.0 %  1 of 2 right" in shown(made(state, known))


def test_answers_that_nobody_checks_have_no_share() -> None:
    arm = builders.Arm("F16", answers={"a": ("so", None), "b": ("so", None)})
    state = fold.fold(builders.events(arm, settings=builders.settings(tasks=("speed", "prompts"))))
    text = shown(made(state))
    assert "2 answers, none of them with a check" in text and "%" not in text


def test_of_quants_that_are_over_only_the_bases_answers_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame costs the same however many quants a sweep has behind it."""
    many = [builders.Arm(name, answers={"a": ("so", True)}) for name in sorted(builders.BY_NAME)]
    state = fold.fold(builders.events(*many, settings=builders.settings(tasks=("speed", "prompts"))))
    over = [arm for arm in state.arms.values() if isinstance(arm.answers, Packed)]
    assert len(over) > 5
    read: list[bytes] = []
    monkeypatch.setattr(fold._answers, "get", lambda body: read.append(body) or Shelf.get(fold._answers, body))
    assert study.live(state, "prompts", state.arms[state.arm]) is not None
    made(state)
    base = study.answering_base(state, "prompts")
    assert base is not None and isinstance(base.answers, Packed)
    own = state.arms[state.arm].answers
    assert set(read) <= {base.answers.body, own.body if isinstance(own, Packed) else b""}
