"""The pure fold: events in, what is known out. Owns no I/O, no clock and no judgement.

`apply` is the only way in. The state after an event depends on the events up to it and on nothing else, so live,
attached and replayed sessions show the same; every part of it can be encoded, so that it can be a key frame.

What is kept of a session grows with what was measured in it, not with how long it took: series have a fixed number of
bins, notes are counted, stretches of timed units are joined. And of a quant that is over the bulk, every repetition,
chunk and answer, is kept packed, in a tenth of the memory, until somebody asks for it.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import msgspec

from quanttui import __version__
from quanttui import events as e
from quanttui.packed import Kept, Packed, Shelf, pack
from quanttui.series import BINS, Series, add_together
from quanttui.stats import intervals
from quanttui.stats.divergence import Sums
from quanttui.stats.sequential import Moments

TIMED = ("prompt", "decode", "anchor")
"""Kinds of units whose time is their result, and the phases that consist of them."""

SAMPLE_BIN = 0.5
"""Seconds; the narrowest bin of a reading's series: twice the spacing of samples at 4 Hz."""

NOTES = 500
"""How many notes are kept; older ones are in the log."""

RATES = {
    "swap.in": "swap.in/s",
    "swap.out": "swap.out/s",
    "engine.read": "engine.read/s",
    "psi.memory.some": "psi.memory.some/s",
}
"""Counters whose difference per second is kept as a series of its own."""

_RATES = tuple((name, rate, name.startswith("engine.")) for name, rate in RATES.items())

GROWING = (
    "engine.read", "engine.majflt", "engine.cpu", "swap.in", "swap.out", "zswap.in", "cpu.busy", "self.cpu", "cpu.steal"
)
"""Counters whose growth is kept for every slice of a timed unit."""

_PLACES = {name: place for place, name in enumerate(GROWING)}

TEXTS, SHORT = 200_000, 80
"""So many characters of answers are kept for each arm; of each later answer only so many."""

DIGEST = 16
"""So many digits of the SHA-256 of an answer's prompt are kept: the log has all. They tell two prompts of one item
apart, but for one pair in 2^64, and are what shrinks least of an answer."""

SLICE = 0.9
"""Seconds of a timed unit that go together at least: a little less than the second between readings in the quiet."""

SLICES = 1024
"""How many slices an attempt keeps, of prompts and decodes; more of them are joined two by two, and tell less."""

LEVELS = ("mem.used", "engine.rss")
"""Readings kept as a series as they are. Those of GPUs are, too, summed or maximal over the devices."""

RECORDS, CHUNKS, ANSWERS, UNITS = 256 << 10, 128 << 10, 1 << 20, 64 << 10
"""Bytes of what is packed, as it is encoded, that stay at hand once they were asked for: as objects some 1.5, 1, 2.5
and 0.3 MB, of two quants with 800 answers each, which are compared, or all that a sweep of minutes has."""


class Repetition(msgspec.Struct, frozen=True, array_like=True):
    """One timed repetition of a speed unit. Rates in tokens per second."""

    unit: e.Unit
    at: float
    tokens: int
    ns: int
    counters: e.Counters

    @property
    def tok_s(self) -> float:
        return self.tokens * 1e9 / self.ns


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """One scored chunk: `scored` tokens, sums of nll (nats) and of its square; mean KL divergence if there is one."""

    scored: int
    nll: float
    nll2: float
    at: float
    ns: int
    kld: float | None = None


class Paired(msgspec.Struct):
    """An arm against the base over the chunks that both have, `base` by its name.

    `chunks` are their differences of mean nll (or their mean KL divergences), `sums` what their tokens add up to.
    """

    base: str = ""
    chunks: Moments = msgspec.field(default_factory=Moments)
    sums: Sums = msgspec.field(default_factory=Sums)

    def add(self, base: str, value: float, sums: Sums) -> None:
        """Take one more chunk. Another base begins anew."""
        if base != self.base:
            self.base, self.chunks, self.sums = base, Moments(), Sums()
        self.chunks.add(value)
        self.sums += sums


class Span(msgspec.Struct):
    """A stretch of one phase of one arm, in session time; `end` is None while it lasts."""

    arm: str
    phase: str
    start: float
    attempt: int = 1
    end: float | None = None
    error: str = ""
    units: int | None = None


class Peak(msgspec.Struct):
    """The most memory seen in a phase, in bytes; None where it was never seen."""

    rss: float | None = None
    anonymous: float | None = None
    device: float | None = None

    def see(self, rss: float | None, anonymous: float | None, device: float | None = None) -> None:
        if rss is not None and (self.rss is None or rss > self.rss):
            self.rss = rss
        if anonymous is not None and (self.anonymous is None or anonymous > self.anonymous):
            self.anonymous = anonymous
        if device is not None and (self.device is None or device > self.device):
            self.device = device


class Answer(msgspec.Struct, frozen=True):
    """One item of a task as an arm answered it: what events.Item says.

    `text` is the answer's beginning, a short one where the arm has said much already (TEXTS); `prompt` the beginning of
    the prompt's SHA-256 (DIGEST); `until` when it was there, in session time.
    """

    unit: e.Unit
    text: str
    correct: bool | None
    expected: str
    stopped: str
    tokens: int
    prompt_tokens: int
    until: float
    prompt: str
    form: str
    group: str = ""
    chosen: str = ""
    logs: tuple[float, ...] = ()
    parsed: bool | None = None
    valid: bool | None = None
    spans: tuple[int, int, int] | None = None
    thought: int | None = None


class Energy(msgspec.Struct):
    """Joules by an energy counter over seconds that lay wholly inside timed units."""

    source: str
    joules: float = 0.0
    seconds: float = 0.0


