"""What planning foretells of memory against what an engine takes: `python -m tests.benchmarks.fit --help`.

Models are outlines: of a published shape, with all tensors in the types of a quant, their data a hole in the file. They
are loaded, fill a context with a prompt and decode a few tokens; the process's highest resident set (VmHWM, so Linux
only) is held against the plan's. Exit code 0 if each is within LIMIT, 1 if one is not.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quanttui import events as e
from quanttui import quants, shapes
from quanttui.diagnosis import fit as sums
from quanttui.diagnosis.fit import Machine, Use
from quanttui.engine import protocol
from quanttui.engine.weigh import Scales
from quanttui.format import size
from quanttui.models import fit, mix, outline

from .models import engine

LIMIT = 0.05
"""How far the measured peak may lie from what was foretold."""

ROWS: tuple[tuple[str, int, str, int, str], ...] = (
    ("Llama-3.2-1B", 16, "Q8_0", 2048, "f16"),
    ("Llama-3.2-3B", 28, "Q5_K_M", 2048, "q8_0"),
    ("Qwen2.5-1.5B", 28, "Q4_K_M", 2048, "f16"),
    ("Gemma-2-2B", 26, "Q6_K", 2048, "f16"),
    ("Phi-3-mini", 32, "Q2_K", 2048, "f16"),
    ("Mixtral-8x7B", 3, "Q4_0", 2048, "f16"),
)
"""Model, how many of its layers, quant, context, KV type."""


@dataclass(frozen=True)
class Row:
    """Bytes foretold and measured of one model."""

    name: str
    foretold: int
    measured: int

    @property
    def off(self) -> float:
        """How far the measured peak lies above what was foretold, as a share of it."""
        return self.measured / self.foretold - 1


def row(name: str, layers: int, quant: str, context: int, kv: str, threads: int, folder: Path) -> Row:
    """One model, made in the folder, foretold, loaded and decoded."""
    known = shapes.named(name)
    assert known is not None, name
    header = mix.requantized(outline.of(replace(known, layers=layers), name), quants.BY_NAME[quant])
    file = folder / f"{name}-{quant}.gguf"
    outline.write(header, file)
    settings = e.Settings(threads=threads, kv=kv, gpu_layers=0)
    scales = Scales(folder, settings)
    arm = e.PlannedArm(id=quant, quant=quant, file=str(file), bytes=header.file_bytes)
    one = fit.prospect(fit.Sized(arm, header), scales.about.system_info)
    told = scales.weigh(header, Use(context=context))
    found = sums.fitted(one, Use(context=context), settings, Machine(), lambda *_: told)
    measured = peak(file, settings, context, folder)
    file.unlink()
    return Row(f"{name} ({layers} layers) {quant} at {context}, KV {kv}", found.total + found.twice, measured)


def peak(file: Path, settings: e.Settings, context: int, folder: Path) -> int:
    """The highest resident set of an engine that loads the file, takes a prompt and decodes in that context."""
    with engine(folder) as started:
        list(started.ask(protocol.Load(arm="x", file=str(file), settings=settings)))
        tokens = 2 * settings.ubatch
        unit = e.Unit(arm="x", kind="prompt", index=0, tokens=tokens, depth=context - tokens)
        list(started.ask(protocol.Speed(unit=unit)))
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{started.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def main(words: Sequence[str] | None = None) -> int:
    """Foretell and measure; print a line each."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fit", description=__doc__)
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--only", metavar="NAME", help="rows whose model has this in its name")
    args = parser.parse_args(words)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for each in ROWS:
            if not args.only or args.only.lower() in each[0].lower():
                rows.append(row(*each, threads=args.threads, folder=Path(folder)))
                told = rows[-1]
                print(f"{told.name:<52} {size(told.foretold):>9} {size(told.measured):>9} {100 * told.off:+6.1f} %")
                sys.stdout.flush()
    return 0 if rows and all(abs(each.off) <= LIMIT for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
