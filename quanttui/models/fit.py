"""From MODEL arguments to what fits: headers, free memory, known bandwidth and llama.cpp's buffers brought together.

Owns the step from a header to a `Prospect`, and the reading of what this machine has. The sums and the line between
fits and does not fit are `diagnosis.fit`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from quanttui import quants as table
from quanttui.diagnosis import fit
from quanttui.diagnosis.fit import Buffers, Machine, Matrix, Plan, Prospect, Room, Use
from quanttui.engine.weigh import Scales
from quanttui.errors import UserError
from quanttui.events import PlannedArm, Settings
from quanttui.format import clean
from quanttui.models import header as headers
from quanttui.models import mix, outline, repack, sources
from quanttui.models.header import Header
from quanttui.probes import Absent, bandwidth, host, sampler

BANDWIDTH = "bandwidth.json"
"""In the cache folder: the read bandwidths that sweeps measured on this machine (probes.bandwidth)."""


@dataclass(frozen=True)
class Sized:
    """An arm, and the header of its file or the one that its file will have; `source_bytes` of what it is made from."""

    arm: PlannedArm
    header: Header
    source_bytes: int = 0


def run(
    models: Sequence[str],
    quants: str | None,
    settings: Settings,
    memories: Sequence[int] = (),
    contexts: Sequence[int] = (),
    *,
    cache: Path,
    imatrix: str = "",
) -> Plan | Matrix:
    """What fits of a model: a Plan for this machine or for one assumed memory (bytes), a Matrix for several memories or
    several contexts.

    `models` and `quants` are as for a sweep, or `ghost:NAME`; without `contexts` those that the sweep itself makes
    count. An assumed memory is one memory, all of it free.

    Raises:
        UserError: there is no such model, quant or KV type, or how much memory is free is not known.
    """
    name, every, notes = sized(models, quants, imatrix=imatrix)
    if memories:
        settings = msgspec.structs.replace(settings, gpu_layers=0)
    scales = Scales(cache, settings)
    machine = here(settings, cache, offload=scales.about.gpu_offload)
    if len(memories) > 1 or len(contexts) > 1:
        return _matrix(name, every, settings, memories or _free(machine), contexts, cache)
    if memories:
        machine = assumed(machine, memories[0])
    uses = tuple(Use(context=context) for context in contexts) or fit.uses(settings)
    scales.prepare((each.header, use) for each in every for use in uses)
    refused = dict.fromkeys(scales.refusal(each.header, use) for each in every for use in uses)
    notes += tuple(f"llama.cpp would not tell its buffers: {why}" for why in refused if why)
    return fit.plan(
        name,
        [prospect(each, scales.about.system_info) for each in every],
        settings,
        machine,
        context=contexts[0] if contexts else None,
        weigh=_recalling(scales, every),
        text_bytes=_text_bytes(settings),
        notes=notes,
    )


def quick(
    name: str, every: Sequence[Sized], settings: Settings, machine: Machine, scales: Scales | None = None
) -> Plan:
    """What fits in the sweep's own contexts, with no process asked: some milliseconds for each arm.

    Of buffers only what `scales` remembers is known, the others are estimated.
    """
    info = scales.remembered.system_info if scales else ""
    weigh = _recalling(scales, every) if scales else None
    prospects = [prospect(each, info) for each in every]
    return fit.plan(name, prospects, settings, machine, weigh=weigh, text_bytes=_text_bytes(settings))


def memories(text: str) -> tuple[int, ...]:
    """Bytes of a list such as "8,16,24" or "16GiB,24GB": GiB where no unit is given, for that is how memory is sold.

    Raises:
        UserError: what is no size, names it.
    """
    return tuple(round(_number(word, _SIZE, "--memory", "16GiB") * _UNITS[_unit(word)]) for word in _words(text))


def contexts(text: str) -> tuple[int, ...]:
    """Tokens of a list such as "4096,8k,128K": k is 1024.

    Raises:
        UserError: what is no number of tokens, names it.
    """
    found = tuple(
        round(_number(word, _TOKENS, "--ctx", "8k") * (1024 if word[-1] in "kK" else 1)) for word in _words(text)
    )
    if wrong := next((each for each in found if not 1 <= each <= 1 << 24), None):
        raise UserError(f"--ctx: {wrong} tokens are no context: from 1 to {1 << 24}")
    return found


_UNITS = {"": 1 << 30, "g": 1 << 30, "gib": 1 << 30, "gb": 10**9, "m": 1 << 20, "mib": 1 << 20, "mb": 10**6}
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?([a-z]*)", re.IGNORECASE)
_TOKENS = re.compile(r"(\d{1,8}(?:\.\d{1,3})?)(k?)", re.IGNORECASE)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _unit(word: str) -> str:
    found = _SIZE.fullmatch(word)
    return found[2].lower() if found else ""


def _number(word: str, form: re.Pattern[str], flag: str, example: str) -> float:
    found = form.fullmatch(word)
    if found is None or float(found[1]) <= 0 or (form is _SIZE and found[2].lower() not in _UNITS):
        raise UserError(f"{flag} {clean(word, 40)}: give a size such as {example}, or several with commas between")
    return float(found[1])


# --- arms -----------------------------------------------------------------------------------------------------------


def sized(
    models: Sequence[str], quants: str | None = None, *, imatrix: str = ""
) -> tuple[str, tuple[Sized, ...], tuple[str, ...]]:
    """The model's name, its arms with their headers, largest first, and what is to be said of those left out.

    Raises:
        UserError: there is no such model or quant, or no header can be read.
    """
    if models and all(model.lower().startswith(outline.PREFIX) for model in models):
        return _ghosts(models, quants)
    name, arms = sources.resolve(models, quants, imatrix=imatrix)
    found: list[Sized] = []
    notes: list[str] = []
    read: dict[str, Header] = {}
    for arm in arms:
        file = arm.file or arm.source
        try:
            read[file] = read[file] if file in read else headers.read(file)
            found.append(of(arm, read[file]))
        except UserError as error:
            notes.append(f"left out: {error}")
    if not found:
        raise UserError(notes[0].removeprefix("left out: ") if notes else f"{name}: there is nothing to plan")
    return name, tuple(found), tuple(notes)


def of(arm: PlannedArm, header: Header) -> Sized:
    """An arm with the header that its file has, or will have when it is made of this one.

    Raises:
        UserError: the arm is to be made, of a quant that llama.cpp does not have.
    """
    if arm.file:
        headers.shape(header)
        return Sized(arm, header)
    quant = table.named(arm.quant)
    if quant is None:
        raise UserError(f"{arm.quant}: llama.cpp has no quant of that name")
    return Sized(arm, mix.requantized(header, quant, bool(arm.imatrix)), header.file_bytes)


def _ghosts(models: Sequence[str], quants: str | None) -> tuple[str, tuple[Sized, ...], tuple[str, ...]]:
    """A published shape's quants: the eleven common ones where none are named."""
    if len(models) > 1:
        raise UserError("plan one ghost at a time: they are different models")
    source = outline.named(models[0])
    found = []
    for quant in table.parse(quants or "common"):
        header = mix.requantized(source, quant, quant.needs_imatrix)
        arm = PlannedArm(id=quant.name, quant=quant.name, file=f"{source.path}:{quant.name}", bytes=header.file_bytes)
        found.append(Sized(arm, header))
    found.sort(key=lambda each: -each.header.file_bytes)
    note = "a published shape: sizes by the types that llama.cpp would choose, of a file that is not here"
    return headers.name(source), tuple(found), (note,)


