"""`quanttui doctor --self-check`: whether quanttui still computes what it should, a line for each check."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from quanttui import events as e
from quanttui.doctor import arithmetic, pocket, reference
from quanttui.doctor.check import Check
from quanttui.format import json_text
from quanttui.sweep import launch

Measure = Callable[[Path, e.Build, Sequence[str], bool], Iterator[pocket.Measured]]


def run(
    against: str | None,
    as_json: bool,
    quants: Sequence[str] = pocket.QUANTS,
    figures: Path = pocket.FIGURES,
    measure: Measure = pocket.measure,
) -> int:
    """Do all checks and print them; 0 where all are well, else 1.

    Args:
        against: a folder that holds llama-perplexity and llama-bench, None: only the recorded figures.
        figures: where those are recorded.
        measure: how the quants are measured.

    Raises:
        UserError: the tools or the engine cannot be had at all.
    """
    tools = reference.find(Path(against).expanduser()) if against is not None else None
    recorded, build = pocket.figures(figures), launch.build()
    if not as_json:
        print(f"llama.cpp {build.llama_cpp} (llama-cpp-python {build.llama_cpp_python})\n{build.system_info}")
    with tempfile.TemporaryDirectory(prefix="quanttui-check-") as folder:
        every = checks(Path(folder), build, recorded, tools, quants, measure)
        done = told(every, (lambda _: None) if as_json else _print)
    if as_json:
        plain = {"ok": all(one.ok for one in done), "build": e.plain(build), "checks": msgspec.to_builtins(done)}
        print(json_text(plain))
    else:
        bad = sum(not one.ok for one in done)
        print(f"{len(done)} checks, " + (f"{bad} BAD" if bad else "all ok"))
    return 0 if all(one.ok for one in done) else 1


def checks(
    folder: Path,
    build: e.Build,
    recorded: pocket.Figures,
    tools: reference.Tools | None = None,
    quants: Sequence[str] = pocket.QUANTS,
    measure: Measure = pocket.measure,
) -> Iterator[Check]:
    """All checks, as they come. `folder` is for what is made meanwhile."""
    yield from arithmetic.checks()
    offload = build.gpu_offload
    for one in measure(folder, build, quants, tools is not None):
        yield pocket.compare(one, recorded, build)
        if tools is not None:
            yield from reference.perplexity(tools, one, pocket.settings(), folder, offload)
            yield from reference.bench(tools, one, pocket.settings(), offload)


def told(checks: Iterator[Check], tell: Callable[[str], object]) -> list[Check]:
    """The checks, each told as it is done."""
    done = []
    for one in checks:
        tell(one.line)
        done.append(one)
    return done


def _print(line: str) -> None:
    print(line, flush=True)
