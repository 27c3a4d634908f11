"""The decision tree: measured cases come out as what they were, and contamination is never called anything else."""

from __future__ import annotations

import random

import builders
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import state as fold
from quanttui.diagnosis import parts, thresholds, verdicts, windows
from quanttui.diagnosis.case import CODES, Verdict
from quanttui.diagnosis.thresholds import Thresholds
from quanttui.diagnosis.verdicts import judge
from quanttui.diagnosis.windows import Bounds, Window
from quanttui.errors import UserError
from quanttui.format import clean

MB = 1e6
ACTIVE = 1381 * MB
CONTAMINATED = {"swap-contaminated", "page-in-thrash", "cpu-contention"}


def window(
    tok_s: float,
    majflt: float = 0,
    read: float = 0,
    swap_in: float = 0,
    cpu: float = 0.96,
    tokens: int = 640,
    repetitions: int = 5,
    **changes: object,
) -> Window:
    """A decode window from figures per token (read and swap_in in MB) and the CPU share of 2 threads."""
    seconds = tokens / tok_s
    made = Window(
        phase="decode",
        repetitions=repetitions,
        tokens=tokens,
        passes=tokens,
        seconds=seconds,
        tok_s=tok_s,
        read=read * MB * tokens,
        majflt=majflt * tokens,
        swap_in=swap_in * MB * tokens,
        zswap_in=0.0,
        cpu=cpu * 2 * seconds,
        cpu_seconds=seconds,
        blamed=True,
    )
    return msgspec.structs.replace(made, **changes)


def bounds(gb_s: float | None = 33.0, how: str = "measured", active: float = ACTIVE, **changes: object) -> Bounds:
    ceiling = None if gb_s is None else e.Ceiling(arm="x", how=how, gb_s=gb_s)
    made = Bounds(active=active, resident=active * 1.05, threads=2, offloaded=0, ceiling=ceiling)
    return msgspec.structs.replace(made, **changes)


def codes(found: tuple[Verdict, ...]) -> list[str]:
    return [one.code for one in found]


MEASURED = [
    # name, tok/s, % of B, majflt, read MB, swap-in MB, own CPU share, active MB -> verdicts
    ("clean, slower", 16.8, 70, 0, 0, 0, 0.92, 1381, ["bandwidth-wall"]),
    ("clean, faster", 19.3, 79, 0, 0, 0, 1.0, 1381, ["bandwidth-wall"]),
    ("mmap, 1400 MB limit", 16.3, 70, 3, 3.8, 0, 0.9, 1381, ["edge-of-memory", "bandwidth-wall"]),
    ("mmap, 1360 MB", 6.4, 27, 18, 128, 0.1, 0.5, 1381, ["page-in-thrash"]),
    ("mmap, 1000 MB", 0.93, 4, 35, 1090, 0, 0.1, 1381, ["page-in-thrash"]),
    ("mmap, 1000 MB again", 1.01, 4, 44, 1224, 0, 0.1, 1381, ["page-in-thrash"]),
    ("no mmap, 1350 MB + swap", 4.0, 17, 1123, 29, 29, 0.4, 1381, ["swap-contaminated"]),
    ("no mmap, 1000 MB + swap", 0.15, 0.7, 51_000, 1392, 1392, 0.05, 1381, ["swap-contaminated"]),
    ("no mmap, 1000 MB + swap again", 0.17, 0.7, 55_000, 1392, 1392, 0.05, 1381, ["swap-contaminated"]),
    ("two compilers beside it", 0.52, 1, 0, 0, 0, 0.33, 1381, ["cpu-contention"]),
    ("two compilers, milder", 6.0, 26, 0, 0, 0, 0.67, 1381, ["cpu-contention"]),
    ("IQ3_S, clean", 10.1, 18, 0, 0, 0, 0.97, 564, ["unexplained"]),
]


