"""Quants made and kept: the cache's promises, with a stand-in for the engine; what is said before, against llama.cpp;
and `quanttui quantize`, with real engines."""

from __future__ import annotations

import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ggufs
import pytest
from conftest import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events, quants
from quanttui.engine.process import Engine as RealEngine
from quanttui.engine.process import Refused
from quanttui.errors import UserError
from quanttui.models import header, imatrix, label, mix, pocket, quantize, store
from quanttui.models.store import Cached
from quanttui.report import make as told
from quanttui.sweep import make

MODEL = replace(ggufs.SMALL, width=256, feed_forward=256)
PLENTY = 1 << 40
Made = Generator[events.Event, None, Path]


class Engine:
    """Writes MODEL in the asked type; `during` runs amid that, `fails` is raised before it is whole."""

    def __init__(self, during: Callable[[Any], None] | None = None, fails: Exception | None = None) -> None:
        self.asked: list[Any] = []
        self.during, self.fails = during, fails

    def ask(self, request: Any) -> Iterator[events.Event]:
        """As an engine process does: progress, a partial file, the target."""
        self.asked.append(request)
        yield events.PhaseProgress(arm=request.arm, phase="quantize", fraction=0.5)
        kind = quants.BY_NAME[request.quant].tensor_type
        ggufs.write(Path(request.partial), MODEL, kind)
        if self.during:
            self.during(request)
        if self.fails:
            raise self.fails
        os.replace(request.partial, request.target)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small F16 model."""
    return ggufs.write(tmp_path / "model-f16.gguf", MODEL)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache."""
    return tmp_path / "cache"


def _arm(source: Path, quant: str = "Q8_0", **more: Any) -> events.PlannedArm:
    return events.PlannedArm(id=quant, quant=quant, source=str(source), **more)


def _make(arm: events.PlannedArm, engine: Any, cache: Path, **more: Any) -> Made:
    options: dict[str, Any] = {"max_bytes": PLENTY, "threads": 1, "build": "b1", "free": lambda folder: PLENTY} | more
    return quantize.make(arm, engine, cache, **options)


def _run(making: Made) -> tuple[Path, list[events.Event]]:
    said: list[events.Event] = []
    while True:
        try:
            said.append(next(making))
        except StopIteration as done:
            return done.value, said


def _visible(cache: Path) -> list[str]:
    return sorted(each.name for each in (cache / "quants").iterdir() if not each.name.startswith("."))


def _hidden(cache: Path) -> list[str]:
    return sorted(each.name for each in (cache / "quants").iterdir() if each.name.startswith("."))


# -- making and finding again


def test_a_quant_is_made_once(source: Path, cache: Path) -> None:
    """The first asking has the engine quantize, with the table's number; the second finds the file."""
    engine = Engine()
    first, said = _run(_make(_arm(source), engine, cache))
    second, silent = _run(_make(_arm(source), engine, cache))
    assert first == second
    assert header.tensor_types(header.read(first))["Q8_0"] > 0
    assert [request.ftype for request in engine.asked] == [quants.BY_NAME["Q8_0"].ftype]
    assert [type(event) for event in said] == [events.PhaseProgress]
    assert silent == []


def test_the_key_is_all_that_goes_into_a_quant(source: Path, cache: Path, tmp_path: Path) -> None:
    """Another quant, matrix, build of llama.cpp or source content is another file."""
    matrix, changed = tmp_path / "imatrix", tmp_path / "other" / source.name
    matrix.write_bytes(b"matrix")
    changed.parent.mkdir()
    ggufs.write(changed, MODEL, **{"general.name": "other"})
    engine = Engine()
    made = [
        _run(_make(_arm(source), engine, cache))[0],
        _run(_make(_arm(source, "Q4_0"), engine, cache))[0],
        _run(_make(_arm(source, imatrix=str(matrix)), engine, cache))[0],
        _run(_make(_arm(source), engine, cache, build="b2"))[0],
        _run(_make(_arm(changed), engine, cache))[0],
    ]
    assert len(set(made)) == len(engine.asked) == 5
    matrix.write_bytes(b"another")
    assert _run(_make(_arm(source, imatrix=str(matrix)), engine, cache))[0] not in made


def test_a_copied_source_gives_the_same_quant(source: Path, cache: Path, tmp_path: Path) -> None:
    """The key is the content, not the place: a source that was moved needs no new quantization."""
    copy = tmp_path / "moved" / source.name
    copy.parent.mkdir()
    copy.write_bytes(source.read_bytes())
    engine = Engine()
    assert _run(_make(_arm(source), engine, cache))[0] == _run(_make(_arm(copy), engine, cache))[0]
    assert len(engine.asked) == 1