class Slice(msgspec.Struct, array_like=True):
    """A stretch of a timed unit from one sample to a later one, in session time.

    `at` is when the unit began. `tokens` are those that were decoded in it, in parts where a token reached over its
    edge; they come later than it does. `grown` is by how much the counters of GROWING grew, those that both samples
    had; `devices` how often, over its `samples`, each condition of a GPU held, and sums of its levels
    (`_devices_seen`).
    """

    at: float
    kind: str
    start: float
    end: float
    tokens: float = 0.0
    grown: tuple[float | None, ...] = (None,) * len(GROWING)
    devices: dict[str, float] = {}
    samples: int = 0

    def grew(self, name: str) -> float | None:
        """By how much a counter grew, None where that is not known."""
        return self.grown[_PLACES[name]]

    def join(self, later: Slice) -> None:
        """Take the slice that follows, of the same unit."""
        self.end, self.tokens, self.samples = later.end, self.tokens + later.tokens, self.samples + later.samples
        pairs = zip(self.grown, later.grown, strict=True)
        self.grown = tuple(None if a is None or b is None else a + b for a, b in pairs)
        for name, value in later.devices.items():
            self.devices[name] = self.devices.get(name, 0.0) + value


class Record(msgspec.Struct):
    """The bulk of an attempt: its repetitions, stretches of its timed units in order, and tok/s over the decoded token.

    `prompt` and `decode` are the repetitions at the first of the settings' depths, `deeper` those at the others.
    """

    prompt: list[Repetition] = []
    decode: list[Repetition] = []
    deeper: list[Repetition] = []
    slices: list[Slice] = []
    rate: Series = msgspec.field(default_factory=lambda: Series(width=1.0))


_records: Shelf[Record] = Shelf(Record, RECORDS)


class Attempt(msgspec.Struct):
    """One run of an arm: the first, or a run again in a fresh process.

    `record` is the bulk of what it measured, packed once the arm is over. What a screen asks of every arm for each
    frame can be had without unpacking: `counts` are its repetitions by `kind@depth`, those at the first depth by `kind`
    as well; `decoded` is when the first decode there began and when the last one ended, `clock` the largest share of
    its best clock that a GPU ran at over a slice. They are told when it is packed.

    `disturbed` counts the repetitions that were done again. `kernels` are C(type) by tensor type. `before` are readings
    of devices before the model was loaded.
    """

    number: int
    record: Record | bytes = msgspec.field(default_factory=Record)
    counts: dict[str, int] = {}
    decoded: tuple[float, float] | None = None
    clock: float | None = None
    disturbed: int = 0
    ceilings: list[e.Ceiling] = []
    kernels: dict[str, e.KernelRate] = {}
    before: dict[str, float] = {}
    contexts: dict[str, e.ContextMade] = {}
    peaks: dict[str, Peak] = {}
    energy: dict[str, Energy] = {}
    loaded: e.ArmLoaded | None = None
    failed: e.ArmFailed | None = None
    done: bool = False
    tokens: int = 0

    @property
    def known(self) -> Record:
        """The record, to be read."""
        return _records.get(self.record) if isinstance(self.record, bytes) else self.record

    @property
    def prompt(self) -> list[Repetition]:
        return self.known.prompt

    @property
    def decode(self) -> list[Repetition]:
        return self.known.decode

    @property
    def deeper(self) -> list[Repetition]:
        return self.known.deeper

    @property
    def slices(self) -> list[Slice]:
        return self.known.slices

    @property
    def rate(self) -> Series:
        """tok/s over the decoded token."""
        return self.known.rate

    def repetitions(self, kind: str) -> list[Repetition]:
        return self.prompt if kind == "prompt" else self.decode

    def at_depth(self, kind: str, depth: int) -> list[Repetition]:
        """The repetitions of one kind at one depth."""
        every = (*self.repetitions(kind), *self.deeper)
        return [one for one in every if one.unit.kind == kind and one.unit.depth == depth]

    def count(self, kind: str, depth: int) -> int:
        """How many there are."""
        packed = isinstance(self.record, bytes)
        return self.counts.get(f"{kind}@{depth}", 0) if packed else len(self.at_depth(kind, depth))

    def has(self, kind: str) -> bool:
        """Whether there are repetitions of this kind at the first depth."""
        return bool(self.counts.get(kind) if isinstance(self.record, bytes) else self.repetitions(kind))

    @property
    def decoding(self) -> tuple[float, float] | None:
        """When the first decode at the first depth began, and when the last one ended; None without one."""
        if isinstance(self.record, bytes):
            return self.decoded
        done = self.decode
        return (done[0].at, done[-1].at + done[-1].ns / 1e9) if done else None

    @property
    def best_clock(self) -> float | None:
        """The largest share of its best clock that a GPU ran at, over slices; None where none was told."""
        if isinstance(self.record, bytes):
            return self.clock
        shares = (one.devices["clock"] / one.samples for one in self.slices if "clock" in one.devices and one.samples)
        return max(shares, default=None)

    def opened(self) -> Record:
        """The record, to be added to."""
        held = self.record
        if isinstance(held, bytes):
            held = self.record = _records.fresh(held)
            self.counts, self.decoded, self.clock = {}, None, None
        return held

    def pack(self) -> None:
        """Make the record small: little of it will be asked for again, and rarely."""
        if isinstance(self.record, bytes):
            return
        counts: dict[str, int] = {}
        for one in (*self.prompt, *self.decode, *self.deeper):
            test = f"{one.unit.kind}@{one.unit.depth}"
            counts[test] = counts.get(test, 0) + 1
        counts |= {kind: len(self.repetitions(kind)) for kind in ("prompt", "decode")}
        self.counts, self.decoded, self.clock = counts, self.decoding, self.best_clock
        self.record.rate.round()
        self.record = pack(self.record)


