"""Ollama's store: which names and tags it has, and the GGUF behind each. Asks no server; reads manifests only.

A store has a manifest per model, `manifests/<host>/<namespace>/<model>/<tag>`, whose layers are files in `blobs/`
named by their digest. What stands in a manifest is foreign: a digest is believed only where it is one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import files

HOST = "registry.ollama.ai"
"""Names without a host are of this one; those without a namespace of `library` on it."""
LAYER = "application/vnd.ollama.image.model"
"""The media type of the layer that is a GGUF."""

_DEPTH = 3
_MANIFEST_LIMIT = 1 << 20
_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
_MOST = 12
"""Names that a complaint lists."""


@dataclass(frozen=True)
class Tagged:
    """A model of a store: its name and tag as Ollama shows them, and its GGUF; without one, `error` says why."""

    name: str
    path: Path
    error: str = ""

    @property
    def called(self) -> str:
        """The name as a file's would be, the tag `latest` left out: it says nothing."""
        return self.name.removesuffix(":latest").replace(":", "-")


def stores(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where Ollama keeps models: $OLLAMA_MODELS, else the user's folder and, on Linux, that of its service."""
    if environment.get("OLLAMA_MODELS"):
        return (Path(environment["OLLAMA_MODELS"]).expanduser(),)
    service = (Path("/usr/share/ollama/.ollama/models"),) if sys.platform.startswith("linux") else ()
    return (home / ".ollama" / "models", *service)


def models(store: Path) -> Iterator[Tagged]:
    """All that the store has a manifest of, by name; a folder of manifests that may not be read as an error."""
    yield from _below(store, store / "manifests", ())


def resolve(argument: str, places: tuple[Path, ...]) -> Tagged:
    """The model that `ollama:name:tag` means; without a tag `latest`.

    Raises:
        UserError: none of the stores has it; what they have is listed.
    """
    wanted = _full(argument.partition(":")[2])
    there = [each for store in places for each in models(store)]
    found = next((each for each in there if _full(each.name) == wanted and not each.error), None)
    if found is not None:
        return found
    broken = next((each for each in there if _full(each.name) == wanted), None)
    if broken is not None:
        raise UserError(broken.error)
    raise UserError(_absent(clean(argument, 120), [each for each in there if not each.error], places))


def _absent(argument: str, there: list[Tagged], places: tuple[Path, ...]) -> str:
    looked = " and ".join(clean(str(place), 120) for place in places)
    if not there:
        return f"{argument}: there is no Ollama model in {looked}; $OLLAMA_MODELS says where else to look"
    names = [clean(each.name, 60) for each in there]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{argument}: not in Ollama's store, {looked}, which has {', '.join(names[:_MOST])}{more}"


def _full(name: str) -> tuple[str, ...]:
    """Host, namespace, model and tag of a name, in lower case: Ollama does not tell cases apart."""
    path, _, last = name.strip().rpartition("/")
    model, _, tag = last.partition(":")
    before = tuple(part for part in path.split("/") if part)
    default = (HOST, "library")
    return tuple(part.lower() for part in (*default[: 2 - len(before)], *before, model, tag or "latest"))


def _below(store: Path, folder: Path, above: tuple[str, ...]) -> Iterator[Tagged]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(each.name for each in listing if not each.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield Tagged(_shown(above), folder, files.denied(folder, error).error)
        return
    for name in entries:
        if len(above) < _DEPTH:
            yield from _below(store, folder / name, (*above, name))
        else:
            yield _tagged(store, folder / name, (*above, name))


def _shown(parts: tuple[str, ...]) -> str:
    """The name as Ollama shows it: without its own host, and without `library`."""
    kept = parts[1:] if parts[:1] == (HOST,) else parts
    kept = kept[1:] if kept[:1] == ("library",) and len(kept) < len(parts) else kept
    return "/".join(kept[:-1]) + f":{kept[-1]}" if len(parts) > _DEPTH else "/".join(kept)


def _tagged(store: Path, manifest: Path, parts: tuple[str, ...]) -> Tagged:
    name = _shown(parts)
    shown, where = f"ollama:{clean(name, 100)}", clean(str(manifest), 200)
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(_MANIFEST_LIMIT))["layers"]
        digests = [str(layer["digest"]) for layer in layers if layer["mediaType"] == LAYER]
    except OSError as error:
        return Tagged(name, manifest, f"{shown}: {where} cannot be read: {files.reason(error)}")
    except (ValueError, KeyError, TypeError, RecursionError):
        return Tagged(name, manifest, f"{shown}: its manifest {where} is damaged; pull it again")
    if len(digests) != 1:
        return Tagged(name, manifest, f"{shown} is not kept as one GGUF: a model in the cloud, or in another format")
    digest = _DIGEST.fullmatch(digests[0])
    if digest is None:
        return Tagged(name, manifest, f"{shown}: its manifest {where} names no digest of its model; pull it again")
    blob = store / "blobs" / f"sha256-{digest['hex']}"
    if not os.path.lexists(blob):
        return Tagged(name, blob, f"{shown}: {clean(str(blob), 200)} is missing; pull it again")
    return Tagged(name, blob)
