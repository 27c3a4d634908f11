"""The vocabulary: every fact that a session can hold, its codec, and nothing else. Imports nothing of ours.

A session's log is one JSON object a line. `n` counts events from 0, `t` is monotonic seconds since the session
was opened (a resumed session goes on from its last `t`). Verdicts, intervals and advice are not events: they are
derived on every read, so that a better rule improves old sessions.

Units, everywhere: seconds for `t` and `at` (session time), nanoseconds for `ns`, bytes for memory and files,
bytes per second divided by 1e9 for `gb_s`. A value that a host cannot give is absent (None, or no key), never 0.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

import msgspec
from msgspec import Meta

SCHEMA = 1

OUTCOMES = ("ok", "failed", "oom", "crashed", "refused", "timeout", "skipped", "interrupted")
PHASES = (
    "idle", "quantize", "hash", "load", "bandwidth", "warm", "prompt", "decode", "perplexity", "task", "cool", "paused"
)
STOPPED = ("eos", "stop", "length", "context", "choice")
"""Why an answer ended: the model ended it, one of its stop strings or letters came, it was long enough or filled the
context; or its prompt alone was too long for the context, and there is none; or it was chosen, not generated."""

READINGS: dict[str, str] = {
    "mem.total": "bytes of memory that this sweep may use: the container's limit if there is one, else the machine's",
    "mem.used": "bytes used of mem.total, page cache that can be dropped left out",
    "mem.available": "bytes that can still be had without swapping: limit - (current - inactive_file - active_file)",
    "swap.total": "bytes of swap space",
    "swap.used": "bytes of swap in use, by anybody",
    "swap.in": "bytes swapped in since boot, by anybody (pages x page size)",
    "swap.out": "bytes swapped out since boot, by anybody",
    "zswap.in": "bytes taken back from compressed memory since boot, by anybody (zswap, macOS's compressor)",
    "mem.pressure": "macOS's level of memory pressure: 1 normal, 2 warning, 4 critical",
    "mem.wired": "bytes wired down, which nothing can evict (macOS)",
    "mem.wired_limit": "bytes that a GPU may wire of unified memory (macOS)",
    "psi.memory.some": "microseconds since boot in which some task waited for memory",
    "psi.memory.full": "microseconds since boot in which all tasks waited for memory",
    "psi.io.some": "microseconds since boot in which some task waited for a disk",
    "psi.cpu.some": "microseconds since boot in which some task waited for a core",
    "cpu.steal": "core-seconds since boot that the hypervisor took",
    "cpu.busy": "core-seconds since boot used by anybody, the engine and quanttui included",
    "engine.rss": "bytes of the engine process in memory",
    "engine.anonymous": "bytes of it that no file backs: these can only be swapped",
    "engine.read": "bytes that the engine process really fetched from storage since it started, swap-ins included",
    "engine.majflt": "major page faults of the engine process since it started",
    "engine.cpu": "core-seconds of the engine process since it started",
    "engine.nvcsw": "voluntary context switches of the engine process",
    "engine.nivcsw": "involuntary context switches of the engine process",
    "gpuN.util": "percent of time in which a kernel ran on GPU N: not a share of its bandwidth",
    "gpuN.mem_util": "percent of time in which GPU N's memory was touched: not a share of its bandwidth",
    "gpuN.mem_total": "bytes of memory of GPU N",
    "gpuN.mem_used": "bytes of it in use, by anybody",
    "gpuN.power": "watts, as the driver averages them",
    "gpuN.energy": "joules since the driver was loaded: the source for energy, by difference",
    "gpuN.temperature": "degrees Celsius",
    "gpuN.clock": "MHz of the SM clock now",
    "gpuN.clock_max": "MHz of the SM clock at most",
    "gpuN.mem_clock": "MHz of the memory clock now",
    "gpuN.reasons": "NVML clock event reasons, a bit mask",
    "gpuN.dram": "percent of GPU N's memory bandwidth in use (GPM's counter): a true share",
    "gpuN.pcie_rx": "bytes per second that come to GPU N over the bus (GPM's counter)",
    "gpuN.bandwidth": "bytes per second that GPU N's memory gives at most: bus width x memory clock x 2",
    "gpuN.shared_used": "bytes of the host's memory that GPU N uses as its own (GTT, shared GPU memory)",
    "gpuN.others": "processes on GPU N that are neither the engine nor its children",
    "gpuN.others_mem": "bytes of GPU N's memory that those use",
    "package.energy": "joules of the CPU package since boot (RAPL, macOS's IOReport), where it is readable",
    "self.cpu": "core-seconds of the process that writes this log since it started, its screen included",
    "self.rss": "bytes of that process in memory",
    "self.probes": "core-seconds that taking these readings has cost so far",
}
"""Every name that a sample may carry, with its unit and meaning. Counters are cumulative: differences are taken on
reading. GPU readings carry the device's number: gpu0.util."""