class Arm(msgspec.Struct):
    """One quant: planned, then running, then done or failed. `units` names each recorded unit, `chunks`
    what was scored by the number of the chunk, `anchor` the repetitions in which it was measured again as the anchor.
    `items` are its answers by `task/item`, in the order in which they came, of as many as `items_planned` says for each
    task; `texts` counts the characters that are kept.

    Once the arm is over, `recorded`, `scores` and `answers` are packed; `units`, `chunks` and `items` are for reading,
    whether they are or not.

    `exact` compares with the base arm's own nll, `rows` with the base's logits as 16-bit rows: they differ where a text
    has tokens that the rows cannot tell apart (stats.divergence.Rows). `changed` is the number of the last event that
    was about this arm alone.
    """

    plan: e.PlannedArm
    file: e.ArmStarted | None = None
    attempts: list[Attempt] = []
    scores: dict[int, Chunk] | Packed = {}
    chunks_planned: int | None = None
    recorded: dict[str, None] | Packed = {}
    anchor: list[Repetition] = []
    answers: dict[str, Answer] | Packed = {}
    items_planned: dict[str, int] = {}
    texts: int = 0
    exact: Paired = msgspec.field(default_factory=Paired)
    rows: Paired = msgspec.field(default_factory=Paired)
    changed: int = -1

    @property
    def chunks(self) -> dict[int, Chunk] | Kept[int, Chunk]:
        held = self.scores
        return held if isinstance(held, dict) else Kept(held, _chunks)

    @property
    def units(self) -> dict[str, None] | Kept[str, None]:
        held = self.recorded
        return held if isinstance(held, dict) else Kept(held, _units)

    @property
    def items(self) -> dict[str, Answer] | Kept[str, Answer]:
        held = self.answers
        return held if isinstance(held, dict) else Kept(held, _answers)

    def open_chunks(self) -> dict[int, Chunk]:
        """The chunks, to be added to."""
        held = self.scores
        if not isinstance(held, dict):
            held = self.scores = _chunks.fresh(held.body)
        return held

    def open_units(self) -> dict[str, None]:
        """The units, to be added to."""
        held = self.recorded
        if not isinstance(held, dict):
            held = self.recorded = _units.fresh(held.body)
        return held

    def open_items(self) -> dict[str, Answer]:
        """The answers, to be added to."""
        held = self.answers
        if not isinstance(held, dict):
            held = self.answers = _answers.fresh(held.body)
        return held

    def pack(self) -> None:
        """Make small what is over: attempts, and the arm itself with its latest one."""
        for attempt in self.attempts:
            if attempt.done or attempt.failed is not None:
                attempt.pack()
        if self.outcome in ("planned", "running"):
            return
        if isinstance(self.scores, dict):
            self.scores = Packed(len(self.scores), pack(self.scores))
        if isinstance(self.recorded, dict):
            self.recorded = Packed(len(self.recorded), pack(self.recorded))
        if isinstance(self.answers, dict):
            self.answers = Packed(len(self.answers), pack(self.answers))

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt, None before the first."""
        return self.attempts[-1] if self.attempts else None

    @property
    def outcome(self) -> str:
        """planned, running, or one of OUTCOMES. A run again that failed does not undo a run that was whole."""
        latest = self.attempt
        if latest is None:
            return "planned"
        if not latest.done and latest.failed is None:
            return "running"
        if any(attempt.done for attempt in self.attempts):
            return "ok"
        return latest.failed.outcome if latest.failed else "ok"

    def perplexity(self, chunks: Iterable[int] | None = None) -> tuple[float, float | None] | None:
        """Perplexity and error over the chunks so far, or over those named. Sums are taken in the chunks' order."""
        scores = self.chunks
        ids = sorted(scores) if chunks is None else sorted(chunks)
        if not ids:
            return None
        known = [scores[k] for k in ids]
        scored = sum(c.scored for c in known)
        return intervals.perplexity(scored, sum(c.nll for c in known), sum(c.nll2 for c in known))


_chunks: Shelf[dict[int, Chunk]] = Shelf(dict[int, Chunk], CHUNKS)
_units: Shelf[dict[str, None]] = Shelf(dict[str, None], UNITS)
_answers: Shelf[dict[str, Answer]] = Shelf(dict[str, Answer], ANSWERS)


class Running(msgspec.Struct):
    """The unit under way: its tokens so far, and the readings at the first sample inside its timed region.

    `edge` are the readings at `edge_t`, where its open slice begins, `open` what was seen since; `untaken` tokens lie
    beyond its last slice: (from, to, how many), in session time.
    """

    unit: e.Unit
    at: float
    disturbed: bool = False
    tokens: int = 0
    ns: int = 0
    first: dict[str, float] = {}
    first_t: float | None = None
    first_tokens: int = 0
    edge: dict[str, float] = {}
    edge_t: float | None = None
    open: dict[str, float] = {}
    open_samples: int = 0
    untaken: list[tuple[float, float, float]] = []


class Note(msgspec.Struct, frozen=True):
    """A line for people. level: info, ok, warn, bad."""

    t: float
    level: str
    text: str
    arm: str = ""