def prospect(each: Sized, system_info: str = "") -> Prospect:
    """What planning needs of an arm. `system_info` is llama.cpp's line of what CPU and build have (events.Build); ""
    where it is not known: then nothing is taken to be rearranged.

    Raises:
        UserError: the header is absurd.
    """
    shape = headers.shape(each.header)
    have = repack.features(system_info)
    layers, packs = [0] * (shape.layers + 1), [0] * (shape.layers + 1)
    tables = 0
    for tensor in each.header.tensors:
        part, layer = headers.role(tensor.name), mix.layer(tensor.name)
        if part in ("embedding", "rows"):
            tables += tensor.bytes
            continue
        place = layer if 0 <= layer < shape.layers else shape.layers
        layers[place] += tensor.bytes
        packs[place] += tensor.bytes if repack.is_packed(tensor, have) else 0
    tied = next((one for one in each.header.tensors if shape.tied and headers.role(one.name) == "embedding"), None)
    if tied is not None and repack.is_packed(tied, have):
        packs[-1] += tied.bytes
    return Prospect(
        id=each.arm.id,
        quant=each.arm.quant,
        shape=shape,
        bytes=each.header.file_bytes,
        layers=tuple(layers),
        packs=tuple(packs),
        input=tables,
        tied=tied.bytes if tied else 0,
        source_bytes=each.source_bytes,
    )


