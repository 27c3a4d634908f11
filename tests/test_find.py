"""Finding models: stores of other programs, folders, what is broken, what is remembered, and how it is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import ggufs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import catalog
from quanttui.catalog import Brief, File, Found, Place
from quanttui.errors import UserError
from quanttui.models import files, find, header, ollama, sources
from quanttui.report import models as told

MODEL = replace(ggufs.SMALL, width=256, feed_forward=256)
OTHER = replace(MODEL, layers=3)

root_reads_all = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may read everything")


def _write(path: Path, kind: str = "F16", model: ggufs.Model = MODEL, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return ggufs.write(path, model, kind, **more)


def _hub(hub: Path, repository: str, name: str, kind: str, commit: str = "c" * 40, **more: Any) -> Path:
    """A file in a Hugging Face cache: a link in a snapshot to a blob."""
    folder = hub / f"models--{repository.replace('/', '--')}"
    blob = _write(folder / "blobs" / hashlib.sha256(f"{repository}{name}".encode()).hexdigest(), kind, **more)
    link = folder / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def _pulled(store: Path, name: str, kind: str, host: str = ollama.HOST, space: str = "library", **more: Any) -> Path:
    """A model in an Ollama store: a manifest and its blobs."""
    digest = hashlib.sha256(f"{kind}{more}".encode()).hexdigest()
    blob = _write(store / "blobs" / f"sha256-{digest}", kind, **more)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'1' * 64}", "size": 1},
        {"mediaType": ollama.LAYER, "digest": f"sha256:{digest}", "size": blob.stat().st_size},
    ]
    _manifest(store, name, json.dumps({"schemaVersion": 2, "layers": layers}), host, space)
    return blob


def _manifest(store: Path, name: str, text: str, host: str = ollama.HOST, space: str = "library") -> None:
    model, _, tag = name.partition(":")
    manifest = store / "manifests" / host / space / model / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(text)


def _places(home: Path, *extra: Path, **environment: str) -> tuple[Place, ...]:
    here = home / "here"
    here.mkdir(parents=True, exist_ok=True)
    # The service's store is the machine's own: only what lies below the test's folder counts.
    every = find.places(environment, tuple(map(str, extra)), cache=home / "cache", home=home, here=here)
    return tuple(place for place in every if Path(place.path).is_relative_to(home.parent))


def _find(home: Path, *extra: Path, **environment: str) -> Found:
    return find.find(_places(home, *extra, **environment), home / "cache")


def _arms(found: Found) -> set[tuple[str, str]]:
    return {(arm.store, arm.quant) for model in found.models for arm in model.arms}


def _folder(folder: Path, cache: Path) -> Found:
    return find.find([Place("folder", str(folder), "folder")], cache)


# -- stores


def test_every_store_is_found_and_its_quants_are_one_model(tmp_path: Path) -> None:
    """Hugging Face's cache, Ollama, LM Studio, llama.cpp's and quanttui's own caches, the present folder and a named
    one: each quant under its store, all as one model, since they share its name."""
    name = {"general.name": "Some 7B"}
    _hub(tmp_path / ".cache/huggingface/hub", "someone/Some-7B-GGUF", "Some-7B-Q8_0.gguf", "Q8_0", **name)
    _pulled(tmp_path / ".ollama/models", "some:7b", "Q4_0", **name, **{"general.file_type": 2})
    _write(tmp_path / ".lmstudio/models/someone/Some-7B-GGUF/Some-7B-Q5_0.gguf", "Q5_0")
    _write(tmp_path / ".cache/lm-studio/models/someone/Some-7B-GGUF/Some-7B-Q5_1.gguf", "Q5_1")
    _write(tmp_path / ".cache/llama.cpp/someone_Some-7B-GGUF_Some-7B-Q4_1.gguf", "Q4_1", **name)
    _write(tmp_path / "cache/quants/some-7b-Q6_K-0123456789abcdef.gguf", "Q6_K")
    _write(tmp_path / "here/Some-7B-BF16.gguf", "BF16")
    _write(tmp_path / "named/below/some-7b.F16.gguf")
    found = _find(tmp_path, tmp_path / "named", XDG_CACHE_HOME=str(tmp_path / ".cache"))
    (model,) = found.models
    assert (model.name, model.architecture, model.context) == ("Some 7B", "llama", 8192)
    assert _arms(found) == {
        ("Hugging Face cache", "Q8_0"),
        ("Ollama", "Q4_0"),
        ("LM Studio", "Q5_0"),
        ("LM Studio", "Q5_1"),
        ("llama.cpp's cache", "Q4_1"),
        ("quanttui's cache", "Q6_K"),
        ("this folder", "BF16"),
        ("folder", "F16"),
    }
    assert not found.broken
    assert [arm.bytes for arm in model.arms] == sorted((arm.bytes or 0 for arm in model.arms), reverse=True)


def test_an_arm_is_what_its_header_says(tmp_path: Path) -> None:
    """Bytes, bits per weight, parameters and whether quants may be made of it come from the file itself."""
    file = _write(tmp_path / "m-Q8_0.gguf", "Q8_0", **{"general.name": "M"})
    source = _write(tmp_path / "m-F16.gguf")
    (model,) = _folder(tmp_path, tmp_path / "cache").models
    assert model.parameters == sum(tensor.elements for tensor in header.read(file).tensors)
    whole, quantized = model.arms
    assert (quantized.paths, quantized.argument, quantized.bytes) == ((str(file),), str(file), file.stat().st_size)
    assert quantized.bits_per_weight == pytest.approx(8.5, abs=0.1)
    assert (whole.argument, whole.unquantized, quantized.unquantized) == (str(source), True, False)


@pytest.mark.parametrize(
    ("environment", "hub"),
    [
        ({"HF_HUB_CACHE": "{home}/a"}, "a"),
        ({"HF_HUB_CACHE": "{home}/a", "HF_HOME": "{home}/b"}, "a"),
        ({"HF_HOME": "{home}/b"}, "b/hub"),
        ({"XDG_CACHE_HOME": "{home}/c"}, "c/huggingface/hub"),
        ({}, ".cache/huggingface/hub"),
    ],
)
def test_the_hugging_face_cache_is_where_its_variables_say(
    tmp_path: Path, environment: dict[str, str], hub: str
) -> None:
    """In huggingface_hub's own order; a variable that is set replaces the default."""
    _hub(tmp_path / hub, "someone/Some-GGUF", "Q8_0/Some-Q8_0.gguf", "Q8_0")
    given = {key: value.format(home=tmp_path) for key, value in environment.items()}
    assert ("Hugging Face cache", "Q8_0") in _arms(_find(tmp_path, **given))


