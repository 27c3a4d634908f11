"""From the MODEL arguments of a command to the arms of a sweep: which files there are and which are to be made.

Owns the meaning of a MODEL argument and the names of arms. Reads headers; runs nothing, writes nothing.
"""

from __future__ import annotations

import itertools
import os
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from quanttui import quants
from quanttui.errors import UserError
from quanttui.events import PlannedArm
from quanttui.format import clean
from quanttui.models import header as headers
from quanttui.models import label, pocket, quantize
from quanttui.models.header import Header

FOLDER_DEPTH = 3
"""How many folders below the named one are looked into."""
ID_LETTERS = string.ascii_letters + string.digits + "_.-"
"""What an arm's id is made of, so that it may be printed and be part of a file's name."""

_NOT_YET = {
    "hf": "Hugging Face repositories",
    "ollama": "Ollama models",
    "ghost": "random-weight models",
}
_LATER_PART = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})(?P<rest>-of-\d{5}\.gguf)$", re.IGNORECASE)
_NO_MODEL = frozenset({"mmproj", "imatrix", "adapter", "vocab"})


@dataclass(frozen=True)
class Found:
    """A GGUF that was named or lies in a folder: its header, and what is wrong with it, "" for nothing."""

    path: Path
    header: Header | None
    error: str = ""

    @property
    def label(self) -> str:
        """The quant that it claims to be."""
        return (label.claimed(self.header) if self.header else label.from_name(self.path.name)) or "unknown"

    @property
    def bytes(self) -> int | None:
        """Its size, None where there is no such file."""
        if self.header is not None:
            return self.header.file_bytes
        try:
            return self.path.stat().st_size
        except OSError:
            return None


def resolve(
    models: Sequence[str], quants_spec: str | None = None, *, imatrix: str = ""
) -> tuple[str, tuple[PlannedArm, ...]]:
    """The model's name and its arms, largest first, for the MODEL arguments and --quants of a command.

    Without --quants every GGUF named, or lying in a named folder, is an arm. With it, its quants are: those that are
    there already as files, the others to be made from the one F32, F16 or BF16 GGUF among them. A broken file becomes
    an arm too, as long as some other is whole: it is the sweep that finds and records what is wrong with it.

    Raises:
        UserError: no such file; files of several models; quants that cannot be made; a source not yet supported.
    """
    found = _found(models)
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
    return _model_name(whole), with_ids(planned)


def _found(models: Sequence[str]) -> list[Found]:
    """Every model that the arguments name, each once, in their order: a shell's `*.gguf` names parts and more."""
    if not models:
        raise UserError("name a MODEL: a GGUF file, several, or a folder of them")
    found: dict[str, Found] = {}
    for argument in models:
        prefix = argument.partition(":")[0].lower()
        if prefix in _NOT_YET and not os.path.exists(argument):
            raise UserError(
                f"{clean(argument, 120)}: {_NOT_YET[prefix]} are not available in this version yet;"
                " give a GGUF file or a folder of them"
            )
        for path in _files_of(Path(os.path.abspath(argument))):
            each = _read(path)
            found.setdefault(os.path.realpath(each.header.files[0] if each.header else path), each)
    kept = [each for each in found.values() if not _is_no_model(each)]
    if not kept:
        raise UserError(f"{clean(models[0], 200)} is no model, but a projector, an adapter, a matrix or a vocabulary")
    return kept


def _files_of(path: Path) -> list[Path]:
    """The path itself, or the GGUFs in and below the folder, of split models the first part only."""
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{clean(str(path), 200)}: there is no such file or folder")
        return [path]
    files: list[Path] = []
    for folder, below, names in os.walk(path):
        depth = len(Path(folder).relative_to(path).parts)
        below[:] = sorted(each for each in below if not each.startswith(".") and depth < FOLDER_DEPTH)
        ggufs = (each for each in sorted(names) if each.lower().endswith(".gguf") and not each.startswith("."))
        files += [Path(folder) / each for each in ggufs]
    files = [file for file in files if not _is_spoken_for(file)]
    if not files:
        denied = "" if os.access(path, os.R_OK | os.X_OK) else " that may be read"
        raise UserError(f"{clean(str(path), 200)}: there is no GGUF in this folder{denied}")
    return files