@pytest.mark.parametrize(("name", "tok_s", "of_b", "majflt", "read", "swap_in", "cpu", "active", "expected"), MEASURED)
def test_what_was_measured_gets_the_verdict_that_it_was(
    name: str, tok_s: float, of_b: float, majflt: float, read: float, swap_in: float, cpu: float, active: float,
    expected: list[str],
) -> None:  # fmt: skip
    """The rows of the measured separation, their ceiling taken from the % of B that they reached."""
    ceiling = active * MB * tok_s / 1e9 / (of_b / 100)
    found = judge(window(tok_s, majflt, read, swap_in, cpu), bounds(ceiling, active=active * MB))
    assert codes(found) == expected


def test_a_slow_8b_on_a_fast_bus_is_not_put_down_to_bandwidth() -> None:
    """Q8_0 of an 8B at 0.13 tok/s on 120 GB/s, reads unseen: 0.9 % of the bus."""
    seen = window(0.13, tokens=10, read=0, cpu=0.1)
    blind = msgspec.structs.replace(seen, read=None, majflt=None, swap_in=None, zswap_in=None, cpu=None)
    (found,) = judge(blind, bounds(120.0, "looked up", active=7980 * MB))
    assert found.code == "unexplained"
    assert found.words == "unexplained 0.86%"
    assert found.evidence["MBU"] == pytest.approx(0.00864, rel=0.01)
    assert found.evidence["achieved GB/s"] == pytest.approx(1.04, rel=0.01)
    assert "page-ins" in found.advice
    assert "not known" in found.evidence


def test_the_same_with_reads_seen_is_page_in() -> None:
    slow = window(0.13, tokens=10, majflt=300, read=1040 * 0.99 / 0.13, cpu=0.1)
    assert codes(judge(slow, bounds(120.0, "looked up", active=7980 * MB))) == ["page-in-thrash"]


def test_without_a_ceiling_a_clean_speed_is_unexplained_and_says_why() -> None:
    (found,) = judge(window(17.0), bounds(None, why="too little memory is free"))
    assert (found.code, found.words) == ("unexplained", "unexplained")
    assert "too little memory is free" in found.sentence


def test_more_than_memory_can_give_is_the_ceilings_fault() -> None:
    (found,) = judge(window(17.0), bounds(15.0))
    assert (found.code, found.kind) == ("unexplained", "caution")


@pytest.mark.parametrize(("tokens", "repetitions"), [(640, 4), (20, 5), (1, 1)])
def test_too_little_evidence_is_called_too_short_never_a_wall(tokens: int, repetitions: int) -> None:
    (found,) = judge(window(17.0, tokens=tokens, repetitions=repetitions), bounds())
    assert (found.kind, found.words) == ("caution", "too short")
    assert "Too short to judge" in found.sentence


def test_too_little_evidence_still_convicts() -> None:
    assert codes(judge(window(17.0, 18, 128, tokens=1, repetitions=1), bounds())) == ["page-in-thrash"]


def test_weights_inside_the_cache_are_said_to_be_there_and_nowhere_on_a_wall() -> None:
    found = judge(window(900.0, tokens=5000), bounds(1300.0, active=1.0 * MB, cache=32.0 * 2**20))
    assert codes(found) == ["cache-resident"]
    assert found[0].words == "cache"


def test_a_neighbours_swapping_is_not_ours() -> None:
    """System-wide swap-ins of 13 MB a token, own reads and faults at 0."""
    assert codes(judge(window(17.0, swap_in=13.0), bounds())) == ["bandwidth-wall"]


def test_a_neighbours_swapping_is_not_ours_when_a_few_pages_of_ours_come_from_the_file() -> None:
    """Own reads bound what of the machine's swap-ins can be ours."""
    found = judge(window(17.0, majflt=1, read=0.5, swap_in=500.0), bounds())
    assert codes(found) == ["bandwidth-wall"]


def test_reads_without_a_major_fault_are_not_swap_ins() -> None:
    """Swapping in takes a fault: a neighbour swaps while our file is read ahead."""
    (found,) = judge(window(8.0, majflt=0, read=20.0, swap_in=20.0), bounds())
    assert found.code == "page-in-thrash"