def test_ollama_models_says_where_ollama_keeps_them(tmp_path: Path) -> None:
    """$OLLAMA_MODELS replaces the usual places."""
    _pulled(tmp_path / "elsewhere", "some:7b", "Q8_0")
    _pulled(tmp_path / ".ollama/models", "other:7b", "Q4_0")
    found = _find(tmp_path, OLLAMA_MODELS=str(tmp_path / "elsewhere"))
    assert _arms(found) == {("Ollama", "Q8_0")}


def test_a_blob_in_two_snapshots_and_under_two_names_is_one_arm(tmp_path: Path) -> None:
    """A file is listed once, however many links, tags or places lead to it."""
    hub = tmp_path / "hub"
    link = _hub(hub, "a/Some-GGUF", "Some-Q8_0.gguf", "Q8_0")
    again = link.parent.parent / ("d" * 40) / link.name
    again.parent.mkdir()
    again.symlink_to(link.resolve())
    store = tmp_path / ".ollama/models"
    _pulled(store, "some:7b", "Q4_0")
    shutil.copytree(store / "manifests/registry.ollama.ai/library/some", store / "manifests/hf.co/me/some")
    found = _find(tmp_path, hub, HF_HUB_CACHE=str(hub))
    assert sum(len(model.arms) for model in found.models) == 2


def test_a_file_without_a_name_has_its_repositorys(tmp_path: Path) -> None:
    """`ggml-model-Q8_0.gguf` says nothing: the repository or the folder does, and two such models stay two."""
    for repository in ("alpha", "beta"):
        _hub(tmp_path / "hub", f"someone/{repository}-GGUF", "ggml-model-Q8_0.gguf", "Q8_0")
        _write(tmp_path / "folder" / repository / "model.gguf", "Q4_0")
    found = _find(tmp_path, tmp_path / "folder", HF_HUB_CACHE=str(tmp_path / "hub"))
    assert [(model.name, sorted(arm.quant for arm in model.arms)) for model in found.models] == [
        ("alpha", ["Q4_0", "Q8_0"]),
        ("beta", ["Q4_0", "Q8_0"]),
    ]