Count = Annotated[int, Meta(ge=0, le=2**53)]
Scored = Annotated[int, Meta(ge=1, le=2**26)]
Place = Annotated[int, Meta(ge=0, le=2**32)]
Number = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Signed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Nanoseconds = Annotated[int, Meta(ge=0, le=2**53)]
Pid = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Real = Annotated[float, Meta(ge=-1e30, le=1e30)]
Moment = Annotated[float, Meta(ge=-1.0, le=1e10)]
Wall = Annotated[float, Meta(ge=0.0, le=1e11)]
"""What numbers can be. A line with any other is no event: nobody wrote it who measured something."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device as the driver names it. `memory` in bytes, None where the driver does not say."""

    name: str
    memory: Whole | None = None
    driver: str = ""


class Host(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine. `memory_limit` is the container's, in bytes; `cache` the last-level cache, in bytes. Cores, threads
    and memory are 0 where nobody tells: in sessions that were imported."""

    name: str
    os: str
    cpu: str
    cores: Count
    threads: Count
    memory: Whole
    memory_limit: Whole | None = None
    cache: Whole | None = None
    gpus: tuple[Gpu, ...] = ()
    boot_id: str = ""


class Build(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The programs that measured. `system_info` is llama.cpp's own line of instruction sets and backends."""

    quanttui: str
    llama_cpp_python: str
    llama_cpp: str
    gpu_offload: bool
    system_info: str = ""
    devices: tuple[str, ...] = ()


class Observer(msgspec.Struct, frozen=True, kw_only=True):
    """What watching costs on this machine, as `quanttui doctor --observer` found it at Unix time `wall`.

    `live`, `headless`: the shares of decode tok/s of `model` that are lost with the live screen at 120x40, and without
    any screen, against an engine that nobody watches: medians over `pairs`. Negative where it came out faster.
    """

    live: Real
    headless: Real
    pairs: Count
    model: str = ""
    wall: Wall = 0.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep measures and how: llama-bench's and llama-perplexity's parameters, under their names.

    `prompt`, `decode`, `repetitions` = 0 leave that part out; `chunks` None means all of the text, 0 none.
    `gpu_layers` -1 asks for all. `context` is the perplexity's n_ctx. `text` is "pocket", "wikitext-2" or a path.
    `depths`: tokens in the KV cache before prompt and decode, one test of each per depth; the first gives the figures
    that arms are compared by.

    Speed goes on after `repetitions` until the interval of decode tok/s is within ± `precision` (a share; 0: it does
    not go on), for at most `speed_seconds` of timed decoding.
    `schedule`: sequential, round-robin, abba. `order`: the arms as they come, empty for the plan's order. `anchor`: how
    many arms are measured between two re-measurements of the anchor arm (0: none); a change of its decode tok/s by more
    than the share `drift` is drift.
    `base`: the arm that others are held against, "" for an unquantized one or the largest. `kld`: where the base's
    logits come from: file, beside, auto; `kld_bytes` caps the file, `kld_base` is one that exists already,
    with its SHA-256.
    `until`: full scores all chunks in the text's order; decided draws them in one random order (`seed`) and stops an
    arm when its interval lies wholly inside or outside ± `tolerance` (a share of the base's perplexity).
    `prompts`: the file of the task of that name, "" for the shipped ones. An answer has at most `max_tokens` tokens,
    where its prompt says nothing else. `chat`: a prompt that is plain text is given as a user's message, too, where the
    model has a chat template.
    `mmlu` is a folder of MMLU's files and `ner` a file in CoNLL's columns, "" for those that `datasets` fetches. Of
    `mmlu_subjects` (empty: ten of them) so many items are drawn by `items_seed`, as many of `ner`'s sentences;
    `mmlu_score`: generate (the first letter of the answer) or logits (the choice's log-likelihood). `thinking`: the
    chat template's switch, on, off, or both one after the other; "" leaves it alone. `digests`: the SHA-256 of each
    task's items, by its name. `margin`: two quants whose shares of right answers differ by less than this are the same.
    `thresholds` of verdicts that differ from diagnosis.thresholds', by name; `bandwidth`: GB/s (1e9 bytes per second)
    of devices as configured, by name: cpu, gpu0. `load_mode` and `repack` are llama.cpp's own: how the file is brought
    into memory, and whether the CPU backend may rearrange weights into memory of its own.
    """

    tasks: tuple[str, ...] = ("speed", "ppl")
    prompt: Count = 512
    decode: Count = 128
    depths: Annotated[tuple[Count, ...], Meta(min_length=1)] = (0,)
    repetitions: Count = 5
    precision: Real = 0.0
    speed_seconds: Real = 20.0
    schedule: str = "sequential"
    order: tuple[str, ...] = ()
    anchor: Count = 0
    drift: Real = 0.05
    threads: Count = 1
    gpu_layers: Number = -1
    split_mode: str = "layer"
    tensor_split: tuple[Real, ...] = ()
    batch: Count = 2048
    ubatch: Count = 512
    flash_attn: str = "auto"
    kv: str = "f16"
    context: Count = 512
    chunks: Count | None = None
    text: str = ""
    text_sha256: str = ""
    base: str = ""
    kld: str = "auto"
    kld_bytes: Whole = 2**30
    kld_base: str = ""
    kld_base_sha256: str = ""
    tolerance: Real = 0.01
    until: str = "full"
    seed: Count = 1
    polite: bool = False
    prompts: str = ""
    prompts_sha256: str = ""
    max_tokens: Count = 128
    chat: bool = False
    mmlu: str = ""
    mmlu_subjects: tuple[str, ...] = ()
    mmlu_items: Count = 500
    mmlu_score: str = "generate"
    ner: str = ""
    ner_items: Count = 300
    items_seed: Count = 42
    thinking: str = ""
    digests: tuple[tuple[str, str], ...] = ()
    margin: Real = 0.01
    load_mode: str = "auto"
    repack: bool = True
    thresholds: tuple[tuple[str, Real], ...] = ()
    bandwidth: tuple[tuple[str, Real], ...] = ()


class PlannedArm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One quant of the plan. `file` exists already, or is to be made from `source` by quantizing to `quant`.

    `id` is unique in the session and safe to print; `bytes` is the file's size, or its estimate while to be made.
    `kv` is the KV cache's type where the arm has one of its own, "" where the settings' holds. `origin` is where the
    file, or what it is made from, came from: `hf:org/repo@commit`, `ollama:name:tag`, "" for a file of this machine.
    `ghost`: its weights are random, so it has a speed and a memory, and no quality; `source` then names its shape.
    `prompt`, `decode`: tokens of a repetition where the arm has its own, 0 where the settings' hold.
    """

    id: str
    quant: str
    file: str = ""
    source: str = ""
    imatrix: str = ""
    bytes: Whole | None = None
    kv: str = ""
    origin: str = ""
    ghost: bool = False
    prompt: Count = 0
    decode: Count = 0


class TensorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors of one role and type together. role: embedding, output, experts, block, rows (a table of which a token
    reads one row), other."""

    role: str
    type: str
    count: Count
    elements: Whole
    bytes: Whole


class Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a GGUF's header says of the model, as the roofline needs it. Lengths in elements.

    `head_count_kv` has one entry per layer, 0 where a layer keeps no KV cache. `window` is the sliding window in tokens
    of those layers that have one, and `windows` the one of each layer, 0 where it sees the whole context; empty where
    `window` holds for all of them. `latent`: length of what multi-head latent attention keeps of a token in each layer
    instead of keys and values, 0 without it. `state_bytes`: bytes of recurrent state that every token reads and writes.
    `tied`: there is no output tensor, the embedding is read whole for every token. `note`: what contradicts itself in
    the header, or what the roofline does not know of this architecture.
    """

    architecture: str
    name: str
    layers: Count
    embedding: Count
    vocabulary: Count
    heads: Count
    head_count_kv: tuple[Count, ...]
    key_length: Count
    value_length: Count
    context: Count
    tied: bool
    feed_forward: Count = 0
    experts: Count = 0
    experts_used: Count = 0
    window: Count = 0
    windows: tuple[Count, ...] = ()
    latent: Count = 0
    state_bytes: Whole = 0
    note: str = ""
    parameters: Whole = 0
    tensors: tuple[TensorGroup, ...] = ()


class Unit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The atom of a sweep. Idempotent, recorded when done, never repeated once recorded.

    kind prompt / decode: `tokens` processed at `depth`, the `index`-th repetition.
    kind perplexity: the chunks `index` … `index + count - 1`, decoded together; where they were drawn at random,
    `chunks` are those that the draws of these numbers gave.
    kind anchor: a decode of the anchor arm, measured again: `attempt` is the round, `index` the repetition in it.
    kind task: the `index`-th item of `task`, by its name `item`.
    `attempt` > 1: the same arm once more in a fresh process.
    """

    arm: str
    kind: str
    index: Count
    tokens: Count = 0
    depth: Count = 0
    count: Count = 1
    attempt: Count = 1
    chunks: tuple[Count, ...] = ()
    task: str = ""
    item: str = ""

    @property
    def places(self) -> tuple[int, ...]:
        """The text's chunks that a perplexity unit scores."""
        return self.chunks or tuple(range(self.index, self.index + self.count))

    @property
    def id(self) -> str:
        """A name unique in the session: `Q4_K_M decode 128@0 #3`, `Q4_K_M perplexity 40-43`, `Q4_K_M traps item 7`."""
        again = f" again {self.attempt}" if self.attempt > 1 else ""
        if self.kind == "perplexity":
            return f"{self.arm} perplexity {self.index}-{self.index + self.count - 1}{again}"
        if self.kind == "task":
            return f"{self.arm} {self.task} item {self.item}{again}"
        return f"{self.arm} {self.kind} {self.tokens}@{self.depth} #{self.index}{again}"


class Counters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The engine's own counters, as differences over one unit's timed region, and its memory at the end of it.

    `cpu_ns` is user + system time of all its threads; `read` bytes fetched from storage; `swap_in` and `zswap_in`
    are the machine's, in bytes, over the same region, and `busy_ns` is the time in which its cores were used by
    anybody, what the hypervisor took included.
    """

    cpu_ns: Signed | None = None
    majflt: Signed | None = None
    minflt: Signed | None = None
    read: Signed | None = None
    nvcsw: Signed | None = None
    nivcsw: Signed | None = None
    swap_in: Signed | None = None
    zswap_in: Signed | None = None
    busy_ns: Signed | None = None
    rss: Signed | None = None
    anonymous: Signed | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """What all events have: the sequence number and the session's time. The writer stamps both."""

    n: Number = -1
    t: Moment = -1.0


class SessionOpened(Event, frozen=True, kw_only=True, tag="session.opened"):
    """The first event. `wall` is Unix time, `origin_ns` the monotonic clock at t = 0 of this writer."""

    schema: Count
    model: str
    host: Host
    build: Build
    settings: Settings
    plan: tuple[PlannedArm, ...]
    wall: Wall
    origin_ns: Signed
    pid: Pid
    pid_started: Wall
    notes: tuple[str, ...] = ()
    observer: Observer | None = None


class SessionResumed(Event, frozen=True, kw_only=True, tag="session.resumed"):
    """A later writer goes on: the units recorded before it are not repeated. `changed`: what was no longer as the log
    has it (files, programs, the machine), a line each, where somebody told it to go on all the same."""

    host: Host
    build: Build
    settings: Settings
    plan: tuple[PlannedArm, ...]
    wall: Wall
    origin_ns: Signed
    pid: Pid
    pid_started: Wall
    notes: tuple[str, ...] = ()
    observer: Observer | None = None
    changed: tuple[str, ...] = ()


class ProbeFound(Event, frozen=True, kw_only=True, tag="probe.found"):
    """A source of readings answers. `cost_us` is what one read costs, in microseconds."""

    probe: str
    detail: str = ""
    cost_us: Real | None = None


class ProbeLost(Event, frozen=True, kw_only=True, tag="probe.lost"):
    """A source does not answer (any more), why, and what would mend it."""

    probe: str
    why: str


class ArmStarted(Event, frozen=True, kw_only=True, tag="arm.started"):
    """A quant's file is there and is what its tensors say: `quant` is the label, `tensor_types` the truth.

    `sha256` is the file's in hex, of each part where it is split, comma between; `source_sha256` and `imatrix_sha256`
    are those of what it was made from, "" where it was there.
    """

    arm: str
    quant: str
    file: str
    bytes: Whole
    bits_per_weight: Real
    tensor_types: dict[str, Count]
    shape: Shape
    sha256: str = ""
    imatrix: str = ""
    label_note: str = ""
    attempt: Count = 1
    source_sha256: str = ""
    imatrix_sha256: str = ""


class ArmLoaded(Event, frozen=True, kw_only=True, tag="arm.loaded"):
    """The engine holds the model. `gpu_layers` were really offloaded, of `layers` (output layer included).

    `buffers`: bytes by llama.cpp's own buffer names, weights only.
    """

    arm: str
    pid: Pid
    gpu_layers: Number
    layers: Count
    load_ns: Nanoseconds
    threads: Count
    buffers: dict[str, Whole] = {}
    attempt: Count = 1


class ContextMade(Event, frozen=True, kw_only=True, tag="context.made"):
    """A llama.cpp context for one kind of unit, with what it really is: `flash_attn` resolved, buffers in bytes.

    `kv` is the KV cache's type.
    """

    arm: str
    phase: str
    n_ctx: Count
    n_batch: Count
    n_ubatch: Count
    n_seq: Count
    kv: str = ""
    flash_attn: bool | None = None
    kv_bytes: Whole | None = None
    compute_bytes: Whole | None = None


class PhaseStarted(Event, frozen=True, kw_only=True, tag="phase.started"):
    """An arm enters a phase. `units` of it are planned, None where that is not known before. `why` it cools."""

    arm: str
    phase: str
    units: Count | None = None
    attempt: Count = 1
    why: str = ""


class PhaseProgress(Event, frozen=True, kw_only=True, tag="phase.progress"):
    """How far a phase without units is, 0 to 1 (quantizing, loading)."""

    arm: str
    phase: str
    fraction: Real


class PhaseDone(Event, frozen=True, kw_only=True, tag="phase.done"):
    """The phase ended well."""

    arm: str
    phase: str
    attempt: Count = 1


class PhaseFailed(Event, frozen=True, kw_only=True, tag="phase.failed"):
    """The phase ended badly, why."""

    arm: str
    phase: str
    error: str
    attempt: Count = 1


class Ceiling(Event, frozen=True, kw_only=True, tag="ceiling"):
    """A read bandwidth next to an arm, in 1e9 bytes per second.

    `how` is measured, looked up, configured or absent, and is shown with that word; `repeats` are the single
    measurements; `over` says which memory was read; `why` an absent one is absent. `device` is cpu, or the number
    of a GPU as in READINGS (gpu0). `when`: before or after the arm's decode. Of no arm, `arm` "", is what earlier
    sessions on this machine measured: `how` is remembered, `gb_s` their median.
    """

    arm: str
    how: str
    gb_s: Real | None = None
    repeats: tuple[Real, ...] = ()
    threads: Count = 1
    over: str = ""
    device: str = "cpu"
    when: str = "before"
    why: str = ""


class KernelRate(Event, frozen=True, kw_only=True, tag="kernel"):
    """C(type): how fast ggml multiplies a matrix of `type` with one vector out of the cache, in 1e9 bytes of the matrix
    per second, with `threads` threads on `device`. `how` as in Ceiling; `repeats` are the single measurements, `wall`
    the Unix time of one that was measured in an earlier session on this machine with this build, None for now.
    """

    arm: str
    type: str
    how: str
    gb_s: Real | None = None
    repeats: tuple[Real, ...] = ()
    threads: Count = 1
    device: str = "cpu"
    wall: Wall | None = None
    why: str = ""


class Sample(Event, frozen=True, kw_only=True, tag="sample"):
    """Readings taken together; names as in READINGS. `pid` is the engine process that engine.* are of."""

    readings: dict[str, Real]
    pid: Pid | None = None


class UnitStarted(Event, frozen=True, kw_only=True, tag="unit.started"):
    """The timed region of a unit begins at session time `at` (warm-up and depth prefill lie before it)."""

    unit: Unit
    at: Moment


class Tokens(Event, frozen=True, kw_only=True, tag="tokens"):
    """Tokens of a decode unit as they came: `first` is the index of the first in its repetition, `ns` one each.

    Where `count` is not 0 so many came (TOGETHER at most), too fast for that: `ns` are then sums over parts of them
    that are as even as can be (of n parts the k-th, from 0 on, begins with token k x count // n), and single times are
    uint32 (little-endian) in `file` (relative to the session) from byte `offset`.
    """

    unit: Unit
    first: Count
    ns: tuple[Nanoseconds, ...]
    count: Count = 0
    file: str = ""
    offset: Count = 0

    @property
    def each(self) -> tuple[int, ...]:
        """Nanoseconds of every token; those of one part have taken the same, to a nanosecond."""
        if not 0 < len(self.ns) < self.count <= TOGETHER:
            return self.ns
        edges = [part * self.count // len(self.ns) for part in range(len(self.ns) + 1)]
        return tuple(
            ns * (place + 1) // size - ns * place // size
            for ns, begin, end in zip(self.ns, edges, edges[1:], strict=False)
            for size in (end - begin,)
            for place in range(size)
        )


TOGETHER = 10_000
"""Tokens that one event stands for at most by its sums."""


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's tokens under the arm `base`, which has scored them too: sums of its nll (nats), of the square, and of
    the products with this arm's."""

    base: str
    nll: Real
    nll2: Real
    products: Real


class Diverged(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk's tokens against the base's logits, kept as 16-bit rows: sums as of stats.divergence.Sums.

    `base` is an arm, or the name of a file. `nll_base` and what follows from it is what the rows tell, which is not
    exact (stats.divergence.Rows). The tokens' own values are float64 [4, scored] (nll_base, kld, p_diff, same_top) in
    `file` from byte `offset`.
    """

    base: str
    nll_base: Real
    nll_base2: Real
    nll_nll_base: Real
    kld: Real
    kld2: Real
    p_diff: Real
    p_diff2: Real
    p_diff4: Real
    same_top: Count
    file: str = ""
    offset: Whole = 0


class Perplexity(Event, frozen=True, kw_only=True, tag="perplexity"):
    """One chunk scored: `scored` tokens, sum and sum of squares of their nll, in nats.

    Per-token nll are float64 (little-endian) in `file` (relative to the session) from byte `offset`. The running
    perplexity and its error follow from these sums (stats.intervals.perplexity), whatever the order of the chunks.
    `chunks` is how many there are for the arm to score; `ns` the chunk's share of its group's decoding, which began at
    `at`: 0 where the machine was suspended meanwhile. `against` and `diverged` compare with the base where that has the
    chunk.
    """

    unit: Unit
    chunk: Place
    chunks: Count
    scored: Scored
    nll: Real
    nll2: Real
    at: Moment = 0.0
    ns: Nanoseconds = 0
    file: str = ""
    offset: Whole = 0
    against: Against | None = None
    diverged: Diverged | None = None

    @property
    def sound(self) -> bool:
        """Whether figures can be made of it: its means, and those of what it is held against, are within MOST_NATS, and
        no more favourites are in common than there are tokens."""
        sums = [self.nll]
        if self.against is not None:
            sums.append(self.against.nll)
        if self.diverged is not None:
            sums += (self.diverged.nll_base, self.diverged.kld)
        same = self.diverged.same_top if self.diverged is not None else 0
        return same <= self.scored and all(abs(one) <= MOST_NATS * self.scored for one in sums)


MOST_NATS = 200.0
"""Of a token, on average: a perplexity of 1e87. Where all of 2^24 tokens are equally likely it is 17 nats."""


class BaseChosen(Event, frozen=True, kw_only=True, tag="base.chosen"):
    """Where the base's logits for KL divergence come from.

    `how`: file (its 16-bit rows are kept for the first `chunks` that are scored), beside (the base is decoded again
    beside each arm), given (`file` was there before), none. `why` it is so. `bytes` is the file's size.
    """

    base: str
    how: str
    chunks: Count = 0
    bytes: Whole = 0
    file: str = ""
    why: str = ""


class Item(Event, frozen=True, kw_only=True, tag="item"):
    """One raw answer of a task, told before its unit is done. `items` is how many the task has.

    `prompt` is the SHA-256 of the text that the model was given, `form` how that was made of the item: "chat" by the
    model's template, "plain" as it stands, else why there was no template for its messages. `answer` is its beginning
    (ANSWER characters); all of it lies as a line of JSON in `file` (relative to the session) from byte `offset`.
    `correct` by the item's check, which asks for `expected`: None where there is no check, or no answer.
    `tokens` were answered to `prompt_tokens` in `ns`, from `at` on; `stopped` is one of STOPPED. The first `shared` of
    the prompt's tokens were in memory from the item before.

    `group`: the items that it belongs to (a subject, a kind). `chosen`: the choice that was made, "" without one;
    `logs`: the log-likelihood in nats of each choice, where they were weighed instead of an answer generated.
    `parsed`: the answer is what was asked for in form (a JSON array, a letter); `valid`: it meets its schema. None
    where nobody asks. `spans`: entities that are right, wrong, and missed. `thought`: tokens of the answer spent
    thinking, None where the model says nothing of it; the answer that is judged is what follows them. `switched`: what
    the template's switch for thinking was set to, None where it was left alone or there is none.
    """

    unit: Unit
    items: Count
    prompt: str
    form: str
    answer: str
    stopped: str
    tokens: Count
    prompt_tokens: Count
    at: Moment
    ns: Nanoseconds
    correct: bool | None = None
    expected: str = ""
    file: str = ""
    offset: Whole = 0
    shared: Count = 0
    group: str = ""
    chosen: str = ""
    logs: tuple[Real, ...] = ()
    parsed: bool | None = None
    valid: bool | None = None
    spans: tuple[Count, Count, Count] | None = None
    thought: Count | None = None
    switched: bool | None = None


ANSWER = 2000
"""Characters of an answer that an event carries; the rest is in raw/."""


class UnitDisturbed(Event, frozen=True, kw_only=True, tag="unit.disturbed"):
    """The unit under way shared its cores with something of ours: it counts for nothing and is measured once more."""

    unit: Unit
    why: str


class UnitDone(Event, frozen=True, kw_only=True, tag="unit.done"):
    """A unit is recorded: `tokens` in `ns`, its timed region from session time `at`, counters over that region."""

    unit: Unit
    at: Moment
    tokens: Count
    ns: Nanoseconds
    counters: Counters = Counters()


class ArmDone(Event, frozen=True, kw_only=True, tag="arm.done"):
    """All units of the arm are recorded, or dropped by a rule."""

    arm: str
    attempt: Count = 1


class ArmFailed(Event, frozen=True, kw_only=True, tag="arm.failed"):
    """The arm ended badly: `outcome` of OUTCOMES, the engine's `signal` or `exit_code`, its last lines of stderr."""

    arm: str
    outcome: str
    error: str
    phase: str = ""
    signal: Signed | None = None
    exit_code: Signed | None = None
    stderr: tuple[str, ...] = ()
    attempt: Count = 1


class Control(Event, frozen=True, kw_only=True, tag="control"):
    """A request from control.jsonl was taken; `offset` is where the next one begins, so none acts twice.

    `request`: skip, rerun (both of an arm), stop, leave, finish, pause, resume, tolerance (`value` in percent).
    `refused` says why it does nothing: such a one changes nothing.
    """

    request: str
    offset: Whole
    arm: str = ""
    value: str = ""
    refused: str = ""


class Beat(Event, frozen=True, kw_only=True, tag="beat"):
    """The writer lives: once a second. `wall` and `boottime` tell clock jumps and a suspended machine apart."""

    wall: Wall
    boottime: Real | None = None


class SessionClosed(Event, frozen=True, kw_only=True, tag="session.closed"):
    """The writer ended: outcome ok, failed (some arm failed), interrupted (told to stop)."""

    outcome: str


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a newer quanttui wrote: kept, counted, skipped."""

    n: Number = -1
    t: Moment = -1.0
    event: str = ""


Known = Union[  # noqa: UP007 (msgspec reads it at run time on 3.10)
    SessionOpened,
    SessionResumed,
    ProbeFound,
    ProbeLost,
    ArmStarted,
    ArmLoaded,
    ContextMade,
    PhaseStarted,
    PhaseProgress,
    PhaseDone,
    PhaseFailed,
    Ceiling,
    KernelRate,
    Sample,
    UnitStarted,
    Tokens,
    Perplexity,
    BaseChosen,
    Item,
    UnitDisturbed,
    UnitDone,
    ArmDone,
    ArmFailed,
    Control,
    Beat,
    SessionClosed,
]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Known)
_unknown = msgspec.json.Decoder(Unknown)


def encode(event: Event) -> bytes:
    """One event as one line of JSON, newline included."""
    return _encoder.encode(event) + b"\n"


def decode(line: bytes) -> Event | Unknown:
    """The event that a line holds.

    Fields that a newer quanttui added are skipped; an event that it added comes back as `Unknown`.

    Raises:
        ValueError: the line is no event at all (torn, not JSON, a wrong type in a known field).
    """
    try:
        event: Event = _decoder.decode(line)
        return event
    except msgspec.ValidationError as error:
        if "Invalid value" in str(error) and "$.event" in str(error):
            return _newer(line)
        raise ValueError(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _newer(line: bytes) -> Unknown:
    try:
        return _unknown.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def plain(event: msgspec.Struct) -> dict[str, Any]:
    """The event as plain dicts and lists."""
    result: dict[str, Any] = msgspec.to_builtins(event)
    return result
