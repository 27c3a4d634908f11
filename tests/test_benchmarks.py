"""The benchmarks' own statistics, rounds and output: a harness that errs would say anything of the program."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchmarks import contestants, figures, rounds, rows, table, tools
from benchmarks.contestants import Failed, SpeedTest
from benchmarks.figures import MISSED, OPEN, REACHED, Target
from benchmarks.machine import Machine
from benchmarks.rounds import Limits, Result
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session

CHECKOUT = Path(__file__).resolve().parents[1]
Draw = Callable[[np.random.Generator, int], np.ndarray]

ratios = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60)


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 7, 12, 25, 60])
@pytest.mark.parametrize(
    ("draw", "middle"),
    [
        (lambda random, n: random.normal(1, 0.1, n), 1.0),
        (lambda random, n: random.exponential(1, n), np.log(2)),
        (lambda random, n: random.standard_cauchy(n), 0.0),
    ],
    ids=["normal", "skewed", "heavy tails"],
)
def test_the_interval_holds_the_median_as_often_as_it_says(n: int, draw: Draw, middle: float) -> None:
    """In 4,000 draws, of any distribution: never less often than 95 %, within three standard errors."""
    random = np.random.default_rng((7, n))
    found = [figures.interval(draw(random, n).tolist()) for _ in range(4000)]
    held = np.mean([low <= middle <= high for low, high in found if (low, high)])
    assert held >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 4000)


@given(ratios)
def test_below_six_values_nothing_is_held_with_95_percent(values: list[float]) -> None:
    assert (figures.interval(values) is None) == (len(values) < 6)


@given(st.lists(st.floats(0.5, 2.0), min_size=6, max_size=60), st.randoms())
def test_the_interval_holds_the_samples_median_whatever_their_order(values: list[float], order: object) -> None:
    found = figures.interval(values)
    assert found is not None and found[0] <= figures.median(values) <= found[1]
    shuffled = list(values)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert figures.interval(shuffled) == found


def test_more_values_make_the_interval_no_wider() -> None:
    random = np.random.default_rng(1)
    widths = []
    for n in (6, 20, 80, 320):
        found = [figures.interval(random.normal(1, 0.1, n).tolist()) for _ in range(200)]
        widths.append(np.mean([high - low for low, high in (one for one in found if one)]))
    assert widths == sorted(widths, reverse=True)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=40), st.floats(-5, 5))
def test_the_spread_is_of_the_values_not_of_where_they_lie(values: list[float], shift: float) -> None:
    assert figures.spread(values) >= 0
    assert figures.spread([value + shift for value in values]) == pytest.approx(figures.spread(values), abs=1e-9)


# --- verdicts -------------------------------------------------------------------------------------------------------

targets = st.sampled_from([Target(0.99), Target(None, 0.2), Target(0.995, 1.005), Target(1.15)])


@given(targets, ratios, st.floats(0.001, 0.5))
def test_an_interval_that_is_too_wide_tells_only_at_the_cap_and_only_if_none_of_it_is_out_of_range(
    target: Target, values: list[float], width: float
) -> None:
    found = figures.interval(values)
    if found is None or found[1] - found[0] > width:
        assert (target.verdict(values, width, last=True) == REACHED) == target.is_clear(values)
        assert target.verdict(values, width, last=False) == ""
    else:
        assert target.verdict(values, width, last=False) in (REACHED, MISSED)


@pytest.mark.parametrize(("target", "clear"), [(Target(1.5), True), (Target(1.65), False), (Target(None, 1.8), True)])
def test_a_wide_interval_is_clear_where_all_of_it_is_in_range(target: Target, clear: bool) -> None:
    rounds = [1.6186, 1.7774, 1.7405, 1.7091, 1.6846, 1.6901]
    assert target.is_clear(rounds) == clear
    assert not target.is_clear(rounds[:5]), "below six values there is no interval"


@pytest.mark.parametrize(
    ("target", "centre", "expected"),
    [
        (Target(0.99), 0.990, REACHED),
        (Target(0.99), 0.989, MISSED),
        (Target(None, 0.2), 0.2, REACHED),
        (Target(None, 0.2), 0.201, MISSED),
        (Target(0.995, 1.005), 1.0, REACHED),
        (Target(0.995, 1.005), 0.994, REACHED),
        (Target(0.995, 1.005), 0.992, MISSED),
        (Target(0.995, 1.005), 1.008, MISSED),
    ],
)
def test_a_bound_is_the_medians_and_a_range_is_the_intervals(target: Target, centre: float, expected: str) -> None:
    values = [centre + 0.0005 * step for step in range(-6, 7)]
    assert target.verdict(values, 0.01, last=False) == expected


def test_a_wide_interval_that_lies_wholly_on_the_wrong_side_is_a_miss() -> None:
    values = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97]
    assert Target(0.99).verdict(values, 0.01, last=True) == MISSED
    assert Target(0.6).verdict(values, 0.01, last=True) == OPEN
    assert Target(0.5).verdict(values, 0.01, last=True) == REACHED


# --- rounds ---------------------------------------------------------------------------------------------------------


class Calm(Machine):
    """A machine on which so much was going on in each round."""

    def __init__(self, *others: float) -> None:
        super().__init__(0.0, lambda _: None, lambda: "")
        self._others = list(others)

    def others(self) -> float:
        return self._others.pop(0) if self._others else 0.0


def compared(
    limits: Limits, machine: Machine, target: Target, ours: Callable[[], float], tool: Callable[[], float]
) -> Result:
    return rounds.compare(Result("row", target), ours, tool, limits, machine, lambda _: None)


def test_a_machine_that_slows_down_steadily_changes_no_median() -> None:
    """Ours and the tool are equally fast: each measurement finds the machine a little slower than the one before."""
    clock = iter(np.linspace(100, 50, 2 * 22 + 8))
    result = compared(Limits(0.0, 22), Calm(), Target(0.99), lambda: next(clock), lambda: next(clock))
    assert figures.median(result.values) == pytest.approx(1, abs=0.001)
    assert len(result.floor) == 8 and figures.median(result.floor) == pytest.approx(1, abs=0.001)


def test_rounds_end_when_the_interval_is_narrow_and_at_the_cap_at_the_latest() -> None:
    random = np.random.default_rng(3)
    quiet = compared(Limits(0.01, 200), Calm(), Target(0.99), lambda: 1.0, lambda: float(random.normal(1, 0.002)))
    assert 6 <= len(quiet.values) < 30 and quiet.verdict == REACHED
    noisy = compared(Limits(0.01, 40), Calm(), Target(0.99), lambda: 1.0, lambda: float(random.normal(1, 0.2)))
    assert len(noisy.values) == 40 and noisy.verdict == OPEN


def test_a_disturbed_round_counts_for_nothing_and_is_told() -> None:
    rates = iter([1.0, 5.0, 5.0] + [1.0] * 30)
    result = compared(Limits(0.01, 8, 1), Calm(0.9, 0.9), Target(0.99), lambda: next(rates), lambda: next(rates))
    assert set(result.values) == {1.0}
    assert result.notes == ["1 disturbed rounds done again", "1 disturbed rounds counted"]


def test_a_machine_that_is_never_quiet_is_told_and_not_waited_for_forever() -> None:
    said: list[str] = []
    machine = Machine(0.0, said.append, lambda: "others use 2 cores")
    machine.wait()
    assert machine.given_up == 1
    assert "others use 2 cores" in said[0] and "all the same" in said[1]


# --- what is read of the tools --------------------------------------------------------------------------------------

LOG = """\
0.00.231.093 I perplexity: tokenization took 49.637 ms
0.01.231.140 I perplexity: calculating perplexity over 8 chunks, n_ctx=512, batch_size=2048, n_seq=4
0.01.544.899 I perplexity: 0.31 seconds per pass - ETA 1.02.928.515 I Final estimate: PPL = 3.1662 +/- 0.10960
"""


def fake(folder: Path, name: str, *outputs: str) -> Path:
    """A program that writes one of the outputs to stderr each time it is called, and the last one from then on."""
    count = folder / "count"
    lines = ["#!/bin/sh", f'n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) > {count}; case "$n" in']
    for at, text in enumerate(outputs):
        (folder / f"{at}.txt").write_text(text)
        lines.append(f"{at if at < len(outputs) - 1 else '*'}) cat {folder}/{at}.txt >&2;;")
    program = folder / name
    program.write_text("\n".join([*lines, "esac", ""]))
    program.chmod(0o755)
    return program


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_llama_perplexity_is_timed_by_its_own_log_and_asked_again_for_lines_that_it_lost(tmp_path: Path) -> None:
    fake(tmp_path, tools.PERPLEXITY, LOG.partition("ETA")[0], LOG)
    found = tools.Tools(tmp_path).perplexity(tmp_path / "model", tmp_path / "text", 1, 8)
    assert (found.ppl, found.chunks) == (3.1662, 8)
    assert found.seconds == pytest.approx(62.928515 - 1.231140)


def logged(folder: Path, *events: e.Event) -> Path:
    """A session's log of these events."""
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, events)))
    return folder


