"""`quanttui imatrix`: computes an importance matrix over the user's own text, and says what it buys.

Owns the command's order of work: which part of the text is calibration and which is held out, which quants are made
without and with the matrix, and the pairing of their perplexities. Engine processes do the rest.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from quanttui import events as e
from quanttui import quants
from quanttui.engine import protocol
from quanttui.engine.process import Engine, EngineFailure
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import header as headers
from quanttui.models import imatrix, label, quantize, store
from quanttui.models.header import Header
from quanttui.probes import host
from quanttui.quants import Quant
from quanttui.report.make import Bought, Computed, Gain
from quanttui.stats.intervals import mean_sd, student
from quanttui.stats.overlap import overlap
from quanttui.sweep import launch, make, plan
from quanttui.sweep.make import Progress

HELD_OUT = 0.2
"""The share at the text's end that the matrix is not computed over, where the gain has no text of its own."""

GAIN_QUANTS = "Q4_K_M,Q2_K"
"""What the gain is told for where no quants are named: the one that most people take, and one that loses much."""

LEAST_CHUNKS = 5
"""No interval below this many chunks."""

PATIENCE = 3600.0
"""Seconds that an engine may be silent: a chunk of a large model on a slow machine takes minutes."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What `quanttui imatrix` was asked for, as its flags have it. Of a folder the largest file is taken.

    `out` "" is a file named after the model, here; `form` "" is what its ending says. `chunks` None is all of the text;
    `context` the tokens of a chunk.
    `gain` are quants, "" for no gain; `evaluation` its text, "" for the end of `text`, and `evaluation_chunks` bounds
    how much of it is scored. `settings` has the threads (0: the physical cores) and what is offloaded.
    """

    source: str
    text: str
    out: str = ""
    chunks: int | None = None
    context: int = 512
    form: str = ""
    gain: str = ""
    evaluation: str = ""
    evaluation_chunks: int | None = None
    force: bool = False
    settings: e.Settings = e.Settings(threads=0)
    cache: Path
    cache_bytes: int


class _Texts(msgspec.Struct, frozen=True):
    """What the matrix is computed over and what the gain is measured on: files, and how they are called."""

    calibration: Path
    evaluation: Path | None
    called: str = ""
    note: str = ""


def run(asked: Asked, told: Progress, build: str = "") -> Computed:
    """Compute the matrix, write it, and measure what it buys where that is asked for.

    Raises:
        UserError: the model or a text cannot be used, the file is there already, or an engine failed.
    """
    header = make.files_of(asked.source)[0]
    wanted = quants.parse(asked.gain, "--gain") if asked.gain else ()
    if wanted and not label.is_unquantized(header):
        raise UserError(
            f"--gain: {clean(str(header.path), 200)} is quantized already ({label.actual(header)}): quants are made"
            " from an F32, F16 or BF16 GGUF"
        )
    asked = msgspec.structs.replace(asked, form=asked.form or ("dat" if asked.out.endswith(".dat") else "gguf"))
    if asked.form not in imatrix.FORMS:
        raise UserError(f"--form {clean(asked.form, 40)}: there are {', '.join(imatrix.FORMS)}")
    target = _target(asked, header)
    settings = asked.settings
    if not settings.threads:
        settings = msgspec.structs.replace(settings, threads=host.host().cores)
    with tempfile.TemporaryDirectory(prefix="quanttui-") as folder:
        texts = _texts(asked, Path(folder), bool(wanted))
        try:
            found = _computed(asked, header, texts, target, settings, Path(folder), told)
            if texts.evaluation is None or not wanted:
                return found
            measure = _Measure(asked, header, settings, Path(folder), told, build or launch.build().llama_cpp)
            gain = measure.gain(wanted, target, texts.evaluation, texts.called, _read(texts.calibration))
        except EngineFailure as failure:
            raise UserError(f"{clean(header.path.name, 120)}: {clean(failure.error)}") from None
    return msgspec.structs.replace(found, gain=gain)


