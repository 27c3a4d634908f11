"""The engine process: takes requests on its stdin, measures, answers with events on what was its stdout.

fd 1 and 2 are the stderr file of the session from the start, so that nothing llama.cpp prints reaches a terminal. A
thread sleeps on stdin: a Stop raises the abort flag, and the end of stdin ends the process at once, be it amid a
decode: whoever asked is gone. No other Python thread runs during timed units, except that chunks may be scored while
the next are decoded, by cores that the decoding leaves idle.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from quanttui import events as e
from quanttui.engine import protocol
from quanttui.errors import UserError, no_room
from quanttui.format import clean

if TYPE_CHECKING:
    from quanttui.engine import llama
    from quanttui.measure.base import Slots
    from quanttui.measure.perplexity import Judge, Workers
    from quanttui.measure.speed import Series, TokenArray
    from quanttui.measure.tasks.prefix import Memory

PROGRESS_NS = 100_000_000
"""Progress is told about this often, in nanoseconds."""


class Inbox:
    """Requests in their order, and the stops that may overtake them.

    Args:
        abort: called when the request under way is stopped.
        ended: called when the stream ends or makes no sense any more; its thread ends with it.
    """

    def __init__(self, stream: IO[bytes], abort: Callable[[], None], ended: Callable[[], None]) -> None:
        self._stream = stream
        self._abort = abort
        self._ended = ended
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
                self._ended()
                return
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
        """No request is under way: a Stop that comes now came too late."""
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
        self._arm = ""
        self._model: llama.Model | None = None
        self._context: llama.Context | None = None
        self._made_for: tuple[str, int, int] | None = None
        self._series: Series | None = None
        self._text: tuple[str, TokenArray] | None = None
        self._memory: Memory | None = None
        self._prefix: tuple[tuple[str, bool], TokenArray] | None = None
        self._workers: Workers | None = None
        self._slots: Slots | None = None

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
            self._tell_all(self._opened(request.unit).repetition(request.unit))
        elif isinstance(request, protocol.Warm):
            self._opened(request.unit)
        elif isinstance(request, protocol.Tokenize):
            self._count(request)
        elif isinstance(request, protocol.Score):
            self._score(request)
        elif isinstance(request, protocol.Render):
            self._render(request)
        elif isinstance(request, protocol.Generate):
            self._generate(request)
        elif isinstance(request, protocol.Choose):
            self._choose(request)
        elif isinstance(request, protocol.Quantize):
            self._quantize(request)
        elif isinstance(request, protocol.Imatrix):
            self._imatrix(request)
        elif isinstance(request, protocol.Bandwidth):
            self._tell(_bandwidth(request))
        elif isinstance(request, protocol.Kernels):
            from quanttui.probes import kernels

            told = (Path(request.cache), request.build)
            for rate in kernels.measure(request.arm, request.types, request.threads, *told, device=request.device):
                self._tell(msgspec.structs.replace(rate, device=request.named))

    def _tell_all(self, events: Iterable[e.Event]) -> None:
        for event in events:
            self._tell(event)

    def _progress(self, arm: str, phase: str) -> Callable[[float], None]:
        """A callback that tells how far a phase is, now and then."""
        last = [0]

        def told(fraction: float) -> None:
            now = time.monotonic_ns()
            if now - last[0] >= PROGRESS_NS:
                last[0] = now
                self._tell(e.PhaseProgress(arm=arm, phase=phase, fraction=min(1.0, max(0.0, fraction))))

        return told

    def _load(self, request: protocol.Load) -> None:
        self._forget()
        self._let_go_of_slots()
        if self._model is not None:
            self._model.close()
            self._model, self._text, self._prefix = None, None, None
        self._settings, self._arm = request.settings, request.arm
        began = time.monotonic_ns()
        progress = self._progress(request.arm, "load")
        model = self._llama.Model(request.file, request.settings, self.log, self.abort, progress)
        self._model = model
        self._tell(
            e.ArmLoaded(
                arm=request.arm,
                pid=os.getpid(),
                gpu_layers=model.gpu_layers,
                layers=model.layers,
                load_ns=time.monotonic_ns() - began,
                threads=request.settings.threads,
                buffers=model.buffers,
                attempt=request.attempt,
            )
        )
        gc.collect()
        gc.freeze()

    def _loaded(self) -> llama.Model:
        if self._model is None:
            raise UserError("the engine was asked to measure before it was given a model: load one first")
        return self._model

    def _forget(self) -> None:
        self._series, self._made_for, self._memory = None, None, None
        if self._workers is not None:
            self._workers.forget()
        if self._context is not None:
            self._context.close()
            self._context = None

    def _make_context(self, made_for: tuple[str, int, int], n_ctx: int, n_seq: int) -> llama.Context:
        """A fresh context; the one before it is freed first, so that the two never lie in memory together."""
        model = self._loaded()
        self._forget()
        unified = made_for[0] == "task"
        context = self._llama.Context(model, self._settings, n_ctx, n_seq, self.abort, unified)
        self._context, self._made_for = context, made_for
        self._tell(
            e.ContextMade(
                arm=self._arm,
                phase=made_for[0],
                n_ctx=context.n_ctx,
                n_batch=context.n_batch,
                n_ubatch=context.n_ubatch,
                n_seq=n_seq,
                kv=self._settings.kv,
                flash_attn=context.flash_attn,
                kv_bytes=context.kv_bytes,
                compute_bytes=context.compute_bytes,
            )
        )
        return context

    def _opened(self, unit: e.Unit) -> Series:
        """The series that a speed unit belongs to, warmed up. An anchor's is a decode's, and may go on with one."""
        from quanttui.measure.speed import TELL_NS, TELL_QUIET_NS, Series

        settings, test = self._settings, ("prompt" if unit.kind == "prompt" else "decode", unit.tokens, unit.depth)
        if self._series is None or self._made_for != test:
            context = self._make_context(test, unit.tokens + unit.depth, 1)
            vocabulary = self._loaded().vocabulary
            tell_ns = TELL_NS if self._spare() else TELL_QUIET_NS
            series = Series(context, vocabulary, settings.batch, settings.seed, self._clock, self._meter, tell_ns)
            self._tell_all(series.warm(unit))
            self._series = series
        return self._series

    def _tokens(self, text: str) -> TokenArray:
        model = self._loaded()
        if self._text is None or self._text[0] != text:
            if model.adds_eos:
                raise UserError(
                    f"{self._arm}: its vocabulary ends every text with EOS, for which perplexity is not defined "
                    "(llama-perplexity refuses it too): leave it out with --tasks speed"
                )
            self._text = (text, model.tokenize(self._llama.text_of(text)))
        return self._text[1]

    def _count(self, request: protocol.Tokenize) -> None:
        from quanttui.measure import perplexity

        tokens = len(self._tokens(request.text))
        chunks = perplexity.chunks(tokens, request.context, None, clean(request.text))
        self._tell(protocol.Counted(chunks=chunks, tokens=tokens))

    def _score(self, request: protocol.Score) -> None:
        from quanttui.measure import perplexity

        settings, model = self._settings, self._loaded()
        tokens = self._tokens(request.text)
        group = perplexity.group(settings.context, settings.batch)
        test = ("perplexity", settings.context, group)
        with ExitStack() as held:
            judge = self._judge(request.base, tokens, held)
            context = self._context
            if context is None or self._made_for != test:
                context = self._make_context(test, group * settings.context, group)
            workers, ahead = self._scoring()
            scorer = perplexity.Scorer(
                context=context,
                frame=perplexity.Frame(context=settings.context, batch=settings.batch, bos=model.vocabulary.bos),
                tokens=tokens,
                chunks=request.chunks,
                raw=held.enter_context(closing(perplexity.Raw(Path(request.raw), request.file))),
                clock=self._clock,
                meter=self._meter,
                workers=workers,
                judge=judge,
                ahead=ahead and len(request.units) > 1,
            )
            self._tell_all(scorer.score(request.units))

    def _render(self, request: protocol.Render) -> None:
        model, counts, shared = self._loaded(), [], []
        for prompt in request.prompts:
            text, form = self._rendered(prompt, request.chat)
            counts.append(len(model.prompt_tokens(text, form == "chat")))
            shared.append(len(self._beginning(prompt, text, form)))
        self._tell(protocol.Rendered(tokens=tuple(counts), shared=tuple(shared), most=model.trained_context))

    def _rendered(self, prompt: protocol.Given, chat: bool) -> tuple[str, str]:
        """The text that the model is given, and its form (events.Item)."""
        from quanttui.measure.tasks import templates

        messages = prompt.messages or ((("user", prompt.text),) if chat else ())
        if not messages:
            return prompt.text, "plain"
        model = self._loaded()
        return templates.rendered(model.chat_template, messages, model.bos, model.eos, prompt.thinking)

    def _switched(self, prompt: protocol.Given, form: str) -> bool | None:
        """What the template's switch was set to, None where it was left alone or there is none."""
        from quanttui.measure.tasks import templates

        return prompt.thinking if form == "chat" and templates.has_switch(self._loaded().chat_template) else None

    def _beginning(self, prompt: protocol.Given, text: str, form: str) -> TokenArray:
        """The tokens of what other prompts begin with as well: the last one's are kept."""
        from quanttui.measure.tasks.prefix import NONE

        at = text.find(prompt.prefix) if prompt.prefix else -1
        if at < 0:
            return NONE
        beginning = text[: at + len(prompt.prefix)], form == "chat"
        if self._prefix is None or self._prefix[0] != beginning:
            self._prefix = beginning, self._loaded().prompt_tokens(*beginning)
        return self._prefix[1]

    def _for_tasks(self, size: int, sequences: int = 1) -> tuple[llama.Context, Memory]:
        """The context that answers prompts, and what is known of its memory."""
        from quanttui.measure.tasks.prefix import Memory

        made_for, context = ("task", size, sequences), self._context
        if context is None or self._made_for != made_for:
            context = self._make_context(made_for, size, sequences)
        if self._memory is None:
            self._memory = Memory(context)
        return context, self._memory

    def _generate(self, request: protocol.Generate) -> None:
        from quanttui.measure import thought
        from quanttui.measure.speed import TELL_NS, TELL_QUIET_NS
        from quanttui.measure.tasks import templates
        from quanttui.measure.tasks.generate import Answering, Ending

        model, prompt = self._loaded(), request.prompt
        text, form = self._rendered(prompt, request.chat)
        context, memory = self._for_tasks(request.context)
        answering = Answering(
            context=context,
            vocabulary=model,
            clock=self._clock,
            meter=self._meter,
            tell_ns=TELL_NS if self._spare() else TELL_QUIET_NS,
            memory=memory,
        )
        opened = thought.opened(text) if form == "chat" else b""
        ending = Ending(request.max_tokens, request.stop, request.until, request.thinking_tokens, opened)
        tokens, shared = model.prompt_tokens(text, form == "chat"), self._beginning(prompt, text, form)
        knows = form == "chat" and templates.has_switch(model.chat_template)
        for told in answering.answer(request.unit, tokens, ending, shared):
            if isinstance(told, e.Event):
                self._tell(told)
            else:
                self._tell(
                    protocol.Generated(
                        unit=request.unit, prompt=text, form=form, text=told.text, stopped=told.stopped,
                        tokens=told.tokens, prompt_tokens=len(tokens), at=told.at, ns=told.ns, shared=told.shared,
                        thinking=told.thinking, thought=0 if told.thought is None and knows else told.thought,
                        switched=self._switched(prompt, form),
                    )
                )  # fmt: skip

    def _choose(self, request: protocol.Choose) -> None:
        from quanttui.measure.tasks.choose import BESIDE, Choosing, Question, question

        model = self._loaded()
        questions: list[Question] = []
        asked: dict[e.Unit, tuple[protocol.Given, str, str, int]] = {}
        for one in request.questions:
            text, form = self._rendered(one.prompt, request.chat)
            tokens, *wholes = (model.prompt_tokens(text + behind, form == "chat") for behind in ("", *one.choices))
            questions.append(question(one.unit, tokens, wholes))
            asked[one.unit] = one.prompt, text, form, len(tokens)
        context, memory = self._for_tasks(request.context, request.together + BESIDE)
        choosing = Choosing(context=context, clock=self._clock, meter=self._meter, memory=memory)
        first, *_ = asked.values()
        for told in choosing.choose(questions, self._beginning(*first[:3])):
            if isinstance(told, e.Event):
                self._tell(told)
            else:
                prompt, text, form, count = asked[told.unit]
                self._tell(
                    protocol.Chosen(
                        unit=told.unit, prompt=text, form=form, logs=told.logs, stopped=told.stopped,
                        prompt_tokens=count, at=told.at, ns=told.ns, shared=told.shared,
                        switched=self._switched(prompt, form),
                    )
                )  # fmt: skip

    def _spare(self) -> bool:
        """Whether decoding leaves cores idle."""
        from quanttui.probes import host

        return self._settings.threads < host.cores() or self._loaded().gpu_layers > 0

    def _scoring(self) -> tuple[Workers, bool]:
        """The threads that score, and whether they do while the next unit is decoded: that pays where the decoding
        leaves cores idle, by its settings or because a GPU does it."""
        from quanttui.measure.perplexity import Workers

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ahead = self._spare()
        threads = max(1, cores - self._settings.threads) if ahead else cores
        if self._workers is None or self._workers.threads != threads:
            if self._workers is not None:
                self._workers.close()
            self._workers = Workers(threads)
        return self._workers, ahead

    def _judge(self, base: protocol.Base | None, tokens: TokenArray, held: ExitStack) -> Judge:
        """What becomes of the logits besides an nll; `held` closes its files."""
        from quanttui.measure import base as bases
        from quanttui.measure.perplexity import Alone, Raw

        if base is None:
            return Alone()
        file = self._base_file(base, tokens) if base.logits and base.slots else None
        if file is not None and base.write:
            return bases.Writing(file, base.slots)
        exact = bases.Exact(base.arm or base.name, Path(base.raw), base.known) if base.raw else None
        sums = held.enter_context(closing(Raw(Path(base.sums), base.file))) if base.sums and file else None
        return bases.Comparing(base.name, exact, file, base.slots, sums)

    def _base_file(self, base: protocol.Base, tokens: TokenArray) -> Slots:
        """The file of base logits, opened and checked when it is first asked for."""
        from quanttui.measure.base import Asked, Slots

        asked = Asked(Path(base.logits), base.places, base.ring, base.write)
        if self._slots is None or self._slots.asked != asked:
            self._let_go_of_slots()
            self._slots = Slots(asked, self._settings.context, self._loaded().vocabulary.size, tokens)
        return self._slots

    def _let_go_of_slots(self) -> None:
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def _quantize(self, request: protocol.Quantize) -> None:
        self._llama.quantize(
            request.source,
            request.partial,
            request.quant,
            request.ftype,
            request.imatrix,
            request.threads,
            self.log,
            self._progress(request.arm, "quantize"),
            request.tensor_types,
        )
        os.replace(request.partial, request.target)

    def _imatrix(self, request: protocol.Imatrix) -> None:
        from quanttui.models import imatrix

        self._forget()
        model, progress = self._loaded(), self._progress(request.arm, "imatrix")

        def told(done: int, of: int) -> None:
            if self.abort.raised:
                raise self._llama.Aborted
            progress(done / of)

        collected = imatrix.collect(
            model.handle,
            model.tokenize(self._llama.text_of(request.text)).tolist(),
            self._arm,
            n_ctx=request.context,
            chunks=request.chunks,
            threads=self._settings.threads or None,
            progress=told,
        )
        imatrix.save(request.partial, collected, request.dataset or request.text, request.form)
        os.replace(request.partial, request.target)
        experts = [counts for counts in collected.counts.values() if len(counts) > 1]
        self._tell(
            protocol.Summed(
                chunks=collected.chunks,
                tokens=collected.chunks * collected.n_ctx,
                entries=len(collected.sums),
                experts=sum(len(counts) for counts in experts),
                silent=sum(int((counts == 0).sum()) for counts in experts),
            )
        )


