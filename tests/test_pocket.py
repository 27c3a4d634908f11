"""The pocket model is what it says, and importance matrices are read as llama-quantize would read them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui.errors import UserError
from quanttui.models import header, imatrix
from quanttui.models.pocket import HELD_OUT_SEED, IMATRIX, MODEL, RECORD, SEED, TEXT, words
from quanttui.models.pocket.pieces import BOS, FIRST_PIECE, Vocabulary, learn
from quanttui.models.pocket.stories import Dice, stories

seeds = st.integers(min_value=0, max_value=2**32)


def told(seed: int, n: int) -> list[str]:
    return list(islice(stories(seed), n))


@pytest.fixture(scope="session")
def llama() -> Any:
    llama = pytest.importorskip("llama_cpp")
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    yield llama
    llama.llama_log_set(llama.llama_log_callback(0), None)


@pytest.fixture(scope="session")
def vocab(llama: Any) -> Iterator[Any]:
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(os.fsencode(MODEL), params)
    assert model
    yield llama.llama_model_get_vocab(model)
    llama.llama_model_free(model)


@pytest.fixture(scope="session")
def ids(llama: Any, vocab: Any) -> Callable[[str], list[int]]:
    def tokenize(text: str) -> list[int]:
        data = text.encode()
        out = (llama.llama_token * (len(data) + 2))()
        n = llama.llama_tokenize(vocab, data, len(data), out, len(out), True, False)
        return list(out[:n])

    return tokenize


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """The vocabulary as the shipped model has it."""
    tokens = gguf.GGUFReader(MODEL).fields["tokenizer.ggml.tokens"].contents()
    return Vocabulary(tuple(tokens[FIRST_PIECE:]))


# -- stories -----------------------------------------------------------------------------------------------------------


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_same_seed_tells_the_same_stories(seed: int) -> None:
    assert told(seed, 5) == told(seed, 5)


@given(st.lists(seeds, min_size=2, max_size=4, unique=True))
@settings(max_examples=20, deadline=None)
def test_different_seeds_share_no_story(some: list[int]) -> None:
    every = [story for seed in some for story in told(seed, 20)]
    assert len(set(every)) == len(every)


def test_seed_one_tells_the_stories_it_told_on_any_machine() -> None:
    """The shipped model was trained on these: another digest means another language."""
    digest = hashlib.sha256("\n\n".join(told(SEED, 100)).encode()).hexdigest()
    assert digest == json.loads(RECORD.read_text(encoding="utf-8"))["stories_sha256"]


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_stories_are_plain_text_in_paragraphs(seed: int) -> None:
    for story in told(seed, 3):
        assert story.isascii()
        assert all(line and line == line.strip() and line[-1] in '.?!"' for line in story.split("\n"))
        assert "  " not in story and "{" not in story


MONEY = re.compile(
    r"(?:money:|saved|had) (?P<start>\w+) coins?(?:\.| in h|, and no more)"
    r"|had (?P<had>\w+) coins?, paid (?P<paid>\w+), and so (?P<left>\w+) "
    r"|paid (?P<of_paid>\w+) of \w+ (?P<of_had>\w+) coins?, and (?P<of_left>\w+) "
    r"|(?:had (?P<end>\w+) coins? left|bed with (?P<bed>\w+) coin)"
)


@given(seeds)
@settings(max_examples=100, deadline=None)
def test_money_adds_up_to_the_end(seed: int) -> None:
    """Whatever a story says of the hero's coins follows from the coins at its start and the prices paid."""
    number = {word: i for i, word in enumerate(words.NUMBERS)} | {"none": 0}
    for story in told(seed, 5):
        start, *later = ({k: number[v] for k, v in m.groupdict().items() if v} for m in MONEY.finditer(story))
        coins = start["start"]
        for said in later:
            paid = said.get("paid", said.get("of_paid", 0))
            assert said.get("had", said.get("of_had", coins)) == coins
            coins -= paid
            assert next(v for k, v in said.items() if k in ("left", "of_left", "end", "bed")) == coins


def test_dice_pick_different_options() -> None:
    """`some` never draws the same option twice, for any size."""
    dice = Dice(3)
    for k in range(10):
        assert len(set(dice.some(range(10), k))) == k


# -- tokens ------------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")), st.just("a  b\n\n\tc \x00")
)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_from_its_tokens(
    llama: Any, vocab: Any, ids: Callable[[str], list[int]], text: str
) -> None:
    """All but U+2581, which such a vocabulary takes for a space."""
    bos, *tokens = ids(text)
    array = (llama.llama_token * len(tokens))(*tokens)
    room = ctypes.create_string_buffer(4 * len(text) + 16)
    n = llama.llama_detokenize(vocab, array, len(tokens), room, len(room), False, False)
    assert bos == BOS
    assert room.raw[:n].decode() == text


