"""KL divergence: the scoring against exact arithmetic, the file of base logits, the figures, and the real tool.

Run as a program it is what the tests with the real tool start, so that llama.cpp lives in a process of its own.
"""

from __future__ import annotations

import math
import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quanttui.errors import UserError
from quanttui.measure import divergence, perplexity
from quanttui.measure.divergence import BaseFile, Logits
from quanttui.stats import divergence as figures
from quanttui.stats.divergence import Divergence, Estimate, Rows, Sums

CONTEXT, VOCABULARY, CHUNKS = 16, 11, 3
SCORED = 7
TOKENS = np.arange(CONTEXT * CHUNKS, dtype=np.int32) % VOCABULARY

Tokens = npt.NDArray[np.int32]
Case = tuple[Logits, Logits, Tokens]


@st.composite
def cases(draw: st.DrawFn, size: float = 40) -> Case:
    """Logits of a base and of a quant that may be close to it or far off, and the tokens that came."""
    rows, vocabulary = draw(st.integers(1, 6)), draw(st.integers(2, 200))
    values = st.floats(-size, size, width=32)
    base = draw(hnp.arrays(np.float32, (rows, vocabulary), elements=values))
    apart = draw(st.sampled_from([0.0, 0.01, 1.0]))
    quant = base + np.float32(apart) * draw(hnp.arrays(np.float32, (rows, vocabulary), elements=values))
    return base, quant, draw(hnp.arrays(np.int32, rows, elements=st.integers(0, vocabulary - 1)))


def normal(seed: int, rows: int, vocabulary: int, spread: float = 3.0) -> Logits:
    return (np.random.default_rng(seed).normal(size=(rows, vocabulary)) * spread).astype(np.float32)


@contextmanager
def block_of(logits: int) -> Iterator[None]:
    """The size of a block is a constant because nothing but the speed may depend on it: that is what is tested."""
    before, divergence.BLOCK = divergence.BLOCK, logits
    try:
        yield
    finally:
        divergence.BLOCK = before


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """In float64 throughout."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def row_by_definition(logits: Logits) -> bytes:
    """One row of the file, number by number. A scale too small to be inverted is left undefined by llama-perplexity."""
    one = np.float32
    high = max(logits)
    low = max(min(logits), one(high - one(16)))
    log_sum = one(math.log(math.fsum(float(np.exp(value - high)) for value in logits)))
    scale = one((high - low) / one(65535))
    codes = [0] * len(logits)
    if scale >= np.finfo(np.float32).tiny:
        codes = [round(float(one(one(1) / scale) * (value - low))) if value > low else 0 for value in logits]
    padding = [0] * (len(logits) % 2)
    return struct.pack(f"<2f{len(codes + padding)}H", scale, one(one(low - high) - log_sum), *codes, *padding)


# The rows


@given(cases())
def test_a_row_is_written_number_by_number_as_the_definition_says(case: Case) -> None:
    found = divergence.encode(case[0])
    for ours, logits in zip(found, case[0], strict=True):
        told = np.frombuffer(row_by_definition(logits), "<u2")
        assert (ours[4:] == told[4:]).all()
        assert ours[:4].view("<f4") == pytest.approx(told[:4].view("<f4"), rel=1e-6)


@given(cases(size=30))
def test_a_row_keeps_a_log_probability_to_half_a_step_and_what_lies_too_deep_at_the_bottom(case: Case) -> None:
    logits = case[0]
    found = divergence.log_probs(divergence.encode(logits), logits.shape[1])
    exact = log_softmax(logits)
    bottom = np.maximum(exact, exact.max(axis=1, keepdims=True) - 16)
    assert np.abs(found - bottom).max() <= 0.5 * 16 / 65535 + 2e-5


# The scoring


@given(cases(size=20))
def test_scores_are_those_of_exact_arithmetic_on_the_rows(case: Case) -> None:
    base, quant, targets = case
    codes, each = divergence.encode(base), np.arange(len(targets))
    held = divergence.log_probs(codes, base.shape[1]).astype(np.float64)
    exact = log_softmax(quant)
    counted = held > -16
    kld = np.where(counted, np.exp(held) * (held - exact), 0).sum(axis=1)
    found = divergence.diverge(codes, quant, targets)
    assert found.kld == pytest.approx(kld, rel=1e-5, abs=2e-5)
    assert found.nll_base == pytest.approx(-held[each, targets])
    assert found.p_diff == pytest.approx(np.exp(exact[each, targets]) - np.exp(held[each, targets]), abs=2e-5)


@given(cases())
def test_nll_is_the_perplexitys_to_the_last_bit(case: Case) -> None:
    base, quant, targets = case
    found = divergence.diverge(divergence.encode(base), quant, targets)
    assert (found.nll == perplexity.nll(quant, targets)).all()


@given(cases())
def test_the_divergence_is_never_less_than_the_log_sum_inequality_allows(case: Case) -> None:
    """The base's counted probabilities add up to nearly one: so far from 0 and no farther may a negative value be."""
    base, quant, targets = case
    codes = divergence.encode(base)
    held = divergence.log_probs(codes, base.shape[1]).astype(np.float64)
    total = np.where(held > -16, np.exp(held), 0).sum(axis=1)
    assert (divergence.diverge(codes, quant, targets).kld >= total * np.log(total) - 2e-5).all()