def test_a_moment_of_little_cpu_is_no_contention() -> None:
    (found,) = judge(window(17.0, cpu=0.3, tokens=40), bounds())
    assert found.words == "too short"


def test_zswap_is_said_to_be_unattributable() -> None:
    squeezed = window(4.0, majflt=1000, read=1.0)
    squeezed = msgspec.structs.replace(squeezed, zswap_in=28 * MB * squeezed.tokens)
    (found,) = judge(squeezed, bounds())
    assert found.code == "swap-contaminated"
    assert "zswap" in str(found.evidence["not known"])
    assert "neighbour" in found.sentence


def test_reads_that_cannot_be_split_are_page_ins_and_say_so() -> None:
    lumped = msgspec.structs.replace(window(4.0, majflt=1000, read=29.0), swap_in=None, zswap_in=None)
    (found,) = judge(lumped, bounds())
    assert found.code == "page-in-thrash"
    assert "apart" in found.sentence


def test_the_first_reading_after_a_load_is_no_thrash_but_a_second_one_is() -> None:
    once = msgspec.structs.replace(window(17.0), read=ACTIVE, majflt=1.0, cold_read=ACTIVE)
    again = msgspec.structs.replace(once, read=11 * ACTIVE)
    assert codes(judge(once, bounds())) == ["bandwidth-wall"]
    assert codes(judge(again, bounds())) == ["page-in-thrash"]


def test_offloaded_layers_rule_out_cpu_contention() -> None:
    assert codes(judge(window(17.0, cpu=0.5), bounds(offloaded=33))) == ["bandwidth-wall"]
    assert codes(judge(window(17.0, cpu=0.5), bounds(offloaded=None))) == ["bandwidth-wall"]


def test_a_prompt_is_never_put_down_to_bandwidth() -> None:
    prompt = window(60.0, tokens=2560, phase="prompt", passes=5)
    assert judge(prompt, bounds()) == ()


def test_a_prompts_re_reads_are_held_against_passes_over_the_weights() -> None:
    """2 % of the weights for each of 5 batches of 512 tokens: nearly nothing per token, plenty per pass."""
    prompt = window(60.0, tokens=2560, phase="prompt", passes=5, read=0, majflt=1)
    prompt = msgspec.structs.replace(prompt, read=0.02 * ACTIVE * 5)
    (found,) = judge(prompt, bounds())
    assert (found.code, found.phase, found.words) == ("page-in-thrash", "prompt", "page-in 2.0%")


def test_a_prompt_beside_compilers_is_contended() -> None:
    assert codes(judge(window(60.0, tokens=2560, phase="prompt", passes=5, cpu=0.6), bounds())) == ["cpu-contention"]


def test_re_reads_cost_a_perplexity_time_and_not_its_value() -> None:
    scoring = window(17.0, majflt=18, read=128.0, phase="perplexity", repetitions=0)
    (found,) = judge(scoring, bounds())
    assert (found.code, found.kind) == ("page-in-thrash", "caution")


def test_thresholds_can_be_overridden() -> None:
    found = judge(window(16.3, 3, 3.8), bounds(), Thresholds(contaminated=0.002))
    assert codes(found) == ["page-in-thrash"]


any_window = st.builds(
    window,
    tok_s=st.floats(0.05, 400),
    majflt=st.floats(0, 1e5),
    read=st.floats(0, 2000),
    swap_in=st.floats(0, 2000),
    cpu=st.floats(0.05, 1.0),
    tokens=st.integers(1, 5000),
    repetitions=st.integers(1, 20),
    under_way=st.booleans(),
    phase=st.sampled_from(["prompt", "decode"]),
)
any_bounds = st.builds(
    bounds,
    gb_s=st.one_of(st.none(), st.floats(1, 4000)),
    active=st.floats(1e6, 1e11),
    offloaded=st.sampled_from([0, 33]),
)


