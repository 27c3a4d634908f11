"""`quanttui imatrix`: what an engine computes, the forms it is saved in, and what is said of its gain."""

from __future__ import annotations

import io
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.engine import protocol
from quanttui.engine.process import Engine, Interrupted, Refused
from quanttui.errors import UserError
from quanttui.models import header, imatrix, pocket
from quanttui.report import make as told
from quanttui.stats.intervals import student
from quanttui.stats.overlap import NOTABLE, overlap
from quanttui.sweep import imatrix as command
from quanttui.sweep.make import Progress

# -- the forms ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def collected() -> imatrix.Collected:
    """Sums of a dense weight, one of three experts of which one saw nothing, and a dense stack of two matrices."""
    random = np.random.default_rng(1)
    sums = {"blk.0.a": random.random((1, 4)), "blk.0.b": random.random((3, 5)), "blk.0.c": random.random((2, 3))}
    counts = {"blk.0.a": np.array([1000]), "blk.0.b": np.array([700, 0, 300]), "blk.0.c": np.array([1000])}
    return imatrix.Collected(sums, counts, 2, 512)


def test_both_forms_hold_the_same_means(tmp_path: Path, collected: imatrix.Collected) -> None:
    """Within what a product and a quotient of float32 lose; with their text and its chunks."""
    for form in imatrix.FORMS:
        imatrix.save(tmp_path / form, collected, "some text.txt", form)
    new, old = (imatrix.read(tmp_path / form) for form in imatrix.FORMS)
    assert (new.datasets, new.chunks) == (old.datasets, old.chunks) == (("some text.txt",), 2)
    assert list(new.means) == list(old.means) == sorted(collected.sums)
    means = collected.means()
    for name, values in means.items():
        assert np.array_equal(new.means[name], values)
        assert old.means[name] == pytest.approx(values, rel=1e-6)
    assert means["blk.0.c"] == pytest.approx(collected.sums["blk.0.c"].ravel() / 1000, rel=1e-6)


def test_the_gguf_form_is_what_the_library_reads(tmp_path: Path, collected: imatrix.Collected) -> None:
    """Names, shapes and keys as llama-imatrix has them: sums of as many rows as there are counts."""
    imatrix.save(tmp_path / "m.gguf", collected, "text")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    assert shapes["blk.0.b.in_sum2"] == (5, 3) and shapes["blk.0.b.counts"] == (1, 3)
    assert shapes["blk.0.c.in_sum2"] == (6, 1) and shapes["blk.0.c.counts"] == (1, 1)
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["text"]
    assert reader.fields["imatrix.chunk_size"].contents() == 512


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_texts_of_a_matrix_are_read(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """All of them, whatever they are called."""
    path = tmp_path_factory.getbasetemp() / "texts.gguf"
    out = gguf.GGUFWriter(path, arch="")
    out.add_array(imatrix.DATASETS, names)
    out.add_uint32(imatrix.CHUNK_COUNT, 3)
    out.add_uint32(imatrix.CHUNK_SIZE, 512)
    out.add_tensor("w.in_sum2", np.ones((1, 4), np.float32))
    out.add_tensor("w.counts", np.ones((1, 1), np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    assert imatrix.read(path).datasets == tuple(names)


def test_a_matrix_that_cannot_be_written_is_a_user_error(tmp_path: Path, collected: imatrix.Collected) -> None:
    for form in imatrix.FORMS:
        with pytest.raises(UserError, match="cannot be written"):
            imatrix.save(tmp_path / "absent" / "m", collected, "text", form)
        if Path("/dev/full").exists():
            with pytest.raises(UserError, match="No space left"):
                imatrix.save("/dev/full", collected, "text", form)


def test_a_matrix_is_held_against_its_model() -> None:
    """The shipped one is the pocket model's; an embedding of another length is nothing that llama.cpp minds."""
    model = header.read(pocket.MODEL)
    matrix = imatrix.load(pocket.IMATRIX)
    imatrix.check("m", matrix, model)
    imatrix.check("m", {**matrix, "token_embd.weight": np.ones(3, np.float32)}, model)
    imatrix.check("m", {**matrix, "blk.99.new.weight": np.ones(3, np.float32)}, model)
    with pytest.raises(UserError, match="of another model"):
        imatrix.check("m", {"blk.99.new.weight": np.ones(3, np.float32)}, model)
    with pytest.raises(UserError, match=r"blk\.0\.attn_q\.weight has 3 values"):
        imatrix.check("m", {**matrix, "blk.0.attn_q.weight": np.ones(3, np.float32)}, model)


# -- in an engine ------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Starts engines that have the pocket model loaded."""
    running: list[Engine] = []

    def loaded() -> Engine:
        running.append(Engine.start(tmp_path / "stderr", time.monotonic_ns()))
        list(running[-1].ask(protocol.Load(arm="P", file=str(pocket.MODEL), settings=e.Settings(threads=2)), 300))
        return running[-1]

    yield loaded
    for engine in running:
        engine.close()


def _request(file: Path, **more: Any) -> protocol.Imatrix:
    usual = {"arm": "P", "text": str(pocket.TEXT), "target": str(file), "context": 512, "chunks": 6}
    return protocol.Imatrix(**(usual | more))


def test_an_engine_computes_what_is_computed_here(tmp_path: Path, start: Callable[[], Engine]) -> None:
    """The same sums as without a process in between, told chunk by chunk; only the whole file is left."""
    target = tmp_path / "new" / "m.gguf"
    target.parent.mkdir()
    *progress, summed = start().ask(_request(target), 300)
    assert summed == protocol.Summed(chunks=6, tokens=6 * 512, entries=28)
    assert all(isinstance(one, e.PhaseProgress) and one.phase == "imatrix" for one in progress)
    assert [each.name for each in target.parent.iterdir()] == ["m.gguf"]
    here = imatrix.compute(pocket.MODEL, pocket.TEXT.read_text(encoding="utf-8").removesuffix("\n"), chunks=6)
    for name, values in imatrix.load(target).items():
        assert values == pytest.approx(here.means()[name], rel=1e-4), name


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"context": 8}, "16 or more"),
        ({"context": 40_000}, "needs 80000"),
        ({"text": "/absent.txt"}, "/absent.txt: cannot be read"),
        ({"target": "/absent/m.gguf"}, "cannot be written"),
    ],
)
def test_an_engine_says_why_not_and_lives_on(
    tmp_path: Path, start: Callable[[], Engine], more: dict[str, Any], said: str
) -> None:
    engine = start()
    with pytest.raises(Refused, match=said):
        list(engine.ask(_request(tmp_path / "m.gguf", **more), 300))
    assert list(engine.ask(_request(tmp_path / "m.gguf", chunks=2), 300))