class State(msgspec.Struct):
    """All that is known after some event. `t` is that event's session time.

    `remembered` is the bandwidth that earlier sessions measured, `idle` the energy that the machine took while nothing
    computed; `rerun` are arms that somebody asked to run again, and up to which attempt, `skips` those to be skipped
    that are not yet. `resumed`: when others went on with it, `differs` what was another by then. `paused_at`: since
    when no new unit begins, None while they do. `ending`: leave or finish, by which the sweep was asked to end after
    the unit under way. `changed` is the number of the last event that may concern all arms.
    """

    t: float = 0.0
    n: int = -1
    opened: e.SessionOpened | None = None
    writer: tuple[int, float] | None = None
    settings: e.Settings = e.Settings()
    host: e.Host | None = None
    build: e.Build | None = None
    wall: float = 0.0
    arms: dict[str, Arm] = {}
    arm: str = ""
    spans: list[Span] = []
    progress: float | None = None
    running: Running | None = None
    readings: dict[str, float] = {}
    readings_t: float | None = None
    pid: int | None = None
    series: dict[str, Series] = {}
    probes: dict[str, e.ProbeFound] = {}
    lost: dict[str, str] = {}
    notes: list[Note] = []
    resumed: list[float] = []
    differs: list[tuple[float, str]] = []
    control_offset: int = 0
    base: e.BaseChosen | None = None
    observer: e.Observer | None = None
    remembered: e.Ceiling | None = None
    idle: Energy | None = None
    rerun: dict[str, int] = {}
    skips: list[str] = []
    paused_at: float | None = None
    ending: str = ""
    closed: str = ""
    beat: e.Beat | None = None
    unknown: int = 0
    changed: int = -1

    def apply(self, event: e.Event | e.Unknown) -> None:
        """Take the next event. An event of a newer schema is counted and otherwise skipped; one that does not say when
        it was is of now."""
        if event.t > self.t:
            self.t = event.t
        elif event.t < 0.0:
            event = msgspec.structs.replace(event, t=self.t)
        if event.n > self.n:
            self.n = event.n
        kind = type(event)
        rule = RULES.get(kind)
        if rule is None:
            self.unknown += 1
            return
        rule(self, event)
        concern = _CONCERNS.get(kind, _concern_all)
        if concern is not None:
            concern(self, event)

    def touch(self, name: str, n: int) -> None:
        """Note that the event of this number was about the arm of this name."""
        arm = self.arms.get(name)
        if arm is not None:
            arm.changed = n

    @property
    def model(self) -> str:
        return self.opened.model if self.opened else ""

    @property
    def ordered(self) -> list[Arm]:
        """The arms in the order in which they are measured."""
        place = {name: at for at, name in enumerate(self.settings.order)}
        return sorted(self.arms.values(), key=lambda arm: place.get(arm.id, len(place)))

    @property
    def span(self) -> Span | None:
        """The phase under way."""
        last = self.spans[-1] if self.spans else None
        return last if last is not None and last.end is None else None

    @property
    def phase(self) -> str:
        return self.span.phase if self.span else ""

    @property
    def fills_cores(self) -> bool:
        """Whether the quant under way computes on every core: not where a GPU has all of it, nor where one is spare."""
        if self.host is None:
            return False
        arm = self.arms.get(self.running.unit.arm if self.running else self.arm)
        loaded = arm.attempt.loaded if arm and arm.attempt else None
        if loaded is not None and 0 < loaded.layers <= loaded.gpu_layers:
            return False
        return (loaded.threads if loaded is not None else self.settings.threads) >= self.host.cores

    @property
    def paused(self) -> bool:
        return self.paused_at is not None

    def note(self, t: float, level: str, text: str, arm: str = "") -> None:
        self.notes.append(Note(t, level, text, arm))
        if len(self.notes) > NOTES:
            del self.notes[: len(self.notes) - NOTES]


def fold(events: Iterable[e.Event | e.Unknown], state: State | None = None) -> State:
    """The state after all of `events`, starting from `state` (which is changed) or from nothing."""
    result = state if state is not None else State()
    for event in events:
        result.apply(event)
    return result


@lru_cache(maxsize=1)
def layout() -> bytes:
    """Four bytes that differ where key frames of another version cannot be gone on with: its fields, the numbers that
    say what lies in them, or its release."""
    numbers = SAMPLE_BIN, BINS, NOTES, RATES, GROWING, TEXTS, SHORT, DIGEST, SLICE, SLICES, LEVELS
    fields = msgspec.json.encode([msgspec.json.schema(kind) for kind in (State, Record, Chunk, Answer)])
    return zlib.crc32(repr((__version__, numbers)).encode() + fields).to_bytes(4, "little")


_encoder = msgspec.msgpack.Encoder()


def encode(state: State) -> bytes:
    """The state as bytes."""
    return _encoder.encode(state)


def decode(encoded: bytes) -> State:
    """The state that was encoded.

    Raises:
        ValueError: it is torn, or of another version.
    """
    try:
        with uncollected():
            return _decoder.decode(encoded)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(str(error)) from None


def encode_shared(state: State) -> bytes:
    """The state without its arms."""
    return _encoder.encode(msgspec.structs.replace(state, arms={}))


def encode_arm(arm: Arm) -> bytes:
    """An arm as bytes. They are the same as long as `changed` is."""
    return _encoder.encode(arm)


def joined(shared: bytes, arms: Iterable[bytes]) -> State:
    """The state of which these are the parts, the arms in their order.

    Raises:
        ValueError: they are torn, or of another version.
    """
    try:
        with uncollected():
            state = _decoder.decode(shared)
            for each in map(_arm_decoder.decode, arms):
                state.arms[each.id] = each
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(str(error)) from None
    return state


def canonical(state: State) -> bytes:
    """The state as bytes that are the same wherever they are made: nothing is packed, for not every zlib packs alike;
    and each number is in its own kind, whether a byte count came as a whole number or not."""
    same = decode(encode(state))
    for arm in same.arms.values():
        arm.open_chunks(), arm.open_units(), arm.open_items()
        for attempt in arm.attempts:
            attempt.opened()
    return encode(same)


_decoder = msgspec.msgpack.Decoder(State)
_arm_decoder = msgspec.msgpack.Decoder(Arm)


@contextmanager
def uncollected() -> Iterator[None]:
    """Make many objects that all stay: the garbage collector would look through them again and again (two thirds of the
    time of decoding a state of thirty quants)."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def total(readings: dict[str, float], name: str) -> float | None:
    """Sum of a reading over the GPUs, e.g. `power` over gpu0.power, gpu1.power; None where none has it."""
    values = _devices(readings, name)
    return sum(values) if values else None


def highest(readings: dict[str, float], name: str) -> float | None:
    """The largest over the GPUs of a reading such as `util`, None where none has it."""
    values = _devices(readings, name)
    return max(values) if values else None


def energy_counter(readings: dict[str, float]) -> tuple[str, float] | None:
    """The energy counter to believe, with its name, in joules: the GPUs' where there are any, else the package's."""
    joules = total(readings, "energy")
    if joules is not None:
        return "GPU energy counter", joules
    package = readings.get("package.energy")
    return None if package is None else ("package energy counter (RAPL, IOReport)", package)


def _devices(readings: dict[str, float], name: str) -> list[float]:
    return [v for k, v in readings.items() if k.startswith("gpu") and k.partition(".")[2] == name]


def _arm(state: State, name: str) -> Arm:
    if name not in state.arms:
        state.arms[name] = Arm(plan=e.PlannedArm(id=name, quant=name))
    return state.arms[name]


def _attempt(state: State, name: str, number: int) -> Attempt:
    arm = _arm(state, name)
    for attempt in arm.attempts:
        if attempt.number == number:
            return attempt
    arm.attempts.append(Attempt(number=number))
    return arm.attempts[-1]


def _attempt_of(state: State, unit: e.Unit) -> Attempt:
    """The attempt that a unit belongs to: an anchor's number is its round, whatever attempt holds the model."""
    arm = state.arms.get(unit.arm)
    if arm is not None and arm.attempts:
        latest = arm.attempts[-1]
        if latest.number == unit.attempt or unit.kind == "anchor":
            return latest
    return _attempt(state, unit.arm, unit.attempt)