def test_time_in_a_phase_counts_once_where_several_arms_are_in_it(tmp_path: Path) -> None:
    def at(t: float, kind: type, arm: str, phase: str = "perplexity", **more: str) -> e.Event:
        return kind(t=t, n=0, arm=arm, phase=phase, **more)  # type: ignore[no-any-return]

    folder = logged(
        tmp_path,
        at(1, e.PhaseStarted, "A", "load"),
        at(2, e.PhaseStarted, "A"),
        at(3, e.PhaseStarted, "B"),
        at(5, e.PhaseDone, "A"),
        at(7, e.PhaseFailed, "B", error="why"),
        at(8, e.PhaseStarted, "A"),
        at(9, e.PhaseStarted, "A", "decode"),
        at(20, e.PhaseDone, "A", "decode"),
    )
    assert contestants._in_phase(folder, "perplexity") == 5 + 1


def test_a_rate_is_the_mean_of_first_attempts_with_disturbed_repetitions_taken_from_their_second_try(
    tmp_path: Path,
) -> None:
    def done(index: int, ns: int, attempt: int = 1, kind: str = "decode") -> e.Event:
        unit = e.Unit(arm="A", kind=kind, index=index, tokens=100, attempt=attempt)
        return e.UnitDone(n=0, t=0.0, unit=unit, at=0.0, tokens=100, ns=ns)

    others = done(0, 1, attempt=2), done(0, 1, kind="prompt")
    folder = logged(tmp_path, done(0, 10**9), done(1, 9 * 10**9), done(1, 2 * 10**9), *others)
    assert contestants._rate(folder, SpeedTest(0, 100, 2, 1)) == pytest.approx((100 + 50) / 2)
    with pytest.raises(Failed, match="2 times and not 3"):
        contestants._rate(folder, SpeedTest(0, 100, 3, 1))


