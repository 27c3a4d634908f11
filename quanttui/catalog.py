"""What models there are, as data: GGUFs told into the models whose quants they are. Reads nothing, prints nothing.

Owns the rule by which files are of one model, and the model's name. Must not know where files come from: those who
look for them (models.find, models.sources) make `File`s, those who show them (report, screens) read `Found`.

Names that a file gives itself (`Brief.name`, `File.title`, `File.names`) are clean; `paths` and `argument` are as the
file system has them, and must be cleaned before they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePath

import msgspec

from quanttui.format import clean


class Brief(msgspec.Struct, frozen=True):
    """What a GGUF's header says, in short. `is_model`: it is no projector, adapter, importance matrix or vocabulary.

    `bytes` are those of all parts, None where that is not known; `bits_per_weight` is over all tensors; `context` is
    the one that it was trained for, in tokens, 0 where it does not say; `quant` is what it claims to be, its file's
    name left aside; `unquantized`: quants may be made of it.
    """

    is_model: bool = True
    name: str = ""
    quant: str = ""
    architecture: str = ""
    layers: int = 0
    embedding: int = 0
    parameters: int = 0
    context: int = 0
    bytes: int | None = None
    bits_per_weight: float | None = None
    unquantized: bool = False


class File(msgspec.Struct, frozen=True):
    """A GGUF on this machine: its parts in order, and the argument with which `quanttui run` takes it.

    `store` is what holds it (a folder, Ollama, …), "" where that does not matter; `quant` is its label, or "unknown".
    `names` are what its model may be called by, comparable ones: files of one structure that share one are of one
    model; `title` is the name that it gives its model, "" where that says nothing. `error` is what is wrong with it,
    in one line that names it, "" for nothing: `brief` then has what little is known.
    """

    paths: tuple[str, ...]
    argument: str
    store: str
    quant: str
    title: str
    names: tuple[str, ...]
    brief: Brief
    error: str = ""

    @property
    def bytes(self) -> int | None:
        """The size of all parts; of a broken file that of what is there, None where nothing is."""
        return self.brief.bytes


class Arm(msgspec.Struct, frozen=True):
    """A quant of a model, as a file that is there. See `File`."""

    quant: str
    paths: tuple[str, ...]
    argument: str
    store: str
    bytes: int | None
    bits_per_weight: float | None
    unquantized: bool


class Model(msgspec.Struct, frozen=True):
    """A model and its quants, largest first. `context` in tokens, 0 where it is not said."""

    name: str
    architecture: str
    parameters: int
    context: int
    arms: tuple[Arm, ...]


class Broken(msgspec.Struct, frozen=True):
    """What cannot be used: a file, a folder that may not be read, a name in a store. `error` names it."""

    path: str
    store: str
    error: str


class Place(msgspec.Struct, frozen=True):
    """Where models are looked for: `layout` says how the folder `path` is to be read (models.find)."""

    name: str
    path: str
    layout: str


class Found(msgspec.Struct, frozen=True):
    """What was found: models by name, what is broken, where was looked. `complete`: the search was not broken off."""

    models: tuple[Model, ...]
    broken: tuple[Broken, ...]
    places: tuple[Place, ...]
    complete: bool = True


def gather(files: Iterable[File], places: Sequence[Place] = (), complete: bool = True) -> Found:
    """The files told into models: of what was found so far as well as of all."""
    every = list(files)
    models = [_model(members) for members in group([file for file in every if not file.error])]
    return Found(
        models=tuple(sorted(models, key=lambda model: (model.name.casefold(), -model.parameters))),
        broken=tuple(Broken(path=file.paths[0], store=file.store, error=file.error) for file in every if file.error),
        places=tuple(places),
        complete=complete,
    )


def group(files: Sequence[File], by_name: bool = True) -> list[list[File]]:
    """The whole files, told into those of one model each, in the order of their first ones.

    Files of one model have the same architecture, depth and width and, with `by_name`, a name in common, be it through
    others: A and B one name, B and C another. A file without any name is a model of its own.
    """
    groups: dict[object, list[File]] = {}
    for file in files:
        keys = _keys(file, by_name)
        joined = {id(groups[key]): groups[key] for key in keys if key in groups}
        members = [member for each in joined.values() for member in each] + [file]
        groups |= dict.fromkeys((key for member in members for key in _keys(member, by_name)), members)
    return list({id(members): members for members in groups.values()}.values())


def model_name(files: Sequence[File]) -> str:
    """The title that most of the files give their model; without one, what they are called besides their quant."""
    titles = Counter(file.title for file in files if file.title)
    names = Counter(file.names[0] for file in files if file.names)
    for counted in (titles, names):
        if counted:
            return counted.most_common(1)[0][0]
    return clean(PurePath(files[0].paths[0]).stem, 80) or "unnamed"


def _keys(file: File, by_name: bool) -> list[object]:
    brief = file.brief
    structure = (brief.architecture, brief.layers, brief.embedding)
    if not by_name:
        return [structure]
    return [(structure, name) for name in file.names] or [file.paths]


def _model(files: Sequence[File]) -> Model:
    arms = sorted(map(_arm, files), key=lambda arm: (-(arm.bytes or 0), arm.paths))
    largest = max((file.brief for file in files), key=lambda brief: brief.parameters)
    return Model(
        name=model_name(files),
        architecture=largest.architecture,
        parameters=largest.parameters,
        context=largest.context,
        arms=tuple(arms),
    )


def _arm(file: File) -> Arm:
    return Arm(
        quant=file.quant,
        paths=file.paths,
        argument=file.argument,
        store=file.store,
        bytes=file.bytes,
        bits_per_weight=file.brief.bits_per_weight,
        unquantized=file.brief.unquantized,
    )