def _target(asked: Asked, header: Header) -> Path:
    """Where the matrix goes. That it can be written is known before it is computed."""
    named = asked.out or f"{label.without_quant(header.path.name) or 'model'}.imatrix.{asked.form}"
    target = Path(named).expanduser()
    where = clean(str(target), 200)
    if target.is_dir():
        raise UserError(f"--out {where}: is a folder: name a file in it")
    if target.exists() and not asked.force:
        raise UserError(f"--out {where}: is there already: name another file, or --force replaces it")
    if not os.access(target.absolute().parent, os.W_OK | os.X_OK):
        raise UserError(f"--out {where}: cannot be written: there is no such folder, or it may not be written to")
    return target


def _texts(asked: Asked, folder: Path, gain: bool) -> _Texts:
    """The text, whole; or in two parts, cut at the end of a line, where the gain needs one that was not seen."""
    text = Path(asked.text).expanduser()
    data = _bytes(text, "--text")
    if not gain:
        if asked.evaluation:
            raise UserError("--eval: is the text that the gain is measured on: add --gain, or leave it out")
        return _Texts(text, None)
    if asked.evaluation:
        evaluation = Path(asked.evaluation).expanduser()
        _bytes(evaluation, "--eval")
        return _Texts(text, evaluation, evaluation.name)
    cut = data.find(b"\n", int(len(data) * (1 - HELD_OUT))) + 1
    if not 0 < cut < len(data):
        raise UserError(f"--gain: no line of {clean(str(text), 200)} ends in its last fifth: give --eval FILE")
    parts = folder / "calibration.txt", folder / "held-out.txt"
    for part, content in zip(parts, (data[:cut], data[cut:]), strict=True):
        part.write_bytes(content)
    note = (
        f"the last fifth of {text.name} is held out to measure the gain: the matrix is of the rest; with --eval FILE it"
        " is of all of it"
    )
    return _Texts(*parts, f"the held-out end of {text.name}", note)