def test_the_present_folder_is_not_searched_below(tmp_path: Path) -> None:
    """Only GGUFs that lie directly in it are its: it may be anything, a home folder too."""
    _write(tmp_path / "here/m-Q8_0.gguf", "Q8_0")
    _write(tmp_path / "here/models/m-Q4_0.gguf", "Q4_0")
    assert _arms(_find(tmp_path)) == {("this folder", "Q8_0")}


def test_a_place_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    """A folder of the user's that is not there is an error; a program's that is not there is none. A file will do."""
    with pytest.raises(UserError, match=r"gone.*no such file or folder"):
        _places(tmp_path, tmp_path / "gone")
    file = _write(tmp_path / "m-Q8_0.gguf", "Q8_0")
    _write(tmp_path / "m-Q4_0.gguf", "Q4_0")
    assert [arm.argument for model in _find(tmp_path, file).models for arm in model.arms] == [str(file)]


# -- what is one model, what is none


def test_models_of_one_structure_and_different_names_stay_apart(tmp_path: Path) -> None:
    """Fine-tunes share their structure; what a converter calls all of them does not make them one."""
    for name in ("vicuna-7b", "wizard-7b"):
        for kind in ("Q8_0", "Q4_0"):
            _write(tmp_path / f"{name}.{kind}.gguf", kind, **{"general.name": "LLaMA v2"})
    found = _folder(tmp_path, tmp_path / "cache")
    assert [(model.name, len(model.arms)) for model in found.models] == [("vicuna-7b", 2), ("wizard-7b", 2)]


