"""What a speed is held against, and when it is far below it."""

from __future__ import annotations

import builders
import pytest

from quanttui import events as e
from quanttui.diagnosis import ceilings
from quanttui.state import Attempt


def loaded(gpu_layers: int, layers: int = 33) -> e.ArmLoaded:
    return e.ArmLoaded(arm="x", pid=1, gpu_layers=gpu_layers, layers=layers, load_ns=1, threads=2)


def ceiling(how: str, gb_s: float | None, device: str = "cpu", why: str = "") -> e.Ceiling:
    return e.Ceiling(arm="x", how=how, gb_s=gb_s, device=device, why=why)


def test_a_measured_ceiling_goes_before_one_looked_up_and_the_median_of_a_kind_counts() -> None:
    found = [ceiling("looked up", 120.0), ceiling("measured", 33.0), ceiling("measured", 34.0), ceiling("absent", None)]
    best, why = ceilings.best_ceiling(Attempt(number=1, ceilings=found))
    assert best is not None and (best.how, best.gb_s, why) == ("measured", 33.5, "")


def test_what_is_configured_goes_before_all_that_was_measured() -> None:
    found = [ceiling("measured", 33.0), ceiling("configured", 51.2), ceiling("looked up", 120.0)]
    best, _ = ceilings.best_ceiling(Attempt(number=1, ceilings=found))
    assert best is not None and (best.how, best.gb_s) == ("configured", 51.2)


def test_the_ceiling_is_of_the_memory_that_holds_the_weights() -> None:
    found = [ceiling("measured", 50.0), ceiling("looked up", 3350.0, device="gpu0")]
    on_gpu, _ = ceilings.best_ceiling(Attempt(number=1, ceilings=found, loaded=loaded(33)))
    on_cpu, _ = ceilings.best_ceiling(Attempt(number=1, ceilings=found, loaded=loaded(0)))
    assert (on_gpu, on_cpu) == (found[1], found[0])


def test_with_layers_on_both_sides_there_is_no_one_ceiling_and_that_is_said() -> None:
    best, why = ceilings.best_ceiling(Attempt(number=1, ceilings=[ceiling("measured", 50.0)], loaded=loaded(20)))
    assert best is None
    assert "20 of 33" in why


def test_an_absent_ceiling_keeps_its_reason() -> None:
    best, why = ceilings.best_ceiling(Attempt(number=1, ceilings=[ceiling("absent", None, why="no memory free")]))
    assert (best, why) == (None, "no memory free")


@pytest.mark.parametrize(("tok_s", "slow"), [(17.0, False), (9.0, False), (7.0, True), (0.15, True)])
def test_slow_is_below_a_third_of_what_bytes_and_bandwidth_predict(tok_s: float, slow: bool) -> None:
    """1.24 GB active at 33 GB/s predict 26 tok/s, a third of which is 8.8."""
    now = builders.state(builders.Arm("Q8_0", tok_s=tok_s, tokens=4))
    assert ceilings.is_slow(now, now.arms["Q8_0"]) is slow


def test_nothing_is_slow_without_a_ceiling_or_inside_the_cache() -> None:
    absent = builders.state(builders.Arm("Q8_0", tok_s=0.5, tokens=4, ceiling=None))
    cached = builders.state(builders.Arm("Q8_0", tok_s=50.0, tokens=4), parameters=1_000_000)
    assert not ceilings.is_slow(absent, absent.arms["Q8_0"])
    assert not ceilings.is_slow(cached, cached.arms["Q8_0"])
    assert not ceilings.is_slow(cached, builders.state(builders.Arm(planned_only=True)).arms["Q8_0"])


def test_one_slow_moment_of_memory_is_no_contended_bus() -> None:
    """Before it 64 GB/s, after it 43, where 61 are usual: a guest whose bandwidth jumps. Both are slow beside a hog."""
    jump = Attempt(number=1, ceilings=[ceiling("measured", 64.0), ceiling("measured", 43.0)])
    hog = Attempt(number=1, ceilings=[ceiling("measured", 36.0), ceiling("measured", 35.0)])
    jumped, held = ceilings.probed(jump), ceilings.probed(hog)
    assert jumped is not None and jumped / 61.0 > 0.8
    assert held is not None and held / 61.0 < 0.8
    assert ceilings.probed(Attempt(number=1, ceilings=[ceiling("absent", None)])) is None
