"""How much of a token is Python's: the engine's own decode loop with its native calls timed. Run as a process:

    python -m tests.benchmarks.share MODEL TOKENS THREADS

prints {"tok_s", "python_ns", "native_ns", "call_ns"}, per token. The loop is measure.speed's over engine.llama's
context, as in an engine process. A clock is read right before and right after each foreign call; what lies between one
call's end and the next one's beginning is Python's, these readings included (a tenth of a microsecond). What ctypes
itself takes to convert the arguments lies inside the timed calls: `call_ns` is that, from calls of a native function
that does nothing, with the same arguments, and counts as Python's as well.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from quanttui.engine import llama
from quanttui.events import Settings, Unit, UnitDone
from quanttui.measure.counters import Meter
from quanttui.measure.speed import Clock, Series

CALLS = 20_000


class Timed:
    """A foreign function that keeps count of the time inside it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.ns = 0
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        start = time.monotonic_ns()
        result = self.function(*arguments)
        self.ns += time.monotonic_ns() - start
        self.calls += 1
        return result


def conversion(function: Any, *arguments: Any) -> float:
    """Nanoseconds that ctypes takes for these arguments: of a call to libc's labs, which looks at a register."""
    library = ctypes.CDLL(None) if os.name == "posix" else ctypes.cdll.msvcrt
    nothing = library["labs"]
    nothing.restype, nothing.argtypes = function.restype, function.argtypes
    best = float("inf")
    for _ in range(5):
        start = time.monotonic_ns()
        for _ in range(CALLS // 5):
            nothing(*arguments)
        best = min(best, (time.monotonic_ns() - start) / (CALLS // 5))
    return best


def measure(model: str, tokens: int, threads: int) -> dict[str, float]:
    """The figures that are printed."""
    log, abort = llama.start(), llama.AbortFlag()
    settings = Settings(threads=threads)
    loaded = llama.Model(model, settings, log, abort, lambda _: None)
    context = llama.Context(loaded, settings, tokens, 1, abort)
    series = Series(context, loaded.vocabulary, settings.batch, settings.seed, Clock(), Meter())
    unit = Unit(arm="ghost", kind="decode", index=0, tokens=tokens)
    list(series.warm(unit))
    decode, synchronize = Timed(context._decode), Timed(context._synchronize)
    call = conversion(decode.function, context.handle, context._step)
    call += conversion(synchronize.function, context.handle)
    context._decode, context._synchronize = decode, synchronize
    gc.collect()
    gc.freeze()
    (done,) = (event for event in series.repetition(unit) if isinstance(event, UnitDone))
    assert decode.calls == synchronize.calls == tokens
    native = decode.ns + synchronize.ns
    return {
        "tok_s": 1e9 * tokens / done.ns,
        "python_ns": (done.ns - native) / tokens + call,
        "native_ns": native / tokens - call,
        "call_ns": call,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