def main() -> None:
    """Serve until stdin ends. What goes wrong unforeseen ends the process too, with a traceback in the stderr file."""
    try:
        _serve()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _leave_no_core()

    def tell(answer: protocol.Answer) -> None:
        try:
            protocol.write(answers, answer)
        except OSError:  # whoever asked is gone, which the inbox may not have seen yet
            os._exit(0)

    engine = Engine(tell)
    inbox = Inbox(sys.stdin.buffer, engine.abort.raise_, ended=lambda: os._exit(0))
    while True:
        envelope = inbox.next()
        engine.abort.lower()
        if inbox.begin(envelope.number):
            answer = _answer(engine, envelope.request)
        else:
            answer = protocol.Refusal(error="stopped", outcome="interrupted")
        inbox.end()
        tell(answer)


def _bandwidth(request: protocol.Bandwidth) -> e.Ceiling:
    """The host's memory by reading it, a device's by copying within it."""
    from quanttui.probes import bandwidth, kernels

    if request.device == "cpu":
        found = bandwidth.measure(request.file, request.threads)
    else:
        found = kernels.copy_gb_s(request.device)
    return msgspec.structs.replace(found, arm=request.arm, when=request.when, device=request.named)


def _leave_no_core() -> None:
    """An abort is told by its last lines: nobody needs gigabytes of weights written to a disk for it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


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
        outcome = protocol.FULL if no_room(error) else "failed"
        return protocol.Refusal(error=f"{clean(str(error.filename or 'engine'))}: {error.strerror}", outcome=outcome)
    return protocol.Answered()


if __name__ == "__main__":
    main()
