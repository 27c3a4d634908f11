"""What the sweep and an engine say to each other over two pipes, and how it is framed.

Owns the requests, the answers that are no events, and the frames: four bytes of length, little-endian, then one
msgpack message. Every request carries a number, so that a `Stop` can never hit a later request than the one it was
meant for. Knows neither llama.cpp nor how a process is started.
"""

from __future__ import annotations

import re
import struct
from typing import IO, Union

import msgspec

from quanttui import events

OUT_OF_MEMORY = re.compile(r"out of memory|insufficient memory|bad_alloc|\b(cannot|failed to|unable to) allocate", re.I)
"""By these words a failure for want of memory is known, llama.cpp's and the C++ library's."""

FULL = "full"
"""The outcome of a refusal for want of room on a disk: no arm's fault, so that it stands in no log."""

_LENGTH = struct.Struct("<I")


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first request: at which nanosecond of the monotonic clock session time 0 lies."""

    origin_ns: int


class Describe(msgspec.Struct, frozen=True, kw_only=True, tag="describe"):
    """Which llama.cpp is this? Answered by Described."""


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Load the GGUF `file` as `arm`. Answered by PhaseProgress (load) and ArmLoaded."""

    arm: str
    file: str
    settings: events.Settings
    attempt: int = 1


class Speed(msgspec.Struct, frozen=True, kw_only=True, tag="speed"):
    """One repetition of a prompt or decode unit. Answered by UnitStarted, Tokens (decode), UnitDone.

    A repetition that opens a series (another kind, other tokens or depth than the one before) is preceded by
    ContextMade and a warm-up.
    """

    unit: events.Unit


class Warm(msgspec.Struct, frozen=True, kw_only=True, tag="warm"):
    """What opens the series of a speed unit, ahead of its first repetition. Answered by ContextMade, PhaseProgress."""

    unit: events.Unit


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag="tokenize"):
    """How many chunks of `context` tokens the file `text` makes. Answered by Counted."""

    arm: str
    text: str
    context: int


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """What an arm is held against while it is scored, or, with `write`, what it leaves for the others.

    name: the base arm's, or the file's, of whose logits the rows are.
    logits: the base-logits file (measure.divergence); "" where there is none. Where it is written it is made for the
        chunks `places` of the text, in that order, or its `.part` gone on with; where it is read, its tokens must be
        those of `places`, or of the text's beginning where that is empty.
    slots: of chunks of the text their place in that file; a chunk without one is not compared by it.
    ring: the file has this many slots that are used again and again, by an engine that decodes the base beside this
        one: it is never finished, and its tokens mean nothing.
    raw: the base arm's file of per-token nll, "" where there is none; `known` are the chunks that it has, `arm` its id.
    sums: where the tokens' values against the rows go, which the events call `file`.
    """

    name: str
    logits: str = ""
    places: tuple[int, ...] = ()
    slots: dict[int, int] = {}
    ring: int = 0
    write: bool = False
    raw: str = ""
    known: tuple[int, ...] = ()
    arm: str = ""
    sums: str = ""
    file: str = ""


class Score(msgspec.Struct, frozen=True, kw_only=True, tag="score"):
    """Score groups of chunks of the file `text`. Answered, for each unit in turn, by UnitStarted, Perplexity per
    chunk, UnitDone.

    `chunks` is how many there are for the arm to score. Per-token values go to the file `raw`, which the events call
    `file`. Of several units one may be scored while the next is decoded.
    """

    units: tuple[events.Unit, ...]
    text: str
    chunks: int
    raw: str
    file: str = ""
    base: Base | None = None


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt: `messages` as (role, content) for the model's chat template, or plain `text`.

    `prefix`: up to the end of the first place where this stands in its text, other prompts are the same: that much of
    it may stay in memory for them. "" for none. `thinking`: what the template's switch is set to, None to leave it.
    """

    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    thinking: bool | None = None


class Render(msgspec.Struct, frozen=True, kw_only=True, tag="render"):
    """How many tokens do these prompts make, and their prefixes? Answered by Rendered. `chat`: plain text is a user's
    message, too."""

    arm: str
    prompts: tuple[Given, ...]
    chat: bool = False


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Answer a prompt, each token the likeliest, in a context of `context` tokens. Answered by UnitStarted, Tokens,
    Generated, UnitDone.

    The answer ends where the model ends it, before the first of the strings `stop`, right after the first of the
    letters `until` that stands alone, or with `max_tokens` tokens: `thinking_tokens` more where the model thinks
    before it.
    """

    unit: events.Unit
    prompt: Given
    max_tokens: int
    context: int
    stop: tuple[str, ...] = ()
    chat: bool = False
    until: str = ""
    thinking_tokens: int = 0


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """How likely is each of the texts `choices` after a prompt?"""

    unit: events.Unit
    prompt: Given
    choices: tuple[str, ...]


class Choose(msgspec.Struct, frozen=True, kw_only=True, tag="choose"):
    """Weigh the choices of questions with one prefix, in a context of `context` tokens. Answered, for each question in
    turn, by UnitStarted, Chosen, UnitDone.

    They are read together as far as the context has room for them, `together` being the most that are ever asked at
    once: the weights are the same to the bit each time that the same questions are asked in the same context.
    """

    questions: tuple[Question, ...]
    context: int
    chat: bool = False
    together: int = 1


