"""Known shapes: their weights against the published totals, their sizes against llama.cpp's dry runs, their names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ggufs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import quants, shapes
from quanttui.models import mix, outline
from quanttui.shapes import KnownShape

TOTALS = {
    "Llama-2-7B": 6_738_415_616,
    "Llama-2-13B": 13_015_864_320,
    "Llama-2-70B": 68_976_648_192,
    "Llama-3-8B": 8_030_261_248,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Mistral-7B": 7_241_732_096,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Mixtral-8x7B": 46_702_792_704,
    "Mixtral-8x22B": 140_620_634_112,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    "Gemma-2-2B": 2_614_341_888,
    "Gemma-2-9B": 9_241_705_984,
    "Gemma-2-27B": 27_227_128_320,
    "Phi-3-mini": 3_821_079_552,
    "Phi-3.5-mini": 3_821_079_552,
    "Phi-3-medium": 13_960_238_080,
    "Phi-4-mini": 3_836_021_760,
    "Phi-4": 14_659_507_200,
    "Llama-3.1-70B": 70_553_706_496,
    "Ministral-8B": 8_019_808_256,
    "Mistral-Nemo": 12_247_782_400,
    "Mistral-Small-24B": 23_572_403_200,
    "Mistral-Large": 122_610_069_504,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Gemma-3-270M": 268_098_176,
    "Gemma-3-1B": 999_885_952,
    "Gemma-3-4B": 3_880_099_328,
    "Gemma-3-12B": 11_765_788_416,
    "Gemma-3-27B": 27_009_002_240,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}
"""Published totals of the models' weights; of Gemma 3 the part that writes text."""

DRY = {
    "Mistral-7B": "llama",
    "Llama-3.2-1B": "llama",
    "Llama-3-70B": "llama",
    "Qwen2.5-1.5B": "qwen2",
    "Gemma-2-2B": "gemma2",
}
"""Architectures of shapes that llama.cpp is asked about."""


def known(name: str) -> KnownShape:
    """The shape of that model, which there must be."""
    shape = shapes.named(name)
    assert shape is not None, name
    return shape


def dry_sizes(shape: KnownShape, architecture: str, folder: Path) -> dict[str, int]:
    """Bytes of all tensors by quant, as llama.cpp's dry run has them."""
    model = ggufs.Model(
        shape.layers,
        shape.embedding,
        shape.feed_forward,
        shape.heads,
        shape.heads_kv,
        shape.vocabulary,
        tied=shape.tied,
        experts=shape.experts,
        experts_used=shape.experts_used,
        head=shape.head,
        architecture=architecture,
    )
    try:
        path = ggufs.write(folder / "model.gguf", model)
    except OSError as error:
        pytest.skip(f"no room for a file of holes: {error}")
    opinions = {True: ggufs.dry_runs(path, imatrix=True), False: ggufs.dry_runs(path)}
    sizes = {}
    for quant in quants.QUANTS:
        if quant.writable:
            made = ggufs.header_of(path, opinions[quant.needs_imatrix][quant.ftype])
            sizes[quant.name] = sum(tensor.bytes for tensor in made.tensors)
    path.unlink()
    return sizes


@pytest.mark.parametrize(("name", "weights"), TOTALS.items())
def test_a_shape_has_as_many_weights_as_were_published(name: str, weights: int) -> None:
    """Every matrix, norm and bias counted: to the last one."""
    assert known(name).parameters == weights


def test_every_shape_is_held_against_a_published_total() -> None:
    assert {known(name) for name in (*TOTALS, shapes.DEMO)} == set(shapes.SHAPES)


@pytest.mark.parametrize(("name", "architecture"), DRY.items())
def test_sizes_are_llama_cpps(name: str, architecture: str, tmp_path: Path) -> None:
    """Files of dense shapes are within 2 % of what llama.cpp would write, for every quant."""
    shape = known(name)
    for quant, size in dry_sizes(shape, architecture, tmp_path).items():
        ours = shapes.file_bytes(shape, quants.BY_NAME[quant])
        if quants.BY_NAME[quant].family == "microscaling":
            assert ours is None
        else:
            assert ours == pytest.approx(size, rel=0.02), quant


def test_sizes_with_experts_are_nearly_llama_cpps(tmp_path: Path) -> None:
    """Mixes differ more where there are experts: within 4 %."""
    shape = replace(known("Mixtral-8x7B"), layers=8)
    for quant, size in dry_sizes(shape, "llama", tmp_path).items():
        ours = shapes.file_bytes(shape, quants.BY_NAME[quant])
        assert ours is None or ours == pytest.approx(size, rel=0.04), quant


def test_every_known_size_is_near_the_sum_of_the_types_that_llama_cpp_chooses() -> None:
    """Of all shapes, in the quants that people choose between: within 2 %, where mixes differ more (experts) 6 %, where
    attention is one tensor, which gets more bits, 9 %."""
    for shape in shapes.SHAPES:
        header = outline.of(shape, shape.names[-1])
        near = 0.06 if shape.experts else 0.09 if shape.architecture == "phi3" else 0.02
        for quant in quants.COMMON:
            ours = shapes.file_bytes(shape, quant)
            made = mix.requantized(header, quant, quant.needs_imatrix)
            size = sum(tensor.bytes for tensor in made.tensors)
            assert ours is None or ours == pytest.approx(size, rel=near), (shape, quant)


