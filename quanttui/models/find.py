"""Finds the models on this machine: folders, the Hugging Face cache, LM Studio, Ollama, what quanttui made itself.

Owns where each of them keeps models and the memory of headers read before, so that a second look costs no reading.
Must not know commands or screens: `walk` gives files one by one as they are found, and may be left at any of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from quanttui import catalog, paths
from quanttui.catalog import Brief, File, Found, Place
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import files, label, ollama
from quanttui.models.files import Candidate, Denied, Search

VERSION = 1
"""Of what is remembered: another one is ignored."""
REMEMBERED = 20_000
"""Files that are remembered at most."""

_OWN_KEY = re.compile(r"-[0-9a-f]{16}(?=\.gguf$)")


def _never() -> bool:
    return False


def places(
    environment: Mapping[str, str],
    extra: Sequence[str] = (),
    *,
    cache: Path,
    home: Path | None = None,
    here: Path | None = None,
) -> tuple[Place, ...]:
    """Where models are looked for: the folders named, the present one, quanttui's cache, other programs' stores.

    Args:
        environment: that of the process: HF_HOME, HF_HUB_CACHE, OLLAMA_MODELS, LLAMA_CACHE, XDG_CACHE_HOME.
        extra: folders, or files, that were named.
        cache: quanttui's cache folder.

    Raises:
        UserError: a folder that was named is not there.
    """
    home, here = home or Path.home(), here or Path.cwd()
    for each in extra:
        if not os.path.exists(each):
            raise UserError(f"{clean(each, 200)}: there is no such file or folder")
    named = [Place("folder", os.path.abspath(each), "folder") for each in extra]
    lm_studio = (home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models")
    return (
        *named,
        Place("this folder", str(here), "flat"),
        Place("quanttui's cache", str(cache / "quants"), "own"),
        Place("Hugging Face cache", str(_hub(environment, home)), "hub"),
        *(Place("LM Studio", str(path), "folder") for path in lm_studio),
        *(Place("Ollama", str(path), "ollama") for path in ollama.stores(environment, home)),
        Place("llama.cpp's cache", str(_llama_cache(environment, home)), "flat"),
    )


def find(places: Sequence[Place], cache: Path, stop: Callable[[], bool] = _never) -> Found:
    """All models in the places, each file once. See `walk`."""
    ended = False

    def watched() -> bool:
        nonlocal ended
        ended = ended or stop()
        return ended

    found = tuple(walk(places, cache, watched))
    return catalog.gather(found, places, complete=not ended)


def walk(places: Sequence[Place], cache: Path, stop: Callable[[], bool] = _never) -> Iterator[File]:
    """The models' files in the places as they are found, broken ones and unreadable folders too, each once.

    A place that is not there is passed over. What the headers said is remembered in the folder `cache`, also when
    `stop` (asked before each file and folder) ends the search or nobody asks for the rest.
    """
    memory = _Memory(cache / "models.msgpack")
    seen: set[object] = set()
    try:
        for place in places:
            for entry in _LAYOUTS[place.layout](Path(place.path), Search(stop)):
                if stop():
                    return
                if isinstance(entry, Denied):
                    yield _denied(entry, place)
                elif entry.candidate.identity not in seen:
                    seen.add(entry.candidate.identity)
                    file = memory.file(entry.candidate, entry.called)
                    if file.brief.is_model:
                        yield _placed(file, place, entry.argument)
    finally:
        memory.keep()


# --- where each keeps models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A candidate, the name to call it by where its own is none, and the MODEL argument where it is no path."""

    candidate: Candidate
    called: str
    argument: str = ""


def _hub(environment: Mapping[str, str], home: Path) -> Path:
    """The cache of huggingface_hub, by its own variables in its own order."""
    for key in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(key):
            return _expanded(environment[key])
    if environment.get("HF_HOME"):
        return _expanded(environment["HF_HOME"]) / "hub"
    return _cache_home(environment, home) / "huggingface" / "hub"


def _llama_cache(environment: Mapping[str, str], home: Path) -> Path:
    """Where llama.cpp's own downloads lie (common.cpp, fs_get_cache_directory)."""
    if environment.get("LLAMA_CACHE"):
        return Path(environment["LLAMA_CACHE"])
    if sys.platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "llama.cpp"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "llama.cpp"
    return _cache_home(environment, home) / "llama.cpp"


def _cache_home(environment: Mapping[str, str], home: Path) -> Path:
    return Path(environment.get("XDG_CACHE_HOME") or home / ".cache")


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _folder(path: Path, search: Search, depth: int = files.DEPTH) -> Iterator[_Entry | Denied]:
    if path.is_file():
        yield _Entry(files.beside(path), path.name)
    else:
        yield from _called(search.below(path, depth))


