"""`quanttui doctor`: what this host can tell, what it cannot, and what would mend that. Measures nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from quanttui import events as e
from quanttui.doctor import observer
from quanttui.doctor import terminal as screen
from quanttui.errors import UserError
from quanttui.format import clean, json_text, size
from quanttui.probes import host, sampler
from quanttui.sweep import launch
from quanttui.tui.evidence import Detected


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """All that `quanttui doctor` says. `build` is None where llama.cpp cannot be loaded, `error` says why.

    `advice` are lines that say what would mend something.
    """

    host: e.Host
    build: e.Build | None
    error: str
    found: tuple[e.ProbeFound, ...]
    lost: tuple[e.ProbeLost, ...]
    threads: int
    observer: e.Observer | None
    terminal: Detected
    advice: tuple[str, ...] = ()


def run(cache: Path, threads: int, as_json: bool, asked: Mapping[str, str] | None = None) -> int:
    """Print it; 1 where llama.cpp cannot be loaded, else 0.

    Args:
        asked: what the configuration says of glyphs, color, layout and mouse.
    """
    told = look(cache, threads, asked)
    if as_json:
        print(json_text(msgspec.to_builtins(told)))
    else:
        print("\n".join(lines(told)))
        if told.terminal.is_one:
            print("\n".join(screen.strip(told.terminal, os.environ)))
    return 0 if told.build is not None else 1


def look(cache: Path, threads: int, asked: Mapping[str, str] | None = None) -> Told:
    """Ask the host.

    Args:
        threads: those a sweep would use, 0 for one per physical core.
        asked: what the configuration says of the terminal's switches.
    """
    machine, build, error = host.host(), None, ""
    try:
        build = launch.build()
    except UserError as failed:
        error = str(failed)
    survey: Sequence[e.ProbeFound | e.ProbeLost] = sampler.survey()
    threads = threads or machine.cores
    return Told(
        host=machine,
        build=build,
        error=error,
        found=tuple(one for one in survey if isinstance(one, e.ProbeFound)),
        lost=tuple(one for one in survey if isinstance(one, e.ProbeLost)),
        threads=threads,
        observer=observer.load(cache, build, threads) if build is not None else None,
        terminal=terminal(os.environ, asked),
        advice=_advice(machine, build),
    )


def terminal(environ: Mapping[str, str], asked: Mapping[str, str] | None = None) -> Detected:
    """What stdout is, and what the screen would go by."""
    return screen.look(environ, asked)


def _advice(machine: e.Host, build: e.Build | None) -> tuple[str, ...]:
    advice = host.build_advice(build.gpu_offload, machine.gpus) if build is not None else ""
    return (advice,) if advice else ()


def lines(told: Told) -> Iterator[str]:
    """For people; ASCII but for what others called themselves."""
    machine, build = told.host, told.build
    limit = f", of which this container may use {size(machine.memory_limit)}" if machine.memory_limit else ""
    cache = f", last-level cache {size(machine.cache)}" if machine.cache else ""
    yield f"host        {clean(machine.name)}: {clean(machine.os)}"
    yield f"cpu         {clean(machine.cpu)}: {machine.cores} cores, {machine.threads} threads{cache}"
    yield f"memory      {size(machine.memory)}{limit}"
    for gpu in machine.gpus:
        memory = f", {size(gpu.memory)}" if gpu.memory else ""
        yield f"gpu         {clean(gpu.name)}{memory}{', driver ' + clean(gpu.driver) if gpu.driver else ''}"
    if build is None:
        yield f"llama.cpp   {clean(told.error)}"
    else:
        yield f"llama.cpp   {build.llama_cpp} (llama-cpp-python {build.llama_cpp_python}), " + (
            "with GPU offload" if build.gpu_offload else "CPU only"
        )
        yield from (f"            {device}" for device in build.devices)
        yield f"            {build.system_info}"
    for found in told.found:
        cost = f", {found.cost_us:g} us a reading" if found.cost_us is not None else ""
        yield f"told        {found.probe}{': ' + clean(found.detail) if found.detail else ''}{cost}"
    for lost in told.lost:
        yield f"not told    {lost.probe}: {clean(lost.why)}"
    yield from screen.lines(told.terminal)
    yield f"observer    {_observer(told)}"
    yield from (f"advice      {clean(line)}" for line in told.advice)


def _observer(told: Told) -> str:
    if told.observer is None:
        return f"what watching costs with {told.threads} threads was not measured: quanttui doctor --observer"
    return observer.words(told.observer)
