"""A ghost's decode against that of the file whose header it has: `python -m tests.benchmarks.ghost --help`.

Of each row a real file, and a ghost of its very tensors and types. A round has three processes, of the ghost, the file
and the file, since one differs from the next in where its memory lies, by a per cent or more; in each round they decode
in turn, a tenth of a second each, since a processor's pace changes from one second to the next, by far more. The padded
stories model has numbers in place of its padding (Store.stories_filled).
Exit code 0 if every row reaches 1 ± LIMIT, 1 if one does not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from quanttui import events as e
from quanttui import paths, quants
from quanttui.engine import protocol
from quanttui.engine.process import Engine
from quanttui.models import files, tiles

from . import figures, table
from .figures import Target, median
from .machine import Machine
from .models import Store, engine
from .rounds import Limits, Result, repeat

LIMIT = 0.02
"""How far a ghost's tok/s may lie from the file's."""

QUANTS = ("Q8_0", "Q4_K_M", "Q2_K")

REPETITIONS = 11
"""Of each process in a round, after one that only warms up."""


def row(file: Path, tokens: int, settings: e.Settings, limits: Limits, machine: Machine, folder: Path) -> Result:
    """One file against its ghost, which is made in the folder; the file is copied there, since one file system's pages
    are not as quick as another's."""
    quant = quants.BY_NAME[files.read(file).quant]
    header = tiles.header_of(f"ghost:{file}", quant)
    ghost = folder / f"{tiles.file_name(header, quant.name)}.gguf"
    for _ in tiles.write(header, ghost):
        pass
    beside = Path(shutil.copyfile(file, folder / f"its-{file.name}"))
    result = Result(file.stem, Target(1 - LIMIT, 1 + LIMIT))
    three = (ghost, beside, beside)
    repeat(result, lambda backwards: _round(three, backwards, tokens, settings, folder), limits, machine, _say)
    ghost.unlink()
    beside.unlink()
    return result


def _round(
    three: tuple[Path, Path, Path], backwards: bool, tokens: int, settings: e.Settings, folder: Path
) -> tuple[float, float, float]:
    """Decode speeds of three processes that take turns, each as a multiple of the second file's: the medians of what
    was measured within a moment of each other."""
    order = (2, 1, 0) if backwards else (0, 1, 2)
    with ExitStack() as held:
        started = [held.enter_context(engine(folder)) for _ in three]
        for one, file in zip(started, three, strict=True):
            list(one.ask(protocol.Load(arm="x", file=str(file), settings=settings)))
            list(one.ask(protocol.Warm(unit=_unit(0, tokens))))
        told: list[dict[int, float]] = []
        for index in range(REPETITIONS):
            told.append({at: _rate(started[at], _unit(index, tokens)) for at in order})
    ghost, again = (median([each[at] / each[1] for each in told]) for at in (0, 2))
    return ghost, 1.0, again


def _unit(index: int, tokens: int) -> e.Unit:
    return e.Unit(arm="x", kind="decode", index=index, tokens=tokens)


def _rate(started: Engine, unit: e.Unit) -> float:
    """Tokens per second of one repetition."""
    (told,) = (one for one in started.ask(protocol.Speed(unit=unit)) if isinstance(one, e.UnitDone))
    return 1e9 * told.tokens / told.ns


def _say(said: str) -> None:
    print(said, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ghost", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="GGUF", help="instead of pocket's and stories' quants")
    parser.add_argument("--threads", "-t", type=int, default=2, metavar="N")
    parser.add_argument("--tokens", "-n", type=int, default=512, metavar="N", help="of a repetition (512)")
    parser.add_argument("--cap", type=int, default=100, metavar="N", help="rounds at most (100)")
    parser.add_argument("--patience", type=float, default=300.0, metavar="S", help="wait so long for a quiet machine")
    args = parser.parse_args(words)
    settings, machine = e.Settings(threads=args.threads, gpu_layers=0), Machine(args.patience, print)
    store = Store(paths.cache_dir() / "benchmarks" / "models", args.threads)
    known = [] if args.files else [store.pocket(QUANTS), store.stories_filled(QUANTS)]
    every = args.files or [file for family in known for file in (family.base, *family.quants)]
    limits = Limits(width=LIMIT, cap=args.cap, again=args.cap)
    with tempfile.TemporaryDirectory() as folder:
        results = [row(file, args.tokens, settings, limits, machine, Path(folder)) for file in every]
    print(table.table(results))
    return 0 if all(result.verdict == figures.REACHED for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