def _flat(path: Path, search: Search) -> Iterator[_Entry | Denied]:
    yield from _folder(path, search, depth=0)


def _own(path: Path, search: Search) -> Iterator[_Entry | Denied]:
    """quanttui's quants, whose names end in a key of what they were made of."""
    for entry in _flat(path, search):
        if isinstance(entry, _Entry):
            entry = _Entry(entry.candidate, _OWN_KEY.sub("", entry.called))
        yield entry


def _hugging_face(path: Path, search: Search) -> Iterator[_Entry | Denied]:
    """`models--<org>--<name>/snapshots/<commit>/…`, links to blobs."""
    try:
        repositories = sorted(each for each in os.listdir(path) if each.startswith("models--"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield files.denied(path, error)
        return
    for repository in repositories:
        found = search.below(path / repository / "snapshots", files.DEPTH + 1)
        yield from _called(found, repository.rpartition("--")[2])


def _ollama(path: Path, search: Search) -> Iterator[_Entry | Denied]:
    for model in ollama.models(path):
        if model.error:
            yield Denied(model.path, model.error)
        else:
            yield _Entry(files.candidate([model.path]), model.called, f"ollama:{model.name}")


_LAYOUTS: dict[str, Callable[[Path, Search], Iterator[_Entry | Denied]]] = {
    "folder": _folder,
    "flat": _flat,
    "own": _own,
    "hub": _hugging_face,
    "ollama": _ollama,
}


def _called(found: Iterator[Candidate | Denied], owner: str = "") -> Iterator[_Entry | Denied]:
    """Each under its file's name, or its repository's or folder's where that says nothing but the quant."""
    for each in found:
        if isinstance(each, Denied):
            yield each
            continue
        name = each.path.name
        if files.is_nameless(files.common(name)):
            name = f"{owner or each.path.parent.name}-{label.from_name(name)}".rstrip("-")
        yield _Entry(each, name)


def _placed(file: File, place: Place, argument: str) -> File:
    """The file as one of the place's; where that has a name of its own for it, what is wrong is said of that."""
    if not argument:
        return msgspec.structs.replace(file, store=place.name)
    error = f"{clean(argument, 120)}: {file.error}" if file.error else ""
    return msgspec.structs.replace(file, store=place.name, argument=argument, error=error)


def _denied(denied: Denied, place: Place) -> File:
    nothing = files.told([denied.path], Brief(), "", denied.error)
    return msgspec.structs.replace(nothing, store=place.name)


# --- what is remembered ---------------------------------------------------------------------------------------------


class _Known(msgspec.Struct, frozen=True, array_like=True):
    """A header read before, of the file that then had this stamp."""

    stamp: tuple[tuple[int, int], ...]
    brief: Brief


class _Record(msgspec.Struct, frozen=True):
    """What lies on the disk: the headers by the first part's path, as the file system has it."""

    version: int
    known: dict[bytes, _Known] = {}


@dataclass
class _Memory:
    """The headers read before. One that cannot be read or written costs time, never an answer."""

    path: Path
    known: dict[bytes, _Known] = field(default_factory=dict)
    used: set[bytes] = field(default_factory=set)
    changed: bool = False

    def __post_init__(self) -> None:
        with contextlib.suppress(OSError, ValueError, RecursionError, msgspec.MsgspecError):
            record = msgspec.msgpack.decode(self.path.read_bytes(), type=_Record)
            self.known = record.known if record.version == VERSION else {}

    def file(self, candidate: Candidate, called: str) -> File:
        """What the candidate is: as remembered, where it has not changed since, else read and remembered."""
        key = os.fsencode(candidate.path)
        known = self.known.get(key)
        if known is not None and candidate.stamp and known.stamp == candidate.stamp:
            self.used.add(key)
            return files.told(candidate.parts, known.brief, called)
        file = files.read(candidate.path, called)
        if candidate.stamp and not file.error:
            self.known[key] = _Known(candidate.stamp, file.brief)
            self.used.add(key)
            self.changed = True
        elif self.known.pop(key, None):
            self.changed = True
        return file

    def keep(self) -> None:
        """Write it down, without what is there no longer: a crash leaves the old one or the new one."""
        gone = [key for key in self.known if key not in self.used and not os.path.lexists(os.fsdecode(key))]
        if not (self.changed or gone):
            return
        old = [key for key in self.known if key not in self.used and key not in set(gone)]
        keys = [*old, *sorted(self.used & self.known.keys())][-REMEMBERED:]
        record = _Record(VERSION, {key: self.known[key] for key in keys})
        with contextlib.suppress(OSError):
            paths.made(self.path.parent)
            _replace(self.path, msgspec.msgpack.encode(record))


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as temporary:
            temporary.write(content)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