def test_an_engine_stops_when_it_is_told(tmp_path: Path, start: Callable[[], Engine]) -> None:
    """Amid a computation, and leaves no file under the target's name."""
    engine = start()
    answers = engine.ask(_request(tmp_path / "m.gguf", chunks=None, context=64), 300)
    next(answers)
    engine.interrupt()
    with pytest.raises(Interrupted):
        list(answers)
    assert not (tmp_path / "m.gguf").exists()


# -- the command -------------------------------------------------------------------------------------------------------


def _asked(tmp_path: Path, **more: Any) -> command.Asked:
    usual = {
        "source": str(pocket.MODEL),
        "text": str(pocket.TEXT),
        "out": str(tmp_path / "m.gguf"),
        "settings": e.Settings(threads=2),
        "cache": tmp_path / "cache",
        "cache_bytes": 1 << 40,
    }
    return command.Asked(**(usual | more))


def _run(asked: command.Asked) -> told.Computed:
    return command.run(asked, Progress(io.StringIO()), build="b")


def test_a_matrix_is_computed_and_quantizes(tmp_path: Path) -> None:
    """In the form that the file's ending says, or that was asked for; only the file is left."""
    for out, form, means in (("a.gguf", "", "gguf"), ("b.dat", "", "dat"), ("c.bin", "dat", "dat")):
        found = _run(_asked(tmp_path, out=str(tmp_path / out), form=form, chunks=3, context=128))
        assert (found.chunks, found.tokens, found.form, found.entries) == (3, 384, means, 28)
        assert (Path(found.file).read_bytes()[:4] == b"GGUF") == (means == "gguf")
        assert imatrix.read(found.file).datasets == (str(pocket.TEXT),)
        imatrix.check(out, imatrix.load(found.file), header.read(pocket.MODEL))
        assert "importance matrix of" in told.report(found) and told.data(found)["gain"] is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.gguf", "b.dat", "c.bin"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"source": "/absent.gguf"}, "no such file"),
        ({"source": str(pocket.IMATRIX)}, "pocket-imatrix.gguf"),
        ({"text": "/absent.txt"}, "--text /absent.txt: cannot be read"),
        ({"out": "/absent/m.gguf"}, "--out /absent/m.gguf: cannot be written"),
        ({"out": "/"}, "is a folder"),
        ({"form": "npz"}, "--form npz: there are gguf, dat"),
        ({"gain": "Q9"}, "--gain: there is no quant"),
        ({"evaluation": str(pocket.TEXT)}, "--eval: .* add --gain"),
        ({"gain": "Q4_0", "evaluation": "/absent.txt"}, "--eval /absent.txt: cannot be read"),
        ({"context": 100_000}, "the text makes"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        _run(_asked(tmp_path, **more))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "m.gguf").exists() and _left(tmp_path) == []


