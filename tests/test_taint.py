"""Tainted stretches: found where they were, kept for ever, and left out of the clean-only speed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import state as fold
from quanttui.diagnosis import taint, thresholds, verdicts, windows
from quanttui.diagnosis.parts import Part
from quanttui.diagnosis.taint import CPU, PAGE_IN, SWAP
from quanttui.diagnosis.windows import Bounds
from quanttui.summary import summarize

ACTIVE = 1e9
HELD = Bounds(active=ACTIVE, resident=1.1e9, threads=2, offloaded=0)


def part(at: float, seconds: float = 1.0, tokens: float = 10.0, **seen: float) -> Part:
    """A second of clean decoding, but for what is said: `again` is a share of the active bytes read from the file."""
    again = seen.get("again", 0.0) * ACTIVE * tokens
    return Part(
        at=0.0, start=at, tokens=tokens, passes=tokens, seconds=seconds, tok_s=tokens / seconds, read=again,
        majflt=50.0 if again else 0.0, swap_in=again if seen.get("swap") else 0.0, zswap_in=0.0,
        cpu=2 * seconds * seen.get("cpu", 0.97), cpu_seconds=seconds, others=seen.get("others"),
    )  # fmt: skip


def stretch(*shares: float, name: str = "again", **more: float) -> list[Part]:
    return [part(float(place), **{name: share}, **more) for place, share in enumerate(shares)]


def found(parts: list[Part], limits: thresholds.Thresholds = thresholds.DEFAULTS) -> taint.Found:
    return taint.found(parts, set(), HELD, limits)


def test_a_clean_phase_has_no_stretches_and_needs_no_clean_only_speed() -> None:
    assert found(stretch(0, 0, 0.0009, 0)) == taint.Found()


def test_a_stretch_begins_at_one_percent_and_lasts_until_re_reading_is_over() -> None:
    """Between the two lines it stays what it was: no flag that comes and goes."""
    (one,) = found(stretch(0, 0.02, 0.005, 0.003, 0.001, 0.005)).intervals
    assert (one.code, one.start, one.end, one.worst) == (PAGE_IN, 1.0, 4.0, pytest.approx(0.02))


def test_what_came_from_swap_is_told_from_what_came_from_the_file() -> None:
    (one,) = found(stretch(0, 0.5, 0, swap=1.0)).intervals
    assert one.code == SWAP


def test_the_clean_only_speed_is_of_the_tokens_outside() -> None:
    parts = [part(0.0), part(1.0, tokens=1, again=0.5), part(2.0), part(3.0)]
    clean = found(parts).clean
    assert clean is not None
    assert (clean.tok_s, clean.seconds, clean.of) == (10.0, 3.0, 4.0)


def test_nothing_is_clean_where_all_of_it_was_contaminated() -> None:
    assert found(stretch(0.5, 0.4, 0.6)).clean is None


@pytest.mark.parametrize(
    ("shares", "settled"),
    [([0.5, 0.2, 0, 0, 0, 0], 4.0), ([0, 0.5, 0, 0, 0], 0.0), ([0.5, 0, 0.5, 0, 0], 0.0), ([0.5, 0.4], 0.0)],
)
def test_it_settled_where_only_the_beginning_was_contaminated(shares: list[float], settled: float) -> None:
    assert found(stretch(*shares)).settled == settled


def test_little_cpu_time_convicts_over_three_seconds_and_not_over_one() -> None:
    once, long = (0.97, 0.97, 0.4, 0.97, 0.97, 0.97), (0.97, 0.97, 0.97, 0.4, 0.4, 0.4, 0.97, 0.97, 0.97, 0.97)
    assert not found(stretch(*once, name="cpu", others=1.2)).intervals
    (one,) = found(stretch(*long, name="cpu", others=1.2)).intervals
    assert one.code == CPU
    assert one.start <= 3.0 and one.end >= 6.0
    assert one.worst == pytest.approx(0.4)


def test_threads_that_nobody_took_the_cores_from_are_not_starved_by_a_neighbour() -> None:
    """They wait for storage, say, of which no byte is counted before it has answered."""
    alone = stretch(*[0.97] * 4, *[0.1] * 5, name="cpu", others=0.02)
    beside = stretch(*[0.97] * 4, *[0.1] * 5, name="cpu", others=1.5)
    assert not found(alone).intervals
    assert [one.code for one in found(beside).intervals] == [CPU]


def test_threads_that_wait_while_memory_is_taken_away_are_not_starved_by_who_takes_it() -> None:
    beside = stretch(*[0.97] * 4, *[0.1] * 5, name="cpu", others=1.5)
    squeezed = [msgspec.structs.replace(one, swap_out=0.05 * ACTIVE) for one in beside]
    assert found(beside).intervals and not found(squeezed).intervals


def test_threads_that_wait_for_storage_are_not_said_to_lack_the_cpu() -> None:
    both = [part(float(at), again=0.5, cpu=0.2) for at in range(6)]
    assert {one.code for one in found(both).intervals} == {PAGE_IN}


def test_little_cpu_time_of_an_offloaded_model_is_no_contention() -> None:
    held = msgspec.structs.replace(HELD, offloaded=33)
    assert not taint.found(stretch(*[0.3] * 9, name="cpu"), set(), held, thresholds.DEFAULTS).intervals


def test_the_first_reading_after_a_load_is_none_of_it() -> None:
    cold = [msgspec.structs.replace(one, read=0.3 * ACTIVE, majflt=0.0) for one in stretch(0, 0, 0, 0)]
    assert not taint.found(cold, {0.0}, HELD, thresholds.DEFAULTS).intervals
    assert taint.found(cold, set(), HELD, thresholds.DEFAULTS).intervals


@given(st.lists(st.sampled_from([0.0, 0.001, 0.004, 0.02, 0.9]), min_size=1, max_size=40))
def test_every_convicting_second_lies_in_a_stretch_and_no_clean_one_does(shares: list[float]) -> None:
    parts = stretch(*shares)
    intervals = found(parts).intervals
    for one, share in zip(parts, shares, strict=True):
        inside = any(i.start <= one.start < i.end for i in intervals)
        assert inside or share < thresholds.DEFAULTS.contaminated
        assert not inside or share >= thresholds.DEFAULTS.edge
    assert all(a.end <= b.start for a, b in pairwise(intervals))


@given(
    st.lists(st.sampled_from([0.0, 0.02, 0.5]), min_size=1, max_size=20),
    st.lists(st.sampled_from([0.0, 0.02, 0.5]), max_size=20),
)
def test_a_stretch_that_was_found_stays_found_whatever_comes_after(before: list[float], after: list[float]) -> None:
    first, later = found(stretch(*before)).intervals, found(stretch(*before, *after)).intervals
    assert [one.start for one in first] == [one.start for one in later][: len(first)]
    assert all(ours.end <= theirs.end for ours, theirs in zip(first, later, strict=False))


# From events.

LONG = builders.Arm("Q8_0", tok_s=18.0, tokens=90, repetitions=6)


def judged(arm: builders.Arm, **changes: object) -> tuple[fold.State, list[str]]:
    now = builders.state(arm, **changes)
    return now, [one.code for one in verdicts.of_arm(now, now.arms[arm.name]) if one.phase == "decode"]


def test_one_contaminated_repetition_marks_the_figure_though_the_mean_of_all_hides_it() -> None:
    """2 % of the bytes in one repetition of six are 0.3 % over all: under the line, and still a marked figure."""
    now, codes = judged(replace(LONG, page_in=0.02, only=(2,)))
    assert codes == ["page-in-thrash"]
    row = summarize(now).arms[0]
    assert row.tainted and row.decode is not None and row.decode.clean is not None
    assert 0.7 <= row.decode.clean.seconds / row.decode.clean.of <= 0.9
    assert row.decode.clean.tok_s == pytest.approx(18.0, rel=0.02)


def test_a_neighbour_in_one_long_repetition_marks_the_figure() -> None:
    now, codes = judged(replace(LONG, cpu=0.5, only=(3,)))
    assert codes == ["cpu-contention"]
    (one,) = [v for v in verdicts.of_arm(now, now.arms["Q8_0"]) if v.code == "cpu-contention" and v.phase == "decode"]
    assert one.words.startswith("cpu for ")


def test_what_was_re_read_at_the_beginning_only_has_settled() -> None:
    now, codes = judged(replace(LONG, swap=0.05, only=(0, 1)))
    assert codes == ["settling"]
    (one,) = [v for v in verdicts.of_arm(now, now.arms["Q8_0"]) if v.code == "settling"]
    assert one.kind == "contaminated" and "swap" in one.sentence and "18" in one.sentence


def test_a_clean_sweep_has_no_stretch_at_any_moment() -> None:
    for now in builders.states(builders.events(LONG)):
        for one in now.arms.values():
            for attempt in one.attempts:
                held = windows.bounds(now, one, attempt, "decode")
                if held is not None:
                    assert not taint.of(now, one, attempt, "decode", held, thresholds.DEFAULTS).intervals


def test_a_deeper_depth_is_marked_by_its_own_counters() -> None:
    asked = builders.settings(depths=(0, 4096), prompt=0)
    clean = summarize(builders.state(LONG, settings=asked)).arms[0].deeper
    bad = summarize(builders.state(replace(LONG, page_in=0.05), settings=asked)).arms[0].deeper
    assert [(one.decode_tainted, one.prompt_tainted) for one in clean] == [(False, False)]
    assert [(one.decode_tainted, one.prompt_tainted) for one in bad] == [(True, False)]


# Onset.


@pytest.mark.parametrize(
    ("arm", "code"),
    [
        (replace(LONG, page_in=0.02, only=(3,)), "page-in-thrash"),
        (replace(LONG, swap=0.02, only=(3,)), "swap-contaminated"),
        (replace(LONG, cpu=0.5, only=(3,)), "cpu-contention"),
    ],
)
def test_what_begins_amid_a_phase_is_seen_within_three_seconds(arm: builders.Arm, code: str) -> None:
    """Three clean repetitions of 5 s lie behind it: their evidence does not drown what begins now."""
    began = None
    for now in builders.states(builders.events(arm, settings=builders.settings(prompt=0))):
        running = now.running
        if running is not None and running.unit.index == 3 and running.unit.kind == "decode":
            began = running.at if began is None else began
        seen = [one.code for one in verdicts.live(now) if one.kind == "contaminated"]
        if seen:
            assert began is not None and seen == [code]
            assert now.t - began <= 3.0
            return
    pytest.fail("never flagged")


# What only shows at the edges.


def killed_amid(arm: builders.Arm, kind: str, seconds: float) -> fold.State:
    """The session as it was `seconds` into the first unit of a kind: nothing of it is told but samples."""
    now = fold.State()
    for event in builders.events(arm, settings=builders.settings(prompt=4096 if kind == "prompt" else 0)):
        now.apply(event)
        if now.running is not None and now.running.unit.kind == kind and now.t - now.running.at >= seconds:
            return now
    raise AssertionError


@pytest.mark.parametrize("cpu", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["prompt", "decode"])
def test_a_session_that_ended_amid_its_first_unit_is_judged_without_a_fall(kind: str, cpu: float) -> None:
    """No token and no second is told of it yet."""
    slow = builders.Arm("Q8_0", tok_s=0.05, prompt_tok_s=60.0, cpu=cpu, tokens=4)
    for seconds in (0.5, 4.0, 12.0):
        now = killed_amid(slow, kind, seconds)
        assert summarize(now).arms and verdicts.live(now) == verdicts.live(now)
        assert all(0 <= (one.cost or 0.0) <= 1 for one in verdicts.live(now))


@pytest.mark.parametrize("tok_s", [18.0, 30.0, 120.0])
def test_a_slow_token_after_fast_ones_is_flagged_within_three_seconds(tok_s: float) -> None:
    """What an engine may hold back is one second of tokens, not one for every second that a token lasts."""
    log = builders.Log((builders.Arm("Q8_0", tok_s=tok_s),), settings=builders.settings(prompt=0))
    log.open()
    arm = log.arms[0]
    log.begin(arm, 1, ["bandwidth", "load"])
    log.put(e.PhaseStarted(arm=arm.name, phase="decode"))
    for index in range(5):
        log.repetition(arm, 1, "decode", index, tok_s)
    unit = e.Unit(arm=arm.name, kind="decode", index=5, tokens=500)
    log.put(e.UnitStarted(unit=unit, at=log.t))
    quick = round(1e9 / tok_s)
    log.sample(arm)
    for place in range(5):
        log.t += 1.0
        log.counters["engine.cpu"] += 1.9
        log.put(e.Tokens(unit=unit, first=place * int(tok_s), ns=(quick,) * int(tok_s)))
        log.sample(arm)
    began = log.t
    now = fold.fold(log.events)
    assert not [one for one in verdicts.live(now) if one.kind == "contaminated"]
    while True:  # a token that needs its bytes from a slow disk, 60 MB/s of them
        log.t += 1.0
        log.counters["engine.read"] += 60e6
        log.counters["engine.majflt"] += 4
        log.counters["engine.cpu"] += 0.1
        log.sample(arm)
        now.apply(log.events[-1])
        if seen := [one.code for one in verdicts.live(now) if one.kind == "contaminated"]:
            break
    assert seen == ["page-in-thrash"] and log.t - began <= 3.0


def test_what_came_before_the_first_sample_of_a_repetition_counts_too() -> None:
    """Bytes that lie in no slice are the repetition's own counters less those of its slices."""
    log = []
    for event in builders.events(LONG):
        if isinstance(event, e.UnitDone) and event.unit.kind == "decode" and event.unit.index == 2:
            more = msgspec.structs.replace(event.counters, read=(event.counters.read or 0) + 10**9, majflt=40)
            event = msgspec.structs.replace(event, counters=more)
        log.append(event)
    now = fold.fold(log)
    assert summarize(now).arms[0].tainted


