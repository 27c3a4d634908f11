"""The table of quants against llama.cpp itself, and the reading of --quants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import ggufs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import quants
from quanttui.errors import UserError
from quanttui.models import header, label, pocket
from quanttui.models.header import Header

WRITABLE = [quant for quant in quants.QUANTS if quant.writable]
MIXED = [quant for quant in WRITABLE if quant.family != "microscaling"]


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A GGUF of Llama-3.1-8B's shape, which takes no room on the disk."""
    path = ggufs.write(tmp_path_factory.mktemp("quants") / "llama.gguf", ggufs.LLAMA_8B)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def without(llama_8b: Path) -> dict[int, ggufs.Opinion]:
    """llama.cpp's dry runs over it without an importance matrix."""
    return ggufs.dry_runs(llama_8b)


@pytest.fixture(scope="module")
def made(llama_8b: Path, without: dict[int, ggufs.Opinion]) -> dict[str, Header]:
    """What each writable quant would be, by name: made with an importance matrix only where it needs one."""
    given_one = ggufs.dry_runs(llama_8b, imatrix=True)
    return {
        quant.name: ggufs.header_of(llama_8b, (given_one if quant.needs_imatrix else without)[quant.ftype])
        for quant in WRITABLE
    }


def test_the_table_has_what_llama_cpp_writes_and_no_more(without: dict[int, ggufs.Opinion]) -> None:
    """Every number of llama_ftype that llama.cpp accepts is a writable row, and every writable row is accepted."""
    assert {quant.ftype for quant in WRITABLE} == set(without)


@pytest.mark.parametrize("quant", WRITABLE, ids=lambda quant: quant.name)
def test_needs_imatrix_is_llama_cpps_rule(quant: quants.Quant, without: dict[int, ggufs.Opinion]) -> None:
    """The table says of every type what llama.cpp's dry run says: whether it cannot be made without a matrix."""
    assert quant.needs_imatrix == without[quant.ftype].needs_imatrix


@pytest.mark.parametrize("quant", MIXED, ids=lambda quant: quant.name)
def test_nominal_bits_are_llama_cpps_for_llama_3_1_8b(quant: quants.Quant, made: dict[str, Header]) -> None:
    """The bits per weight that the table gives are those that quantizing Llama-3.1-8B would come out at."""
    assert quant.bits_per_weight == pytest.approx(header.bits_per_weight(made[quant.name]), rel=2e-4)


@pytest.mark.parametrize("quant", MIXED, ids=lambda quant: quant.name)
def test_a_quants_types_are_llama_cpps(quant: quants.Quant, made: dict[str, Header]) -> None:
    """Embedding, output and the bulk of the blocks get the types that the table says."""
    types = {tensor.name: tensor.type for tensor in made[quant.name].tensors}
    assert types["token_embd.weight"] == quant.embedding
    assert types["output.weight"] == quant.output
    held = label.shares(made[quant.name])
    assert sum(held.get(kind, 0.0) for kind in quant.mix) > 0.9
    assert quant.tensor_type in held


def test_an_expert_quant_is_the_type_of_its_experts(tmp_path: Path) -> None:
    """MXFP4_MOE puts its type into the experts and 8 bits into the rest."""
    path = ggufs.write(tmp_path / "moe.gguf", ggufs.QWEN_MOE)
    quant = quants.BY_NAME["MXFP4_MOE"]
    made = ggufs.header_of(path, ggufs.dry_runs(path)[quant.ftype])
    experts = {tensor.type for tensor in made.tensors if header.role(tensor.name) == "experts"}
    assert experts == {quant.tensor_type}
    assert {tensor.type for tensor in made.tensors if tensor.name == "output.weight"} == {quant.output}


def test_llama_cpp_really_refuses_what_needs_a_matrix(tmp_path: Path) -> None:
    """On a real model, asked in earnest, llama.cpp makes Q2_K and refuses every type that the table says needs one."""
    needing = [quant.ftype for quant in WRITABLE if quant.needs_imatrix]
    free = quants.BY_NAME["Q2_K"].ftype
    said = ggufs.refusals(pocket.MODEL, [*needing, free], tmp_path)
    assert said.pop(free) == ""
    assert set(said) == set(needing)
    assert all("imatrix" in error for error in said.values())


def test_the_tensor_types_are_ggmls() -> None:
    """Numbers, names, block lengths and bytes are those of the bundled ggml, all of them and no more."""
    ours = {number: (kind.name, kind.block, kind.bytes) for number, kind in quants.TENSOR_TYPES.items()}
    assert ours == ggufs.tensor_types()


def test_the_tensor_types_are_the_gguf_packages() -> None:
    """The gguf package agrees, save for Q8_1: it still has an older layout of that type, which no file holds."""
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {number: (kind.name, kind.block, kind.bytes) for number, kind in quants.TENSOR_TYPES.items()}
    differing = {number for number in theirs if theirs[number] != ours.get(number)}
    assert {quants.TENSOR_TYPES[number].name for number in differing} <= {"Q8_1"}


def test_common_is_eleven_levels_largest_first() -> None:
    """The levels that people choose between, in the order in which a sweep runs them."""
    names = {"Q2_K", "IQ3_XS", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"}
    assert {quant.name for quant in quants.COMMON} == names
    assert quants.largest_first(quants.COMMON) == quants.COMMON


@given(st.lists(st.sampled_from(WRITABLE), min_size=1), st.data())
def test_parse_takes_names_in_any_case_and_order(chosen: list[quants.Quant], data: st.DataObject) -> None:
    """A list gives each quant once, largest first, however it is written."""
    words = []
    for quant in chosen:
        word = quant.name.lower() if data.draw(st.booleans()) else quant.name
        words.append(word.replace("_", "-") if data.draw(st.booleans()) else f" {word} ")
    parsed = quants.parse(",".join(words))
    assert set(parsed) == set(chosen)
    assert list(parsed) == sorted(set(parsed), key=lambda quant: (-quant.bits_per_weight, quant.name))


def test_parse_knows_groups_and_short_names() -> None:
    """`common` and `all` stand for many, also beside names; Q4_K is Q4_K_M as llama-quantize has it."""
    assert quants.parse("Common") == quants.COMMON
    assert set(quants.parse("all")) == set(WRITABLE)
    assert set(quants.parse("common,F16")) == {*quants.COMMON, quants.BY_NAME["F16"]}
    assert [quant.name for quant in quants.parse("q4_k")] == ["Q4_K_M"]


@pytest.mark.parametrize(
    ("spec", "told"),
    [("Q4_K_N", "Q4_K_M"), ("Q4_K_M,nonsense", "nonsense"), ("", "--quants"), (" , ", "--quants"), ("NVFP4", "NVFP4")],
)
def test_parse_names_what_it_does_not_know(spec: str, told: str) -> None:
    """An unknown name is named, with what comes near it; what llama.cpp cannot write is refused."""
    with pytest.raises(UserError, match=told):
        quants.parse(spec)


@given(st.text(max_size=80))
def test_parse_answers_anything_with_quants_or_a_user_error(spec: str) -> None:
    """No text makes anything else of it, and no control character gets into the message."""
    try:
        assert quants.parse(spec)
    except UserError as error:
        assert str(error).isprintable()
