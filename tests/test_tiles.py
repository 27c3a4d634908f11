"""Ghosts of published shapes: exact in shape and types, tiled with real blocks, loaded and decoded by llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from test_schedule import Machine

from quanttui import events as e
from quanttui import quants, shapes, summary
from quanttui.decide import paired
from quanttui.errors import UserError
from quanttui.models import header as headers
from quanttui.models import mix, outline, sources, tiles
from quanttui.models.header import Header
from quanttui.report import ghost as report
from quanttui.sweep import launch

Q4_K_M, Q8_0 = quants.BY_NAME["Q4_K_M"], quants.BY_NAME["Q8_0"]
GIB = 1 << 30

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}  # fmt: skip


def cut(name: str, quant: quants.Quant, layers: int = 2) -> Header:
    """A ghost of that model at its own widths, but of few layers, tokens and experts."""
    shape = shapes.named(name)
    assert shape is not None
    few = min(shape.experts, max(4, shape.experts_used))
    small = replace(shape, layers=layers, vocabulary=2048, experts=few)
    return tiles.marked(mix.requantized(outline.of(small, name), quant, quant.needs_imatrix))


def written(header: Header, path: Path) -> Path:
    for _ in tiles.write(header, path):
        pass
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-model" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    return path


# -- the file


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_K_M", "IQ2_XS", "MXFP4_MOE"])
def test_a_file_has_the_tensors_and_types_that_its_header_says(tmp_path: Path, quant: str) -> None:
    header = cut("gpt-oss-20b", quants.BY_NAME[quant], layers=1)
    path = written(header, tmp_path / "ghost.gguf")
    again = headers.read(path)
    assert again.tensors == header.tensors
    assert headers.name(again) == "ghost of gpt-oss-20b" and tiles.is_ghost(headers.name(again))
    assert again.file_bytes == path.stat().st_size == pytest.approx(header.file_bytes, rel=0.01)


def test_the_same_header_gives_the_same_bytes(tmp_path: Path) -> None:
    header = cut("qwen3-0.6b", Q4_K_M)
    first, second = written(header, tmp_path / "a"), written(header, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_rows_differ_though_blocks_recur(tmp_path: Path) -> None:
    """Else every expert would be as good as another, and a cache would hold what a real model reads from memory."""
    header = cut("qwen3-0.6b", Q8_0, layers=1)
    path = written(header, tmp_path / "ghost.gguf")
    read = headers.read(path)
    gate = next(tensor for tensor in read.tensors if tensor.name == "blk.0.ffn_gate.weight")
    start, row = read.data_offset + gate.offset, gate.bytes // gate.shape[1]
    data = path.read_bytes()[start : start + gate.bytes]
    assert len({data[at : at + row] for at in range(0, len(data), row)}) > 0.99 * gate.shape[1]


def test_no_more_than_a_piece_is_written_at_once() -> None:
    header = cut("llama-3.1-8b", Q4_K_M, layers=1)
    largest = max(header.tensors, key=lambda tensor: tensor.bytes)
    pieces = [piece.nbytes for piece in tiles._pieces(largest, 0)]
    assert sum(pieces) == largest.bytes and max(pieces) <= tiles.PIECE


def test_what_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    writing = tiles.write(cut("llama-3.2-1b", Q4_K_M), tmp_path / "ghost.gguf")
    assert 0 < next(writing) < 1 and os.listdir(tmp_path) != ["ghost.gguf"]
    assert isinstance(writing, Iterator)
    with suppress(AttributeError):
        writing.close()  # type: ignore[attr-defined]
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ghost\.gguf: cannot be written"):
        written(cut("wall-0.3b", Q8_0), tmp_path / "nowhere" / "ghost.gguf")


def test_the_blocks_are_what_ggml_makes_of_normal_weights(tmp_path: Path) -> None:
    """All but a few bytes, on whatever processor: those are roundings."""
    target = tmp_path / "tiles.msgpack"
    maker = Path(__file__).with_name("tiles.py")
    subprocess.run([sys.executable, str(maker), str(target)], check=True, capture_output=True)
    made, kept = (msgspec.msgpack.decode(path.read_bytes()) for path in (target, tiles.BLOCKS))
    assert made.keys() == kept.keys() >= {kind for quant in quants.QUANTS for kind in quant.mix} - quants.UNQUANTIZED
    for kind, blocks in made.items():
        known = quants.BY_TYPE_NAME[kind]
        assert len(blocks) == len(kept[kind]) == tiles.WEIGHTS // known.block * known.bytes
        assert sum(a == b for a, b in zip(blocks, kept[kind], strict=True)) > 0.98 * len(blocks), kind


# -- llama.cpp's own opinion

FAMILIES = {
    "llama-3.2-1b": "Q4_K_M", "qwen2.5-0.5b": "Q4_K_M", "qwen3-0.6b": "Q6_K", "qwen3-30b-a3b": "Q4_K_M",
    "gemma-2-2b": "Q8_0", "gemma-3-1b": "Q2_K", "mistral-7b": "IQ2_XS", "mixtral-8x7b": "Q2_K", "phi-3-mini": "Q3_K_M",
    "phi-4-mini": "Q4_0", "gpt-oss-20b": "MXFP4_MOE", "wall-0.3b": "Q4_K_M",
}  # fmt: skip
"""A model of each family, with a quant: all kinds of blocks."""


@pytest.mark.parametrize(("name", "quant"), FAMILIES.items())
def test_llama_cpp_loads_and_decodes_each_family(tmp_path: Path, name: str, quant: str) -> None:
    """At two layers of its own widths: any text is cut, every logit is finite, and none is certain."""
    path = written(cut(name, quants.BY_NAME[quant]), tmp_path / "ghost.gguf")
    main = Path(__file__).with_name("test_ghost.py")
    done = subprocess.run([sys.executable, str(main), str(path)], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["vocabulary"] == 2048 and found["finite"] and found["favourites"] > 1
    assert 0.1 < found["deviation"] < 10


def test_every_shape_known_by_name_is_of_a_family_that_is_tried() -> None:
    tried = {shape.architecture for name in FAMILIES if (shape := shapes.named(name)) is not None}
    assert {shape.architecture for shape in shapes.SHAPES} == tried


# -- which ghost


@pytest.mark.parametrize(("name", "quant", "published"), [
    ("llama-3.1-8b", "Q4_K_M", 4_920_734_944), ("llama-3.2-1b", "Q8_0", 1_321_079_200),
])  # fmt: skip
def test_sizes_are_those_of_published_files(name: str, quant: str, published: int) -> None:
    """Within 0.5 %: the vocabulary's text differs, nothing else."""
    header = tiles.header_of(f"ghost:{name}", quants.BY_NAME[quant])
    assert header.file_bytes == pytest.approx(published, rel=0.005)