@given(cases(size=7))
def test_against_itself_nothing_diverges_beyond_half_a_step_of_rows_that_hold_all_of_it(case: Case) -> None:
    """Of logits more than 16 apart the lowest are not told apart, and llama-perplexity may count them or not."""
    base, _, targets = case
    found = divergence.diverge(divergence.encode(base), base, targets)
    assert np.abs(found.kld).max() <= 0.5 * 16 / 65535 + 1e-5
    assert np.abs(found.p_diff).max() <= 0.5 * 16 / 65535 + 1e-5


@given(cases(), st.integers(-8, 8))
def test_a_shift_of_all_logits_changes_nothing(case: Case, shift: int) -> None:
    base, quant, targets = np.round(case[0]), np.round(case[1]), case[2]
    assume(np.abs(quant).max() < 1e6)
    codes = divergence.encode(base)
    moved = divergence.diverge(codes, quant + np.float32(shift), targets)
    still = divergence.diverge(codes, quant, targets)
    assert (divergence.encode(base + np.float32(shift)) == codes).all()
    assert moved.kld == pytest.approx(still.kld, rel=1e-5, abs=1e-5)
    assert (moved.nll == still.nll).all()
    assert (moved.same_top == still.same_top).all()


@pytest.mark.parametrize("vocabulary", [2, 511, 512, 8191, 8193, 40000])
def test_blocks_of_any_size_give_the_same_bits(vocabulary: int) -> None:
    base, quant = normal(1, 9, vocabulary), normal(2, 9, vocabulary)
    targets = np.arange(9) % vocabulary
    codes = divergence.encode(base)
    whole = divergence.diverge(codes, quant, targets).stacked()
    for size in (1, 2 * vocabulary, 5 * vocabulary + 1):
        with block_of(size):
            assert (divergence.diverge(codes, quant, targets).stacked() == whole).all()
    parts = [divergence.diverge(codes[cut], quant[cut], targets[cut]) for cut in (slice(0, 4), slice(4, 9))]
    assert (Rows.joined(parts).stacked() == whole).all()
    assert (np.concatenate([divergence.encode(base[:4]), divergence.encode(base[4:])]) == codes).all()


def test_threads_may_share_the_rows_among_them() -> None:
    base, quant, targets = normal(1, 64, 5000), normal(2, 64, 5000), np.arange(64)
    codes = divergence.encode(base)
    with ThreadPoolExecutor(4) as pool:
        cuts = [slice(at, at + 4) for at in range(0, 64, 4)]
        parts = list(pool.map(lambda cut: divergence.diverge(codes[cut], quant[cut], targets[cut]), cuts))
    assert (Rows.joined(parts).stacked() == divergence.diverge(codes, quant, targets).stacked()).all()


@pytest.mark.parametrize(
    ("base", "quant", "same"),
    [
        ([1, 5, 5], [0, 4, 3], True),
        ([1, 5, 5], [0, 3, 4], False),
        ([5, 1, 5], [4, 0, 4], True),
        ([5, 5], [0, 1], False),
    ],
)
def test_of_several_favourites_the_first_counts_on_both_sides(base: list[int], quant: list[int], same: bool) -> None:
    codes = divergence.encode(np.array([base], np.float32))
    found = divergence.diverge(codes, np.array([quant], np.float32), np.array([0]))
    assert found.same_top.tolist() == [same]


def test_a_token_impossible_under_both_diverges_not_at_all_and_under_the_quant_only_for_ever() -> None:
    base, quant = normal(1, 2, 50), normal(2, 2, 50)
    base[0, 7] = quant[:, 7] = -np.inf
    found = divergence.diverge(divergence.encode(base), quant, np.array([1, 1]))
    rest = [at for at in range(50) if at != 7]
    without = divergence.diverge(divergence.encode(base[:1, rest]), quant[:1, rest], np.array([1]))
    assert found.kld[0] == pytest.approx(without.kld[0], abs=1e-3)
    assert found.kld[1] == np.inf


def test_scoring_leaves_logits_and_rows_as_they_were() -> None:
    base, quant = normal(1, 5, 99), normal(2, 5, 99)
    codes = divergence.encode(base)
    before = codes.copy(), quant.copy()
    divergence.diverge(codes, quant, np.arange(5))
    assert (codes == before[0]).all()
    assert (quant == before[1]).all()


