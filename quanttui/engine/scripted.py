"""A scripted engine: answers like an engine process, from figures that it was given, at once and without llama.cpp.

Ships in the package so that anybody can test a sweep, a screen or a report. Deterministic: its clock is its own, and
moves only by what its script says a thing takes.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import numpy as np

from quanttui import __version__
from quanttui import events as e
from quanttui.engine import protocol
from quanttui.engine.process import EngineFailure, Interrupted, Refused
from quanttui.errors import UserError
from quanttui.measure.base import Asked, Comparing, Exact, Slots
from quanttui.measure.perplexity import Raw, Rows

TEXT_NLL = 2.0
"""How hard the text is, in nats per token."""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """How one arm behaves: tok/s of prompt and decode, nats per token and their spread, what is wrong with it.

    How hard a token is comes from the text, the same for every arm: TEXT_NLL nats in the mean, with the standard
    deviation `spread`. An arm adds what its `nll` is above that, and in each chunk a deviation of its own, of which
    `noise` is the standard deviation, in nats per token. `kld` is its mean KL divergence from the base, in nats. Its
    rows of logits are `vocabulary` wide, and all tokens of its text are 0.
    `kernels` is C(type) in GB/s by tensor type.
    Of prompts it answers the share `differs` in words of its own, from some word on, the others as every arm does, and
    finds as many choices as likely as no other arm; where a letter is asked for, it says one. `answers` by item are
    given as they stand, the choice that is named there is likeliest. It was trained for a context of `trained` tokens.
    `fails` maps a unit's id, or load / quantize / bandwidth / bandwidth after / kernels, to the failure that comes
    instead of an answer.
    `holds` names a unit id at which it waits to be interrupted.
    """

    prompt: float = 500.0
    decode: float = 20.0
    nll: float = TEXT_NLL
    spread: float = 2.3
    noise: float = 0.005
    kld: float = 0.02
    vocabulary: int = 64
    chunks: int = 8
    differs: float = 0.2
    answers: Mapping[str, str] = {}
    trained: int = 4096
    gb_s: float | None = 30.0
    kernels: Mapping[str, float] = {}
    load_s: float = 0.5
    read: int = 0
    majflt: int = 0
    swap_in: int = 0
    cpu_share: float = 1.0
    fails: Mapping[str, EngineFailure] = {}
    holds: str = ""


class Clock:
    """Monotonic nanoseconds that pass only when told to."""

    def __init__(self) -> None:
        self.ns = 0

    def read(self) -> int:
        return self.ns

    def pass_(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


class Engine:
    """One scripted engine. `scripts` by arm; an arm without one gets `Script()`. `asked` collects the requests."""

    def __init__(self, scripts: Mapping[str, Script], clock: Clock, origin_ns: int = 0, pid: int = 1) -> None:
        self.pid = pid
        self.asked: list[protocol.Request] = []
        self.held = threading.Event()
        self.closed = False
        self._scripts = scripts
        self._clock = clock
        self._origin_ns = origin_ns
        self._interrupted = threading.Event()
        self._settings = e.Settings()
        self._arm = ""

    def ask(self, request: protocol.Request, patience: float = 600.0) -> Iterator[protocol.Answer]:
        """Like engine.process.Engine.ask."""
        if self._interrupted.is_set():
            raise Interrupted
        self.asked.append(request)
        if isinstance(request, protocol.Describe):
            yield protocol.Described(
                build=e.Build(quanttui=__version__, llama_cpp_python="0", llama_cpp="scripted", gpu_offload=False)
            )
        elif isinstance(request, protocol.Bandwidth):
            yield from self._bandwidth(request)
        elif isinstance(request, protocol.Kernels):
            yield from self._kernels(request)
        elif isinstance(request, protocol.Load):
            yield from self._load(request)
        elif isinstance(request, protocol.Quantize):
            self._fail(self._script(request.arm), "quantize")
            Path(request.target).write_bytes(Path(request.source).read_bytes())
            yield e.PhaseProgress(arm=request.arm, phase="quantize", fraction=1.0)
        elif isinstance(request, protocol.Tokenize):
            chunks = self._script(request.arm).chunks
            yield protocol.Counted(chunks=chunks, tokens=chunks * request.context)
        elif isinstance(request, protocol.Speed):
            yield from self._speed(request.unit)
        elif isinstance(request, protocol.Warm):
            yield e.PhaseProgress(arm=request.unit.arm, phase="warm", fraction=1.0)
        elif isinstance(request, protocol.Score):
            try:
                yield from self._score(request)
            except UserError as error:
                raise Refused("refused", str(error)) from None

        elif isinstance(request, protocol.Render):
            counts = tuple(_tokens(_text(prompt)) for prompt in request.prompts)
            shared = tuple(len(prompt.prefix) // 4 for prompt in request.prompts)
            yield protocol.Rendered(tokens=counts, shared=shared, most=self._script(request.arm).trained)
        elif isinstance(request, protocol.Generate):
            yield from self._generate(request)
        elif isinstance(request, protocol.Choose):
            for one in request.questions:
                yield from self._choose(one, request.context)

    def interrupt(self) -> None:
        """Like engine.process.Engine.interrupt."""
        self._interrupted.set()

    def close(self) -> None:
        self.closed = True

    def _script(self, arm: str) -> Script:
        return self._scripts.get(arm, Script())

    def _at(self) -> float:
        return (self._clock.read() - self._origin_ns) / 1e9

    def _fail(self, script: Script, where: str) -> None:
        if where in script.fails:
            raise script.fails[where]
        if where == script.holds:
            self.held.set()
            self._interrupted.wait()
            raise Interrupted

    def _bandwidth(self, request: protocol.Bandwidth) -> Iterator[protocol.Answer]:
        script = self._script(request.arm)
        self._fail(script, "bandwidth" if request.when == "before" else "bandwidth after")
        if script.gb_s is None:
            yield e.Ceiling(arm=request.arm, how="absent", when=request.when, why="the script gives none")
            return
        yield e.Ceiling(
            arm=request.arm,
            how="measured",
            gb_s=script.gb_s,
            repeats=(script.gb_s,),
            threads=request.threads,
            over="a script",
            when=request.when,
        )

    def _kernels(self, request: protocol.Kernels) -> Iterator[protocol.Answer]:
        script = self._script(request.arm)
        self._fail(script, "kernels")
        known = script.kernels
        for name in request.types:
            rate = known.get(name)
            how, why = ("measured", "") if rate else ("absent", "the script gives none")
            yield e.KernelRate(
                arm=request.arm, type=name, how=how, gb_s=rate, repeats=(rate,) if rate else (),
                threads=request.threads, why=why,
            )  # fmt: skip

    def _load(self, request: protocol.Load) -> Iterator[protocol.Answer]:
        script = self._script(request.arm)
        self._fail(script, "load")
        self._arm, self._settings = request.arm, request.settings
        self._clock.pass_(script.load_s)
        yield e.ArmLoaded(
            arm=request.arm,
            pid=self.pid,
            gpu_layers=0,
            layers=5,
            load_ns=round(script.load_s * 1e9),
            threads=request.settings.threads,
            attempt=request.attempt,
        )

    def _speed(self, unit: e.Unit) -> Iterator[protocol.Answer]:
        script = self._script(unit.arm)
        self._fail(script, unit.id)
        rate = script.prompt if unit.kind == "prompt" else script.decode
        each = round(1e9 / rate)
        at = self._at()
        yield e.UnitStarted(unit=unit, at=at)
        self._clock.pass_(unit.tokens * each / 1e9)
        if unit.kind != "prompt":
            yield e.Tokens(unit=unit, first=0, ns=(each,) * unit.tokens)
        yield self._done(unit, at, unit.tokens, unit.tokens * each, script)

    def _done(self, unit: e.Unit, at: float, tokens: int, ns: int, script: Script) -> e.UnitDone:
        counters = e.Counters(
            cpu_ns=round(ns * script.cpu_share * self._settings.threads),
            majflt=script.majflt,
            read=script.read,
            swap_in=script.swap_in,
            zswap_in=0,
            rss=10**9,
            anonymous=10**8,
        )
        return e.UnitDone(unit=unit, at=at, tokens=tokens, ns=ns, counters=counters)

    def _generate(self, request: protocol.Generate) -> Iterator[protocol.Answer]:
        unit, prompt = request.unit, _text(request.prompt)
        script = self._script(unit.arm)
        self._fail(script, unit.id)
        count, at = _tokens(prompt), self._at()
        yield e.UnitStarted(unit=unit, at=at)
        known = script.answers.get(unit.item)
        words = known.split() if known is not None else _words(unit.arm, prompt, script.differs, request.until)
        said = [] if count >= request.context else words[: request.max_tokens]
        stopped = "context" if count >= request.context else "length" if len(said) < len(words) else "eos"
        text = known if known is not None and stopped == "eos" else " ".join(said)
        each = round(1e9 / script.decode)
        ns = round(count * 1e9 / script.prompt) + len(said) * each
        self._clock.pass_(ns / 1e9)
        if said:
            yield e.Tokens(unit=unit, first=0, ns=(each,) * len(said))
        yield protocol.Generated(
            unit=unit, prompt=prompt, form="chat" if request.prompt.messages else "plain", text=text, stopped=stopped,
            tokens=len(said), prompt_tokens=count, at=at, ns=ns,
        )  # fmt: skip
        yield self._done(unit, at, len(said), ns, script)

    def _choose(self, request: protocol.Question, context: int) -> Iterator[protocol.Answer]:
        unit, prompt = request.unit, _text(request.prompt)
        script = self._script(unit.arm)
        self._fail(script, unit.id)
        count, at = _tokens(prompt), self._at()
        fits = count < context
        yield e.UnitStarted(unit=unit, at=at)
        logs = _weights(unit.arm, prompt, script.differs, len(request.choices))
        if (known := script.answers.get(unit.item)) is not None:
            logs[[one.strip() for one in request.choices].index(known)] = 0.0
        ns = round(count * 1e9 / script.prompt) if fits else 0
        self._clock.pass_(ns / 1e9)
        yield protocol.Chosen(
            unit=unit, prompt=prompt, form="chat" if request.prompt.messages else "plain", at=at, ns=ns,
            logs=tuple(logs) if fits else (), stopped="choice" if fits else "context", prompt_tokens=count,
        )  # fmt: skip
        yield self._done(unit, at, 0, ns, script)

    def _score(self, request: protocol.Score) -> Iterator[protocol.Answer]:
        """Chunks whose values depend on arm and chunk alone, so that any order of units gives the same."""
        with ExitStack() as held:
            raw = held.enter_context(closing(Raw(Path(request.raw), request.file)))
            base = _Base(request.base, self._script(self._arm).vocabulary, self._settings.context, request.chunks, held)
            for unit in request.units:
                yield from self._unit(unit, request.chunks, raw, base)

    def _unit(self, unit: e.Unit, chunks: int, raw: Raw, base: _Base) -> Iterator[protocol.Answer]:
        script = self._script(unit.arm)
        self._fail(script, unit.id)
        context, at = self._settings.context, self._at()
        each = round(context * 1e9 / script.prompt)
        yield e.UnitStarted(unit=unit, at=at)
        for chunk in unit.places:
            nll = _nll(script, unit.arm, chunk, context - 1 - context // 2)
            offset = raw.put(chunk, nll)
            against, diverged = base.told(script, self._script(base.arm), unit.arm, chunk, nll)
            self._clock.pass_(each / 1e9)
            yield e.Perplexity(
                unit=unit,
                chunk=chunk,
                chunks=chunks,
                scored=len(nll),
                nll=float(nll.sum()),
                nll2=float((nll * nll).sum()),
                at=at,
                ns=each,
                file=raw.name,
                offset=offset,
                against=against,
                diverged=diverged,
            )
        yield self._done(unit, at, unit.count * context, unit.count * each, script)


class _Base:
    """What is done about the base: its files are written and read as by the real engine, figures come from scripts."""

    def __init__(
        self, base: protocol.Base | None, vocabulary: int, context: int, chunks: int, held: ExitStack
    ) -> None:
        asked = base or protocol.Base(name="")
        self.arm = asked.arm or asked.name
        self._slots, self._write, self._context, self._vocabulary = asked.slots, asked.write, context, vocabulary
        self._file: Slots | None = None
        if asked.logits and asked.slots:
            which = Asked(Path(asked.logits), asked.places, asked.ring, asked.write)
            self._file = Slots(which, context, vocabulary, np.zeros(chunks * context, np.int32))
            held.callback(self._file.close)
        exact = Exact(self.arm, Path(asked.raw), asked.known) if asked.raw else None
        sums = held.enter_context(closing(Raw(Path(asked.sums), asked.file))) if asked.sums and self._file else None
        self._comparing = Comparing(asked.name, exact, None if asked.write else self._file, asked.slots, sums)

    def told(
        self, script: Script, theirs: Script, arm: str, chunk: int, nll: Rows
    ) -> tuple[e.Against | None, e.Diverged | None]:
        """What the event says of a chunk, once its rows are written or read."""
        slot = self._slots.get(chunk)
        if self._file is not None and slot is not None and self._write:
            self._file.put(slot, _random("", chunk).normal(size=(len(nll), self._vocabulary)).astype(np.float32), 0)
            self._file.done(slot)
        elif self._file is not None and slot is not None:
            self._file.codes(slot, 0, len(nll))
        base = _nll(theirs, self.arm, chunk, len(nll))
        random = _random(arm, chunk, 1)
        kld = random.gamma(0.5, 2 * script.kld, len(nll)) if script.kld else np.zeros(len(nll))
        p_diff = random.normal(-script.kld, math.sqrt(script.kld) / 4, len(nll))
        same_top = random.random(len(nll)) >= min(1.0, script.kld)
        return self._comparing.told(chunk, np.stack([nll, base, kld, p_diff, same_top.astype(np.float64)]))


def _nll(script: Script, arm: str, chunk: int, scored: int) -> Rows:
    """The text's own difficulty, the same for all arms, and what the arm adds to it."""
    hard = (TEXT_NLL / script.spread) ** 2
    text = np.random.default_rng(chunk).gamma(hard, TEXT_NLL / hard, scored)
    return text + (script.nll - TEXT_NLL) + _random(arm, chunk).normal() * script.noise