def _writer(state: State, event: e.SessionOpened | e.SessionResumed) -> None:
    state.writer = (event.pid, event.pid_started)
    state.settings, state.host, state.build = event.settings, event.host, event.build
    state.observer = event.observer
    state.wall = event.wall - event.t
    state.closed, state.ending, state.paused_at = "", "", None
    for planned in event.plan:
        if planned.id in state.arms:
            state.arms[planned.id].plan = planned
        else:
            state.arms[planned.id] = Arm(plan=planned)
        state.touch(planned.id, event.n)
    for text in event.notes:
        state.note(event.t, "warn", text)


def _opened(state: State, event: e.SessionOpened) -> None:
    state.opened = event
    _writer(state, event)


def _resumed(state: State, event: e.SessionResumed) -> None:
    _leave(state, event.t, "")
    _writer(state, event)
    state.resumed.append(event.t)
    state.differs += [(event.t, line) for line in event.changed]
    state.readings, state.pid = {}, None
    state.note(event.t, "info", "resumed: what is recorded is not repeated")


def _probe_found(state: State, event: e.ProbeFound) -> None:
    state.lost.pop(event.probe, None)
    state.probes[event.probe] = event


def _probe_lost(state: State, event: e.ProbeLost) -> None:
    if event.probe in state.probes:
        del state.probes[event.probe]
        state.note(event.t, "warn", f"{event.probe} lost: {event.why}")
    state.lost[event.probe] = event.why


def _arm_started(state: State, event: e.ArmStarted) -> None:
    _arm(state, event.arm).file = event
    _attempt(state, event.arm, event.attempt).failed = None
    state.arm = event.arm
    if event.label_note:
        state.note(event.t, "warn", f"{event.arm}: {event.label_note}", event.arm)
    if event.attempt > 1:
        state.note(event.t, "info", f"{event.arm}: once more in a fresh process", event.arm)


def _arm_loaded(state: State, event: e.ArmLoaded) -> None:
    _attempt(state, event.arm, event.attempt).loaded = event


def _context_made(state: State, event: e.ContextMade) -> None:
    attempt = _arm(state, event.arm).attempt
    if attempt is not None:
        attempt.contexts[event.phase] = event


def _leave(state: State, t: float, error: str) -> None:
    if state.span is not None:
        state.span.error = error
        state.span.end = t
    state.running, state.progress = None, None


def _phase_started(state: State, event: e.PhaseStarted) -> None:
    _leave(state, event.t, "")
    state.arm = event.arm or state.arm
    state.spans.append(Span(event.arm, event.phase, event.t, event.attempt, units=event.units))
    if event.why:
        state.note(event.t, "info", f"waiting until the machine is idle: {event.why}", event.arm)
    if event.phase in ("load", "warm", "prompt", "decode", "perplexity"):
        attempt = _attempt(state, event.arm, event.attempt)
        if event.phase == "load":
            attempt.before = {k: v for k, v in state.readings.items() if k.startswith("gpu") and "used" in k}
    elif event.phase == "anchor" and (latest := _arm(state, event.arm).attempt) is not None:
        latest.opened()  # not amid its repetitions


def _phase_progress(state: State, event: e.PhaseProgress) -> None:
    state.progress = event.fraction


def _phase_done(state: State, event: e.PhaseDone) -> None:
    _leave(state, event.t, "")
    _pack(state, event.arm)


def _phase_failed(state: State, event: e.PhaseFailed) -> None:
    _leave(state, event.t, event.error)
    _pack(state, event.arm)


def _ceiling(state: State, event: e.Ceiling) -> None:
    if not event.arm:
        state.remembered = event
        return
    attempt = _arm(state, event.arm).attempt
    if attempt is not None:
        attempt.ceilings.append(event)


def _kernel(state: State, event: e.KernelRate) -> None:
    attempt = _arm(state, event.arm).attempt
    if attempt is not None:
        attempt.kernels[event.type] = event


_NO_ARMS = ("bandwidth", "idle", "paused")
"""Phases whose readings say nothing of an arm: in "bandwidth" the memory is the probe's, the others are no arm's."""


def _sample(state: State, event: e.Sample) -> None:
    before, then, now, t = state.readings, state.readings_t, event.readings, event.t
    found: list[tuple[str, float]] = []
    if then is not None and (elapsed := t - then) > 0:
        same = event.pid == state.pid
        for name, rate, is_engines in _RATES:
            new = now.get(name)
            if new is not None and (old := before.get(name)) is not None and new >= old and (same or not is_engines):
                found.append((rate, (new - old) / elapsed))
    for name in LEVELS:
        if (new := now.get(name)) is not None:
            found.append((name, new))
    gpus = _of_gpus(now)
    if gpus:
        levels = ("gpu.util", highest(gpus, "util")), ("gpu.power", total(gpus, "power"))
        found += [(name, seen) for name, seen in levels if seen is not None]
    add_together(state.series, SAMPLE_BIN, t, found)
    if gpus or "package.energy" in now:
        _energy(state, event, before, then)
    running, span = state.running, state.spans[-1] if state.spans else None
    if span is not None and span.end is None:
        if span.phase not in _NO_ARMS:
            _peak(state, span, now, gpus)
        if span.phase == "idle":
            state.changed = event.n
        if running is None or span.arm != running.unit.arm:
            state.touch(span.arm, event.n)
    if running is not None:
        state.touch(running.unit.arm, event.n)
        if t >= running.at:
            if running.first_t is None:
                running.first, running.first_t, running.first_tokens = now, t, running.tokens
            _sliced(state, running, event, gpus)
    state.readings, state.readings_t, state.pid = now, t, event.pid


