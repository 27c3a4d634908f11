"""What it costs to read all probes and to judge what they say, four times a second. Run as a process:

    python -m tests.benchmarks.watching SESSION READS

prints {"probes_s", "fold_s", "verdicts_s", "slices"}: CPU seconds of one reading of all probes of this host, of folding
it into the state, and of the verdicts on the unit under way; the state is that of SESSION amid its last decode that was
long enough to have slices.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.diagnosis import verdicts
from quanttui.probes import sampler
from quanttui.state import State


def decoding(folder: Path) -> State:
    """The session's state at the last sample inside a decode."""
    reader = session.Reader(folder)
    events = list(reader.events())
    reader.close()
    last, running = 0, False
    for place, event in enumerate(events):
        if isinstance(event, e.UnitStarted):
            running = event.unit.kind == "decode"
        elif isinstance(event, e.UnitDone):
            running = False
        elif running and isinstance(event, e.Sample):
            last = place
    return fold.fold(events[: last + 1])


def spent(count: int, folder: Path) -> Iterator[tuple[str, float]]:
    """CPU seconds of each part, the mean of `count` times."""
    probes = sampler.everything()
    opened = [probe for probe in probes if isinstance(sampler.try_open(probe), e.ProbeFound)]
    start = time.thread_time()
    for _ in range(count):
        readings = {name: value for probe in opened for name, value in probe.read().items()}
    yield "probes_s", (time.thread_time() - start) / count
    for probe in opened:
        probe.close()
    state = decoding(folder)
    yield "slices", float(sum(len(one.slices) for arm in state.arms.values() for one in arm.attempts))
    start = time.thread_time()
    for _ in range(count):
        verdicts.live(state)
    yield "verdicts_s", (time.thread_time() - start) / count
    t, known = state.t, dict(state.readings)
    start = time.thread_time()
    for place in range(count):
        state.apply(e.Sample(t=t + 0.25 * (place + 1), n=state.n + 1, readings=known | readings, pid=state.pid))
    yield "fold_s", (time.thread_time() - start) / count


if __name__ == "__main__":
    print(json.dumps(dict(spent(int(sys.argv[2]), Path(sys.argv[1])))))
