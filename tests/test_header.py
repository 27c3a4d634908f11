"""The reader of GGUF headers, against the gguf package and against damaged files; and what labels are worth."""

from __future__ import annotations

import importlib.util
import os
import socket
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import ggufs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quanttui import quants
from quanttui.errors import UserError
from quanttui.events import Shape
from quanttui.models import header, label, layers, pocket

MODELS = {
    "llama": replace(ggufs.SMALL),
    "tied": replace(ggufs.SMALL, tied=True),
    "fused": replace(ggufs.SMALL, fused=True, heads_kv=4, architecture="phi2"),
    "experts": replace(ggufs.SMALL, experts=8, experts_used=2),
    "gemma": replace(ggufs.SMALL, tied=True, head=32, architecture="gemma2"),
}


def _metadata_of(reader: gguf.GGUFReader) -> tuple[dict[str, Any], dict[str, int]]:
    """What the gguf package read, in the form of `Header.metadata` and `Header.lengths`."""
    metadata: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    for key, entry in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value = entry.contents()
        if entry.types[0] == gguf.GGUFValueType.ARRAY:
            lengths[key] = len(value)
            if entry.types[-1] != gguf.GGUFValueType.STRING and len(value) <= header.ARRAY_LIMIT:
                metadata[key] = tuple(value)
        elif isinstance(value, str) and len(value.encode()) > header.STRING_LIMIT:
            lengths[key] = len(value.encode())
        else:
            metadata[key] = value
    return metadata, lengths


def _assert_read_alike(path: Path) -> None:
    ours, theirs = header.read(path), gguf.GGUFReader(path)
    metadata, lengths = _metadata_of(theirs)
    assert ours.metadata == metadata
    assert ours.lengths == lengths
    assert ours.data_offset == theirs.data_offset
    assert ours.file_bytes == path.stat().st_size
    expected = [
        (t.name, t.tensor_type.name, tuple(map(int, t.shape)), int(t.n_bytes), t.data_offset - theirs.data_offset)
        for t in theirs.tensors
    ]
    assert [(t.name, t.type, t.shape, t.bytes, t.offset) for t in ours.tensors] == expected
    elements = sum(int(t.n_elements) for t in theirs.tensors)
    assert header.shape(ours).parameters == elements


@pytest.mark.parametrize("name", ["stories260K.gguf", "stories260K-pad256-F16.gguf"])
def test_real_files_read_as_the_gguf_package_reads_them(shared: Path, name: str) -> None:
    """Every value, every tensor, every offset of a real file is what the reference reader finds."""
    _assert_read_alike(shared / "data" / name)


def test_the_pocket_model_reads_as_the_gguf_package_reads_it() -> None:
    """The same for the model that ships with the program."""
    _assert_read_alike(pocket.MODEL)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_built_files_read_as_the_gguf_package_reads_them(tmp_path: Path, model: ggufs.Model, kind: str) -> None:
    """The same for several architectures and types, with arrays, truth values and long strings among the keys."""
    more = {
        "tokenizer.ggml.tokens": [f"token {index}" for index in range(96)],
        "tokenizer.ggml.scores": [float(index) for index in range(96)],
        "tokenizer.chat_template": "x" * (header.STRING_LIMIT + 1),
        "general.name": "Fälle 🐟",
        "tokenizer.ggml.add_bos_token": True,
        "long": list(range(header.ARRAY_LIMIT + 1)),
        "empty": "",
    }
    _assert_read_alike(ggufs.write(tmp_path / "model.gguf", model, kind, **more))


def test_a_large_vocabulary_is_skipped_across_chunks(tmp_path: Path) -> None:
    """Strings that straddle the chunks in which a file is read are stepped over right, whatever their lengths."""
    random = np.random.default_rng(1)
    words = ["w" * int(length) for length in random.integers(0, 70, 20_000)]
    path = ggufs.write(tmp_path / "model.gguf", ggufs.SMALL, **{"tokenizer.ggml.tokens": words, "after": 7})
    read = header.read(path)
    assert read.lengths["tokenizer.ggml.tokens"] == len(words)
    assert read.metadata["after"] == 7
    _assert_read_alike(path)


def test_version_2_is_read(tmp_path: Path) -> None:
    """A file of GGUF version 2, which has the same layout, gives the same header."""
    path = ggufs.write(tmp_path / "model.gguf", ggufs.SMALL)
    before = header.read(path)
    _patch(path, 4, struct.pack("<I", 2))
    assert header.read(path) == replace(before, version=2)


# -- the model's shape


def test_shape_of_llama_3_1_8b(tmp_path: Path) -> None:
    """The numbers that the roofline needs are those of the model's card: 8.03e9 weights, 8 KV heads of 128."""
    path = ggufs.write(tmp_path / "model.gguf", ggufs.LLAMA_8B)
    shape = header.shape(header.read(path))
    assert (shape.layers, shape.embedding, shape.heads, shape.vocabulary) == (32, 4096, 32, 128256)
    assert shape.head_count_kv == (8,) * 32
    assert (shape.key_length, shape.value_length, shape.context, shape.feed_forward) == (128, 128, 8192, 14336)
    assert shape.parameters == 8_030_261_248
    assert not shape.tied
    groups = {(group.role, group.type): group for group in shape.tensors}
    assert groups["embedding", "F16"].elements == groups["output", "F16"].elements == 128256 * 4096
    assert groups["block", "F16"].count == 7 * 32
    assert groups["block", "F32"].count == 2 * 32


