"""A small share of the cases through the real command line: a process, its exit code, and what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from .mutate import mutated
from .targets import TARGETS
from .workers import WAITS, Tally, scratch

NAME = "commands"
CHECKOUT = Path(__file__).resolve().parents[2]

Words = Callable[[Path, bytes], Sequence[str]]


def _file(name: str, *words: str) -> Words:
    """A command on a file of that name with the input in it: FILE stands for it."""

    def given(folder: Path, data: bytes) -> Sequence[str]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return [
            str(path.parent if word == "FOLDER" else path) if word in ("FILE", "FOLDER") else word for word in words
        ]

    return given


def _words(folder: Path, data: bytes) -> Sequence[str]:
    return [word.decode("utf-8", "surrogateescape") for word in data.split(b"\n") if b"\0" not in word][:40]


COMMANDS: tuple[tuple[str, Words], ...] = (
    ("audit", _file("case.csv", "audit", "FILE")),
    ("audit", _file("case.csv", "audit", "FILE", "--json")),
    ("llama-bench", _file("case.json", "import", "FILE", "--session", "case-session")),
    ("llama-perplexity", _file("case.log", "import", "FILE", "--session", "case-session")),
    ("session-log", _file("case/events.jsonl", "report", "FOLDER")),
    ("session-log", _file("case/events.jsonl", "verify", "FOLDER")),
    ("session-log", _file("case/events.jsonl", "compare", "FOLDER")),
    ("session-log", _file("case/events.jsonl", "advise", "FOLDER", "--json")),
    ("config.toml", _file("case.toml", "sessions", "--config", "FILE")),
    ("gguf", _file("case.gguf", "plan", "FILE")),
    ("config.json", _file("config.json", "ghost", "FILE", "--quants", "Q9_9")),
    ("prompts", _file("case.jsonl", "run", "nowhere.gguf", "--tasks", "prompts", "--prompts", "FILE", "--headless")),
    ("command-line", _words),
)
"""The target whose inputs are taken, and the command that gets them."""

QUIET = ("models", "fetch", "attach", "replay", "web", "doctor", "demo", "run", "imatrix", "quantize", "ghost")
"""Commands that would do work, ask somebody or stay: of a line made of words they are left to the parser, as is
--debug, which is there to show a traceback."""


def run(count: int, seed: int) -> Tally:
    """So many commands, the kinds in turn."""
    tally = Tally()
    for number in range(count):
        name, words = COMMANDS[number % len(COMMANDS)]
        target, rng = TARGETS[name], Random(f"{name} command {seed + number}")
        seeds = target.seeds()
        data = mutated(rng, rng.choice(seeds), seeds, target.words, target.form)
        with scratch() as folder:
            given = words(folder, data)
            if name == "command-line" and (not given or {*QUIET, "--debug"} & set(given)):
                continue
            tally.put(*_outcome(given, folder), data)
    return tally


def _outcome(words: Sequence[str], folder: Path) -> tuple[str, str]:
    kept = {key: text for key, text in os.environ.items() if not key.startswith("QUANTTUI_")}
    own = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data"),
           "XDG_CONFIG_HOME": str(folder / "config"), "PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1",
           "QUANTTUI_SESSIONS_DIR": str(folder / "sessions"), "QUANTTUI_CACHE_DIR": str(folder / "cache")}  # fmt: skip
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "quanttui", *words], cwd=folder, env=kept | own, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=WAITS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "hang", f"{words[:1]} takes more than {WAITS:.0f} s"
    except (ValueError, OSError):
        return "refused", ""
    said = done.stderr.decode("utf-8", "replace")
    shown = f"{' '.join(words)[:80]!r} after {time.monotonic() - begun:.1f} s: {said[-300:]!r}"
    if "Traceback" in said or "unexpected" in said or done.returncode < 0:
        return "traceback", shown
    if any(not char.isprintable() and char != "\n" for char in said + done.stdout.decode("utf-8", "replace")):
        return "wrong", f"a control character: {shown}"
    if done.returncode == 2 and (said.count("\n") != 1 or not said.startswith("quanttui: ")):
        lines = [line for line in said.split("\n") if line]
        if not (words[:1] == ["verify"] and not lines):
            return "wrong", f"not one line: {shown}"
    if done.returncode not in (0, 1, 2):
        return "wrong", f"exit code {done.returncode}: {shown}"
    return ("refused", "") if done.returncode == 2 else ("read", "")
