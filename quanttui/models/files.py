"""GGUFs in folders: which there are, the parts of a split one taken together, and what each is in short.

Owns the looking into folders and the step from a header to a `catalog.File`. Must not know stores, arms or commands;
reads headers, writes nothing. A file's name is what the file system says, whatever bytes are in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from quanttui.catalog import Brief, File
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import header as headers
from quanttui.models import label
from quanttui.models.header import Header

DEPTH = 3
"""How many folders below a named one are looked into."""

Stamp = tuple[tuple[int, int], ...]
"""Size and time of change (ns) of each part that is there: another stamp is another file."""

_PART = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf$", re.IGNORECASE)
_NO_MODEL = frozenset({"mmproj", "imatrix", "adapter", "vocab"})
_NAMELESS = frozenset({"", "model", "models", "ggml-model", "ggml", "gguf", "llama", "llama-v2", "hub", "tmp"})
"""Names that say nothing: what converters put where they were told none ("LLaMA v2" is on many a fine-tune)."""
_DIGEST = re.compile(r"(?:sha256-)?[0-9a-f]{20,}")


@dataclass(frozen=True)
class Candidate:
    """A GGUF by its name: the first part that is there stands for all. `identity` is the same for links to one file."""

    path: Path
    parts: tuple[Path, ...]
    stamp: Stamp = ()
    identity: object = None


@dataclass(frozen=True)
class Denied:
    """A folder that cannot be looked into: `error` is one line that names it."""

    path: Path
    error: str


@dataclass
class Search:
    """One search through folders: `stop` is asked before each folder, and what was seen is not entered again."""

    stop: Callable[[], bool] = lambda: False
    seen: set[object] = field(default_factory=set)

    def below(self, folder: Path, depth: int = DEPTH) -> Iterator[Candidate | Denied]:
        """The GGUFs in the folder and `depth` folders below it, a folder's own first; hidden ones are left alone.

        Links to folders are followed, each folder being entered once, so that a loop ends.
        """
        if self.stop():
            return
        try:
            identity = _identity(os.stat(folder), folder)
            if identity in self.seen:
                return
            with os.scandir(folder) as listing:
                visible = (each for each in listing if not each.name.startswith("."))
                entries = sorted(visible, key=lambda each: each.name)
        except FileNotFoundError:
            return
        except OSError as error:
            yield denied(folder, error)
            return
        self.seen.add(identity)
        inner = {each.name: Path(each.path) for each in entries if _is_folder(each)}
        yield from _together([Path(each.path) for each in entries if _is_gguf(each.name) and each.name not in inner])
        for path in inner.values() if depth else ():
            yield from self.below(path, depth - 1)


def denied(folder: Path, error: OSError) -> Denied:
    """The folder with the reason why it cannot be looked into."""
    return Denied(folder, f"{clean(str(folder), 200)} cannot be looked into: {reason(error)}")


def reason(error: OSError) -> str:
    """What the system says is the matter, in a few words."""
    return "permission denied" if isinstance(error, PermissionError) else clean(error.strerror or str(error), 120)


def beside(path: Path) -> Candidate:
    """The file with the other parts of its model, where it is one of several."""
    near = (each for each in Search().below(path.parent, 0) if isinstance(each, Candidate))
    return next((each for each in near if path in each.parts), None) or candidate([path])


def candidate(paths: Sequence[Path]) -> Candidate:
    """The parts of one model that are there, in order, as one."""
    status = [_status(path) for path in paths]
    stamp = tuple((each.st_size, each.st_mtime_ns) for each in status if each is not None)
    whole = len(stamp) == len(paths)
    identity = _identity(status[0], paths[0]) if status[0] is not None else str(paths[0])
    return Candidate(paths[0], tuple(paths), stamp if whole else (), identity)


def read(path: Path, called: str = "") -> File:
    """What the GGUF is; a broken one too. `called` is its name where the file's own is none (a blob's)."""
    header = None
    try:
        header = headers.read(path)
        brief = _brief(header)
    except UserError as error:
        said = str(error)
        if path.is_symlink() and not path.exists():
            said = f"{clean(str(path), 200)} is a link to what is not there"
        return told([path], _broken(path, header), called or path.name, said)
    return told(header.files, brief, called or path.name)


def told(paths: Sequence[Path], brief: Brief, called: str, error: str = "") -> File:
    """The file of which the header said `brief`, under the name that it is called by."""
    given = common(brief.name)
    names = dict.fromkeys(name for name in (common(called), given) if not is_nameless(name))
    return File(
        paths=tuple(map(str, paths)),
        argument=str(paths[0]),
        store="",
        quant=clean(label.from_name(called) or brief.quant, 40) or "unknown",
        title="" if is_nameless(given) else brief.name,
        names=tuple(names),
        brief=brief,
        error=error or next(filter(None, map(unwritable, paths)), ""),
    )


def unwritable(path: Path) -> str:
    """Why a session could not record the file by its name; "" where it can."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"{clean(str(path), 200)}: its name or a folder's is no UTF-8; rename it"
    return ""


def common(name: str) -> str:
    """What the names of a model's quants have in common: without quant, part and ending, lower case, joined by `-`."""
    return clean(label.without_quant(name).removesuffix("-gguf"), 80)


def is_nameless(name: str) -> bool:
    """Whether such a name (see `common`) tells no model from another."""
    return name in _NAMELESS or _DIGEST.fullmatch(name) is not None


def _brief(header: Header) -> Brief:
    """Raises: UserError: the header's shape is absurd."""
    bare = replace(header, path=Path())
    data = header.metadata
    kinds = {data.get("general.type"), "imatrix" if "imatrix.chunk_count" in data else None}
    if kinds & _NO_MODEL or data.get("general.architecture") == "clip" or not header.tensors:
        return Brief(is_model=False, bytes=header.file_bytes)
    shape = headers.shape(header)
    return Brief(
        name=headers.name(bare),
        quant=clean(label.claimed(bare), 40),
        architecture=shape.architecture,
        layers=shape.layers,
        embedding=shape.embedding,
        parameters=shape.parameters,
        context=shape.context,
        bytes=header.file_bytes,
        bits_per_weight=headers.bits_per_weight(header) if shape.parameters else None,
        unquantized=label.is_unquantized(header),
    )


def _broken(path: Path, header: Header | None) -> Brief:
    """What is known of a file that cannot be used: its size, and from its name that it is no model."""
    if header is not None:
        return Brief(quant=label.claimed(replace(header, path=Path())), bytes=header.file_bytes)
    status = _status(path)
    is_model = not path.name.lower().startswith(("mmproj", "imatrix"))
    return Brief(is_model=is_model, bytes=status.st_size if status else None)


def _together(ggufs: Sequence[Path]) -> Iterator[Candidate]:
    """The GGUFs of one folder, the parts of a split one as one."""
    sets: dict[object, list[Path]] = {}
    for path in ggufs:
        part = _PART.match(path.name)
        sets.setdefault((part["stem"], part["parts"]) if part else path.name, []).append(path)
    for paths in sets.values():
        yield candidate(paths)


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def _status(path: Path) -> os.stat_result | None:
    with suppress(OSError, ValueError):
        return path.stat()
    return None


def _identity(status: os.stat_result, path: Path) -> object:
    """The same for all links to a file; file systems without such numbers give 0."""
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
