"""The fold: pure, resumable at any event, and true to its counters."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import builders
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import state as fold
from quanttui.packed import Packed
from quanttui.summary import summarize

HOST = e.Host(name="h", os="o", cpu="c", cores=2, threads=2, memory=2**34)
BUILD = e.Build(quanttui="0", llama_cpp_python="0", llama_cpp="0", gpu_offload=False)
PLAN = (e.PlannedArm(id="A", quant="Q8_0"), e.PlannedArm(id="B", quant="Q4_K_M"))


def opening(**changes: object) -> e.SessionOpened:
    fields: dict[str, object] = {
        "n": 0, "t": 0.0, "schema": e.SCHEMA, "model": "m", "host": HOST, "build": BUILD, "settings": e.Settings(),
        "plan": PLAN, "wall": 1e9, "origin_ns": 0, "pid": 1, "pid_started": 1.0,
    }
    return e.SessionOpened(**(fields | changes))  # type: ignore[arg-type]


def decode_unit(index: int, arm: str = "A", attempt: int = 1) -> e.Unit:
    return e.Unit(arm=arm, kind="decode", index=index, tokens=4, attempt=attempt)


def stream(arms: str = "AB") -> list[e.Event]:
    """A short but whole sweep: load, decode with samples and tokens, perplexity, done."""
    events: list[e.Event] = [opening()]

    def add(event: e.Event, step: float = 0.25) -> None:
        events.append(msgspec.structs.replace(event, n=len(events), t=events[-1].t + step))

    used = 1e9
    for arm in arms:
        add(e.PhaseStarted(arm=arm, phase="load"))
        add(e.ArmLoaded(arm=arm, pid=9, gpu_layers=0, layers=5, load_ns=10, threads=2))
        add(e.PhaseDone(arm=arm, phase="load"))
        add(e.PhaseStarted(arm=arm, phase="decode"))
        for index in range(3):
            unit = decode_unit(index, arm)
            add(e.UnitStarted(unit=unit, at=events[-1].t + 0.25))
            for part in range(2):
                used += 1e6
                add(e.Tokens(unit=unit, first=2 * part, ns=(50_000_000, 100_000_000)))
                readings = {"mem.used": used, "engine.rss": used / 2, "gpu0.energy": used / 1e6, "swap.in": used}
                add(e.Sample(readings=readings, pid=9))
            add(e.UnitDone(unit=unit, at=events[-1].t - 0.5, tokens=4, ns=300_000_000, counters=e.Counters(rss=7)))
        add(e.PhaseDone(arm=arm, phase="decode"))
        add(e.PhaseStarted(arm=arm, phase="perplexity"))
        unit = e.Unit(arm=arm, kind="perplexity", index=0, count=2)
        for chunk in range(2):
            add(e.Perplexity(unit=unit, chunk=chunk, chunks=2, scored=10, nll=20.0 + chunk, nll2=50.0))
        add(e.UnitDone(unit=unit, at=events[-1].t, tokens=20, ns=1))
        add(e.PhaseDone(arm=arm, phase="perplexity"))
        add(e.ArmDone(arm=arm))
    add(e.SessionClosed(outcome="ok"))
    return events


@settings(deadline=None)
@given(st.integers(0, len(stream())))
def test_a_key_frame_anywhere_then_the_rest_is_the_whole(cut: int) -> None:
    events = stream()
    whole = fold.fold(events)
    frame = fold.encode(fold.fold(events[:cut]))
    assert fold.encode(fold.fold(events[cut:], fold.decode(frame))) == fold.encode(whole)


def test_every_event_of_the_vocabulary_has_a_rule() -> None:
    assert set(fold.RULES) == set(e.Known.__args__)  # type: ignore[attr-defined]


def test_unknown_events_are_counted_and_skipped() -> None:
    state = fold.fold([opening(), e.Unknown(n=1, t=1.0, event="future")])
    assert state.unknown == 1 and state.n == 1


def test_perplexity_follows_from_sums_in_any_order_of_chunks() -> None:
    events = stream("A")
    state = fold.fold(events)
    swapped = [event for event in events if not isinstance(event, e.Perplexity)]
    chunks = [event for event in events if isinstance(event, e.Perplexity)]
    swapped[-4:-4] = chunks[::-1]
    value, error = state.arms["A"].perplexity() or (0.0, 0.0)
    assert math.isclose(value, math.exp(41 / 20))
    assert error is not None and math.isclose(error, value * math.sqrt((100 / 20 - (41 / 20) ** 2) / 19))
    assert fold.fold(swapped).arms["A"].perplexity() == (value, error)


def test_repetitions_give_llama_bench_rates() -> None:
    attempt = fold.fold(stream()).arms["B"].attempt
    assert attempt is not None
    assert [one.tok_s for one in attempt.decode] == pytest.approx([4 / 0.3] * 3)
    assert attempt.tokens == 12


def test_energy_is_taken_by_difference_inside_timed_units_only() -> None:
    attempt = fold.fold(stream("A")).arms["A"].attempt
    assert attempt is not None
    energy = attempt.energy["decode"]
    assert energy.joules == pytest.approx(3.0) and energy.seconds == pytest.approx(1.5)
    assert energy.source == "GPU energy counter"


def test_counters_that_run_backwards_or_change_process_give_no_rate() -> None:
    samples = [
        e.Sample(n=1, t=1.0, readings={"engine.read": 100.0, "swap.in": 50.0}, pid=1),
        e.Sample(n=2, t=2.0, readings={"engine.read": 500.0, "swap.in": 40.0}, pid=2),
        e.Sample(n=3, t=3.0, readings={"engine.read": 900.0, "swap.in": 45.0}, pid=2),
    ]
    state = fold.fold([opening(), *samples])
    assert state.series["engine.read/s"].columns(0, 1, 4) == [None, None, None, 400.0]
    assert state.series["swap.in/s"].columns(0, 1, 4) == [None, None, None, 5.0]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ([], "running"),
        ([e.ArmDone(arm="A")], "ok"),
        ([e.ArmFailed(arm="A", outcome="oom", error="x")], "oom"),
        ([e.ArmDone(arm="A"), e.PhaseStarted(arm="A", phase="load", attempt=2)], "running"),
        ([e.ArmDone(arm="A"), e.ArmFailed(arm="A", outcome="crashed", error="x", attempt=2)], "ok"),
    ],
)
def test_the_outcome_is_the_latest_attempts_but_a_whole_run_stays_whole(ends: list[e.Event], outcome: str) -> None:
    state = fold.fold([opening(), e.PhaseStarted(arm="A", phase="load"), *ends])
    assert state.arms["A"].outcome == outcome
    assert state.arms["B"].outcome == "planned"


def test_a_failure_ends_the_phase_and_is_noted() -> None:
    failed = e.ArmFailed(n=2, t=3.0, arm="A", outcome="crashed", error="killed by signal 9")
    state = fold.fold([opening(), e.PhaseStarted(n=1, t=1.0, arm="A", phase="decode"), failed])
    assert state.phase == "" and state.spans[-1].end == 3.0
    assert "killed by signal 9" in state.notes[-1].text


def sliced(arm: builders.Arm) -> fold.Attempt:
    return builders.state(arm, settings=builders.settings(prompt=0, tasks=("speed",))).arms[arm.name].attempts[0]


@given(st.floats(0.4, 400), st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_slices_lie_inside_their_unit_one_after_another_and_share_out_its_tokens(tok_s: float, tokens: int) -> None:
    """No token is counted twice, and what falls between two samples is the rate times the time between them."""
    arm = builders.Arm("Q8_0", tok_s=tok_s, tokens=tokens, repetitions=2, spread=0.0)
    attempt = sliced(arm)
    for one in attempt.decode:
        mine = [piece for piece in attempt.slices if piece.at == one.at]
        end = one.at + one.ns / 1e9
        assert all(one.at <= piece.start < piece.end <= end + 1e-6 for piece in mine)
        assert all(a.end == b.start for a, b in itertools.pairwise(mine))
        assert all(piece.end - piece.start >= fold.SLICE - 1e-9 for piece in mine[:-1])
        assert sum(piece.tokens for piece in mine) <= tokens + 1e-6
        for piece in mine:
            assert piece.tokens == pytest.approx(tok_s * (piece.end - piece.start), rel=1e-6)


def test_slices_have_what_the_counters_grew_by() -> None:
    attempt = sliced(builders.Arm("Q8_0", tok_s=10.0, tokens=100, repetitions=1, cpu=0.9, others=0.5))
    assert len(attempt.slices) >= 8
    for piece in attempt.slices:
        seconds = piece.end - piece.start
        assert piece.grew("engine.cpu") == pytest.approx(1.8 * seconds)
        assert piece.grew("cpu.busy") == pytest.approx(2.3 * seconds)


def test_a_counter_that_ran_backwards_or_vanished_is_left_out_of_the_slice() -> None:
    log = builders.events(builders.Arm("Q8_0", tok_s=10.0, tokens=100), settings=builders.settings(prompt=0))
    spoiled = []
    for place, event in enumerate(log):
        if isinstance(event, e.Sample) and place % 2:
            readings = {k: v for k, v in event.readings.items() if k != "cpu.busy"} | {"engine.read": -float(place)}
            event = msgspec.structs.replace(event, readings=readings)
        spoiled.append(event)
    for piece in fold.fold(spoiled).arms["Q8_0"].attempts[0].slices:
        assert all(value >= 0 for value in piece.grown if value is not None)


def test_ever_more_slices_are_joined_and_lose_nothing() -> None:
    """A night of decoding is kept in a bounded number of them."""
    attempt = sliced(builders.Arm("Q8_0", tok_s=2.0, tokens=900, repetitions=4, cpu=0.9))
    assert len(attempt.slices) <= fold.SLICES
    covered = sum(piece.end - piece.start for piece in attempt.slices)
    assert covered == pytest.approx(sum(one.ns for one in attempt.decode) / 1e9, rel=0.01)
    assert sum(piece.grew("engine.cpu") for piece in attempt.slices) == pytest.approx(1.8 * covered)
    assert sum(piece.tokens for piece in attempt.slices) == pytest.approx(2.0 * covered, rel=1e-3)



# --- what stays small -----------------------------------------------------------------------------------------------

LOGS = (
    builders.events(
        builders.Arm("Q8_0", again=(12.0, 14.0), tokens=64, disturbed=1),
        builders.Arm("Q5_K_M", tok_s=3.0, swap=0.021),
        builders.Arm("Q4_K_M", fails="crashed"),
        builders.Arm("Q2_K", gpu={"power": 90.0, "clock": 1.2e9, "clock_max": 2e9}, gpu_layers=23),
        closed=None,
    ),
    builders.deciding(anchored=True),
    builders.events(
        builders.Arm("F16", answers={"i1": ("seven", True), "i2": ("eight", False)}, kld=0.001),
        builders.Arm("Q4_K_M", answers={"i1": ("six", False)}, again=(9.0,), kld=0.02),
        settings=builders.settings(tasks=("speed", "ppl", "kld", "prompts")),
    ),
)


@pytest.mark.parametrize("log", LOGS)
def test_a_packed_arm_says_what_it_said(log: list[e.Event]) -> None:
    """Of every record, and of the summary: whether arms are packed makes no difference to anybody."""
    state, looked = fold.State(), 0
    for event in log:
        state.apply(event)
        if not isinstance(event, e.ArmDone | e.ArmFailed | e.PhaseDone):
            continue
        looked += 1
        plain = fold.decode(fold.canonical(state))
        for mine, other in zip(state.arms.values(), plain.arms.values(), strict=True):
            if mine.outcome not in ("planned", "running"):
                assert all(isinstance(one, Packed) for one in (mine.scores, mine.recorded, mine.answers))
            assert list(mine.chunks.items()) == list(other.chunks.items()) and len(mine.chunks) == len(other.chunks)
            assert list(mine.items.items()) == list(other.items.items()) and list(mine.units) == list(other.units)
            assert mine.perplexity() == other.perplexity()
            for one, two in zip(mine.attempts, other.attempts, strict=True):
                assert not isinstance(two.record, bytes)
                assert isinstance(one.record, bytes) or mine.outcome == "running"
                assert msgspec.msgpack.encode(one.known) == msgspec.msgpack.encode(two.record)
                assert one.best_clock == two.best_clock
                for kind, depth in itertools.product(("prompt", "decode"), state.settings.depths):
                    assert one.count(kind, depth) == len(two.at_depth(kind, depth))
        assert summarize(state) == summarize(plain)
    assert looked > 10


def test_what_is_added_to_a_packed_record_stays_in_it_alone() -> None:
    """A round of the anchor opens a record that is packed already: nobody who looked at it before sees that."""
    attempt = fold.fold(LOGS[0]).arms["Q8_0"].attempts[0]
    assert isinstance(attempt.record, bytes)
    packed, before = attempt.record, len(attempt.slices)
    attempt.opened().slices.append(attempt.slices[0])
    assert len(attempt.slices) == before + 1 and len(fold._records.get(packed).slices) == before
    attempt.pack()
    assert len(attempt.slices) == before + 1 and attempt.record != packed


def test_a_packed_arm_takes_a_fifth_of_the_memory() -> None:
    """An hour's decoding: 70 repetitions, and as many stretches of them as are kept."""
    arm = builders.Arm("Q8_0", tok_s=20.0, tokens=1024, repetitions=70, chunks=0)
    log = builders.events(arm, settings=builders.settings(prompt=0, tasks=("speed",)))
    packed = fold.fold(log).arms["Q8_0"].attempts[0].record
    assert isinstance(packed, bytes)
    tracemalloc.start()
    try:
        record = fold._records.fresh(packed)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(record.slices) > 500 and len(packed) < held / 5


