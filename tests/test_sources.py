"""From MODEL arguments to arms: files, folders, quants to be made, and what is said when that cannot be."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import ggufs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import quants
from quanttui.errors import UserError
from quanttui.events import PlannedArm
from quanttui.models import header, pocket, quantize, sources

MODEL = replace(ggufs.SMALL, width=256, feed_forward=256)


def _write(folder: Path, name: str, kind: str = "F16", model: ggufs.Model = MODEL, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return ggufs.write(folder / name, model, kind, **more)


def _ids(arms: tuple[PlannedArm, ...]) -> list[str]:
    return [arm.id for arm in arms]


def _cut(path: Path) -> Path:
    os.truncate(path, path.stat().st_size // 2)
    return path


# -- files


def test_one_file_is_one_arm(tmp_path: Path) -> None:
    """A GGUF without --quants is measured as it is, under the label that it claims and by its full path."""
    file = _write(tmp_path, "Some-7B-Q8_0.gguf", "Q8_0", **{"general.name": "Some 7B"})
    name, arms = sources.resolve([os.path.relpath(file)])
    assert name == "Some 7B"
    assert arms == (PlannedArm(id="Q8_0", quant="Q8_0", file=str(file), bytes=file.stat().st_size),)


def test_a_model_without_a_name_is_called_as_its_file_is(tmp_path: Path) -> None:
    """Where the metadata has no name, the file's without its quant serves."""
    assert sources.resolve([str(_write(tmp_path, "Some-7B-Q8_0.gguf", "Q8_0"))])[0] == "some-7b"


def test_files_are_arms_largest_first(tmp_path: Path) -> None:
    """Several files are as many arms, by size, and the same file named twice is one."""
    kinds = ("Q4_0", "F16", "Q8_0")
    files = [str(_write(tmp_path, f"m-{kind}.gguf", kind)) for kind in kinds]
    _, arms = sources.resolve([*files, files[0]])
    assert _ids(arms) == ["F16", "Q8_0", "Q4_0"]


def test_files_of_one_quant_get_ids_of_their_own(tmp_path: Path) -> None:
    """Ids are unique: the second Q8_0 is Q8_0-2, and both keep their label."""
    files = [str(_write(tmp_path, f"{letter}-Q8_0.gguf", "Q8_0")) for letter in "abc"]
    _, arms = sources.resolve(files)
    assert sorted(_ids(arms)) == ["Q8_0", "Q8_0-2", "Q8_0-3"]
    assert {arm.quant for arm in arms} == {"Q8_0"}


def test_a_split_model_is_one_arm(tmp_path: Path) -> None:
    """The parts of a split model are one arm of all their bytes, opened by the first, whichever part was named."""
    first = _write(tmp_path, "m-Q8_0-00001-of-00002.gguf", "Q8_0", **{"split.count": 2})
    second = tmp_path / "m-Q8_0-00002-of-00002.gguf"
    data = first.read_bytes()
    for old, new in ((b"blk.", b"bmk."), (b"token_embd", b"token_emb_"), (b"output", b"outpux")):
        data = data.replace(old, new)
    second.write_bytes(data)
    for named in ([first], [second], [tmp_path], [first, second]):
        _, (arm,) = sources.resolve(list(map(str, named)))
        assert arm.file == str(first)
        assert arm.bytes == first.stat().st_size + second.stat().st_size


# -- quants to be made


def test_quants_are_made_from_an_unquantized_file(tmp_path: Path) -> None:
    """Each quant is an arm to be made, with an estimate; the file's own type is the file itself."""
    file = _write(tmp_path, "m-f16.gguf")
    _, arms = sources.resolve([str(file)], "Q4_K_M,f16,Q8_0")
    assert _ids(arms) == ["F16", "Q8_0", "Q4_K_M"]
    own, *made = arms
    assert (own.file, own.source) == (str(file), "")
    read = header.read(file)
    for arm in made:
        assert (arm.file, arm.source) == ("", str(file))
        assert arm.bytes == quantize.estimate_bytes(read, quants.BY_NAME[arm.quant])


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_any_unquantized_type_is_a_source(tmp_path: Path, kind: str) -> None:
    """F32, F16 and BF16 alike; each stands for itself, and the others may be made of it."""
    file = _write(tmp_path, f"m-{kind}.gguf", kind)
    _, arms = sources.resolve([str(file)], "F32,F16,BF16")
    assert {arm.id: bool(arm.file) for arm in arms} == {each: each == kind for each in ("F32", "F16", "BF16")}


