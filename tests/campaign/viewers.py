"""Faults between a sweep and who watches it: several viewers that leave requests at once, a request that is cut off, a
link to another machine that breaks at a byte."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from quanttui import events as e
from quanttui import session
from quanttui.errors import UserError
from quanttui.remote.mirror import ENDED, Mirror

from ..test_remote import Far, fill, log, opened, until
from . import bench as benches
from .bench import Bench, also
from .ground import CHECKOUT, Fault, Ground, Outcome

WRITER = """\
import sys
from pathlib import Path
from quanttui import session

folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for at in range(count):
    session.request(folder, "tolerance" if at % 7 else "dance", value=f"{name}.{at:03}")
"""
"""A viewer that leaves requests as fast as it can: each has a value of its own, and every seventh is none."""

COUNT = 60


def many_viewers(ground: Ground, rng: random.Random) -> Outcome:
    """Processes append requests at the same time while the sweep takes them, is killed, and goes on."""
    whole = benches.whole(ground)
    names = [str(number) for number in range(1, rng.randrange(3, 6))]
    begin = rng.randrange(2, whole.answers // 2)
    with benches.bench(ground) as made:
        made.folder.parent.mkdir(exist_ok=True)
        viewers = [_viewer(made.folder, name) for name in names]

        def strike(running: Bench) -> None:
            if running.answers == begin:
                for viewer in viewers:
                    assert viewer.stdin is not None
                    viewer.stdin.write(b"\n")
                    viewer.stdin.flush()
            assert running.heart is not None
            running.heart.beat()

        before = made.killed(rng.randrange(begin + 1, whole.answers), strike)
        for viewer in viewers:
            viewer.communicate(timeout=30)
        outcome = made.resumed(before, whole.qualities)
        return _once(made, outcome, COUNT * len(names))


def _viewer(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """A viewer that waits for a word."""
    words = [sys.executable, "-c", WRITER, str(folder), name, str(COUNT)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _once(made: Bench, outcome: Outcome, count: int) -> Outcome:
    """The outcome, and what is amiss where not every request was taken once, in the order in which they lie there."""
    data = (made.folder / session.CONTROL).read_bytes()
    # A request that was seen half-written, where it crosses a page of the file, is followed by an empty line.
    asked = [json.loads(line)["value"] for line in data.splitlines() if line]
    taken = [event for event in made.events() if isinstance(event, e.Control)]
    told = ""
    if len(asked) != count:
        told = f"{len(asked)} requests lie there and not {count}; "
    if [event.value for event in taken] != asked:
        told += f"{len(taken)} requests were taken, {len({event.value for event in taken})} of {len(asked)}; "
    if any(bool(event.refused) != (event.request == "dance") for event in taken):
        told += "a request was refused that makes sense, or none was that makes none; "
    if taken and taken[-1].offset != len(data):
        told += "the last offset is not the end; "
    return also(outcome, told)


def torn_request(ground: Ground, rng: random.Random) -> Outcome:
    """A viewer ends within its request, at any byte; those that follow act once each, and half of one never does."""
    whole = benches.whole(ground)
    with benches.bench(ground) as made:
        before = made.killed(rng.randrange(1, whole.answers))
        session.request(made.folder, "tolerance", value="1.25")
        control = made.folder / session.CONTROL
        first = control.read_bytes()
        session.request(made.folder, "skip", arm=rng.choice(made.arms))
        half = control.read_bytes()[len(first) : -1]
        control.write_bytes(first + half[: rng.randrange(1, len(half))])
        for value in ("2.25", "3.25"):
            session.request(made.folder, "tolerance", value=value)
        outcome = made.resumed(before, whole.qualities)
        taken = [event.value for event in made.events() if isinstance(event, e.Control) and not event.refused]
        told = "" if taken == ["1.25", "2.25", "3.25"] else f"requests that acted: {taken}; "
        return also(outcome, told)


LINES = 150
CUTS = 3


def cut_link(ground: Ground, rng: random.Random) -> Outcome:
    """The connection to another machine breaks at a byte, and the next one, and the next; requests go the other way."""
    with tempfile.TemporaryDirectory(dir=ground.folder, prefix="far-") as place:
        far = Far(Path(place))
        try:
            return _followed(far, rng)
        except AssertionError as error:
            return Outcome(lost_sweep=True, said=f"the mirror does not come to what it mirrors: {error}")
        finally:
            for mirror in far.opened:
                if mirror.is_alive():
                    mirror.stop()


def _followed(far: Far, rng: random.Random) -> Outcome:
    writer = opened(far.sessions / "one")
    fill(writer, LINES)
    length = len(log(writer.folder)) + 600
    for _ in range(CUTS):
        far.plan(cut=rng.choice((rng.randrange(1, 400), rng.randrange(1, length))))
    mirror = _attached(far)
    values = [f"{number}.5" for number in range(1, 4)]
    for value in values:
        session.request(mirror.folder, "tolerance", value=value)
        fill(writer, 5)
    until(lambda: _asked(writer.folder)[: len(values)] == values, "the requests are there")
    writer.append(e.SessionClosed(outcome="ok"))
    writer.close()
    until(lambda: mirror.link.status == ENDED, "the mirror ends")
    same, asked = log(mirror.folder) == log(writer.folder), _asked(writer.folder)
    told = "" if same else "the mirror's log is another one; "
    told += "" if asked == values else f"requests that were carried over: {asked}; "
    return Outcome(lost_sweep=not same, wrong_resume=asked != values, said=told)


def _attached(far: Far) -> Mirror:
    """A mirror. A connection that breaks before it says whose it is, is refused in one line."""
    for _ in range(CUTS):
        try:
            return far.attach()
        except UserError:
            continue
    return far.attach()


def _asked(folder: Path) -> list[str]:
    path = folder / session.CONTROL
    return [json.loads(line)["value"] for line in path.read_bytes().splitlines()] if path.exists() else []


GROUP = "viewers"

FAULTS = [
    Fault("requests at once", GROUP, 12, 2, many_viewers, "several viewers, and the sweep is killed"),
    Fault("request cut off", GROUP, 30, 6, torn_request, "at a byte; others follow"),
    Fault("link cut", GROUP, 40, 3, cut_link, "to another machine, at a byte"),
]
