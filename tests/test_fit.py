"""What fits: types and buffers against llama.cpp, the sums and the line between fits and tight by properties."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import ggufs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import quants, shapes
from quanttui.diagnosis import fit as sums
from quanttui.diagnosis import roofline
from quanttui.diagnosis.fit import Buffers, Machine, Prospect, Room, Use
from quanttui.engine import weigh
from quanttui.engine.weigh import About, Asked, Scales, Told
from quanttui.errors import UserError
from quanttui.models import fit, header, mix, outline, pocket, repack
from quanttui.models.fit import Sized
from quanttui.report import plan as report

GIB = 1 << 30
X86 = "CPU : AVX = 1 | AVX2 = 1 | AVX512 = 1 | FMA = 1 | LLAMAFILE = 1 | REPACK = 1 |"
ARM = "CPU : NEON = 1 | ARM_FMA = 1 | DOTPROD = 1 | MATMUL_INT8 = 1 | REPACK = 1 |"


def ghost(name: str, quant: str = "Q4_K_M", info: str = "") -> Prospect:
    """A published shape in one quant."""
    made = mix.requantized(outline.named(name), quants.BY_NAME[quant])
    arm = e.PlannedArm(id=quant, quant=quant, bytes=made.file_bytes)
    return fit.prospect(Sized(arm, made), info)


def room(free: float, device: str = "cpu", **more: Any) -> Room:
    return Room(device=device, total=int(free), free=int(free), **more)


EIGHT = {quant: ghost("llama-3.1-8b", quant) for quant in ("Q8_0", "Q6_K", "Q4_K_M", "Q2_K")}


# -- tensor types and outlines


@pytest.mark.parametrize("model", [
    ggufs.Model(16, 512, 1024, 8, 2, 1000),
    ggufs.Model(32, 512, 1024, 8, 8, 1000, tied=True),
    ggufs.Model(80, 256, 512, 8, 2, 500),
    ggufs.Model(24, 512, 1024, 8, 2, 1000, experts=8, experts_used=2),
    ggufs.Model(24, 512, 1024, 8, 2, 1000, experts=16, experts_used=2, architecture="qwen3moe"),
    ggufs.Model(24, 896, 4864, 14, 2, 1000, tied=True, architecture="qwen2"),
    ggufs.Model(24, 96, 160, 4, 2, 1000),
    ggufs.Model(20, 512, 1024, 8, 1, 1000, fused=True, architecture="falcon"),
], ids=str)  # fmt: skip
def test_every_tensor_gets_the_type_that_llama_cpp_chooses(model: ggufs.Model, tmp_path: Path) -> None:
    """For every quant that it writes, with and without an importance matrix, to the last tensor."""
    path = ggufs.write(tmp_path / "model.gguf", model)
    head = header.read(path)
    for imatrix in (False, True):
        told = {
            quants.BY_FTYPE[ftype].name: opinion.types
            for ftype, opinion in ggufs.dry_runs(path, imatrix).items()
            if ftype in quants.BY_FTYPE and opinion.types
        }
        ours = {name: mix.types(head, quants.BY_NAME[name], imatrix) for name in told}
        assert len(told) > 20
        assert ours == told


@pytest.mark.parametrize("shape", shapes.SHAPES, ids=lambda shape: shape.names[-1])
def test_an_outline_has_the_weights_of_its_shape(shape: shapes.KnownShape) -> None:
    """All of them, and nothing that a header's reader would object to."""
    for name in shape.names:
        head = outline.of(shape, name)
        assert sum(tensor.elements for tensor in head.tensors) == shape.parameters
        assert header.shape(head).note == ""
        assert header.name(head) == name


def test_a_written_outline_reads_as_it_was(tmp_path: Path) -> None:
    """The same tensors in the same types, for no room on the disk."""
    made = mix.requantized(outline.named("ghost:Mixtral-8x7B"), quants.BY_NAME["Q4_K_M"])
    outline.write(made, tmp_path / "outline.gguf")
    again = header.read(tmp_path / "outline.gguf")
    assert again.tensors == made.tensors
    assert header.shape(again).head_count_kv == header.shape(made).head_count_kv
    assert os.stat(tmp_path / "outline.gguf").st_blocks * 512 < 1 << 20


