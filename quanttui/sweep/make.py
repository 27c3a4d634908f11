"""`quanttui quantize`: what is to be made of a model, and the making of it, quant by quant, in engine processes.

Owns what the command means and the lines of progress. Sizes are known before anything is written; a quant that fails
leaves the others be.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import msgspec

from quanttui import events as e
from quanttui import quants
from quanttui.engine.process import Engine, EngineFailure
from quanttui.errors import UserError
from quanttui.format import clean, duration
from quanttui.models import header as headers
from quanttui.models import imatrix, label, mix, quantize, sources, store
from quanttui.models.header import Header
from quanttui.models.quantize import Asks
from quanttui.probes import host
from quanttui.quants import Quant
from quanttui.report.make import Made, Making
from quanttui.sweep import launch

PATIENCE = 3600.0
"""Seconds that an engine may be silent: one tensor of a large model may take minutes."""

TELL_SECONDS, REWRITE_SECONDS = 10.0, 0.2
"""How often a line of progress is written, and how often one on a terminal is rewritten."""

SURE = 0.02
"""From this share of the work on it is said when the rest will be done."""

_FLOAT = re.compile(r"[-._]?(?:B?FP?16|FP?32)$", re.IGNORECASE)
_PART = re.compile(r"-\d{5}-of-\d{5}$")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What `quanttui quantize` was asked for, as its flags have it.

    `out` is a folder, "" for the cache of quants, which is `cache` and holds `cache_bytes`; `threads` 0 means the
    physical cores.
    """

    source: str
    to: str
    out: str = ""
    imatrix: str = ""
    tensor_types: tuple[str, ...] = ()
    dry_run: bool = False
    threads: int = 0
    force: bool = False
    cache: Path
    cache_bytes: int


