"""An imported session as events, and its folder. Owns the order in which things are told; invents none of them.

Session time goes by the tests' own times and lengths; what no file tells takes no time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from quanttui import events as e
from quanttui import paths, session
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.imports.found import Arm, Imported, Scored, Test
from quanttui.sweep import lock

PROBES = ("memory", "swap", "pressure", "cpu", "engine", "nvidia", "power")
"""What a sweep of ours reads of every machine (probes), and an imported one lacks."""


def write(imported: Imported, sessions: Path, folder: Path | None = None) -> Path:
    """Record a session: its log, its manifest, and the files that it came from in raw/.

    Args:
        sessions: the folder of sessions, in which a new one is made.
        folder: where the session goes instead.

    Returns:
        the session's folder.

    Raises:
        UserError: it cannot be written, or `folder` holds a session already.
    """
    made = session.create(sessions, imported.model, folder)
    told = list(events(imported))
    try:
        for number, source in enumerate(imported.sources, 1):
            paths.write(session.part(made, "raw", f"imported-{number}-{source.name}"), source.raw)
        session.write_manifest(made, session.manifest(fold.fold(told)))
        with open(lock.writer(made, fresh=True), "ab") as log:
            log.writelines(map(e.encode, told))
            log.flush()
            os.fsync(log.fileno())
    except OSError as error:
        raise UserError(f"{made}: {error.strerror}: make room, or choose another folder with --session") from None
    return made


def events(imported: Imported) -> Iterator[e.Event]:
    """The session from its opening to its end, numbered and timed."""
    log = _Log(imported)
    log.put(_opened(imported))
    for probe in PROBES:
        log.put(e.ProbeLost(probe=probe, why="imported: nothing of it was recorded"))
    for arm in imported.arms:
        log.arm(arm)
    failed = any(arm.scored is not None and arm.scored.failed for arm in imported.arms)
    log.put(e.SessionClosed(outcome="failed" if failed else "ok"))
    return iter(log.events)


class _Log:
    """The events so far, and the session time that they have come to."""

    def __init__(self, imported: Imported) -> None:
        self.events: list[e.Event] = []
        self._settings, self._wall, self._t = imported.settings, imported.wall, 0.0

    def put(self, event: e.Event) -> None:
        self.events.append(msgspec.structs.replace(event, n=len(self.events), t=self._t))

    def arm(self, arm: Arm) -> None:
        """An arm's first attempt with its perplexity, then the further ones."""
        attempts = sorted({test.attempt for test in arm.tests} | {1})
        for attempt in attempts:
            for test in arm.tests:
                if test.attempt == attempt:
                    self._test(arm, test)
            if attempt == 1 and arm.scored is not None:
                self._perplexity(arm, arm.scored)
            if attempt == 1 and arm.scored is not None and arm.scored.failed:
                error = arm.scored.failed
                self.put(e.PhaseFailed(arm=arm.id, phase="perplexity", error=error))
                self.put(e.ArmFailed(arm=arm.id, outcome="interrupted", error=error, phase="perplexity"))
            else:
                self.put(e.ArmDone(arm=arm.id, attempt=attempt))

    def _test(self, arm: Arm, test: Test) -> None:
        """A test's repetitions, from its own time on where that is told. llama-bench makes a context for each test that
        just holds it."""
        if test.wall is not None:
            self._t = max(self._t, test.wall - self._wall)
        asked, flash = self._settings, {"on": True, "off": False}.get(self._settings.flash_attn)
        self.put(e.PhaseStarted(arm=arm.id, phase=test.kind, units=len(test.ns), attempt=test.attempt))
        self.put(
            e.ContextMade(
                arm=arm.id, phase=test.kind, n_ctx=test.tokens + test.depth, n_batch=asked.batch, n_ubatch=asked.ubatch,
                n_seq=1, kv=arm.kv or asked.kv, flash_attn=flash,
            )
        )  # fmt: skip
        for index, ns in enumerate(test.ns):
            unit = e.Unit(
                arm=arm.id, kind=test.kind, index=index, tokens=test.tokens, depth=test.depth, attempt=test.attempt
            )
            began = self._t
            self.put(e.UnitStarted(unit=unit, at=began))
            self._t += ns / 1e9
            self.put(e.UnitDone(unit=unit, at=began, tokens=test.tokens, ns=ns))
        self.put(e.PhaseDone(arm=arm.id, phase=test.kind, attempt=test.attempt))

    def _perplexity(self, arm: Arm, scored: Scored) -> None:
        """Its chunks; a log does not say when they were scored, and says how long one takes, if anything."""
        seconds, whole = scored.seconds or 0.0, not scored.failed
        self.put(e.PhaseStarted(arm=arm.id, phase="perplexity", units=scored.planned))
        for one in scored.chunks:
            unit, began = e.Unit(arm=arm.id, kind="perplexity", index=one.index), self._t
            self.put(e.UnitStarted(unit=unit, at=began))
            self._t += seconds
            self.put(
                e.Perplexity(
                    unit=unit, chunk=one.index, chunks=scored.planned, scored=one.scored, nll=one.nll, nll2=one.nll2,
                    at=began, ns=int(seconds * 1e9), diverged=one.diverged,
                )
            )  # fmt: skip
            self.put(e.UnitDone(unit=unit, at=began, tokens=scored.context, ns=int(seconds * 1e9)))
        if whole:
            self.put(e.PhaseDone(arm=arm.id, phase="perplexity"))


def _opened(imported: Imported) -> e.SessionOpened:
    return e.SessionOpened(
        schema=e.SCHEMA,
        model=imported.model,
        host=imported.host,
        build=imported.build,
        settings=imported.settings,
        plan=tuple(
            e.PlannedArm(
                id=arm.id, quant=arm.quant, file=arm.file, bytes=arm.bytes, kv=arm.kv, prompt=arm.prompt,
                decode=arm.decode,
            )
            for arm in imported.arms
        ),
        wall=imported.wall,
        origin_ns=0,
        pid=0,
        pid_started=0.0,
        notes=imported.notes,
    )  # fmt: skip