# The file


def chunk_of(chunk: int, vocabulary: int = VOCABULARY, rows: int = SCORED) -> Logits:
    return normal(chunk, rows, vocabulary)


def written(path: Path) -> Path:
    """A whole file of CHUNKS chunks."""
    base = BaseFile.create(path, CONTEXT, VOCABULARY, CHUNKS, TOKENS)
    for chunk in range(CHUNKS):
        base.put(chunk, chunk_of(chunk))
    base.finish()
    return path


def test_a_file_is_laid_out_byte_by_byte_as_the_format_says(tmp_path: Path) -> None:
    expected = b"_logits_" + struct.pack(f"<3i{len(TOKENS)}i", CONTEXT, VOCABULARY, CHUNKS, *TOKENS)
    for chunk in range(CHUNKS):
        expected += divergence.encode(chunk_of(chunk)).tobytes()
    found = written(tmp_path / "base").read_bytes()
    assert found == expected
    assert len(found) == divergence.size(CONTEXT, VOCABULARY, CHUNKS)


@given(st.data(), st.integers(3, 40), st.integers(2, 30), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_what_is_put_in_any_order_and_in_any_blocks_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, context: int, vocabulary: int, chunks: int
) -> None:
    path = tmp_path_factory.mktemp("base") / "base"
    scored = context - 1 - context // 2
    base = BaseFile.create(path, context, vocabulary, chunks, np.zeros(context * chunks, np.int32))
    for chunk in data.draw(st.permutations(range(chunks))):
        cut = data.draw(st.integers(0, scored))
        logits = chunk_of(chunk, vocabulary, scored)
        base.put(chunk, logits[cut:], cut)
        base.put(chunk, logits[:cut])
    base.finish()
    found = BaseFile.open(path)
    assert (found.context, found.vocabulary, found.chunks, found.scored) == (context, vocabulary, chunks, scored)
    for chunk in range(chunks):
        codes = divergence.encode(chunk_of(chunk, vocabulary, scored))
        assert (found.codes(chunk) == codes).all()
        assert (found.rows(chunk, scored - 1) == divergence.log_probs(codes, vocabulary)[-1:]).all()
    found.close()


class Hesitant(FileIO):
    """A file that lets other threads go ahead between seeking a place and reading or writing there."""

    def seek(self, *place: int) -> int:
        found = super().seek(*place)
        time.sleep(1e-4)
        return found


def test_threads_may_put_and_read_blocks_of_one_chunk(tmp_path: Path) -> None:
    context, vocabulary = 130, 400
    BaseFile.create(tmp_path / "base", context, vocabulary, 1, np.zeros(context, np.int32)).close()
    part = divergence.partial(tmp_path / "base")
    base = BaseFile(part, Hesitant(part, "r+"), context, vocabulary, 1)
    logits, cuts = chunk_of(0, vocabulary, 64), range(0, 64, 2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: base.put(0, logits[at : at + 2], at), cuts))
        found = list(pool.map(lambda at: base.codes(0, at, at + 2), cuts))
    assert base.whole(0)
    assert (np.concatenate(found) == divergence.encode(logits)).all()
    base.close()


def test_a_file_goes_on_where_it_was_left_and_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "base"
    first = BaseFile.create(path, CONTEXT, VOCABULARY, CHUNKS, TOKENS)
    first.put(1, chunk_of(1))
    first.put(2, chunk_of(2)[:-1])
    first.close()
    second = BaseFile.create(path, CONTEXT, VOCABULARY, CHUNKS, TOKENS)
    assert [second.whole(chunk) for chunk in range(CHUNKS)] == [False, True, False]
    with pytest.raises(UserError, match=r"base: 2 of 3 chunks .* missing"):
        second.finish()
    assert not path.exists()
    third = BaseFile.create(path, CONTEXT, VOCABULARY, CHUNKS, TOKENS)
    third.put(0, chunk_of(0))
    third.put(2, chunk_of(2))
    third.finish()
    assert path.read_bytes() == written(tmp_path / "other").read_bytes()
    assert [file.name for file in tmp_path.iterdir()] in (["base", "other"], ["other", "base"])


@pytest.mark.parametrize("change", ["context", "vocabulary", "chunks", "tokens"])
def test_a_part_that_was_begun_for_something_else_is_begun_anew(tmp_path: Path, change: str) -> None:
    first = BaseFile.create(tmp_path / "base", CONTEXT, VOCABULARY, CHUNKS, TOKENS)
    first.put(0, chunk_of(0))
    first.close()
    asked: dict[str, Any] = {"context": CONTEXT, "vocabulary": VOCABULARY, "chunks": CHUNKS, "tokens": TOKENS}
    other: dict[str, Any] = {
        "context": CONTEXT - 2,
        "vocabulary": VOCABULARY + 1,
        "chunks": CHUNKS - 1,
        "tokens": TOKENS[::-1].copy(),
    }
    second = BaseFile.create(tmp_path / "base", **{**asked, change: other[change]})
    assert not any(second.whole(chunk) for chunk in range(second.chunks))
    second.close()