@given(st.one_of(TEXTS, seeds.map(lambda seed: told(seed, 1)[0])))
@settings(max_examples=150, deadline=None)
def test_training_sees_the_ids_that_llama_cpp_gives(
    ids: Callable[[str], list[int]], vocabulary: Vocabulary, text: str
) -> None:
    assert [BOS, *vocabulary.encode(text)] == ids(text)


def test_the_vocabulary_follows_from_the_seed(vocabulary: Vocabulary) -> None:
    from quanttui.models.pocket.train import LEARN_STORIES

    assert learn(islice(stories(SEED), LEARN_STORIES), len(vocabulary)) == vocabulary


def test_the_held_out_text_makes_64_to_80_chunks(ids: Callable[[str], list[int]]) -> None:
    text = TEXT.read_text(encoding="utf-8")
    assert 64 <= len(ids(text.removesuffix("\n"))) // 512 <= 80


# -- the files ---------------------------------------------------------------------------------------------------------


def test_the_model_is_small_and_every_row_fits_the_quants_blocks() -> None:
    """No tensor may fall back to another type: rows are multiples of 256 weights."""
    model = header.read(MODEL)
    assert model.file_bytes <= 8_000_000
    for tensor in model.tensors:
        assert tensor.type == ("F16" if len(tensor.shape) == 2 else "F32")
        assert tensor.shape[0] % 256 == 0, tensor.name


def test_the_model_says_what_it_is() -> None:
    keys = header.read(MODEL).metadata
    said = [keys[f"general.{key}"] for key in ("architecture", "name", "license", "author")]
    assert said == ["llama", "quanttui pocket", "mit", "quanttui"]
    assert keys["tokenizer.ggml.add_bos_token"] is True and keys["tokenizer.ggml.add_eos_token"] is False


def test_the_held_out_text_was_told_by_another_seed_than_training(vocabulary: Vocabulary) -> None:
    raw = TEXT.read_bytes()
    assert b"\r" not in raw and raw.endswith(b".\n")
    text = raw.decode("utf-8").removesuffix("\n").split("\n\n")
    assert text == told(SEED + HELD_OUT_SEED, len(text))
    assert not set(text) & set(told(SEED, 1000))


def test_the_record_matches_the_files() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for path in (MODEL, TEXT, IMATRIX):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"][path.name]
    assert record["tokens_seen"] == record["steps"] * record["batch"] * record["window"]


# -- importance matrices -----------------------------------------------------------------------------------------------


def test_the_matrix_covers_every_block_weight_with_positive_numbers() -> None:
    """llama.cpp asks it for no others: the embedding and output.weight quantize without."""
    matrix = imatrix.load(IMATRIX)
    blocks = {t.name: t.shape[0] for t in header.read(MODEL).tensors if len(t.shape) == 2 and t.name.startswith("blk.")}
    assert {name: len(values) for name, values in matrix.items()} == blocks
    assert all(
        values.dtype == np.float32 and np.isfinite(values).all() and values.min() > 0 for values in matrix.values()
    )


def dat(matrix: dict[str, np.ndarray[Any, Any]], calls: int, tail: bool) -> bytes:
    """The old form of a matrix."""
    out = struct.pack("<i", len(matrix))
    for name, values in matrix.items():
        out += struct.pack(f"<i{len(name)}sii", len(name), name.encode(), calls, len(values))
        out += (values * np.float32(calls)).astype("<f4").tobytes()
    return out + (struct.pack("<ii4s", calls, 4, b"text") if tail else b"")