def test_quants_that_need_a_matrix_are_planned_without_one(tmp_path: Path) -> None:
    """The plan shows them; it is the sweep that records their refusal."""
    _, arms = sources.resolve([str(_write(tmp_path, "m-f16.gguf"))], "IQ2_XS,Q8_0")
    assert [(arm.id, arm.imatrix) for arm in arms] == [("Q8_0", ""), ("IQ2_XS", "")]


def test_a_matrix_goes_with_all_that_is_quantized(tmp_path: Path) -> None:
    """--imatrix is used for every quant to be made, by its full path, and has to be there."""
    matrix = tmp_path / "imatrix.dat"
    matrix.touch()
    file = str(_write(tmp_path, "m-f16.gguf"))
    _, arms = sources.resolve([file], "IQ2_XS,Q8_0,F32", imatrix=os.path.relpath(matrix))
    assert {arm.id: arm.imatrix for arm in arms} == {"F32": "", "Q8_0": str(matrix), "IQ2_XS": str(matrix)}
    with pytest.raises(UserError, match="nowhere"):
        sources.resolve([file], "Q8_0", imatrix="nowhere")


def test_the_pocket_model_brings_its_matrix(tmp_path: Path) -> None:
    """Its own importance matrix, unless another is given; a link to it is still it."""
    link = tmp_path / "link-f16.gguf"
    link.symlink_to(pocket.MODEL)
    for model in (pocket.MODEL, link):
        _, (arm,) = sources.resolve([str(model)], "IQ2_XS")
        assert arm.imatrix == str(pocket.IMATRIX)
    other = tmp_path / "other"
    other.touch()
    assert sources.resolve([str(pocket.MODEL)], "IQ2_XS", imatrix=str(other))[1][0].imatrix == str(other)


def test_quants_cannot_be_made_from_a_quantized_file(tmp_path: Path) -> None:
    """The line says which, of what, what it is, and what to give instead; its own quant is no error."""
    file = str(_write(tmp_path, "m-Q8_0.gguf", "Q8_0"))
    assert _ids(sources.resolve([file], "q8_0")[1]) == ["Q8_0"]
    with pytest.raises(UserError, match=r"Q4_K_M.*m-Q8_0\.gguf.*quantized already \(Q8_0\).*F16"):
        sources.resolve([file], "Q8_0,Q4_K_M")


def test_quants_choose_among_files_and_make_the_rest(tmp_path: Path) -> None:
    """Of a folder with --quants: what is there is taken, what is not is made from the unquantized one, no more."""
    there = _write(tmp_path, "m-Q8_0.gguf", "Q8_0")
    _write(tmp_path, "m-Q4_0.gguf", "Q4_0")
    source = _write(tmp_path, "m-f16.gguf")
    _, arms = sources.resolve([str(tmp_path)], "Q8_0,Q6_K")
    assert [(arm.id, arm.file, arm.source) for arm in arms] == [("Q8_0", str(there), ""), ("Q6_K", "", str(source))]


# -- folders


def test_a_folder_is_its_ggufs(tmp_path: Path) -> None:
    """All GGUFs in it and a little below; other files, hidden ones and what lies deep are left alone."""
    _write(tmp_path, "m-F16.gguf")
    _write(tmp_path / "below", "m-Q8_0.gguf", "Q8_0")
    _write(tmp_path / ".hidden", "m-Q4_0.gguf", "Q4_0")
    _write(tmp_path, ".m-Q4_1.gguf", "Q4_1")
    _write(tmp_path / "a" / "b" / "c" / "d", "m-Q5_0.gguf", "Q5_0")
    (tmp_path / "README.md").write_text("no model")
    assert _ids(sources.resolve([str(tmp_path)])[1]) == ["F16", "Q8_0"]


