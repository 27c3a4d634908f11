"""What watching costs: decode tok/s with the live screen, and without any, against an engine that nobody watches.

Owns the order of the runs, what is made of their rates, the model they decode by default, and where the result is
kept. The runs themselves are callables.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from quanttui import events as e
from quanttui import paths
from quanttui.errors import UserError
from quanttui.format import clean, significant, size

CONDITIONS = ("unwatched", "headless", "live")
"""Who looks on while tokens are timed. The order of a round's runs is rotated from round to round."""

PAIRS = 7
"""Rounds, where nobody says how many."""

SECONDS = 1.5
"""About how long one timed repetition takes; REPETITIONS of them are a run."""

REPETITIONS = 3
TRIAL = 16
"""Tokens of the run that finds out how many fill SECONDS."""

LEAST, MOST = 16, 1024
"""Tokens of a repetition."""

Rate = Callable[[int], float]
"""A run: takes the tokens of a repetition, gives tok/s."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One run in each condition, shortly after one another: tok/s."""

    unwatched: float
    headless: float
    live: float

    def lost(self, condition: str) -> float:
        """The share of the unwatched rate that is lost in a condition; negative where it came out faster."""
        rate: float = getattr(self, condition)
        return 1 - rate / self.unwatched


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A result as it is kept, with what it holds for."""

    host: str
    build: tuple[str, ...]
    threads: int
    observer: e.Observer
    rounds: tuple[Round, ...] = ()


def order(number: int) -> tuple[str, ...]:
    """The conditions in the order of the `number`-th round, so that none always comes first."""
    first = number % len(CONDITIONS)
    return CONDITIONS[first:] + CONDITIONS[:first]


def measure(runs: Mapping[str, Rate], pairs: int, tell: Callable[[str], object]) -> tuple[Round, ...]:
    """All rounds; each is told when it is done. None is left out and none stops early, whatever comes out.

    Args:
        runs: by condition.

    Raises:
        UserError: a run failed.
    """
    tokens = min(MOST, max(LEAST, round(runs["unwatched"](TRIAL) * SECONDS)))
    tell(f"{pairs} rounds, each with {REPETITIONS} x {tokens} tokens in every condition")
    rounds: list[Round] = []
    for number in range(pairs):
        rounds.append(Round(**{condition: runs[condition](tokens) for condition in order(number)}))
        tell(_told(number + 1, pairs, rounds[-1]))
    return tuple(rounds)


def _told(number: int, pairs: int, one: Round) -> str:
    watched = "   ".join(
        f"{condition} {significant(getattr(one, condition), 4)} ({-100 * one.lost(condition):+.1f} %)"
        for condition in CONDITIONS[1:]
    )
    return f"{number}/{pairs}   unwatched {significant(one.unwatched, 4)}   {watched} tok/s"


def summed(rounds: Sequence[Round], model: str, wall: float) -> e.Observer:
    """The result: medians of the shares lost, pair by pair."""
    return e.Observer(
        live=statistics.median(one.lost("live") for one in rounds),
        headless=statistics.median(one.lost("headless") for one in rounds),
        pairs=len(rounds),
        model=model,
        wall=wall,
    )


def spread(rounds: Sequence[Round], condition: str) -> tuple[float, float]:
    """The quartiles of the shares lost, linear between the values."""
    lost = sorted(one.lost(condition) for one in rounds)
    if len(lost) < 2:
        return lost[0], lost[0]
    low, _, high = statistics.quantiles(lost, n=4, method="inclusive")
    return low, high


def words(found: e.Observer) -> str:
    """A result in one line."""
    when = time.strftime("%Y-%m-%d", time.localtime(found.wall)) if found.wall else "at an unknown time"
    return (
        f"the live screen costs {100 * found.live:.1f} % of decode tok/s, recording without it "
        f"{100 * found.headless:.1f} % ({found.pairs} pairs, {clean(found.model, 60)}, {when})"
    )


# --- where it is kept -----------------------------------------------------------------------------------------------


def load(cache: Path, build: e.Build, threads: int, host: str = "") -> e.Observer | None:
    """What was measured on this host with this llama.cpp and so many threads, None where nothing was."""
    wanted = host or platform.node(), _key(build), threads
    with suppress(OSError, msgspec.DecodeError):
        kept = msgspec.json.decode(_file(cache, *wanted).read_bytes(), type=Kept)
        if (kept.host, kept.build, kept.threads) == wanted:
            return kept.observer
    return None


def store(cache: Path, build: e.Build, threads: int, kept: e.Observer, rounds: Sequence[Round], host: str = "") -> Path:
    """Keep a result in place of an earlier one for the same host, llama.cpp and threads; where it lies.

    Raises:
        UserError: it cannot be written.
    """
    name, key = host or platform.node(), _key(build)
    path = _file(cache, name, key, threads)
    content = Kept(host=name, build=key, threads=threads, observer=kept, rounds=tuple(rounds))
    try:
        paths.made(path.parent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        paths.write(temporary, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{clean(str(path))}: cannot be written ({error.strerror}): set cache_dir") from None
    return path


def _key(build: e.Build) -> tuple[str, ...]:
    return build.llama_cpp, build.llama_cpp_python, build.system_info, "offload" if build.gpu_offload else "cpu"


def _file(cache: Path, host: str, build: tuple[str, ...], threads: int) -> Path:
    digest = hashlib.sha256("\0".join([host, *build, str(threads)]).encode()).hexdigest()[:16]
    return cache / "observer" / f"{digest}.json"


# --- the command ----------------------------------------------------------------------------------------------------


def run(model: str, pairs: int, cache: Path, threads: int, as_json: bool) -> int:
    """Measure, print, keep; 0.

    Args:
        model: a GGUF; "" for a random one of 290 MB, made once.
        threads: 0 for one per physical core.

    Raises:
        UserError: the model is not there, a run failed, or there are no terminals of one's own on this system.
    """
    from quanttui.doctor import runs
    from quanttui.probes import host
    from quanttui.sweep import launch

    build, threads = launch.build(), threads or host.host().cores
    tell: Callable[[str], object] = (lambda _: None) if as_json else _print
    path = Path(model).expanduser() if model else runs.ghost(cache, threads, tell)
    if not path.is_file():
        raise UserError(f"--observer {clean(model)}: no such file: give a GGUF, or leave it out")
    tell(f"{clean(path.name)}, {size(path.stat().st_size)}, {threads} threads; nothing else should run meanwhile")
    rounds = measure(runs.all_of(path, threads, cache), pairs, tell)
    found = summed(rounds, path.name, time.time())
    kept = store(cache, build, threads, found, rounds)
    spreads = {condition: spread(rounds, condition) for condition in CONDITIONS[1:]}
    if as_json:
        plain = {"observer": e.plain(found), "quartiles": spreads, "rounds": [e.plain(one) for one in rounds]}
        print(json.dumps({**plain, "threads": threads, "file": str(kept)}, indent=1))
        return 0
    for condition, (low, high) in spreads.items():
        share = 100 * getattr(found, condition)
        tell(f"{condition:<9} {share:5.1f} % of decode tok/s lost, quartiles {100 * low:.1f} to {100 * high:.1f} %")
    tell(f"kept in {kept}: sessions of this machine, llama.cpp and thread count carry it from now on")
    return 0


def _print(line: str) -> None:
    print(line, flush=True)
