"""What was found in files that are imported, as data. Decides nothing."""

from __future__ import annotations

import msgspec

from quanttui.events import Build, Diverged, Host, Settings


class Source(msgspec.Struct, frozen=True):
    """A file that was read, as it was. `tool`: llama-bench or llama-perplexity."""

    name: str
    tool: str
    sha256: str
    raw: bytes


class Test(msgspec.Struct, frozen=True):
    """One test of llama-bench: the nanoseconds of its repetitions of `tokens` at `depth`.

    `kind` is prompt or decode; `wall` Unix time at which it began, None where that is not told; `attempt` > 1: the same
    test once more.
    """

    kind: str
    tokens: int
    depth: int
    ns: tuple[int, ...]
    wall: float | None = None
    attempt: int = 1


class Chunk(msgspec.Struct, frozen=True):
    """Chunk `index` of a text, or all of it in one piece: tokens scored, sums of their nll (nats) and of its square."""

    index: int
    scored: int
    nll: float
    nll2: float
    diverged: Diverged | None = None


class Scored(msgspec.Struct, frozen=True):
    """What llama-perplexity found of one file. `planned` chunks of `context` tokens; `seconds` that one takes, None
    where that is not told. `failed`: why there are not all of them, "" where there are."""

    chunks: tuple[Chunk, ...]
    planned: int
    context: int
    seconds: float | None = None
    failed: str = ""


class Arm(msgspec.Struct, frozen=True):
    """A quant: its tests, or its perplexity, or both. `bytes` of its tensors, None where that is not told.

    `prompt` and `decode` are tokens of a repetition where they are not the settings', 0 where they are; `kv` likewise.
    """

    id: str
    quant: str
    file: str
    bytes: int | None = None
    kv: str = ""
    prompt: int = 0
    decode: int = 0
    tests: tuple[Test, ...] = ()
    scored: Scored | None = None


class Imported(msgspec.Struct, frozen=True):
    """A session to be: `wall` is the Unix time at which its first test began, 0 where that is not told."""

    model: str
    host: Host
    build: Build
    settings: Settings
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]
    sources: tuple[Source, ...]
    wall: float = 0.0