def test_a_ghost_nobody_knows_names_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"no shape is known by that name; there are .*llama-3\.1-8b"):
        outline.named("ghost:nothing-7b")


# -- llama.cpp's own buffers


@pytest.fixture(scope="module")
def cache() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_estimates_are_near_what_llama_cpp_tells(cache: Path) -> None:
    """Within an eighth, for all published shapes, contexts and batches, with flash attention or without."""
    for given_ in (e.Settings(), e.Settings(flash_attn="off"), e.Settings(ubatch=128)):
        scales = Scales(cache, given_)
        asked = [
            (outline.of(shape, shape.names[-1]), use)
            for shape in shapes.SHAPES
            for use in (Use(context=512), Use(context=16384), Use(context=2048, sequences=4, outputs=1024))
        ]
        scales.prepare(asked)
        for head, use in asked:
            told = scales.recall(head, use)
            assert told is not None and told.measured
            ours = sums.estimated(fit.prospect(Sized(e.PlannedArm(id="x", quant="F16"), head)), use, given_)
            assert ours.compute["cpu"] == pytest.approx(told.compute["cpu"], rel=1 / 8)
            assert ours.output == pytest.approx(told.output, rel=0.02, abs=1 << 20)


def test_buffers_do_not_depend_on_the_quant(cache: Path) -> None:
    """What is remembered of one quant holds for all: asked anew of each, llama.cpp tells the same."""
    source = outline.named("llama-3.2-1b")
    told = []
    for quant in ("F16", "Q8_0", "Q4_K_M", "Q2_K"):
        scales = Scales(cache, e.Settings(), build=quant)
        told.append(scales.weigh(mix.requantized(source, quants.BY_NAME[quant]), Use(context=4096)))
    assert told[0] is not None
    assert all(each == told[0] for each in told)


def test_an_abort_costs_one_answer_and_is_remembered(tmp_path: Path) -> None:
    """The process dies of one model: those before and after it are told, and nobody asks about it again."""
    runs: list[list[str]] = []

    def run(questions: Any) -> tuple[About, list[Told]]:
        runs.append([question.file for question in questions])
        told = []
        for question in questions:
            if question.context == 1024:
                break
            told.append(Told(compute={"CPU": question.context}, output=4))
        return About(system_info=X86), told

    head = outline.named("llama-3.2-1b")
    scales = Scales(tmp_path, e.Settings(), run, "b1")
    uses = [Use(context=context) for context in (512, 1024, 2048)]
    scales.prepare((head, use) for use in uses)
    found = [scales.recall(head, use) for use in uses]
    assert [each and each.compute["cpu"] for each in found] == [512, None, 2048]
    assert "aborted" in scales.refusal(head, uses[1])
    again = Scales(tmp_path, e.Settings(), run, "b1")
    assert again.weigh(head, uses[1]) is None and again.weigh(head, uses[2]) == found[2]
    assert [len(run) for run in runs] == [3, 1]
    assert again.remembered.system_info == X86


@pytest.mark.parametrize("torn", [b"", b"[1]", b'{"b1": {"told"', b"\0\xff"])
def test_a_torn_cache_is_done_without(torn: bytes, tmp_path: Path) -> None:
    (tmp_path / weigh.CACHE).write_bytes(torn)
    assert Scales(tmp_path, e.Settings(), lambda asked: (None, []), "b1").remembered == About()


@given(st.binary(max_size=200))
def test_whatever_a_process_says_is_no_crash(said: bytes) -> None:
    about, told = weigh.answers(said)
    assert about is None or isinstance(told, list)


def test_a_question_without_an_engine_is_an_estimate(tmp_path: Path) -> None:
    """No process could start: the plan stands, and says that its buffers are estimated."""
    scales = Scales(tmp_path, e.Settings(), lambda asked: (None, []), "none")
    head = outline.named("llama-3.2-1b")
    assert scales.weigh(head, Use(context=512)) is None
    plan = sums.plan("m", [EIGHT["Q2_K"]], e.Settings(), Machine(rooms=(room(GIB),)), weigh=lambda *_: None)
    assert plan.arms[0].estimated and any("estimated" in note for note in plan.notes)