class Progress:
    """Lines that say how far a piece of work is and how long the rest will take.

    On a terminal one line is rewritten; elsewhere there is one now and then.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._rewrites = stream.isatty()
        self._what = ""
        self._begun = self._told = 0.0
        self._shown = 0

    def begin(self, what: str) -> None:
        """A piece of work begins."""
        self._what, self._begun = what, self._clock()
        self._told = self._begun
        if self._rewrites:
            self._show(what)

    def at(self, share: float) -> None:
        """So much of it is done, 0 to 1."""
        now = self._clock()
        if now - self._told < (REWRITE_SECONDS if self._rewrites else TELL_SECONDS):
            return
        self._told = now
        line = f"{self._what}  {100 * share:3.0f} %"
        if share >= SURE:
            line += f", {duration((now - self._begun) * (1 - share) / share)} left"
        if self._rewrites:
            self._show(line)
        else:
            print(line, file=self._stream, flush=True)

    def end(self, how: str = "done") -> float:
        """It is over; how many seconds it took."""
        took = self._clock() - self._begun
        line = f"{self._what}  {how} in {duration(took)}"
        if self._rewrites:
            self._show(line)
            self._shown = 0
            self._stream.write("\n")
        else:
            print(line, file=self._stream)
        self._stream.flush()
        return took

    def _show(self, line: str) -> None:
        wide = shutil.get_terminal_size().columns - 1
        self._stream.write("\r" + line[:wide].ljust(min(self._shown, wide)))
        self._stream.flush()
        self._shown = len(line[:wide])


class Once:
    """An engine that is started when it is asked, and closed when it has answered; whether it ever was."""

    def __init__(self, stderr: Path) -> None:
        self._stderr = stderr
        self.asked = False

    def ask(self, request: Any) -> Iterator[Any]:
        """See engine.process.Engine.ask."""
        self.asked = True
        with Engine.start(self._stderr, time.monotonic_ns()) as engine:
            yield from engine.ask(request, PATIENCE)


def run(asked: Asked, told: Progress, engine: Callable[[Path], Asks] = Once, build: str = "") -> Making:
    """Make the quants that are asked for, or say what they would be.

    Args:
        engine: made for each quant, given its stderr file.
        build: llama.cpp's, part of the cache's key; asked of an engine where it is needed and not given.

    Raises:
        UserError: the source, a quant's name, the matrix or an override cannot be used, or the disk is too small.
    """
    header = source_of(asked.source)
    overrides = quantize.overridden(asked.tensor_types, header)
    matrix = imatrix.read(asked.imatrix) if asked.imatrix else None
    if matrix is not None:
        imatrix.check(asked.imatrix, matrix.means, header)
    plan = _Plan(asked, header, overrides, frozenset(matrix.means) if matrix is not None else None)
    rows = [plan.row(quant) for quant in quants.parse(asked.to, "--to")]
    if not asked.dry_run and any(row.state == "to make" for row in rows):
        rows = _made(plan, rows, told, engine, build)
    return plan.making(tuple(rows))


def source_of(argument: str) -> Header:
    """The unquantized model that an argument names: a file, a folder, an ollama: name.

    Raises:
        UserError: there is none, with what to do instead.
    """
    found = files_of(argument)
    usable = next((one for one in found if label.is_unquantized(one)), None)
    if usable is not None:
        return usable
    kind = label.actual(found[0])
    raise UserError(
        f"{clean(str(found[0].path), 200)} is quantized already ({kind}): quants are made from an F32, F16 or BF16 GGUF"
        " of the same model"
    )


def files_of(argument: str) -> list[Header]:
    """The model files that an argument names, largest first.

    Raises:
        UserError: there are none.
    """
    _, arms = sources.resolve([os.path.expanduser(argument)])
    found = [headers.read(arm.file) for arm in arms if arm.file]
    if not found:
        raise UserError(f"{clean(argument, 120)}: is no file: give an F32, F16 or BF16 GGUF")
    return found


class _Plan:
    """What one command is about: the source, what is asked for of it, and where the files go."""

    def __init__(self, asked: Asked, header: Header, overrides: mix.Overrides, matrix: frozenset[str] | None) -> None:
        self.asked, self.header, self.overrides, self.matrix = asked, header, tuple(overrides), matrix
        self.folder = Path(asked.out).expanduser() if asked.out else None
        if self.folder is not None and (self.folder.suffix == ".gguf" or self.folder.is_file()):
            raise UserError(f"--out {clean(asked.out, 200)}: name a folder: the files in it are called by their quant")
        self.weights = sum(tensor.elements for tensor in header.tensors)

    def row(self, quant: Quant) -> Made:
        """What will become of one quant."""
        made = mix.requantized(self.header, quant, self.matrix is not None, self.overrides)
        row = Made(
            quant=quant.name,
            state="to make",
            bytes=made.file_bytes,
            bits_per_weight=headers.bits_per_weight(made),
            types=label.shares(made),
        )
        if quant.family == "float" and label.actual(self.header) == quant.tensor_type:
            why = "the source is just that"
            return msgspec.structs.replace(row, state="there", file=str(self.header.path), why=why)
        lacking = quantize.wanting(self.header, quant, self.matrix, self.overrides)
        if lacking:
            return msgspec.structs.replace(row, state="refused", why=_want(lacking, self.asked.imatrix))
        target = self.target(quant)
        if target is None or not target.exists() or self.asked.force:
            return row
        if self._is_that(target, made, quant):
            return msgspec.structs.replace(row, state="there", file=str(target), why="kept: --force makes it anew")
        why = f"{clean(str(target), 200)} is there already, and another file: --force replaces it"
        return msgspec.structs.replace(row, state="refused", why=why)

    def target(self, quant: Quant) -> Path | None:
        """Where its file goes, None for the cache."""
        if self.folder is None:
            return None
        stem = _FLOAT.sub("", _PART.sub("", re.sub(r"\.gguf$", "", self.header.path.name, flags=re.IGNORECASE)))
        return self.folder / f"{stem or 'model'}-{quant.name}.gguf"

    def _is_that(self, target: Path, made: Header, quant: Quant) -> bool:
        """Whether the file has just the tensors that would be made, with this matrix, and is younger than both."""
        try:
            there = headers.read(target)
        except UserError:
            return False
        used = there.metadata.get("quantize.imatrix.file", "")
        tensors = {(tensor.name, tensor.type, tensor.shape) for tensor in there.tensors}
        same = tensors == {(tensor.name, tensor.type, tensor.shape) for tensor in made.tensors}
        wanted = self.asked.imatrix if quant.family != "float" else ""
        before = [*self.header.files, *([Path(self.asked.imatrix)] if wanted else [])]
        age = target.stat().st_mtime
        return same and used == wanted[:127] and all(file.stat().st_mtime <= age for file in before)

    def arm(self, quant: Quant) -> e.PlannedArm:
        """The quant as quantize.make takes it."""
        matrix = self.asked.imatrix if quant.family != "float" else ""
        return e.PlannedArm(id=quant.name, quant=quant.name, source=str(self.header.files[0]), imatrix=matrix)

    def making(self, rows: tuple[Made, ...]) -> Making:
        """The whole, as it is told."""
        folder = self.folder or self.asked.cache / "quants"
        return Making(
            model=headers.name(self.header),
            source=str(self.header.path),
            bytes=self.header.file_bytes,
            weights=self.weights,
            imatrix=self.asked.imatrix,
            tensor_types=self.overrides,
            folder=str(self.folder) if self.folder else "",
            free=_free(folder),
            dry=self.asked.dry_run,
            notes=tuple(self._notes()),
            made=rows,
        )

    def _notes(self) -> Iterator[str]:
        if self.matrix is None:
            return
        wide = [tensor for tensor in self.header.tensors if mix.allowed(tensor) and mix.layer(tensor.name) >= 0]
        without = [tensor.name for tensor in wide if tensor.name not in self.matrix]
        if without:
            yield (
                f"the importance matrix lacks {len(without)} of the blocks' {len(wide)} matrices, the first is"
                f" {clean(without[0], 80)}: these are quantized without"
            )


def _want(tensor: str, given: str) -> str:
    """Why there is no quant without an importance matrix, and the way out."""
    if given:
        return (
            f"llama.cpp makes it only with an importance matrix, and {clean(given, 120)} has nothing for"
            f" {clean(tensor, 80)}: compute a whole one with `quanttui imatrix`"
        )
    return (
        "llama.cpp makes it only with an importance matrix: give one with --imatrix FILE"
        " (`quanttui imatrix F16.gguf --text FILE` computes one)"
    )


def _free(folder: Path) -> int | None:
    """Free bytes of the disk that the folder is on, or would be."""
    there = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()), None)
    return store.free_bytes(there) if there is not None else None


def _made(plan: _Plan, rows: list[Made], told: Progress, engine: Callable[[Path], Asks], build: str) -> list[Made]:
    """The rows, with those that were to be made made."""
    asked = plan.asked
    if plan.folder is not None:
        store.prepare(plan.folder, "to write to")
        needed = sum(row.bytes for row in rows if row.state == "to make")
        store.fitting(plan.folder, needed, store.free_bytes)
    else:
        build = build or launch.build().llama_cpp
    threads = asked.threads or host.host().cores
    numbers, count = itertools.count(1), sum(row.state == "to make" for row in rows)
    with tempfile.TemporaryDirectory(prefix="quanttui-") as folder, ExitStack() as held:
        done = []
        for row in rows:
            if row.state == "to make":
                told.begin(f"{next(numbers)}/{count} {row.quant}")
                row = _one(plan, row, told, engine(Path(folder) / f"{row.quant}.stderr.txt"), build, threads, held)
            done.append(row)
    return done


def _one(plan: _Plan, row: Made, told: Progress, engine: Asks, build: str, threads: int, held: ExitStack) -> Made:
    """One quant made. What is in the cache is held there until `held` is over: the next must not take its place."""
    quant = quants.BY_NAME[row.quant]
    arm, target = plan.arm(quant), plan.target(quant)
    if target is not None:
        making = quantize.make_at(arm, engine, target, threads, overrides=plan.overrides)
    else:
        making = quantize.make(
            arm, engine, plan.asked.cache, plan.asked.cache_bytes, threads, build=build, overrides=plan.overrides
        )
    try:
        file = followed(making, told, _work(plan.header))
    except UserError as error:
        told.end("refused")
        return msgspec.structs.replace(row, state="refused", why=str(error))
    except EngineFailure as failure:
        told.end("failed")
        return msgspec.structs.replace(row, state="failed", why=clean(failure.error))
    if target is None:
        held.callback(store.release, file)
    took = told.end()
    if not getattr(engine, "asked", True):
        return msgspec.structs.replace(row, state="there", file=str(file), why="from the cache")
    return msgspec.structs.replace(row, state="made", file=str(file), bytes=file.stat().st_size, seconds=took)


def followed(making: Generator[e.Event, None, Path], told: Progress, work: Callable[[float], float]) -> Path:
    """Run a quantization to its end; `work` makes the share of the work of the share of the tensors."""
    while True:
        try:
            event = next(making)
        except StopIteration as made:
            return Path(made.value)
        if isinstance(event, e.PhaseProgress):
            told.at(work(event.fraction))


def _work(header: Header) -> Callable[[float], float]:
    """Of the share of tensors that llama.cpp has come to, the share of the weights that lie behind it."""
    sizes = [tensor.elements for tensor in sorted(header.tensors, key=mix.order)]
    behind = [0, *itertools.accumulate(sizes)]
    return lambda share: behind[max(0, min(len(sizes), round(share * len(sizes))) - 1)] / max(1, behind[-1])
