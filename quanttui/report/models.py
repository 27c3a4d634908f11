"""The models on a machine, for people and for programs. Plain text; or one JSON object, schema 1:

    {"schema": 1, "complete": true, "models": [{"name", "architecture", "parameters", "context",
     "arms": [{"quant", "bytes", "bits_per_weight", "unquantized", "store", "argument", "paths": [text]}]}],
     "broken": [{"path", "store", "error"}], "places": [{"name", "path"}]}

`argument` is what `quanttui run` takes, null where the file's name cannot be written as text. `context` is the one that
the model was trained for, in tokens. What is absent is null; `complete` is false where the search was broken off.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from os.path import basename, dirname
from typing import Any

from quanttui.catalog import Arm, Found, Model
from quanttui.format import clean, significant, size

SCHEMA = 1


def report(found: Found) -> str:
    """The models as text: each one's quants, largest first, by the store or folder that holds them."""
    blocks = ["\n".join(_model(model)) for model in found.models]
    if found.broken:
        broken = sorted({clean(each.error, 600) for each in found.broken})
        blocks.append("\n".join(["cannot be used:", *(f"  {line}" for line in broken)]))
    return "\n\n".join([*blocks, "\n".join(_summary(found))])


def data(found: Found) -> dict[str, Any]:
    """The models as the object above."""
    return {
        "schema": SCHEMA,
        "complete": found.complete,
        "models": [
            {
                "name": clean(model.name),
                "architecture": clean(model.architecture),
                "parameters": model.parameters,
                "context": model.context or None,
                "arms": list(map(_arm, model.arms)),
            }
            for model in found.models
        ],
        "broken": [
            {"path": shown(each.path), "store": clean(each.store), "error": clean(each.error, 600)}
            for each in found.broken
        ],
        "places": [{"name": clean(each.name), "path": shown(each.path)} for each in found.places],
    }


def shown(path: str) -> str:
    """A path that may be printed: as it is, blanks and all, where it has no character that must not be."""
    return path if path.isprintable() else clean(path, 4096)


def _arm(arm: Arm) -> dict[str, Any]:
    return {
        "quant": clean(arm.quant),
        "bytes": arm.bytes,
        "bits_per_weight": arm.bits_per_weight,
        "unquantized": arm.unquantized,
        "store": clean(arm.store),
        "argument": arm.argument if arm.argument.isprintable() else None,
        "paths": list(map(shown, arm.paths)),
    }


# --- text -----------------------------------------------------------------------------------------------------------


def _model(model: Model) -> Iterator[str]:
    context = f", context {model.context}" if model.context else ""
    yield f"{clean(model.name, 80)}: {clean(model.architecture, 30)}, {_count(model.parameters)} weights{context}"
    for (store, folder), arms in groupby(sorted(model.arms, key=_held), key=_held):
        yield f"  {clean(store, 60)}{f': {shown(folder)}' if folder else ''}"
        for arm in arms:
            bits = f"{significant(arm.bits_per_weight)} bits" if arm.bits_per_weight is not None else ""
            yield f"    {clean(arm.quant, 12):<12} {size(arm.bytes):>9}  {bits:>9}  {_called(arm)}"


def _held(arm: Arm) -> tuple[str, str]:
    """The store, and the folder where it is a file that is to be named by its path."""
    return arm.store, dirname(arm.argument) if arm.argument == arm.paths[0] else ""


def _called(arm: Arm) -> str:
    name = arm.argument if not _held(arm)[1] else basename(arm.argument)
    said = shown(name) if name.isprintable() else f"{shown(name)} (rename it: its name cannot be written)"
    return f"{said} ({len(arm.paths)} parts)" if len(arm.paths) > 1 else said


def _count(parameters: int) -> str:
    """A number of weights as models are named by it: 8.03B, 494M."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= factor:
            return f"{significant(parameters / factor)}{unit}"
    return str(parameters)


def _summary(found: Found) -> Iterator[str]:
    arms = [arm for model in found.models for arm in model.arms]
    if arms:
        held = size(sum(arm.bytes or 0 for arm in arms))
        yield f"{_some(len(found.models), 'model')}, {_some(len(arms), 'quant')}, {held}. To sweep one:"
        yield "`quanttui run` with a folder of one model's quants, files of it, or its ollama:name:tag"
    else:
        yield "no model found. Looked in:"
        for place in found.places:
            yield f"  {clean(place.name, 60)}: {shown(place.path)}"
        yield "name a folder to look in, `quanttui models FOLDER`; `quanttui demo` needs no model"
    if not found.complete:
        yield "the search was broken off: there may be more"


def _some(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"