def _left(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each.name.startswith(".")]


def test_what_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"old")
    with pytest.raises(UserError, match=r"is there already.*--force"):
        _run(_asked(tmp_path, chunks=2))
    assert (tmp_path / "m.gguf").read_bytes() == b"old"
    assert _run(_asked(tmp_path, chunks=2, force=True)).chunks == 2


def test_an_empty_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"--text .*empty\.txt: is empty"):
        _run(_asked(tmp_path, text=str(tmp_path / "empty.txt")))


# -- what it buys ------------------------------------------------------------------------------------------------------


def test_the_gain_is_measured_on_a_text_that_was_not_seen(tmp_path: Path) -> None:
    """The end of the text is held out; a Q2_K of the pocket model is clearly better with the matrix."""
    found = _run(_asked(tmp_path, gain="Q8_0,Q2_K,IQ2_XS"))
    gain = found.gain
    assert gain is not None and gain.base == "F16" and "held-out" in gain.text and "held out" in found.notes[0]
    assert gain.overlap < NOTABLE
    whole = len(pocket.TEXT.read_bytes())
    assert 0.15 < gain.chunks / (gain.chunks + found.chunks) < 0.25 and whole > 100_000
    eight, two, needy = gain.quants
    assert [one.quant for one in gain.quants] == ["Q8_0", "Q2_K", "IQ2_XS"]
    assert two.words == "better with it" and two.without is not None and gain.ppl < two.with_ < two.without
    assert two.high is not None and two.high < -0.1 and two.bought is not None and 0.3 < two.bought < 1
    assert eight.change is not None and abs(eight.change) < 0.01
    assert (needy.without, needy.change, needy.words) == (None, None, "cannot be made without")
    text = told.report(found)
    assert "better with it" in text and "cannot be made without" in text
    assert told.data(found)["gain"]["quants"][1]["with"] == two.with_


def test_a_text_that_was_seen_is_warned_of(tmp_path: Path) -> None:
    """With a text of its own the matrix is of all of the other; where they are the same it says how much."""
    found = _run(
        _asked(tmp_path, gain="Q4_0", evaluation=str(pocket.TEXT), evaluation_chunks=3, chunks=4)
    )
    assert found.gain is not None and found.gain.overlap == 1.0 and found.gain.chunks == 3 and found.notes == ()
    assert "100 % of" in told.report(found) and "--eval" in told.report(found)
    assert found.gain.quants[0].words == "too few chunks to tell"


def _chunks(values: list[float], scored: int = 255) -> list[e.Perplexity]:
    unit = e.Unit(arm="A", kind="perplexity", index=0, count=1)
    return [
        e.Perplexity(unit=unit, chunk=at, chunks=len(values), scored=scored, nll=value * scored, nll2=0.0)
        for at, value in enumerate(values)
    ]


nats = st.lists(st.floats(1, 5), min_size=6, max_size=40)