def test_a_part_that_was_not_begun_to_its_end_is_begun_anew(tmp_path: Path) -> None:
    part = divergence.partial(tmp_path / "base")
    BaseFile.create(tmp_path / "base", CONTEXT, VOCABULARY, CHUNKS, TOKENS).close()
    begun = part.read_bytes()
    for length in (0, 7, 25, len(begun) - 1):
        part.write_bytes(begun[:length])
        BaseFile.create(tmp_path / "base", CONTEXT, VOCABULARY, CHUNKS, TOKENS).close()
        assert part.read_bytes() == begun


def test_of_a_file_that_grows_the_chunks_that_are_there_are_read_and_no_others(tmp_path: Path) -> None:
    base = BaseFile.create(tmp_path / "base", CONTEXT, VOCABULARY, CHUNKS, TOKENS)
    base.put(1, chunk_of(1))
    reader = BaseFile.open(divergence.partial(tmp_path / "base"))
    assert (reader.codes(1) == divergence.encode(chunk_of(1))).all()
    with pytest.raises(UserError, match=r"base\.part: chunk 0 .* never written"):
        reader.codes(0)
    base.put(0, chunk_of(0))
    assert (reader.codes(0) == divergence.encode(chunk_of(0))).all()
    reader.close()
    base.close()


@pytest.mark.parametrize("at", range(0, SCORED * 2 * 16, 13))
def test_a_block_of_which_only_a_part_reached_the_file_does_not_count(tmp_path: Path, at: int) -> None:
    """As after a crash amid writing: the bytes from `at` on were not written yet, nor what goes last."""
    BaseFile.create(tmp_path / "base", CONTEXT, VOCABULARY, 1, TOKENS).close()
    part = divergence.partial(tmp_path / "base")
    empty, begin = part.read_bytes(), part.stat().st_size - SCORED * 2 * 16
    seen: list[bytes] = []

    class Watched(FileIO):
        """Keeps what lies in the file before each write."""

        def write(self, data: Any) -> int:
            seen.append(part.read_bytes())
            return super().write(data)

    base = BaseFile(part, Watched(part, "r+"), CONTEXT, VOCABULARY, 1)
    base.put(0, chunk_of(0))
    assert base.whole(0)
    part.write_bytes(seen[-1][: begin + at] + empty[begin + at :])
    assert not base.whole(0)
    base.close()


@pytest.mark.parametrize("act", ["put", "score"])
def test_memory_is_bounded_by_the_block_and_not_by_the_chunk(tmp_path: Path, act: str) -> None:
    context, vocabulary, scored = 514, 16000, 256
    logits, targets = chunk_of(0, vocabulary, scored), np.zeros(scored, np.int32)
    base = BaseFile.create(tmp_path / "base", context, vocabulary, 1, np.zeros(context, np.int32))
    base.put(0, logits)
    tracemalloc.start()
    try:
        if act == "put":
            base.put(0, logits)
        else:
            for block in divergence.blocks(scored, vocabulary):
                divergence.diverge(base.codes(0, block.start, block.stop), logits[block], targets[block])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * 4 * divergence.BLOCK < logits.nbytes / 2
    base.close()


@given(st.integers(0, 2**40), st.integers(3, 4096), st.integers(2, 300000))
def test_a_cap_affords_as_many_chunks_as_fit_and_not_one_more(cap: int, context: int, vocabulary: int) -> None:
    chunks = divergence.affordable(cap, context, vocabulary)
    assert divergence.size(context, vocabulary, chunks) <= max(cap, divergence.size(context, vocabulary, 0))
    assert divergence.size(context, vocabulary, chunks + 1) > cap


def test_the_whole_of_wikitext_2_under_llama_3_takes_37_gb() -> None:
    assert divergence.size(512, 128256, 564) / 1e9 == pytest.approx(36.9, abs=0.05)


# What is refused


def test_a_base_is_usable_for_the_chunks_that_both_texts_begin_with(tmp_path: Path) -> None:
    base = BaseFile.open(written(tmp_path / "base"))
    longer = np.concatenate([TOKENS, np.zeros(100, np.int32)])
    assert base.usable(CONTEXT, VOCABULARY, TOKENS) == CHUNKS
    assert base.usable(CONTEXT, VOCABULARY, longer) == CHUNKS
    assert base.usable(CONTEXT, VOCABULARY, TOKENS[: 2 * CONTEXT + 5]) == 2
    base.close()