# -- the sums


def test_the_f16_cache_of_llama_8b_is_128_kib_a_token() -> None:
    held = sum(sums.kv_bytes(EIGHT["Q8_0"].shape, Use(context=8192), "f16"))
    assert held == 8192 * 128 * 1024


def test_a_long_context_of_few_bits_needs_more_than_a_short_one_of_many() -> None:
    """Q4_K_M at 64K against Q8_0 at 2K, of Llama-3.1-8B."""
    long = sums.fitted(EIGHT["Q4_K_M"], Use(context=65536), e.Settings(), Machine())
    short = sums.fitted(EIGHT["Q8_0"], Use(context=2048), e.Settings(), Machine())
    assert long.total > short.total


def test_a_window_bounds_the_cache_of_its_layers() -> None:
    """Every other layer of gemma2 keeps 4096 tokens and one batch, rounded up."""
    shape = ghost("gemma-2-2b").shape
    each = sums.kv_bytes(shape, Use(context=32768), "f16", 512)
    cell = 2 * 4 * 256 * 2
    assert set(each) == {32768 * cell, 4608 * cell}


@given(st.integers(1, 200_000), st.integers(1, 200_000), st.sampled_from(["f16", "q8_0", "q4_0"]))
def test_a_longer_context_never_takes_less(one: int, other: int, kv: str) -> None:
    prospect, given_ = EIGHT["Q4_K_M"], e.Settings(kv=kv)
    short, long = (
        sums.fitted(prospect, Use(context=context), given_, Machine()).total for context in sorted((one, other))
    )
    assert short <= long


@given(st.integers(1, 64 * GIB), st.sampled_from(sorted(EIGHT)))
@settings(max_examples=60, deadline=None)
def test_the_longest_context_fits_and_one_block_more_does_not(memory: int, quant: str) -> None:
    machine, given_ = Machine(rooms=(room(memory),)), e.Settings()
    found = sums.longest(EIGHT[quant], Use(context=512), given_, machine)
    assert found is not None

    def fits(context: int) -> bool:
        return sums.fitted(EIGHT[quant], Use(context=context), given_, machine).verdict in ("fits", "tight")

    assert found == 0 or fits(found)
    assert found == 131072 or not fits(found + 256)


@given(st.integers(0, 40 * GIB), st.integers(1, 40 * GIB))
def test_more_memory_never_turns_the_verdict_to_worse(need: int, memory: int) -> None:
    """And the line: missing bytes do not fit; headroom below a tenth or a GiB, whichever is smaller, is tight."""
    order = ["no", "tight", "fits"]
    memories = sorted((memory, memory + GIB, 4 * memory))
    verdicts = [sums.judged({"cpu": need}, Machine(rooms=(room(each),)))[0] for each in memories]
    known = [order.index(verdict) for verdict in verdicts if verdict != "unknown"]
    if need:
        assert known == sorted(known)
        spare = memory - need
        expected = "no" if spare < 0 else "tight" if spare < min(memory / 10, GIB) else "fits"
        assert verdicts[0] == expected


def test_memory_that_is_not_known_makes_no_verdict() -> None:
    found = sums.fitted(EIGHT["Q2_K"], Use(context=512), e.Settings(), Machine())
    assert (found.verdict, found.spare, found.longest) == ("unknown", None, None)


@given(st.integers(-1, 40), st.lists(st.integers(1, 80), min_size=1, max_size=4), st.booleans())
def test_layers_are_dealt_out_whole_and_in_order(layers: int, free: list[int], even: bool) -> None:
    """As many as asked are on GPUs, the last ones; and all weights are somewhere, a tied embedding twice."""
    gpus = [room(each * GIB, f"gpu{at}") for at, each in enumerate(free)]
    machine = Machine(rooms=(room(64 * GIB), *gpus))
    given_ = e.Settings(gpu_layers=layers, tensor_split=(1.0,) * len(free) if even else ())
    prospect = EIGHT["Q4_K_M"]
    places = sums.placed(prospect, given_, machine)
    assert sum(each != "cpu" for each in places) == (33 if layers < 0 else min(layers, 33))
    assert list(places) == sorted(places)
    found = sums.fitted(prospect, Use(context=512), given_, machine)
    assert sum(found.weights.values()) == roofline.resident_bytes(prospect.shape)


