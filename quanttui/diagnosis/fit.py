"""What fits, how fast and how long: the memory that a quant takes at a context, before anything is loaded. Pure.

Owns the sums (weights on each device, KV cache, compute and output buffers, the engine itself), the line between fits,
tight and does not fit, and the guesses of speed and time. Knows no file and no machine: what there is comes as
`Prospect` and `Room`, what llama.cpp says of its buffers as `Buffers`. Sources: get_layer_buft_list in
src/llama-model.cpp, llama_kv_cache and output_reserve of llama.cpp as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import bisect
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from quanttui.diagnosis import roofline, thresholds
from quanttui.errors import UserError
from quanttui.events import Settings, Shape
from quanttui.format import percent, significant, size
from quanttui.quants import BY_TYPE_NAME

TIGHT_SHARE, TIGHT_BYTES = 0.10, 1 << 30
"""Headroom below the smaller of the two is tight. Chosen: what grows beside an engine (page tables, the sweep itself,
a browser's next tab) is a share of a small machine, and no more than about a GiB of a large one; a file that was 3 %
below the limit of its cgroup was already read again while it ran (1451 MB at 1400 MB: 3.8 MB a token)."""

OVERHEAD, PER_WORD = 64 << 20, 300
"""Bytes that an engine process takes without any model, and for each token of the vocabulary. Measured: 60 MiB with a
vocabulary of 2,048 tokens on Linux; Llama-3's 128,256 tokens take some 36 MiB more."""

DEVICE_OVERHEAD = 400 << 20
"""Bytes of a GPU that its driver takes for a process besides llama.cpp's buffers: 300 to 500 MiB with CUDA, as drivers
show them of a process that has just begun. Not measured here."""

MBU_LOW, MBU_HIGH = 0.55, 0.90
"""Share of the bandwidth that decoding reaches: clean Q8_0 runs had 0.57 to 0.92 over rounds (see thresholds.wall), and
published runs that are bound by bandwidth are in the same range."""

ARITHMETIC: dict[str, float] = {
    "Q5_K": 0.8,
    "Q4_K": 0.8,
    "Q5_0": 0.6,
    "Q5_1": 0.6,
    "Q4_0": 0.56,
    "Q4_1": 0.56,
    "IQ4_NL": 0.5,
    "IQ4_XS": 0.5,
    "Q3_K": 0.5,
    "Q2_K": 0.54,
    "MXFP4": 0.5,
    **dict.fromkeys(("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M"), 0.16),
}
"""Of a type's mat-vec rate the share of the bandwidth, on one CPU thread: 21 GB/s of 26 for Q4_K, 14.5 for Q4_0, 14 for
Q2_K, 13 for IQ4_XS, 4.1 for IQ3_S. Q3_K, Q5_0, Q5_1, Q4_1 and MXFP4 by their nearest kin; all others keep up."""
FASTER = 2.0
"""How much more arithmetic another CPU may have for each byte of bandwidth. Chosen."""

CONTEXT_PAD = 256
"""llama.cpp rounds a context up to whole blocks of this many."""

LONGEST = 1 << 20
"""No context above this is looked for, whatever a model was trained on."""

ASSUMED_GB_S = (10.0, 100.0)
"""Bandwidth of a host that nothing is known of, for guesses of time alone: two channels of DDR3 to four of DDR5."""

_DISK = (0.3e9, 3e9)
"""Bytes per second that a file is read with: a SATA SSD to a fast NVMe one. Chosen."""
_HASH = (0.4e9, 1.8e9)
"""SHA-256 on one core, without and with the CPU's own instructions. Chosen."""
_QUANTIZE = (20e6, 200e6)
"""Bytes of F16 that one core quantizes in a second, by the type: i-quants are slower still. Chosen."""
_FLOPS = (12e9, 200e9)
"""Multiply-adds that one core gets through in a second of a batch, counted as two. Chosen: AVX2 to AVX-512."""
_DEVICE_FLOPS = (2e12, 200e12)
"""The same of a whole GPU. Chosen."""
_OPENING = (2.0, 10.0)
"""Seconds that an engine takes to start, to warm up and to measure its ceilings. Chosen."""
_WIKITEXT = 1_290_590
"""Bytes of WikiText-2's test part, the text that is scored where no other is known."""
_BYTES_PER_TOKEN = (3.4, 4.8)
"""English text: vocabularies of 32,000 and of 256,000 tokens."""

WIRED_SMALL, WIRED_LARGE, WIRED_FROM = 2 / 3, 3 / 4, 36 << 30
"""Share of unified memory that a GPU may wire: Metal's recommendedMaxWorkingSetSize as it is reported of 8 to 36 GB
machines, and of larger ones. Not measured here."""

VERDICTS = {"fits": "fits", "tight": "tight", "no": "does not fit", "unknown": "not known"}
"""A quant's verdict, and how it is said."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of one device ("cpu", "gpu0"): bytes of it, bytes free, and where that figure is from.

    `within`: the device whose memory this is a part of (a GPU's share of unified memory), "" for memory of its own.
    """

    device: str
    total: int
    free: int
    note: str = ""
    within: str = ""


class Prospect(msgspec.Struct, frozen=True, kw_only=True):
    """A quant that may be run: what is known from its header, or will be true of it once it is made.

    id, quant, bytes: the arm's, `bytes` of the file. `source_bytes`: of what it has to be made from, 0 for a file.
    layers: bytes of weights of each layer, and behind them those of the output. `packs`: of these the bytes that the
        CPU backend would rearrange into memory of its own, in the same order.
    input: bytes of the tables that stay with the host; `tied` those of the embedding where it is the output as well.
    """

    id: str
    quant: str
    shape: Shape
    bytes: int
    layers: tuple[int, ...]
    packs: tuple[int, ...] = ()
    input: int = 0
    tied: int = 0
    source_bytes: int = 0


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A context: tokens of it over all `sequences`, and for how many tokens of a batch the logits are asked."""

    context: int
    sequences: int = 1
    outputs: int = 1

    @property
    def cells(self) -> int:
        """Tokens that one sequence has room for, as llama.cpp rounds them."""
        whole = _padded(self.context)
        return _padded(whole // self.sequences)


class Buffers(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of llama.cpp's compute buffers by device, and of its output buffer; `measured`: it told them itself."""

    compute: dict[str, int]
    output: int
    measured: bool = True


Weigh = Callable[[Prospect, Use], "Buffers | None"]
"""Asks for the buffers of a prospect in use; None where they are not told."""


class Range(msgspec.Struct, frozen=True):
    """From `low` to `high`: where a guess is expected to come out."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """A quant in one use. Bytes, by device where they are a dict.

    need: all of it, by device: `weights`, `kv` (recurrent state among it), `compute`, `output`, and what a process
        takes for itself. `twice`: bytes of the mapped file that were read but are used in a rearranged copy: they count
        as used, and may be dropped.
    verdict: fits, tight, no, unknown. `spare`: headroom of the device with the least, negative where bytes are missing;
        `device` is that one. `longest`: tokens of the longest context that fits, 0 for none, None if unknown.
    tok_s: of a generated token with an empty context, `tok_s_full` at the end of it; None with the reason `slow_why`.
    seconds: of the sweep's units of this quant. `estimated`: llama.cpp was not asked for its buffers.
    """

    id: str
    quant: str
    bytes: int
    context: int
    kv_type: str
    weights: dict[str, int]
    kv: dict[str, int]
    compute: dict[str, int]
    output: int
    need: dict[str, int]
    twice: int
    offloaded: int
    verdict: str
    spare: int | None
    device: str
    longest: int | None
    trained: int
    tok_s: Range | None
    tok_s_full: Range | None
    slow_why: str
    seconds: Range
    estimated: bool
    note: str

    @property
    def words(self) -> str:
        """The verdict as it is said."""
        return VERDICTS[self.verdict]

    @property
    def total(self) -> int:
        """Bytes of all devices together."""
        return sum(self.need.values())


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What fits into the `rooms`, largest quant first, and how long a sweep over all that do will take."""

    model: str
    context: int
    kv: str
    arms: tuple[Fitted, ...]
    rooms: tuple[Room, ...]
    bandwidth: dict[str, float]
    notes: tuple[str, ...]
    seconds_low: float
    seconds_high: float

    @property
    def free(self) -> int | None:
        """Bytes of the host's memory that are free; None if unknown."""
        return next((room.free for room in self.rooms if room.device == "cpu"), None)

    @property
    def total(self) -> int | None:
        """Bytes of the host's memory; None if unknown."""
        return next((room.total for room in self.rooms if room.device == "cpu"), None)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """For one memory and one context the best quant that fits: "" where none does; `tight` where it is no more."""

    memory: int
    context: int
    quant: str
    need: int
    tight: bool = False


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """A row of cells for each memory, a cell for each context. `best` is the largest by bits per weight."""

    model: str
    kv: str
    memories: tuple[int, ...]
    contexts: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of where it will run: memory, GB/s of devices by name, cores, and bytes of last-level cache."""

    rooms: tuple[Room, ...] = ()
    bandwidth: dict[str, float] = {}
    cores: int = 1
    cache: int | None = None

    @property
    def gpus(self) -> tuple[Room, ...]:
        """The devices that layers can be offloaded to."""
        return tuple(room for room in self.rooms if room.device != "cpu")


# --- what there is --------------------------------------------------------------------------------------------------


def rooms(readings: Mapping[str, float], offload: bool) -> tuple[Room, ...]:
    """The memory that is free by a host's readings (events.READINGS): of the host, and with `offload` of its GPUs.

    A GPU without memory of its own (Apple's, or one that gives the host's as its own) has a share of the host's.
    """
    total, free = readings.get("mem.total"), readings.get("mem.available")
    found = [] if total is None or free is None else [Room(device="cpu", total=int(total), free=int(free))]
    if not offload:
        return tuple(found)
    names = sorted(name.partition(".")[0] for name in readings if re.fullmatch(r"gpu\d+\.mem_total", name))
    for name in names:
        held, used = readings[f"{name}.mem_total"], readings.get(f"{name}.mem_used", 0.0)
        within = "cpu" if total is not None and held == total else ""
        found.append(Room(device=name, total=int(held), free=max(0, int(held - used)), within=within))
    if not names and found and "mem.wired" in readings:
        found.append(_unified(readings, int(total or 0), int(free or 0)))
    return tuple(found)


def _unified(readings: Mapping[str, float], total: int, free: int) -> Room:
    """What macOS lets a GPU wire of the memory that it shares."""
    limit, note = readings.get("mem.wired_limit"), "what iogpu.wired_limit_mb lets it wire"
    if limit is None:
        limit = total * (WIRED_LARGE if total > WIRED_FROM else WIRED_SMALL)
        note = f"about {percent(limit / total)} % of memory: macOS lets it wire that unless iogpu.wired_limit_mb is set"
    return Room(device="gpu0", total=int(limit), free=min(free, int(limit)), note=note, within="cpu")


# --- what a quant takes -----------------------------------------------------------------------------------------


def kv_bytes(shape: Shape, use: Use, kv: str, ubatch: int = 512) -> tuple[int, ...]:
    """Bytes that llama.cpp reserves in each layer for keys, values and recurrent state, in the whole of a context.

    Layers with a sliding window keep that window and one batch (`ubatch`), padded. Other than what a token reads
    (roofline.kv_bytes), all of it is taken, however little of it is filled.

    Raises:
        ValueError: ggml has no type `kv`.
    """
    kind = BY_TYPE_NAME.get(kv.upper())
    if kind is None:
        raise ValueError(f"KV cache type {kv!r} is none of ggml's")
    counts = shape.head_count_kv
    windows = shape.windows or (shape.window,) * len(counts)
    without = sum(not heads for heads in counts)
    state = shape.state_bytes // max(1, without or len(counts))
    held = []
    for heads, window in zip(counts, windows, strict=False):
        cells = min(use.cells, _padded(window + ubatch)) if window else use.cells
        width = shape.latent or heads * (shape.key_length + shape.value_length)
        keys = cells * width * kind.bytes // kind.block if heads else 0
        held.append(use.sequences * (keys + (0 if heads and without else state)))
    return tuple(held)


def estimated(prospect: Prospect, use: Use, settings: Settings, devices: Sequence[str] = ("cpu",)) -> Buffers:
    """The buffers as they come out where llama.cpp was not asked.

    Its compute buffer is that of a whole batch: the logits and a few rows of the model's width, or the widest layer,
    whichever is more. From 12 % below to 8 % above what llama.cpp says of the shapes in quanttui.shapes on a CPU.
    """
    shape, tokens = prospect.shape, min(settings.ubatch, use.cells * use.sequences)
    compute = max(4 * tokens * (shape.vocabulary + 3 * shape.embedding), _hidden(shape, use, settings))
    return Buffers(
        compute={device: compute for device in devices},
        output=4 * shape.vocabulary * max(use.sequences, use.outputs),
        measured=False,
    )


def _hidden(shape: Shape, use: Use, settings: Settings) -> int:
    """What a batch takes inside the widest layer with its mask: the feed-forward part of the experts used, or without
    flash attention the scores."""
    tokens, flash = min(settings.ubatch, use.cells * use.sequences), settings.flash_attn != "off"
    scores = 0 if flash else shape.heads * use.cells
    row = max(3 * max(1, shape.experts_used) * shape.feed_forward, scores) + 4 * shape.embedding
    return 4 * tokens * row + (2 if flash else 4) * tokens * use.cells


def touched(prospect: Prospect, use: Use, settings: Settings, compute: int) -> int:
    """Of a compute buffer of the host the bytes that are ever written, and so take memory.

    It has room for the logits of a whole batch, of which those that nobody asks for stay untouched: at least what the
    layers need is written. A GPU's is taken as a whole.
    """
    tokens = min(settings.ubatch, use.cells * use.sequences)
    idle = 4 * prospect.shape.vocabulary * max(0, tokens - use.outputs)
    return max(min(compute, _hidden(prospect.shape, use, settings)), compute - idle)


def placed(prospect: Prospect, settings: Settings, machine: Machine) -> tuple[str, ...]:
    """The device of each layer, and behind them the output's, as llama.cpp deals them out.

    The last `gpu_layers` of them (the output counts as one), in stretches by `tensor_split`, or by the memory that is
    free on each GPU; with split mode none all on the first. Row and tensor splits divide each layer by the same shares:
    they come to the same sums.
    """
    gpus = machine.gpus[:1] if settings.split_mode == "none" else machine.gpus
    count = len(prospect.layers)
    wanted = count if settings.gpu_layers < 0 else min(settings.gpu_layers, count)
    if not gpus or not wanted:
        return ("cpu",) * count
    shares = [*settings.tensor_split, *[0.0] * len(gpus)][: len(gpus)]
    if not sum(shares):
        shares = [float(room.free) for room in gpus]
    if not sum(shares):
        shares = [1.0] * len(gpus)
    points = [part / sum(shares) for part in itertools.accumulate(shares)]
    dealt = [gpus[min(bisect.bisect_right(points, at / wanted), len(gpus) - 1)].device for at in range(wanted)]
    return (*("cpu",) * (count - wanted), *dealt)


def fitted(
    prospect: Prospect,
    use: Use,
    settings: Settings,
    machine: Machine,
    weigh: Weigh | None = None,
    text_bytes: int | None = None,
) -> Fitted:
    """One prospect in one use on a machine."""
    told = weigh(prospect, use) if weigh else None
    needs = _needs(prospect, use, settings, machine, told)
    verdict, spare, device = judged(needs.total, machine)
    tok_s, why = speed(prospect, 0, settings, machine)
    full, _ = speed(prospect, use.context, settings, machine)
    shape = prospect.shape
    return Fitted(
        id=prospect.id,
        quant=prospect.quant,
        bytes=prospect.bytes,
        context=use.context,
        kv_type=settings.kv,
        weights=needs.weights,
        kv=needs.kv,
        compute=needs.buffers.compute,
        output=needs.buffers.output,
        need=needs.total,
        twice=needs.twice,
        offloaded=sum(each != "cpu" for each in needs.places),
        verdict=verdict,
        spare=spare,
        device=device,
        longest=longest(prospect, use, settings, machine, told),
        trained=shape.context,
        tok_s=tok_s,
        tok_s_full=full,
        slow_why=why,
        seconds=seconds(prospect, settings, machine, text_bytes),
        estimated=not needs.buffers.measured,
        note=shape.note,
    )


class _Needs(msgspec.Struct, frozen=True):
    places: tuple[str, ...]
    weights: dict[str, int]
    kv: dict[str, int]
    buffers: Buffers
    twice: int
    total: dict[str, int]


def _needs(prospect: Prospect, use: Use, settings: Settings, machine: Machine, told: Buffers | None) -> _Needs:
    """Every sum, by device."""
    places = placed(prospect, settings, machine)
    used = tuple(dict.fromkeys((*places, "cpu")))
    buffers = told or estimated(prospect, use, settings, [device for device in used if device in places])
    weights, twice = _weights(prospect, places, settings)
    kv: dict[str, int] = {}
    for device, held in zip(places, kv_bytes(prospect.shape, use, settings.kv, settings.ubatch), strict=False):
        kv[device] = kv.get(device, 0) + held
    total = {device: weights.get(device, 0) + kv.get(device, 0) + _own(prospect, device) for device in used}
    for device, held in buffers.compute.items():
        total[device] = total.get(device, 0) + (touched(prospect, use, settings, held) if device == "cpu" else held)
    total["cpu"] += buffers.output
    return _Needs(places, weights, kv, buffers, twice, total)


def _own(prospect: Prospect, device: str) -> int:
    return OVERHEAD + PER_WORD * prospect.shape.vocabulary if device == "cpu" else DEVICE_OVERHEAD


def _weights(prospect: Prospect, places: Sequence[str], settings: Settings) -> tuple[dict[str, int], int]:
    """Bytes of weights that must stay in memory, by device, and those that lie there a second time.

    A tied embedding is copied where the output lies on another device than the host, or is rearranged. A locked file
    (mlock) stays as a whole, so that what is rearranged of it is needed twice.
    """
    weights = {"cpu": prospect.input}
    for device, held in zip(places, prospect.layers, strict=True):
        weights[device] = weights.get(device, 0) + held
    packs = prospect.packs if settings.repack else ()
    packed = sum(held for device, held in zip(places, packs, strict=False) if device == "cpu")
    if prospect.tied and places[-1] != "cpu":
        weights[places[-1]] += prospect.tied
    elif prospect.tied and packs and packs[-1]:
        weights["cpu"] += prospect.tied
        packed -= min(packed, prospect.tied)
    if "mlock" in settings.load_mode:
        weights["cpu"] += packed
        packed = 0
    return weights, 0 if settings.load_mode == "none" else packed


def judged(need: Mapping[str, int], machine: Machine) -> tuple[str, int | None, str]:
    """Whether that fits: the verdict, the headroom of the device that has the least of it, and that device."""
    rooms = {room.device: room for room in machine.rooms}
    if any(device not in rooms for device, held in need.items() if held):
        return "unknown", None, ""
    taken = {device: need.get(device, 0) for device in rooms}
    for room in machine.rooms:
        if room.within in taken:
            taken[room.within] += need.get(room.device, 0)
    spares = {device: room.free - taken[device] for device, room in rooms.items() if taken[device]}
    if not spares:
        return "unknown", None, ""
    device = min(spares, key=lambda each: spares[each] / max(1, margin(rooms[each])))
    spare = spares[device]
    verdict = "no" if spare < 0 else "tight" if spare < margin(rooms[device]) else "fits"
    return verdict, spare, device


def margin(room: Room) -> float:
    """Headroom in bytes below which it is tight."""
    return min(TIGHT_SHARE * room.total, TIGHT_BYTES)


def longest(
    prospect: Prospect, use: Use, settings: Settings, machine: Machine, told: Buffers | None = None
) -> int | None:
    """The longest context of one sequence that fits (tight counts), in whole blocks up to what the model was trained
    on; 0 for none, None where the memory is not known.

    `told` are the buffers of `use`: those of other contexts differ from it by what the estimates do.
    """
    most = min(prospect.shape.context or LONGEST, LONGEST)

    def fits(blocks: int) -> bool:
        asked = Use(context=min(most, blocks * CONTEXT_PAD))
        moved = None if told is None else _moved(prospect, told, use, asked, settings)
        verdict, _, _ = judged(_needs(prospect, asked, settings, machine, moved).total, machine)
        return verdict in ("fits", "tight")

    if judged(_needs(prospect, use, settings, machine, told).total, machine)[0] == "unknown":
        return None
    low, high = 0, -(-most // CONTEXT_PAD)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return min(most, low * CONTEXT_PAD)


def _moved(prospect: Prospect, told: Buffers, use: Use, asked: Use, settings: Settings) -> Buffers:
    """Buffers of another context, by what the estimates of both differ in."""
    here = estimated(prospect, use, settings)
    there = estimated(prospect, asked, settings)
    grown = there.compute["cpu"] - here.compute["cpu"]
    compute = {device: max(0, held + grown) for device, held in told.compute.items()}
    return Buffers(compute=compute, output=there.output, measured=told.measured)


# --- speed and time -------------------------------------------------------------------------------------------------


def speed(prospect: Prospect, depth: int, settings: Settings, machine: Machine) -> tuple[Range | None, str]:
    """Tokens per second that may be expected at `depth`, and why there is no figure.

    The bandwidth of the devices read in turn (roofline.split_tok_s) times MBU_LOW to MBU_HIGH; where the host computes,
    less by the types whose arithmetic does not keep up (ARITHMETIC).
    """
    shape = prospect.shape
    places = placed(prospect, settings, machine)
    held, _ = _weights(msgspec.structs.replace(prospect, packs=()), places, settings)
    active = roofline.active_bytes(shape, depth, settings.kv)
    if machine.cache and set(places) == {"cpu"} and active < machine.cache:
        return None, f"what a token reads ({size(active)}) fits into the CPU's cache: bandwidth does not bound it"
    missing = sorted({device for device in places if not machine.bandwidth.get(device, 0) > 0})
    if missing:
        return None, f"the bandwidth of {', '.join(missing)} is not known: a sweep measures it, or give --bandwidth"
    ceiling = roofline.split_tok_s(shape, depth, settings.kv, held, machine.bandwidth)
    if ceiling is None:
        return None, "what a token reads is not known"
    low, high = reached(shape) if set(places) == {"cpu"} else (MBU_LOW, MBU_HIGH)
    return Range(low * ceiling, high * ceiling), ""


def reached(shape: Shape) -> tuple[float, float]:
    """The share of the host's bandwidth that decoding reaches, by the types of its tensors: low and high."""
    types = roofline.active_types(shape)
    paced = math.fsum(types.values()) / max(
        1.0, math.fsum(held / ARITHMETIC.get(kind, 1.0) for kind, held in types.items())
    )
    return MBU_LOW * min(1.0, paced), MBU_HIGH * min(1.0, FASTER * paced)


def seconds(prospect: Prospect, settings: Settings, machine: Machine, text_bytes: int | None = None) -> Range:
    """How long the sweep's units of one quant take: a guess, whose ends lie far apart where little is known.

    Making the file, hashing and loading it, opening, prompts, decodes, and the chunks of a text of `text_bytes`.
    """
    size_, cores = prospect.bytes, max(1, settings.threads or machine.cores)
    parts = [Range(*_OPENING), _per(size_, _HASH), _per(size_, _DISK)]
    if prospect.source_bytes:
        parts.append(_per(prospect.source_bytes, _QUANTIZE, cores))
    tokens, generated = _asked(settings)
    parts.append(_batches(prospect, tokens, settings, machine, cores))
    parts += [_decodes(prospect, depth, generated, settings, machine) for depth in settings.depths if generated]
    if {"ppl", "kld"} & set(settings.tasks) and settings.chunks != 0:
        low, high = _text_tokens(settings, text_bytes)
        scored = _batches(prospect, 1, settings, machine, cores)
        parts.append(Range(low * scored.low, high * scored.high))
    return sum(parts, Range(0.0, 0.0))


def _asked(settings: Settings) -> tuple[int, int]:
    """Prompt tokens of all repetitions and depths (a decode at a depth fills it first), and tokens of one decode."""
    if "speed" not in settings.tasks or not settings.repetitions:
        return 0, 0
    rounds = settings.repetitions + 1
    filled = sum(settings.depths) * 2 * rounds
    return settings.prompt * rounds * len(settings.depths) + filled, settings.decode


def _decodes(prospect: Prospect, depth: int, tokens: int, settings: Settings, machine: Machine) -> Range:
    """A warm-up and the repetitions of one decode, and those that follow until it is precise or long enough."""
    rate, _ = speed(prospect, depth, settings, machine)
    if rate is None:
        reads = roofline.active_bytes(prospect.shape, depth, settings.kv)
        low, high = reached(prospect.shape)
        rate = Range(low * ASSUMED_GB_S[0] * 1e9 / reads, high * ASSUMED_GB_S[1] * 1e9 / reads)
    least = thresholds.of(settings).seconds
    once = Range(tokens / rate.high, tokens / rate.low)
    timed = Range(settings.repetitions * once.low, settings.repetitions * once.high)
    more = settings.speed_seconds if settings.precision > 0 else least
    return once + Range(max(least, timed.low), max(least, more, timed.high))


def _batches(prospect: Prospect, tokens: int, settings: Settings, machine: Machine, cores: int) -> Range:
    """So many tokens in batches."""
    work = tokens * roofline.flops_per_token(prospect.shape, 0)
    offloaded = set(placed(prospect, settings, machine)) != {"cpu"}
    return _per(work, _DEVICE_FLOPS) if offloaded else _per(work, _FLOPS, cores)


def _text_tokens(settings: Settings, text_bytes: int | None) -> tuple[float, float]:
    """Fewest and most tokens of the text that are scored."""
    short, long = ((text_bytes or _WIKITEXT) / each for each in reversed(_BYTES_PER_TOKEN))
    if settings.chunks is None or settings.chunks < 0:
        return short, long
    asked = float(settings.chunks * settings.context)
    return min(asked, short), min(asked, long)


def _per(amount: float, rate: tuple[float, float], by: int = 1) -> Range:
    """Seconds for an amount at a low and a high rate."""
    return Range(amount / (rate[1] * by), amount / (rate[0] * by))


# --- plans ----------------------------------------------------------------------------------------------------------


def uses(settings: Settings) -> tuple[Use, ...]:
    """The contexts that a sweep makes: of its speed tests, and of the chunks that are scored together."""
    found = []
    if "speed" in settings.tasks and settings.repetitions:
        longest_ = max(settings.prompt, settings.decode) + max(settings.depths, default=0)
        found.append(Use(context=max(1, longest_)))
    if {"ppl", "kld"} & set(settings.tasks) and settings.chunks != 0:
        group = max(1, settings.batch // settings.context)
        half = settings.context // 2
        found.append(Use(context=group * settings.context, sequences=group, outputs=min(settings.batch, group * half)))
    return tuple(found) or (Use(context=settings.context),)


def hardest(
    prospect: Prospect,
    settings: Settings,
    machine: Machine,
    weigh: Weigh | None = None,
    text_bytes: int | None = None,
) -> Fitted:
    """A quant in that use of the sweep which takes most."""
    each = (fitted(prospect, use, settings, machine, weigh, text_bytes) for use in uses(settings))
    return max(each, key=lambda one: one.total)


def plan(
    model: str,
    prospects: Sequence[Prospect],
    settings: Settings,
    machine: Machine,
    *,
    context: int | None = None,
    weigh: Weigh | None = None,
    text_bytes: int | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """What fits at a context; without one, in the contexts of the sweep itself.

    Raises:
        UserError: the settings' KV type is none of ggml's.
    """
    if settings.kv.upper() not in BY_TYPE_NAME:
        raise UserError(f"--kv {settings.kv}: ggml has no such type")
    if context is None:
        arms = [hardest(each, settings, machine, weigh, text_bytes) for each in prospects]
    else:
        use = Use(context=context)
        arms = [fitted(each, use, settings, machine, weigh, text_bytes) for each in prospects]
    run = [arm.seconds for arm in arms if arm.verdict != "no"]
    whole = sum(run, Range(0.0, 0.0))
    return Plan(
        model=model,
        context=context if context is not None else max((use.context for use in uses(settings)), default=0),
        kv=settings.kv,
        arms=tuple(arms),
        rooms=machine.rooms,
        bandwidth=machine.bandwidth,
        notes=(*notes, *_notes(arms, machine)),
        seconds_low=whole.low,
        seconds_high=whole.high,
    )


def matrix(
    model: str,
    prospects: Sequence[Prospect],
    memories: Sequence[int],
    contexts: Sequence[int],
    settings: Settings,
    weigh: Weigh | None = None,
) -> Matrix:
    """For each memory (bytes, all of it free) and context the largest quant that fits, by bits per weight, with its
    cache. Those that fit with room come before those that are tight."""
    best_first = sorted(prospects, key=lambda each: -each.bytes)
    needs = {(context, each.id): _all(each, context, settings, weigh) for context in contexts for each in best_first}
    rows = tuple(tuple(_best(best_first, memory, context, needs) for context in contexts) for memory in memories)
    notes = ["the largest quant that fits into so much free memory, all of it in one place"]
    if weigh is None:
        notes.append(_ESTIMATED)
    trained = max((each.shape.context for each in prospects), default=0)
    if trained and max(contexts, default=0) > trained:
        notes.append(f"the model was trained on {trained} tokens")
    return Matrix(
        model=model,
        kv=settings.kv,
        memories=tuple(memories),
        contexts=tuple(contexts),
        rows=rows,
        notes=tuple(notes),
    )


def _all(prospect: Prospect, context: int, settings: Settings, weigh: Weigh | None) -> int:
    """Bytes of everything, in one memory."""
    use = Use(context=context)
    told = weigh(prospect, use) if weigh else None
    return sum(_needs(prospect, use, settings, Machine(), told).total.values())


_ESTIMATED = "compute and output buffers are estimated: llama.cpp was not asked"


def _best(prospects: Sequence[Prospect], memory: int, context: int, needs: Mapping[tuple[int, str], int]) -> Cell:
    room = Machine(rooms=(Room(device="cpu", total=memory, free=memory),))
    verdicts = [(each, judged({"cpu": needs[context, each.id]}, room)[0]) for each in prospects]
    for wanted in ("fits", "tight"):
        for each, verdict in verdicts:
            if verdict == wanted:
                need = needs[context, each.id]
                return Cell(memory=memory, context=context, quant=each.quant, need=need, tight=wanted == "tight")
    least = min((needs[context, each.id] for each in prospects), default=0)
    return Cell(memory=memory, context=context, quant="", need=least)


def _notes(arms: Sequence[Fitted], machine: Machine) -> list[str]:
    """What a reader of the figures must know."""
    notes = [f"{room.device}: {room.note}" for room in machine.rooms if room.note]
    if any(arm.estimated for arm in arms):
        notes.append(_ESTIMATED)
    packed = max((arm.twice for arm in arms), default=0)
    if packed:
        notes.append(
            f"the CPU backend rearranges up to {size(packed)} of weights: the file's pages of them lie in memory too "
            "as long as there is room, and are not counted"
        )
    beyond = [arm for arm in arms if arm.trained and arm.context > arm.trained]
    if beyond:
        notes.append(f"{beyond[0].context} tokens are more than the {beyond[0].trained} that the model was trained on")
    whys = list(dict.fromkeys(arm.slow_why for arm in arms if arm.slow_why))
    notes += [f"no speed is predicted: {why}" for why in whys[:1]]
    if any(arm.tok_s for arm in arms):
        known = ", ".join(f"{device} {significant(rate)} GB/s" for device, rate in machine.bandwidth.items())
        notes.append(
            f"tok/s: {percent(MBU_LOW)} to {percent(MBU_HIGH)} % of what {known} allow with an empty context, which "
            "clean runs reach; less where a type's arithmetic is slower than that"
        )
    notes += list(dict.fromkeys(f"{arm.note}" for arm in arms if arm.note))
    return notes


def _padded(tokens: int) -> int:
    return -(-max(1, tokens) // CONTEXT_PAD) * CONTEXT_PAD
