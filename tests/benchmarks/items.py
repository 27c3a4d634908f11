"""MMLU by the choices' log-likelihood against MMLU by generating: `python -m tests.benchmarks.items --help`.

The same items of one subject in a process of its own each time, the prefix's first decoding included, on a ghost of a
real shape or on a file. Rounds of one, the other, the other and back (rounds.compare). Time is the engine's own.

A ghost's vocabulary cuts a text into about twice as many tokens as a real model's does (2 characters each, not 4 to 5):
of questions and choices every second word is left out for it, so that their lengths in tokens are the usual ones.
Exit code 0 if the ratio of the item rates reaches LEAST, with an interval that is narrow or lies wholly above it, 1 if
not.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quanttui import events as e
from quanttui import quants
from quanttui.engine import protocol
from quanttui.measure.tasks import Task, mmlu
from quanttui.models import tiles
from quanttui.sweep import answers

from . import figures, table
from .figures import Target
from .machine import Machine
from .models import engine
from .rounds import Contestant, Limits, Result, compare

LEAST = 1.5
"""By logits so many times as many items a second as by generating."""

SHAPE, QUANT = "ghost:wall-0.3b", "Q8_0"


def _answering(file: Path, task: Task, settings: e.Settings, folder: Path) -> Contestant:
    """Items per second of a process that loads the file and answers the task."""

    def once() -> float:
        with engine(folder) as started:
            list(started.ask(protocol.Load(arm="x", file=str(file), settings=settings)))
            given = tuple(answers.given(item) for item in task.items)
            (rendered,) = started.ask(protocol.Render(arm="x", prompts=given))
            assert isinstance(rendered, protocol.Rendered)
            room = answers.context(task.items, rendered, settings.max_tokens)
            told = []
            for together in answers.together(task.items):
                units = (e.Unit(arm="x", kind="task", index=0, task=task.name, item=item.id) for item in together)
                told += started.ask(answers.request(list(zip(units, together, strict=True)), settings, room))
        done = [one for one in told if isinstance(one, e.UnitDone)]
        assert not any(getattr(one, "stopped", "") == "context" for one in told), "an item has no room"
        return 1e9 * len(done) / sum(one.ns for one in done)

    return once


def thinned(subject: str, source: Path, folder: Path) -> Path:
    """The subject's files with every second word left out, in a folder."""
    for split in ("dev", "test"):
        name = f"{subject}_{split}.csv"
        with open(source / name, encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            short = [[" ".join(field.split()[::2]) for field in row[:-1]] + row[-1:] for row in rows]
            csv.writer(file).writerows([head, *short])
    return folder


def main(words: Sequence[str] | None = None) -> int:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.items", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, metavar="GGUF", help=f"instead of a ghost as {QUANT}")
    parser.add_argument("--shape", default=SHAPE, metavar="ghost:ARCH", help=f"of the ghost ({SHAPE})")
    parser.add_argument("--mmlu", required=True, metavar="DIR", help="MMLU's files, with a header line")
    parser.add_argument("--subject", default="machine_learning", metavar="NAME", help="one of its subjects")
    parser.add_argument("--items", type=int, default=50, metavar="N", help="of it (50, as of 500 over ten subjects)")
    parser.add_argument("--threads", "-t", type=int, default=2, metavar="N")
    parser.add_argument("--cap", type=int, default=6, metavar="N", help="rounds at most (6)")
    parser.add_argument("--patience", type=float, default=300.0, metavar="S", help="wait so long for a quiet machine")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = args.file or folder / "ghost.gguf"
        if args.file is None:
            for _ in tiles.write(tiles.header_of(args.shape, quants.BY_NAME[QUANT]), file):
                pass
            args.mmlu = str(thinned(args.subject, Path(args.mmlu), folder))
        tasks = []
        for how in ("logits", "generate"):
            settings = e.Settings(
                threads=args.threads, gpu_layers=0, mmlu=args.mmlu, mmlu_subjects=(args.subject,),
                mmlu_items=args.items, mmlu_score=how,
            )  # fmt: skip
            tasks.append(_answering(file, mmlu.load(settings), settings, folder))
        result = Result(f"items by logits ÷ by generating, {args.subject}", Target(LEAST))
        compare(
            result, *tasks, Limits(width=0.1, cap=args.cap, again=args.cap), Machine(args.patience, print),
            lambda said: print(said, file=sys.stderr, flush=True),
        )  # fmt: skip
    if result.target.is_clear(result.values):
        result.verdict = figures.REACHED
    print(table.table([result]))
    return 0 if result.verdict == figures.REACHED else 1


if __name__ == "__main__":
    sys.exit(main())
