"""A small search for inputs that reach further: what takes a step from line to line that no input before has taken is
kept, and changed again. The lines are those of the modules that a target names; Python itself tells of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import CodeType, FrameType
from typing import Any

from .mutate import mutated
from .target import Target
from .workers import Tell

KEPT = 2000
"""Inputs that are kept at most; older ones give way."""

LONGEST = 1 << 16
"""Longer inputs cost more than they find."""

Step = tuple[CodeType, int, int]


def search(target: Target, count: int, seed: int, tell: Tell) -> None:
    """So many inputs, each a change of one that has reached something new."""
    rng = Random(f"{target.name} guided {seed}")
    seeds = [*target.seeds()]
    steps, pool = Steps(target.watched), list(seeds)
    for data in seeds[:count]:
        steps.new(lambda data=data: tell(data))
    for _ in range(count - len(seeds)):
        # The latest finds lead further; all others keep a chance.
        at = len(pool) - 1 - int(len(pool) * rng.random() ** 2)
        data = mutated(rng, pool[at], seeds, target.words, target.form)
        if steps.new(lambda data=data: tell(data)) and len(data) <= LONGEST:
            pool.append(data)
            del pool[: max(0, len(pool) - KEPT)]


class Steps:
    """The steps from line to line that were seen in some modules."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        found = (importlib.import_module(name).__file__ for name in modules)
        self._files = frozenset(name for name in found if name)
        self._seen: set[Step] = set()

    def new(self, act: Callable[[], None]) -> bool:
        """Do something, and say whether it took a step that is new."""
        before = len(self._seen)
        with self._watching():
            act()
        return len(self._seen) > before

    @contextmanager
    def _watching(self) -> Iterator[None]:
        files, seen = self._files, self._seen

        def called(frame: FrameType, event: str, _: Any) -> Any:
            code = frame.f_code
            if code.co_filename not in files:
                return None
            last = 0

            def line(frame: FrameType, event: str, _: Any) -> Any:
                nonlocal last
                if event == "line":
                    seen.add((code, last, frame.f_lineno))
                    last = frame.f_lineno
                return line

            return line

        sys.settrace(called)
        try:
            yield
        finally:
            sys.settrace(None)