def test_a_gpu_within_the_hosts_memory_counts_there_too() -> None:
    """Unified memory: what a GPU may wire can be enough while the whole is not."""
    need = {"cpu": 2 * GIB, "gpu0": 9 * GIB}
    rooms = (room(10 * GIB), room(9.5 * GIB, "gpu0", within="cpu"))
    assert sums.judged(need, Machine(rooms=rooms))[::2] == ("no", "cpu")
    assert sums.judged({**need, "cpu": 0}, Machine(rooms=rooms))[0] == "tight"


def test_rooms_are_read_from_a_hosts_readings() -> None:
    """A GPU's own memory, one that has the host's, and Apple's; and without offloading none."""
    host = {"mem.total": 16.0 * GIB, "mem.available": 10.0 * GIB}
    own = {"gpu0.mem_total": 8.0 * GIB, "gpu0.mem_used": 1.0 * GIB}
    assert [each.device for each in sums.rooms(host | own, False)] == ["cpu"]
    assert sums.rooms(host | own, True)[1].free == 7 * GIB
    assert sums.rooms(host | own | {"gpu0.mem_total": 16.0 * GIB}, True)[1].within == "cpu"
    apple = sums.rooms(host | {"mem.wired": 2.0 * GIB, "mem.wired_limit": 12.0 * GIB}, True)
    assert (apple[1].total, apple[1].within) == (12 * GIB, "cpu")
    assert sums.rooms(host | {"mem.wired": 2.0 * GIB}, True)[1].note
    assert sums.rooms({}, True) == ()


def test_a_context_beyond_the_training_is_said() -> None:
    plan = sums.plan("m", [ghost("phi-4")], e.Settings(), Machine(rooms=(room(64 * GIB),)), context=32768)
    assert any("trained on" in note for note in plan.notes)


# -- speed and time


def test_speed_is_a_share_of_the_roofline() -> None:
    machine = Machine(rooms=(room(64 * GIB),), bandwidth={"cpu": 40.0})
    found = sums.fitted(EIGHT["Q8_0"], Use(context=512), e.Settings(), machine)
    wall = roofline.predicted_tok_s(EIGHT["Q8_0"].shape, 0, "f16", 40.0)
    assert found.tok_s is not None and found.tok_s_full is not None
    assert (found.tok_s.low, found.tok_s.high) == (pytest.approx(0.55 * wall), pytest.approx(0.90 * wall))
    assert found.tok_s_full.high < found.tok_s.high


def test_no_bandwidth_is_no_speed_with_its_reason() -> None:
    found = sums.fitted(EIGHT["Q8_0"], Use(context=512), e.Settings(), Machine(rooms=(room(64 * GIB),)))
    assert found.tok_s is None and "bandwidth of cpu" in found.slow_why
    small = Machine(rooms=(room(64 * GIB),), bandwidth={"cpu": 40.0}, cache=1 << 40)
    assert "cache" in sums.fitted(EIGHT["Q8_0"], Use(context=512), e.Settings(), small).slow_why


@given(st.sampled_from(sorted(EIGHT)), st.floats(1, 2000), st.integers(1, 128), st.integers(0, 50))
def test_time_is_a_range_that_more_work_never_shortens(quant: str, rate: float, threads: int, chunks: int) -> None:
    machine = Machine(rooms=(room(64 * GIB),), bandwidth={"cpu": rate})
    one = e.Settings(threads=threads, chunks=chunks)
    more = msgspec.structs.replace(one, chunks=chunks + 10, decode=256)
    short, long = (sums.seconds(EIGHT[quant], each, machine) for each in (one, more))
    assert 0 < short.low <= short.high
    assert short.low <= long.low and short.high <= long.high


# -- plans