class Quantize(msgspec.Struct, frozen=True, kw_only=True, tag="quantize"):
    """Quantize the GGUF `source` into `target`: `ftype` is llama.cpp's llama_ftype, `quant` its name.

    `tensor_types` are pairs of a pattern and ggml's name of the type that the tensors get in whose names it is found.
    Answered by PhaseProgress (quantize). The target appears whole or not at all.
    """

    arm: str
    source: str
    target: str
    quant: str
    ftype: int
    imatrix: str = ""
    threads: int = 1
    tensor_types: tuple[tuple[str, str], ...] = ()

    @property
    def partial(self) -> str:
        """Where the target grows until it is whole."""
        return f"{self.target}.part"


class Imatrix(msgspec.Struct, frozen=True, kw_only=True, tag="imatrix"):
    """Compute the importance matrix of the loaded model over the file `text` into `target`.

    Over all chunks of `context` tokens unless `chunks` bounds them; `form` is one of models.imatrix.FORMS, `dataset`
    what the file says of its text. Answered by PhaseProgress (imatrix) and Summed. The target appears whole or not at
    all.
    """

    arm: str
    text: str
    target: str
    context: int
    chunks: int | None = None
    form: str = "gguf"
    dataset: str = ""

    @property
    def partial(self) -> str:
        """Where the target grows until it is whole."""
        return f"{self.target}.part"


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True, tag="bandwidth"):
    """Measure the read bandwidth next to an arm, over its own file. Answered by Ceiling, which says `when`.

    `device` "cpu" is the host's memory; of another device, by llama.cpp's name of it, a copy within it is timed, and
    the answer calls it `named`.
    """

    arm: str
    file: str
    threads: int
    when: str = "before"
    device: str = "cpu"
    named: str = "cpu"


class Kernels(msgspec.Struct, frozen=True, kw_only=True, tag="kernels"):
    """How fast are matrices of these tensor `types` multiplied with a vector out of the cache? Answered by KernelRate,
    one each. What was measured on this machine with this build before lies in the file `cache`.

    `device` and `named` as in Bandwidth.
    """

    arm: str
    types: tuple[str, ...]
    threads: int
    cache: str
    build: str
    device: str = "cpu"
    named: str = "cpu"


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """Give up the request that has this envelope's number."""


Request = Union[  # noqa: UP007 (msgspec reads it at run time on 3.10)
    Hello, Describe, Load, Speed, Warm, Tokenize, Score, Render, Generate, Choose, Quantize, Imatrix, Bandwidth,
    Kernels, Stop
]


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A request and its number."""

    number: int
    request: Request


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.counted"):
    """The answer to Tokenize: how many whole `chunks` the text makes, and how many `tokens` it has."""

    chunks: int
    tokens: int


class Rendered(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.rendered"):
    """The answer to Render: `tokens` of each prompt, and of what it shares by its prefix, and the context that the
    model was trained for, 0 if unknown."""

    tokens: tuple[int, ...]
    shared: tuple[int, ...] = ()
    most: int = 0


class Generated(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.generated"):
    """What the model answered. `prompt` is the text that it was given, made as `form` says (events.Item).

    `tokens` came after `prompt_tokens` in `ns` altogether, from session time `at` on; `stopped` is one of STOPPED. The
    first `shared` tokens of the prompt were in memory already. `text` is what follows the model's thinking, none where
    that has no end; `thinking` is what it thought, in `thought` of the tokens, None where neither it nor its template
    knows of thinking. `switched`: what the template's switch was set to, None where it was left alone or there is none.
    """

    unit: events.Unit
    prompt: str
    form: str
    text: str
    stopped: str
    tokens: int
    prompt_tokens: int
    at: float
    ns: int
    shared: int = 0
    thinking: str = ""
    thought: int | None = None
    switched: bool | None = None


class Chosen(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.chosen"):
    """The log-likelihood of each choice after a prompt, in nats; none where they are too long for the context.

    What else it says is as in Generated.
    """

    unit: events.Unit
    prompt: str
    form: str
    logs: tuple[float, ...]
    stopped: str
    prompt_tokens: int
    at: float
    ns: int
    shared: int = 0
    switched: bool | None = None


class Summed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.summed"):
    """The answer to Imatrix: over how many `chunks` of how many `tokens`, and for how many tensors (`entries`).

    Of all their `experts` the `silent` ones saw no token.
    """

    chunks: int
    tokens: int
    entries: int
    experts: int = 0
    silent: int = 0


class Described(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.described"):
    """The answer to Describe."""

    build: events.Build


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.answered"):
    """The request is done; nothing more comes for it."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="engine.refused"):
    """The request cannot be met: one clear line, and an outcome of events.OUTCOMES. The engine lives on."""

    error: str
    outcome: str


Answer = Union[events.Event, Counted, Rendered, Generated, Chosen, Summed, Described, Answered, Refusal]  # noqa: UP007
_Wire = Union[events.Known, Counted, Rendered, Generated, Chosen, Summed, Described, Answered, Refusal]  # noqa: UP007

_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(Envelope)
_answers = msgspec.msgpack.Decoder(_Wire)


def write(stream: IO[bytes], message: Envelope | Answer) -> None:
    """Put one framed message on the stream, and flush.

    Raises:
        OSError: nobody reads the other end any more.
    """
    body = _encoder.encode(message)
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _frame(stream: IO[bytes]) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def read_envelope(stream: IO[bytes]) -> Envelope | None:
    """The next request, or None when the stream ended.

    Raises:
        msgspec.DecodeError: what came is no request.
    """
    frame = _frame(stream)
    return None if frame is None else _envelopes.decode(frame)


def read_answer(stream: IO[bytes]) -> Answer | None:
    """The next answer, or None when the stream ended, be it amid a message.

    Raises:
        msgspec.DecodeError: what came is no answer.
    """
    frame = _frame(stream)
    return None if frame is None else _answers.decode(frame)
