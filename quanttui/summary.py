"""What a session has found, in figures: one row for each arm. Pure: derived from the fold on every read."""

from __future__ import annotations

import msgspec

from quanttui.diagnosis.verdicts import Verdict
from quanttui.events import Build, Host
from quanttui.state import State


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second over the repetitions of one kind."""

    tok_s: float
    tok_s_median: float
    sd: float | None
    n: int
    gb_s: float | None = None
    mbu: float | None = None


class Quality(msgspec.Struct, frozen=True):
    """Perplexity and its standard error over the chunks so far."""

    value: float
    se: float | None
    chunks: int
    chunks_planned: int | None
    running: bool


class Delta(msgspec.Struct, frozen=True):
    """Perplexity against the base arm, in percent, paired over `chunks` common chunks."""

    base: str
    percent: float
    percent_error: float | None
    chunks: int


class Energy(msgspec.Struct, frozen=True):
    """Energy of decoding, and the counter that it was read from."""

    joules_per_token: float | None
    tok_s_per_w: float | None
    source: str


class ArmSummary(msgspec.Struct, frozen=True):
    """One arm."""

    id: str
    quant: str
    outcome: str
    error: str
    attempt: int
    bytes: int | None
    bits_per_weight: float | None
    tensor_types: dict[str, int]
    label_note: str
    settings: dict[str, int | str | bool | None]
    prompt: Speed | None
    decode: Speed | None
    perplexity: Quality | None
    delta: Delta | None
    peak_memory: dict[str, dict[str, float | None]]
    energy: Energy | None
    reproduced: str
    verdicts: tuple[Verdict, ...]
    tainted: bool
    pinned: bool


class Summary(msgspec.Struct, frozen=True):
    """A session."""

    model: str
    host: Host | None
    build: Build | None
    notes: tuple[str, ...]
    base: str
    arms: tuple[ArmSummary, ...]


def summarize(state: State, over: bool = False) -> Summary:
    return Summary(state.model, state.host, state.build, (), "", ())


def eta(state: State) -> float | None:
    return None


def phase_left(state: State) -> tuple[float, float | None]:
    return 0.0, None