WORDS = ("the", "boat", "went", "over", "a", "quiet", "sea", "and", "saw", "many", "lights", "far", "away")


def _words(arm: str, prompt: str, differs: float, letters: str = "") -> list[str]:
    """The answer that a prompt gets from every arm, or from some word on one of the arm's own. Of `letters` it begins
    with one and ends."""
    common, own = _random("", zlib.crc32(prompt.encode())), _random(arm, zlib.crc32(prompt.encode()), 2)
    words = [WORDS[at] for at in common.integers(0, len(WORDS), 24)]
    if letters:
        words = [letters[common.integers(0, len(letters))]]
    if own.random() < differs:
        since = int(own.integers(0, len(words)))
        words[since:] = [(letters or WORDS)[at] for at in own.integers(0, len(letters or WORDS), len(words) - since)]
    return words


def _weights(arm: str, prompt: str, differs: float, count: int) -> list[float]:
    """Log-likelihoods of choices after a prompt, those of every arm, or some of the arm's own."""
    common, own = _random("", zlib.crc32(prompt.encode()), 3), _random(arm, zlib.crc32(prompt.encode()), 4)
    random = own if own.random() < differs else common
    return [-float(each) for each in 0.1 + random.exponential(2.0, count)]


def _text(prompt: protocol.Given) -> str:
    return prompt.text or "\n\n".join(content for _, content in prompt.messages)


def _tokens(text: str) -> int:
    """Four characters make a token."""
    return -(-len(text) // 4)


def _random(arm: str, chunk: int, kind: int = 0) -> np.random.Generator:
    return np.random.default_rng((zlib.crc32(arm.encode()), chunk, kind))
