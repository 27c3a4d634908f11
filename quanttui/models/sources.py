"""From the MODEL arguments of a command to the arms of a sweep: which files there are and which are to be made.

Owns the meaning of a MODEL argument and the names of arms. Which files are of one model is `catalog`'s to say. Reads
headers; runs nothing, writes nothing.
"""

from __future__ import annotations

import itertools
import os
import string
from collections.abc import Sequence
from pathlib import Path

import msgspec

from quanttui import catalog, quants
from quanttui.catalog import File
from quanttui.errors import UserError
from quanttui.events import PlannedArm
from quanttui.format import clean
from quanttui.models import files, ollama, pocket, quantize
from quanttui.models import header as headers
from quanttui.models.files import Candidate, Search
from quanttui.models.header import Header

ID_LETTERS = string.ascii_letters + string.digits + "_.-"
"""What an arm's id is made of, so that it may be printed and be part of a file's name."""

_NOT_YET = {"hf": "Hugging Face repositories", "ghost": "random-weight models"}


def resolve(
    models: Sequence[str],
    quants_spec: str | None = None,
    *,
    imatrix: str = "",
    ollama_stores: tuple[Path, ...] | None = None,
) -> tuple[str, tuple[PlannedArm, ...]]:
    """The model's name and its arms, largest first, for the MODEL arguments and --quants of a command.

    Without --quants every GGUF named, or lying in a named folder, is an arm. With it, its quants are: those that are
    there already as files, the others to be made from the one F32, F16 or BF16 GGUF among them. A broken file becomes
    an arm too, as long as some other is whole: it is the sweep that finds and records what is wrong with it.
    `ollama:name:tag` is looked up in `ollama_stores`, those of this machine by default.

    Raises:
        UserError: no such file; files of several models; quants that cannot be made; a source not yet supported.
    """
    stores = ollama.stores(os.environ, Path.home()) if ollama_stores is None else ollama_stores
    found = _found(models, stores)
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
    planned.sort(key=lambda arm: -(arm.bytes or 0))
    return catalog.model_name(whole), with_ids(planned)


def _found(models: Sequence[str], stores: tuple[Path, ...]) -> list[File]:
    """Every model that the arguments name, each once, in their order: a shell's `*.gguf` names parts and more."""
    if not models:
        raise UserError("name a MODEL: a GGUF file, several, or a folder of them")
    found: dict[str, File] = {}
    for argument in models:
        for each in _named(argument, stores):
            if said := files.unwritable(Path(each.paths[0])):
                raise UserError(said)
            found.setdefault(os.path.realpath(each.paths[0]), each)
    kept = [each for each in found.values() if each.brief.is_model]
    if not kept:
        raise UserError(f"{clean(models[0], 200)} is no model, but a projector, an adapter, a matrix or a vocabulary")
    return kept


def _named(argument: str, stores: tuple[Path, ...]) -> list[File]:
    """What one argument names: a path goes before a prefix."""
    prefix = argument.partition(":")[0].lower()
    if not os.path.exists(argument):
        if prefix == "ollama":
            model = ollama.resolve(argument, stores)
            return [files.read(model.path, model.called)]
        if prefix in _NOT_YET:
            raise UserError(
                f"{clean(argument, 120)}: {_NOT_YET[prefix]} are not available in this version yet;"
                " give a GGUF file or a folder of them"
            )
    return [files.read(path) for path in _files_of(Path(os.path.abspath(argument)))]


def _files_of(path: Path) -> list[Path]:
    """The path itself, or the GGUFs in and below the folder, of split models the first part only."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{clean(str(path), 200)}: there is no such file or folder")
        return [path]
    found = [each.path for each in Search().below(path) if isinstance(each, Candidate)]
    if not found:
        denied = "" if os.access(path, os.R_OK | os.X_OK) else " that may be read"
        raise UserError(f"{clean(str(path), 200)}: there is no GGUF in this folder{denied}")
    return found


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


def _as_file(found: File) -> PlannedArm:
    return PlannedArm(id="", quant=found.quant, file=found.paths[0], bytes=found.bytes)


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
        bytes=quantize.estimate_bytes(source, quant),
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
