"""One run: quanttui under one condition, and what became of it. Owns the processes of a run and the order in which a
fault is made and taken away; knows no matrix."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from quanttui import __version__, session
from quanttui.diagnosis import roofline
from quanttui.errors import UserError
from quanttui.events import Shape
from quanttui.format import clean
from quanttui.models import header
from quanttui.state import State

from ..benchmarks.machine import Machine
from ..benchmarks.models import Store
from . import conditions, records, watch
from .cgroups import Group, Parent, Unusable
from .conditions import CLEAN, Condition, Model, Site
from .machine import Neighbour, drop, run_folder
from .records import Record
from .watch import Facts, Span, Taken, Watch

CHECKOUT = Path(__file__).resolve().parents[2]

LONGEST = 240.0
"""Seconds after which a run has failed."""

END_SECONDS = 10.0
"""Seconds that quanttui may take to stop."""

_ALWAYS = (
    *("--tasks", "speed", "--prompt", "0", "--precision", "0", "--gpu-layers", "0"),
    *("--schedule", "sequential", "--order", "given", "--anchor", "0"),
)


class Failed(Exception):
    """A run came to no report: one clear line."""


@dataclass(frozen=True)
class Done:
    """A run that gave a report: what it says, what its log folds to, what the kernel counted meanwhile."""

    report: dict[str, Any]
    state: State
    taken: Sequence[Taken]
    seconds: float


@dataclass
class Lab:
    """Runs conditions.

    Args:
        work: the lab's folder: models, quanttui's cache, swap files while they are on.
        parent: where cgroups can be made, None where they cannot, for the reason `why`.
        threads: of an engine. `cores`: of the machine. `cache`: its last-level cache, bytes.
        machine: waits until nobody else uses the machine.
        again: how often a run that counts for nothing is done again.
        keep: a folder for the sessions, None where they are thrown away.
    """

    work: Path
    parent: Parent | None
    why: str
    threads: int
    cores: int
    cache: int
    machine: Machine
    say: Callable[[str], None]
    again: int = 2
    keep: Path | None = None
    sitting: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    _clean: dict[str, float] = field(default_factory=dict)
    _overheads: dict[tuple[object, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "config.toml").touch()

    def run(self, condition: Condition) -> list[Record]:
        """A run of a condition, one record for each arm; of one that counts for nothing all tries.

        Raises:
            Unusable: the host does not allow it. Failed: quanttui gave no report.
        """
        found: list[Record] = []
        for _ in range(self.again + 1):
            self.machine.wait()
            tried = self._try(condition)
            found += tried
            if not all(record.void for record in tried):
                break
            self.say(f"{condition.name}: counts for nothing: {tried[0].void}")
        return found

    def site(self, model: Model, group: Group | None, limited: bool) -> Site:
        """Where faults are made for runs of a model. What a run takes beside the file is measured if it is limited."""
        file = self.file(model)
        overhead = self._overhead(model) if limited else 0
        return Site(file, active(file), overhead, group, self.parent, self.work, self.cores, self.cache)

    def file(self, model: Model) -> Path:
        """The ghost, made if it is not there, and its digest known to quanttui, which therefore does not read it."""
        made = Store(self.work / "models", self.threads).ghost(model.shape, model.quant)
        header.sha256(made, self.work / "cache")
        return made

    def group(self, held: ExitStack, name: str, needed: bool) -> Group | None:
        """A cgroup for quanttui until the stack is closed: it also tells what belongs to it. None where there are none.

        Raises:
            Unusable: it is needed, and the host allows none.
        """
        if self.parent is not None:
            return held.enter_context(Group(self.parent, name))
        if needed:
            raise Unusable(self.why)
        return None

    def _try(self, condition: Condition) -> list[Record]:
        with ExitStack() as held:
            group = self.group(held, "run", condition.limits or condition.groups)
            site = self.site(condition.model, group, condition.limits)
            if why := conditions.unfit(condition, site.active, self.cache):
                raise Unusable(why)
            neighbours = condition.fault(site, held)
            files = _links(site.file, condition.arms, held, self.work)
            done = self.quanttui(condition.name, files, condition.words, group, neighbours)
        about = self.about(done.seconds)
        return [self._record(condition, done, arm, site.active, about) for arm in done.report["arms"]]

    def quanttui(
        self,
        name: str,
        files: Sequence[Path],
        words: Sequence[str],
        group: Group | None,
        neighbours: Sequence[Neighbour] = (),
    ) -> Done:
        """Have quanttui measure files while neighbours do what they do.

        Raises:
            Failed: there is no report.
        """
        begun = time.monotonic()
        with self.started(name, files, words, group) as (process, folder):
            for neighbour in neighbours:
                neighbour.go()
            with Watch(time.monotonic, group, pids(process.pid, group), lambda: used(neighbours)) as seen:
                out = _finished(process)
            said = (folder.parent / "stderr.txt").read_text(errors="replace").strip().splitlines()
            if process.returncode not in (0, 1) or not out.strip():
                last = clean(said[-1], 300) if said else "it says nothing"
                raise Failed(f"{name}: quanttui ended with exit code {process.returncode}: {last}")
            return Done(json.loads(out), session.load(folder), seen.taken, time.monotonic() - begun)

    @contextmanager
    def started(
        self, name: str, files: Sequence[Path], words: Sequence[str], group: Group | None
    ) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        """`quanttui run` and its session's folder. However this is left, it and its engine have ended then."""
        folder = run_folder(self.work)
        target = folder / "session"
        command = [sys.executable, "-m", "quanttui", "run", *map(str, files), *_ALWAYS, *words]
        command += ["--headless", "--json", "--session", str(target)]
        try:
            with open(folder / "stderr.txt", "wb") as err:
                process = subprocess.Popen(
                    group.inside(command) if group is not None else command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=err,
                    text=True,
                    cwd=CHECKOUT,
                    env=self._environment(),
                    start_new_session=True,
                )
            try:
                yield process, target
            finally:
                end(process)
        finally:
            if self.keep is not None and target.exists():
                self.keep.mkdir(parents=True, exist_ok=True)
                shutil.copytree(target, self.keep / f"{name}-{time.time_ns()}")
            shutil.rmtree(folder, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        """No configuration of the user's. The cache stays from run to run: quanttui remembers what a machine gives."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUANTTUI_")}
        own = {"QUANTTUI_CACHE_DIR": self.work / "cache", "QUANTTUI_CONFIG": self.work / "config.toml"}
        return kept | {name: str(path) for name, path in own.items()}

    def _overhead(self, model: Model) -> int:
        """Bytes that a run takes beside the model's file, by an unlimited run that has to read the file itself."""
        key = (model.shape, model.quant)
        if key not in self._overheads:
            self.say(f"measuring what a run takes beside {model.quant}'s file")
            file = self.file(model)
            with ExitStack() as held:
                group = self.group(held, "calibration", True)
                drop(file)
                done = self.quanttui("calibration", [file], ("--decode", "8", "--repetitions", "5"), group)
            usage = watch.within(done.taken, "usage", spans(done.state, next(iter(done.state.arms))))
            if not usage:
                raise Failed("calibration: nothing was timed")
            self._overheads[key] = max(0, int(max(usage)) - file.stat().st_size)
        return self._overheads[key]

    def _record(
        self, condition: Condition, done: Done, arm: dict[str, Any], active_bytes: float, about: dict[str, Any]
    ) -> Record:
        said, verdicts, evidence = records.of_arm(arm)
        decode = arm["decode"] or {}
        found = facts(done, str(arm["id"]), active_bytes)
        clean, tok_s = self._clean.get(condition.after), decode.get("tok_s")
        if clean and tok_s:
            found = replace(found, of_clean=tok_s / clean)
        record = Record(
            condition=condition.name,
            kind=conditions.kind(condition, found),
            right=tuple(sorted(condition.right(found))),
            said=said,
            void=condition.came(found) if found.tokens else "",
            verdicts=verdicts,
            outcome=str(arm["outcome"]),
            error=str(arm["error"] or ""),
            tok_s=tok_s,
            gb_s=decode.get("gb_s"),
            mbu=decode.get("mbu"),
            facts=found,
            evidence=evidence,
            arm=str(arm["id"]),
            **about,
        )
        if condition.kind == CLEAN and record.counts and tok_s:
            self._clean[condition.name] = tok_s
        return record

    def about(self, seconds: float) -> dict[str, Any]:
        """What all records of a session have."""
        return {
            "session": f"{self.sitting} {time.monotonic_ns()}",
            "sitting": self.sitting,
            "wall": time.time(),
            "seconds": seconds,
            "threads": self.threads,
            "host": f"{self.cores} cores, {self.cache >> 20} MiB last-level cache",
            "version": __version__,
        }


def active(file: Path) -> float:
    """Bytes of a model's weights and KV cache that one token reads, by its header's arithmetic."""
    shape: Shape = header.shape(header.read(file))
    return roofline.active_bytes(shape, 0, "f16")


def spans(state: State, arm: str) -> list[Span]:
    """When the repetitions of an arm's decode that count were timed, on the monotonic clock."""
    attempts = [one for one in state.arms[arm].attempts if one.decode]
    if state.opened is None or not attempts:
        return []
    origin = state.opened.origin_ns / 1e9
    return [(origin + one.at, origin + one.at + one.ns / 1e9) for one in attempts[-1].decode]


def facts(done: Done, arm: str, active_bytes: float) -> Facts:
    attempts = [one for one in done.state.arms[arm].attempts if one.decode]
    tokens = sum(one.tokens for one in attempts[-1].decode) if attempts else 0
    return watch.facts(done.taken, spans(done.state, arm), tokens, active_bytes)


def used(neighbours: Sequence[Neighbour]) -> float:
    """Core-seconds of all neighbours so far."""
    return sum(neighbour.cpu() for neighbour in neighbours)


def pids(root: int, group: Group | None) -> Callable[[], list[int]]:
    """Gives quanttui's processes: those of its cgroup, or its children, looked for once a second."""
    if group is not None:
        return group.pids
    known: tuple[float, list[int]] = (0.0, [root])

    def children() -> list[int]:
        nonlocal known
        if time.monotonic() - known[0] >= 1.0:
            with suppress(psutil.Error):
                below = psutil.Process(root).children(recursive=True)
                known = (time.monotonic(), [root, *(child.pid for child in below)])
        return known[1]

    return children


def end(process: subprocess.Popen[str]) -> None:
    """Have quanttui stop as ctrl-c does, killed if it does not, and wait for its engine."""
    below: list[psutil.Process] = []
    with suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    _, alive = psutil.wait_procs(below, timeout=END_SECONDS)
    for child in alive:
        with suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(alive, timeout=END_SECONDS)


def _finished(process: subprocess.Popen[str]) -> str:
    try:
        out, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        raise Failed(f"quanttui did not end within {LONGEST:.0f} s") from None
    return out


def _links(file: Path, count: int, held: ExitStack, work: Path) -> list[Path]:
    """The file under so many names: arms of one session with the same bytes."""
    if count == 1:
        return [file]
    folder = run_folder(work)
    held.callback(shutil.rmtree, folder, ignore_errors=True)
    made = []
    for number in range(count):
        link = folder / f"{file.stem}-{number}{file.suffix}"
        try:
            os.link(file, link)
        except OSError as error:
            raise UserError(f"{link}: cannot be made: {error.strerror}") from None
        header.sha256(link, work / "cache")
        made.append(link)
    return made