@given(nats, st.floats(-0.5, 0.5), st.floats(0.01, 0.5))
def test_a_matrix_that_changes_every_chunk_alike_is_sure_at_once(
    base: list[float], shift: float, lost: float
) -> None:
    """However much the chunks differ among themselves: that is what pairing is for."""
    without = [value + lost for value in base]
    found = command.compared("Q", _chunks(base), _chunks(without), _chunks([value + shift for value in without]))
    assert found.change == pytest.approx(shift, abs=1e-9)
    assert found.low == pytest.approx(shift, abs=1e-6) and found.high == pytest.approx(shift, abs=1e-6)
    assert found.bought == pytest.approx(-shift / lost, abs=1e-5)


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Of 2000 simulated measurements over 12 chunks 95 % cover the truth."""
    random = np.random.default_rng(7)
    held = 0
    for _ in range(2000):
        without = random.normal(3, 0.5, 12)
        change = random.normal(-0.05, 0.1, 12)
        found = command.compared("Q", _chunks([3.0] * 12), _chunks(list(without)), _chunks(list(without + change)))
        assert found.low is not None and found.high is not None
        held += found.low <= -0.05 <= found.high
    assert 0.93 < held / 2000 < 0.97


@pytest.mark.parametrize(("freedom", "exact"), [(4, 2.776445), (5, 2.570582), (10, 2.228139), (63, 1.998341)])
def test_students_quantiles_are_those_of_the_tables(freedom: int, exact: float) -> None:
    assert student(freedom) == pytest.approx(exact, rel=1e-3)


def test_a_quant_that_loses_nothing_has_nothing_to_buy_back() -> None:
    found = command.compared("Q", _chunks([2.0] * 6), _chunks([2.0] * 6), _chunks([2.0] * 6))
    assert found.bought is None and found.words == "no difference shown"


# -- overlap -----------------------------------------------------------------------------------------------------------

letters = st.text(st.characters(codec="utf-8"), max_size=300)


@given(letters, letters)
def test_an_overlap_is_a_share_and_all_of_what_lies_in_the_other(one: str, other: str) -> None:
    assert 0 <= overlap(one, other, 20) <= 1
    long = len(" ".join(one.casefold().split())) >= 20
    assert overlap(one, other + " " + one, 20) == (1.0 if long else 0.0)


def test_case_and_blanks_are_no_difference_and_one_letter_is() -> None:
    text = "The quick brown fox jumps over the lazy dog, and then it does so once more before it goes to sleep."
    assert overlap(text, text.upper().replace(" ", "\n\t")) == 1.0
    changed = text[:50] + "#" + text[51:]
    assert overlap(text, changed) == 0.0 and overlap(text, changed, 30) > 0.9


@given(st.integers(0, 120), st.integers(20, 60))
def test_what_is_shared_is_counted_by_the_character(before: int, shared: int) -> None:
    """A run that both have, amid letters that only one has."""
    run = "".join(chr(0x4E00 + at) for at in range(shared))
    found = overlap("a" * before + run + "b" * before, "c" * 50 + run + "d" * 50, 20)
    assert found == pytest.approx(shared / (shared + 2 * before))


def test_the_shipped_text_is_not_in_the_text_of_the_shipped_matrix_twice() -> None:
    """Half of a text against the other half: a story-teller's phrases do not count as an overlap."""
    text = pocket.TEXT.read_text(encoding="utf-8")
    assert overlap(text[: len(text) // 2], text[len(text) // 2 :]) < NOTABLE


# -- against llama-imatrix ---------------------------------------------------------------------------------------------


def _llama_imatrix() -> str:
    tool = os.environ.get("QUANTTUI_TEST_LLAMA_IMATRIX")
    if not tool:
        pytest.skip("QUANTTUI_TEST_LLAMA_IMATRIX names no llama-imatrix to compare with")
    return tool


@pytest.mark.parametrize("form", imatrix.FORMS)
def test_the_matrix_is_llama_imatrixs(tmp_path: Path, form: str) -> None:
    """The same names, counts and texts; sums within what its float32 accumulation loses."""
    theirs, out = tmp_path / f"theirs.{form}", str(tmp_path / f"ours.{form}")
    tool = [_llama_imatrix(), "-m", str(pocket.MODEL), "-f", str(pocket.TEXT), "-o", str(theirs)]
    flags = ["--output-format", form, "--chunks", "20", "--no-ppl", "-t", "2"]
    subprocess.run([*tool, *flags], capture_output=True, check=True)
    _run(_asked(tmp_path, out=out, chunks=20))
    ours, told_by_them = imatrix.read(out), imatrix.read(theirs)
    assert (ours.datasets, ours.chunks) == (told_by_them.datasets, told_by_them.chunks)
    assert list(ours.means) == list(told_by_them.means)
    for name, values in told_by_them.means.items():
        assert ours.means[name] == pytest.approx(values, rel=2e-4), name
    if form == "gguf":
        readers = (gguf.GGUFReader(path) for path in (out, theirs))
        one, other = ({tensor.name: tensor.data.ravel() for tensor in reader.tensors} for reader in readers)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one if name.endswith(imatrix.COUNTS))