@pytest.mark.parametrize("tail", [True, False])
def test_both_forms_load_to_the_same_matrix(tmp_path: Path, tail: bool) -> None:
    matrix = imatrix.load(IMATRIX)
    old = tmp_path / "old.dat"
    old.write_bytes(dat(matrix, 64, tail))
    loaded = imatrix.load(old)
    assert loaded.keys() == matrix.keys()
    assert all(np.array_equal(loaded[name], matrix[name]) for name in matrix)


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_a_truncated_matrix_is_a_user_error_and_nothing_else(tmp_path: Path, form: str) -> None:
    """Cut at every 97th byte."""
    whole = IMATRIX.read_bytes() if form == "gguf" else dat(imatrix.load(IMATRIX), 64, tail=True)
    path = tmp_path / "cut"
    for cut in range(0, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="cut"):
            imatrix.load(path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole matrix of two weights, one of them with two experts, in both forms."""
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    sums = {"blk.0.a": np.ones((1, 4)), "blk.0.b": np.ones((2, 3))}
    imatrix.save(path, imatrix.Collected(sums, {"blk.0.a": np.array([2]), "blk.0.b": np.array([0, 4])}, 1, 512), "text")
    return {"gguf": path.read_bytes(), "dat": dat(imatrix.load(path), 2, tail=True)}


def test_an_expert_that_saw_nothing_weighs_all_columns_alike(tmp_path: Path, small: dict[str, bytes]) -> None:
    """As llama-quantize does: 1 for the expert without rows, sums over rows for the other."""
    path = tmp_path / "small.gguf"
    path.write_bytes(small["gguf"])
    assert imatrix.load(path)["blk.0.b"].tolist() == [1, 1, 1, 0.25, 0.25, 0.25]


@given(form=st.sampled_from(["gguf", "dat"]), data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_matrix_loads_or_is_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, small: dict[str, bytes], form: str, data: st.DataObject
) -> None:
    whole = bytearray(small[form])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole)
    try:
        matrix = imatrix.load(path)
    except UserError:
        return
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in matrix.values())


@pytest.mark.parametrize("count", [2**31 - 1, -1])
def test_a_hostile_count_takes_no_memory(tmp_path: Path, count: int) -> None:
    """Entries, name length, values: each may claim what it likes."""
    path = tmp_path / "hostile.dat"
    name = b"blk.0.w"
    for hostile in (
        struct.pack("<i", count),
        struct.pack("<ii", 1, count) + name,
        struct.pack(f"<ii{len(name)}sii", 1, len(name), name, 1, count) + bytes(16),
    ):
        path.write_bytes(hostile)
        with pytest.raises(UserError):
            imatrix.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_llama_quantize_could_not_use_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "bad.dat"
    path.write_bytes(dat({"blk.0.w": np.array([1.0, value], np.float32)}, 1, True))
    with pytest.raises(UserError, match="negative or not finite"):
        imatrix.load(path)


def test_a_model_is_no_importance_matrix() -> None:
    with pytest.raises(UserError, match="no usable importance matrix"):
        imatrix.load(MODEL)


def test_a_missing_matrix_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.gguf"):
        imatrix.load(tmp_path / "absent.gguf")


# -- computing one -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def collected(llama: Any) -> imatrix.Collected:
    return imatrix.compute(MODEL, TEXT.read_text(encoding="utf-8"), chunks=8, output=True, threads=2)


def test_collected_inputs_obey_the_rms_norm_before_them(collected: imatrix.Collected) -> None:
    """After RMSNorm, the squares divided by the norm's squared weights average to one (but for its epsilon)."""
    weights = {t.name: t.data for t in gguf.GGUFReader(MODEL).tensors}
    means = collected.means()
    for after, norm in (("attn_q", "attn_norm"), ("ffn_up", "ffn_norm")):
        for i in range(4):
            scaled = means[f"blk.{i}.{after}.weight"] / weights[f"blk.{i}.{norm}.weight"] ** 2
            assert scaled.mean() == pytest.approx(1, abs=0.01)


def test_matrices_that_share_their_input_share_their_importance(collected: imatrix.Collected) -> None:
    for i in range(4):
        for one, other in (("attn_q", "attn_k"), ("attn_q", "attn_v"), ("ffn_gate", "ffn_up")):
            assert np.array_equal(collected.sums[f"blk.{i}.{one}.weight"], collected.sums[f"blk.{i}.{other}.weight"])
    assert "output.weight" in collected.sums


def test_every_row_is_counted(collected: imatrix.Collected) -> None:
    assert {int(n) for counts in collected.counts.values() for n in counts} == {8 * 512}
    assert collected.chunks == 8


def test_a_saved_matrix_loads_to_what_was_collected(tmp_path: Path, collected: imatrix.Collected) -> None:
    path = tmp_path / "new.gguf"
    imatrix.save(path, collected, "held-out stories")
    loaded, means = imatrix.load(path), collected.means()
    assert loaded.keys() == means.keys()
    assert all(np.array_equal(loaded[name], means[name]) for name in means)


def test_the_shipped_matrix_is_of_this_model(collected: imatrix.Collected) -> None:
    """Over other text of the same kind the importance is nearly the same."""
    shipped, means = imatrix.load(IMATRIX), collected.means()
    for name, values in shipped.items():
        assert np.corrcoef(values, means[name])[0, 1] > 0.9, name


def test_too_short_a_text_is_a_user_error(llama: Any) -> None:
    with pytest.raises(UserError, match="1024"):
        imatrix.compute(MODEL, "Once.", threads=1)


def test_a_file_that_is_no_model_is_a_user_error(llama: Any) -> None:
    with pytest.raises(UserError, match="no model"):
        imatrix.compute(IMATRIX, "Once.")


def test_experts_are_counted_apart(tmp_path: Path, llama: Any, vocabulary: Vocabulary) -> None:
    """In a mixture, each expert's counts hold the rows routed to it: together, every token times the experts used."""
    path = tmp_path / "mixture.gguf"
    mixture(path, vocabulary, experts=4, used=2)
    tokens = [BOS, *vocabulary.encode(TEXT.read_text(encoding="utf-8")[:3000])][:256]
    collected = imatrix.compute(path, tokens, n_ctx=128, threads=1)
    counts = collected.counts["blk.0.ffn_up_exps.weight"]
    assert counts.shape == (4,) and counts.sum() == 256 * 2
    sums = collected.sums["blk.0.ffn_up_exps.weight"]
    assert sums.shape == (4, 256) and ((sums.sum(axis=1) > 0) == (counts > 0)).all()
    dense = collected.sums["blk.0.ffn_gate_inp.weight"]
    assert sums.sum(axis=0) == pytest.approx(2 * dense[0], rel=1e-4)


def mixture(path: Path, vocabulary: Vocabulary, experts: int, used: int) -> None:
    """A random model of one block with experts, in llama.cpp's terms."""
    from quanttui.models.pocket.train import write_vocabulary

    random, out, wide, n = np.random.default_rng(1), gguf.GGUFWriter(path, "llama"), 256, len(vocabulary)
    out.add_context_length(512)
    out.add_embedding_length(wide)
    out.add_feed_forward_length(wide)
    out.add_block_count(1)
    out.add_head_count(4)
    out.add_head_count_kv(4)
    out.add_rope_dimension_count(64)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_expert_count(experts)
    out.add_expert_used_count(used)
    write_vocabulary(out, vocabulary)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        out.add_tensor(f"{name}.weight", np.ones(wide, np.float32))
    shapes = {"token_embd": (n, wide), "output": (n, wide), "blk.0.ffn_gate_inp": (experts, wide)}
    shapes |= {f"blk.0.attn_{part}": (wide, wide) for part in ("q", "k", "v", "output")}
    stacks = {f"blk.0.ffn_{part}_exps": (experts, wide, wide) for part in ("gate", "up", "down")}
    for name, shape in {**shapes, **stacks}.items():
        out.add_tensor(f"{name}.weight", random.normal(0, wide**-0.5, shape).astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_network_computes_what_llama_cpp_computes(llama: Any, ids: Callable[[str], list[int]]) -> None:
    """The shipped weights give the same logits in JAX and in llama.cpp: the trained model is the one that runs."""
    pytest.importorskip("jax")
    from quanttui.models.pocket.network import Shape, logits

    weights = {t.name: t.data.astype(np.float32) for t in gguf.GGUFReader(MODEL).tensors}
    tokens = ids(TEXT.read_text(encoding="utf-8"))[:200]
    ours = np.asarray(logits(Shape(), weights, np.array([tokens])))[0]
    theirs = decode(llama, tokens, ours.shape[1])
    assert np.abs(ours - theirs).max() < 0.1
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.97


def test_training_is_reproducible(vocabulary: Vocabulary) -> None:
    """The same seed trains the same weights; another starts from others."""
    pytest.importorskip("jax")
    from quanttui.models.pocket.network import Shape, start
    from quanttui.models.pocket.train import train

    shape = Shape(ff=256, layers=1)
    one, again = (train(shape, vocabulary, 1, 2, lambda line: None)[0] for _ in range(2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(start(shape, 1)["output.weight"], start(shape, 2)["output.weight"])


def test_uneven_columns_change_no_bit_of_what_is_computed() -> None:
    pytest.importorskip("jax")
    from quanttui.models.pocket.network import Shape, logits, start, uneven

    shape = Shape(layers=1)
    weights = start(shape, 1)
    rough, tokens = uneven(shape, weights, 1), np.arange(8)[None]
    assert not np.array_equal(rough["blk.0.ffn_up.weight"], weights["blk.0.ffn_up.weight"])
    assert np.array_equal(logits(shape, rough, tokens), logits(shape, weights, tokens))


def decode(llama: Any, tokens: list[int], n_vocab: int) -> np.ndarray[Any, Any]:
    """Logits at every position, by llama.cpp with an F32 cache."""
    model = llama.llama_model_load_from_file(os.fsencode(MODEL), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.type_k = params.type_v = 0
    context = llama.llama_init_from_model(model, params)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert llama.llama_decode(context, batch) == 0
    found = np.ctypeslib.as_array(llama.llama_get_logits(context), (len(tokens), n_vocab)).copy()
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return found