@pytest.mark.parametrize(("name", "quant", "divides"), [
    ("Qwen2.5-0.5B", "Q4_K_M", False),
    ("Qwen2.5-72B", "Q4_K_M", False),
    ("Qwen2.5-72B", "Q4_0", True),
    ("Qwen2.5-0.5B", "Q8_0", True),
    ("Llama-3-8B", "IQ2_XS", True),
])  # fmt: skip
def test_rows_that_do_not_divide_into_blocks_have_no_known_size(name: str, quant: str, divides: bool) -> None:
    """llama.cpp puts other types there: no size is made up, and the reason is told."""
    shape, kind = known(name), quants.BY_NAME[quant]
    assert (shapes.file_bytes(shape, kind) is not None) == divides
    assert (shapes.obstacle(shape, kind) == "") == divides


def test_a_token_reads_all_but_the_embedding() -> None:
    """Llama-3-8B at F16: the file without 128256 rows of 4096; the remainder is untouched by rounding of the size."""
    shape, f16 = known("Llama-3-8B"), quants.BY_NAME["F16"]
    assert shapes.active_bytes(shape, f16, 16e9) == 16e9 - 128256 * 4096 * 2


def test_a_tied_embedding_is_read_whole() -> None:
    assert shapes.active_bytes(known("Llama-3.2-1B"), quants.BY_NAME["Q8_0"], 1.3e9) == 1.3e9


def test_experts_that_rest_are_not_read() -> None:
    """Mixtral-8x7B uses 12.9e9 of its weights for a token, as its makers say; the embedding is not among the read."""
    shape, f16 = known("Mixtral-8x7B"), quants.BY_NAME["F16"]
    size = shapes.file_bytes(shape, f16)
    assert size is not None
    assert shapes.active_bytes(shape, f16, size) / 2 == pytest.approx(12.88e9 - shape.end, rel=0.002)


@pytest.mark.parametrize(
    "quant", [quant for quant in quants.QUANTS if quant.family != "microscaling"], ids=lambda q: q.name
)
def test_active_bytes_are_some_of_the_file(quant: quants.Quant) -> None:
    for shape in shapes.SHAPES:
        size = shapes.file_bytes(shape, quant)
        if size is not None:
            assert 0 < shapes.active_bytes(shape, quant, size) <= size
            assert shapes.active_bytes(shape, quant, 1.0) <= 1.0


def test_the_kv_cache_of_llama_3_8b() -> None:
    """128 KiB a token at f16: 32 layers, 8 heads of 128, keys and values."""
    assert shapes.kv_bytes(known("Llama-3-8B"), 1) == 128 * 1024


@pytest.mark.parametrize(("spelled", "name"), [
    ("Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
    ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
    ("llama3.1 8b", "Llama-3.1-8B"),
    ("LLAMA_3_8B", "Llama-3-8B"),
    ("Llama 2 7B Chat", "Llama-2-7B"),
    ("Llama-2-70b-hf", "Llama-2-70B"),
    ("Mistral-7B-Instruct-v0.2", "Mistral-7B"),
    ("mistral-7b-instruct-v0.3.Q4_K_M.gguf", "Mistral-7B-v0.3"),
    ("Mixtral-8x7B-Instruct-v0.1", "Mixtral-8x7B"),
    ("Qwen/Qwen2.5-7B-Instruct-GGUF", "Qwen2.5-7B"),
    ("gemma-2-9b-it", "Gemma-2-9B"),
    ("Phi-3-mini-4k-instruct", "Phi-3-mini"),
    ("phi3-mini", "Phi-3-mini"),
    ("Meta-Llama-3-70B-Instruct-UD-IQ2_XXS", "Llama-3-70B"),
])  # fmt: skip
def test_names_are_read_however_they_are_spelled(spelled: str, name: str) -> None:
    shape = shapes.named(spelled)
    assert shape is not None and name in shape.names


@pytest.mark.parametrize("name", [
    "", "Llama-3.1-13B", "Llama-8B", "Llama-3", "8B", "DeepSeek-R1-Distill-Llama-8B", "Llama-3-8B-abliterated",
    "Q4_K_M", "Llama-3.10-8B", "Qwen3-9B", "gpt-oss", "/",
])  # fmt: skip
def test_no_shape_is_guessed_from_a_name_that_is_near(name: str) -> None:
    assert shapes.named(name) is None


def test_the_same_weights_have_one_name_and_tuned_ones_another() -> None:
    one = shapes.weights_named("Meta-Llama-3.1-8B-Instruct")
    assert one == shapes.weights_named("llama3.1 8b instruct") == "llama-3.1-8b-instruct"
    assert len({one, shapes.weights_named("Llama-3.1-8B"), shapes.weights_named("Llama-3-8B")}) == 3


@pytest.mark.parametrize(
    ("name", "count"), [("Llama-3-70B", 70), ("Mixtral-8x7B", 56), ("Qwen2.5-0.5B", 0.5), ("Phi-4", None)]
)
def test_billions_are_those_of_the_name(name: str, count: float | None) -> None:
    assert shapes.billions(name) == count


@given(st.text(max_size=120))
def test_any_name_is_answered(name: str) -> None:
    assert shapes.named(name) is None or shapes.weights_named(name)
    assert shapes.billions(name) is None or shapes.billions(name) >= 0  # type: ignore[operator]