def _of_gpus(readings: dict[str, float]) -> dict[str, float]:
    """The readings of GPUs. Most hosts without one are told by one look at all names together."""
    if "gpu" not in "".join(readings):
        return {}
    return {name: value for name, value in readings.items() if name.startswith("gpu")}


def _peak(state: State, span: Span, now: dict[str, float], gpus: dict[str, float]) -> None:
    """The most memory in the phase under way."""
    arm = state.arms.get(span.arm) or _arm(state, span.arm)
    if not arm.attempts:
        return
    attempt = arm.attempts[-1]
    peak = attempt.peaks.get(span.phase)
    if peak is None:
        peak = attempt.peaks[span.phase] = Peak()
    peak.see(now.get("engine.rss"), now.get("engine.anonymous"), total(gpus, "mem_used") if gpus else None)


def _sliced(state: State, running: Running, event: e.Sample, gpus: dict[str, float]) -> None:
    """Go on with the open slice of the unit under way, and end it once it is long enough."""
    if gpus:
        for name, value in _devices_seen(gpus).items():
            running.open[name] = running.open.get(name, 0.0) + value
    running.open_samples += 1
    if running.edge_t is None:
        running.edge, running.edge_t = event.readings, event.t
    elif event.t - running.edge_t >= SLICE:
        _slice(state, running, event.readings, event.t)


def growth(before: dict[str, float], now: dict[str, float]) -> tuple[float | None, ...]:
    """By how much the counters of GROWING grew; one that is missing, or went back, is not known."""
    found: list[float | None] = []
    for name in GROWING:
        new = now.get(name)
        old = None if new is None else before.get(name)
        if new is None or old is None or new < old:
            found.append(None)
        else:
            found.append(float(new - old) or 0.0)  # one and the same 0.0: most counters do not grow
    return tuple(found)


def _close(state: State, running: Running) -> None:
    """The last slice of a unit that ends, however short. Of one sample only, it is what a device said then."""
    if running.edge_t is None or state.readings_t is None:
        return
    if state.readings_t > running.edge_t or running.open:
        _slice(state, running, state.readings, max(state.readings_t, running.edge_t))


def _slice(state: State, running: Running, now: dict[str, float], t: float) -> None:
    """End the open slice at `t`, and begin the next one there."""
    assert running.edge_t is not None
    grown = growth(running.edge, now)
    made = Slice(running.at, running.unit.kind, running.edge_t, t, 0.0, grown, running.open, running.open_samples)
    running.edge, running.edge_t, running.open, running.open_samples = now, t, {}, 0
    slices = _attempt_of(state, running.unit).opened().slices
    slices.append(made)
    if len(slices) > SLICES:
        _thin(slices)
    waiting, running.untaken = running.untaken, []
    begun = made.start
    for begin, end, tokens in waiting:
        if begun <= begin < end <= t and slices[-1] is made:
            made.tokens += tokens * (end - begin) / (end - begin)  # rounded as `_take` rounds it
        else:
            _take(slices, running, begin, end, tokens)


def _thin(slices: list[Slice]) -> None:
    """Join neighbours two by two, those of one unit."""
    kept: list[Slice] = []
    joined = True
    for one in slices:
        if not joined and kept[-1].at == one.at:
            kept[-1].join(one)
            joined = True
        else:
            kept.append(one)
            joined = False
    slices[:] = kept


def _take(slices: list[Slice], running: Running, begin: float, end: float, tokens: float) -> None:
    """Give tokens that came evenly from `begin` to `end` to the slices of the unit that they came in; what lies beyond
    the last one waits, and what lies before the first is of none."""
    at = running.at
    last = slices[-1] if slices else None
    edge = last.end if last is not None and last.at == at else at
    if end > edge:
        since = begin if begin > edge else edge
        running.untaken.append((since, end, tokens * (end - since) / (end - begin) if end > begin else tokens))
    if begin >= edge:
        return
    for one in reversed(slices):
        if one.at != at or one.end <= begin:
            return
        overlap = min(end, one.end) - max(begin, one.start)
        if overlap > 0:
            one.tokens += tokens * overlap / (end - begin)


SLOWED = 0x8 | 0x20 | 0x40 | 0x80
"""NVML's clock event reasons that mean heat or hardware: HW slowdown, SW thermal, HW thermal, power brake. The power
cap (0x4) is how a device is meant to run."""


def _devices_seen(readings: dict[str, float]) -> dict[str, float]:
    """Levels of all GPUs, of their readings, that are averaged over a slice: the worst, or the sum, over the devices.

    slowed: 1 where any is slowed down; clock: the lowest share of its best clock; util, dram: percent; others:
    processes of others; shared: bytes of host memory.
    """
    found: dict[str, float] = {}
    if not readings:
        return found
    if reasons := _devices(readings, "reasons"):
        found["slowed"] = float(any(int(value) & SLOWED for value in reasons))
    clocks = [
        value / readings[f"{device}.clock_max"]
        for name, value in readings.items()
        if (device := name.partition(".")[0]) and name.endswith(".clock") and readings.get(f"{device}.clock_max")
    ]
    if clocks:
        found["clock"] = min(clocks)
    for name, value in (
        ("util", highest(readings, "util")),
        ("pcie_rx", total(readings, "pcie_rx")),
        ("dram", highest(readings, "dram")),
        ("others", total(readings, "others")),
        ("others_mem", total(readings, "others_mem")),
        ("shared", total(readings, "shared_used")),
    ):
        if value is not None:
            found[name] = value
    return found