def test_what_all_arms_share_does_not_grow_with_time() -> None:
    """A week of readings, beats, notes and tokens takes as many bytes as a day of them."""
    def after(count: int) -> int:
        state = fold.State()
        for n in range(count):
            t = 604_800 * n / 40_000
            readings = {"mem.used": 1e9 + n, "engine.rss": 2e9 + n, "swap.in": 1e6 * n, "engine.read": 3e6 * n}
            state.apply(e.Sample(n=n, t=t, readings=readings, pid=7))
            state.apply(e.Beat(n=n, t=t, wall=t))
            state.apply(e.ProbeLost(n=n, t=t, probe="rapl", why="gone"))
            state.apply(e.ProbeFound(n=n, t=t, probe="rapl"))
        return len(fold.encode_shared(state))

    assert after(40_000) < 1.1 * after(6_000)


def test_the_layout_tells_what_lies_in_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of other fields, other counters, or other widths are made again, not misread."""
    known = {fold.layout()}
    for name, value in (("GROWING", (*fold.GROWING, "psi.io.some")), ("SLICES", 512), ("__version__", "0.0.1")):
        with monkeypatch.context() as patched:
            patched.setattr(fold, name, value)
            fold.layout.cache_clear()
            known.add(fold.layout())
    fields = msgspec.defstruct("Record", [("prompt", list[int])])
    with monkeypatch.context() as patched:
        patched.setattr(fold, "Record", fields)
        fold.layout.cache_clear()
        known.add(fold.layout())
    fold.layout.cache_clear()
    assert len(known) == 5