def _bytes(path: Path, flag: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{flag} {clean(str(path), 200)}: cannot be read ({error.strerror})") from None
    if not data.strip():
        raise UserError(f"{flag} {clean(str(path), 200)}: is empty")
    return data


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def _computed(
    asked: Asked, header: Header, texts: _Texts, target: Path, settings: e.Settings, folder: Path, told: Progress
) -> Computed:
    """The matrix, in its file."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    name = header.path.name
    request = protocol.Imatrix(
        arm=name,
        text=str(texts.calibration),
        target=str(temporary),
        context=asked.context,
        chunks=asked.chunks,
        form=asked.form,
        dataset=asked.text,
    )
    told.begin(f"importance matrix of {clean(name, 60)}")
    try:
        with Engine.start(folder / "imatrix.stderr.txt", time.monotonic_ns()) as engine:
            list(engine.ask(protocol.Load(arm=name, file=str(header.files[0]), settings=settings), PATIENCE))
            summed = _last(_following(engine, request, told))
        store.settle(temporary, target)
    except EngineFailure as failure:
        raise UserError(f"{clean(name, 120)}: {clean(failure.error.replace(request.partial, str(target)))}") from None
    except OSError as error:
        raise UserError(f"{clean(str(target), 200)}: cannot be written ({error.strerror})") from None
    finally:
        for leftover in (temporary, Path(request.partial)):
            leftover.unlink(missing_ok=True)
    return Computed(
        model=headers.name(header),
        source=str(header.path),
        file=str(target),
        form=asked.form,
        bytes=target.stat().st_size,
        text=Path(asked.text).name,
        chunks=summed.chunks,
        tokens=summed.tokens,
        context=asked.context,
        entries=summed.entries,
        experts=summed.experts,
        silent=summed.silent,
        seconds=told.end(),
        notes=(texts.note,) if texts.note else (),
    )


def _following(engine: Engine, request: protocol.Request, told: Progress) -> Iterator[Any]:
    """The answers that are no progress."""
    for answer in engine.ask(request, PATIENCE):
        if isinstance(answer, e.PhaseProgress):
            told.at(answer.fraction)
        else:
            yield answer


def _last(answers: Iterator[Any]) -> protocol.Summed:
    (summed,) = [answer for answer in answers if isinstance(answer, protocol.Summed)]
    return summed


class _Measure:
    """Makes quants of one source and scores them over one text."""

    def __init__(
        self, asked: Asked, header: Header, settings: e.Settings, folder: Path, told: Progress, build: str
    ) -> None:
        self.asked, self.header, self.settings = asked, header, settings
        self.folder, self.told, self.build = folder, told, build

    def gain(self, wanted: Sequence[Quant], matrix: Path, text: Path, called: str, calibration: str) -> Gain:
        """What the matrix buys for each quant over the text, which is `called` so.

        Raises:
            UserError: a quant cannot be made, or the text is too short.
            EngineFailure: an engine failed.
        """
        base = label.actual(self.header)
        whole = self._scored(base, self.header.files[0], text)
        bought = []
        for quant in wanted:
            if quant.family == "float":
                continue
            possible = not quantize.wanting(self.header, quant, None)
            without = self._quantized(quant, "", text) if possible else None
            bought.append(compared(quant.name, whole, without, self._quantized(quant, str(matrix), text)))
        return Gain(
            text=called,
            chunks=len(whole),
            context=self.settings.context,
            overlap=overlap(_read(text), calibration),
            base=base,
            ppl=ppl(whole),
            quants=tuple(bought),
        )

    def _quantized(self, quant: Quant, matrix: str, text: Path) -> list[e.Perplexity]:
        """The chunks of a quant made with this matrix, "" for none."""
        how = f"{quant.name} {'with' if matrix else 'without'} it"
        source = str(self.header.files[0])
        arm = e.PlannedArm(id=quant.name, quant=quant.name, source=source, imatrix=matrix)
        asked = self.asked
        making = quantize.make(
            arm, make.Once(self.folder / "quantize.stderr.txt"), asked.cache, asked.cache_bytes, self.settings.threads,
            build=self.build,
        )  # fmt: skip
        self.told.begin(f"quantizing {how}")
        file = make.followed(making, self.told, lambda share: share)
        with ExitStack() as held:
            held.callback(store.release, file)
            self.told.end()
            return self._scored(how, file, text)

    def _scored(self, how: str, file: Path, text: Path) -> list[e.Perplexity]:
        """The text's chunks, scored in its order."""
        settings, found = self.settings, []
        self.told.begin(f"perplexity of {how}")
        with Engine.start(self.folder / "score.stderr.txt", time.monotonic_ns()) as engine:
            list(engine.ask(protocol.Load(arm="arm", file=str(file), settings=settings), PATIENCE))
            counted = list(engine.ask(protocol.Tokenize(arm="arm", text=str(text), context=settings.context), PATIENCE))
            (most,) = [answer.chunks for answer in counted if isinstance(answer, protocol.Counted)]
            chunks = min(most, self.asked.evaluation_chunks or most)
            request = protocol.Score(
                units=plan.groups(settings, chunks, "arm"),
                text=str(text),
                chunks=chunks,
                raw=str(self.folder / "arm.nll"),
            )
            for answer in engine.ask(request, PATIENCE):
                if isinstance(answer, e.Perplexity):
                    found.append(answer)
                    self.told.at(len(found) / chunks)
        self.told.end(f"{ppl(found):.4f}")
        return found


def ppl(chunks: Sequence[e.Perplexity]) -> float:
    """The perplexity over all of them."""
    return math.exp(math.fsum(one.nll for one in chunks) / sum(one.scored for one in chunks))


def compared(
    quant: str, whole: Sequence[e.Perplexity], without: Sequence[e.Perplexity] | None, with_: Sequence[e.Perplexity]
) -> Bought:
    """A quant with a matrix held against itself without: all three scored the same chunks in the same order.

    The interval is Student's for the mean difference, the chunk as the unit: their number was chosen beforehand.
    """
    if without is None:
        return Bought(quant=quant, with_=ppl(with_))
    each = [(ours.nll - theirs.nll) / ours.scored for ours, theirs in zip(with_, without, strict=True)]
    mean, sd = mean_sd(each)
    enough = sd is not None and len(each) >= LEAST_CHUNKS
    radius = student(len(each) - 1) * (sd or 0.0) / math.sqrt(len(each)) if enough else None
    lost = math.log(ppl(without) / ppl(whole))
    return Bought(
        quant=quant,
        without=ppl(without),
        with_=ppl(with_),
        change=mean,
        low=mean - radius if radius is not None else None,
        high=mean + radius if radius is not None else None,
        bought=-mean / lost if lost > 0 else None,
    )