def test_a_damaged_quant_is_made_anew(source: Path, cache: Path) -> None:
    """A file that was cut off since is not taken for a quant."""
    engine = Engine()
    made, _ = _run(_make(_arm(source), engine, cache))
    os.truncate(made, 100)
    assert _run(_make(_arm(source), engine, cache))[0] == made
    assert header.read(made).tensors
    assert len(engine.asked) == 2


def test_a_split_source_is_quantized_from_its_first_part(cache: Path, tmp_path: Path) -> None:
    """llama.cpp reads a split model from the first part on, whichever was named."""
    source = ggufs.write(tmp_path / "m-00001-of-00002.gguf", ggufs.SMALL, **{"split.count": 2})
    second = tmp_path / "m-00002-of-00002.gguf"
    ggufs.write(second, replace(ggufs.SMALL, layers=0, vocabulary=8), **{"split.count": 2})
    data = second.read_bytes()
    for name in (b"token_embd.weight", b"output_norm.weight", b"output.weight"):
        data = data.replace(name, b"x" * len(name))
    second.write_bytes(data)
    engine = Engine()
    _run(_make(_arm(second), engine, cache))
    assert engine.asked[0].source == str(source)


# -- never half


@pytest.mark.parametrize("fails", [Refused("refused", "no"), RuntimeError("died"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(source: Path, cache: Path, fails: Exception) -> None:
    """An engine that fails amid its work leaves no file, no mark, and its own error."""
    with pytest.raises(type(fails)):
        _run(_make(_arm(source), Engine(fails=fails), cache))
    assert list((cache / "quants").iterdir()) == []


def test_giving_up_leaves_nothing(source: Path, cache: Path) -> None:
    """A sweep that stops listening amid a quantization leaves no file either."""
    making = _make(_arm(source), Engine(), cache)
    next(making)
    making.close()
    assert list((cache / "quants").iterdir()) == []


def test_a_half_written_quant_never_has_the_quants_name(source: Path, cache: Path) -> None:
    """Until it is whole, nothing in the folder is named as a quant is."""
    seen: list[list[str]] = []
    _run(_make(_arm(source), Engine(during=lambda request: seen.append(_visible(cache))), cache))
    assert seen == [[]]
    assert len(_visible(cache)) == 1


def test_a_cut_off_result_is_refused(source: Path, cache: Path) -> None:
    """A full disk that the engine did not notice does not get into the cache."""
    engine = Engine(during=lambda request: os.truncate(request.partial, 2000))
    with pytest.raises(UserError, match="cut off"):
        _run(_make(_arm(source), engine, cache))
    assert _visible(cache) == []


def test_two_at_once_both_get_the_quant(source: Path, cache: Path) -> None:
    """Two that make the same thing at the same time write apart, and end with one whole file."""
    both = threading.Barrier(2, timeout=60)
    results: list[Path] = []
    engines = [Engine(during=lambda request: both.wait() and None) for _ in range(2)]

    def run(engine: Engine) -> None:
        results.append(_run(_make(_arm(source), engine, cache))[0])

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert engines[0].asked[0].target != engines[1].asked[0].target
    assert _visible(cache) == [results[0].name]
    assert header.read(results[0]).tensors


# -- what is refused


def test_a_quantized_source_serves_only_as_what_it_is(cache: Path, tmp_path: Path) -> None:
    """A Q8_0 file is its own Q8_0; a Q4_0 of it is refused, with the way out."""
    source = ggufs.write(tmp_path / "model-Q8_0.gguf", MODEL, "Q8_0")
    engine = Engine()
    assert _run(_make(_arm(source, "Q8_0"), engine, cache))[0] == source
    with pytest.raises(UserError, match=r"model-Q8_0\.gguf is quantized already \(Q8_0\).*F16"):
        _run(_make(_arm(source, "Q4_0"), engine, cache))
    assert engine.asked == []


@pytest.mark.parametrize("quant", ["NVFP4", "Q4_K_N", ""])
def test_what_cannot_be_made_is_refused(source: Path, cache: Path, quant: str) -> None:
    """A type that llama.cpp cannot write, or that there is not, never reaches the engine."""
    engine = Engine()
    with pytest.raises(UserError):
        _run(_make(_arm(source, quant), engine, cache))
    assert engine.asked == []


def test_a_missing_matrix_is_told_with_the_way_out(source: Path, cache: Path) -> None:
    """When the engine refuses a type that needs an importance matrix, and there was none, the line says --imatrix."""
    with pytest.raises(UserError, match=r"IQ2_XS.*--imatrix"):
        _run(_make(_arm(source, "IQ2_XS"), Engine(fails=Refused("refused", "no")), cache))
    with pytest.raises(Refused):
        _run(_make(_arm(source, "Q2_K"), Engine(fails=Refused("refused", "no")), cache))
    with pytest.raises(Refused):
        _run(_make(_arm(source, "IQ2_XS"), Engine(fails=Refused("oom", "killed")), cache))


def test_no_room_is_told_in_bytes(source: Path, cache: Path) -> None:
    """A full disk is refused before the engine is asked, naming the folder; what is there is not given up for it."""
    engine = Engine()
    _run(_make(_arm(source, "Q4_0"), engine, cache))
    store.release(cache / "quants" / _visible(cache)[0])
    with pytest.raises(UserError, match=r"cache/quants.* bytes"):
        _run(_make(_arm(source), engine, cache, free=lambda folder: 1000))
    with pytest.raises(UserError, match="limit"):
        _run(_make(_arm(source), engine, cache, max_bytes=1000))
    assert len(engine.asked) == 1
    assert len(_visible(cache)) == 1


def test_a_folder_that_cannot_be_made_is_named(source: Path, tmp_path: Path) -> None:
    """A cache that is a file is said to be unusable."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        _run(_make(_arm(source), Engine(), tmp_path / "file"))


# -- what is kept


def _age(file: Path, seconds: float) -> None:
    status = file.stat()
    os.utime(file, (time.time() - seconds, status.st_mtime))


def test_the_least_recently_used_goes_first(source: Path, cache: Path) -> None:
    """Over its limit the cache gives up what was not asked for longest, and asking counts as use."""
    engine = Engine()
    names = ["Q8_0", "Q5_1", "Q4_0"]
    made = {name: _run(_make(_arm(source, name), engine, cache))[0] for name in names}
    for age, name in enumerate(reversed(names), 1):
        store.release(made[name])
        _age(made[name], 1000 * age)
    _run(_make(_arm(source, "Q8_0"), engine, cache))
    store.release(made["Q8_0"])
    held = sum(file.stat().st_size for file in made.values())
    _run(_make(_arm(source, "Q4_1"), engine, cache, max_bytes=held))
    assert made["Q8_0"].exists() and made["Q4_0"].exists()
    assert not made["Q5_1"].exists()


def test_what_is_in_use_is_never_given_up(source: Path, cache: Path) -> None:
    """A quant of this run stays until it is released, even when there is no room for the next one."""
    engine = Engine()
    made, _ = _run(_make(_arm(source, "Q8_0"), engine, cache))
    size = made.stat().st_size
    with pytest.raises(UserError, match="in use"):
        _run(_make(_arm(source, "Q4_0"), engine, cache, max_bytes=size + 10))
    assert made.exists()
    store.release(made)
    _run(_make(_arm(source, "Q4_0"), engine, cache, max_bytes=size + 10))
    assert not made.exists()


def test_use_does_not_change_what_a_digest_is_remembered_by(source: Path, cache: Path) -> None:
    """Asking for a quant again leaves its time of change alone."""
    made, _ = _run(_make(_arm(source), Engine(), cache))
    before = made.stat().st_mtime_ns
    _run(_make(_arm(source), Engine(), cache))
    assert made.stat().st_mtime_ns == before


def _foreign(cache: Path, host: str, pid: int, started: int, kind: str) -> Path:
    folder = cache / "quants"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".m-Q8_0-0.gguf.{host}-{pid}-{started}{'' if kind == 'use' else '.0123abcd'}.{kind}"
    path.touch()
    return path


@pytest.mark.parametrize("kind", ["use", "tmp", "tmp.part"])
def test_what_dead_processes_left_is_removed(source: Path, cache: Path, kind: str) -> None:
    """Leftovers of a process that is gone go; those of one that lives, or runs elsewhere, stay until they are old."""
    making = _make(_arm(source), Engine(), cache)
    next(making)
    (mark,) = [name for name in _hidden(cache) if name.endswith(".use")]
    making.close()
    host, pid, started = mark.split(".gguf.")[1].removesuffix(".use").split("-")
    dead = _foreign(cache, host, int(pid), int(started) + 1000, kind)
    gone = _foreign(cache, host, 2**22 + 1, 1, kind)
    alive = _foreign(cache, host, int(pid), int(started), kind)
    elsewhere = _foreign(cache, "0" * 8, 1, 1, kind)
    old = _foreign(cache, "1" * 8, 1, 1, kind)
    os.utime(old, (1, 1))
    _run(_make(_arm(source), Engine(), cache))
    assert [each.exists() for each in (dead, gone, alive, elsewhere, old)] == [False, False, True, True, False]


entries = st.lists(
    st.builds(Cached, st.uuids().map(str).map(Path), st.integers(0, 1000), st.floats(0, 100), st.booleans()),
    max_size=12,
)


@given(entries, st.integers(0, 3000), st.integers(0, 6000), st.integers(0, 3000))
def test_evictions_are_enough_and_no_more(held: list[Cached], needed: int, limit: int, extra: int) -> None:
    """What goes is enough for limit and disk, is not in use, is the oldest, and could not be one fewer."""
    free = store.SPARE_BYTES + extra
    gone = store.evictions(held, needed, limit, free)

    def fits(without: tuple[Cached, ...]) -> bool:
        freed = sum(each.bytes for each in without)
        kept = sum(each.bytes for each in held) - freed
        return kept + needed <= limit and free + freed - needed >= store.SPARE_BYTES

    idle = tuple(sorted((each for each in held if not each.in_use), key=lambda each: each.used))
    if gone is None:
        assert not fits(idle)
        return
    assert fits(gone)
    assert gone == idle[: len(gone)]
    assert not gone or not fits(gone[:-1])


# -- how large it will be


@pytest.mark.parametrize(
    "model",
    [ggufs.LLAMA_8B, ggufs.QWEN_HALF_B, ggufs.PHI_2, ggufs.MIXTRAL, ggufs.QWEN_MOE, ggufs.GEMMA_2B],
    ids=["llama-8b", "qwen-half-b", "phi-2", "mixtral", "qwen-moe", "gemma-2b"],
)
def test_estimates_are_what_llama_cpp_would_write(tmp_path: Path, model: ggufs.Model) -> None:
    """For every quant and several architectures the estimate is exact, but for the keys that quantizing adds."""
    path = ggufs.write(tmp_path / "model.gguf", model)
    read = header.read(path)
    for ftype, opinion in ggufs.dry_runs(path).items():
        size = ggufs.with_types(read, opinion.types).file_bytes
        assert quantize.estimate_bytes(read, quants.BY_FTYPE[ftype]) == size, quants.BY_FTYPE[ftype].name


@pytest.mark.parametrize("model", [ggufs.LLAMA_8B, ggufs.MIXTRAL, ggufs.SMALL], ids=["8b", "mixtral", "small"])
def test_who_wants_a_matrix_is_known_before(tmp_path: Path, model: ggufs.Model) -> None:
    """A tensor is named for just those quants that llama.cpp will not make without; with a whole matrix none is."""
    read = header.read(ggufs.write(tmp_path / "model.gguf", model))
    names = {tensor.name for tensor in read.tensors}
    for ftype, opinion in ggufs.dry_runs(read.path).items():
        quant = quants.BY_FTYPE[ftype]
        lacking = quantize.wanting(read, quant, None)
        assert bool(lacking) == opinion.needs_imatrix, quant.name
        assert quantize.wanting(read, quant, names) == ""
        if lacking:
            assert quantize.wanting(read, quant, names - {lacking}) == lacking


# -- types of single tensors


def test_overrides_are_what_llama_quantize_takes(source: Path) -> None:
    """PATTERN=TYPE, the pattern in lower case, the type in any."""
    read = header.read(source)
    assert quantize.overridden(["ATTN_V=q8_0", r"blk\.\d+\.ffn=Iq4_NL"], read) == (
        ("attn_v", "Q8_0"),
        (r"blk\.\d+\.ffn", "IQ4_NL"),
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("attn_v", "no PATTERN=TYPE"),
        ("=q8_0", "no PATTERN=TYPE"),
        ("attn_v=", "no PATTERN=TYPE"),
        ("attn_v=q9_0", "no such type"),
        ("attn_v=q8_k", "no such type"),
        ("attn_x=q8_0", "no tensor"),
        ("attn_norm=q8_0", "no tensor"),
        ("(=q8_0", "no regular expression"),
    ],
)
def test_an_override_that_means_nothing_is_refused(source: Path, word: str, said: str) -> None:
    """llama-quantize would go on without it, or abort."""
    with pytest.raises(UserError, match=said):
        quantize.overridden([word], header.read(source))


def test_an_overridden_quant_is_another_file(source: Path, cache: Path) -> None:
    """Overrides are part of the cache's key, and reach the engine."""
    engine = Engine()
    plain, _ = _run(_make(_arm(source), engine, cache))
    other, _ = _run(_make(_arm(source), engine, cache, overrides=(("attn_v", "Q4_0"),)))
    assert plain != other
    assert [request.tensor_types for request in engine.asked] == [(), (("attn_v", "Q4_0"),)]


# -- where it is wanted


def test_a_quant_may_be_made_anywhere(source: Path, tmp_path: Path) -> None:
    """make_at writes the named file, makes its folder, and leaves nothing else."""
    target = tmp_path / "new" / "folder" / "m.gguf"
    making = quantize.make_at(_arm(source), Engine(), target, 1, free=lambda folder: PLENTY)
    assert _run(making)[0] == target
    assert [each.name for each in target.parent.iterdir()] == ["m.gguf"]


def test_what_was_there_stays_until_the_new_one_is_whole(source: Path, tmp_path: Path) -> None:
    """A failure leaves the old file as it was; no room is told before the engine is asked."""
    target = tmp_path / "m.gguf"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        _run(quantize.make_at(_arm(source), Engine(fails=RuntimeError()), target, 1, free=lambda folder: PLENTY))
    engine = Engine()
    with pytest.raises(UserError, match="no room"):
        _run(quantize.make_at(_arm(source), engine, target, 1, free=lambda folder: 1000))
    assert target.read_bytes() == b"old" and engine.asked == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.gguf", source.name]


def test_the_source_is_never_written_over(source: Path) -> None:
    """A target that is the source by another name is refused."""
    before = source.read_bytes()
    link = source.with_name("link.gguf")
    link.symlink_to(source)
    with pytest.raises(UserError, match="source itself"):
        _run(quantize.make_at(_arm(source), Engine(), link, 1, free=lambda folder: PLENTY))
    assert source.read_bytes() == before


# -- with a real engine


class Spawned:
    """Starts an engine process for each request."""

    def __init__(self, stderr: Path) -> None:
        self.stderr = stderr

    def ask(self, request: Any) -> Iterator[events.Event]:
        """What the engine answers; it is gone afterwards."""
        engine = RealEngine.start(self.stderr, 0)
        try:
            for answer in engine.ask(request):
                assert isinstance(answer, events.Event)
                yield answer
        finally:
            engine.close()


def test_llama_cpp_makes_a_quant_of_the_pocket_model(cache: Path, tmp_path: Path) -> None:
    """The real engine makes a whole quant that is what its label says, within the estimate; IQ2_XS needs the matrix."""
    engine = Spawned(tmp_path / "stderr")
    made, _ = _run(_make(_arm(pocket.MODEL, "IQ2_XS", imatrix=str(pocket.IMATRIX)), engine, cache))
    read = header.read(made)
    assert label.label_note(read, "IQ2_XS") == ""
    assert label.claimed(read) == "IQ2_XS"
    estimate = quantize.estimate_bytes(header.read(pocket.MODEL), quants.BY_NAME["IQ2_XS"])
    assert read.file_bytes == pytest.approx(estimate, rel=store.ESTIMATE_ERROR)
    with pytest.raises(UserError, match="--imatrix"):
        _run(_make(_arm(pocket.MODEL, "IQ2_XS"), engine, cache))
    assert _visible(cache) == [made.name]


def _asked(tmp_path: Path, to: str, **more: Any) -> make.Asked:
    given = {"source": str(pocket.MODEL), "cache": tmp_path / "cache", "cache_bytes": PLENTY, "threads": 1} | more
    return make.Asked(to=to, **given)


def _done(asked: make.Asked, **more: Any) -> told.Making:
    return make.run(asked, make.Progress(io.StringIO()), **more)


def _states(found: told.Making) -> dict[str, str]:
    return {one.quant: one.state for one in found.made}


def _names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_dry_run_says_the_sizes_and_writes_nothing(tmp_path: Path) -> None:
    """The sizes are those of the files that are then made, within some hundred bytes; the text and JSON tell them."""
    asked = _asked(tmp_path, "Q8_0,Q3_K_M,IQ2_XS", out=str(tmp_path / "out"), dry_run=True)
    plan = _done(asked)
    assert _states(plan) == {"Q8_0": "to make", "Q3_K_M": "to make", "IQ2_XS": "refused"} and not plan.ok
    assert list(tmp_path.iterdir()) == []
    with_matrix = make.msgspec.structs.replace(asked, imatrix=str(pocket.IMATRIX))
    assert _done(with_matrix).ok
    found = _done(make.msgspec.structs.replace(with_matrix, dry_run=False))
    assert _states(found) == {"Q8_0": "made", "Q3_K_M": "made", "IQ2_XS": "made"} and found.ok
    for one, said in zip(found.made, _done(with_matrix).made, strict=True):
        assert one.bytes == Path(one.file).stat().st_size
        assert 0 <= one.bytes - said.bytes < 1000
    assert "IQ2_XS" in told.report(plan) and "--imatrix" in told.report(plan)
    assert told.data(found)["made"][0]["quant"] == "Q8_0"
    assert max(map(len, told.report(found).splitlines()[3:6])) <= told.WIDTH


def test_the_types_are_what_models_mix_says(tmp_path: Path) -> None:
    """Of a real quantization with overrides each tensor has the type that was foretold."""
    words = ("attn_v=q8_0", r"blk\.[01]\.ffn_down=iq4_xs", "token_embd=q4_k")
    found = _done(_asked(tmp_path, "Q4_K_M,Q2_K", out=str(tmp_path / "out"), tensor_types=words))
    source = header.read(pocket.MODEL)
    overrides = quantize.overridden(words, source)
    for one in found.made:
        kinds = {tensor.name: tensor.type for tensor in header.read(one.file).tensors}
        assert kinds == mix.types(source, quants.BY_NAME[one.quant], False, overrides)
    assert {"Q8_0", "IQ4_XS", "Q4_K"} <= set(kinds.values())


def test_what_is_there_is_kept_and_another_file_is_not_replaced(tmp_path: Path) -> None:
    """The same quant is kept; one with other tensors, another matrix or older than its source is refused; --force."""
    out, source = tmp_path / "out", tmp_path / "some-F16.gguf"
    shutil.copy(pocket.MODEL, source)
    asked = _asked(tmp_path, "Q8_0", out=str(out), source=str(source))
    (first,) = _done(asked).made
    assert first.file == str(out / "some-Q8_0.gguf")
    assert _states(_done(asked)) == {"Q8_0": "there"}
    assert _states(_done(make.msgspec.structs.replace(asked, imatrix=str(pocket.IMATRIX)))) == {"Q8_0": "refused"}
    assert _states(_done(make.msgspec.structs.replace(asked, tensor_types=("attn_v=q4_0",)))) == {"Q8_0": "refused"}
    os.utime(source, (time.time() + 100, time.time() + 100))
    (row,) = _done(asked).made
    assert row.state == "refused" and "--force" in row.why
    assert _states(_done(make.msgspec.structs.replace(asked, force=True))) == {"Q8_0": "made"}
    Path(first.file).write_bytes(b"broken")
    assert _states(_done(asked)) == {"Q8_0": "refused"}


def test_the_cache_is_shared_and_nothing_of_one_command_displaces_its_own(tmp_path: Path) -> None:
    """A second asking finds the file of the first; where the cache cannot hold all, what is made stays."""
    asked = _asked(tmp_path, "Q8_0")
    (first,) = _done(asked, build="b").made
    (again,) = _done(asked, build="b").made
    assert (first.state, again.state, first.file) == ("made", "there", again.file)
    small = make.msgspec.structs.replace(asked, to="Q8_0,Q6_K", cache_bytes=Path(first.file).stat().st_size + 1000)
    found = _done(small, build="b")
    assert _states(found) == {"Q8_0": "there", "Q6_K": "refused"} and Path(first.file).exists()
    assert "in use" in found.made[1].why and not found.ok
    assert _hidden(asked.cache) == []


def test_what_the_source_is_already_is_not_made(tmp_path: Path) -> None:
    """F16 of an F16 is itself; F32 of it is made."""
    assert _states(_done(_asked(tmp_path, "F16", out=str(tmp_path / "out")))) == {"F16": "there"}
    (made,) = _done(_asked(tmp_path, "F32", out=str(tmp_path / "out"))).made
    assert label.actual(header.read(made.file)) == "F32"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"to": "Q9_K"}, "--to: there is no quant 'Q9_K'"),
        ({"to": "NVFP4"}, "--to: llama.cpp reads NVFP4"),
        ({"imatrix": "absent.gguf"}, "absent.gguf cannot be read"),
        ({"imatrix": str(pocket.MODEL)}, "no usable importance matrix"),
        ({"source": "absent.gguf"}, "absent.gguf: there is no such file"),
        ({"source": str(pocket.IMATRIX)}, "is no model"),
        ({"out": "some.gguf"}, "--out some.gguf: name a folder"),
        ({"out": "/dev/null/x"}, "cannot be used to write to"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, more: dict[str, str], said: str) -> None:
    """Before anything is made."""
    given = {"to": "Q8_0", "out": str(tmp_path / "out")} | more
    with pytest.raises(UserError, match=said.replace("(", r"\(")) as raised:
        _done(_asked(tmp_path, given.pop("to"), **given))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_safetensors_says_which_converter_to_run(tmp_path: Path) -> None:
    """llama.cpp has one; it is named with its flags."""
    (tmp_path / "Some-7B").mkdir()
    (tmp_path / "Some-7B" / "model-00001-of-00002.safetensors").touch()
    said = r"convert_hf_to_gguf\.py .*Some-7B --outtype f16 --outfile Some-7B-F16\.gguf"
    for named in (tmp_path / "Some-7B", tmp_path / "Some-7B" / "model-00001-of-00002.safetensors"):
        with pytest.raises(UserError, match=said):
            _done(_asked(tmp_path, "Q8_0", source=str(named)))


def test_a_matrix_of_another_model_is_refused(tmp_path: Path) -> None:
    """By its names, or by the columns that it has for one of them; a sweep's engine refuses it too."""
    strange, wide = tmp_path / "strange.gguf", tmp_path / "wide.gguf"
    ones = {name: values[None].astype(float) for name, values in imatrix.load(pocket.IMATRIX).items()}
    for path, sums in (
        (strange, {f"x.{name}": values for name, values in ones.items()}),
        (wide, {name: values[:, :-1] for name, values in ones.items()}),
    ):
        counts = {name: ggufs.np.ones(1, int) for name in sums}
        imatrix.save(path, imatrix.Collected(sums, counts, 1, 512), "text")
        with pytest.raises(UserError, match=f"{path.name} is the importance matrix of another model"):
            _done(_asked(tmp_path, "Q4_0", out=str(tmp_path / "out"), imatrix=str(path)))
        with pytest.raises(Refused, match="of another model"):
            _run(_make(_arm(pocket.MODEL, "Q4_0", imatrix=str(path)), Spawned(tmp_path / "stderr"), tmp_path / "cache"))


def test_a_matrix_that_lacks_a_tensor_is_told(tmp_path: Path) -> None:
    """Quants that need it there are refused by name, the others made with a note."""
    part = tmp_path / "part.gguf"
    sums = {name: values[None].astype(float) for name, values in imatrix.load(pocket.IMATRIX).items()}
    del sums["blk.2.ffn_up.weight"]
    counts = {name: ggufs.np.ones(1, int) for name in sums}
    imatrix.save(part, imatrix.Collected(sums, counts, 1, 512), "text")
    found = _done(_asked(tmp_path, "Q4_0,IQ2_XS", out=str(tmp_path / "out"), imatrix=str(part)))
    assert _states(found) == {"Q4_0": "made", "IQ2_XS": "refused"}
    assert "blk.2.ffn_up.weight" in found.made[1].why and "lacks 1 of" in found.notes[0]


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9])
def test_a_cut_off_source_makes_nothing(tmp_path: Path, share: float) -> None:
    """Cut in its header or in its tensors."""
    source = tmp_path / "cut-F16.gguf"
    data = pocket.MODEL.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"cut-F16\.gguf is (cut off|damaged)"):
        _done(_asked(tmp_path, "Q8_0", out=str(tmp_path / "out"), source=str(source)))
    assert not (tmp_path / "out").exists()