def test_what_is_no_model_is_left_out(tmp_path: Path) -> None:
    """Projectors, adapters, importance matrices and bare vocabularies are not arms."""
    _write(tmp_path, "m-Q8_0.gguf", "Q8_0")
    _write(tmp_path, "mmproj-F16.gguf", model=replace(MODEL, architecture="clip"))
    _write(tmp_path, "lora-F16.gguf", **{"general.type": "adapter"})
    _write(tmp_path, "m-imatrix.gguf", **{"general.type": "imatrix"})
    (tmp_path / "imatrix.gguf").write_bytes(b"broken")
    writer = gguf.GGUFWriter(tmp_path / "ggml-vocab.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert _ids(sources.resolve([str(tmp_path)])[1]) == ["Q8_0"]
    assert _ids(sources.resolve(sorted(map(str, tmp_path.iterdir())))[1]) == ["Q8_0"]
    (tmp_path / "m-Q8_0.gguf").unlink()
    for named in (tmp_path, tmp_path / "mmproj-F16.gguf"):
        with pytest.raises(UserError, match="no model"):
            sources.resolve([str(named)])


def test_a_broken_file_is_an_arm_beside_whole_ones(tmp_path: Path) -> None:
    """It is planned under its name's label, so that the sweep records what is wrong with it; the others run."""
    _write(tmp_path, "m-Q8_0.gguf", "Q8_0")
    broken = _cut(_write(tmp_path, "m-Q4_0.gguf", "Q4_0"))
    _, arms = sources.resolve([str(tmp_path)])
    assert {arm.id: arm.file for arm in arms}["Q4_0"] == str(broken)
    assert len(arms) == 2
    with pytest.raises(UserError, match=r"m-Q4_0\.gguf"):
        sources.resolve([str(broken)])


def test_a_split_model_without_its_first_part_is_one_broken_arm(tmp_path: Path) -> None:
    """What is left of a set stands for the set, once."""
    _write(tmp_path, "m-Q8_0.gguf", "Q8_0")
    for part in (2, 3):
        _write(tmp_path, f"m-Q4_0-0000{part}-of-00003.gguf", "Q4_0", **{"split.count": 3})
    _, arms = sources.resolve([str(tmp_path)])
    assert sorted(_ids(arms)) == ["Q4_0", "Q8_0"]
    assert next(arm for arm in arms if arm.id == "Q4_0").file.endswith("00002-of-00003.gguf")


def test_a_folder_of_several_models_is_refused(tmp_path: Path) -> None:
    """The quants of one model are compared, never those of two: both are named, with how many files they have."""
    for kind in ("Q8_0", "Q4_0"):
        _write(tmp_path, f"alpha-{kind}.gguf", kind, **{"general.name": "Alpha"})
    other = _write(tmp_path, "beta-Q8_0.gguf", "Q8_0", **{"general.name": "Beta"})
    with pytest.raises(UserError, match=r"2 models: Alpha \(2 files\); Beta \(1 file\)"):
        sources.resolve([str(tmp_path)])
    assert len(sources.resolve([str(tmp_path / "alpha-Q8_0.gguf"), str(other)])[1]) == 2
    deeper = _write(tmp_path, "beta-Q4_0.gguf", "Q4_0", replace(MODEL, layers=3))
    with pytest.raises(UserError, match="2 models"):
        sources.resolve([str(other), str(deeper)])


def test_a_model_is_one_though_its_files_disagree_on_the_name(tmp_path: Path) -> None:
    """Quants by different hands: the same name in the file or in the metadata holds them together."""
    _write(tmp_path, "Some-7B-Q8_0.gguf", "Q8_0", **{"general.name": "Some 7B"})
    _write(tmp_path, "some-7b.Q4_0.gguf", "Q4_0", **{"general.name": "models"})
    _write(tmp_path, "ggml-model-Q5_0.gguf", "Q5_0", **{"general.name": "Some_7B"})
    assert _ids(sources.resolve([str(tmp_path)])[1]) == ["Q8_0", "Q5_0", "Q4_0"]


# -- what is refused


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """No argument, no such file, an empty folder, nonsense quants: each has its line."""
    whole = str(_write(tmp_path, "m-f16.gguf"))
    empty = tmp_path / "empty"
    empty.mkdir()
    for models, spec, told in [
        ([], None, "MODEL"),
        ([str(tmp_path / "gone.gguf")], None, r"gone\.gguf.*no such"),
        ([whole, str(tmp_path / "gone.gguf")], None, r"gone\.gguf.*no such"),
        ([str(empty)], None, "no GGUF"),
        ([whole], "Q4_K_N", "Q4_K_M"),
    ]:
        with pytest.raises(UserError, match=told):
            sources.resolve(models, spec)


@given(labels=st.lists(st.text(max_size=50) | st.sampled_from(["Q8_0", "Q8_0-2"]), max_size=8))
def test_ids_are_unique_and_safe(labels: list[str]) -> None:
    """Whatever labels files claim, ids are unique, printable, and fit to name a file with."""
    arms = sources.with_ids([PlannedArm(id="", quant=each) for each in labels])
    ids = [arm.id for arm in arms]
    assert len(set(ids)) == len(labels)
    assert all(each and set(each) <= set(sources.ID_LETTERS) for each in ids)
    assert [arm.quant for arm in arms] == labels
