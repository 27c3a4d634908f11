"""The engine process: what it measures with the real llama.cpp, and that whatever befalls it becomes one exception."""

from __future__ import annotations

import ctypes
import io
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.engine import protocol
from quanttui.engine.child import Inbox
from quanttui.engine.process import Engine, EngineDied, EngineFailure, Hung, Interrupted, Refused
from quanttui.measure import perplexity
from quanttui.models import pocket

SETTINGS = e.Settings(threads=1, context=128, batch=256, ubatch=128, chunks=4)
ENDLESS = e.Unit(arm="A", kind="decode", index=0, tokens=60_000)
"""A unit that no machine finishes before the test ends it."""
Starter = Callable[..., Engine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts engines, and sees to it that none outlives the test."""
    engines = []

    def started(**options: object) -> Engine:
        engine = Engine.start(tmp_path / "stderr.txt", time.monotonic_ns(), **options)  # type: ignore[arg-type]
        engines.append(engine)
        return engine

    yield started
    for engine in engines:
        engine.close()
        assert not psutil.pid_exists(engine.pid)


def load(engine: Engine, file: Path = pocket.MODEL, settings: e.Settings = SETTINGS) -> list[protocol.Answer]:
    return list(engine.ask(protocol.Load(arm="A", file=str(file), settings=settings), 120))


def speed(engine: Engine, kind: str, index: int = 0, tokens: int = 40, depth: int = 0) -> list[protocol.Answer]:
    unit = e.Unit(arm="A", kind=kind, index=index, tokens=tokens, depth=depth)
    return list(engine.ask(protocol.Speed(unit=unit), 120))


def counted(engine: Engine, text: Path, context: int) -> protocol.Counted:
    (answer,) = engine.ask(protocol.Tokenize(arm="A", text=str(text), context=context), 120)
    assert isinstance(answer, protocol.Counted)
    return answer


def score(engine: Engine, raw: Path, text: Path, first: int, count: int, chunks: int) -> list[protocol.Answer]:
    unit = e.Unit(arm="A", kind="perplexity", index=first, count=count)
    request = protocol.Score(units=(unit,), text=str(text), chunks=chunks, raw=str(raw), file="raw/A.nll")
    return list(engine.ask(request, 300))


def chunks_of(
    engine: Engine, raw: Path, text: Path, settings: e.Settings, reverse: bool = False
) -> dict[int, e.Perplexity]:
    """All chunks of the settings' limit, scored group by group."""
    load(engine, settings=settings)
    return scored(engine, raw, text, settings, reverse)


def scored(
    engine: Engine, raw: Path, text: Path, settings: e.Settings, reverse: bool = False
) -> dict[int, e.Perplexity]:
    chunks = min(settings.chunks or 10**9, counted(engine, text, settings.context).chunks)
    group = perplexity.group(settings.context, settings.batch)
    found = {}
    for first in sorted(range(0, chunks, group), reverse=reverse):
        for event in score(engine, raw, text, first, min(group, chunks - first), chunks):
            if isinstance(event, e.Perplexity):
                found[event.chunk] = event
    return found


def only(kind: type, answers: list[protocol.Answer]) -> list[protocol.Answer]:
    return [answer for answer in answers if isinstance(answer, kind)]


# -- what it measures


def test_a_loaded_arm_tells_where_its_layers_and_weights_lie(start: Starter) -> None:
    engine = start()
    *progress, loaded = load(engine)
    assert all(isinstance(event, e.PhaseProgress) and event.phase == "load" for event in progress)
    assert isinstance(loaded, e.ArmLoaded)
    assert (loaded.arm, loaded.pid, loaded.threads, loaded.layers) == ("A", engine.pid, 1, 5)
    assert 0 <= loaded.gpu_layers <= loaded.layers and loaded.load_ns > 0
    assert sum(loaded.buffers.values()) == pytest.approx(pocket.MODEL.stat().st_size, rel=0.2)


def test_repetitions_of_one_test_share_a_context_and_its_warm_up(start: Starter) -> None:
    engine = start()
    load(engine)
    first, second = speed(engine, "prompt", 0), speed(engine, "prompt", 1)
    made = only(e.ContextMade, first)
    assert len(made) == 1 and only(e.PhaseProgress, first)
    assert [type(event) for event in second] == [e.UnitStarted, e.UnitDone]
    other = speed(engine, "decode", 0)
    assert len(only(e.ContextMade, other)) == 1
    context = made[0]
    assert isinstance(context, e.ContextMade) and context.phase == "prompt" and context.n_seq == 1
    assert context.n_ctx >= 40 and context.flash_attn is not None
    assert context.kv_bytes and context.compute_bytes


def test_an_anchor_goes_on_with_a_decodes_series_and_its_context_is_told_as_a_decodes(start: Starter) -> None:
    engine = start()
    load(engine)
    (made,) = only(e.ContextMade, speed(engine, "anchor"))
    assert isinstance(made, e.ContextMade) and (made.phase, made.kv) == ("decode", "f16")
    assert [type(event) for event in speed(engine, "decode")] == [e.UnitStarted, e.Tokens, e.UnitDone]
    assert [type(event) for event in speed(engine, "anchor", 1)] == [e.UnitStarted, e.Tokens, e.UnitDone]
    assert only(e.ContextMade, speed(engine, "prompt"))


def test_a_series_may_be_warmed_up_ahead_of_its_first_repetition(start: Starter) -> None:
    engine = start()
    load(engine)
    unit = e.Unit(arm="A", kind="decode", index=0, tokens=40)
    warmed = list(engine.ask(protocol.Warm(unit=unit), 120))
    assert [type(event) for event in warmed] == [e.ContextMade, e.PhaseProgress]
    assert not list(engine.ask(protocol.Warm(unit=unit), 120))
    assert [type(event) for event in speed(engine, "decode")] == [e.UnitStarted, e.Tokens, e.UnitDone]


@given(sequences=st.integers(1, 9), width=st.integers(1, 40), stretch=st.integers(1, 50))
def test_tokens_are_taken_up_each_once_by_stretches_of_each_sequence(sequences: int, width: int, stretch: int) -> None:
    from quanttui.engine import llama

    places = llama._taken_up(sequences, width, stretch)
    order = sorted((int(places[s, k]), k // stretch, s, k) for s in range(sequences) for k in range(width))
    assert [place for place, *_ in order] == list(range(sequences * width))
    assert [rest for _, *rest in order] == sorted(rest for _, *rest in order)


def test_a_decode_tells_every_token_and_its_own_counters(start: Starter) -> None:
    engine = start()
    load(engine)
    begun = time.monotonic()
    events = speed(engine, "decode", tokens=40, depth=30)
    (done,), (started,) = only(e.UnitDone, events), only(e.UnitStarted, events)
    assert isinstance(done, e.UnitDone) and isinstance(started, e.UnitStarted)
    times = [ns for event in events if isinstance(event, e.Tokens) for ns in event.ns]
    assert len(times) == done.tokens == 40 and sum(times) == done.ns and min(times) > 0
    assert started.at <= done.at and done.at + done.ns / 1e9 < time.monotonic() - begun + 120
    counters = done.counters
    assert counters.cpu_ns and counters.rss and counters.cpu_ns > 0 and counters.rss > 10 << 20
    if sys.platform == "linux":
        assert None not in (counters.majflt, counters.minflt, counters.nvcsw, counters.read, counters.swap_in)
        assert counters.anonymous is not None and counters.anonymous < counters.rss


def test_session_time_runs_from_the_origin_that_the_engine_was_told(tmp_path: Path) -> None:
    origin = time.monotonic_ns() - 1000 * 10**9
    with Engine.start(tmp_path / "stderr.txt", origin) as engine:
        load(engine)
        (done,) = only(e.UnitDone, speed(engine, "prompt"))
    assert isinstance(done, e.UnitDone)
    assert 1000 < done.at < (time.monotonic_ns() - origin) / 1e9


def test_perplexity_does_not_depend_on_the_order_of_the_groups(start: Starter, tmp_path: Path) -> None:
    engine = start()
    forth = chunks_of(engine, tmp_path / "forth", pocket.TEXT, SETTINGS)
    back = chunks_of(engine, tmp_path / "back", pocket.TEXT, SETTINGS, reverse=True)
    assert {chunk: (event.nll, event.nll2) for chunk, event in forth.items()} == {
        chunk: (event.nll, event.nll2) for chunk, event in back.items()
    }
    assert (tmp_path / "forth").read_bytes() == (tmp_path / "back").read_bytes()


def test_the_raw_rows_are_what_the_events_sum_up(start: Starter, tmp_path: Path) -> None:
    found = chunks_of(start(), tmp_path / "raw", pocket.TEXT, SETTINGS)
    assert sorted(found) == [0, 1, 2, 3]
    for event in found.values():
        rows = np.fromfile(tmp_path / "raw", "<f8", event.scored, offset=event.offset)
        assert event.scored == len(rows) == 63
        assert (event.nll, event.nll2) == pytest.approx((rows.sum(), (rows * rows).sum()))
        assert (rows > 0).all()


def test_speed_and_perplexity_may_follow_each_other_in_one_engine(start: Starter, tmp_path: Path) -> None:
    engine = start()
    load(engine)
    speed(engine, "prompt")
    first = score(engine, tmp_path / "raw", pocket.TEXT, 0, 2, 4)
    speed(engine, "decode", depth=20)
    second = score(engine, tmp_path / "raw", pocket.TEXT, 0, 2, 4)
    values = [[event.nll for event in events if isinstance(event, e.Perplexity)] for events in (first, second)]
    assert values[0] == values[1] and len(values[0]) == 2
    assert len(only(e.ContextMade, second)) == 1


def test_quantizing_makes_the_whole_target_or_nothing(start: Starter, tmp_path: Path) -> None:
    engine, target = start(), tmp_path / "q4.gguf"
    request = protocol.Quantize(
        arm="A", source=str(pocket.MODEL), target=str(target), quant="Q4_K_M", ftype=15, threads=2
    )
    events = list(engine.ask(request, 300))
    assert all(isinstance(event, e.PhaseProgress) and event.phase == "quantize" for event in events)
    assert 0 < target.stat().st_size < pocket.MODEL.stat().st_size / 2
    again = protocol.Quantize(arm="A", source=str(target), target=str(tmp_path / "q2"), quant="Q2_K", ftype=10)
    with pytest.raises(Refused, match="requantizing") as refused:
        list(engine.ask(again, 300))
    one_line(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q4.gguf", "stderr.txt"]


def test_a_quant_that_needs_an_importance_matrix_is_refused_without_and_made_with(
    start: Starter, tmp_path: Path
) -> None:
    engine, target = start(), tmp_path / "iq2.gguf"
    request = protocol.Quantize(
        arm="A", source=str(pocket.MODEL), target=str(target), quant="IQ2_XS", ftype=20, threads=2
    )
    with pytest.raises(Refused, match="imatrix") as refused:
        list(engine.ask(request, 300))
    one_line(refused.value)
    assert not target.exists()
    with_matrix = protocol.Quantize(**{**vars_of_request(request), "imatrix": str(pocket.IMATRIX)})
    list(engine.ask(with_matrix, 300))
    assert target.stat().st_size < pocket.MODEL.stat().st_size / 3


def vars_of_request(request: protocol.Quantize) -> dict[str, object]:
    return {name: getattr(request, name) for name in request.__struct_fields__}


def test_a_quant_without_its_importance_matrix_says_how_to_give_one(start: Starter, tmp_path: Path) -> None:
    target = tmp_path / "iq2.gguf"
    with pytest.raises(Refused, match=r"IQ2_XS of .*gguf .* importance matrix: .* --imatrix FILE$") as refused:
        list(start().ask(quantizing(target, "IQ2_XS", 20), 300))
    one_line(refused.value)
    with pytest.raises(Refused, match=r"none\.gguf cannot be read"):
        list(start().ask(quantizing(target, "IQ2_XS", 20, imatrix=str(tmp_path / "none.gguf")), 300))
    assert not list(tmp_path.glob("iq2*"))


def quantizing(target: Path, quant: str, ftype: int, imatrix: str = "") -> protocol.Quantize:
    source = str(pocket.MODEL)
    return protocol.Quantize(
        arm="A", source=source, target=str(target), quant=quant, ftype=ftype, imatrix=imatrix, threads=2
    )


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process's files")
def test_a_quant_that_finds_no_room_leaves_nothing_behind(start: Starter, tmp_path: Path) -> None:
    """A file that may not grow fails as a full disk does; the engine lives on."""
    engine, target = start(), tmp_path / "q8.gguf"
    list(engine.ask(protocol.Describe(), 120))
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    with pytest.raises(Refused, match=r"q8\.gguf.*: cannot be written: .* free$") as refused:
        list(engine.ask(quantizing(target, "Q8_0", 7), 300))
    one_line(refused.value)
    assert refused.value.outcome == "failed"
    assert not list(tmp_path.glob("q8*"))
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    list(engine.ask(quantizing(target, "Q8_0", 7), 300))
    assert target.exists()


def test_a_quant_for_a_folder_that_is_not_there_names_it(start: Starter, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"q8\.gguf.*: cannot be written: there is no folder .*gone$"):
        list(start().ask(quantizing(tmp_path / "gone" / "q8.gguf", "Q8_0", 7), 300))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_full_disk_under_the_raw_rows_is_one_line_that_names_the_file(start: Starter) -> None:
    engine = start()
    load(engine)
    with pytest.raises(Refused, match=r"^/dev/full: No space left on device$") as refused:
        score(engine, Path("/dev/full"), pocket.TEXT, 0, 2, 4)
    assert refused.value.outcome == protocol.FULL


def test_the_bandwidth_is_told_for_the_arm_that_was_asked(start: Starter) -> None:
    (ceiling,) = start().ask(protocol.Bandwidth(arm="A", file=str(pocket.MODEL), threads=1), 120)
    assert isinstance(ceiling, e.Ceiling) and ceiling.arm == "A"


def test_the_build_is_described_without_a_model(start: Starter) -> None:
    (described,) = start().ask(protocol.Describe(), 120)
    assert isinstance(described, protocol.Described) and described.build.llama_cpp_python


def test_a_context_is_what_llama_bench_would_make(start: Starter) -> None:
    """n_ctx = tokens + depth, rounded up by llama.cpp; n_batch and n_ubatch at most as many as it was asked for."""
    engine = start()
    load(engine, settings=e.Settings(threads=1, batch=2048, ubatch=32))
    (made,) = only(e.ContextMade, speed(engine, "prompt", tokens=40, depth=8))
    assert isinstance(made, e.ContextMade)
    assert (made.n_ctx, made.n_batch, made.n_ubatch) == (256, 48, 32)


def test_a_depth_is_put_into_memory_once_for_all_repetitions(start: Starter) -> None:
    engine = start()
    load(engine)
    first, second = (speed(engine, "decode", index, tokens=4, depth=30) for index in range(2))
    assert only(e.PhaseProgress, first) and not only(e.PhaseProgress, second)
    assert [type(event) for event in second] == [e.UnitStarted, e.Tokens, e.UnitDone]


@pytest.mark.parametrize(
    ("asked", "kv", "found"),
    [("auto", "f16", True), ("on", "f16", True), ("off", "f16", False), ("auto", "q8_0", True)],
)
def test_flash_attention_is_told_as_llama_cpp_resolved_it(start: Starter, asked: str, kv: str, found: bool) -> None:
    """On a CPU it is there; what is asked for as auto is decided when the context is made."""
    engine = start()
    load(engine, settings=e.Settings(threads=1, flash_attn=asked, kv=kv, gpu_layers=0))
    (made,) = only(e.ContextMade, speed(engine, "decode", tokens=2))
    assert isinstance(made, e.ContextMade) and made.flash_attn is found


def test_a_timed_unit_logs_nothing_and_keeps_no_more_threads_busy_than_it_was_given(
    start: Starter, tmp_path: Path
) -> None:
    """A callback into Python, or a thread of Python's, would take time from the tokens that are timed."""
    engine = start()
    load(engine)
    speed(engine, "decode", tokens=600)
    log, before = (tmp_path / "stderr.txt").stat().st_size, cpu_of_threads(engine)
    (done,) = only(e.UnitDone, speed(engine, "decode", 1, tokens=600))
    assert isinstance(done, e.UnitDone)
    assert (tmp_path / "stderr.txt").stat().st_size == log
    spent = sorted(now - before.get(thread, 0.0) for thread, now in cpu_of_threads(engine).items())
    assert sum(spent[: -SETTINGS.threads]) <= 0.02 + 0.02 * spent[-1]


def cpu_of_threads(engine: Engine) -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(engine.pid).threads()}


# -- what it refuses: one line, and it lives on


def one_line(failure: EngineFailure) -> None:
    assert failure.error and failure.error.isprintable() and len(failure.error) < 400
    assert len(failure.stderr) <= 12 and all(line.isprintable() for line in failure.stderr)


def rewritten(target: Path, change: Callable[[str, object], object], tensors: bool = True) -> Path:
    """The pocket model with its metadata changed: `change` gets name and value, returns the value, None to drop it."""
    reader = gguf.GGUFReader(pocket.MODEL)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        found = change(field.name, field.contents())
        if found is not None:
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, found, field.types[0], sub_type=sub)
    for tensor in reader.tensors if tensors else ():
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("length", [0, 3, 4, 23, 100, 3_000, 30_000, 60_000, 500_000, -4096, -1])
def test_a_truncated_file_is_refused_in_one_line_and_the_engine_lives_on(
    start: Starter, tmp_path: Path, length: int
) -> None:
    engine, file = start(), tmp_path / "cut.gguf"
    file.write_bytes(pocket.MODEL.read_bytes()[:length])
    with pytest.raises(Refused, match=r"cut\.gguf: ") as refused:
        load(engine, file)
    one_line(refused.value)
    assert refused.value.outcome == "refused"
    load(engine)


def test_no_file_and_no_gguf_and_no_known_architecture_are_named(start: Starter, tmp_path: Path) -> None:
    engine = start()
    load(engine)
    (tmp_path / "it.gguf").write_bytes(b"PK\x03\x04" * 1000)
    writer = gguf.GGUFWriter(tmp_path / "foo.gguf", "foo")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(Refused, match=r"folder\.gguf: cannot be read \(Is a directory\)"):
        load(engine, tmp_path / "folder.gguf")
    for name, said in (("none", "No such file"), ("it", "magic"), ("foo", "unknown model architecture: 'foo'")):
        with pytest.raises(Refused, match=said) as refused:
            load(engine, tmp_path / f"{name}.gguf")
        one_line(refused.value)
        assert f"{name}.gguf" in refused.value.error
    with pytest.raises(Refused, match="before it was given a model"):
        speed(engine, "prompt")
    load(engine)
    speed(engine, "prompt")


def test_a_model_whose_tensors_are_missing_is_refused(start: Starter, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="tensor") as refused:
        load(start(), rewritten(tmp_path / "hollow.gguf", lambda _, value: value, tensors=False))
    one_line(refused.value)


def test_a_text_that_is_too_short_or_missing_is_refused_by_name(start: Starter, tmp_path: Path) -> None:
    engine, text = start(), tmp_path / "short.txt"
    load(engine)
    text.write_text("Once upon a time.\n")
    with pytest.raises(Refused, match=r"short\.txt: \d+ tokens are too few"):
        counted(engine, text, 128)
    with pytest.raises(Refused, match=r"none\.txt: cannot be read"):
        counted(engine, tmp_path / "none.txt", 128)
    counted(engine, pocket.TEXT, 128)


def test_chunks_that_the_text_does_not_have_are_refused(start: Starter, tmp_path: Path) -> None:
    engine = start()
    load(engine)
    last = counted(engine, pocket.TEXT, 128).chunks - 1
    assert score(engine, tmp_path / "raw", pocket.TEXT, last, 1, last + 1)
    for first, count in ((last, 2), (0, 3)):
        with pytest.raises(Refused, match="no such chunks"):
            score(engine, tmp_path / "raw", pocket.TEXT, first, count, last + 1)


def test_exactly_one_trailing_newline_is_left_out(start: Starter, tmp_path: Path) -> None:
    engine = start()
    load(engine)
    counts = []
    for name, tail in (("a", ""), ("b", "\n"), ("c", "\n\n")):
        (tmp_path / name).write_text(pocket.TEXT.read_text().rstrip("\n")[:20_000] + "x" + tail)
        counts.append(counted(engine, tmp_path / name, 128).tokens)
    assert counts[0] == counts[1] < counts[2]


def test_the_tokens_of_one_vocabulary_are_not_taken_for_anothers(start: Starter, tmp_path: Path) -> None:
    def alone(name: str, found: object) -> object:
        return False if name.endswith(("add_bos_token", "add_space_prefix")) else found

    engine = start()
    load(engine)
    with_bos = counted(engine, pocket.TEXT, 128).tokens
    load(engine, rewritten(tmp_path / "alone.gguf", alone))
    assert counted(engine, pocket.TEXT, 128).tokens < with_bos


def test_a_vocabulary_that_adds_eos_is_refused(start: Starter, tmp_path: Path) -> None:
    def ends(name: str, found: object) -> object:
        return True if name == "tokenizer.ggml.add_eos_token" else found

    engine = start()
    load(engine, rewritten(tmp_path / "eos.gguf", ends))
    with pytest.raises(Refused, match="EOS"):
        counted(engine, pocket.TEXT, 128)


def test_a_context_that_cannot_be_made_is_refused(start: Starter) -> None:
    engine = start()
    load(engine, settings=e.Settings(threads=1, kv="q4_0", flash_attn="off"))
    with pytest.raises(Refused) as refused:
        speed(engine, "decode")
    one_line(refused.value)
    assert "V cache" in refused.value.error
    load(engine)
    speed(engine, "decode")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process's memory")
def test_memory_that_cannot_be_had_is_told_as_such_and_the_engine_lives_on(start: Starter) -> None:
    engine = start()
    load(engine)
    held = psutil.Process(engine.pid).memory_info().vms
    resource.prlimit(engine.pid, resource.RLIMIT_AS, (held + (64 << 20), resource.RLIM_INFINITY))
    with pytest.raises(Refused, match=r"a context of \d+ tokens, KV f16, cannot be made: .*allocate") as refused:
        speed(engine, "decode", tokens=1_000_000)
    one_line(refused.value)
    assert refused.value.outcome == "oom"
    speed(engine, "decode")


def test_a_parameter_that_this_llama_cpp_python_lacks_is_told_by_name() -> None:
    """ctypes would take it in silence, and the measurement would go on without it."""
    from quanttui.engine import llama

    class Params(ctypes.Structure):
        _fields_ = [("n_ctx", ctypes.c_int32)]

    assert llama.put(Params(), n_ctx=7).n_ctx == 7
    with pytest.raises(llama.LlamaError, match=r"has no Params\.use_mmap"):
        llama.put(Params(), use_mmap=True)


def test_a_setting_that_llama_cpp_does_not_know_is_refused(start: Starter) -> None:
    engine = start()
    with pytest.raises(Refused, match="split mode 'diagonal' is none of none, layer, row"):
        load(engine, settings=e.Settings(split_mode="diagonal"))
    for setting in ({"kv": "q9"}, {"flash_attn": "perhaps"}):
        load(engine, settings=e.Settings(threads=1, **setting))  # type: ignore[arg-type]
        with pytest.raises(Refused, match=f"{next(iter(setting.values()))}' is none of ") as refused:
            speed(engine, "decode")
        one_line(refused.value)


# -- how it ends


def test_a_tokenizer_that_aborts_is_a_crash_with_its_last_words(start: Starter, tmp_path: Path) -> None:
    """llama.cpp throws out of its tokenizer where a vocabulary has no byte tokens, and the process is gone."""

    def no_bytes(name: str, found: object) -> object:
        if name == "tokenizer.ggml.tokens":
            assert isinstance(found, list)
            return [token.replace("<0x", "<zz") for token in found]
        if name == "tokenizer.ggml.token_type":
            assert isinstance(found, list)
            return [1 if kind == 6 else kind for kind in found]
        return found

    engine, text = start(), tmp_path / "text.txt"
    load(engine, rewritten(tmp_path / "bytes.gguf", no_bytes))
    text.write_text("漢字 " * 1000)
    with pytest.raises(EngineDied, match=r"aborted inside llama\.cpp while tokenizing the text: .+") as died:
        counted(engine, text, 128)
    one_line(died.value)
    assert (died.value.outcome, died.value.signal, died.value.exit_code) == ("crashed", signal.SIGABRT, None)


def begun(engine: Engine, unit: e.Unit = ENDLESS, patience: float = 120) -> Iterator[protocol.Answer]:
    """A unit under way: what is left of its answers once its timed region has begun."""
    load(engine)
    answers = engine.ask(protocol.Speed(unit=unit), patience)
    assert any(isinstance(answer, e.UnitStarted) for answer in answers)
    return answers


def test_a_model_file_that_shrinks_under_the_engine_is_told_as_that(start: Starter, tmp_path: Path) -> None:
    engine, file = start(), tmp_path / "model.gguf"
    file.write_bytes(pocket.MODEL.read_bytes())
    load(engine, file)
    os.truncate(file, 4096)
    with pytest.raises(EngineDied, match="SIGBUS while measuring speed: the model file changed") as died:
        speed(engine, "prompt")
    assert (died.value.outcome, died.value.signal) == ("crashed", signal.SIGBUS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_killed_engine_is_told_by_its_signal(start: Starter, number: signal.Signals) -> None:
    engine = start()
    answers = begun(engine)
    os.kill(engine.pid, number)
    with pytest.raises(EngineDied, match=rf"killed by signal {number.value} \({number.name}\)") as died:
        list(answers)
    one_line(died.value)
    assert (died.value.outcome, died.value.signal, died.value.exit_code) == ("crashed", number.value, None)
    with pytest.raises(EngineDied):
        speed(engine, "prompt")


def test_a_kill_is_the_kernels_where_its_count_has_risen(start: Starter) -> None:
    counts = iter([7, 8])
    engine = start(kills=lambda: next(counts))
    answers = begun(engine)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied, match="out of memory") as died:
        list(answers)
    assert died.value.outcome == "oom"


def test_an_engine_that_answers_nothing_for_too_long_is_hung_and_killed(start: Starter) -> None:
    engine = start()
    answers = begun(engine, patience=2.0)
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(Hung, match="no answer for 2 s") as hung:
        list(answers)
    assert hung.value.outcome == "timeout"
    assert not psutil.pid_exists(engine.pid)


def test_an_engine_that_does_nothing_is_hung_long_before_patience_ends(start: Starter) -> None:
    engine = start(stall=1.0)
    answers = begun(engine, patience=600)
    os.kill(engine.pid, signal.SIGSTOP)
    with pytest.raises(Hung, match="no CPU time"):
        list(answers)


def test_a_busy_engine_is_not_hung_however_long_it_is_silent(start: Starter) -> None:
    """A prompt answers nothing until it is done: its CPU time is the sign of life."""
    stall = 0.5
    engine = start(stall=stall)
    load(engine)
    tokens, longest = 1024, 0
    while longest <= 2 * stall * 1e9:
        (done,) = only(e.UnitDone, speed(engine, "prompt", tokens=tokens))
        assert isinstance(done, e.UnitDone)
        tokens, longest = tokens * 2, done.ns


def test_an_interrupt_ends_a_decode_by_the_abort_flag_and_spares_the_engine(start: Starter) -> None:
    engine = start()
    answers = begun(engine)
    engine.interrupt()
    with pytest.raises(Interrupted):
        list(answers)
    assert psutil.Process(engine.pid).status() != psutil.STATUS_ZOMBIE


def test_an_interrupt_from_another_thread_ends_a_prompt(start: Starter) -> None:
    engine = start()
    load(engine)
    unit = e.Unit(arm="A", kind="prompt", index=0, tokens=100_000)
    with pytest.raises(Interrupted):
        for answer in engine.ask(protocol.Speed(unit=unit), 120):
            if isinstance(answer, e.ContextMade):
                threading.Thread(target=engine.interrupt).start()


def test_an_engine_that_cannot_heed_an_interrupt_is_killed(start: Starter) -> None:
    engine = start()
    answers = begun(engine)
    os.kill(engine.pid, signal.SIGSTOP)
    engine.interrupt()
    with pytest.raises(Interrupted):
        list(answers)
    engine.close()


def test_an_interrupted_engine_takes_no_more_requests(start: Starter) -> None:
    engine = start()
    load(engine)
    engine.interrupt()
    with pytest.raises(Interrupted):
        speed(engine, "prompt")


def test_an_engine_that_nobody_listens_to_any_more_is_killed(start: Starter) -> None:
    engine = start()
    begun(engine).close()  # type: ignore[attr-defined]
    with pytest.raises(EngineDied):
        speed(engine, "prompt")


def test_closing_ends_an_engine_amid_a_decode(start: Starter) -> None:
    engine = start()
    answers = begun(engine)
    engine.close()
    assert not psutil.pid_exists(engine.pid)
    with pytest.raises(EngineDied):
        list(answers)


def test_the_last_lines_are_this_engines_own(start: Starter, tmp_path: Path) -> None:
    """Engines of one arm share a stderr file; what an earlier one said explains nothing."""
    (tmp_path / "stderr.txt").write_text("GGML_ASSERT(long ago) failed\n")
    engine = start()
    answers = begun(engine)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineDied) as died:
        list(answers)
    assert died.value.stderr and not any("long ago" in line for line in died.value.stderr)


PARENT = """
import sys, time
from pathlib import Path
from quanttui import events as e
from quanttui.engine import protocol
from quanttui.engine.process import Engine
from quanttui.models import pocket

engine = Engine.start(Path(sys.argv[1]), time.monotonic_ns())
list(engine.ask(protocol.Load(arm="A", file=str(pocket.MODEL), settings=e.Settings(threads=1))))
for answer in engine.ask(protocol.Speed(unit=e.Unit(arm="A", kind="decode", index=0, tokens=60000))):
    if isinstance(answer, e.UnitStarted):
        print(engine.pid, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs a way to wait for a process that is not our child")
def test_a_killed_parent_leaves_no_engine_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "stderr.txt")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        watch = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    ended = poll.poll(30_000)
    os.close(watch)
    assert ended


def test_the_end_of_its_requests_ends_an_engine_amid_a_decode_by_itself(tmp_path: Path) -> None:
    with (
        open(tmp_path / "stderr.txt", "wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "quanttui.engine.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        asked = protocol.Load(arm="A", file=str(pocket.MODEL), settings=SETTINGS), protocol.Speed(unit=ENDLESS)
        for number, request in enumerate(asked):
            protocol.write(process.stdin, protocol.Envelope(number, request))
        while not isinstance(protocol.read_answer(process.stdout), e.UnitStarted):
            assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0


def test_what_nobody_foresaw_ends_an_engine_with_its_last_line(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is known that does: the drawing of tokens is broken in that process."""
    broken = "import numpy.random\n\ndef default_rng(*_):\n    raise ValueError('a die fell down')\n\n"
    (tmp_path / "sitecustomize.py").write_text(f"{broken}numpy.random.default_rng = default_rng\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine = start()
    load(engine)
    with pytest.raises(EngineDied, match=r"exited with code 1 while measuring speed: ValueError: .+") as died:
        speed(engine, "decode")
    one_line(died.value)
    assert (died.value.outcome, died.value.signal, died.value.exit_code) == ("crashed", None, 1)


def test_five_engines_leave_no_descriptor_thread_or_child_behind(tmp_path: Path) -> None:
    def held() -> tuple[int, int, int]:
        own = psutil.Process()
        return own.num_fds(), threading.active_count(), len(own.children())

    before = held()
    for end in range(5):
        engine = Engine.start(tmp_path / "stderr.txt", time.monotonic_ns())
        list(engine.ask(protocol.Describe(), 120))
        if end == 1:
            os.kill(engine.pid, signal.SIGKILL)
        elif end == 2:
            engine._requests.close()
        elif end == 3:
            os.kill(engine.pid, signal.SIGSTOP)
        engine.close()
    assert held() == before


def test_an_engine_has_a_session_and_files_of_its_own(start: Starter) -> None:
    engine = start()
    load(engine)
    assert os.getsid(engine.pid) == engine.pid
    if sys.platform == "linux":
        files = [os.readlink(f"/proc/{engine.pid}/fd/{number}") for number in (0, 1, 2)]
        assert files[0].startswith("pipe:") and files[1] == files[2] and files[2].endswith("stderr.txt")


def test_a_module_of_the_working_directory_does_not_stand_in_for_ours(
    start: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 cannot be told to leave the working directory out")
    load(start())


# -- its inbox


class Wire:
    """An inbox whose requests are written by hand. `aborts` counts the flags that were raised."""

    def __init__(self) -> None:
        source, sink = os.pipe()
        self.aborts = 0
        self.ended = threading.Event()
        self._source, self._sink = os.fdopen(source, "rb"), os.fdopen(sink, "wb")
        self.inbox = Inbox(self._source, self._raised, self.ended.set)

    def _raised(self) -> None:
        self.aborts += 1

    def write(self, *messages: tuple[int, protocol.Request]) -> None:
        for number, request in messages:
            protocol.write(self._sink, protocol.Envelope(number, request))

    def close(self) -> None:
        """End the stream, and wait until the inbox has read all of it."""
        self._sink.close()
        assert self.ended.wait(60)
        self._source.close()


STOP, WORK = protocol.Stop(), protocol.Describe()


def test_a_stop_aborts_the_request_that_it_names_and_no_later_one() -> None:
    wire = Wire()
    wire.write((1, WORK), (2, WORK))
    assert wire.inbox.next().number == 1 and wire.inbox.begin(1)
    wire.inbox.end()
    wire.inbox.next()
    assert wire.inbox.begin(2)
    wire.write((1, STOP))
    wire.close()
    assert wire.aborts == 0

    wire = Wire()
    wire.write((2, WORK))
    wire.inbox.next()
    assert wire.inbox.begin(2)
    wire.write((2, STOP))
    wire.close()
    assert wire.aborts == 1


def test_a_stop_that_comes_before_its_request_begins_keeps_it_from_beginning() -> None:
    wire = Wire()
    wire.write((1, STOP), (1, WORK), (2, WORK))
    wire.close()
    assert wire.inbox.next().number == 1 and not wire.inbox.begin(1)
    wire.inbox.end()
    assert wire.inbox.next().number == 2 and wire.inbox.begin(2)
    assert wire.aborts == 0


@given(st.permutations([(1, WORK), (2, WORK), (3, WORK), (1, STOP), (2, STOP)]))
def test_whatever_the_order_a_request_that_was_not_stopped_is_not_aborted(
    messages: list[tuple[int, protocol.Request]],
) -> None:
    wire = Wire()
    wire.write(*[message for message in messages if message[1] is STOP])
    wire.write(*sorted(message for message in messages if message[1] is WORK))
    wire.close()
    begun = []
    for _ in range(3):
        number = wire.inbox.next().number
        if wire.inbox.begin(number):
            begun.append(number)
        wire.inbox.end()
    assert begun == [3] and wire.aborts == 0


def test_garbage_ends_the_inbox_like_the_end_of_the_stream() -> None:
    wire = Wire()
    wire._sink.write(b"\x03\x00\x00\x00abc")
    wire._sink.flush()
    assert wire.ended.wait(60)
    wire._sink.close()


# -- the wire

texts = st.text(max_size=20)
messages = st.one_of(
    st.builds(protocol.Counted, chunks=st.integers(0, 2**40), tokens=st.integers(0, 2**40)),
    st.builds(protocol.Refusal, error=texts, outcome=st.sampled_from(e.OUTCOMES)),
    st.builds(protocol.Answered),
    st.builds(
        e.Tokens,
        unit=st.builds(e.Unit, arm=texts, kind=texts, index=st.integers(0, 2**40)),
        first=st.integers(0, 2**40),
        ns=st.lists(st.integers(0, 2**53), max_size=40).map(tuple),
    ),
)


@given(st.lists(messages, max_size=6))
def test_answers_come_out_of_the_pipe_as_they_went_in(sent: list[protocol.Answer]) -> None:
    pipe = io.BytesIO()
    for message in sent:
        protocol.write(pipe, message)
    pipe.seek(0)
    assert [protocol.read_answer(pipe) for _ in sent] == sent
    assert protocol.read_answer(pipe) is None


@given(messages, st.data())
def test_a_torn_answer_is_the_end_of_the_stream(message: protocol.Answer, data: st.DataObject) -> None:
    pipe = io.BytesIO()
    protocol.write(pipe, message)
    whole = pipe.getvalue()
    torn = io.BytesIO(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert protocol.read_answer(torn) is None
