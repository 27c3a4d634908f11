"""From a key to the bytes that change the screen, while something else loads every core."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .figure import Broken, Figure, quantile
from .programs import Bench, shown
from .terminal import SIZE, Chunk, Picture, Terminal, python

ANSWERED = 0.060

KEYS = {"space": " ", "left": "\x1b[D", "right": "\x1b[C", "tab": "\t"}

ROUND = ("space", "left", "tab", "right", "left", "tab", "right", "space")
"""Freeze, move about in what does not move by itself, go live again."""

EVERY = (0.33, 0.41, 0.37)
"""Seconds from key to key, out of step with every timer of the screen."""


@contextmanager
def loaded() -> Iterator[None]:
    """A busy loop for each core."""
    busy = [subprocess.Popen(python("-c", "while True: pass")) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def keys(bench: Bench) -> list[Figure]:
    """The 95th percentile over all keys."""
    rounds = 2 if bench.quick else 13
    bench.machine.wait()
    with bench.session() as folder, bench.live(folder, "--prompt", "0", "--repetitions", "100") as terminal:
        shown(terminal)
        time.sleep(6)
        with loaded():
            time.sleep(1)
            pressed = _press(terminal, ROUND * rounds)
            time.sleep(1)
    took = answers(terminal.chunks, pressed)
    by_key = {name: [seconds for key, seconds in took if key == name] for name in KEYS}
    unanswered = [key for key, seconds in took if math.isinf(seconds)]
    notes = [f"{name} {1e3 * quantile(found, 0.95):.0f} ms" for name, found in by_key.items()]
    return [
        Figure(
            "key to repaint, p95",
            "ms",
            1e3 * ANSWERED,
            1e3 * quantile([seconds for _, seconds in took], 0.95),
            tuple(1e3 * seconds for _, seconds in took),
            (
                ", ".join(notes),
                f"{len(took)} keys, median {1e3 * quantile([seconds for _, seconds in took], 0.5):.0f} ms",
                *([f"without an answer: {', '.join(unanswered)}"] if unanswered else []),
            ),
        )
    ]


def _press(terminal: Terminal, sequence: tuple[str, ...]) -> list[tuple[str, float]]:
    pressed = []
    for at, name in enumerate(sequence):
        pressed.append((name, terminal.press(KEYS[name])))
        time.sleep(EVERY[at % len(EVERY)])
    return pressed


def answers(
    chunks: list[Chunk], pressed: list[tuple[str, float]], size: tuple[int, int] = SIZE
) -> list[tuple[str, float]]:
    """Seconds from each key to the first bytes that show what it did; infinite where nothing did before the next key.

    The live screen moves by itself: there only the mode's word counts. Frozen, everything does but the status line.
    """
    picture, rest, found = Picture(size), iter(chunks), []
    ends = [at for _, at in pressed[1:]] + [math.inf]
    chunk = next(rest, None)
    for (name, begin), end in zip(pressed, ends, strict=True):
        while chunk is not None and chunk.at < begin:
            picture.feed(chunk.data)
            chunk = next(rest, None)
        look = _mode if name == "space" else _body
        before, took = look(picture), math.inf
        while chunk is not None and chunk.at < end and math.isinf(took):
            picture.feed(chunk.data)
            if look(picture) != before:
                took = chunk.at - begin
            chunk = next(rest, None)
        found.append((name, took))
    if not found:
        raise Broken("no key was pressed")
    return found


def _mode(picture: Picture) -> object:
    return "LIVE" in picture.lines[0]


def _body(picture: Picture) -> object:
    return picture.cells(slice(0, -2))
