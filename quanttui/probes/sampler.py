"""The thread that reads all probes together and emits what they say. Owns when, and what a reading costs.

It knows neither the session nor its log: events go to `emit`, and nothing that a probe does ends the thread.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from quanttui import format
from quanttui.events import Beat, Event, ProbeFound, ProbeLost, Sample
from quanttui.probes import ROOT, Absent, Probe, amd, nvidia
from quanttui.probes.cpu import Cpu, CpuElsewhere
from quanttui.probes.memory import Memory, MemoryElsewhere
from quanttui.probes.power import Power
from quanttui.probes.pressure import Pressure
from quanttui.probes.process import Engine, EngineElsewhere, Own
from quanttui.probes.swap import Swap, SwapElsewhere

BEAT_S = 1.0
COST_READS = 3

# Where the thread clock ticks too coarsely to see one read (Windows: 15.6 ms), elapsed time stands for it.
_fine = time.get_clock_info("thread_time").resolution <= 1e-6
cost_ns = time.thread_time_ns if _fine else time.perf_counter_ns


def everything(root: Path = ROOT, platform: str = sys.platform) -> list[Probe]:
    """All probes for an operating system, none of them opened; the NVIDIA driver is asked for its devices.

    Where it is neither Linux nor macOS nor Windows, psutil tells what it can.
    """
    if platform == "darwin":  # NVIDIA's driver has left it
        from quanttui.probes import apple  # here, so that no other system waits for its structures

        return [*apple.probes(), CpuElsewhere(), Own(root)]
    cards = nvidia.probes()
    own: list[Probe] = [Own(root), *cards]
    if platform == "linux":
        after = sum(isinstance(card, nvidia.Device) for card in cards)
        own += amd.probes(root, after)
        return [Memory(root), Swap(root), Pressure(root), Cpu(root), Engine(root), Power(root), *own]
    if platform == "win32":
        from quanttui.probes import windows

        return [MemoryElsewhere(), *windows.probes(), CpuElsewhere(), *own]
    return [MemoryElsewhere(), SwapElsewhere(), CpuElsewhere(), EngineElsewhere(), *own]


def try_open(probe: Probe) -> ProbeFound | ProbeLost:
    """Open a probe and read it a few times: what one read costs at best, or why it does not answer."""
    try:
        detail = probe.open()
        costs = [_cost(probe) for _ in range(COST_READS)]
    except Exception as error:
        probe.close()
        return ProbeLost(probe=probe.name, why=reason(error))
    return ProbeFound(probe=probe.name, detail=format.clean(detail), cost_us=round(min(costs) / 1e3, 1))


def _cost(probe: Probe) -> int:
    start = cost_ns()
    probe.read()
    return cost_ns() - start


def reason(error: Exception) -> str:
    """Why a probe failed, safe to print: its own words where it chose them, else the error's kind as well."""
    return format.clean(str(error) if isinstance(error, Absent) else f"{type(error).__name__}: {error}")


def survey(root: Path = ROOT) -> list[ProbeFound | ProbeLost]:
    """What this host can tell and what it cannot, with the reason; leaves nothing open."""
    probes = everything(root)
    answers = [try_open(probe) for probe in probes]
    for probe in probes:
        probe.close()
    return answers


def boottime() -> float | None:
    """Seconds since boot with suspended time counted, None where no such clock is told apart."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return None if clock is None else round(time.clock_gettime(clock), 3)


class Sampler:
    """Emits ProbeFound and ProbeLost at the start and on change, a Sample `hz` times and a Beat once a second.

    `emit` is called by this thread and by callers of `sample_now`, one at a time and in the order of reading, so that
    counters never run backwards in the log; it must not call the sampler. An exception from `emit` ends the thread
    and is kept in `failure`: what cannot be recorded need not be read.
    `clock` gives monotonic seconds; `wait(event, seconds)` returns when the event is set or the time is over.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        hz: float = 4.0,
        probes: Sequence[Probe] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.failure: Exception | None = None
        self._emit = emit
        self._period = _period(hz)
        self._probes = probes
        self._clock = clock
        self._wait = wait
        self._turn = threading.RLock()
        self._wake = threading.Event()
        self._begun = False
        self._ending = False
        self._thread: threading.Thread | None = None
        self._open: dict[str, Probe] = {}
        self._lost: dict[str, str] = {}
        self._pid: int | None = None
        self._spent_ns = 0

    def start(self) -> None:
        """Begin; the probes are opened by the thread."""
        self._thread = threading.Thread(target=self.run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at once, whatever the rate, and close all probes."""
        self._ending = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._turn:
            for probe in self._probes or ():
                probe.close()
            self._open = {}

    def rate(self, hz: float) -> None:
        """Samples per second from now on; 0 leaves only the beats."""
        self._period = _period(hz)
        self._wake.set()

    def watch(self, pid: int | None) -> None:
        """engine.* are of this process from now on. A new engine is also when lost probes are tried again."""
        with self._turn:
            self._pid = pid
            if not self._begun:
                return
            for probe in self._probes or ():
                probe.watch(pid)
            if pid is not None:
                self._find()

    def sample_now(self) -> Sample:
        """Read and emit at once: for the edges of a phase."""
        with self._turn:
            self._begin()
            sample = Sample(readings=self._read(), pid=self._pid)
            self._emit(sample)
            return sample

    def run(self) -> None:
        """The thread's own loop, until `stop`."""
        try:
            with self._turn:
                self._begin()
            sampled = beaten = -math.inf
            while not self._ending:
                self._wake.clear()
                now, period = self._clock(), self._period
                if now - beaten >= BEAT_S:
                    self._beat()
                    beaten = _step(beaten, BEAT_S, now)
                if now - sampled >= period:
                    self.sample_now()
                    sampled = _step(sampled, period, now)
                due = min(sampled + period, beaten + BEAT_S)
                if not self._ending:
                    self._wait(self._wake, max(0.0, due - self._clock()))
        except Exception as error:
            self.failure = error

    def _beat(self) -> None:
        with self._turn:
            self._emit(Beat(wall=round(time.time(), 3), boottime=boottime()))

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        if self._probes is None:
            self._probes = everything()
        for probe in self._probes:
            probe.watch(self._pid)
        self._find()

    def _find(self) -> None:
        """Open what is not open; say so where the answer is new."""
        for probe in self._probes or ():
            if probe.name in self._open:
                continue
            answer = try_open(probe)
            if isinstance(answer, ProbeFound):
                self._open[probe.name] = probe
                self._lost.pop(probe.name, None)
                self._emit(answer)
            elif self._lost.get(probe.name) != answer.why:
                self._lost[probe.name] = answer.why
                self._emit(answer)

    def _read(self) -> dict[str, float]:
        start = cost_ns()
        readings: dict[str, float] = {}
        for name, probe in list(self._open.items()):
            try:
                readings.update(probe.read())
            except Exception as error:
                del self._open[name]
                self._lost[name] = reason(error)
                probe.close()
                self._emit(ProbeLost(probe=name, why=self._lost[name]))
        self._spent_ns += cost_ns() - start
        readings["self.probes"] = round(self._spent_ns / 1e9, 6)
        return readings


def _period(hz: float) -> float:
    """Seconds from sample to sample; 0 a second is never."""
    return 1 / hz if hz > 0 else math.inf


def _step(last: float, period: float, now: float) -> float:
    """The instant that counts as done: in step with the last one, but nothing that was missed is made up for."""
    return last + period if last + 2 * period > now else now