@given(seen=any_window, against=any_bounds)
def test_contamination_is_never_called_clean_or_bandwidth(seen: Window, against: Bounds) -> None:
    """Own reads of 1 % and more of the bytes needed end in a contaminated verdict, and in no explanation."""
    again = windows.reread(seen, against.resident)
    needed = 0.01 * against.active * seen.most_passes
    found = judge(seen, against)
    if max(again.swap or 0.0, again.file or 0.0) >= needed:
        assert found[0].kind == "contaminated"
        assert found[0].code in ("swap-contaminated", "page-in-thrash")
        assert not {"bandwidth-wall", "unexplained", "edge-of-memory"} & set(codes(found))


@given(seen=any_window, against=any_bounds)
def test_bandwidth_is_said_only_when_the_bytes_moved_say_so(seen: Window, against: Bounds) -> None:
    found = judge(seen, against)
    if "bandwidth-wall" in codes(found):
        assert against.ceiling is not None and against.ceiling.gb_s is not None and seen.tok_s is not None
        assert 0.55 <= against.active * seen.tok_s / 1e9 / against.ceiling.gb_s <= 1.15
        assert not CONTAMINATED & set(codes(found))
        assert seen.repetitions >= 5 and seen.seconds >= 3.0


@given(seen=any_window, against=any_bounds)
def test_every_verdict_is_fit_to_print(seen: Window, against: Bounds) -> None:
    for one in judge(seen, against):
        assert one.code in CODES
        assert one.glyph in ("[!!]", "[!]", "[=]")
        assert one.sentence == clean(one.sentence, 600) and one.sentence.endswith(".")
        assert one.advice.endswith(".")
        assert len(one.words) <= 20
        assert {"threads", "timed seconds", "tokens", "repetitions"} <= one.evidence.keys()


@given(seen=any_window, against=any_bounds, power=st.integers(-8, 8))
def test_a_machine_twice_as_large_and_fast_gets_the_same_verdicts(seen: Window, against: Bounds, power: int) -> None:
    """All bytes times a power of two, the ceiling too: only ratios decide."""
    k = 2.0**power
    assert seen.read is not None and seen.swap_in is not None
    larger = msgspec.structs.replace(seen, read=seen.read * k, swap_in=seen.swap_in * k)
    ceiling = against.ceiling
    if ceiling is not None and ceiling.gb_s is not None:
        ceiling = msgspec.structs.replace(ceiling, gb_s=ceiling.gb_s * k)
    roof = msgspec.structs.replace(
        against, active=against.active * k, resident=against.resident * k, ceiling=ceiling
    )
    assert [(o.code, o.words) for o in judge(larger, roof)] == [(o.code, o.words) for o in judge(seen, against)]


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_the_order_of_repetitions_does_not_matter(seed: int) -> None:
    now = builders.state(builders.Arm("Q8_0", tok_s=9.0, page_in=0.004, spread=0.2, tokens=8))
    arm = now.arms["Q8_0"]
    before = verdicts.of_arm(now, arm)
    random.Random(seed).shuffle(arm.attempts[0].decode)
    random.Random(seed).shuffle(arm.attempts[0].prompt)
    assert verdicts.of_arm(now, arm) == before


# Ceilings, neighbours, devices.


def test_dequantization_is_said_where_the_arithmetic_is_the_lower_ceiling() -> None:
    """IQ3_S as measured: 10.1 tok/s of 564 MB, C 8.0 and B 31.6 GB/s."""
    (found,) = judge(window(10.1), bounds(31.6, active=564 * MB, compute=8.0))
    assert (found.code, found.kind, found.words) == ("compute-bound", "explained", "compute 71%")
    assert found.evidence["achieved / C"] == pytest.approx(0.71, abs=0.01)
    assert found.cost == pytest.approx(1 - 8.0 / 31.6)


@pytest.mark.parametrize("compute", [33.0, 27.0])
def test_arithmetic_as_fast_as_memory_leaves_it_at_the_wall(compute: float) -> None:
    assert codes(judge(window(17.0), bounds(compute=compute))) == ["bandwidth-wall"]


def test_below_both_ceilings_is_unexplained_with_the_share_of_the_lower_one() -> None:
    (found,) = judge(window(4.0), bounds(33.0, compute=12.0))
    assert (found.code, found.words) == ("unexplained", "unexplained 46%")