@pytest.mark.parametrize(
    ("context", "vocabulary", "tokens", "told"),
    [
        (CONTEXT, VOCABULARY + 1, TOKENS, r"vocabulary of 11 tokens and the model has 12"),
        (CONTEXT + 1, VOCABULARY, TOKENS, r"context of 16 and not 17: measure with --context 16"),
        (CONTEXT, VOCABULARY, TOKENS + 1, r"other tokens: give the text that it was made from"),
    ],
)
def test_a_base_for_something_else_is_refused(
    tmp_path: Path, context: int, vocabulary: int, tokens: Tokens, told: str
) -> None:
    base = BaseFile.open(written(tmp_path / "base"))
    with pytest.raises(UserError, match=rf"base: .*{told}") as refused:
        base.usable(context, vocabulary, tokens)
    assert "\n" not in str(refused.value)
    base.close()


def read_all(path: Path) -> None:
    """All that is done with a base that somebody gave."""
    base = BaseFile.open(path)
    try:
        for chunk in range(base.usable(CONTEXT, VOCABULARY, TOKENS)):
            divergence.diverge(base.codes(chunk), chunk_of(9), np.zeros(SCORED, np.int32))
            base.rows(chunk)
    finally:
        base.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a whole file."""
    return written(tmp_path_factory.mktemp("whole") / "base").read_bytes()


@given(data=st.data())
@settings(deadline=None)
def test_a_file_cut_off_anywhere_is_refused_in_one_line_that_names_it(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "the-base"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError, match="the-base: ") as refused:
        read_all(path)
    assert "\n" not in str(refused.value)


def test_a_file_one_byte_too_short_or_too_long_is_refused(whole: bytes, tmp_path: Path) -> None:
    for told, data in (("is cut off", whole[:-1]), ("is damaged", whole + b"x")):
        (tmp_path / "the-base").write_bytes(data)
        with pytest.raises(UserError, match=rf"the-base: {told}: it has {len(data)} bytes"):
            read_all(tmp_path / "the-base")


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_a_file_with_flipped_bits_is_read_or_refused_in_one_line(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bits of a code cannot be told from other codes; all that leads elsewhere must be refused and nothing else."""
    path = tmp_path_factory.mktemp("flipped") / "the-base"
    broken = bytearray(whole)
    places = st.one_of(st.integers(0, 30), st.integers(0, len(whole) - 1))
    for place, bit in data.draw(st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=3)):
        broken[place] ^= 1 << bit
    path.write_bytes(broken)
    with suppress(UserError):
        read_all(path)


@given(st.binary(max_size=400))
def test_any_other_file_is_refused_by_its_first_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assume(not data.startswith(b"_logits_"))
    path = tmp_path_factory.mktemp("other") / "the-base"
    path.write_bytes(data)
    with pytest.raises(UserError, match="the-base: holds no base logits: give a file that llama-perplexity"):
        BaseFile.open(path)


def test_a_flipped_header_of_a_row_is_told_as_damage(whole: bytes, tmp_path: Path) -> None:
    begin = len(whole) - CHUNKS * SCORED * 2 * 16
    for sign in (begin + 3, begin + 7):
        broken = bytearray(whole)
        broken[sign] ^= 0x80
        (tmp_path / "the-base").write_bytes(broken)
        with pytest.raises(UserError, match="the-base: chunk 0 is damaged"):
            read_all(tmp_path / "the-base")


def test_a_folder_a_missing_file_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"cannot be read \(.*--kld-base"):
            BaseFile.open(path)
    with pytest.raises(UserError, match=r"none/base\.part: cannot be written"):
        BaseFile.create(tmp_path / "none" / "base", CONTEXT, VOCABULARY, CHUNKS, TOKENS)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_no_numbers_become_no_base(tmp_path: Path, broken: float) -> None:
    base = BaseFile.create(tmp_path / "base", CONTEXT, VOCABULARY, CHUNKS, TOKENS)
    logits = chunk_of(0)
    logits[3, 2] = broken
    with pytest.raises(UserError, match=r"base: chunk 0 .* no numbers"):
        base.put(0, logits)
    assert not base.whole(0)
    base.close()


def test_a_full_disk_is_told_with_the_files_name() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    base = BaseFile(Path("the-base"), FileIO("/dev/full", "r+"), CONTEXT, VOCABULARY, CHUNKS)
    with pytest.raises(OSError, match="the-base"):
        base.put(0, chunk_of(0))
    base.close()


# The figures


def rows_of(seed: int, n: int) -> Rows:
    """Rows like a quant's: nll that follow the base's, small divergences, favourites mostly shared."""
    draw = np.random.default_rng(seed)
    base = draw.gamma(2, 1.5, n)
    p_diff = draw.normal(0, 0.05, n).astype(np.float32).astype(np.float64)
    return Rows(base + draw.normal(0.03, 0.3, n), base, draw.gamma(0.5, 0.05, n), p_diff, draw.random(n) < 0.9)


