"""The memory roofline: byte counts of made-up shapes and of real headers against arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import ggufs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.diagnosis import roofline
from quanttui.models import header


def group(role: str, size: int, kind: str = "F16") -> e.TensorGroup:
    return e.TensorGroup(role=role, type=kind, count=1, elements=size // 2, bytes=size)


def model(**changes: object) -> e.Shape:
    """2 layers of 2 and 1 KV heads, K of 8 and V of 4; embedding 1000 bytes in 10 rows, output 500, blocks 4000."""
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


@pytest.mark.parametrize("tied", [False, True])
def test_of_another_table_one_row_is_read_whether_the_embedding_is_tied_or_not(tied: bool) -> None:
    shape = model(tied=tied, tensors=(group("rows", 70_000), group("block", 4000)))
    assert roofline.active_bytes(shape, 0, "f16") == 7000 + 4000
    assert roofline.resident_bytes(shape) == 74_000


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


def test_each_layer_has_its_own_window() -> None:
    shape = model(window=1000, windows=(1000, 0))
    assert roofline.kv_bytes(shape, 30_000, "f16") == (1024 * 2 + 30_208 * 1) * 12 * 2


def test_a_latent_is_read_once_in_each_layer_that_keeps_one() -> None:
    shape = model(latent=576, head_count_kv=(1, 0, 1))
    assert roofline.kv_bytes(shape, 300, "q8_0") == 512 * 2 * 576 * 34 / 32


def test_recurrent_state_is_read_and_written_at_any_depth() -> None:
    shape = model(state_bytes=300, head_count_kv=(0, 0))
    for depth in (0, 9000):
        assert roofline.active_bytes(shape, depth, "f16") == 4620 + 600


def test_an_unknown_kv_type_is_refused() -> None:
    with pytest.raises(ValueError, match="q9_9"):
        roofline.kv_bytes(model(), 1, "q9_9")


def test_predicted_speed_is_bandwidth_over_bytes() -> None:
    assert roofline.predicted_tok_s(model(), 0, "f16", 4.62e-6) == pytest.approx(1.0)


# -- operations


def test_operations_are_two_a_weight_and_four_for_each_element_that_a_head_attends_to() -> None:
    """2260 weights are multiplied with (the embedding is looked up), 2 heads of 8 see 100 tokens in 2 layers."""
    shape = model(value_length=8)
    assert roofline.flops_per_token(shape, 0) == 2 * (250 + 2000 + 10)
    assert roofline.flops_per_token(shape, 100) == 2 * 2260 + 4 * 100 * 2 * 8 * 2


def test_operations_stop_at_the_window_and_leave_out_layers_that_do_not_attend() -> None:
    shape = model(value_length=8, head_count_kv=(2, 0, 2), windows=(64, 0, 0), window=64)
    assert roofline.flops_per_token(shape, 100) - roofline.flops_per_token(shape, 0) == 4 * (64 + 100) * 2 * 8


def test_operations_count_the_experts_used_and_a_tied_embedding() -> None:
    tensors = (group("experts", 8000), group("embedding", 1000), group("rows", 600))
    shape = model(experts=8, experts_used=2, tied=True, tensors=tensors)
    assert roofline.flops_per_token(shape, 0) == 2 * (1000 + 500)


# -- the ceiling of computing


def test_a_compute_ceiling_is_the_harmonic_mean_over_the_bytes() -> None:
    """3 GB at 30 GB/s and 1 GB at 5 GB/s take 0.3 s: 13.3 GB/s."""
    ceiling = roofline.compute_ceiling({"Q4_K": 3e9, "IQ3_S": 1e9}, {"Q4_K": 30.0, "IQ3_S": 5.0, "F16": 9.0})
    assert ceiling == pytest.approx(4 / 0.3)


@pytest.mark.parametrize(("norms", "known"), [(0.05, True), (0.06, False)])
def test_without_the_rates_of_a_twentieth_of_the_bytes_there_is_no_compute_ceiling(norms: float, known: bool) -> None:
    types = {"Q8_0": 1 - norms, "F32": norms}
    assert roofline.compute_ceiling(types, {"Q8_0": 25.0}) == (25.0 if known else None)


@pytest.mark.parametrize("rates", [{}, {"Q8_0": 0.0}, {"F16": 20.0}])
def test_a_rate_that_is_not_known_makes_no_compute_ceiling(rates: dict[str, float]) -> None:
    assert roofline.compute_ceiling({"Q8_0": 1e9}, rates) is None
    assert roofline.compute_ceiling({}, {"Q8_0": 25.0}) is None


@given(
    sizes=st.dictionaries(st.sampled_from("ABCDE"), st.floats(1, 1e10), min_size=1),
    rates=st.lists(st.floats(0.1, 1000), min_size=5, max_size=5),
)
def test_a_compute_ceiling_lies_between_the_slowest_and_the_fastest_type(
    sizes: dict[str, float], rates: list[float]
) -> None:
    of = {kind: rate for kind, rate in zip("ABCDE", rates, strict=True) if kind in sizes}
    ceiling = roofline.compute_ceiling(sizes, of)
    assert ceiling is not None
    assert min(of.values()) * (1 - 1e-9) <= ceiling <= max(of.values()) * (1 + 1e-9)


# -- several devices


def test_two_devices_take_their_times_one_after_the_other() -> None:
    """Of 4520 bytes without the table 2260 lie on each: 4620 are moved, half at 1 and half at 2 bytes a nanosecond."""
    resident = {"cpu": 1000 + 2260, "CUDA0": 2260}
    rate = roofline.split_tok_s(model(), 0, "f16", resident, {"cpu": 1.0, "CUDA0": 2.0})
    assert rate == pytest.approx(1 / (2310e-9 / 1.0 + 2310e-9 / 2.0))


def test_the_table_that_stays_behind_needs_no_ceiling() -> None:
    rate = roofline.split_tok_s(model(), 300, "f16", {"cpu": 1000, "CUDA0": 4520}, {"CUDA0": 3000.0})
    assert rate == pytest.approx(roofline.predicted_tok_s(model(), 300, "f16", 3000.0))


def test_a_tied_table_that_lies_on_both_is_read_where_the_output_is() -> None:
    """llama.cpp keeps the embedding for look-ups beside the CPU and a copy of it as the output on the GPU."""
    tied = model(tied=True, tensors=(group("embedding", 1000), group("block", 4000)))
    rate = roofline.split_tok_s(tied, 0, "f16", {"cpu": 1000, "CUDA0": 5000}, {"CUDA0": 100.0})
    assert rate == pytest.approx(roofline.predicted_tok_s(tied, 0, "f16", 100.0))
    assert roofline.split_tok_s(tied, 0, "f16", {"cpu": 1000, "CUDA0": 4000}, {"CUDA0": 100.0}) is None


@pytest.mark.parametrize(
    ("resident", "gb_s"),
    [({}, {"cpu": 1.0}), ({"cpu": 3000, "CUDA0": 2000}, {"CUDA0": 9.0}), ({"cpu": 5520}, {"cpu": 0.0})],
)
def test_a_split_over_a_device_without_a_ceiling_predicts_nothing(
    resident: dict[str, float], gb_s: dict[str, float]
) -> None:
    assert roofline.split_tok_s(model(), 0, "f16", resident, gb_s) is None


@given(share=st.floats(0, 1), slow=st.floats(1, 100), fast=st.floats(100, 4000), depth=st.integers(0, 50_000))
def test_a_split_lies_between_its_devices(share: float, slow: float, fast: float, depth: int) -> None:
    resident = {"cpu": 1000 + 4520 * share, "CUDA0": 4520 * (1 - share)}
    rate = roofline.split_tok_s(model(), depth, "q8_0", resident, {"cpu": slow, "CUDA0": fast})
    assert rate is not None
    bounds = [roofline.predicted_tok_s(model(), depth, "q8_0", one) for one in (slow, fast)]
    assert bounds[0] * (1 - 1e-9) <= rate <= bounds[1] * (1 + 1e-9)


# -- properties


def shapes() -> st.SearchStrategy[e.Shape]:
    """Shapes of every kind: tied or not, experts, windows, latents, state, tables, several types."""
    sizes = st.integers(0, 10**9)
    groups = st.builds(
        group,
        st.sampled_from(["embedding", "output", "experts", "block", "rows", "other"]),
        sizes,
        st.sampled_from(["F32", "F16", "Q8_0", "IQ3_S"]),
    )
    layers = st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0, 1, 512, 4096])), min_size=1, max_size=6)
    return st.builds(
        lambda layers, tensors, **fields: model(
            head_count_kv=tuple(heads for heads, _ in layers),
            windows=tuple(window for _, window in layers),
            tensors=tuple(tensors),
            **fields,
        ),
        layers,
        st.lists(groups, max_size=8),
        tied=st.booleans(),
        vocabulary=st.integers(0, 1000),
        experts=st.integers(0, 64),
        experts_used=st.integers(0, 64),
        latent=st.sampled_from([0, 576]),
        state_bytes=sizes,
    )


@given(shape=shapes(), depth=st.integers(0, 200_000), more=st.integers(0, 10_000))
def test_neither_bytes_nor_operations_ever_fall_with_depth(shape: e.Shape, depth: int, more: int) -> None:
    for count in (lambda at: roofline.active_bytes(shape, at, "q8_0"), lambda at: roofline.flops_per_token(shape, at)):
        assert count(depth + more) >= count(depth)


@given(shape=shapes(), depth=st.integers(0, 200_000))
def test_a_token_moves_at_most_a_batch_and_that_at_most_all_weights_with_cache_and_state(
    shape: e.Shape, depth: int
) -> None:
    besides = roofline.kv_bytes(shape, depth, "f16") + 2 * shape.state_bytes
    token, batch = roofline.active_bytes(shape, depth, "f16"), roofline.batch_bytes(shape)
    assert token <= (batch + besides) * (1 + 1e-9)
    assert batch <= roofline.resident_bytes(shape) * (1 + 1e-9)


@given(shape=shapes(), depth=st.integers(0, 200_000))
def test_the_types_make_the_active_bytes_without_cache_and_state(shape: e.Shape, depth: int) -> None:
    rest = roofline.kv_bytes(shape, depth, "f16") + 2 * shape.state_bytes
    types = roofline.active_types(shape)
    assert sum(types.values()) + rest == pytest.approx(roofline.active_bytes(shape, depth, "f16"))
    assert set(types) == {group.type for group in shape.tensors}


# -- real headers

TABLE = 64 * 96 * 2
"""Bytes of the embedding that all of these have: 96 rows of 64 in F16."""
ATTENTION = {"attn_q": (64, 64), "attn_k": (64, 32), "attn_v": (64, 32), "attn_output": (64, 64)}
DENSE = ATTENTION | {"ffn_gate": (64, 128), "ffn_up": (64, 128), "ffn_down": (128, 64)}
HEADS = {"attention.head_count": 4, "attention.head_count_kv": 2}
"""4 heads of 16, so a token keeps 2 x (16 + 16) elements in a layer."""
CELL = 2 * (16 + 16) * 2
"""Bytes of those in F16."""


def read(path: Path, architecture: str, keys: dict[str, Any], blocks: list[Any], **more: Any) -> e.Shape:
    return header.shape(header.read(ggufs.tiny(path / "tiny.gguf", architecture, keys, blocks, **more)))


def bytes_of(*blocks: dict[str, tuple[int, ...]]) -> int:
    """F16 bytes of those matrices."""
    return sum(2 * prod(shape) for block in blocks for shape in block.values())


def test_a_dense_file_costs_its_blocks_and_output_and_one_row(tmp_path: Path) -> None:
    shape = header.shape(header.read(ggufs.write(tmp_path / "model.gguf", ggufs.SMALL)))
    norms = (2 * 2 + 1) * 64 * 4
    assert roofline.active_bytes(shape, 0, "f16") == TABLE / 96 + TABLE + 2 * bytes_of(DENSE) + norms
    assert roofline.active_bytes(shape, 300, "f16") - roofline.active_bytes(shape, 0, "f16") == 2 * 512 * CELL
    assert roofline.resident_bytes(shape) == 2 * TABLE + 2 * bytes_of(DENSE) + norms
    assert shape.note == ""


def test_a_tied_file_costs_its_embedding_instead(tmp_path: Path) -> None:
    shape = read(tmp_path, "qwen2", HEADS, [DENSE, DENSE])
    assert shape.tied
    assert roofline.active_bytes(shape, 0, "f16") == TABLE + 2 * bytes_of(DENSE)


def test_llama_3_1_8b_at_q8_0_moves_what_is_known_of_it(tmp_path: Path) -> None:
    """7.98 GB a token, file less embedding, and 128 KiB of F16 cache for each token of context."""
    shape = header.shape(header.read(ggufs.write(tmp_path / "model.gguf", ggufs.LLAMA_8B, "Q8_0")))
    assert roofline.active_bytes(shape, 0, "f16") == pytest.approx(7.98e9, rel=0.002)
    assert roofline.kv_bytes(shape, 8192, "f16") == 8192 * 128 * 1024
    assert roofline.flops_per_token(shape, 0) == pytest.approx(2 * 7.505e9, rel=0.001)
    assert roofline.flops_per_token(shape, 1000) - roofline.flops_per_token(shape, 0) == 4 * 1000 * 4096 * 32
    assert set(roofline.active_types(shape)) == {"Q8_0", "F32"}


def test_experts_are_read_by_their_share_and_shared_ones_and_the_router_whole(tmp_path: Path) -> None:
    routed = {"ffn_gate_exps": (64, 32, 8), "ffn_up_exps": (64, 32, 8), "ffn_down_exps": (32, 64, 8)}
    whole = ATTENTION | {"ffn_gate_inp": (64, 8), "ffn_gate_shexp": (64, 48), "ffn_up_shexp": (64, 48)}
    keys = HEADS | {"expert_count": 8, "expert_used_count": 2}
    shape = read(tmp_path, "qwen2moe", keys, [whole | routed, DENSE])
    assert roofline.active_bytes(shape, 0, "f16") == TABLE + bytes_of(DENSE, whole) + bytes_of(routed) / 4
    assert roofline.batch_bytes(shape) == TABLE + bytes_of(DENSE, whole, routed)
    assert shape.note == ""


def test_gemma3_slides_in_five_of_six_layers(tmp_path: Path) -> None:
    shape = read(tmp_path, "gemma3", HEADS | {"attention.sliding_window": 512}, [DENSE] * 7)
    assert shape.windows == (512, 512, 512, 512, 512, 0, 512)
    assert roofline.kv_bytes(shape, 4096, "f16") == (6 * 512 + 4096) * CELL
    assert roofline.kv_bytes(shape, 500, "q8_0") == 7 * 512 * CELL / 2 * 34 / 32


def test_gpt_oss_slides_in_every_other_layer_and_reads_four_experts(tmp_path: Path) -> None:
    routed = {"ffn_gate_exps": (64, 32, 32), "ffn_up_exps": (64, 32, 32), "ffn_down_exps": (32, 64, 32)}
    keys = HEADS | {"expert_count": 32, "expert_used_count": 4, "attention.sliding_window": 128}
    shape = read(tmp_path, "gpt-oss", keys, [ATTENTION | routed] * 4, more={"output.weight": (64, 96)})
    assert shape.windows == (128, 0, 128, 0)
    weights = TABLE / 96 + TABLE + 4 * bytes_of(ATTENTION) + 4 * bytes_of(routed) / 8
    assert roofline.active_bytes(shape, 1000, "f16") == weights + 2 * (256 + 1024) * CELL


def test_phi3_names_a_window_that_llama_cpp_does_not_use(tmp_path: Path) -> None:
    shape = read(tmp_path, "phi3", HEADS | {"attention.sliding_window": 512}, [DENSE] * 2)
    assert (shape.window, shape.windows, shape.note) == (0, (), "")
    assert roofline.kv_bytes(shape, 4096, "f16") == 2 * 4096 * CELL


MLA = {"attn_q": (64, 4 * 24), "attn_kv_a_mqa": (64, 40), "attn_k_b": (16, 32, 4), "attn_v_b": (32, 16, 4)}


def test_deepseek2_keeps_one_latent_of_rank_and_rope_a_layer(tmp_path: Path) -> None:
    keys = {
        "attention.head_count": 4, "attention.head_count_kv": 1, "attention.kv_lora_rank": 32,
        "rope.dimension_count": 8, "attention.key_length": 40, "attention.value_length": 32,
        "attention.key_length_mla": 24, "attention.value_length_mla": 16,
    }  # fmt: skip
    shape = read(tmp_path, "deepseek2", keys, [MLA] * 3)
    assert (shape.latent, shape.note) == (40, "")
    assert roofline.kv_bytes(shape, 256, "f16") == 3 * 256 * 40 * 2
    assert roofline.active_bytes(shape, 0, "f16") == TABLE + 3 * bytes_of(MLA)
    attended = roofline.flops_per_token(shape, 10) - roofline.flops_per_token(shape, 0)
    assert attended == 2 * 10 * 4 * (40 + 32) * 3


def test_an_older_deepseek2_file_keeps_keys_and_values_of_all_heads(tmp_path: Path) -> None:
    block = {"attn_q": (64, 4 * 24), "attn_kv_a_mqa": (64, 40), "attn_kv_b": (32, 4 * (16 + 16))}
    keys = {
        "attention.head_count": 4, "attention.head_count_kv": 4, "attention.kv_lora_rank": 32,
        "rope.dimension_count": 8, "attention.key_length": 24, "attention.value_length": 16,
    }  # fmt: skip
    shape = read(tmp_path, "deepseek2", keys, [block] * 3)
    assert (shape.latent, shape.note) == (0, "")
    assert roofline.kv_bytes(shape, 256, "f16") == 3 * 256 * 4 * (24 + 16) * 2


SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16}
MIXER = {"ssm_in": (64, 256), "ssm_out": (128, 64)}


def test_mamba_reads_and_writes_its_state_and_keeps_no_cache(tmp_path: Path) -> None:
    shape = read(tmp_path, "mamba", SSM | {"attention.head_count": 0}, [MIXER] * 3)
    state = 3 * 4 * (3 * 128 + 16 * 128)
    assert (shape.state_bytes, shape.head_count_kv, shape.note) == (state, (0, 0, 0), "")
    for depth in (0, 5000):
        assert roofline.active_bytes(shape, depth, "f16") == TABLE + 3 * bytes_of(MIXER) + 2 * state


def test_jamba_keeps_a_cache_where_it_attends_and_a_state_elsewhere(tmp_path: Path) -> None:
    keys = HEADS | SSM | {"attention.head_count_kv": [0, 2, 0, 0]}
    shape = read(tmp_path, "jamba", keys, [MIXER, ATTENTION, MIXER, MIXER])
    assert shape.state_bytes == 3 * 4 * (3 * 128 + 16 * 128)
    assert roofline.kv_bytes(shape, 1000, "f16") == 1024 * CELL
    assert roofline.flops_per_token(shape, 7) - roofline.flops_per_token(shape, 0) == 4 * 7 * 64


def test_gemma3n_reads_one_row_of_its_per_layer_embedding(tmp_path: Path) -> None:
    """The table is as large as all the rest of such a model, and llama.cpp takes one row of it for a token."""
    table = {"per_layer_token_embd.weight": (4 * 256, 96)}
    shape = read(tmp_path, "gemma3n", HEADS | {"attention.sliding_window": 512}, [DENSE] * 5, more=table)
    rows = 4 * 256 * 96 * 2
    assert roofline.active_bytes(shape, 0, "f16") == TABLE + 5 * bytes_of(DENSE) + rows / 96
    assert roofline.resident_bytes(shape) == TABLE + 5 * bytes_of(DENSE) + rows
    assert shape.windows == (512, 512, 512, 512, 0)


def test_layers_that_predict_further_tokens_are_neither_read_nor_resident(tmp_path: Path) -> None:
    keys = HEADS | {"nextn_predict_layers": 1}
    shape = read(tmp_path, "glm4moe", keys, [DENSE, DENSE, DENSE | {"nextn.eh_proj": (128, 64)}])
    assert roofline.active_bytes(shape, 256, "f16") == TABLE + 2 * bytes_of(DENSE) + 2 * 256 * CELL
    assert roofline.resident_bytes(shape) == TABLE + 2 * bytes_of(DENSE)
    assert (shape.layers, shape.head_count_kv, shape.note) == (3, (2, 2, 0), "")


def test_a_file_that_contradicts_itself_costs_what_its_tensors_cost(tmp_path: Path) -> None:
    """32 layers are claimed and 3 are there: three are counted, and it is said."""
    shape = read(tmp_path, "llama", HEADS | {"block_count": 32}, [DENSE] * 3)
    assert roofline.active_bytes(shape, 256, "f16") == TABLE + 3 * bytes_of(DENSE) + 3 * 256 * CELL
    assert "32" in shape.note and "3" in shape.note


@pytest.mark.parametrize("name", ["stories260K.gguf", "stories260K-pad256-F16.gguf"])
def test_a_real_file_costs_its_tensors_less_the_embedding_that_is_not_read(shared: Path, name: str) -> None:
    found = header.read(shared / "data" / name)
    shape = header.shape(found)
    assert shape.note == ""
    whole = sum(tensor.bytes for tensor in found.tensors)
    table = next(tensor for tensor in found.tensors if tensor.name == "token_embd.weight")
    unread = 0 if shape.tied else table.bytes * (1 - 1 / table.shape[1])
    assert roofline.active_bytes(shape, 0, "f16") == pytest.approx(whole - unread)
    assert roofline.resident_bytes(shape) == whole


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_a_files_types_are_read_by_the_shares_of_their_tensors(tmp_path: Path, kind: str) -> None:
    tied = replace(ggufs.SMALL, tied=True)
    shape = header.shape(header.read(ggufs.write(tmp_path / "model.gguf", tied, kind)))
    types = roofline.active_types(shape)
    assert types["F32"] == 5 * 64 * 4
    assert sum(types.values()) == roofline.active_bytes(shape, 0, "f16") == roofline.resident_bytes(shape)
