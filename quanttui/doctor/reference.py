"""The same quants through llama.cpp's own tools: llama-perplexity must print our digits, llama-bench stands beside.

Owns the tools' command lines and what is read from their output. Knows no engine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quanttui import events as e
from quanttui.doctor.check import Check, equal
from quanttui.doctor.pocket import BASE, DECODE, PROMPT, REPETITIONS, Measured
from quanttui.errors import UserError
from quanttui.format import clean

TRIES = 5
"""llama-perplexity now and then loses its last lines when it exits on a busy machine: it is asked again."""

TIMEOUT = 900.0
"""Seconds that one run of a tool may take."""

KLD_RELATIVE, KLD_PRINTED = 5e-5, 5.1e-7
"""A mean KL divergence is equal within this share, and within half of the last digit that is printed."""

APART = 4.0
"""Speeds further apart than this are pointed at. No more: on a busy machine 1000 times apart was seen."""

_FINAL = re.compile(r"Final estimate: PPL = ([\d.]+)")
_KLD = re.compile(r"Mean\s+KLD:\s*(-?[\d.]+)[\s\S]*?Same top p:\s*([\d.]+)")

Run = Callable[[list[str]], "tuple[int, str]"]


@dataclass(frozen=True)
class Tools:
    """The two programs."""

    perplexity: Path
    bench: Path


def find(folder: Path) -> Tools:
    """The tools in a folder.

    Raises:
        UserError: one of them is not there, or cannot be run.
    """
    found = []
    for name in ("llama-perplexity", "llama-bench"):
        path = next((path for path in (folder / name, folder / f"{name}.exe") if path.is_file()), None)
        if path is None or not os.access(path, os.X_OK):
            raise UserError(
                f"--against {clean(str(folder))}: holds no {name} that can be run: give the folder of llama.cpp's "
                "tools, e.g. build/bin"
            )
        found.append(path.resolve())
    return Tools(*found)


def run(command: list[str]) -> tuple[int, str]:
    """A tool's exit code, and what it wrote to both its outputs."""
    folder = str(Path(command[0]).parent)
    libraries = os.pathsep.join(part for part in (folder, os.environ.get("LD_LIBRARY_PATH", "")) if part)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return -1, f"no end within {TIMEOUT:.0f} s"
    except OSError as error:
        return -1, f"cannot be run: {error.strerror}"
    return done.returncode, done.stdout.decode("utf-8", "replace")


def perplexity(
    tools: Tools, one: Measured, settings: e.Settings, folder: Path, offload: bool, call: Run = run
) -> Iterator[Check]:
    """Perplexity, and KL divergence against BASE, of one quant. BASE must come first: its logits are kept.

    Args:
        one: our own figures.
        folder: for the tool's base logits.
        offload: the build has a GPU backend, ours as well as theirs.
    """
    kept = str(folder / "reference.logits")
    command = [
        str(tools.perplexity), "-m", one.file, "-f", settings.text, "-t", str(settings.threads),
        "-c", str(settings.context), "-b", str(settings.batch), "-ub", str(settings.ubatch),
        *(["-ngl", "999"] if offload else []),
    ]  # fmt: skip
    found, why = _asked(call, [*command, *(["--kl-divergence-base", kept] if one.quant == BASE else [])], _FINAL)
    what = f"llama-perplexity {one.quant}"
    how = "4 decimals; expected is what it prints"
    yield equal(f"{what}: perplexity", f"{float(found[1]):.4f}" if found else why, f"{one.ppl:.4f}", how)
    if one.quant == BASE:
        return
    found, why = _asked(call, [*command, "--kl-divergence-base", kept, "--kl-divergence"], _KLD)
    yield _divergence(f"{what}: mean KL divergence", found[1] if found else "", why, one.kld)
    share = f"{one.same_top * 100:.3f} %" if one.same_top is not None else "not measured"
    yield equal(f"{what}: same top token", f"{float(found[2]):.3f} %" if found else why, share)


def _divergence(what: str, printed: str, why: str, ours: float | None) -> Check:
    theirs = float(printed) if printed else None
    ok = theirs is not None and ours is not None and abs(ours - theirs) <= KLD_RELATIVE * abs(theirs) + KLD_PRINTED
    how = f"relative {KLD_RELATIVE:g}, and its last digit"
    found = "not measured" if ours is None else f"{ours:.7f}"
    return Check(what=what, ok=ok, expected=printed or why, found=found, how=how)


def bench(tools: Tools, one: Measured, settings: e.Settings, offload: bool, call: Run = run) -> Iterator[Check]:
    """llama-bench's tok/s beside ours, for information: bad is only where there is no figure."""
    command = [
        str(tools.bench), "-m", one.file, "-t", str(settings.threads), "-p", str(PROMPT), "-n", str(DECODE),
        "-r", str(REPETITIONS), "-b", str(settings.batch), "-ub", str(settings.ubatch), "-o", "json",
        "-ngl", "999" if offload else "0",
    ]  # fmt: skip
    code, said = call(command)
    rates = _rates(said)
    for kind, key, ours in (("prompt", (PROMPT, 0), one.prompt), ("decode", (0, DECODE), one.decode)):
        theirs = rates.get(key)
        ratio = ours / theirs if theirs else None
        yield Check(
            what=f"llama-bench {one.quant}: {kind} {sum(key)}",
            ok=ratio is not None and ratio > 0,
            expected=f"{theirs:.1f} tok/s" if theirs else f"no figure: {_last(code, said)}",
            found=f"{ours:.1f} tok/s",
            how=_ratio(ratio) if ratio is not None else "",
        )


def _ratio(ratio: float) -> str:
    apart = ratio > APART or ratio < 1 / APART
    return f"ratio {ratio:.3f}, for information" + (": is the machine busy?" if apart else "")


def _rates(said: str) -> dict[tuple[int, int], float]:
    """avg_ts by (n_prompt, n_gen) from the JSON amid the tool's output."""
    begin, end = said.find("[\n"), said.rfind("]")
    try:
        rows: list[dict[str, Any]] = json.loads(said[begin : end + 1])
        return {(int(row["n_prompt"]), int(row["n_gen"])): float(row["avg_ts"]) for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}


def _asked(call: Run, command: list[str], wanted: re.Pattern[str]) -> tuple[re.Match[str] | None, str]:
    """What a tool printed, asked up to TRIES times, or why there is nothing."""
    why = ""
    for _ in range(TRIES):
        code, said = call(command)
        found = wanted.search(said)
        if found:
            return found, ""
        why = f"no figure after {TRIES} runs: {_last(code, said)}"
    return None, why


def _last(code: int, said: str) -> str:
    lines = [line for line in map(clean, said.splitlines()) if line]
    return f"exit code {code}{': ' + lines[-1][:120] if lines else ''}"