def _is_spoken_for(file: Path) -> bool:
    """A later part of a split model, of which an earlier part is there to stand for all of it."""
    match = _LATER_PART.match(file.name)
    if match is None:
        return False
    earlier = (f"{match['stem']}-{part:05}{match['rest']}" for part in range(1, int(match["part"])))
    return any(file.with_name(name).exists() for name in earlier)


def _read(path: Path) -> Found:
    header = None
    try:
        header = headers.read(path)
        headers.shape(header)
    except UserError as error:
        return Found(path, header, str(error))
    return Found(path, header)


def _is_no_model(found: Found) -> bool:
    """Projectors, adapters, importance matrices and bare vocabularies, which lie about in folders of models."""
    if found.header is None:
        return found.path.name.lower().startswith(("mmproj", "imatrix"))
    data = found.header.metadata
    kinds = {data.get("general.type"), "imatrix" if "imatrix.chunk_count" in data else None}
    return bool(kinds & _NO_MODEL) or data.get("general.architecture") == "clip" or not found.header.tensors


def _one_model(found: Sequence[Found], models: Sequence[str]) -> None:
    """A sweep is about the quants of one model: files of others would be compared for nothing.

    Files named one by one need only have the same architecture, depth and width; in a folder the names count too.
    """
    groups: dict[str, list[Found]] = {}
    loose = any(Path(argument).is_dir() for argument in models)
    for each in found:
        groups.setdefault(_identity(each, groups, loose), []).append(each)
    if len(groups) > 1:
        listed = "; ".join(f"{_model_name(each)} ({_files(len(each))})" for each in groups.values())
        raise UserError(f"the files are of {len(groups)} models: {clean(listed, 240)}. Name those of one")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _identity(found: Found, groups: dict[str, list[Found]], by_name: bool) -> str:
    """The key of the group that the file belongs to: one that has its structure and shares a name, or a new one."""
    for key, members in groups.items():
        first = members[0]
        if _structure(found) != _structure(first):
            continue
        if not by_name or any(_names(found) & _names(member) for member in members):
            return key
    return str(found.path)


def _structure(found: Found) -> tuple[object, ...]:
    assert found.header is not None
    shape = headers.shape(found.header)
    return shape.architecture, shape.layers, shape.embedding


def _names(found: Found) -> set[str]:
    assert found.header is not None
    return {label.without_quant(found.path.name), label.without_quant(headers.name(found.header))} - {""}


def _model_name(found: Sequence[Found]) -> str:
    """The name that most of the files give their model; without one, what their names say besides the quant."""
    names = Counter(headers.name(each.header) for each in found if each.header is not None)
    name = names.most_common(1)[0][0]
    from_file = any(name == clean(each.path.stem, 80) for each in found)
    return (label.without_quant(name) or name) if from_file else name


def _as_file(found: Found) -> PlannedArm:
    first = found.header.files[0] if found.header else found.path
    return PlannedArm(id="", quant=found.label, file=str(first), bytes=found.bytes)


def _wanted(found: Sequence[Found], wanted: Sequence[quants.Quant], imatrix: str) -> list[PlannedArm]:
    """One arm or more per quant: the files that are it already, else one to be made."""
    source = _source(found)
    arms: list[PlannedArm] = []
    missing: list[str] = []
    for quant in wanted:
        there = [each for each in found if each.label == quant.name]
        if there:
            arms += [_as_file(each) for each in there]
        elif source is not None:
            arms.append(_to_make(source, quant, imatrix))
        else:
            missing.append(quant.name)
    if missing:
        labels = ", ".join(dict.fromkeys(each.label for each in found))
        raise UserError(
            f"--quants: {', '.join(missing)} cannot be made from {clean(str(found[0].path), 160)}, which is quantized"
            f" already ({clean(labels, 80)}); give the model as an F32, F16 or BF16 GGUF"
        )
    return arms


def _source(found: Sequence[Found]) -> Header | None:
    """The unquantized file with the most bits."""
    usable = (each.header for each in found if each.header is not None and not each.error)
    fitting = [header for header in usable if label.is_unquantized(header)]
    return max(fitting, key=lambda header: header.file_bytes, default=None)


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