def test_what_is_no_model_is_not_listed(tmp_path: Path) -> None:
    """Projectors, adapters, matrices and bare vocabularies are left out, at the second look too."""
    _write(tmp_path / "m-Q8_0.gguf", "Q8_0")
    _write(tmp_path / "mmproj-F16.gguf", model=replace(MODEL, architecture="clip"))
    _write(tmp_path / "lora.gguf", **{"general.type": "adapter"})
    _write(tmp_path / "imatrix.gguf", **{"general.type": "imatrix"})
    writer = gguf.GGUFWriter(tmp_path / "ggml-vocab.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    for _ in range(2):
        found = _folder(tmp_path, tmp_path / "cache")
        assert _arms(found) == {("folder", "Q8_0")}
        assert not found.broken


NAMES = st.sampled_from(["a", "b", "c", "d"])
FILES = st.builds(
    lambda number, names, layers: File(
        paths=(f"/{number}.gguf",),
        argument=f"/{number}.gguf",
        store="",
        quant="Q8_0",
        title="",
        names=tuple(names),
        brief=Brief(architecture="llama", layers=layers),
    ),
    st.integers(0, 10**9),
    st.lists(NAMES, max_size=2, unique=True),
    st.integers(1, 2),
)


@given(found=st.lists(FILES, max_size=10, unique_by=lambda file: file.paths), seed=st.randoms())
def test_grouping_does_not_depend_on_the_order(found: list[File], seed: Any) -> None:
    """Each file is in one group; groups share no structure and name; shuffled files give the same groups."""
    groups = catalog.group(found)
    assert sorted(file.paths for group in groups for file in group) == sorted(file.paths for file in found)
    keys = [{(file.brief.layers, name) for file in group for name in file.names} for group in groups]
    assert sum(map(len, keys)) == len(set().union(*keys))
    shuffled = list(found)
    seed.shuffle(shuffled)
    as_sets = {frozenset(file.paths for file in group) for group in groups}
    assert as_sets == {frozenset(file.paths for file in group) for group in catalog.group(shuffled)}


# -- split and broken


def _split(folder: Path) -> tuple[Path, Path]:
    first = _write(folder / "m-Q8_0-00001-of-00002.gguf", "Q8_0", **{"split.count": 2})
    second = folder / "m-Q8_0-00002-of-00002.gguf"
    data = first.read_bytes()
    for old, new in ((b"blk.", b"bmk."), (b"token_embd", b"token_emb_"), (b"output", b"outpux")):
        data = data.replace(old, new)
    second.write_bytes(data)
    return first, second


def test_a_split_model_is_one_arm_of_all_its_parts(tmp_path: Path) -> None:
    """All parts' bytes and paths, taken by the first; also as remembered, and where any part was named."""
    first, second = _split(tmp_path / "folder")
    for place in (tmp_path / "folder", first, second, second):
        (model,) = _folder(place, tmp_path / "cache").models
        (arm,) = model.arms
        assert arm.paths == (str(first), str(second))
        assert (arm.argument, arm.bytes) == (str(first), first.stat().st_size + second.stat().st_size)


def test_a_missing_part_is_told_and_noticed_when_it_comes_and_goes(tmp_path: Path) -> None:
    """What is remembered of a split model is forgotten when a part of it comes or goes."""
    _, second = _split(tmp_path / "folder")
    aside = tmp_path / "aside"
    for _ in range(2):
        second.rename(aside)
        found = _folder(tmp_path / "folder", tmp_path / "cache")
        assert not found.models
        assert "00002-of-00002.gguf is missing" in found.broken[0].error
        aside.rename(second)
        assert _arms(_folder(tmp_path / "folder", tmp_path / "cache")) == {("folder", "Q8_0")}


def test_what_is_broken_is_listed_with_its_reason_each_time(tmp_path: Path) -> None:
    """Cut off, no GGUF, a link to nothing, a link to itself, a pipe: one line each that names it; the rest is found."""
    folder = tmp_path / "folder"
    _write(folder / "m-Q8_0.gguf", "Q8_0")
    cut = _write(folder / "cut.gguf")
    os.truncate(cut, cut.stat().st_size // 2)
    (folder / "text.gguf").write_text("no model")
    (folder / "empty.gguf").touch()
    (folder / "nowhere.gguf").symlink_to("gone")
    (folder / "itself.gguf").symlink_to("itself.gguf")
    os.mkfifo(folder / "pipe.gguf")
    for _ in range(2):
        found = _folder(folder, tmp_path / "cache")
        assert _arms(found) == {("folder", "Q8_0")}
        errors = {Path(each.path).name: each.error for each in found.broken}
        assert errors.keys() == {"cut.gguf", "text.gguf", "empty.gguf", "nowhere.gguf", "itself.gguf", "pipe.gguf"}
        assert all(name in error and "\n" not in error for name, error in errors.items())
        assert "cut off" in errors["cut.gguf"]
        assert "link to what is not there" in errors["nowhere.gguf"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    """Links to folders are followed, and a folder is entered once."""
    folder = tmp_path / "folder"
    _write(tmp_path / "elsewhere/m-Q8_0.gguf", "Q8_0")
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "elsewhere/back").symlink_to(folder)
    found = _folder(folder, tmp_path / "cache")
    assert [arm.argument for model in found.models for arm in model.arms] == [str(folder / "linked/m-Q8_0.gguf")]


@root_reads_all
def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    """It is named with the reason, and the rest is found."""
    _write(tmp_path / "folder/m-Q8_0.gguf", "Q8_0")
    closed = tmp_path / "folder/closed"
    closed.mkdir(mode=0)
    found = _folder(tmp_path / "folder", tmp_path / "cache")
    assert [each.error for each in found.broken] == [f"{closed} cannot be looked into: permission denied"]
    assert _arms(found) == {("folder", "Q8_0")}


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    """Whatever the reason is: here the place is a file where a folder was expected."""
    place = tmp_path / "file"
    place.touch()
    (denied,) = files.Search().below(place)
    assert isinstance(denied, files.Denied)
    assert str(place) in denied.error


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({"layers": [{"mediaType": ollama.LAYER}]}), "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"layers": []}', "not kept as one GGUF"),
        (json.dumps({"layers": [{"mediaType": ollama.LAYER, "digest": "sha256:../../etc/passwd"}]}), "no digest"),
        (json.dumps({"layers": [{"mediaType": ollama.LAYER, "digest": f"sha256:{'0' * 64}"}]}), "missing"),
    ],
)
def test_a_manifest_that_leads_to_no_gguf_is_broken(tmp_path: Path, manifest: str, why: str) -> None:
    """The model is named with the reason; the others of the store are found."""
    store = tmp_path / ".ollama/models"
    _pulled(store, "good:7b", "Q8_0")
    _manifest(store, "bad:7b", manifest)
    found = _find(tmp_path)
    assert _arms(found) == {("Ollama", "Q8_0")}
    assert "ollama:bad:7b" in found.broken[0].error
    assert why in found.broken[0].error
    with pytest.raises(UserError, match=why):
        sources.resolve(["ollama:bad:7b"], ollama_stores=(store,))