def test_a_config_json_is_a_ghost_by_its_path_from_any_folder(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent.parent)
    name, arms = sources.resolve(["ghost:tiny-model/config.json"], "Q8_0,Q4_0")
    assert name == "ghost of tiny-model" and [arm.id for arm in arms] == ["Q8_0", "Q4_0"]
    assert all(arm.ghost and not arm.file and arm.origin == "ghost" for arm in arms)
    assert {arm.source for arm in arms} == {f"ghost:{config}"}
    assert headers.shape(tiles.header_of(arms[0].source, Q8_0)).vocabulary == 1000


def test_a_ggufs_own_quant_keeps_its_types_and_others_follow_the_rules(tmp_path: Path) -> None:
    """An uneven mix is what somebody chose: it is measured as it is."""
    made = cut("llama-3.2-1b", Q4_K_M)
    odd = tuple(
        replace(tensor, type="Q8_0", bytes=tensor.elements // 32 * 34) if "attn_q" in tensor.name else tensor
        for tensor in made.tensors
    )
    path = written(tiles._aligned(replace(made, tensors=odd)), tmp_path / "model-Q4_K_M.gguf")
    (arm,) = sources.resolve([f"ghost:{path}"])[1]
    own, ruled = tiles.header_of(arm.source, Q4_K_M), tiles.header_of(arm.source, Q8_0)
    assert arm.quant == "Q4_K_M"
    assert [tensor.type for tensor in own.tensors] == [tensor.type for tensor in odd]
    assert {tensor.type for tensor in ruled.tensors} == {"Q8_0", "F32"}
    assert headers.name(own) == "ghost of llama-3.2-1b"


def test_a_ghosts_file_is_a_ghost_whoever_made_it(tmp_path: Path) -> None:
    path = written(cut("wall-0.3b", Q8_0, layers=1), tmp_path / "renamed.gguf")
    (arm,) = sources.resolve([str(path)])[1]
    assert arm.ghost and arm.file == str(path)


@pytest.mark.parametrize(("models", "spec", "said"), [
    (["ghost:llama-9.9-9b"], "Q8_0", "no shape is known by that name; there are"),
    (["ghost:llama-3.2-1b"], None, "--quants"),
    (["ghost:llama-3.2-1b", "ghost:llama-3.2-3b"], "Q8_0", "one ghost at a time"),
    (["ghost:llama-3.2-1b", "m.gguf"], "Q8_0", "one ghost at a time"),
    (["ghost:/nowhere/config.json"], "Q8_0", r"/nowhere/config\.json: cannot be read"),
    (["ghost:/nowhere/m.gguf"], None, r"/nowhere/m\.gguf"),
])  # fmt: skip
def test_what_is_no_ghost_is_one_line(models: list[str], spec: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sources.resolve(models, spec)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*CONFIG, "text_config"]), inner),
    max_leaves=8,
)


