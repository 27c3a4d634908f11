"""The memory roofline: byte counts against arithmetic done by hand, and the choice of a ceiling."""

from __future__ import annotations

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.diagnosis import roofline
from quanttui.state import Attempt


def group(role: str, size: int) -> e.TensorGroup:
    return e.TensorGroup(role=role, type="F16", count=1, elements=size // 2, bytes=size)


def model(**changes: object) -> e.Shape:
    """1 layer x 2 KV heads, K of 8 and V of 4 elements; embedding 1000 bytes in 10 rows, output 500, blocks 4000."""
    fields = {
        "architecture": "x", "name": "x", "layers": 2, "embedding": 16, "vocabulary": 10, "heads": 2,
        "head_count_kv": (2, 1), "key_length": 8, "value_length": 4, "context": 4096, "tied": False,
        "tensors": (group("embedding", 1000), group("output", 500), group("block", 4000), group("other", 20)),
    }  # fmt: skip
    return e.Shape(**(fields | changes))


def test_a_dense_token_reads_all_but_the_embedding_of_which_one_row() -> None:
    assert roofline.active_bytes(model(), 0, "f16") == 100 + 500 + 4000 + 20


def test_a_tied_embedding_is_read_once_whole() -> None:
    tied = model(tied=True, tensors=(group("embedding", 1000), group("block", 4000)))
    assert roofline.active_bytes(tied, 0, "f16") == 5000


def test_of_the_experts_only_those_used_are_read_by_a_token_and_all_by_a_batch() -> None:
    shape = model(experts=8, experts_used=2, tensors=(group("experts", 8000), group("block", 400)))
    assert roofline.active_bytes(shape, 0, "f16") == 2000 + 400
    assert roofline.batch_bytes(shape) == 8000 + 400
    assert roofline.resident_bytes(shape) == 8400


@pytest.mark.parametrize(("kv", "each"), [("f16", 2), ("q8_0", 34 / 32), ("q4_0", 18 / 32), ("f32", 4)])
def test_kv_cells_cost_what_their_type_costs(kv: str, each: float) -> None:
    assert roofline.kv_bytes(model(), 256, kv) == 256 * (2 + 1) * (8 + 4) * each


@pytest.mark.parametrize(("depth", "cells"), [(0, 0), (1, 256), (256, 256), (257, 512), (4096, 4096)])
def test_kv_cells_are_padded_to_256(depth: int, cells: int) -> None:
    assert roofline.kv_bytes(model(), depth, "f16") == cells * 3 * 12 * 2


def test_a_sliding_window_bounds_the_cells() -> None:
    assert roofline.kv_bytes(model(window=1000), 30_000, "f16") == 1024 * 3 * 12 * 2
    assert roofline.kv_bytes(model(window=1000), 200, "f16") == roofline.kv_bytes(model(), 200, "f16")


def test_an_unknown_kv_type_is_refused() -> None:
    with pytest.raises(ValueError, match="q9_9"):
        roofline.kv_bytes(model(), 1, "q9_9")


@given(depth=st.integers(0, 200_000), more=st.integers(0, 10_000))
def test_active_bytes_never_fall_with_depth(depth: int, more: int) -> None:
    assert roofline.active_bytes(model(), depth + more, "q8_0") >= roofline.active_bytes(model(), depth, "q8_0")


@given(used=st.integers(1, 64), experts=st.integers(1, 64))
def test_a_token_reads_at_most_a_batch_and_a_batch_at_most_everything(used: int, experts: int) -> None:
    shape = model(experts=experts, experts_used=used, tensors=(group("experts", 8000), group("embedding", 100)))
    assert roofline.active_bytes(shape, 0, "f16") <= roofline.batch_bytes(shape) + 1e-9
    assert roofline.batch_bytes(shape) <= roofline.resident_bytes(shape)


def test_predicted_speed_is_bandwidth_over_bytes() -> None:
    assert roofline.predicted_tok_s(model(), 0, "f16", 4.62e-6) == pytest.approx(1.0)


def loaded(gpu_layers: int, layers: int = 33) -> e.ArmLoaded:
    return e.ArmLoaded(arm="x", pid=1, gpu_layers=gpu_layers, layers=layers, load_ns=1, threads=2)


def ceiling(how: str, gb_s: float | None, device: str = "cpu", why: str = "") -> e.Ceiling:
    return e.Ceiling(arm="x", how=how, gb_s=gb_s, device=device, why=why)


def test_a_measured_ceiling_goes_before_one_looked_up_and_the_best_of_a_kind_counts() -> None:
    found = [ceiling("looked up", 120.0), ceiling("measured", 33.0), ceiling("measured", 34.0), ceiling("absent", None)]
    best, why = roofline.best_ceiling(Attempt(number=1, ceilings=found))
    assert (best, why) == (found[2], "")


def test_the_ceiling_is_of_the_memory_that_holds_the_weights() -> None:
    found = [ceiling("measured", 50.0), ceiling("looked up", 3350.0, device="gpu0")]
    on_gpu, _ = roofline.best_ceiling(Attempt(number=1, ceilings=found, loaded=loaded(33)))
    on_cpu, _ = roofline.best_ceiling(Attempt(number=1, ceilings=found, loaded=loaded(0)))
    assert (on_gpu, on_cpu) == (found[1], found[0])


def test_with_layers_on_both_sides_there_is_no_one_ceiling_and_that_is_said() -> None:
    best, why = roofline.best_ceiling(Attempt(number=1, ceilings=[ceiling("measured", 50.0)], loaded=loaded(20)))
    assert best is None
    assert "20 of 33" in why


def test_an_absent_ceiling_keeps_its_reason() -> None:
    best, why = roofline.best_ceiling(Attempt(number=1, ceilings=[ceiling("absent", None, why="no memory free")]))
    assert (best, why) == (None, "no memory free")


@pytest.mark.parametrize(("tok_s", "slow"), [(17.0, False), (9.0, False), (7.0, True), (0.15, True)])
def test_slow_is_below_a_third_of_what_bytes_and_bandwidth_predict(tok_s: float, slow: bool) -> None:
    """1.24 GB active at 33 GB/s predict 26 tok/s, a third of which is 8.8."""
    now = builders.state(builders.Arm("Q8_0", tok_s=tok_s, tokens=4))
    assert roofline.is_slow(now, now.arms["Q8_0"]) is slow


def test_nothing_is_slow_without_a_ceiling_or_inside_the_cache() -> None:
    absent = builders.state(builders.Arm("Q8_0", tok_s=0.5, tokens=4, ceiling=None))
    cached = builders.state(builders.Arm("Q8_0", tok_s=50.0, tokens=4), parameters=1_000_000)
    assert not roofline.is_slow(absent, absent.arms["Q8_0"])
    assert not roofline.is_slow(cached, cached.arms["Q8_0"])
    assert not roofline.is_slow(cached, builders.state(builders.Arm(planned_only=True)).arms["Q8_0"])