def test_a_bus_that_gives_less_beside_a_neighbour_is_contended_though_the_threads_had_their_time() -> None:
    """15.1 to 9.0 tok/s at a CPU share of 0.99."""
    seen = window(9.0, cpu=0.99, others=71 * 0.9, others_seconds=71.0)
    found = judge(seen, bounds(20.0, probed=20.0, usual=33.0))
    assert codes(found) == ["memory-bus-contention"]
    assert found[0].kind == "contaminated" and "0.90 cores" in found[0].sentence


def test_a_bus_that_gives_less_with_nobody_at_it_is_a_caution_beside_the_explanation() -> None:
    seen = window(12.0, cpu=0.99, others=0.0, others_seconds=50.0)
    found = judge(seen, bounds(20.0, probed=20.0, usual=33.0))
    assert codes(found) == ["memory-bus-contention", "bandwidth-wall"]
    assert found[0].kind == "caution" and "outside" in found[0].sentence


def test_a_busy_neighbour_without_a_usual_bandwidth_is_never_a_wall() -> None:
    seen = window(12.0, cpu=0.99, others=50.0, others_seconds=50.0)
    found = judge(seen, bounds(20.0, probed=20.0, usual=None))
    assert codes(found) == ["memory-bus-contention"]


def test_a_neighbour_that_takes_little_of_the_bus_is_a_caution_and_none_leaves_it_at_the_wall() -> None:
    seen = window(17.0, cpu=0.99, others=30.0, others_seconds=30.0)
    (found,) = judge(seen, bounds(33.0, probed=32.0, usual=33.0))
    assert (found.code, found.kind, found.words) == ("memory-bus-contention", "caution", "busy neighbour")
    quiet = msgspec.structs.replace(seen, others=3.0)
    assert codes(judge(quiet, bounds(33.0, probed=32.0, usual=33.0))) == ["bandwidth-wall"]


def test_what_earlier_sessions_measured_counts_only_beside_a_neighbour() -> None:
    """A machine whose bandwidth jumps by itself is not accused of what it gave another day."""
    alone = window(12.0, cpu=0.99, others=0.5, others_seconds=50.0)
    beside = msgspec.structs.replace(alone, others=45.0)
    held = bounds(20.0, probed=20.0, remembered=33.0)
    assert codes(judge(alone, held)) == ["bandwidth-wall"]
    (found,) = judge(beside, held)
    assert (found.code, found.kind) == ("memory-bus-contention", "contaminated")


def test_dequantization_does_not_care_for_a_neighbour_on_the_bus() -> None:
    seen = window(10.1, cpu=0.99, others=45.0, others_seconds=50.0)
    held = bounds(31.6, active=564 * MB, compute=8.0, probed=31.6, usual=33.0)
    assert codes(judge(seen, held)) == ["compute-bound"]


def test_weights_in_the_cache_do_not_care_for_the_bus() -> None:
    seen = window(900.0, tokens=5000, cpu=0.99, others=5.0, others_seconds=5.5)
    held = bounds(20.0, active=1.0 * MB, cache=32.0 * 2**20, probed=20.0, usual=33.0)
    assert codes(judge(seen, held)) == ["cache-resident"]


def test_cpu_time_that_nobody_took_is_a_quota_once_the_phase_is_over() -> None:
    """Amid it, storage may not have answered yet."""
    seen = window(6.0, cpu=0.4, others=0.1, others_seconds=100.0, blamed=False)
    (found,) = judge(seen, bounds())
    assert (found.code, found.kind) == ("cpu-contention", "contaminated") and "quota" in found.sentence
    assert "cpu-contention" not in codes(judge(msgspec.structs.replace(seen, under_way=True), bounds()))


def on_gpu(tok_s: float = 60.0, layers: int = 33, **devices: float) -> Window:
    return window(tok_s, cpu=0.5, tokens=3000, devices=devices)


