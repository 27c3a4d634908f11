"""From the MODEL arguments of a command to the arms of a sweep: which files there are and which are to be made.

Owns the meaning of a MODEL argument and the names of arms. Which files are of one model is `catalog`'s to say. Reads
headers; runs nothing, writes nothing.
"""

from __future__ import annotations

import itertools
import os
import shlex
import string
from collections.abc import Sequence
from pathlib import Path

import msgspec

from quanttui import catalog, quants
from quanttui.catalog import File
from quanttui.errors import UserError
from quanttui.events import PlannedArm
from quanttui.format import clean
from quanttui.models import files, ollama, outline, pocket, quantize, tiles
from quanttui.models import header as headers
from quanttui.models.fetch import cached, named
from quanttui.models.files import Candidate, Search
from quanttui.models.header import Header

ID_LETTERS = string.ascii_letters + string.digits + "_.-"
"""What an arm's id is made of, so that it may be printed and be part of a file's name."""


def resolve(
    models: Sequence[str],
    quants_spec: str | None = None,
    *,
    imatrix: str = "",
    ollama_stores: tuple[Path, ...] | None = None,
    hub: Path | None = None,
) -> tuple[str, tuple[PlannedArm, ...]]:
    """The model's name and its arms, largest first, for the MODEL arguments and --quants of a command.

    Without --quants every GGUF named, or lying in a named folder, is an arm. With it, its quants are: those that are
    there already as files, the others to be made from the one F32, F16 or BF16 GGUF among them. A broken file becomes
    an arm too, as long as some other is whole: it is the sweep that finds and records what is wrong with it.
    `ollama:name:tag` is looked up in `ollama_stores`, `hf:org/repo:quant` in huggingface_hub's cache `hub`, those of
    this machine by default: nothing is downloaded here. The quants of `ghost:NAME` (models.outline) are all to be made.

    Raises:
        UserError: no such file; files of several models; quants that cannot be made; a source not yet supported.
    """
    if any(map(is_ghost, models)):
        return _ghosts(models, quants_spec)
    stores = ollama.stores(os.environ, Path.home()) if ollama_stores is None else ollama_stores
    found = _found(models, stores, cached.hub(os.environ) if hub is None else hub)
    whole = [each for each in found if not each.error]
    if not whole:
        raise UserError(found[0].error)
    if imatrix and not os.path.isfile(imatrix):
        raise UserError(f"--imatrix {clean(imatrix, 200)}: there is no such file")
    imatrix = os.path.abspath(imatrix) if imatrix else ""
    _one_model(whole, models)
    if quants_spec is None:
        planned = [_as_file(each) for each in found]
    else:
        planned = _wanted(found, quants.parse(quants_spec), imatrix)
    origins = {each.paths[0]: _origin(each) for each in found}
    planned = [msgspec.structs.replace(arm, origin=origins.get(arm.file or arm.source, "")) for arm in planned]
    planned.sort(key=lambda arm: -(arm.bytes or 0))
    return catalog.model_name(whole), with_ids(planned)


def is_ghost(argument: str) -> bool:
    """Whether a MODEL argument names a ghost, and no file of such a name."""
    return argument.lower().startswith(outline.PREFIX) and not os.path.exists(argument)


def _ghosts(models: Sequence[str], quants_spec: str | None) -> tuple[str, tuple[PlannedArm, ...]]:
    """The quants of one ghost; without --quants those of a GGUF whose header it is made of."""
    if len(models) > 1:
        raise UserError("sweep one ghost at a time, and no file beside it: they are different models")
    argument = outline.spelled(models[0])
    spec = quants_spec or tiles.label_of(argument)
    if not spec:
        raise UserError(f"{clean(models[0], 120)}: say which quants with --quants, for example Q8_0,Q4_K_M")
    arms = [ghost(argument, quant) for quant in quants.parse(spec)]
    arms.sort(key=lambda arm: -(arm.bytes or 0))
    return f"{tiles.MARK}{headers.name(outline.named(argument))}", with_ids(arms)


def ghost(argument: str, quant: quants.Quant) -> PlannedArm:
    """The arm of a ghost in a quant, without an id.

    Raises:
        UserError: there is none.
    """
    made = tiles.header_of(argument, quant)
    return PlannedArm(id="", quant=quant.name, source=argument, bytes=made.file_bytes, origin="ghost", ghost=True)


def _found(models: Sequence[str], stores: tuple[Path, ...], hub: Path) -> list[File]:
    """Every model that the arguments name, each once, in their order: a shell's `*.gguf` names parts and more."""
    if not models:
        raise UserError("name a MODEL: a GGUF file, several, or a folder of them")
    found: dict[str, File] = {}
    for argument in models:
        for each in _named(argument, stores, hub):
            if said := files.unwritable(Path(each.paths[0])):
                raise UserError(said)
            found.setdefault(os.path.realpath(each.paths[0]), each)
    kept = [each for each in found.values() if each.brief.is_model]
    if not kept:
        raise UserError(f"{clean(models[0], 200)} is no model, but a projector, an adapter, a matrix or a vocabulary")
    return kept


