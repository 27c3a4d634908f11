"""Figures of a session: recomputed here by other means from the events, on the way and at the end."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import state as fold
from quanttui import summary
from quanttui.diagnosis import roofline

THREE = (
    builders.Arm("F16", tok_s=9.5, ppl=8.0, tokens=8),
    builders.Arm("Q8_0", tok_s=18.0, ppl=8.02, tokens=8),
    builders.Arm("Q4_K_M", tok_s=30.0, ppl=8.4, tokens=8),
)


def only(*arms: builders.Arm, **session: object) -> summary.ArmSummary:
    return summary.summarize(builders.state(*arms, **session)).arms[-1]


def rates(log: list[e.Event], kind: str) -> list[float]:
    done = (one for one in log if isinstance(one, e.UnitDone) and one.unit.kind == kind)
    return [one.tokens * 1e9 / one.ns for one in done]


@pytest.mark.parametrize("kind", ["prompt", "decode"])
def test_speed_is_the_mean_of_the_repetitions_rates_as_llama_bench_takes_it(kind: str) -> None:
    arm = builders.Arm("Q8_0", spread=0.1, tokens=8)
    each = rates(builders.events(arm), kind)
    speed = getattr(only(arm), kind)
    assert speed.tok_s == pytest.approx(statistics.fmean(each))
    assert speed.tok_s_median == pytest.approx(statistics.median(each))
    assert speed.sd == pytest.approx(statistics.stdev(each))
    assert speed.n == len(each)


def test_bandwidth_is_active_bytes_times_the_rate_and_mbu_its_share_of_the_ceiling() -> None:
    found = only(builders.Arm("Q8_0", tok_s=17.0, ceiling=33.0))
    active = roofline.active_bytes(builders.shape("Q8_0"), 0, "f16")
    assert found.decode is not None and found.decode.gb_s is not None
    assert found.decode.gb_s == pytest.approx(active * found.decode.tok_s / 1e9)
    assert found.decode.mbu == pytest.approx(found.decode.gb_s / 33.0)
    assert found.prompt is not None
    assert (found.prompt.gb_s, found.prompt.mbu) == (None, None)


def test_one_repetition_has_no_spread_and_an_absent_ceiling_no_mbu() -> None:
    found = only(builders.Arm("Q8_0", repetitions=1, ceiling=None))
    assert found.decode is not None
    assert (found.decode.sd, found.decode.n, found.decode.mbu) == (None, 1, None)
    assert found.decode.gb_s is not None


def test_what_was_not_measured_is_absent() -> None:
    found = only(builders.Arm("Q8_0", planned_only=True), closed=None)
    assert found.outcome == "planned"
    assert (found.prompt, found.decode, found.perplexity, found.delta, found.energy) == (None,) * 5
    assert (found.bits_per_weight, found.peak_memory, found.verdicts, found.reproduced) == (None, {}, (), "")
    assert found.bytes is not None


def test_the_delta_is_paired_over_common_chunks_only() -> None:
    """A base with 8 chunks, an arm with 5: ln of the ratio of both perplexities over the first 5."""
    base, few = builders.Arm("F16", ppl=8.0, chunks=8), builders.Arm("Q4_K_M", ppl=8.5, chunks=5)
    delta = only(base, few).delta
    assert delta is not None
    ratio = math.exp(sum(builders.nll(k, 8.5)[0] - builders.nll(k, 8.0)[0] for k in range(5)) / (5 * 255))
    assert (delta.base, delta.chunks) == ("F16", 5)
    assert delta.percent == pytest.approx(100 * (ratio - 1))
    each = [(builders.nll(k, 8.5)[0] - builders.nll(k, 8.0)[0]) / 255 for k in range(5)]
    assert delta.percent_error == pytest.approx(100 * ratio * statistics.stdev(each) / math.sqrt(5))


def test_pairing_cancels_the_texts_difficulty() -> None:
    found = only(*THREE)
    assert found.delta is not None and found.delta.percent_error is not None
    assert found.perplexity is not None and found.perplexity.se is not None
    assert found.delta.percent_error < 100 * found.perplexity.se / found.perplexity.value / 5


@pytest.mark.parametrize(
    ("quants", "base"),
    [(["Q8_0", "F16"], "F16"), (["Q4_K_M", "Q8_0"], "Q8_0"), (["Q8_0", "BF16", "Q4_K_M"], "BF16")],
)
def test_the_base_is_an_unquantized_arm_or_else_the_largest(quants: list[str], base: str) -> None:
    found = summary.summarize(builders.state(*(builders.Arm(quant, tokens=4) for quant in quants)))
    assert found.base == base
    assert [arm.delta is None for arm in found.arms] == [arm.id == base for arm in found.arms]


def test_an_unquantized_arm_without_chunks_is_no_base() -> None:
    failed = builders.Arm("F16", fails="oom", fails_in="load")
    assert summary.summarize(builders.state(failed, builders.Arm("Q8_0", tokens=4))).base == "Q8_0"


def test_perplexity_is_running_until_its_last_chunk() -> None:
    seen = []
    for now in builders.states(builders.events(builders.Arm("Q8_0", tokens=4, chunks=8))):
        for arm in summary.summarize(now).arms:
            if arm.perplexity is not None:
                seen.append((arm.perplexity.chunks, arm.perplexity.running))
    assert (4, True) in seen
    assert (8, False) in seen
    assert not {(8, True), (4, False)} & set(seen)


def test_an_arm_run_again_is_shown_by_its_last_run() -> None:
    found = only(builders.Arm("Q8_0", tok_s=3.1, again=(17.2,), tokens=4))
    assert found.attempt == 2
    assert found.decode is not None and found.decode.tok_s == pytest.approx(17.2, rel=0.01)
    assert found.perplexity is not None and found.perplexity.chunks == 8


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ((), ""),
        ((17.2,), "1/2: 3.10 then 17.2 tok/s"),
        ((3.3,), "reproduced 2/2"),
        ((3.87,), "reproduced 2/2"),
        ((3.9,), "1/2: 3.10 then 3.90 tok/s"),
    ],
)
def test_two_runs_reproduce_each_other_within_a_quarter(again: tuple[float, ...], said: str) -> None:
    assert only(builders.Arm("Q8_0", tok_s=3.1, again=again, tokens=4)).reproduced == said


def test_a_second_run_that_failed_reproduces_nothing() -> None:
    log = builders.Log((builders.Arm("Q8_0", tok_s=3.1, tokens=4),))
    log.open()
    log.attempt(log.arms[0], 1)
    log.attempt(builders.Arm("Q8_0", fails="crashed", fails_in="load"), 2)
    (found,) = summary.summarize(fold.fold(log.events)).arms
    assert found.reproduced == "1/2: 3.10 tok/s then crashed"
    assert found.outcome == "ok"
    assert found.decode is not None


def test_energy_is_power_over_rate_and_names_its_counter() -> None:
    found = only(builders.Arm("Q8_0", tok_s=10.0, watts=40.0))
    assert found.energy is not None
    assert found.energy.joules_per_token == pytest.approx(4.0, rel=0.05)
    assert found.energy.tok_s_per_w == pytest.approx(0.25, rel=0.05)
    assert "RAPL" in found.energy.source
    assert only(builders.Arm("Q8_0")).energy is None


def rested(*arms: builders.Arm, watts: float = 10.0) -> summary.Summary:
    """A session that measured the idle machine first, for 3 s."""
    log = builders.Log(arms)
    log.open()
    log.put(e.PhaseStarted(arm="", phase="idle"))
    for _ in range(4):
        log.put(e.Sample(readings={"package.energy": log.counters["package.energy"]}))
        log.t += 1.0
        log.counters["package.energy"] += watts
    log.put(e.PhaseDone(arm="", phase="idle"))
    for arm in arms:
        log.arm(arm)
    log.close()
    return summary.summarize(fold.fold(log.events))


def test_what_the_machine_takes_at_rest_is_subtracted_and_told() -> None:
    (found,) = rested(builders.Arm("Q8_0", tok_s=10.0, watts=40.0)).arms
    assert found.energy is not None and found.energy.idle_watts == pytest.approx(10.0)
    assert found.energy.joules_per_token == pytest.approx(3.0, rel=0.05)
    assert found.energy.gross_joules_per_token == pytest.approx(4.0, rel=0.05)


def test_measuring_the_machine_at_rest_makes_no_arm_of_it() -> None:
    assert [one.id for one in rested(builders.Arm("Q8_0", watts=40.0)).arms] == ["Q8_0"]


def test_a_machine_that_was_busy_at_rest_subtracts_nothing() -> None:
    (found,) = rested(builders.Arm("Q8_0", tok_s=10.0, watts=40.0), watts=60.0).arms
    assert found.energy is not None and found.energy.idle_watts is None
    assert found.energy.joules_per_token == pytest.approx(4.0, rel=0.05)


def test_a_contaminated_efficiency_is_marked_and_wins_no_ranking() -> None:
    """Q5_K_S with the best tok/s per watt, while it swapped."""
    found = rested(
        builders.Arm("Q8_0", tok_s=10.0, watts=40.0),
        builders.Arm("Q4_K_M", tok_s=15.0, watts=40.0),
        builders.Arm("Q5_K_S", tok_s=17.0, watts=12.4, swap=0.03),
    )
    best = max(found.arms, key=lambda one: one.energy.tok_s_per_w if one.energy and one.energy.tok_s_per_w else 0.0)
    assert best.id == "Q5_K_S" and best.energy is not None and best.energy.tainted
    assert found.thriftiest == "Q4_K_M"


def test_layers_and_memory_are_checked_against_the_driver() -> None:
    size = 1_400_000_000
    gpu = builders.Arm(
        "Q8_0", tok_s=300.0, gpu_layers=23, ceiling=900.0, buffers={"CUDA0": size, "CPU_Mapped": 50_000_000},
        gpu={"mem_used": 2.42e9, "util": 90.0}, gpu_before={"mem_used": 1e9},
    )  # fmt: skip
    fits = only(gpu).placed
    assert fits is not None and (fits.layers, fits.of, fits.doubtful) == (23, 23, False)
    assert fits.gap == pytest.approx(0.02 / 1.4, rel=0.01)
    apart = only(dataclasses.replace(gpu, gpu={"mem_used": 1.9e9})).placed
    assert apart is not None and apart.doubtful and apart.gap == pytest.approx(0.5 / 1.4, rel=0.01)
    assert only(builders.Arm("Q8_0")).placed is None


def test_memory_peaks_are_kept_by_phase() -> None:
    found = only(builders.Arm("Q8_0", tokens=4))
    size = roofline.resident_bytes(builders.shape("Q8_0"))
    assert {"prompt", "decode", "perplexity"} <= found.peak_memory.keys()
    assert found.peak_memory["decode"]["rss"] == pytest.approx(size)
    assert found.peak_memory["decode"]["device"] is None
    assert summary.peak(found) == pytest.approx(size)


def test_contaminated_decode_taints_and_a_contaminated_prompt_does_not() -> None:
    assert only(builders.Arm("Q8_0", tok_s=4.0, swap=0.021)).tainted
    assert not only(builders.Arm("Q8_0", tok_s=17.0, page_in=0.004)).tainted
    paged = only(builders.Arm("Q8_0", page_in=0.05), settings=builders.settings(decode=0))
    assert paged.verdicts[0].phase == "prompt"
    assert not paged.tainted


def test_an_arm_that_a_session_left_behind_is_interrupted_or_skipped() -> None:
    log = builders.events(THREE[0], THREE[1], builders.Arm("Q2_K", planned_only=True), closed=None)
    cut = fold.fold(log[:-40])
    assert [arm.outcome for arm in summary.summarize(cut).arms] == ["ok", "running", "planned"]
    left = summary.summarize(cut, over=True).arms
    assert [arm.outcome for arm in left] == ["ok", "interrupted", "skipped"]
    assert all("--resume" in arm.error for arm in left[1:])
    cut.apply(e.SessionClosed(outcome="interrupted", t=cut.t))
    closed = summary.summarize(cut).arms
    assert [(arm.outcome, arm.error) for arm in closed] == [(arm.outcome, arm.error) for arm in left]


def test_a_failure_keeps_its_words_and_the_figures_before_it() -> None:
    found = only(builders.Arm("Q8_0", tokens=4, fails="crashed", fails_in="perplexity", error="signal 11\x1b[31m"))
    assert (found.outcome, found.error) == ("crashed", "signal 11 [31m")
    assert found.decode is not None and found.perplexity is None


def test_settings_are_those_that_came_out_where_the_engine_said() -> None:
    log = builders.events(builders.Arm("Q8_0", tokens=4, imatrix="/data/imatrix.gguf"))
    made = e.ContextMade(arm="Q8_0", phase="decode", n_ctx=160, n_batch=2048, n_ubatch=512, n_seq=1, flash_attn=True)
    loads = [k for k, one in enumerate(log) if isinstance(one, e.ArmLoaded)]
    found = summary.summarize(fold.fold([*log[: loads[0] + 1], made, *log[loads[0] + 1 :]])).arms[0].settings
    assert found == {
        "depth": 0, "kv": "f16", "gpu_layers_asked": -1, "gpu_layers": 0, "batch": 2048, "ubatch": 512,
        "flash_attn": True, "imatrix": "/data/imatrix.gguf", "threads": 2,
    }  # fmt: skip


def test_summaries_never_look_outside_the_fold() -> None:
    """A key frame gives the same summary as the log that it was made from, at every point of it."""
    for number, now in enumerate(builders.states(builders.events(*THREE))):
        if number % 37 == 0:
            again = fold.decode(fold.encode(now))
            assert summary.summarize(again) == summary.summarize(now)
            assert summary.eta(again) == summary.eta(now)


# What is left.


def test_the_eta_is_unknown_until_every_phase_was_seen_and_after_the_end() -> None:
    seen = [(now.arm, now.phase, summary.eta(now)) for now in builders.states(builders.events(*THREE))]
    assert all(left is None for arm, phase, left in seen if arm == "F16" and phase in ("bandwidth", "load", "prompt"))
    assert seen[-1][2] is None
    assert all(left is not None for arm, phase, left in seen[:-1] if arm == "Q4_K_M" and phase)


def test_the_eta_comes_true() -> None:
    """Arms of one size and speed: from the second arm on, the end is foreseen within a tenth."""
    arms = [builders.Arm("Q8_0", id=f"a{k}", tokens=32) for k in range(4)]
    log = builders.events(*arms)
    end = log[-1].t
    for now in builders.states(log):
        left = summary.eta(now)
        if now.arm not in ("", "a0") and not now.closed:
            assert left is not None
            assert now.t + left == pytest.approx(end, rel=0.1)


def test_a_larger_file_is_expected_to_decode_longer() -> None:
    def left(quant: str) -> float:
        log = builders.events(builders.Arm("Q4_K_M", tokens=8), builders.Arm(quant, planned_only=True), closed=None)
        found = summary.eta(fold.fold(log))
        assert found is not None
        return found

    assert left("F16") > left("Q8_0") > left("Q2_K")


def test_failed_and_skipped_arms_take_no_more_time() -> None:
    one = builders.Arm("Q8_0", tokens=8)
    log = builders.events(one, builders.Arm("Q6_K", fails="crashed", fails_in="load"), closed=None)
    assert summary.eta(fold.fold(log)) == pytest.approx(0.0, abs=0.01)


def test_a_phase_goes_from_nothing_to_all_and_its_rest_comes_true() -> None:
    arm = builders.Arm("Q8_0", tok_s=10.0, spread=0.0)
    log = builders.events(arm)
    ends = {one.phase: one.t for one in log if isinstance(one, e.PhaseDone)}
    last: dict[str, float] = {}
    for now in builders.states(log):
        if now.phase not in ("decode", "prompt", "perplexity"):
            continue
        done, left = summary.phase_left(now)
        assert 0.0 <= last.get(now.phase, 0.0) <= done <= 1.0
        last[now.phase] = done
        if left is not None and done > 0.3 and now.phase != "perplexity":
            assert now.t + left == pytest.approx(ends[now.phase], abs=1.0)
    assert last == {"decode": 1.0, "prompt": 1.0, "perplexity": 1.0}


def test_no_phase_no_fraction() -> None:
    assert summary.phase_left(fold.State()) == (0.0, None)
    assert summary.eta(fold.State()) is None


def test_a_pause_to_cool_belongs_to_the_phase_that_it_interrupts() -> None:
    log = builders.events(builders.Arm("Q8_0", tok_s=10.0))
    units = [k for k, one in enumerate(log) if isinstance(one, e.UnitDone) and one.unit.kind == "decode"]
    now = fold.fold(log[: units[2] + 1])
    before = summary.phase_left(now)
    now.apply(e.PhaseStarted(arm="Q8_0", phase="cool", t=now.t, n=now.n + 1))
    now.apply(e.Beat(wall=0.0, t=now.t + 60.0, n=now.n + 1))
    assert summary.phase_left(now) == pytest.approx(before)


@given(cut=st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_any_moment_of_a_sweep_can_be_summed_up(cut: int) -> None:
    now = fold.fold(LOG[: cut * len(LOG) // 400])
    found = summary.summarize(now)
    done, left = summary.phase_left(now)
    assert 0.0 <= done <= 1.0 and (left is None or left >= 0.0)
    assert (rest := summary.eta(now)) is None or rest >= 0.0
    assert len(found.arms) == len(now.arms)


LOG = builders.events(
    builders.Arm("F16", tok_s=9.5, tokens=8),
    builders.Arm("Q8_0", tok_s=3.0, swap=0.05, again=(18.0,), tokens=8),
    builders.Arm("Q6_K", fails="timeout", fails_in="decode"),
    builders.Arm("Q2_K", tokens=8),
)


DECIDING = builders.deciding()
ANCHORED = builders.deciding(levels=(16,), anchored=True)


@pytest.mark.parametrize("log", [DECIDING, ANCHORED])
@given(cut=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_any_moment_of_a_deciding_sweep_can_be_summed_up(log: list[e.Event], cut: int) -> None:
    now = fold.fold(log[: cut * len(log) // 1000])
    done, left = summary.phase_left(now)
    assert 0.0 <= done <= 1.0 and (left is None or left >= 0.0)
    assert (rest := summary.eta(now)) is None or 0.0 <= rest < 5 * 655 * 2.0 + 3600
    for arm in now.arms.values():
        for phase in ("load", "prompt", "decode", "perplexity"):
            assert 0.0 <= summary.share_done(now, arm, phase) <= 1.0


def test_what_a_deciding_sweep_may_still_score_is_a_bound_and_ends_with_the_calls() -> None:
    """Every undecided arm, and the base for it, might go on to the last chunk; decided ones score no more."""
    now = fold.fold(DECIDING)
    assert summary.at_most(now)
    open_ = [name for name, arm in now.arms.items() if arm.outcome == "running"]
    assert open_ == ["F16", "Q4_K_M"]
    chunks = sum(655 - len(now.arms[name].chunks) for name in open_)
    assert summary.eta(now) == pytest.approx(2.0 * chunks, rel=0.1)
    now.apply(e.ArmDone(arm="Q4_K_M"))
    assert not summary.at_most(now)
    left = summary.eta(now)
    assert left is not None and left < 1.0
    full = fold.fold(builders.events(*THREE, closed=None)[:-1])
    assert not summary.at_most(full)


def test_the_rest_is_right_where_arms_take_turns() -> None:
    """Each arm is begun, none is over: what is left is not taken for what was never begun, nor for done."""
    log = builders.Log(
        tuple(builders.Arm(name, tok_s=8.0, spread=0.0, id=name) for name in ("Q8_0", "Q6_K", "Q5_K_M")),
        settings=builders.settings(schedule="round-robin", tasks=("speed",)),
    )
    log.open()
    for arm in log.arms:
        log.begin(arm, 1, ["bandwidth", "load"])
    ahead = []
    for kind in ("prompt", "decode"):
        for index in range(5):
            for arm in log.arms:
                log.put(e.PhaseStarted(arm=arm.name, phase=kind, units=5))
                log.repetition(arm, 1, kind, index, 8.0 if kind == "decode" else 60.0)
                if index == 4:
                    log.put(e.PhaseDone(arm=arm.name, phase=kind))
                ahead.append((len(log.events), kind, index))
    end = log.t
    for count, kind, index in ahead:
        now = fold.fold(log.events[:count])
        left = summary.eta(now)
        if kind == "decode" and index >= 2:
            assert left is not None and now.t + left == pytest.approx(end, rel=0.1)
        shares = [summary.share_done(now, arm, kind) for arm in now.arms.values()]
        assert all(index / 5 - 1e-9 <= share <= (index + 1) / 5 + 1e-9 for share in shares)


def test_a_phase_with_several_depths_is_done_with_the_last_of_them() -> None:
    asked = builders.settings(depths=(0, 2048), tasks=("speed",))
    log = builders.events(builders.Arm("Q8_0", tok_s=8.0), settings=asked)
    seen = [
        (now.running.unit.depth, summary.phase_left(now)[0])
        for now in builders.states(log)
        if now.phase == "decode" and now.running is not None
    ]
    assert max(share for depth, share in seen if depth == 0) <= 0.5
    assert min(share for depth, share in seen if depth == 2048) >= 0.5
    assert [share for _, share in seen] == sorted(share for _, share in seen)


def test_a_decode_that_goes_on_until_it_is_precise_is_not_done_before() -> None:
    """With a spread of 5 %, five repetitions are far from ± 1 %; the time that is allowed bounds it."""
    arm = builders.Arm("Q8_0", tok_s=16.0, spread=0.05)
    log = builders.events(arm, settings=builders.settings(precision=0.01, speed_seconds=40.0, tasks=("speed",)))
    ends = [k for k, one in enumerate(log) if isinstance(one, e.UnitDone) and one.unit.kind == "decode"]
    now = fold.fold(log[: ends[-1] + 1])
    done, left = summary.phase_left(now)
    assert done == pytest.approx(5 * 2.0 / 40.0, rel=0.05)
    assert left == pytest.approx(30.0, rel=0.1)
    sure = fold.fold(builders.events(arm, settings=builders.settings(tasks=("speed",)))[: ends[-1] + 1])
    assert summary.phase_left(sure)[0] == 1.0


def test_rounds_of_the_anchor_are_no_part_of_each_arm() -> None:
    """One more round for each arm that is still to be measured, and no second decode of each."""
    cut = next(
        k for k, one in enumerate(ANCHORED)
        if isinstance(one, e.PhaseDone) and (one.arm, one.phase) == ("Q8_0", "decode")
    )  # fmt: skip
    speeds = builders.settings(tasks=("speed",), anchor=1, prompt=64, depths=(0, 4096))
    log = [msgspec.structs.replace(one, settings=speeds) if isinstance(one, e.SessionOpened) else one
           for one in ANCHORED]  # fmt: skip
    now = fold.fold(log[: cut + 1])
    ends = [one.t for one in log if isinstance(one, e.PhaseDone) and one.phase == "decode"]
    left = summary.eta(now)
    assert left is not None and left == pytest.approx(max(ends) - now.t, rel=0.35)


def test_arms_of_the_same_tensors_are_told_and_no_others() -> None:
    """A label may lie; what came out as the same quantization must not be ranked by its noise."""
    log = builders.events(*THREE)
    same = builders.shape("Q8_0")
    twins = [
        msgspec.structs.replace(one, shape=same) if isinstance(one, e.ArmStarted) and one.arm == "Q4_K_M" else one
        for one in log
    ]
    assert summary.summarize(fold.fold(log)).notes == ()
    (note,) = summary.summarize(fold.fold(twins)).notes
    assert "Q8_0 and Q4_K_M" in note and "noise" in note


MANY = (
    builders.Arm("F16", chunks=6, tok_s=9.0),
    builders.Arm("Q8_0", chunks=6, tok_s=12.0, swap=0.02),
    builders.Arm("Q6_K", chunks=6, fails="oom", error="killed by signal 9"),
    builders.Arm("Q4_K_M", chunks=6, tok_s=22.0, kld=0.02),
    builders.Arm("Q2_K", planned_only=True),
)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"until": "decided", "tolerance": 0.02},
        {"depths": (0, 64)},
        {"schedule": "round-robin"},
        {"anchor": 1},
    ],
)
def test_what_is_remembered_of_the_arms_changes_no_summary(settings: dict[str, Any]) -> None:
    """At every event of a sweep, there and back again: the same as anew."""
    events = builders.events(*MANY, settings=builders.settings(**settings))
    known, states = summary.Known(), []
    state = fold.State()
    for place, event in enumerate(events):
        state.apply(event)
        if place % 7 == 0 or not isinstance(event, e.Sample | e.Tokens):
            assert summary.summarize(state, known=known) == summary.summarize(state)
        if place % 97 == 0:
            states.append(fold.decode(fold.encode(state)))
    for earlier in reversed(states):
        assert summary.summarize(earlier, known=known) == summary.summarize(earlier)
    assert summary.summarize(state, over=True, known=known) == summary.summarize(state, over=True)