def near(found: Estimate, value: float, error: float) -> bool:
    return bool((found.value, found.error) == pytest.approx((value, error)))


@given(st.integers(0, 2**32), st.integers(12, 400))
def test_the_figures_are_textbook_statistics_of_the_rows(seed: int, n: int) -> None:
    rows = rows_of(seed, n)
    found = figures.from_rows(rows)
    covariance = np.cov(rows.nll, rows.nll_base) / n
    error, error_base = np.sqrt(np.diag(covariance))
    difference = rows.nll - rows.nll_base
    ppl, ppl_base = math.exp(rows.nll.mean()), math.exp(rows.nll_base.mean())
    spread = math.sqrt(np.cov(ppl * rows.nll - ppl_base * rows.nll_base) / n)
    squared = rows.p_diff**2
    share = rows.same_top.mean()
    assert found.scored == n
    assert near(found.ppl, ppl, ppl * error)
    assert near(found.ppl_base, ppl_base, ppl_base * error_base)
    assert found.correlation == pytest.approx(np.corrcoef(rows.nll, rows.nll_base)[0, 1])
    assert near(found.ln_ratio, difference.mean(), difference.std(ddof=1) / math.sqrt(n))
    assert near(found.ratio, ppl / ppl_base, ppl / ppl_base * difference.std(ddof=1) / math.sqrt(n))
    assert near(found.difference, ppl - ppl_base, spread)
    assert near(found.kld, rows.kld.mean(), rows.kld.std(ddof=1) / math.sqrt(n))
    assert near(found.p_diff, rows.p_diff.mean(), rows.p_diff.std(ddof=1) / math.sqrt(n))
    root = math.sqrt(squared.mean())
    assert near(found.p_diff_rms, root, squared.std(ddof=1) / math.sqrt(n) / (2 * root))
    assert near(found.same_top, share, math.sqrt(share * (1 - share) / (n - 1)))


@given(st.integers(0, 2**32), st.integers(1, 3000))
def test_percentiles_are_linear_between_ordered_values(seed: int, n: int) -> None:
    rows = rows_of(seed, n)
    found = figures.from_rows(rows)
    steps = np.abs(np.diff(np.sort(rows.kld))).max(initial=0)
    assert tuple(found.kld_at) == figures.KLD_AT
    assert tuple(found.p_diff_at) == figures.P_DIFF_AT
    for fraction, value in found.kld_at.items():
        assert value == pytest.approx(np.quantile(rows.kld, fraction), rel=1e-5, abs=1e-6 + 1e-3 * steps)
    assert list(found.p_diff_at.values()) == sorted(found.p_diff_at.values(), reverse=True)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.randoms())
def test_sums_of_parts_in_any_order_tell_what_the_rows_together_tell(seed: int, lengths: list[int], order: Any) -> None:
    parts = [rows_of(seed + at, length) for at, length in enumerate(lengths)]
    whole = figures.from_sums(figures.sums(Rows.joined(parts)))
    order.shuffle(parts)
    total = sum((figures.sums(part) for part in parts), Sums())
    assert total.scored == sum(lengths)
    again = figures.from_sums(total)
    for name in ("ppl", "ln_ratio", "difference", "kld", "p_diff", "p_diff_rms", "same_top"):
        one, other = getattr(whole, name), getattr(again, name)
        assert other.value == pytest.approx(one.value, abs=1e-12)
        assert other.error == pytest.approx(one.error, abs=1e-7)


def test_a_single_token_has_no_errors() -> None:
    found = figures.from_rows(rows_of(1, 1))
    assert found.ppl.error is found.ln_ratio.error is found.kld.error is found.same_top.error is None
    assert found.correlation is None


def test_a_quant_that_changes_nothing_differs_by_nothing() -> None:
    nll = rows_of(1, 100).nll
    found = figures.from_rows(Rows(nll, nll, nll * 0, nll * 0, nll == nll))
    assert found.ln_ratio == pytest.approx((0, 0), abs=1e-7)
    assert found.ratio.value == 1
    assert found.kld == Estimate(0, 0)
    assert found.p_diff_rms == Estimate(0, None)
    assert found.same_top == Estimate(1, 0)


def test_one_infinite_divergence_makes_the_mean_infinite_without_an_error_and_leaves_the_median() -> None:
    rows = rows_of(1, 101)
    rows.kld[7] = np.inf
    found = figures.from_rows(rows)
    assert found.kld == Estimate(math.inf, None)
    assert found.kld_at[1.0] == math.inf
    assert found.kld_at[0.5] == pytest.approx(np.median(rows.kld))


@given(st.integers(0, 2**32), st.integers(1, 50))
def test_rows_are_what_they_were_after_being_stacked(seed: int, n: int) -> None:
    rows = rows_of(seed, n)
    again = Rows.of(rows.stacked())
    assert again.same_top.dtype == np.bool_
    assert all((getattr(rows, name) == getattr(again, name)).all() for name in Rows.__dataclass_fields__)