def _recalling(scales: Scales, every: Iterable[Sized]) -> fit.Weigh:
    known = {each.arm.id: each.header for each in every}

    def weigh(prospect: Prospect, use: Use) -> Buffers | None:
        return scales.recall(known[prospect.id], use)

    return weigh


def _matrix(
    name: str,
    every: Sequence[Sized],
    settings: Settings,
    memories: Sequence[int],
    contexts: Sequence[int],
    cache: Path,
) -> Matrix:
    """All in one memory, whatever GPUs there are."""
    settings = msgspec.structs.replace(settings, gpu_layers=0)
    chosen = contexts or (max(use.context for use in fit.uses(settings)),)
    scales = Scales(cache, settings)
    scales.prepare((each.header, Use(context=context)) for each in every for context in chosen)
    prospects = [prospect(each, scales.about.system_info) for each in every]
    return fit.matrix(name, prospects, memories, chosen, settings, _recalling(scales, every))


# --- the machine ----------------------------------------------------------------------------------------------------


def here(settings: Settings, cache: Path, offload: bool = True) -> Machine:
    """What this machine has now: free memory, of GPUs too where the build offloads and layers are asked to, and the
    bandwidth that is configured, else the driver's figure, else what sweeps measured here."""
    about = host.host()
    readings = _readings(offload and settings.gpu_layers != 0)
    threads = settings.threads or about.cores
    measured = bandwidth.recall(cache / BANDWIDTH, about, threads)
    known = {} if measured is None or measured.gb_s is None else {"cpu": measured.gb_s}
    known |= {name.partition(".")[0]: value / 1e9 for name, value in readings.items() if name.endswith(".bandwidth")}
    return Machine(
        rooms=fit.rooms(readings, offload and settings.gpu_layers != 0),
        bandwidth=known | dict(settings.bandwidth),
        cores=about.cores,
        cache=about.cache,
    )


def assumed(machine: Machine, memory: int) -> Machine:
    """The same machine with one memory of so many bytes, all of it free."""
    room = Room(device="cpu", total=memory, free=memory, note="assumed, all of it free")
    return msgspec.structs.replace(machine, rooms=(room,))


def _readings(offload: bool) -> dict[str, float]:
    """What the probes of memory say, and those of GPUs where they count."""
    found: dict[str, float] = {}
    for probe in sampler.everything():
        if probe.name != "memory" and not (offload and probe.name.startswith("gpu")):
            continue
        with suppress(Absent, OSError):
            probe.open()
            found |= probe.read()
        probe.close()
    return found


def _free(machine: Machine) -> tuple[int, ...]:
    found = tuple(room.free for room in machine.rooms if room.device == "cpu")
    if not found:
        raise UserError("how much memory is free is not known here: give --memory")
    return found


def _text_bytes(settings: Settings) -> int | None:
    """The size of the text that is scored, where it is known already."""
    with suppress(OSError):
        return os.path.getsize(settings.text) if settings.text else None
    return None