def _named(argument: str, stores: tuple[Path, ...], hub: Path) -> list[File]:
    """What one argument names: a path goes before a prefix."""
    prefix = argument.partition(":")[0].lower()
    if not os.path.exists(argument):
        if prefix == "ollama":
            model = ollama.resolve(argument, stores)
            found = files.read(model.path, model.called)
            return [msgspec.structs.replace(found, argument=f"ollama:{model.name}")]
        if named.is_named(argument):
            return [files.read(path) for path in cached.resolve(argument, hub)]
    return [files.read(path) for path in _files_of(Path(os.path.abspath(argument)))]


def _files_of(path: Path) -> list[Path]:
    """The path itself, or the GGUFs in and below the folder, of split models the first part only."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{clean(str(path), 200)}: there is no such file or folder")
        if path.suffix == ".safetensors":
            _refuse_checkpoint(path.parent)
        return [path]
    found = [each.path for each in Search().below(path) if isinstance(each, Candidate)]
    if not found:
        _refuse_checkpoint(path)
        denied = "" if os.access(path, os.R_OK | os.X_OK) else " that may be read"
        raise UserError(f"{clean(str(path), 200)}: there is no GGUF in this folder{denied}")
    return found


def _refuse_checkpoint(folder: Path) -> None:
    """Say how a model in the form that it was trained in becomes a GGUF.

    Raises:
        UserError: the folder holds one.
    """
    forms = {"safetensors": "*.safetensors", "PyTorch weights": "pytorch_model*.bin"}
    form = next((form for form, pattern in forms.items() if any(folder.glob(pattern))), "")
    if form:
        where, name = shlex.quote(str(folder)), shlex.quote(f"{folder.name or 'model'}-F16.gguf")
        raise UserError(
            f"{clean(str(folder), 200)}: holds {form}, not a GGUF: convert it with llama.cpp's converter, "
            f"`python convert_hf_to_gguf.py {clean(where, 200)} --outtype f16 --outfile {clean(name, 80)}`,"
            " and give the file that it writes"
        )


def _one_model(found: Sequence[File], models: Sequence[str]) -> None:
    """A sweep is about the quants of one model: files of others would be compared for nothing.

    Files named one by one need only have the same architecture, depth and width; in a folder the names count too.
    """
    groups = catalog.group(found, by_name=any(Path(argument).is_dir() for argument in models))
    if len(groups) > 1:
        listed = "; ".join(f"{catalog.model_name(each)} ({_files(len(each))})" for each in groups)
        raise UserError(f"the files are of {len(groups)} models: {clean(listed, 240)}. Name those of one")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _origin(found: File) -> str:
    """Where the file came from, as far as its place tells: a repository at a commit, a name in Ollama's store."""
    return found.argument if found.argument != found.paths[0] else cached.origin(found.paths[0])


def _as_file(found: File) -> PlannedArm:
    ghostly = tiles.is_ghost(found.brief.name)
    return PlannedArm(id="", quant=found.quant, file=found.paths[0], bytes=found.bytes, ghost=ghostly)


def _wanted(found: Sequence[File], wanted: Sequence[quants.Quant], imatrix: str) -> list[PlannedArm]:
    """One arm or more per quant: the files that are it already, else one to be made."""
    source = _source(found)
    arms: list[PlannedArm] = []
    missing: list[str] = []
    for quant in wanted:
        there = [each for each in found if each.quant == quant.name]
        if there:
            arms += [_as_file(each) for each in there]
        elif source is not None:
            arms.append(_to_make(source, quant, imatrix))
        else:
            missing.append(quant.name)
    if missing:
        labels = ", ".join(dict.fromkeys(each.quant for each in found))
        raise UserError(
            f"--quants: {', '.join(missing)} cannot be made from {clean(found[0].paths[0], 160)}, which is quantized"
            f" already ({clean(labels, 80)}); give the model as an F32, F16 or BF16 GGUF"
        )
    return arms


def _source(found: Sequence[File]) -> Header | None:
    """The unquantized file with the most bits."""
    usable = [each for each in found if each.brief.unquantized and not each.error]
    largest = max(usable, key=lambda each: each.bytes or 0, default=None)
    return headers.read(largest.paths[0]) if largest else None


def _to_make(source: Header, quant: quants.Quant, imatrix: str) -> PlannedArm:
    return PlannedArm(
        id="",
        quant=quant.name,
        source=str(source.files[0]),
        imatrix="" if quant.family == "float" else imatrix or _own_imatrix(source.path),
        bytes=quantize.estimate_bytes(source, quant, bool(imatrix)),
    )


def _own_imatrix(source: Path) -> str:
    """The pocket model comes with an importance matrix."""
    try:
        return str(pocket.IMATRIX) if source.samefile(pocket.MODEL) else ""
    except OSError:
        return ""


def with_ids(arms: Sequence[PlannedArm]) -> tuple[PlannedArm, ...]:
    """The arms with unique ids made of their quants, in ID_LETTERS: Q4_K_M, and Q4_K_M-2 for another one."""
    named: dict[str, PlannedArm] = {}
    for arm in arms:
        joined = "".join(letter if letter in ID_LETTERS else "-" for letter in arm.quant[:40])
        base = joined.strip("-.") or "unknown"
        candidates = (base if number == 1 else f"{base}-{number}" for number in itertools.count(1))
        ident = next(each for each in candidates if each not in named)
        named[ident] = msgspec.structs.replace(arm, id=ident)
    return tuple(named.values())