def test_scoring_lasts_from_the_first_units_beginning_until_the_last_is_recorded(tmp_path: Path) -> None:
    units = [e.Unit(arm="A", kind="perplexity", index=at, count=4) for at in (0, 4)]
    folder = logged(
        tmp_path,
        e.UnitStarted(n=0, t=1.5, unit=units[0], at=1.0),
        e.UnitStarted(n=1, t=2.0, unit=units[1], at=1.9),
        e.UnitDone(n=2, t=2.5, unit=units[0], at=1.0, tokens=2048, ns=1),
        e.UnitDone(n=3, t=4.0, unit=units[1], at=1.9, tokens=2048, ns=1),
    )
    assert contestants._scoring(folder) == 3.0


def test_other_settings_of_the_two_are_no_comparison() -> None:
    told = {"n_threads": 2, "n_batch": 2048, "n_ubatch": 512, "type_k": "f16", "type_v": "f16", "flash_attn": -1}
    asked = {"threads": 2, "batch": 2048, "ubatch": 512, "kv": "f16", "flash_attn": "auto"}
    contestants.same_settings(told, {"asked": asked})
    with pytest.raises(Failed, match="n_threads 2 / 1"):
        contestants.same_settings(told, {"asked": asked | {"threads": 1}})
    with pytest.raises(Failed, match="flash_attn auto / off"):
        contestants.same_settings(told, {"asked": asked | {"flash_attn": "off"}})


def test_both_programs_are_given_the_same_flags() -> None:
    assert SpeedTest(0, 128, 3, 2).words == ("-p", "0", "-n", "128", "-r", "3", "-t", "2")
    assert (SpeedTest(0, 128, 3, 2).kind, SpeedTest(512, 0, 3, 2).kind) == ("decode", "prompt")


@given(st.floats(1, 1000), st.floats(0, 1), st.floats(0, 1))
def test_digits_are_the_same_up_to_their_last_printed_place(ppl: float, kld: float, same: float) -> None:
    printed = rows.Digits(round(ppl, 4), round(kld, 6), round(same, 5))
    assert rows.Digits(ppl, kld, same).differences(printed) == []
    off = rows.Digits(ppl + 0.0002, kld + 2e-6 + 1e-4 * kld, same + 2e-5)
    assert off.differences(printed) == ["PPL", "KLD", "same top"]


def test_quants_in_another_order_are_named() -> None:
    full = {"A": 10.0, "B": 11.0, "C": 12.0}
    assert rows._inverted({"A": 0.0, "B": 9.0, "C": 20.0}, full) == []
    assert rows._inverted({"A": 0.0, "B": 21.0, "C": 20.0}, full) == ["C before B (9.091% apart)"]
    assert rows._inverted({"A": 0.0, "C": 20.0}, full) == ["B has no place"]


# --- what is told ---------------------------------------------------------------------------------------------------

results = st.builds(
    Result, st.sampled_from(list(rows.ROWS)), targets, ratios, ratios, st.sampled_from([REACHED, OPEN]), st.just([])
)


@given(st.lists(results, min_size=1, max_size=4))
def test_a_row_is_one_line_of_the_table_and_one_of_json(found: list[Result]) -> None:
    lines = table.table(found).splitlines()
    assert len(lines) == 2 + len(found)
    for line, result in zip(lines[2:], found, strict=True):
        assert line.startswith(result.row) and line.endswith(result.verdict)
        assert f"{figures.median(result.values):.4f}" in line and str(len(result.values)) in line
        again = json.loads(json.dumps(table.line(result, {"quick": True})))
        assert again["values"] == result.values and again["pairs"] == len(result.values) and again["quick"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *words]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, errors="replace", timeout=120)


def test_a_folder_without_the_tools_is_one_clear_line(tmp_path: Path) -> None:
    done = run("decode-headless", "--quick", "--tools", str(tmp_path), "--cache", str(tmp_path / "cache"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"benchmarks: {tmp_path}: holds no llama-bench and no llama-perplexity: leave --tools out to have them built\n"
    )


def test_the_help_names_every_row() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(name in done.stdout.replace("\n", " ") for name in rows.ROWS)