def test_a_broken_blob_is_told_by_its_models_name(tmp_path: Path) -> None:
    """A digest says nothing to a person: the line has the name too."""
    blob = _pulled(tmp_path / ".ollama/models", "some:7b", "Q8_0")
    os.truncate(blob, blob.stat().st_size // 2)
    (broken,) = _find(tmp_path).broken
    assert broken.error.startswith(f"ollama:some:7b: {blob} is cut off")


HOSTILE = ["\x1b[31mred-Q8_0.gguf", "[bold]m-Q8_0[/bold].gguf", "a\nb-Q8_0.gguf", "\u202eevil-Q8_0.gguf", "é-Q8_0.gguf"]


def test_hostile_names_are_found_and_shown_tame(tmp_path: Path) -> None:
    """Control characters, markup, other directions, bytes that are no UTF-8, hostile metadata: found, printable;
    what a session could not record is broken."""
    for name in HOSTILE:
        _write(tmp_path / "folder" / name, "Q8_0", **{"general.name": f"\x1b]0;{name}\x07"})
    plain = _write(tmp_path / "folder/plain-Q8_0.gguf", "Q8_0")
    raw = os.path.join(os.fsencode(tmp_path / "folder"), b"\xff\xfe-Q8_0.gguf")
    os.rename(plain, raw)
    for _ in range(2):
        found = _folder(tmp_path / "folder", tmp_path / "cache")
        paths = {arm.paths[0] for model in found.models for arm in model.arms}
        assert paths == {str(tmp_path / "folder" / name) for name in HOSTILE}
        (broken,) = found.broken
        assert os.fsencode(broken.path) == raw and "no UTF-8" in broken.error
        lines = told.report(found).split("\n")
        assert all(line.isprintable() for line in lines)
        text = json.dumps(told.data(found), ensure_ascii=False)
        assert text.isprintable()
        arguments = [arm["argument"] for model in json.loads(text)["models"] for arm in model["arms"]]
        assert sorted(filter(None, arguments)) == sorted(
            str(tmp_path / "folder" / name) for name in HOSTILE if name.isprintable()
        )
        assert arguments.count(None) == 3
    with pytest.raises(UserError, match="no UTF-8; rename it"):
        sources.resolve([str(tmp_path / "folder")])


# -- what is remembered


def _spoil(path: Path) -> None:
    """Other content of the same size and time: only who reads the header can tell."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_second_look_reads_no_header_and_says_the_same(tmp_path: Path) -> None:
    """Until a file's size or time of change is another: then that one is read anew, and no other."""
    folder, cache = tmp_path / "folder", tmp_path / "cache"
    made = [_write(folder / f"m-{kind}.gguf", kind, **{"general.name": "M"}) for kind in ("Q8_0", "Q4_0", "F16")]
    first = _folder(folder, cache)
    for file in made:
        _spoil(file)
    assert _folder(folder, cache) == first
    later, longer, _ = made
    os.utime(later, ns=(0, later.stat().st_mtime_ns + 1))
    before = longer.stat().st_mtime_ns
    _write(longer, "Q8_0", OTHER, **{"general.name": "Another"})
    os.utime(longer, ns=(0, before))
    found = _folder(folder, cache)
    assert {model.name: len(model.arms) for model in found.models} == {"M": 1, "Another": 1}
    assert [each.path for each in found.broken] == [str(later)]


def test_what_is_gone_is_forgotten_and_what_lies_elsewhere_is_not(tmp_path: Path) -> None:
    """A look at one folder keeps what is known of another, and drops what is nowhere."""
    cache = tmp_path / "cache"
    a, b = (_write(tmp_path / name / "m-Q8_0.gguf", "Q8_0") for name in "ab")
    first = [_folder(each.parent, cache) for each in (a, b)]
    record = (cache / "models.msgpack").read_bytes()
    assert os.fsencode(a) in record and os.fsencode(b) in record
    a.unlink()
    _folder(b.parent, cache)
    record = (cache / "models.msgpack").read_bytes()
    assert os.fsencode(a) not in record and os.fsencode(b) in record
    _spoil(b)
    assert _folder(b.parent, cache) == first[1]


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_broken_memory_is_ignored(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    """Whatever lies there, also a damaged record: the answer is the same, and the record is whole afterwards."""
    tmp_path = tmp_path_factory.mktemp("memory")
    _write(tmp_path / "folder/m-Q8_0.gguf", "Q8_0", **{"general.name": "M"})
    first = _folder(tmp_path / "folder", tmp_path / "cache")
    record = tmp_path / "cache/models.msgpack"
    whole = record.read_bytes()
    record.write_bytes(whole[:at] + noise)
    _folder(tmp_path / "folder", tmp_path / "cache")
    record.write_bytes(noise)
    assert _folder(tmp_path / "folder", tmp_path / "cache") == first


def test_a_memory_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    """No cache folder can be made where a file lies: the models are found all the same, and nothing is left over."""
    (tmp_path / "cache").touch()
    _write(tmp_path / "folder/m-Q8_0.gguf", "Q8_0")
    assert _arms(_folder(tmp_path / "folder", tmp_path / "cache")) == {("folder", "Q8_0")}
    (tmp_path / "cache2/models.msgpack").mkdir(parents=True)
    _folder(tmp_path / "folder", tmp_path / "cache2")
    assert os.listdir(tmp_path / "cache2") == ["models.msgpack"]


def test_a_search_may_be_left_at_any_file(tmp_path: Path) -> None:
    """Files come one by one; what was read until then is remembered, and nothing more is read."""
    made = [_write(tmp_path / f"folder/m{number}-Q8_0.gguf", "Q8_0") for number in range(5)]
    place = Place("folder", str(tmp_path / "folder"), "folder")
    walk = find.walk([place], tmp_path / "cache")
    assert [next(walk).paths[0] for _ in range(2)] == [str(made[0]), str(made[1])]
    walk.close()
    for file in made:
        _spoil(file)
    assert [bool(file.error) for file in find.walk([place], tmp_path / "cache")] == [False, False, True, True, True]


def test_a_search_that_is_stopped_says_so(tmp_path: Path) -> None:
    """What was found until then is there, and that it is not all."""
    for number in range(5):
        _write(tmp_path / f"folder/m{number}-Q8_0.gguf", "Q8_0")
    place = Place("folder", str(tmp_path / "folder"), "folder")
    asked = iter([False] * 4)
    found = find.find([place], tmp_path / "cache", stop=lambda: next(asked, True))
    assert not found.complete
    assert len(found.models) == 3
    assert find.find([place], tmp_path / "cache").complete


# -- ollama: as a MODEL


def test_a_model_of_ollamas_is_an_arm(tmp_path: Path) -> None:
    """By name and tag, `latest` where none is given, in any case, and with its namespace or host where it has one."""
    store = tmp_path / "models"
    blob = _pulled(store, "some:7b-q8_0", "Q8_0", **{"general.name": "Some 7B"})
    _pulled(store, "plain:latest", "Q4_0", **{"general.file_type": 2})
    _pulled(store, "mine:v1", "Q5_0", space="me")
    _pulled(store, "Other-GGUF:Q5_1", "Q5_1", host="hf.co", space="someone")
    name, (arm,) = sources.resolve(["ollama:Some:7b-Q8_0"], ollama_stores=(store,))
    assert (name, arm.quant, arm.file, arm.bytes) == ("Some 7B", "Q8_0", str(blob), blob.stat().st_size)
    for argument, quant in [("plain", "Q4_0"), ("me/mine:v1", "Q5_0"), ("hf.co/someone/Other-GGUF:Q5_1", "Q5_1")]:
        assert sources.resolve([f"ollama:{argument}"], ollama_stores=(store,))[1][0].quant.startswith(quant[:2])


def test_every_argument_that_is_listed_resolves(tmp_path: Path) -> None:
    """What the listing says is what `quanttui run` takes: each argument gives the arm that it stands beside."""
    store = tmp_path / ".ollama/models"
    _pulled(store, "some:7b", "Q8_0")
    _pulled(store, "mine:v1", "Q5_0", space="me")
    _pulled(store, "Other-GGUF:Q5_1", "Q5_1", host="hf.co", space="someone")
    _write(tmp_path / "here/m-Q4_0.gguf", "Q4_0")
    _split(tmp_path / "named")
    arms = [arm for model in _find(tmp_path, tmp_path / "named").models for arm in model.arms]
    assert len(arms) == 5
    for arm in arms:
        _, (planned,) = sources.resolve([arm.argument], ollama_stores=(store,))
        assert (planned.file, planned.quant, planned.bytes) == (arm.paths[0], arm.quant, arm.bytes)


def test_a_model_that_ollama_has_not_is_refused_with_what_it_has(tmp_path: Path) -> None:
    """One line with the names that are there; or where was looked, where there are none."""
    with pytest.raises(UserError, match=r"ollama:some:7b.*no Ollama model in .*models.*OLLAMA_MODELS"):
        sources.resolve(["ollama:some:7b"], ollama_stores=(tmp_path / "models",))
    for number in range(20):
        _pulled(tmp_path / "models", f"some{number:02}:7b", "Q8_0")
    with pytest.raises(UserError, match=r"some00:7b, some01:7b.* and 8 more$"):
        sources.resolve(["ollama:\x1bsome:7b"], ollama_stores=(tmp_path / "models",))


# -- the listing


def test_the_listing_names_model_store_quant_and_argument(tmp_path: Path) -> None:
    """Files below their folder, Ollama's by their name, both as `quanttui run` takes them; the sum at the end."""
    _write(tmp_path / "here/Some-7B-Q8_0.gguf", "Q8_0", **{"general.name": "Some 7B"})
    _pulled(tmp_path / ".ollama/models", "some-7b:q4_0", "Q4_0")
    lines = told.report(_find(tmp_path)).split("\n")
    assert lines[0].startswith("Some 7B: llama, ") and lines[0].endswith(" weights, context 8192")
    assert "  Ollama" in lines
    assert f"  this folder: {tmp_path / 'here'}" in lines
    assert any(line.startswith("    Q8_0 ") and line.endswith("  Some-7B-Q8_0.gguf") for line in lines)
    assert any(line.startswith("    Q4_0 ") and line.endswith("  ollama:some-7b:q4_0") for line in lines)
    assert any(line.startswith("1 model, 2 quants, ") for line in lines)


def test_a_listing_of_nothing_says_where_was_looked_and_what_to_do(tmp_path: Path) -> None:
    """Each place with its path, and a search that was broken off as such."""
    found = catalog.gather([], [Place("LM Studio", str(tmp_path), "folder")], complete=False)
    said = told.report(found)
    assert f"LM Studio: {tmp_path}" in said
    assert "quanttui demo" in said
    assert "broken off" in said


def test_what_a_file_does_not_say_is_absent() -> None:
    """No context and no bits: null for programs, nothing for people, never 0."""
    arm = catalog.Arm("Q8_0", ("/m/a.gguf",), "/m/a.gguf", "LM Studio", 1 << 30, None, False)
    found = Found(models=(catalog.Model("m", "llama", 10**9, 0, (arm,)),), broken=(), places=())
    (model,) = told.data(found)["models"]
    assert (model["context"], model["arms"][0]["bits_per_weight"]) == (None, None)
    assert told.report(found).split("\n")[0] == "m: llama, 1.00B weights"
    assert "bits" not in told.report(found)


def test_the_data_is_the_catalog(tmp_path: Path) -> None:
    """Every arm with its figures, what is not known as null, what is broken beside it; JSON takes it."""
    _write(tmp_path / "here/m-Q8_0.gguf", "Q8_0")
    (tmp_path / "here/broken.gguf").touch()
    found = _find(tmp_path)
    data = json.loads(json.dumps(told.data(found)))
    (model,), (broken,) = data["models"], data["broken"]
    (arm,) = model["arms"]
    file = str(tmp_path / "here/m-Q8_0.gguf")
    assert (arm["argument"], arm["paths"], arm["quant"], arm["store"]) == (file, [file], "Q8_0", "this folder")
    assert arm["bytes"] == os.path.getsize(file)
    assert broken["path"].endswith("broken.gguf") and "is empty" in broken["error"]
    assert (data["schema"], data["complete"]) == (1, True)