@given_settings(max_examples=200, deadline=None)
@given(changes=st.dictionaries(st.sampled_from([*CONFIG, "text_config", "head_dim", "rope_theta"]), json_values))
def test_any_config_is_a_shape_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("any") / "config.json"
    path.write_text(json.dumps({**CONFIG, **changes}))
    try:
        header = outline.named(f"ghost:{path}")
    except UserError as error:
        assert "\n" not in str(error) and "config.json" in str(error)
    else:
        assert header.tensors


# -- into the cache, into a folder


def made_in(cache: Path, arm: e.PlannedArm, **more: object) -> Path:
    making = tiles.make(arm, cache, more.pop("max_bytes", GIB), **more)  # type: ignore[arg-type]
    while True:
        try:
            told = next(making)
            assert isinstance(told, e.PhaseProgress) and told.phase == "quantize"
        except StopIteration as done:
            return Path(done.value)


def test_a_ghost_is_made_once(tmp_path: Path, config: Path) -> None:
    arm = sources.ghost(f"ghost:{config}", Q8_0)
    assert tiles.missing_bytes([arm], tmp_path) == arm.bytes
    first = made_in(tmp_path, arm)
    stamp = first.stat().st_mtime_ns
    assert made_in(tmp_path, arm) == first and first.stat().st_mtime_ns == stamp
    assert first.name.startswith("ghost-tiny-model-Q8_0-") and tiles.missing_bytes([arm], tmp_path) == 0


def test_another_shape_of_the_same_name_is_another_file(tmp_path: Path, config: Path) -> None:
    first = made_in(tmp_path, sources.ghost(f"ghost:{config}", Q8_0))
    config.write_text(json.dumps({**CONFIG, "num_hidden_layers": 3}))
    assert made_in(tmp_path, sources.ghost(f"ghost:{config}", Q8_0)) != first


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, config: Path) -> None:
    arm = sources.ghost(f"ghost:{config}", Q8_0)
    with pytest.raises(UserError, match="no room"):
        made_in(tmp_path, arm, free=lambda folder: 100)
    assert not list((tmp_path / "quants").glob("*.gguf"))
    with pytest.raises(UserError, match=r"no room for"):
        tiles.wanted(str(config), "Q8_0", tmp_path / "out", free=lambda folder: 100)


def test_files_are_written_into_a_folder_once(tmp_path: Path, config: Path) -> None:
    files = tiles.wanted(str(config), "Q4_0,Q8_0", tmp_path / "out")
    assert [one.path.name for one in files] == ["ghost-tiny-model-Q8_0.gguf", "ghost-tiny-model-Q4_0.gguf"]
    assert not any(one.is_there for one in files)
    written(files[0].header, files[0].path)
    assert [one.is_there for one in tiles.wanted(f"ghost:{config}", "Q4_0,Q8_0", tmp_path / "out")] == [True, False]
    files[1].path.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there, and no such ghost"):
        tiles.wanted(str(config), "Q4_0", tmp_path / "out")
    assert "to write" in report.sizes([(one.path, one.bytes, one.is_there) for one in files])


