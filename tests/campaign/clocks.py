"""Faults of clocks: the wall clock is set while a sweep runs, and the machine is suspended amid its units.

Nobody sets the host's clock for this: programs are told another time by a module that Python loads at its start, as
the kernel would after such a change: the time, when the machine was booted, which is reckoned from it, and when files
were changed.
"""

from __future__ import annotations

import json
import random
import subprocess
import time

from quanttui import events as e
from quanttui import session
from quanttui.state import TIMED
from quanttui.sweep import suspend

from . import bench as benches
from .bench import Bench, also
from .ground import CHECKOUT, Fault, Ground, Outcome, Site
from .judge import Recorded

CLOCK = """\
import json, os, time

jumps = json.loads(os.environ["CLOCK_JUMPS"])
now, now_ns, of_clock, monotonic = time.time, time.time_ns, time.clock_gettime, time.monotonic


def ahead(at=None):
    at = monotonic() if at is None else at
    return sum(seconds for moment, seconds in jumps if at >= moment)


def changed(look):
    def told(*given, **more):
        found = look(*given, **more)
        rest = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        rest["st_mtime"] += ahead(monotonic() - now() + found.st_mtime)
        return os.stat_result(tuple(found), rest)

    return told


os.stat, os.fstat = changed(os.stat), changed(os.fstat)


time.time = lambda: now() + ahead()
time.time_ns = lambda: now_ns() + int(ahead() * 1e9)
time.clock_gettime = lambda clock: of_clock(clock) + (ahead() if clock == time.CLOCK_REALTIME else 0)

import psutil

if hasattr(psutil, "_pslinux"):
    booted = psutil._pslinux.boot_time
    psutil._pslinux.boot_time = lambda: booted() + ahead()
"""
"""sitecustomize.py: the wall clock jumps by so many seconds at those moments of the monotonic clock."""

DAY = 86400.0
SWEEP_SECONDS = 4.0
"""About what a sweep takes; a jump that comes later is none."""


def clock_set(ground: Ground, rng: random.Random) -> Outcome:
    """The wall clock is set, by up to a day and back or forth, up to four times, while the sweep runs; it is killed,
    and goes on. After a jump it is still seen to run, and is not resumed beside itself."""
    lines = len(ground.whole().recorded.lines)
    with ground.site() as site:
        clock = _clock(site, rng)
        process = site.sweep(stdout=None, **clock)
        site.reached(rng.randrange(2, lines - 1), process)
        told = _runs(site, process, clock) if rng.random() < 0.5 and process.poll() is None else ""
        process.kill()
        site.ended(process)
        site.gone(site.processes)
        before = site.recorded()
        code = site.ended(site.resume(**clock))
        found = site.judged(before, code)
        length = session.load(site.session).t
        if not length < 60:
            told += f"the session's time is {length:.0f} s; "
        return also(found, told)


def _clock(site: Site, rng: random.Random) -> dict[str, str]:
    """The environment in which the clock jumps."""
    folder = site.folder / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK)
    begin = time.monotonic()
    jumps = [
        (begin + rng.uniform(0.2, SWEEP_SECONDS), rng.choice((-DAY, DAY, -3600.0, 3600.0, rng.uniform(-DAY, DAY))))
        for _ in range(rng.randrange(1, 5))
    ]
    return {"CLOCK_JUMPS": json.dumps(jumps), "PYTHONPATH": f"{folder}:{CHECKOUT}"}


def _runs(site: Site, process: subprocess.Popen[bytes], clock: dict[str, str]) -> str:
    """What is amiss with how a running sweep is seen, as long as it runs."""
    code = site.ended(site.resume(**clock))
    told = "" if code == 2 else f"a resume beside the sweep ends with exit code {code}; "
    if process.poll() is not None:
        return ""
    listed = site.start("sessions", "--json", stdout=None, **clock)
    site.ended(listed)
    said = sorted(site.out.iterdir(), key=lambda path: int(path.stem))[-1].read_text()
    states = [one["state"] for one in json.loads(said)]
    if states == ["done"]:  # it may just have come to its end: then its process does, too
        site.ended(process)
    elif states != ["running"] and process.poll() is None:
        told += f"a running sweep is seen as {', '.join(states)}; "
    return told


def suspended(ground: Ground, rng: random.Random) -> Outcome:
    """The machine is suspended at answers of the engine: a timed unit is measured again, and of one that is scored the
    time does not count."""
    whole = benches.whole(ground)
    moments = sorted(rng.sample(range(1, whole.answers), rng.randrange(1, 6)))
    slept = 0.0

    def strike(running: Bench) -> None:
        nonlocal slept
        if running.answers in moments:
            slept += rng.uniform(2 * suspend.LEAST, 40_000)

    with benches.bench(ground) as made:
        made.asleep = lambda: slept
        made.open()
        found = made.judged(Recorded(), made.run(strike), whole.qualities)
        return also(found, _counted(made))


def _counted(made: Bench) -> str:
    """What is amiss with repetitions: each test has as many that count as were asked for."""
    state = session.load(made.folder)
    settings = state.settings
    told = ""
    for arm in state.arms.values():
        attempt = arm.attempt
        for kind in ("prompt", "decode"):
            counted = getattr(attempt, kind) if attempt else []
            if len(counted) != settings.repetitions:
                told += f"{arm.id} {kind}: {len(counted)} of {settings.repetitions} repetitions count; "
    disturbed = [event for event in made.events() if isinstance(event, e.UnitDisturbed)]
    if any(event.unit.kind not in TIMED or "suspended" not in event.why for event in disturbed):
        told += "something else was disturbed; "
    return told


GROUP = "clocks"

FAULTS = [
    Fault("clock set", GROUP, 12, 1, clock_set, "by up to a day, back and forth, under a sweep that is killed"),
    Fault("machine suspended", GROUP, 24, 4, suspended, "amid a scripted sweep's units"),
]