def test_the_matrix_takes_the_largest_that_fits() -> None:
    """At every memory and context no larger quant would fit as well, and a cell without one says what is missing."""
    found = sums.matrix("m", list(EIGHT.values()), [4 * GIB, 8 * GIB, 16 * GIB], [2048, 32768, 65536], e.Settings())
    order = ["Q8_0", "Q6_K", "Q4_K_M", "Q2_K"]
    for memory, cells in zip(found.memories, found.rows, strict=True):
        ranks = [order.index(cell.quant) if cell.quant else len(order) for cell in cells]
        assert ranks == sorted(ranks)
        assert all((cell.need <= memory) == bool(cell.quant) for cell in cells)
        for cell, rank in zip(cells, ranks, strict=True):
            for larger in order[:rank] if not cell.tight else ():
                use = Use(context=cell.context)
                judged = sums.fitted(EIGHT[larger], use, e.Settings(), Machine(rooms=(room(memory),)))
                assert judged.verdict != "fits"


def test_eleven_quants_of_a_ghost_are_planned_by_llama_cpps_own_buffers(cache: Path) -> None:
    """`ghost:llama-3.1-8b` at 8192 tokens in 16 GiB: all of them fit, none is estimated, and the text is narrow."""
    plan = fit.run(["ghost:llama-3.1-8b"], None, e.Settings(threads=2), (16 * GIB,), (8192,), cache=cache)
    assert isinstance(plan, sums.Plan)
    assert [arm.quant for arm in plan.arms] == [quant.name for quant in quants.COMMON]
    assert {arm.verdict for arm in plan.arms} == {"fits"}
    assert not any(arm.estimated for arm in plan.arms)
    sizes = [arm.bytes for arm in plan.arms]
    assert sizes == sorted(sizes, reverse=True)
    text = report.report(plan)
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert all(quant.name in text for quant in quants.COMMON)
    assert json.loads(json.dumps(report.data(plan)))["arms"][4]["quant"] == "Q4_K_M"


def test_several_memories_make_a_matrix(cache: Path) -> None:
    found = fit.run(["ghost:llama-3.1-8b"], None, e.Settings(), (4 * GIB, 16 * GIB), (4096, 8192, 131072), cache=cache)
    assert isinstance(found, sums.Matrix)
    assert [len(row) for row in found.rows] == [3, 3]
    text = report.report(found)
    assert max(map(len, text.splitlines())) <= report.WIDTH and "Q8_0" in text
    assert json.loads(json.dumps(report.data(found)))["kind"] == "matrix"


def test_a_file_and_what_is_to_be_made_of_it_are_planned(cache: Path) -> None:
    """The pocket model: sizes of quants to be made are those that llama.cpp would write."""
    plan = fit.run([str(pocket.MODEL)], "F16,Q8_0,Q4_K_M", e.Settings(threads=1), cache=cache)
    assert isinstance(plan, sums.Plan)
    assert [arm.quant for arm in plan.arms] == ["F16", "Q8_0", "Q4_K_M"]
    opinion = ggufs.dry_runs(pocket.MODEL)[quants.BY_NAME["Q4_K_M"].ftype]
    made = ggufs.with_types(header.read(pocket.MODEL), opinion.types)
    assert plan.arms[2].bytes == made.file_bytes


def test_quick_asks_nobody() -> None:
    """Without scales all buffers are estimated; with them what is remembered counts."""
    source = outline.named("llama-3.2-1b")
    made = mix.requantized(source, quants.BY_NAME["Q8_0"])
    every = [Sized(e.PlannedArm(id="Q8_0", quant="Q8_0", bytes=made.file_bytes), made)]
    machine = Machine(rooms=(room(8 * GIB),))
    assert all(arm.estimated for arm in fit.quick("m", every, e.Settings(), machine).arms)


def test_hostile_names_leave_the_report_clean() -> None:
    bad = "\x1b[31m[red]\u202e\ud83d" * 60
    prospect = msgspec.structs.replace(EIGHT["Q2_K"], id=bad, quant=bad)
    rooms = (Room(device="cpu", total=GIB, free=GIB, note=bad),)
    for found in (
        sums.plan(bad, [prospect], e.Settings(), Machine(rooms=rooms), context=512, notes=[bad]),
        sums.matrix(bad, [prospect], [8 * GIB], [512], e.Settings()),
    ):
        text = report.report(found)
        assert not {"\x1b", "\u202e", "\ud83d"} & set(text)
        assert max(map(len, text.splitlines())) <= report.WIDTH