def test_shape_of_experts(tmp_path: Path) -> None:
    """Routed experts are their own role; the router is part of the blocks."""
    path = ggufs.write(tmp_path / "model.gguf", MODELS["experts"])
    shape = header.shape(header.read(path))
    roles = {role: sum(g.count for g in shape.tensors if g.role == role) for role in ("experts", "block")}
    assert (shape.experts, shape.experts_used) == (8, 2)
    assert roles == {"experts": 3 * 2, "block": (6 + 1) * 2}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("token_embd.weight", "embedding"),
        ("output.weight", "output"),
        ("output_norm.weight", "other"),
        ("blk.3.ffn_up_exps.weight", "experts"),
        ("blk.3.ffn_up.7.weight", "experts"),
        ("blk.3.ffn_up_exps.bias", "experts"),
        ("blk.3.ffn_up_chexps.weight", "experts"),
        ("blk.3.exp_probs_b.bias", "block"),
        ("per_layer_token_embd.weight", "rows"),
        ("position_embd.weight", "rows"),
        ("token_embd_norm.weight", "other"),
        ("blk.3.ffn_up_shexp.weight", "block"),
        ("blk.3.attn_q.weight", "block"),
        ("rope_freqs.weight", "other"),
    ],
)
def test_role(name: str, role: str) -> None:
    """A tensor's role follows from its name; shared experts are read whole, so they are part of the blocks."""
    assert header.role(name) == role


def test_per_layer_values_are_kept(tmp_path: Path) -> None:
    """Where each layer has its own number of KV heads or width, all of them count, and the largest where one must."""
    own = {"attention.head_count": 4, "attention.head_count_kv": [2, 1], "feed_forward_length": [64, 128]}
    shape = _shape(tmp_path, "llama", own, [{"attn_k": (64, 32)}, {"attn_k": (64, 16)}])
    assert shape.head_count_kv == (2, 1)
    assert shape.feed_forward == 128
    assert shape.note == ""


def test_head_lengths_default_to_the_width_over_the_heads(tmp_path: Path) -> None:
    """A file that gives no key or value length means width / heads; one that gives them is believed."""
    plain = header.shape(header.read(ggufs.write(tmp_path / "plain.gguf", ggufs.SMALL)))
    own = header.shape(header.read(ggufs.write(tmp_path / "own.gguf", MODELS["gemma"])))
    assert (plain.key_length, plain.value_length) == (16, 16)
    assert (own.key_length, own.value_length) == (32, 32)
    assert own.tied and not plain.tied


def test_a_name_is_safe_to_print(tmp_path: Path) -> None:
    """Escape sequences in a model's name do not get past the header."""
    path = ggufs.write(tmp_path / "model.gguf", ggufs.SMALL, **{"general.name": "\x1b[31mred\x07\nname"})
    assert header.shape(header.read(path)).name.isprintable()


def test_absurd_metadata_is_a_user_error(tmp_path: Path) -> None:
    """Four thousand million layers are not made into a tuple; the key is named."""
    path = ggufs.write(tmp_path / "model.gguf", ggufs.SMALL, **{"llama.block_count": 4_000_000_000})
    with pytest.raises(UserError, match=r"llama\.block_count"):
        header.shape(header.read(path))