def test_figures_from_sums_need_no_numpy() -> None:
    script = (
        "import sys; from quanttui.stats import divergence as d; "
        "d.from_sums(d.Sums(scored=9, nll=9.0, nll2=10.0)); print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# The real tool

REAL_CHUNKS, THREADS = 8, 2
NUMBER = r"(-?[\d.]+)"


@dataclass(frozen=True)
class Bench:
    """A llama-perplexity, a base model with a quant of it, and a text."""

    tool: str
    base: Path
    quant: Path
    text: Path

    def run(self, model: Path, *flags: str) -> str:
        """What the tool prints."""
        command = [self.tool, "-m", str(model), "-t", str(THREADS), "-ngl", "0", "--chunks", str(REAL_CHUNKS), *flags]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def against(self, file: Path) -> str:
        """What the tool prints of the quant against a base file.

        Asked again where lines are missing: it may end before its log is written out (so says its common/log.cpp).
        """
        for _ in range(20):
            text = self.run(self.quant, "--kl-divergence-base", str(file), "--kl-divergence")
            if "Same top p:" in text:
                return text
        raise AssertionError(f"llama-perplexity never comes to its end: {text[-2000:]}")

    def ours(self, act: str, model: Path, file: Path, rows: Path | None = None) -> None:
        """Do `act` in a process of its own: see `program`."""
        command = [sys.executable, __file__, act, str(model), str(self.text), str(file), str(rows or "")]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]

    def diverge(self, file: Path, rows: Path) -> Divergence:
        """Our figures of the quant against a base file."""
        self.ours("diverge", self.quant, file, rows)
        return figures.from_rows(Rows.of(np.load(rows)))


def program(act: str, model: str, text: str, file: str, rows: str) -> None:
    """What is done in a process of its own.

    write: the model's logits into the base `file`. diverge: the model against it, into `rows`. quantize: into `file`.
    """
    from quanttui.engine import llama
    from quanttui.events import Settings

    log = llama.start()
    if act == "quantize":
        llama.quantize(model, file, "Q4_K_M", 15, "", THREADS, log, lambda _: None)
        return
    setup, abort = Settings(threads=THREADS, gpu_layers=0), llama.AbortFlag()
    loaded = llama.Model(model, setup, log, abort, lambda _: None)
    frame = perplexity.Frame(setup.context, setup.batch, loaded.vocabulary.bos)
    group = perplexity.group(setup.context, setup.batch)
    context = llama.Context(loaded, setup, group * setup.context, group, abort)
    tokens = loaded.tokenize(llama.text_of(text))
    if act == "write":
        base = BaseFile.create(Path(file), setup.context, loaded.vocabulary.size, REAL_CHUNKS, tokens)
    else:
        base = BaseFile.open(Path(file))
        assert base.usable(setup.context, loaded.vocabulary.size, tokens) == REAL_CHUNKS
    found = []
    for first in range(0, REAL_CHUNKS, group):
        for chunk, logits, targets in decoded(context, frame, tokens, first, min(group, REAL_CHUNKS - first)):
            if act == "write":
                base.put(chunk, logits)
            else:
                found.append(divergence.diverge(base.codes(chunk), logits, targets))
    if act == "write":
        base.finish()
    else:
        np.save(rows, Rows.joined(found).stacked())


def decoded(
    context: Any, frame: perplexity.Frame, tokens: Tokens, first: int, count: int
) -> Iterator[tuple[int, Logits, Tokens]]:
    """Chunks decoded together: each with the logits of its scored positions and the tokens that came."""
    size = frame.context
    original = tokens[first * size : (first + count) * size].reshape(count, size)
    submitted = original.copy()
    if frame.bos is not None:
        submitted[:, 0] = frame.bos
    context.wipe()
    context.decode(submitted, 0, np.arange(size) >= frame.first)
    for sequence in range(count):
        logits = np.concatenate(context.logits(sequence, frame.first, size - 1))
        yield first + sequence, logits, original[sequence, frame.first + 1 :]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The tool that $QUANTTUI_TEST_LLAMA_PERPLEXITY names, with $QUANTTUI_TEST_KLD_BASE, _QUANT, _TEXT or our own."""
    tool = os.environ.get("QUANTTUI_TEST_LLAMA_PERPLEXITY")
    if not tool:
        pytest.skip("QUANTTUI_TEST_LLAMA_PERPLEXITY names no llama-perplexity to exchange files with")
    pocket = Path(divergence.__file__).parents[1] / "models" / "pocket"
    base = Path(os.environ.get("QUANTTUI_TEST_KLD_BASE") or pocket / "pocket-f16.gguf")
    text = Path(os.environ.get("QUANTTUI_TEST_KLD_TEXT") or pocket / "pocket-heldout.txt")
    quant = os.environ.get("QUANTTUI_TEST_KLD_QUANT")
    made = Bench(tool, base, Path(quant or tmp_path_factory.mktemp("quant") / "quant.gguf"), text)
    if not quant:
        made.ours("quantize", base, made.quant)
    return made


@pytest.fixture(scope="module")
def theirs(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A base file that llama-perplexity wrote, and what it prints of the quant against it."""
    file = tmp_path_factory.mktemp("theirs") / "base"
    bench.run(bench.base, "-f", str(bench.text), "--kl-divergence-base", str(file))
    return file, bench.against(file)