def test_host_memory_that_a_gpu_took_is_a_spill() -> None:
    found = judge(on_gpu(5.0), bounds(1000.0, offloaded=33, layers=33, spilled=0.5 * ACTIVE))
    assert codes(found)[0] == "vram-spill" and found[0].kind == "contaminated"


def test_kernels_that_wait_for_memory_that_is_not_the_gpus_are_a_spill() -> None:
    found = judge(on_gpu(5.0, util=97.0, dram=6.0), bounds(1000.0, offloaded=33, layers=33))
    assert codes(found)[0] == "vram-spill"
    busy = judge(on_gpu(600.0, util=97.0, dram=80.0), bounds(1000.0, offloaded=33, layers=33))
    assert codes(busy) == ["bandwidth-wall"]


def test_a_busy_gpu_without_swap_is_not_by_itself_bandwidth() -> None:
    """`GPU 80 %, no swap`: what says nothing of the bytes moved explains nothing."""
    (found,) = judge(on_gpu(0.13, util=80.0), bounds(120.0, offloaded=33, layers=33, active=7980 * MB))
    assert (found.code, found.words) == ("unexplained", "unexplained 0.86%")


def test_other_processes_on_the_gpu_count_where_speed_is_missing() -> None:
    held = bounds(1000.0, offloaded=33, layers=33)
    assert codes(judge(on_gpu(100.0, others=1.0), held)) == ["gpu-contention"]
    desktop = judge(on_gpu(100.0, others=2.0, others_mem=20e6), held)
    assert [one.kind for one in desktop if one.code == "gpu-contention"] == ["caution"]
    assert codes(judge(on_gpu(600.0, others=1.0), held)) == ["bandwidth-wall"]


def test_heat_convicts_and_a_power_cap_does_not() -> None:
    held = bounds(1000.0, offloaded=33, layers=33, best_clock=0.98)
    assert codes(judge(on_gpu(300.0, slowed=0.25, clock=0.9), held)) == ["throttled"]
    assert codes(judge(on_gpu(300.0, slowed=0.0, clock=0.6), held)) == ["throttled"]
    assert codes(judge(on_gpu(600.0, slowed=0.1, clock=0.6), held)) == ["bandwidth-wall"]


def test_layers_left_on_the_host_are_held_against_both_memories() -> None:
    held = bounds(None, offloaded=20, layers=33, split=20.0, why="two memories")
    (found,) = judge(window(17.0, cpu=0.5), held)
    assert (found.code, found.kind, found.words) == ("partial-offload", "explained", "partial 20/33")
    assert "85 %" in found.sentence
    (slow,) = judge(window(5.0, cpu=0.5), held)
    assert (slow.code, slow.kind) == ("partial-offload", "caution")


def test_verdicts_are_ranked_by_what_they_cost() -> None:
    mild = judge(window(9.0, 1200, 300, 20), bounds())
    assert codes(mild) == ["swap-contaminated", "page-in-thrash"] or codes(mild) == [
        "page-in-thrash", "swap-contaminated",
    ]  # fmt: skip
    costs = [one.cost for one in mild if one.cost is not None]
    assert len(costs) == 2 and costs == sorted(costs, reverse=True)


def test_a_sessions_own_thresholds_are_the_ones_it_is_judged_by() -> None:
    arm = builders.Arm("Q8_0", tok_s=16.3, page_in=0.0028)
    moved = builders.state(arm, settings=builders.settings(thresholds=(("contaminated", 0.002),), prompt=0))
    assert codes(verdicts.of_arm(moved, moved.arms["Q8_0"])) == ["page-in-thrash"]


@pytest.mark.parametrize(
    ("moved", "told"),
    [({"wal": 0.5}, "did you mean wall?"), ({"wall": -1.0}, "above 0"), ({"repetitions": 2.5}, "whole number")],
)
def test_a_threshold_that_is_none_is_refused_by_name(moved: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told.replace("?", ".")):
        thresholds.check(moved)


# From events.