def test_a_file_without_tensors_has_no_shape(tmp_path: Path) -> None:
    """A bare vocabulary is read, and said to be no model."""
    writer = gguf.GGUFWriter(tmp_path / "vocab.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    read = header.read(tmp_path / "vocab.gguf")
    assert read.tensors == ()
    with pytest.raises(UserError, match=r"vocab\.gguf"):
        header.shape(read)
    with pytest.raises(UserError, match=r"vocab\.gguf"):
        header.bits_per_weight(read)


def test_bits_per_weight_are_the_data_over_the_weights(tmp_path: Path) -> None:
    """A file of Q8_0 matrices and F32 vectors has the mean of 8.5 and 32 bits, weighed."""
    read = header.read(ggufs.write(tmp_path / "model.gguf", ggufs.SMALL, "Q8_0"))
    vectors = sum(tensor.elements for tensor in read.tensors if len(tensor.shape) == 1)
    every = sum(tensor.elements for tensor in read.tensors)
    assert header.bits_per_weight(read) == pytest.approx((vectors * 32 + (every - vectors) * 8.5) / every)
    assert header.tensor_types(read) == {"Q8_0": 16, "F32": 5}


# -- what the layers keep

PLAIN: dict[str, tuple[int, ...]] = {"attn_q": (64, 64), "attn_k": (64, 32)}
HEADS = {"attention.head_count": 4, "attention.head_count_kv": 2}


def _shape(
    folder: Path, architecture: str, keys: dict[str, Any], blocks: list[Any] | int, **more: tuple[int, ...]
) -> Shape:
    blocks = [PLAIN] * blocks if isinstance(blocks, int) else blocks
    extra = {f"{name}.weight": lengths for name, lengths in more.items()}
    return header.shape(header.read(ggufs.tiny(folder / "tiny.gguf", architecture, keys, blocks, extra)))


WINDOW = {"attention.sliding_window": 512}
LISTED = WINDOW | {"attention.sliding_window_pattern": [True, False, False, True]}


@pytest.mark.parametrize(
    ("architecture", "layers", "keys", "slides"),
    [
        ("gemma2", 4, WINDOW, "1010"),
        ("gemma3", 7, WINDOW, "1111101"),
        ("gemma3", 4, WINDOW | {"attention.sliding_window_pattern": 2}, "1010"),
        ("gemma3", 4, WINDOW | {"attention.sliding_window_pattern": 1}, "0000"),
        ("gemma3", 4, LISTED, "1001"),
        ("gemma3n", 6, WINDOW, "111101"),
        ("gemma4", 4, LISTED, "1001"),
        ("gpt-oss", 4, WINDOW, "1010"),
        ("cohere2", 5, WINDOW, "11101"),
        ("cohere2moe", 5, WINDOW, "01110"),
        ("olmo2", 5, WINDOW, "11101"),
        ("exaone4", 64, WINDOW, "1110" * 16),
        ("exaone4", 8, WINDOW, "0" * 8),
        ("plamo3", 9, WINDOW, "111111101"),
        ("mimo2", 4, LISTED, "1001"),
        ("lfm2", 3, WINDOW, "111"),
        ("gemma3", 4, {}, "0000"),
        ("llama", 4, LISTED, "0000"),
        ("qwen2", 4, WINDOW, "0000"),
        ("phi3", 4, WINDOW, "0000"),
    ],
)
def test_the_layers_that_slide_are_those_of_llama_cpp(
    tmp_path: Path, architecture: str, layers: int, keys: dict[str, Any], slides: str
) -> None:
    """Period, first layer, list or number in the file, and the window that llama.cpp does not read elsewhere."""
    shape = _shape(tmp_path, architecture, HEADS | keys, layers)
    windows = shape.windows or (shape.window,) * layers
    assert windows == tuple(512 * int(one) for one in slides)
    assert shape.note == ""


@pytest.mark.parametrize(
    ("architecture", "keys", "windows"),
    [
        ("gemma2", {}, (4096, 0, 4096, 0)),
        ("llama4", {}, (8192, 8192, 8192, 0)),
        ("llama4", WINDOW, (8192, 8192, 8192, 0)),
        ("llama4", {"attention.sliding_window": 0}, ()),
        ("smallthinker", WINDOW, (0, 4096, 4096, 4096)),
        ("smallthinker", {}, ()),
    ],
)
def test_some_windows_are_llama_cpps_own(
    tmp_path: Path, architecture: str, keys: dict[str, Any], windows: tuple[int, ...]
) -> None:
    """Where it has a length of its own, the file's counts only as far as llama.cpp lets it."""
    assert _shape(tmp_path, architecture, HEADS | keys, 4).windows == windows


def test_layers_that_keep_nothing_say_nothing_of_windows(tmp_path: Path) -> None:
    """Of lfm2 all layers that attend slide: one window holds for all."""
    keys = HEADS | WINDOW | {"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3}
    shape = _shape(tmp_path, "lfm2", keys, 4)
    assert (shape.window, shape.windows, shape.head_count_kv) == (512, (), (0, 2, 0, 2))


SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.group_count": 2}
MAMBA2 = 3 * (128 + 2 * 2 * 16) + 16 * 128


@pytest.mark.parametrize(
    ("architecture", "keys", "counts", "elements"),
    [
        ("mamba2", SSM, (0,) * 4, 4 * MAMBA2),
        ("rwkv6", HEADS | {"wkv.head_size": 16}, (0,) * 4, 4 * (2 + 16) * 64),
        ("arwkv7", HEADS | {"wkv.head_size": 16, "token_shift_count": 1}, (0,) * 4, 4 * (1 + 16) * 64),
        ("falcon-h1", HEADS | SSM, (2,) * 4, 4 * MAMBA2),
        ("granitehybrid", HEADS | SSM | {"attention.head_count_kv": [0, 0, 2, 0]}, (0, 0, 2, 0), 3 * MAMBA2),
        (
            "nemotron_h",
            HEADS | SSM | {"attention.head_count_kv": [0, 0, 2, 0], "feed_forward_length": [0, 128, 0, 0]},
            (0, 0, 2, 0),
            2 * MAMBA2,
        ),
        ("qwen3next", HEADS | SSM, (0, 0, 0, 2), 3 * MAMBA2),
        ("qwen3next", HEADS | SSM | {"full_attention_interval": 2}, (0, 2, 0, 2), 2 * MAMBA2),
        ("qwen35", HEADS | SSM | {"attention.recurrent_layers": [True, False, False, True]}, (0, 2, 2, 0), 2 * MAMBA2),
        ("qwen35", HEADS | SSM | {"nextn_predict_layers": 2}, (0, 0, 0, 0), 2 * MAMBA2),
        (
            "lfm2",
            HEADS | {"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3},
            (0, 2, 0, 2),
            2 * 2 * 64,
        ),
        (
            "kimi-linear",
            HEADS | {"attention.head_count_kv": [0, 0, 0, 1], "kda.head_dim": 16, "ssm.conv_kernel": 4},
            (0, 0, 0, 1),
            3 * (3 * 3 * 4 * 16 + 4 * 16 * 16),
        ),
        ("llama", HEADS | SSM, (2,) * 4, 0),
    ],
)
def test_recurrent_layers_keep_a_state_as_llama_cpp_counts_it(
    tmp_path: Path, architecture: str, keys: dict[str, Any], counts: tuple[int, ...], elements: int
) -> None:
    """Its elements are F32; a layer with a state has no KV cache, save where it has both."""
    shape = _shape(tmp_path, architecture, keys, [{"attn_q": (64, 64)}] * 4)
    assert (shape.head_count_kv, shape.state_bytes) == (counts, 4 * elements)
    assert shape.note == ""


WIDE = HEADS | {"feed_forward_length": 128}
ROUTED = WIDE | {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
LARGE = SSM | {"ssm.state_size": 1024, "ssm.time_step_rank": 4}
LATENT = {
    "attention.head_count_kv": 1, "attention.kv_lora_rank": 32, "rope.dimension_count": 8, "attention.key_length": 40,
    "attention.value_length": 32, "attention.key_length_mla": 24, "attention.value_length_mla": 16,
}  # fmt: skip

OLDER = {
    "attention.head_count_kv": 4, "attention.kv_lora_rank": 32, "attention.q_lora_rank": 32, "rope.dimension_count": 8,
    "attention.key_length": 24, "attention.value_length": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "keys", "layers"),
    [
        ("llama", WIDE | WINDOW, 3),
        ("gemma2", WIDE, 3),
        ("gemma3", WIDE | WINDOW, 7),
        ("gemma3", WIDE | WINDOW | {"attention.sliding_window_pattern": [1, 0, 1]}, 3),
        ("gpt-oss", ROUTED | WINDOW, 3),
        ("cohere2", WIDE | WINDOW | {"attention.layer_norm_epsilon": 1e-5, "logit_scale": 1.0}, 5),
        ("exaone4", WIDE | WINDOW, 3),
        ("minicpm3", WIDE | OLDER, 2),
        (
            "deepseek2",
            ROUTED | LATENT | {"attention.q_lora_rank": 32, "expert_shared_count": 1, "leading_dense_block_count": 1},
            3,
        ),
        ("mamba2", LARGE | {"attention.head_count": 0}, 2),
        ("jamba", WIDE | LARGE | {"attention.head_count_kv": [0, 2, 0], "ssm.group_count": 0}, 3),
        ("lfm2", WIDE | WINDOW | {"attention.head_count_kv": [0, 2, 2], "shortconv.l_cache": 3}, 3),
        (
            "rwkv6qwen2",
            WIDE | {"wkv.head_size": 16, "token_shift_count": 1, "time_mix_extra_dim": 4, "time_decay_extra_dim": 4},
            2,
        ),
    ],
)
def test_llama_cpp_keeps_what_is_said_of_a_layer(
    tmp_path: Path, architecture: str, keys: dict[str, Any], layers: int
) -> None:
    """Its own log of a model and a context is the authority on windows, latents, states and empty layers."""
    kept = ggufs.kept(tmp_path / "asked.gguf", architecture, keys, layers)
    shape = header.shape(header.read(tmp_path / "asked.gguf"))
    windows = shape.windows or (shape.window,) * layers
    counted = [il for il in range(layers) if shape.head_count_kv[il]]
    assert [il for il in counted if windows[il]] == kept.slides
    assert [il for il in counted if not windows[il]] == kept.whole
    cell = 2 * sum(
        shape.latent or shape.head_count_kv[il] * (shape.key_length + shape.value_length) for il in kept.whole
    )
    assert cell * 4096 / 2**20 == pytest.approx(kept.whole_mib, abs=0.011)
    assert bool(shape.state_bytes) == bool(kept.states)
    assert shape.state_bytes / 2**20 == pytest.approx(kept.state_mib, abs=0.011)
    assert shape.note == ""


@pytest.mark.parametrize(
    ("architecture", "keys", "told"),
    [
        ("warp-core", HEADS, "no architecture warp-core"),
        ("t5", HEADS, "encoder-decoder"),
        ("bert", HEADS, "no KV cache"),
        ("gemma4", HEADS | WINDOW, "which layers"),
        ("gemma4", HEADS | LISTED | {"attention.key_length_swa": 8}, "another length"),
        ("deepseek32", HEADS | {"attention.indexer.key_length": 128}, "sparse attention"),
        ("nanbeige", HEADS | {"num_loops": 2}, "several times"),
        ("mamba", {}, "not said"),
    ],
)
def test_what_is_not_known_of_an_architecture_is_said(
    tmp_path: Path, architecture: str, keys: dict[str, Any], told: str
) -> None:
    """One line, and the counts that can be had all the same."""
    shape = _shape(tmp_path, architecture, keys, 4)
    assert told in shape.note
    assert shape.note.isprintable()


def test_every_rule_is_for_an_architecture_that_llama_cpp_has() -> None:
    """No rule is spelled for a name that no file carries, and the names are in llama.cpp's own library."""
    assert set(layers._SLIDING) | layers._RECURRENT | layers._HYBRID | set(layers._INTERVAL) <= layers.NAMES
    assert layers._BOTH | layers._NO_CACHE | layers._DRAFTS | layers.UNEVEN <= layers.NAMES
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None and package.origin is not None
    libraries = [file for file in (Path(package.origin).parent / "lib").glob("*llama*") if file.is_file()]
    assert libraries
    held = b"".join(file.read_bytes() for file in libraries)
    assert [name for name in sorted(layers.NAMES) if name.encode() + b"\0" not in held] == []


# -- metadata against tensors


def test_a_wrong_number_of_layers_is_told_and_the_tensors_count(tmp_path: Path) -> None:
    """More or fewer layers than there are tensors for."""
    for claimed in (32, 1, 0):
        shape = _shape(tmp_path, "llama", HEADS | {"block_count": claimed}, 3)
        assert (shape.layers, shape.head_count_kv) == (3, (2, 2, 2))
        assert f"{claimed} layers" in shape.note and "3" in shape.note


def test_layers_that_predict_further_tokens_may_be_missing(tmp_path: Path) -> None:
    """A file without its draft layers still counts them, and that is no contradiction."""
    shape = _shape(tmp_path, "glm4moe", HEADS | {"block_count": 3, "nextn_predict_layers": 1}, 2)
    assert (shape.layers, shape.head_count_kv, shape.note) == (3, (2, 2, 0), "")


def test_a_list_of_kv_heads_of_the_wrong_length_gives_way_to_the_keys_tensors(tmp_path: Path) -> None:
    """With tensors of separate keys their rows decide, else the list is filled up; both are told."""
    keys = {"attention.head_count": 4, "attention.head_count_kv": [4, 4]}
    made = _shape(tmp_path, "llama", keys, [{"attn_k": (64, 32)}, {"attn_k": (64, 16)}, {"attn_k": (64, 64)}])
    fused = _shape(tmp_path, "llama", keys, [{"attn_qkv": (64, 192)}] * 3)
    assert (made.head_count_kv, fused.head_count_kv) == ((2, 1, 4), (4, 4, 4))
    assert "2 layers of 3" in made.note and "2 layers of 3" in fused.note


def test_kv_heads_that_the_keys_contradict_are_told(tmp_path: Path) -> None:
    """8 heads of 16 would take 128 rows; there are 32."""
    shape = _shape(tmp_path, "llama", HEADS | {"attention.head_count_kv": 8}, 2)
    assert shape.head_count_kv == (2, 2)
    assert "8 KV heads" in shape.note and "32 rows" in shape.note


def test_a_latent_that_its_tensors_contradict_is_told(tmp_path: Path) -> None:
    """The projection's rows are what is kept."""
    keys = HEADS | {"attention.key_length": 72, "attention.key_length_mla": 24, "attention.value_length_mla": 16}
    shape = _shape(tmp_path, "deepseek2", keys, [{"attn_kv_a_mqa": (64, 40)}] * 2)
    assert shape.latent == 40
    assert "72" in shape.note and "40" in shape.note


def test_a_width_and_a_vocabulary_that_the_embedding_contradicts_are_told(tmp_path: Path) -> None:
    """The embedding has 96 rows of 64."""
    wide = _shape(tmp_path, "llama", HEADS | {"embedding_length": 128}, 2)
    many = _shape(tmp_path, "llama", HEADS | {"vocab_size": 32000}, 2)
    assert wide.embedding == 64 and many.vocabulary == 96
    assert "128" in wide.note and "64" in wide.note
    assert "32000" in many.note and "96" in many.note


@pytest.mark.parametrize(
    ("claims", "experts", "told"),
    [
        ({"expert_count": 8, "expert_used_count": 2}, (8, 2), ""),
        ({"expert_count": 8, "expert_used_count": 9}, (8, 8), "9 of 8"),
        ({"expert_count": 16, "expert_used_count": 2}, (8, 2), "16"),
        ({"expert_count": 8}, (8, 0), "not said"),
        ({"expert_used_count": 2}, (8, 2), "of 8"),
    ],
)
def test_experts_that_contradict_themselves_are_told(
    tmp_path: Path, claims: dict[str, int], experts: tuple[int, int], told: str
) -> None:
    """The tensors know how many there are, not how many are used."""
    shape = _shape(tmp_path, "qwen2moe", HEADS | claims, [PLAIN | {"ffn_up_exps": (64, 32, 8)}] * 2)
    assert (shape.experts, shape.experts_used) == experts
    assert told in shape.note and bool(told) == bool(shape.note)


def test_layers_that_use_different_numbers_of_experts_count_with_their_mean(tmp_path: Path) -> None:
    """Layers that route nothing say 0 and are no part of it."""
    claims = {"expert_count": 8, "expert_used_count": [2, 4, 0]}
    shape = _shape(tmp_path, "nemotron_h_moe", HEADS | claims, [{"ffn_up_exps": (64, 32, 8)}] * 2 + [PLAIN])
    assert (shape.experts, shape.experts_used) == (8, 3)
    assert "2 to 4 experts" in shape.note


def test_experts_without_tensors_are_told(tmp_path: Path) -> None:
    """Eight are claimed where nothing is routed."""
    shape = _shape(tmp_path, "llama", HEADS | {"expert_count": 8, "expert_used_count": 2}, 2)
    assert (shape.experts, shape.experts_used) == (0, 0)
    assert "expert_count says 8" in shape.note


@pytest.mark.parametrize(
    ("architecture", "keys", "told"),
    [
        ("gemma2", {"attention.sliding_window": 1 << 50}, "sliding_window"),
        ("llama", {"attention.head_count_kv": 1 << 50}, "head_count_kv"),
        ("rwkv6", {"wkv.head_size": 1 << 39}, "recurrent state"),
    ],
)
def test_absurd_numbers_are_a_user_error(tmp_path: Path, architecture: str, keys: dict[str, Any], told: str) -> None:
    """What no model has is refused with the key's name, alone or multiplied."""
    with pytest.raises(UserError, match=told):
        _shape(tmp_path, architecture, HEADS | keys, 2)


def test_a_tensor_of_an_absurd_layer_is_a_user_error(tmp_path: Path) -> None:
    """Layers are believed up to LAYER_LIMIT, also where only a tensor's name tells of them."""
    with pytest.raises(UserError, match="999999"):
        _shape(tmp_path, "llama", HEADS, 2, **{"blk.999999.attn_k": (64, 32)})


# -- what is wrong with a file


def _patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        header.read(path)
    text = str(caught.value)
    assert str(path.name) in text
    assert text.isprintable()
    return text


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small whole GGUF."""
    return ggufs.write(tmp_path / "small.gguf", ggufs.SMALL)


def test_what_is_no_gguf_is_named(tmp_path: Path) -> None:
    """Each kind of thing that is not a GGUF is told apart, in a line that names the file."""
    path = tmp_path / "thing.gguf"
    assert "no such file" in _refused(path)
    for content, told in [
        (b"", "empty"),
        (b"GG", "not a GGUF"),
        (b"<!doctype html>\x1b[2J", "not a GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"lmgg" + bytes(40), "before GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 1, 1), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 9, 1, 1), "version 9"),
    ]:
        path.write_bytes(content)
        assert told in _refused(path)
    folder = tmp_path / "folder.gguf"
    folder.mkdir()
    assert "folder" in _refused(folder)


def test_a_pipe_or_socket_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no regular file is refused without waiting for somebody to write to it."""
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    assert "regular" in _refused(pipe)
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.gguf")
        assert "regular" in _refused(Path("socket.gguf"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(small: Path) -> None:
    """Permissions are what the line says, not a traceback."""
    small.chmod(0)
    assert "permission" in _refused(small)


def test_a_path_with_a_null_byte_is_a_user_error() -> None:
    """Not even a path that the system cannot take makes anything else."""
    with pytest.raises(UserError):
        header.read("a\0b.gguf")


def test_missing_tensor_data_is_told_in_bytes(small: Path) -> None:
    """A whole header over a download that stopped says how much is needed and how much is there."""
    whole = small.stat().st_size
    last = header.read(small)
    needed = last.data_offset + max(tensor.offset + tensor.bytes for tensor in last.tensors)
    os.truncate(small, needed - 1)
    assert f"needs {needed} bytes and has {needed - 1}" in _refused(small)
    assert needed <= whole


def test_every_truncation_is_a_user_error(small: Path) -> None:
    """Cut at any byte of its header, a file is refused as cut off or damaged, never taken for whole."""
    data = small.read_bytes()
    for length in range(header.read(small).data_offset):
        small.write_bytes(data[:length])
        _refused(small)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_are_read_or_refused(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    """Whatever bytes of a real header are flipped, all that is asked of it gives a value or a UserError."""
    path = tmp_path / "flipped.gguf"
    data = bytearray(pocket.MODEL.read_bytes()[:65536])
    for at, mask in flips:
        data[at % len(data)] ^= mask
    path.write_bytes(data)
    os.truncate(path, pocket.MODEL.stat().st_size)
    _ask_everything(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 2000), junk=st.binary(min_size=1, max_size=40))
def test_junk_anywhere_is_read_or_refused(tmp_path: Path, start: int, junk: bytes) -> None:
    """The same for runs of other bytes put over a small header, counts and lengths among them."""
    path = tmp_path / "junk.gguf"
    if not path.exists():
        ggufs.write(path, ggufs.SMALL)
    whole = path.read_bytes()
    _patch(path, 4 + start, junk)
    _ask_everything(path)
    path.write_bytes(whole)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), size=st.integers(0, 1 << 34))
def test_anything_after_the_magic_is_read_or_refused(tmp_path: Path, body: bytes, size: int) -> None:
    """The same for arbitrary bytes in a file of arbitrary size, without reading much of it."""
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + body)
    os.truncate(path, size + 8 + len(body))
    _ask_everything(path)


def _ask_everything(path: Path) -> None:
    try:
        read = header.read(path)
        for quant in ("Q4_K_M", label.claimed(read)):
            assert label.label_note(read, quant).isprintable()
        label.is_unquantized(read)
        header.shape(read)
        header.bits_per_weight(read)
    except UserError as error:
        assert str(error).isprintable()
        assert path.name in str(error)


@pytest.mark.parametrize("field", ["tensors", "keys", "strings", "numbers", "name", "string"])
def test_absurd_counts_cost_no_memory(tmp_path: Path, field: str) -> None:
    """A count that the file could not hold is refused before anything is kept for it, also in a file of 64 GiB."""
    huge = 1 << 33
    key = struct.pack("<Q", 1) + b"k"
    bodies = {
        "tensors": struct.pack("<QQ", huge, 0),
        "keys": struct.pack("<QQ", 0, huge),
        "strings": struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 8, huge),
        "numbers": struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 10, huge),
        "name": struct.pack("<QQ", 0, 1) + struct.pack("<Q", huge),
        "string": struct.pack("<QQ", 0, 1) + key + struct.pack("<IQ", 8, huge),
    }
    path = tmp_path / "absurd.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + bodies[field])
    os.truncate(path, 1 << 36)
    tracemalloc.start()
    try:
        header.read(path)
    except UserError:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_tensors_out_of_place_are_named(small: Path) -> None:
    """A tensor that lies on another or off the alignment is named, with where it should lie."""
    read = header.read(small)
    data = small.read_bytes()
    second = read.tensors[1]
    at = data.index(second.name.encode()) + len(second.name) + 4 + 8 * len(second.shape) + 4
    assert struct.unpack_from("<Q", data, at)[0] == second.offset
    for wrong in (0, second.offset + 1, second.offset + 32):
        _patch(small, at, struct.pack("<Q", wrong))
        assert second.name in _refused(small)