def test_hours_of_perplexity_do_not_push_the_slices_of_the_decode_together() -> None:
    now = builders.state(replace(LONG, page_in=0.02, only=(2,), chunks=4000))
    kept = now.arms["Q8_0"].attempts[0].slices
    assert {one.kind for one in kept} <= {"prompt", "decode"}
    assert summarize(now).arms[0].tainted


def test_time_between_repetitions_is_no_part_of_a_stretch() -> None:
    parts = [part(0.0, again=0.5), part(300.0, again=0.5)]
    (one,) = found(parts).intervals
    assert (one.end - one.start, one.seconds) == (301.0, 2.0)


def test_starved_seconds_are_not_clean_because_others_were_re_read() -> None:
    starved = [part(2.0 + at, cpu=0.4, others=1.2) for at in range(6)]
    parts = [*stretch(0.5, 0.5), *starved, *(part(8.0 + at) for at in range(4))]
    seen = found(parts)
    assert [one.code for one in seen.intervals] == [PAGE_IN, CPU]
    assert seen.clean is not None and seen.clean.seconds <= 4.0


def test_a_run_again_that_fails_marks_nothing_of_the_one_that_counts() -> None:
    log = builders.Log((LONG,))
    log.open()
    log.attempt(LONG, 1)
    log.attempt(replace(LONG, fails="oom", fails_in="load"), 2)
    (row,) = summarize(fold.fold(log.events)).arms
    assert not row.tainted and row.decode is not None and row.decode.n == 6


def test_a_host_that_tells_neither_reads_nor_others_names_no_cause() -> None:
    """The case that started it: threads that waited, and nobody says for what."""
    log = []
    for event in builders.events(replace(LONG, cpu=0.3, reads=False), settings=builders.settings(prompt=0)):
        if isinstance(event, e.Sample):
            told = {name: value for name, value in event.readings.items() if name != "cpu.busy"}
            event = msgspec.structs.replace(event, readings=told)
        if isinstance(event, e.UnitDone):
            event = msgspec.structs.replace(event, counters=msgspec.structs.replace(event.counters, busy_ns=None))
        log.append(event)
    now = fold.fold(log)
    found_ = [one for one in verdicts.of_arm(now, now.arms["Q8_0"]) if one.phase == "decode"]
    assert [(one.code, one.kind) for one in found_] == [("unexplained", "contaminated")]
    assert "not known" in found_[0].sentence and "re-read" in found_[0].sentence