@pytest.fixture(scope="module")
def own(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base file that we wrote."""
    file = tmp_path_factory.mktemp("own") / "base"
    bench.ours("write", bench.base, file)
    return file


def printed(text: str, label: str) -> tuple[float, float | None]:
    """A value of llama-perplexity's final lines, and its error where it prints one."""
    match = re.search(rf"^{label}\s*:\s*{NUMBER}(?:\s*±\s*{NUMBER})?", text, re.M)
    assert match, f"{label} is not in {text[-3000:]}"
    return float(match[1]), float(match[2]) if match[2] else None


def name_of(fraction: float) -> str:
    return {1.0: "Maximum", 0.5: "Median", 0.0: "Minimum"}.get(fraction) or rf" ?{100 * fraction:.1f}%"


def assert_the_same(found: Divergence, text: str) -> None:
    """Every printed figure, to its last digit or what single precision makes of it."""
    plain = {
        r"Mean PPL\(Q\)": found.ppl,
        r"Mean PPL\(base\)": found.ppl_base,
        r"Mean ln\(PPL\(Q\)/PPL\(base\)\)": found.ln_ratio,
        r"Mean PPL\(Q\)/PPL\(base\)": found.ratio,
        r"Mean PPL\(Q\)-PPL\(base\)": found.difference,
        r"Mean\s+KLD": found.kld,
    }
    shares = {r"Mean\s+Δp": found.p_diff, r"RMS Δp": found.p_diff_rms, r"Same top p": found.same_top}
    for label, estimate in plain.items():
        value, error = printed(text, label)
        assert (estimate.value, estimate.error) == pytest.approx((value, error), rel=1e-7, abs=2e-6), label
    assert printed(text, r"Mean\s+KLD")[0] == pytest.approx(found.kld.value, rel=5e-5, abs=5.1e-7)
    for label, estimate in shares.items():
        value, error = printed(text, label)
        assert 100 * estimate.value == pytest.approx(value, abs=6e-4), label
        assert estimate.error is not None
        assert 100 * estimate.error == pytest.approx(error, abs=6e-4), label
    assert found.correlation is not None
    assert 100 * found.correlation == pytest.approx(
        printed(text, r"Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\)")[0], abs=0.006
    )
    for fraction, value in found.kld_at.items():
        assert printed(text, rf"{name_of(fraction)}\s+KLD")[0] == pytest.approx(value, rel=1e-5, abs=3e-6)
    for fraction, value in found.p_diff_at.items():
        assert printed(text, rf"{name_of(fraction)}\s+Δp")[0] == pytest.approx(100 * value, abs=1e-3)


def test_a_base_of_llama_perplexity_read_by_us_gives_the_figures_that_it_prints(
    bench: Bench, theirs: tuple[Path, str], tmp_path: Path
) -> None:
    file, text = theirs
    assert_the_same(bench.diverge(file, tmp_path / "rows.npy"), text)


def test_a_base_of_ours_read_by_llama_perplexity_gives_the_figures_that_its_own_gives(
    bench: Bench, theirs: tuple[Path, str], own: Path, tmp_path: Path
) -> None:
    text = bench.against(own)
    assert_the_same(bench.diverge(theirs[0], tmp_path / "rows.npy"), text)
    assert_the_same(bench.diverge(own, tmp_path / "again.npy"), text)


def test_both_write_the_same_file_but_for_the_last_bits_of_a_logarithm(theirs: tuple[Path, str], own: Path) -> None:
    ours, other = BaseFile.open(own), BaseFile.open(theirs[0])
    begin = own.stat().st_size - REAL_CHUNKS * ours.scored * 2 * divergence.width(ours.vocabulary)
    assert own.read_bytes()[:begin] == theirs[0].read_bytes()[:begin]
    assert own.stat().st_size == theirs[0].stat().st_size
    for chunk in range(REAL_CHUNKS):
        a, b = ours.codes(chunk), other.codes(chunk)
        assert (np.abs(a[:, 4:].astype(int) - b[:, 4:].astype(int)) <= 1).all()
        assert divergence.heads(a) == pytest.approx(divergence.heads(b), rel=1e-6)
    ours.close()
    other.close()


if __name__ == "__main__":
    program(*sys.argv[1:])