def test_a_source_with_broken_numbers_makes_nothing(tmp_path: Path) -> None:
    """A weight that is no number: llama.cpp says which tensor, and no file is left."""
    source, read = tmp_path / "nan-F16.gguf", header.read(pocket.MODEL)
    tensor = next(tensor for tensor in read.tensors if tensor.name == "blk.1.ffn_up.weight")
    data = bytearray(pocket.MODEL.read_bytes())
    struct.pack_into("<H", data, read.data_offset + tensor.offset + 100, 0x7E00)
    source.write_bytes(data)
    (row,) = _done(_asked(tmp_path, "Q4_K_M", out=str(tmp_path / "out"), source=str(source))).made
    assert row.state == "failed" and "nan-F16.gguf" in row.why
    assert _names(tmp_path / "out") == []


SCRIPT = """
import sys
from pathlib import Path
from quanttui.models import pocket
from quanttui.sweep import make
out, cache = sys.argv[1:]
sys.stdin.readline()
asked = make.Asked(
    source=str(pocket.MODEL), to="Q6_K,Q3_K_M", out=out, cache=Path(cache), cache_bytes=1 << 40, threads=1
)
print([one.file for one in make.run(asked, make.Progress(sys.stderr), build="b").made])
"""


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


@pytest.mark.parametrize("where", ["cache", "folder"])
def test_real_processes_making_the_same_at_once_do_not_clash(tmp_path: Path, where: str) -> None:
    """Three processes: each ends well, and there is one whole file of each quant, to the byte what one alone makes."""
    out = str(tmp_path / "out") if where == "folder" else ""
    command = [sys.executable, "-c", SCRIPT, out, str(tmp_path / "cache")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(command, env=_environment(), text=True, **pipes) for _ in range(3)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    alone = _done(_asked(tmp_path, "Q6_K,Q3_K_M", out=str(tmp_path / "alone")))
    folder = tmp_path / "out" if where == "folder" else tmp_path / "cache" / "quants"
    assert len({stdout for stdout, _ in said} if where == "cache" else {"x"}) == 1
    assert len(_names(folder)) == 2
    assert {file.read_bytes() for file in folder.iterdir()} == {Path(one.file).read_bytes() for one in alone.made}


BROKEN_OFF = """
import signal, sys
from pathlib import Path
from quanttui.models import pocket
from quanttui.sweep import make
signal.signal(signal.SIGINT, signal.default_int_handler)
asked = make.Asked(
    source=str(pocket.MODEL), to="IQ2_S,IQ2_M,IQ1_M,IQ3_S", imatrix=str(pocket.IMATRIX), out=sys.argv[1],
    cache=Path("unused"), cache_bytes=0, threads=1,
)
try:
    make.run(asked, make.Progress(sys.stderr))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_breaking_off_leaves_nothing_that_could_be_taken_for_a_quant(tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-c leaves no part of a file; what a killed process left has no quant's name, and the next one removes it."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", BROKEN_OFF, str(out)]
    with subprocess.Popen(command, env=_environment(), stderr=subprocess.DEVNULL) as process:
        begun = time.monotonic()
        while not (out.is_dir() and any(name.endswith(".part") for name in _names(out))):
            assert process.poll() is None and time.monotonic() - begun < 60
            time.sleep(0.01)
        process.send_signal(how)
        assert process.wait(60) == (130 if how == signal.SIGINT else -how)
    left = [name for name in _names(out) if name.startswith(".")]
    assert how == signal.SIGKILL or left == []
    for file in out.glob("pocket-*.gguf"):
        assert header.read(file).tensors
    _done(_asked(tmp_path, "Q8_0", out=str(out)))
    assert [name for name in _names(out) if name.startswith(".")] == []


FULL = """
import sys
from pathlib import Path
from quanttui import events
from quanttui.engine.process import EngineFailure
from quanttui.models import pocket, quantize
from quanttui.sweep import make
disk, stderr = map(Path, sys.argv[1:])
arm = events.PlannedArm(id="Q8_0", quant="Q8_0", source=str(pocket.MODEL))
try:
    list(quantize.make_at(arm, make.Once(stderr), disk / "m.gguf", 1, free=lambda folder: 1 << 40))
except EngineFailure as failure:
    print(failure.outcome, failure.error)
print(sorted(file.name for file in disk.iterdir()))
"""


def _mounts() -> bool:
    """Whether a file system may be mounted that nobody else sees."""
    words = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path) -> None:
    """A real file system of 2 MiB, under a quant of 4: the failure says so, and no part of a file is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not _mounts():
        pytest.skip("this host lets nobody mount a small file system")
    mounted = f'mount -t tmpfs -o size=2m none "{disk}" && exec "$@"'
    command = [sys.executable, "-c", FULL, str(disk), str(tmp_path / "stderr")]
    words = ["unshare", "-rm", "sh", "-c", mounted, "sh", *command]
    done = subprocess.run(words, env=_environment(), capture_output=True, text=True, timeout=120)
    said, left = done.stdout.splitlines()
    assert said.startswith("failed ") and "cannot be written" in said and " free" in said
    assert left == "[]"


# -- progress


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_says_what_is_left() -> None:
    """A quarter done in 30 s leaves a minute and a half; lines come now and then, on a terminal one is rewritten."""
    now = [0.0]
    for stream, often in ((io.StringIO(), 1), (Terminal(), 0)):
        progress = make.Progress(stream, lambda: now[0])
        now[0] = 0.0
        progress.begin("1/2 Q8_0")
        for second in range(1, 31):
            now[0] = float(second)
            progress.at(second / 120)
        assert progress.end() == 30.0
        text = stream.getvalue()
        assert "25 %, 1m30s left" in text and text.endswith("1/2 Q8_0  done in 30s\n".rjust(1)) == bool(often)
        assert text.count("\n") == (4 if often else 1)


# -- against llama-quantize


def _llama_quantize() -> str:
    tool = os.environ.get("QUANTTUI_TEST_LLAMA_QUANTIZE")
    if not tool:
        pytest.skip("QUANTTUI_TEST_LLAMA_QUANTIZE names no llama-quantize to compare with")
    return tool


@pytest.mark.parametrize("matrix", ["", "gguf", "dat"])
@pytest.mark.parametrize("words", [(), ("attn_v=q8_0", r"blk\.[01]\.ffn_down=iq4_xs", "output=f16")])
def test_the_files_are_llama_quantizes_to_the_byte(tmp_path: Path, matrix: str, words: tuple[str, ...]) -> None:
    """Every type that it makes of the pocket model; what it refuses is refused here."""
    tool, used = _llama_quantize(), str(pocket.IMATRIX) if matrix else ""
    if matrix == "dat":
        used, means = str(tmp_path / "old.dat"), imatrix.load(pocket.IMATRIX)
        sums = {name: values[None].astype(float) * 64 for name, values in means.items()}
        counts = {name: ggufs.np.full(1, 64) for name in means}
        imatrix.save(used, imatrix.Collected(sums, counts, 7, 64), "some text", "dat")
    to = "all" if matrix != "dat" and not words else "Q8_0,Q4_K_M,Q2_K,Q2_K_S,IQ3_S,IQ2_M"
    found = _done(_asked(tmp_path, to, out=str(tmp_path / "out"), imatrix=used, tensor_types=words))
    types = [part for word in words for part in ("--tensor-type", word)]
    for one in found.made:
        if one.why == "the source is just that":
            continue
        theirs, weighed = tmp_path / "theirs.gguf", used and quants.BY_NAME[one.quant].family != "float"
        flags = [*(["--imatrix", used] if weighed else []), *types]
        done = subprocess.run([tool, *flags, str(pocket.MODEL), str(theirs), one.quant, "1"], capture_output=True)
        assert (done.returncode == 0) == (one.state == "made"), one.quant
        if one.state == "made":
            assert theirs.read_bytes() == Path(one.file).read_bytes(), one.quant
            theirs.unlink()