@pytest.mark.parametrize(("name", "twin"), [(b"blk.0.attn_norm", b"blk.1.attn_norm"), (b"key.one", b"key.two")])
def test_the_same_name_twice_is_named(tmp_path: Path, name: bytes, twin: bytes) -> None:
    """Two tensors or two keys of one name are damage, not a choice."""
    path = ggufs.write(tmp_path / "model.gguf", ggufs.SMALL, **{"key.one": 1, "key.two": 2})
    path.write_bytes(path.read_bytes().replace(twin, name))
    assert "twice" in _refused(path)


def test_an_unknown_tensor_type_is_kept_by_its_number(small: Path) -> None:
    """A type newer than this program is no error: its bytes are what lies up to the next tensor."""
    read = header.read(small)
    data = small.read_bytes()
    first = read.tensors[0]
    at = data.index(first.name.encode()) + len(first.name) + 4 + 8 * len(first.shape)
    _patch(small, at, struct.pack("<I", 77))
    again = header.read(small)
    assert again.tensors[0].type == "type 77"
    assert again.tensors[0].bytes == read.tensors[1].offset
    assert again.tensors[1:] == read.tensors[1:]


# -- split models


def _split(folder: Path, parts: int) -> list[Path]:
    """A small model in several files, a layer each, named as llama.cpp names them."""
    files = []
    for part in range(parts):
        path = folder / f"model-Q8_0-{part + 1:05}-of-{parts:05}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        keys = {} if part else replace(ggufs.SMALL, layers=parts).keys()
        for key, value in ({"split.no": part, "split.count": parts} | keys).items():
            if isinstance(value, float):
                writer.add_float32(key, value)
            else:
                writer.add_uint32(key, value)
        writer.add_tensor(f"blk.{part}.attn_q.weight", np.zeros((64, 64), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.append(path)
    return files


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    """Any part gives the first one's metadata, all tensors and the bytes of all files."""
    files = _split(tmp_path, 3)
    reads = [header.read(file) for file in files]
    for read in reads:
        assert read.files == tuple(files)
        assert [tensor.name for tensor in read.tensors] == [f"blk.{part}.attn_q.weight" for part in range(3)]
        assert read.file_bytes == sum(file.stat().st_size for file in files)
        assert header.shape(read).layers == 3


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """The part that is not there is named beside the file that was asked for."""
    files = _split(tmp_path, 3)
    files[1].unlink()
    assert files[1].name in _refused(files[0])


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    """A part that is not named as one cannot find the others."""
    (file, *_) = _split(tmp_path, 2)
    other = file.rename(tmp_path / "other.gguf")
    assert "-of-00002" in _refused(other)


# -- digests


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    """The second asking reads nothing; a changed file is read again; a broken note is as none."""
    file, cache = tmp_path / "file", tmp_path / "cache"
    file.write_bytes(b"abc")
    assert header.sha256(file, cache).startswith("ba7816bf")
    status = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert header.sha256(file, cache).startswith("ba7816bf")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert header.sha256(file, cache).startswith("a52d159f")
    for note in (cache / "sha256").iterdir():
        note.write_text("[")
    assert header.sha256(file, cache).startswith("a52d159f")


def test_a_digest_tells_how_far_it_is(tmp_path: Path) -> None:
    """Large files report rising shares up to 1, and a file that is not there is a user error."""
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, 160 << 20)
    shares: list[float] = []
    header.sha256(file, tmp_path / "cache", shares.append)
    assert shares == sorted(shares)
    assert len(shares) >= 2
    assert 0 < shares[0] < 1
    with pytest.raises(UserError, match="gone"):
        header.sha256(tmp_path / "gone", tmp_path / "cache")


# -- labels


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("model.IQ3_XS.gguf", "IQ3_XS"),
        ("Qwen3-4B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("phi-2_Q5_K_S.gguf", "Q5_K_S"),
        ("model-fp16.gguf", "F16"),
        ("ggml-model-bf16.gguf", "BF16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4_MOE"),
        ("bitnet-TQ2_0.gguf", "TQ2_0"),
        ("big-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("from-F16-to-Q6_K.gguf", "Q6_K"),
        ("gemma-3-4b-it.gguf", ""),
        ("Q2-model.gguf", ""),
    ],
)
def test_a_label_is_read_from_a_name(file: str, expected: str) -> None:
    """The last quant in a file's name is what it claims to be."""
    assert label.from_name(file) == expected


@pytest.mark.parametrize("quant", quants.QUANTS, ids=lambda quant: quant.name)
def test_a_quants_own_name_is_a_label(quant: quants.Quant) -> None:
    """Every quant of the table is found in a file's name, and what is left names the model."""
    assert label.from_name(f"Some-7B-{quant.name}.gguf") == quant.name
    assert label.without_quant(f"Some-7B-{quant.name}-00001-of-00002.gguf") == "some-7b"


def test_a_label_comes_from_the_metadata_where_the_name_has_none(tmp_path: Path) -> None:
    """File name, then general.file_type, then the tensors."""
    plain = header.read(ggufs.write(tmp_path / "model.gguf", ggufs.SMALL, "Q8_0"))
    keyed = header.read(ggufs.write(tmp_path / "model.gguf", ggufs.SMALL, "Q8_0", **{"general.file_type": 1024 + 15}))
    named = header.read(ggufs.write(tmp_path / "model-q6_k.gguf", ggufs.SMALL, **{"general.file_type": 15}))
    assert [label.claimed(each) for each in (plain, keyed, named)] == ["Q8_0", "Q4_K_M", "Q6_K"]


@pytest.mark.parametrize(
    "model",
    [ggufs.LLAMA_8B, ggufs.PHI_2, ggufs.MIXTRAL, ggufs.QWEN_MOE, ggufs.GEMMA_2B],
    ids=["llama-8b", "phi-2", "mixtral", "qwen-moe", "gemma-2b"],
)
def test_what_llama_cpp_makes_carries_its_label_rightly(tmp_path: Path, model: ggufs.Model) -> None:
    """No quant that llama.cpp makes of a model with fitting rows is called wrongly labelled."""
    path = ggufs.write(tmp_path / "model.gguf", model)
    opinions = ggufs.dry_runs(path)
    quant_of = quants.BY_FTYPE
    notes = {
        quant_of[ftype].name: label.label_note(ggufs.header_of(path, opinion), quant_of[ftype].name)
        for ftype, opinion in opinions.items()
    }
    lies = {} if model.experts else {"MXFP4_MOE": notes.pop("MXFP4_MOE")}
    assert set(notes.values()) == {""}
    assert all("Q8_0" in note for note in lies.values())


def test_rows_that_do_not_divide_are_told(tmp_path: Path) -> None:
    """Qwen2.5-0.5B's K-quants are mostly other types, since its rows of 896 do not divide by 256."""
    path = ggufs.write(tmp_path / "model.gguf", ggufs.QWEN_HALF_B)
    opinions = ggufs.dry_runs(path)
    quant = quants.BY_NAME["Q4_K_M"]
    note = label.label_note(ggufs.header_of(path, opinions[quant.ftype]), quant.name)
    assert all(word in note for word in ("71%", "Q5_0", "Q4_K", "896", "256"))


def test_narrow_models_make_the_same_file_of_several_quants(shared: Path) -> None:
    """stories260K has rows of 64: Q2_K, Q3_K_S and Q4_0 of it are the same types throughout, and two labels lie."""
    path = shared / "data" / "stories260K.gguf"
    opinions = ggufs.dry_runs(path)
    names = ("Q2_K", "Q3_K_S", "Q4_0", "Q8_0")
    made = [(name, ggufs.header_of(path, opinions[quants.BY_NAME[name].ftype])) for name in names]
    tensors = {name: header.shape(each).tensors for name, each in made}
    assert tensors["Q2_K"] == tensors["Q3_K_S"] == tensors["Q4_0"] != tensors["Q8_0"]
    assert {name: bool(label.label_note(each, name)) for name, each in made}["Q2_K"]


@pytest.mark.parametrize(("kind", "claim"), [("F16", "Q4_K_M"), ("Q8_0", "F16"), ("Q8_0", "Q6_K"), ("Q4_0", "Q8_0")])
def test_a_renamed_file_is_found_out(tmp_path: Path, kind: str, claim: str) -> None:
    """A label over tensors of another type is told, with the type that they have."""
    model = replace(ggufs.SMALL, width=256, feed_forward=512)
    read = header.read(ggufs.write(tmp_path / f"model-{claim}.gguf", model, kind))
    note = label.label_note(read, label.claimed(read))
    assert claim in note and kind in note
    assert label.label_note(read, kind) == ""


def test_labels_that_llama_cpp_does_not_know_are_not_judged(tmp_path: Path) -> None:
    """A mix of somebody else's making has no recipe to be held against."""
    read = header.read(ggufs.write(tmp_path / "model.gguf", ggufs.SMALL))
    assert label.label_note(read, "UD-Q4_K_XL") == ""
