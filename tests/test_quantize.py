"""Quants made and kept: the cache's promises, with a stand-in for the engine, and estimates against llama.cpp."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ggufs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events, quants
from quanttui.engine.process import Engine as RealEngine
from quanttui.engine.process import Refused
from quanttui.errors import UserError
from quanttui.models import header, label, pocket, quantize
from quanttui.models.quantize import Cached

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
    quantize.release(cache / "quants" / _visible(cache)[0])
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
        quantize.release(made[name])
        _age(made[name], 1000 * age)
    _run(_make(_arm(source, "Q8_0"), engine, cache))
    quantize.release(made["Q8_0"])
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
    quantize.release(made)
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
    dead = _foreign(cache, host, int(pid), int(started) - 1000, kind)
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
    free = quantize.SPARE_BYTES + extra
    gone = quantize.evictions(held, needed, limit, free)

    def fits(without: tuple[Cached, ...]) -> bool:
        freed = sum(each.bytes for each in without)
        kept = sum(each.bytes for each in held) - freed
        return kept + needed <= limit and free + freed - needed >= quantize.SPARE_BYTES

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
def test_estimates_are_close_to_what_llama_cpp_would_write(tmp_path: Path, model: ggufs.Model) -> None:
    """For every quant and several architectures the estimate is within the error that room is kept for."""
    path = ggufs.write(tmp_path / "model.gguf", model)
    read = header.read(path)
    for ftype, opinion in ggufs.dry_runs(path).items():
        size = ggufs.with_types(read, opinion.types).file_bytes
        estimate = quantize.estimate_bytes(read, quants.BY_FTYPE[ftype])
        assert size <= estimate * (1 + quantize.ESTIMATE_ERROR), quants.BY_FTYPE[ftype].name
        assert estimate <= size * (1 + quantize.ESTIMATE_ERROR), quants.BY_FTYPE[ftype].name


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
    assert read.file_bytes == pytest.approx(estimate, rel=quantize.ESTIMATE_ERROR)
    with pytest.raises(UserError, match="--imatrix"):
        _run(_make(_arm(pocket.MODEL, "IQ2_XS"), engine, cache))
    assert _visible(cache) == [made.name]