FAULTS = [
    (builders.Arm("Q8_0", tok_s=18.0), ["bandwidth-wall"]),
    (builders.Arm("Q8_0", tok_s=4.0, swap=0.021), ["swap-contaminated", "swap-contaminated"]),
    (builders.Arm("Q8_0", tok_s=6.4, page_in=0.093, cpu=0.5), ["page-in-thrash", "page-in-thrash"]),
    (builders.Arm("Q8_0", tok_s=17.0, page_in=0.0028), ["edge-of-memory", "bandwidth-wall", "edge-of-memory"]),
    (builders.Arm("Q8_0", tok_s=5.0, cpu=0.5), ["cpu-contention", "cpu-contention"]),
    (builders.Arm("Q8_0", tok_s=17.0, neighbour_swap=13e6), ["bandwidth-wall"]),
    (builders.Arm("Q8_0", tok_s=17.0, ceiling=None), ["unexplained"]),
    (builders.Arm("Q8_0", tok_s=0.3, reads=False, tokens=4), ["unexplained"]),
    (builders.Arm("Q8_0", tok_s=17.0, repetitions=3), ["unexplained", "unexplained"]),
    (builders.Arm("Q8_0", fails="oom", fails_in="load"), ["out-of-memory"]),
    (builders.Arm("Q8_0", planned_only=True), []),
    (builders.Arm("Q8_0", tok_s=9.0, ceiling=33.0, kernels={"Q8_0": 15.0}), ["compute-bound"]),
    (builders.Arm("Q8_0", tok_s=12.0, cpu=0.95, others=0.9, after=18.0), ["memory-bus-contention"]),
]


@pytest.mark.parametrize(("arm", "expected"), FAULTS)
def test_a_sweeps_events_lead_to_the_verdicts(arm: builders.Arm, expected: list[str]) -> None:
    now = builders.state(arm)
    assert codes(verdicts.of_arm(now, now.arms["Q8_0"])) == expected


@pytest.mark.parametrize(("arm", "expected"), FAULTS)
def test_the_same_log_gives_the_same_verdicts_through_a_key_frame(arm: builders.Arm, expected: list[str]) -> None:
    """Nothing is remembered between calls, and nothing outside the fold is looked at."""
    now = builders.state(arm)
    again = fold.decode(fold.encode(now))
    first = verdicts.of_arm(now, now.arms["Q8_0"])
    assert first == verdicts.of_arm(now, now.arms["Q8_0"]) == verdicts.of_arm(again, again.arms["Q8_0"])


def test_a_tiny_model_is_cache_resident() -> None:
    now = builders.state(builders.Arm("Q8_0", tok_s=900.0, tokens=1000), parameters=1_000_000)
    assert codes(verdicts.of_arm(now, now.arms["Q8_0"])) == ["cache-resident"]


def test_thrashing_is_seen_inside_the_first_token() -> None:
    """At 0.15 tok/s the first token takes 7 s; the samples inside it convict before it ends."""
    log = builders.events(builders.Arm("Q8_0", tok_s=0.15, page_in=0.9, tokens=2), settings=builders.settings(prompt=0))
    found = None
    for now in builders.states(log):
        if now.running is not None and (seen := verdicts.live(now)) and seen[0].kind == "contaminated":
            found = (now.running.tokens, seen[0].code)
            break
    assert found == (0, "page-in-thrash")


def test_a_clean_sweep_is_never_accused_on_the_way() -> None:
    arm = builders.Arm("Q8_0", tok_s=18.0, neighbour_swap=13e6)
    for now in builders.states(builders.events(arm)):
        assert all(one.kind != "contaminated" for one in verdicts.live(now))


@pytest.mark.parametrize("share", [0.0, 0.004, 0.0095])
@pytest.mark.parametrize("tok_s", [1.0, 18.0, 60.0])
def test_re_reads_below_the_line_are_not_accused_on_the_way(tok_s: float, share: float) -> None:
    """Samples run ahead of the tokens told: the bytes of tokens held back are not put on those that are known."""
    arm = builders.Arm("Q8_0", tok_s=tok_s, page_in=share, tokens=int(5 + 2 * tok_s), ceiling=300.0)
    for now in builders.states(builders.events(arm)):
        assert all(one.kind != "contaminated" for one in verdicts.live(now))