def _energy(state: State, event: e.Sample, before: dict[str, float], then: float | None) -> None:
    """Joules between two samples, where both lie in one timed unit, or in the phase that measures an idle machine."""
    running, counter, earlier = state.running, energy_counter(event.readings), energy_counter(before)
    if then is None or counter is None or earlier is None or counter[0] != earlier[0] or counter[1] < earlier[1]:
        return
    joules, seconds = counter[1] - earlier[1], event.t - then
    if running is None:
        if state.span is not None and state.span.phase == "idle" and then >= state.span.start:
            if state.idle is None or state.idle.source != counter[0]:
                state.idle = Energy(counter[0])
            state.idle.joules += joules
            state.idle.seconds += seconds
        return
    attempt = _arm(state, running.unit.arm).attempt
    if then < running.at or attempt is None:
        return
    energy = attempt.energy.setdefault(running.unit.kind, Energy(counter[0]))
    energy.joules += joules
    energy.seconds += seconds


def _add(state: State, name: str, t: float, value: float) -> None:
    series = state.series.get(name)
    if series is None:
        series = state.series[name] = Series(width=SAMPLE_BIN)
    series.add(t, value)


def _unit_started(state: State, event: e.UnitStarted) -> None:
    state.running = Running(event.unit, event.at)


def _tokens(state: State, event: e.Tokens) -> None:
    unit, each, t = event.unit, event.each, event.t
    count, ns = len(each), sum(each)
    attempt = _attempt_of(state, unit)
    state.touch(unit.arm, event.n)
    record = attempt.record
    if isinstance(record, bytes):
        record = attempt.opened()
    if unit.kind == "decode":
        _rates(record.rate, attempt.tokens, each)
        attempt.tokens += count
    running = state.running
    if running is not None and running.unit == unit:
        at = running.at
        begin = at + running.ns / 1e9
        running.tokens += count
        running.ns += ns
        _take(record.slices, running, begin, at + running.ns / 1e9, float(count))
        if running.ns > 0 and unit.kind != "task":
            _add(state, "decode.tok_s", t, count * 1e9 / (ns if ns > 1 else 1))


def _rates(series: Series, first: int, each: tuple[int, ...]) -> None:
    """tok/s of tokens that took so many ns each, from place `first` on; one that took none has no rate."""
    if not each or min(each) > 0:
        series.add_run(first, [1e9 / ns for ns in each])
        return
    for place, ns in enumerate(each, first):
        if ns > 0:
            series.add(float(place), 1e9 / ns)


def _perplexity(state: State, event: e.Perplexity) -> None:
    arm = _arm(state, event.unit.arm)
    arm.chunks_planned = event.chunks
    if not event.sound:
        state.note(event.t, "bad", f"{event.unit.arm}: chunk {event.chunk} is left out: its sums are beyond all bounds")
        return
    chunks = arm.open_chunks()
    known, exact, rows = event.chunk in chunks, event.against, event.diverged
    kld = rows.kld / event.scored if rows is not None else None
    chunks[event.chunk] = Chunk(event.scored, event.nll, event.nll2, event.at, event.ns, kld)
    if known:  # a unit that was done again: the same figures
        return
    if exact is not None:
        sums = Sums(event.scored, event.nll, event.nll2, exact.nll, exact.nll2, exact.products)
        arm.exact.add(exact.base, (event.nll - exact.nll) / event.scored, sums)
    if rows is not None and kld is not None:
        sums = Sums(
            event.scored, event.nll, event.nll2, rows.nll_base, rows.nll_base2, rows.nll_nll_base, rows.kld, rows.kld2,
            rows.p_diff, rows.p_diff2, rows.p_diff4, rows.same_top,
        )  # fmt: skip
        arm.rows.add(rows.base, kld, sums)


def _item(state: State, event: e.Item) -> None:
    arm, unit = _arm(state, event.unit.arm), event.unit
    items = arm.open_items()
    if event.form not in ("chat", "plain") and not any(event.form == one.form for one in items.values()):
        state.note(event.t, "info", f"{unit.arm}: prompts are given as plain text: {event.form}", unit.arm)
    asked = state.settings.thinking and event.form == "chat" and event.switched is None
    if asked and not any(one.form == "chat" for one in items.values()):
        text = f"{unit.arm}: its chat template has no switch for thinking: it thinks or not as it is"
        state.note(event.t, "warn", text, unit.arm)
    key = f"{unit.task}/{unit.item}"
    before = items.get(key)
    arm.texts -= len(before.text) if before else 0
    text = event.answer if arm.texts + len(event.answer) <= TEXTS else event.answer[:SHORT]
    arm.texts += len(text)
    arm.items_planned[unit.task] = event.items
    items[key] = Answer(
        unit, text, event.correct, event.expected, event.stopped, event.tokens, event.prompt_tokens,
        event.at + event.ns / 1e9, event.prompt[:DIGEST], event.form, event.group, event.chosen, event.logs,
        event.parsed, event.valid, event.spans, event.thought,
    )  # fmt: skip


def _base_chosen(state: State, event: e.BaseChosen) -> None:
    state.base = event
    if event.why:
        state.note(event.t, "warn" if event.how == "none" else "info", event.why)


def _unit_disturbed(state: State, event: e.UnitDisturbed) -> None:
    if state.running is not None and state.running.unit == event.unit:
        state.running.disturbed = True
        _attempt_of(state, event.unit).disturbed += 1


