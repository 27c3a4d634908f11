"""The engine process: takes requests on its stdin, measures, answers with events on what was its stdout.

fd 1 and 2 are the stderr file of the session from the start, so that nothing llama.cpp prints reaches a terminal. A
thread sleeps on stdin: a Stop raises the abort flag, and the end of stdin ends the process at once, be it amid a
decode: whoever asked is gone. No other Python thread runs during timed units.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from quanttui import events as e
from quanttui.engine import protocol
from quanttui.errors import UserError
from quanttui.format import clean

if TYPE_CHECKING:
    from quanttui.engine import llama
    from quanttui.measure.speed import Series, TokenArray

TELL_NS = 100_000_000
"""Progress is told about this often, in nanoseconds."""


class Inbox:
    """Requests in their order, and the stops that may overtake them."""

    def __init__(self, stream: IO[bytes], abort: Callable[[], None]) -> None:
        self._stream = stream
        self._abort = abort
        self._requests: queue.Queue[protocol.Envelope] = queue.Queue()
        self._lock = threading.Lock()
        self._current = -1
        self._stopped = -1
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                envelope = protocol.read_envelope(self._stream)
            except (msgspec.DecodeError, OSError, ValueError):
                envelope = None
            if envelope is None:
                os._exit(0)
            if isinstance(envelope.request, protocol.Stop):
                with self._lock:
                    self._stopped = max(self._stopped, envelope.number)
                    if self._current == envelope.number:
                        self._abort()
            else:
                self._requests.put(envelope)

    def next(self) -> protocol.Envelope:
        """Wait for the next request."""
        return self._requests.get()

    def begin(self, number: int) -> bool:
        """From here on a Stop is for this request; False if it was stopped before it began."""
        with self._lock:
            self._current = number
            return number > self._stopped

    def end(self) -> None:
        with self._lock:
            self._current = -1


class Engine:
    """What the process holds: at most one model, at most one context, and the text as tokens."""

    def __init__(self, tell: Callable[[protocol.Answer], None]) -> None:
        from quanttui.engine import llama
        from quanttui.measure.counters import Meter
        from quanttui.measure.speed import Clock

        self._llama = llama
        self.log = llama.start()
        self.abort = llama.AbortFlag()
        self._tell = tell
        self._meter = Meter()
        self._clock = Clock()
        self._settings = e.Settings()
        self._model: llama.Model | None = None
        self._context: llama.Context | None = None
        self._test: tuple[str, int, int] | None = None
        self._series: Series | None = None
        self._text: tuple[str, TokenArray] | None = None
        self._arm = ""

    def meet(self, request: protocol.Request) -> None:
        """Do what is asked, telling events as they come.

        Raises:
            UserError, llama.LlamaError: it cannot be done; llama.Aborted: it was stopped.
        """
        if isinstance(request, protocol.Hello):
            self._clock = type(self._clock)(origin_ns=request.origin_ns)
        elif isinstance(request, protocol.Describe):
            self._tell(protocol.Described(build=self._llama.build()))
        elif isinstance(request, protocol.Load):
            self._load(request)
        elif isinstance(request, protocol.Speed):
            self._speed(request.unit)
        elif isinstance(request, protocol.Tokenize):
            tokens = self._tokens(request.text, request.context)
            self._tell(protocol.Counted(chunks=len(tokens) // request.context, tokens=len(tokens)))
        elif isinstance(request, protocol.Score):
            self._score(request)
        elif isinstance(request, protocol.Quantize):
            self._quantize(request)
        elif isinstance(request, protocol.Bandwidth):
            from quanttui.probes import bandwidth

            ceiling = bandwidth.measure(request.file, request.threads)
            self._tell(msgspec.structs.replace(ceiling, arm=request.arm))

    def _progress(self, arm: str, phase: str) -> Callable[[float], None]:
        """A callback that tells how far a phase is, now and then."""
        last = [0]

        def told(fraction: float) -> None:
            now = time.monotonic_ns()
            if now - last[0] >= TELL_NS:
                last[0] = now
                self._tell(e.PhaseProgress(arm=arm, phase=phase, fraction=min(1.0, max(0.0, fraction))))

        return told

    def _load(self, request: protocol.Load) -> None:
        self._forget()
        self._text = None
        if self._model is not None:
            self._model.close()
            self._model = None
        self._settings, self._arm = request.settings, request.arm
        began = time.monotonic_ns()
        self._model = self._llama.Model(
            request.file, request.settings, self.log, self.abort, self._progress(request.arm, "load")
        )
        self._tell(
            e.ArmLoaded(
                arm=request.arm,
                pid=os.getpid(),
                gpu_layers=self._model.gpu_layers,
                layers=self._model.layers,
                load_ns=time.monotonic_ns() - began,
                threads=request.settings.threads,
                buffers=self._model.buffers,
                attempt=request.attempt,
            )
        )
        gc.collect()
        gc.freeze()

    def _forget(self) -> None:
        self._test = self._series = None
        if self._context is not None:
            self._context.close()
            self._context = None

    def _make_context(self, phase: str, n_ctx: int, n_batch: int, n_seq: int) -> llama.Context:
        """A fresh context; the one before it is freed first, so that the two never lie in memory together."""
        self._forget()
        if self._model is None:
            raise UserError("the engine was asked to measure before it was given a model")
        context = self._llama.Context(self._model, self._settings, n_ctx, n_batch, n_seq, self.abort)
        self._context = context
        self._tell(
            e.ContextMade(
                arm=self._arm,
                phase=phase,
                n_ctx=context.n_ctx,
                n_batch=context.n_batch,
                n_ubatch=context.n_ubatch,
                n_seq=n_seq,
                flash_attn=context.flash_attn,
                kv_bytes=context.kv_bytes,
                compute_bytes=context.compute_bytes,
            )
        )
        return context

    def _speed(self, unit: e.Unit) -> None:
        test = (unit.kind, unit.tokens, unit.depth)
        if self._series is None or self._test != test:
            self._series = self._begun(unit)
            self._test = test
        gc.collect()
        gc.disable()
        try:
            for event in self._series.repetition(unit):
                self._tell(event)
        finally:
            gc.enable()

    def _begun(self, unit: e.Unit) -> Series:
        """A series of repetitions: a context of just the size, and the warm-up."""
        from quanttui.measure.speed import Series

        n_ctx = unit.tokens + unit.depth
        n_batch = min(self._settings.batch, n_ctx)
        context = self._make_context(unit.kind, n_ctx, n_batch, 1)
        assert self._model is not None
        series = Series(context, self._model.vocabulary, n_batch, self._settings.seed, self._clock, self._meter)
        for event in series.warm(unit):
            self._tell(event)
        return series

    def _tokens(self, text: str, context: int) -> TokenArray:
        from quanttui.measure import perplexity

        if self._model is None:
            raise UserError("the engine was asked to tokenize before it was given a model")
        if self._text is None or self._text[0] != text:
            if self._model.adds_eos:
                raise UserError(
                    f"{self._arm}: its vocabulary ends every text with EOS, for which perplexity is not defined "
                    "(llama-perplexity refuses it too): leave it out with --tasks speed"
                )
            self._text = (text, self._model.tokenize(self._llama.text_of(text)))
        tokens = self._text[1]
        perplexity.chunks(len(tokens), context, None, clean(text))
        return tokens

    def _score(self, request: protocol.Score) -> None:
        from quanttui.measure import perplexity

        settings, unit = self._settings, request.unit
        tokens = self._tokens(request.text, settings.context)
        group = perplexity.group(settings.context, settings.batch)
        if unit.count > group or (unit.index + unit.count) * settings.context > len(tokens):
            raise UserError(f"{unit.id}: {clean(request.text)} has no such chunks with this context and batch")
        test = ("perplexity", settings.context, group)
        if self._context is None or self._test != test:
            n_ctx = group * settings.context
            self._make_context("perplexity", n_ctx, min(settings.batch, n_ctx), group)
            self._test = test
        assert self._model is not None and self._context is not None
        frame = perplexity.Frame(
            context=settings.context,
            batch=settings.batch,
            bos=self._model.vocabulary.bos,
            threads=settings.threads,
        )
        raw = perplexity.Raw(Path(request.raw), request.file)
        try:
            for event in perplexity.score(
                self._context,
                frame,
                tokens,
                unit,
                request.chunks,
                raw,
                self._clock,
                self._meter,
            ):
                self._tell(event)
        finally:
            raw.close()

    def _quantize(self, request: protocol.Quantize) -> None:
        progress = self._progress(request.arm, "quantize")
        self._llama.quantize(
            request.source, request.partial, request.ftype, request.imatrix, request.threads, self.log, progress
        )
        os.replace(request.partial, request.target)


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    engine = Engine(lambda answer: protocol.write(answers, answer))
    inbox = Inbox(sys.stdin.buffer, engine.abort.raise_)
    while True:
        envelope = inbox.next()
        engine.abort.lower()
        if inbox.begin(envelope.number):
            answer = _answer(engine, envelope.request)
        else:
            answer = protocol.Refusal(error="stopped", outcome="interrupted")
        inbox.end()
        try:
            protocol.write(answers, answer)
        except OSError:
            os._exit(0)


def _answer(engine: Engine, request: protocol.Request) -> protocol.Answer:
    from quanttui.engine.llama import Aborted, LlamaError

    try:
        engine.meet(request)
    except Aborted:
        return protocol.Refusal(error="stopped", outcome="interrupted")
    except LlamaError as error:
        return protocol.Refusal(error=error.error, outcome=error.outcome)
    except UserError as error:
        return protocol.Refusal(error=str(error), outcome="refused")
    except MemoryError:
        return protocol.Refusal(error="out of memory inside the engine", outcome="oom")
    except OSError as error:
        return protocol.Refusal(error=f"{clean(str(error.filename or 'engine'))}: {error.strerror}", outcome="failed")
    return protocol.Answered()


if __name__ == "__main__":
    main()