# -- what the CPU backend rearranges


@pytest.mark.parametrize(("quant", "info", "packs"), [
    ("Q4_K_M", X86, True),
    ("Q8_0", X86, False),
    ("Q8_0", ARM, True),
    ("Q6_K", X86, False),
    ("Q4_0", "", False),
])  # fmt: skip
def test_rearranged_weights_go_by_what_the_cpu_has(quant: str, info: str, packs: bool) -> None:
    found = sums.fitted(ghost("llama-3.1-8b", quant, info), Use(context=512), e.Settings(), Machine())
    assert (found.twice > 0) == packs
    assert found.twice <= sum(found.weights.values())


def test_rearranged_weights_are_those_that_llama_cpp_rearranges(cache: Path, tmp_path: Path) -> None:
    """The engine's own CPU_REPACK buffer, for quants of every family, tied and untied."""
    from quanttui.engine import protocol
    from quanttui.engine.process import Engine

    info = Scales(cache, e.Settings()).about.system_info
    shape = shapes.named("Qwen2.5-1.5B")
    assert shape is not None
    with Engine.start(tmp_path / "stderr.txt", 0) as engine:
        for quant in ("Q8_0", "Q4_0", "Q4_K_M", "Q2_K", "IQ4_NL", "Q6_K"):
            for tied in (True, False):
                small = outline.of(replace(shape, layers=2, vocabulary=4096, tied=tied), "Qwen2.5-1.5B")
                made = mix.requantized(small, quants.BY_NAME[quant])
                outline.write(made, tmp_path / "m.gguf")
                told = list(engine.ask(protocol.Load(arm="x", file=str(tmp_path / "m.gguf"), settings=e.Settings())))
                loaded = next(each for each in told if isinstance(each, e.ArmLoaded))
                ours = fit.prospect(Sized(e.PlannedArm(id="x", quant=quant), made), info)
                assert sum(ours.packs) == pytest.approx(loaded.buffers.get("CPU_REPACK", 0), abs=1 << 14), (quant, tied)


def test_a_buffer_that_nobody_asks_for_all_logits_of_is_not_all_touched() -> None:
    """With all of them asked it is; and never more than there is."""
    prospect, given_ = EIGHT["Q4_K_M"], e.Settings()
    whole = 300 << 20
    few = sums.touched(prospect, Use(context=2048), given_, whole)
    every = sums.touched(prospect, Use(context=2048, sequences=4, outputs=1024), given_, whole)
    assert few < every == whole


def test_sizes_and_contexts_are_read_as_people_write_them() -> None:
    assert fit.memories("8, 16GiB,24gb,512M") == (8 * GIB, 16 * GIB, 24 * 10**9, 512 << 20)
    assert fit.contexts("4096,8k,1.5K") == (4096, 8192, 1536)


@pytest.mark.parametrize("wrong", ["x", "0", "-1", "4q", "1e9", "\x1b[31m"])
def test_what_is_no_size_is_said(wrong: str) -> None:
    with pytest.raises(UserError, match="--memory"):
        fit.memories(wrong)
    with pytest.raises(UserError, match="--ctx"):
        fit.contexts(wrong)


def test_questions_survive_their_wire() -> None:
    asked = [Asked(file="x", settings=e.Settings(depths=(0, 4096)), context=512, sequences=2)]
    assert msgspec.json.decode(msgspec.json.encode(asked), type=list[Asked]) == asked
    told = Told(compute={"CPU": 1}, output=2)
    lines = b"\n".join(map(msgspec.json.encode, (About(system_info="x"), told))) + b"\n"
    assert weigh.answers(lines) == (About(system_info="x"), [told])
    assert weigh.answers(lines[:-3])[1] == []


def test_features_are_read_from_llama_cpps_line() -> None:
    assert repack.features(ARM) >= {"NEON", "DOTPROD", "REPACK"}
    assert repack.features("AVX2 = 0 | REPACK = 1") == {"REPACK"}
    assert Buffers(compute={}, output=0).measured