def _unit_done(state: State, event: e.UnitDone) -> None:
    unit = event.unit
    arm, attempt = _arm(state, unit.arm), _attempt_of(state, unit)
    arm.open_units()[unit.id] = None
    running = state.running if state.running is not None and state.running.unit == unit else None
    disturbed = running is not None and running.disturbed
    at = event.at
    if running is not None:
        # What was seen of it goes by when it was said to begin, a moment before its clock was read.
        at = running.at
        _close(state, running)
    record = attempt.opened()
    if unit.kind in ("prompt", "decode", "anchor") and not disturbed and event.tokens and event.ns:
        done = Repetition(unit, at, event.tokens, event.ns, event.counters)
        if unit.kind == "anchor":
            arm.anchor.append(done)
        elif unit.depth == state.settings.depths[0]:
            (record.prompt if unit.kind == "prompt" else record.decode).append(done)
        else:
            record.deeper.append(done)
        if unit.kind == "prompt":
            _add(state, "prompt.tok_s", event.t, event.tokens * 1e9 / event.ns)
    if unit.kind not in ("prompt", "decode"):
        record.slices = [one for one in record.slices if one.at != at]
    attempt.peaks.setdefault(unit.kind, Peak()).see(event.counters.rss, event.counters.anonymous)
    state.running = None
    if state.phase != "anchor":
        _pack(state, unit.arm)


def _pack(state: State, name: str) -> None:
    """Make small what is known of an arm, where it is over."""
    arm = state.arms.get(name)
    if arm is not None:
        arm.pack()


def _arm_done(state: State, event: e.ArmDone) -> None:
    _leave(state, event.t, "")
    _attempt(state, event.arm, event.attempt).done = True
    _pack(state, event.arm)
    state.skips = [name for name in state.skips if name != event.arm]
    state.note(event.t, "ok", f"{event.arm} done", event.arm)


def _arm_failed(state: State, event: e.ArmFailed) -> None:
    if state.span is None or state.span.arm == event.arm:  # one that is skipped may not be the one under way
        _leave(state, event.t, event.error)
    _attempt(state, event.arm, event.attempt).failed = event
    _pack(state, event.arm)
    state.skips = [name for name in state.skips if name != event.arm]
    level = "info" if event.outcome == "skipped" else "bad"
    state.note(event.t, level, f"{event.arm} {event.outcome}: {event.error}", event.arm)


def _control(state: State, event: e.Control) -> None:
    state.control_offset = event.offset
    if event.refused:
        state.note(event.t, "warn", f"refused: {asked(event)}: {event.refused}", event.arm)
        return
    arm = state.arms.get(event.arm or state.arm)
    if event.request == "rerun" and arm is not None and arm.attempt is not None:
        state.rerun[arm.id] = arm.attempt.number + 1
    elif event.request == "skip" and arm is not None and arm.outcome in ("planned", "running"):
        state.skips = [*(name for name in state.skips if name != arm.id), arm.id]
    elif event.request == "pause":
        state.paused_at = event.t if state.paused_at is None else state.paused_at
    elif event.request == "resume":
        state.paused_at = None
    elif event.request in ("leave", "finish"):
        state.ending = event.request
    elif event.request == "tolerance" and (share := tolerance(event.value)) is not None:
        state.settings = msgspec.structs.replace(state.settings, tolerance=share)
    state.note(event.t, "info", f"asked to {asked(event)}", event.arm)


def tolerance(percent: str) -> float | None:
    """A tolerance as a share, None where it is no number of percent above 0 and below 100."""
    try:
        share = float(percent.strip().removesuffix("%")) / 100
    except ValueError:
        return None
    return share if 0 < share < 1 else None


def asked(event: e.Control) -> str:
    """What a viewer asked for, in words: skip Q2_K, set the tolerance to 2 %."""
    if event.request == "tolerance":
        return f"set the tolerance to {event.value.removesuffix('%').strip()} %"
    return " ".join(filter(None, (event.request, event.arm, event.value)))


def _beat(state: State, event: e.Beat) -> None:
    state.beat = event


def _closed(state: State, event: e.SessionClosed) -> None:
    _leave(state, event.t, "")
    state.closed, state.paused_at, state.ending = event.outcome, None, ""
    text = {"ok": "sweep done", "failed": "sweep done: some arm failed", "interrupted": "sweep stopped: resume it"}
    state.note(event.t, "ok" if event.outcome == "ok" else "warn", text.get(event.outcome, event.outcome))


def _concern_unit(state: State, event: Any) -> None:
    state.touch(event.unit.arm, event.n)


def _concern_done(state: State, event: e.UnitDone) -> None:
    state.touch(event.unit.arm, event.n)
    if event.unit.kind == "anchor":
        state.changed = event.n


def _concern_all(state: State, event: Any) -> None:
    state.changed = event.n
    state.touch(getattr(event, "arm", ""), event.n)


_CONCERNS: dict[type, Callable[[State, Any], None] | None] = {
    e.UnitStarted: _concern_unit,
    e.Perplexity: _concern_unit,
    e.Item: _concern_unit,
    e.UnitDisturbed: _concern_unit,
    e.UnitDone: _concern_done,
    e.Sample: None,
    e.Tokens: None,
    e.PhaseProgress: None,
    e.Beat: None,
}
"""Whom an event concerns: what is known of all other arms is what it was. Those that are not named may concern all;
None: its rule tells, or nobody."""

RULES: dict[type, Callable[[State, Any], None]] = {
    e.SessionOpened: _opened,
    e.SessionResumed: _resumed,
    e.ProbeFound: _probe_found,
    e.ProbeLost: _probe_lost,
    e.ArmStarted: _arm_started,
    e.ArmLoaded: _arm_loaded,
    e.ContextMade: _context_made,
    e.PhaseStarted: _phase_started,
    e.PhaseProgress: _phase_progress,
    e.PhaseDone: _phase_done,
    e.PhaseFailed: _phase_failed,
    e.Ceiling: _ceiling,
    e.KernelRate: _kernel,
    e.Sample: _sample,
    e.UnitStarted: _unit_started,
    e.Tokens: _tokens,
    e.Perplexity: _perplexity,
    e.BaseChosen: _base_chosen,
    e.Item: _item,
    e.UnitDisturbed: _unit_disturbed,
    e.UnitDone: _unit_done,
    e.ArmDone: _arm_done,
    e.ArmFailed: _arm_failed,
    e.Control: _control,
    e.Beat: _beat,
    e.SessionClosed: _closed,
}
"""One rule for each event of the vocabulary."""