def test_every_shape_is_listed_with_its_source() -> None:
    said = report.known()
    assert all(shape.names[-1].lower() in said and shape.source in said for shape in shapes.SHAPES)


# -- what a ghost is asked


@pytest.mark.parametrize("schedule", ["sequential", "abba"])
@pytest.mark.parametrize("until", ["full", "decided"])
def test_a_ghost_has_speed_units_of_its_own_size_and_no_others(schedule: str, until: str) -> None:
    """Beside models, whose base it never is, be it the largest."""
    asked = e.Settings(
        tasks=("speed", "ppl", "kld"), schedule=schedule, until=until, repetitions=2, speed_seconds=1.0, prompt=64,
        decode=32,
    )  # fmt: skip
    machine = Machine(asked, {"G": 9000, "Q8_0": 500, "Q4_0": 300}, together=schedule == "abba")
    arm = machine.state.arms["G"]
    arm.plan = msgspec.structs.replace(arm.plan, ghost=True, prompt=8, decode=4)
    machine.run()
    units = [unit for step in machine.steps for unit in step.units]
    ghostly = [unit for unit in units if unit.arm == "G"]
    assert {(unit.kind, unit.tokens) for unit in ghostly} == {("prompt", 8), ("decode", 4)}
    assert {unit.tokens for unit in units if unit.arm == "Q8_0" and unit.kind == "decode"} == {32}
    base = paired.base_of(machine.state)
    assert base is not None and base.id == "Q8_0"
    assert {arm.outcome for arm in machine.state.arms.values()} == {"ok"}
    found = summary.summarize(machine.state)
    assert [arm.id for arm in found.arms if arm.ghost] == ["G"]
    assert any("never a perplexity" in note and "8 prompt and 4 decode" in note for note in found.notes)


def request(tmp_path: Path, **changes: object) -> launch.Request:
    given_ = {"demo": True, "ghosts": True, "sessions_dir": tmp_path, "cache_dir": tmp_path, "cache_bytes": GIB}
    return launch.Request(**{**given_, **changes})  # type: ignore[arg-type]


def test_the_demos_ghosts_take_less_than_700_mb_and_few_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms, notes = launch._ghosts(request(tmp_path))
    assert [arm.id for arm in arms] == ["ghost-Q8_0", "ghost-Q4_K_M", "ghost-Q2_K"] and notes == ()
    assert sum(arm.bytes or 0 for arm in arms) < 700e6
    assert all(arm.ghost and arm.decode and arm.prompt for arm in arms)
    assert "writing" in capsys.readouterr().out and not list(tmp_path.rglob("*.gguf"))


def test_the_demo_goes_without_ghosts_where_they_are_not_wanted_or_have_no_room(tmp_path: Path) -> None:
    assert launch._ghosts(request(tmp_path, ghosts=False)) == ((), ())
    assert launch._ghosts(request(tmp_path, quants="Q8_0")) == ((), ())
    assert launch._ghosts(request(tmp_path, settings=e.Settings(tasks=("ppl",)))) == ((), ())
    arms, (note,) = launch._ghosts(request(tmp_path, cache_bytes=1 << 20))
    assert arms == () and "no room" in note


def test_a_ghost_is_swept_with_a_speed_and_no_perplexity(tmp_path: Path, config: Path) -> None:
    """By the whole program, with the default tasks, and no text to score at hand."""
    words = [
        "run", f"ghost:{config}", "--quants", "Q8_0,Q4_0", "--headless", "--json", "--session", str(tmp_path / "s"),
        "-p", "16", "-n", "4", "-r", "1", "--precision", "0", "--threads", "1",
    ]  # fmt: skip
    environment = {**os.environ, "QUANTTUI_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "quanttui", *words], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["model"] == "ghost of tiny-model" and found["asked"]["tasks"] == ["speed"]
    for arm in found["arms"]:
        assert arm["ghost"] and arm["outcome"] == "ok" and arm["decode"]["tok_s"] > 0
        assert arm["perplexity"] is None and arm["kld"] is None and arm["decision"] is None
    assert any("never a perplexity" in note for note in found["notes"])