def test_a_unit_under_way_is_too_short_to_judge_and_nothing_is_said_between_units() -> None:
    log = builders.events(builders.Arm("Q8_0", tok_s=18.0))
    said = {(now.running is None, one.words) for now in builders.states(log) for one in verdicts.live(now)}
    assert (False, "too short") in said
    assert not [words for idle, words in said if idle]


def test_a_cold_first_repetition_is_no_thrash() -> None:
    """The file read once with one major fault inside the first timed unit after a load, as a lazy mapping does."""
    log = []
    for event in builders.events(builders.Arm("Q8_0", tok_s=18.0)):
        if isinstance(event, e.UnitDone) and event.unit.kind == "prompt" and event.unit.index == 0:
            cold = msgspec.structs.replace(event.counters, read=1_300_000_000, majflt=1)
            event = msgspec.structs.replace(event, counters=cold)
        log.append(event)
    now = fold.fold(log)
    assert codes(verdicts.of_arm(now, now.arms["Q8_0"])) == ["bandwidth-wall"]


def test_contaminated_verdicts_come_first_and_decode_before_prompt() -> None:
    now = builders.state(builders.Arm("Q8_0", tok_s=4.0, page_in=0.05))
    found = verdicts.of_arm(now, now.arms["Q8_0"])
    assert [one.phase for one in found] == ["decode", "prompt"]
    shuffled = list(found)
    random.Random(1).shuffle(shuffled)
    assert verdicts.ranked(shuffled) == found


def anchored() -> fold.State:
    """The anchor drifts by 8 % while Q4_K_M is measured, and stays there while Q3_K_M is."""
    return fold.fold(builders.deciding(levels=(), anchored=True))


def test_what_is_measured_while_the_anchor_changes_is_drifting() -> None:
    now = anchored()
    found = {name: verdicts.of_arm(now, arm) for name, arm in now.arms.items()}
    (one,) = [verdict for verdict in found["Q4_K_M"] if verdict.code == "drifting"]
    assert (one.kind, one.phase, one.words) == ("caution", "decode", "drifting +8%")
    assert "Q2_K, the anchor, changed by +8.1 %" in one.sentence and "not comparable" in one.sentence
    assert one.evidence["anchor's tok/s before"] == pytest.approx(30.9, rel=0.01)
    assert one.evidence["anchor's tok/s after"] == pytest.approx(33.4, rel=0.01)
    assert [name for name, each in found.items() if "drifting" in codes(each)] == ["Q4_K_M", "Q3_K_M"]


@pytest.mark.parametrize(("share", "drifts"), [(0.05, True), (0.09, False)])
def test_drift_is_what_the_settings_call_drift(share: float, drifts: bool) -> None:
    now = anchored()
    now.settings = msgspec.structs.replace(now.settings, drift=share)
    assert ("drifting" in codes(verdicts.of_arm(now, now.arms["Q4_K_M"]))) == drifts


def test_drift_while_it_was_measured_again_is_said_to_be_that() -> None:
    """The advice is then no longer to wait for another measurement."""
    now = anchored()
    first = now.arms["Q4_K_M"].attempts[0]
    again = msgspec.structs.replace(first, number=2)
    now.arms["Q4_K_M"].attempts.append(again)
    (one,) = [verdict for verdict in verdicts.of_arm(now, now.arms["Q4_K_M"]) if verdict.code == "drifting"]
    assert "measured again" in one.sentence and "abba" in one.advice


def test_a_repetition_under_way_at_a_deeper_depth_is_no_part_of_the_first_depths_window() -> None:
    now = anchored()
    arm = now.arms["Q4_K_M"]
    for depth, counts in ((now.settings.depths[0], True), (now.settings.depths[0] + 64, False)):
        now.apply(e.UnitStarted(unit=e.Unit(arm=arm.id, kind="decode", index=90, tokens=128, depth=depth), at=now.t))
        assert (parts.under_way(now, arm, "decode") is not None) == counts
