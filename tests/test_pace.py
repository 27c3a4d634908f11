"""What is painted when, by a clock of the tests' own: ordinary rates, and the quiet while repetitions are timed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quanttui.tui import pace
from quanttui.tui.pace import ORDINARY, QUIET, REMOTE, SLACK, UNFOCUSED, Pace

Frame = tuple[float, str]


def timed(seconds: float, count: int, tick: float = 1.0, late: float = 0.1, gap: float = 0.001) -> list[Frame]:
    """What is painted while `count` repetitions of `seconds` are timed on all cores, one after another.

    The screen looks once a `tick`, and `late` after a repetition ended where that may be worth while.
    """
    kept, painted, end = Pace(), [], count * (seconds + gap)
    looks = [(tick * k, False) for k in range(int(end / tick) + 1)]
    looks += [((k + 1) * (seconds + gap) + late, True) for k in range(count - 1)]
    for now, ended in sorted(looks):
        if ended and not kept.welcomes(now, QUIET):
            continue
        due = kept.due(now, QUIET, ended or now % (seconds + gap) > seconds)
        if due:
            painted.append((now, due))
    return painted


def spacing(frames: list[Frame], kind: str) -> list[float]:
    times = [t for t, due in frames if due == kind]
    return [later - earlier for earlier, later in pairwise(times)]


def test_the_rates_follow_quiet_then_focus_then_the_link() -> None:
    assert pace.rates(True, True, False) is QUIET
    assert pace.rates(False, True, False) is UNFOCUSED
    assert pace.rates(False, True, True) is REMOTE
    assert pace.rates(False, False, True) is ORDINARY


@given(st.floats(0.02, 30), st.floats(0.05, 1))
def test_while_repetitions_are_timed_numbers_come_once_a_second_and_whole_frames_rarely(
    seconds: float, tick: float
) -> None:
    painted = timed(seconds, min(200, int(60 / seconds) + 2), tick)
    assert {due for _, due in painted} <= {"whole", "few"}
    every = [later - earlier for (earlier, _), (later, _) in pairwise(painted)]
    # A frame at a repetition's end does not wait for the numbers' second: two paintings may be closer there.
    assert all(apart >= QUIET.between - 2 * SLACK for apart in spacing(painted, "whole"))
    assert sum(apart < QUIET.numbers - 2 * SLACK for apart in every) <= len(spacing(painted, "whole")) + 1
    assert all(apart <= QUIET.whole + 2 * tick for apart in spacing(painted, "whole"))


def test_a_long_repetition_gets_a_whole_frame_every_three_seconds_and_one_at_its_end() -> None:
    painted = timed(10.0, 2)
    inside = [t for t, due in painted if due == "whole" and 0 < t < 10]
    assert inside == [3.0, 6.0, 9.0]
    # The frame at 9 s is too fresh for another at 10.1 s: the next comes at its own time.
    assert next(t for t, due in painted if due == "whole" and t > 9.5) == 12.0


@given(st.floats(1.6, 2.6))
def test_whole_frames_come_right_after_a_repetition_where_repetitions_are_shorter_than_the_wait(
    seconds: float,
) -> None:
    """Never deeper inside one than the reader is late; or in the gap between two."""
    last_end = 10 * (seconds + 0.001) - 0.001
    painted = [t for t, due in timed(seconds, 10, late=0.1) if due == "whole" and t < last_end]
    assert len(painted) == 10
    assert all(not 0.1 + 1e-6 < t % (seconds + 0.001) < seconds for t in painted)


def test_leaving_the_quiet_is_a_whole_frame_at_once() -> None:
    kept = Pace()
    assert kept.due(0.0, QUIET) == "whole"
    assert kept.due(0.5, QUIET) == ""
    assert kept.due(0.6, ORDINARY) == "whole"
    assert kept.due(0.7, ORDINARY) == ""


def test_nothing_timed_within_the_quiet_is_as_good_as_between_repetitions() -> None:
    kept = Pace()
    kept.due(0.0, QUIET)
    assert kept.due(2.0, QUIET) == "few"
    assert kept.due(2.1, QUIET, True) == "whole"


def test_a_frame_out_of_turn_moves_the_next() -> None:
    kept = Pace()
    kept.due(0.0, QUIET)
    kept.answered(2.5)
    assert kept.due(3.1, QUIET) == ""
    assert kept.due(5.5, QUIET) == "whole"


def test_hurry_has_a_whole_frame_even_in_the_quiet() -> None:
    kept = Pace()
    kept.due(0.0, QUIET)
    kept.hurry()
    assert kept.due(0.1, QUIET) == "whole"


def test_the_end_of_a_repetition_is_worth_a_look_only_in_the_quiet_and_when_a_frame_is_due() -> None:
    kept = Pace()
    kept.due(0.0, QUIET)
    assert not kept.welcomes(1.0, QUIET) and kept.welcomes(1.5, QUIET)
    assert not kept.welcomes(10.0, ORDINARY)


def test_a_frame_that_is_waited_for_may_come_sooner_and_wherever_the_quiet_was_not_seen_yet() -> None:
    kept = Pace()
    kept.due(0.0, QUIET)
    assert not kept.welcomes(pace.ROOM / 2, QUIET, waits=True) and kept.welcomes(pace.ROOM, QUIET, waits=True)
    assert kept.welcomes(0.1, ORDINARY, waits=True)


@given(st.lists(st.tuples(st.floats(0.01, 2), st.booleans()), min_size=1, max_size=200))
def test_painting_keeps_to_its_rates(frames: list[tuple[float, bool]]) -> None:
    """Whole frames at most as often as the rates say, save the one that ends the quiet; and never too long without."""
    now, whole, was_quiet = 0.0, -10.0, False
    kept = Pace()
    for passed, quiet in frames:
        now += passed
        rates = pace.rates(quiet, False, True)
        due = kept.due(now, rates)
        if due == "whole":
            least = rates.between if quiet and not was_quiet else rates.whole
            assert now - whole >= least - 2 * SLACK or (was_quiet and not quiet)
            whole = now
        assert now - whole <= max(rates.whole, passed) + 2
        assert due != "numbers" or not quiet
        was_quiet = quiet
