"""From a request to a running sweep: opens or resumes the session, and hands it to a screen, to plain lines, or to a
detached process. The only place where a sweep and what shows it meet.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from quanttui import __version__, headless, paths, quants, session, shapes
from quanttui import events as e
from quanttui.diagnosis import ceilings, thresholds
from quanttui.engine import protocol
from quanttui.engine.process import Engine, EngineFailure
from quanttui.errors import UserError
from quanttui.format import clean, json_text, size
from quanttui.measure import corpus, divergence, tasks
from quanttui.models import header, sources, tiles
from quanttui.probes import bandwidth, host
from quanttui.probes.memory import limits
from quanttui.probes.sampler import Sampler
from quanttui.state import State
from quanttui.stats.intervals import median
from quanttui.sweep import changed, lock, plan, room
from quanttui.sweep.runner import Options, Sweep

GHOST_QUANTS = "Q8_0,Q4_K_M,Q2_K"
GHOST_PROMPT, GHOST_DECODE = 64, 16
"""Tokens of a repetition of the demo's ghosts: a third of a billion weights are to take no longer than all else."""

DEMO_QUANTS = "F16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,IQ3_XS,Q2_K,IQ2_XS"

FILES = ("prompts", "mmlu", "ner")
"""Tasks whose items may come from a file or folder, which the setting of the same name then says."""

EXIT = {"ok": 0, "failed": 1, "interrupted": 130}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What `run` and `demo` were asked for, flags, environment and file already put together.

    `text` names the perplexity's text ("" for the default). `settings.threads` 0 means the physical cores,
    `settings.schedule` auto what fits. `kv` are the KV cache's types, an arm with each; `shuffled`: arms come in a
    random order, by the settings' seed. `ghosts`: the demo has some, for 0.7 GB in the cache. `observer` knows what
    watching costs with a build and so many threads. `screen` are more arguments of the monitor (tui.app.Monitor).
    `wait`: for the end of another sweep on this machine, instead of being refused. `anyway`: resume though files,
    programs or the machine changed.
    """

    models: tuple[str, ...] = ()
    quants: str | None = None
    settings: e.Settings = e.Settings()
    kv: tuple[str, ...] = ()
    shuffled: bool = False
    text: str = ""
    imatrix: str = ""
    session: Path | None = None
    resume: Path | None = None
    headless: bool = False
    detach: bool = False
    wait: bool = False
    anyway: bool = False
    demo: bool = False
    ghosts: bool = False
    sessions_dir: Path
    cache_dir: Path
    cache_bytes: int
    sample_hz: float = 4.0
    patience: float = 600.0
    screen: dict[str, Any] = {}
    json: bool = False
    observer: Callable[[e.Build, int], e.Observer | None] = lambda build, threads: None


def launch(request: Request) -> int:
    """Do what was asked, with the machine for itself; returns the exit code.

    Raises:
        UserError: the input cannot be used, the session cannot be written, or another sweep runs on this machine.
    """
    with closing(lock.hold("a sweep", request.wait, _warn)) as machine:
        if machine.note:
            _warn(machine.note)
        return _alone(request, machine)


def _alone(request: Request, machine: lock.Machine) -> int:
    """The same on a machine that measures nothing else."""
    writer = _resumed(request, machine) if request.resume else _opened(request, machine)
    if request.detach:
        writer.close()
        _detach(writer.folder, machine, request)
        print(f"{writer.folder}: runs on without this terminal; `quanttui attach {writer.folder}` watches it")
        return 0
    options = Options(
        cache=request.cache_dir,
        cache_bytes=request.cache_bytes,
        patience=request.patience,
        text=writer.state.settings.text,
        tasks=tasks.load(writer.state.settings),
        hz=request.sample_hz,
        anyway=request.anyway,
    )
    sweep = Sweep(
        writer,
        options,
        start_engine=Engine.start,
        sampler=lambda emit: Sampler(emit, hz=request.sample_hz),
        idle=host.idle,
        memory=_memory,
    )
    try:
        return _headless(sweep, request) if request.headless else _screen(sweep, request, machine)
    finally:
        _remember(writer.state, request.cache_dir)
        writer.close()


BANDWIDTH = "bandwidth.json"
"""In the cache folder: the read bandwidths that earlier sessions measured on this machine."""


def _recall(writer: session.Writer, cache: Path) -> None:
    """Tell the session what earlier ones measured."""
    machine = writer.state.host
    known = bandwidth.recall(cache / BANDWIDTH, machine, writer.state.settings.threads) if machine else None
    if known is not None:
        writer.append(known)


def _remember(state: State, cache: Path) -> None:
    """Keep the bandwidths found next to the quants that this process measured, one of each, for later sessions."""
    begun = state.resumed[-1] if state.resumed else 0.0
    each = [
        median(found)
        for arm in state.arms.values()
        for attempt in arm.attempts
        if (found := [one.gb_s for one in attempt.ceilings if ceilings.is_of_host(one) and one.gb_s and one.t >= begun])
    ]
    if state.host is not None:
        bandwidth.remember(cache / BANDWIDTH, state.host, state.settings.threads, each)


class _Thread:
    """The sweep's thread: its outcome, or the error that ended it, once `done` is set.

    Args:
        over: called when it ends.
    """

    def __init__(self, sweep: Sweep, over: Callable[[], object] = lambda: None) -> None:
        self.sweep = sweep
        self._over = over
        self._begun = threading.Lock()
        self.done = threading.Event()
        self.outcome = "interrupted"
        self.error: Exception | None = None

    def run(self) -> None:
        """Run it, unless another thread does already."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            self.outcome = self.sweep.run()
        except Exception as error:  # handed to the main thread, which raises it
            self.error = error
        finally:
            self._over()
            self.done.set()

    def result(self) -> int:
        self.done.wait()
        if self.error is not None:
            raise self.error
        return EXIT[self.outcome]


def _headless(sweep: Sweep, request: Request) -> int:
    """Plain lines on stdout while the sweep runs in a thread; ctrl-c and SIGTERM stop it, SIGHUP does not."""
    thread = _Thread(sweep)
    since = sweep.writer.state.n
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sweep.stop())
    worker = threading.Thread(target=thread.run, name="sweep")
    worker.start()
    if not request.json:
        headless.Lines(sweep.writer.folder, sys.stdout, sys.stdout.isatty(), since).follow(thread.done)
    code = thread.result()
    with suppress(OSError):
        _finish(sweep, request)
    return code


def _finish(sweep: Sweep, request: Request) -> None:
    if request.json:
        from quanttui.report import json as report_json

        print(json_text(report_json.report(sweep.writer.state), None))
        return
    from quanttui.report import text as report_text

    folder = sweep.writer.folder
    print(f"\n{report_text.brief(sweep.writer.state)}")
    print(f"session: {folder}\nverdicts with their evidence: quanttui report {folder}")


def _screen(sweep: Sweep, request: Request, machine: lock.Machine) -> int:
    """The live monitor, with the sweep in a thread of its own that outlives it."""
    leaving, stopped = threading.Event(), threading.Event()

    def stop(*_: object) -> None:
        """Ctrl-c before there is a screen."""
        stopped.set()
        sweep.stop()

    signal.signal(signal.SIGINT, stop)
    from quanttui.tui.app import LEAVE, Monitor

    def leave() -> None:
        leaving.set()
        sweep.leave()

    def over() -> None:
        """A screen that stays open measures nothing, so others may. Only an heir gets the machine without a gap."""
        if not leaving.is_set():
            machine.close()

    thread = _Thread(sweep, over)
    app = Monitor(
        sweep.writer.folder,
        mode="live",
        sweep=thread.run,
        stop=sweep.stop,
        leave=leave,
        disturb=sweep.disturb,
        **request.screen,
    )
    sweep.between = app.paint_between
    left = not stopped.is_set() and app.run() == LEAVE
    if left:
        _say("finishing the unit under way; the sweep then goes on without this terminal")
    thread.run()  # where it has not begun, for want of a screen
    code = thread.result()
    if left and sweep.writer.state.closed == "interrupted":
        _detach(sweep.writer.folder, machine, request)
        _say(f"`quanttui attach {sweep.writer.folder}` watches it")
        return 0
    with suppress(OSError):
        _finish(sweep, request)
    return code


def _say(text: str) -> None:
    """A line for the person, if there still is a terminal."""
    with suppress(OSError):
        print(text, flush=True)


def _warn(text: str) -> None:
    """The same where no output is meant to go."""
    with suppress(OSError):
        print(f"quanttui: {text}", file=sys.stderr, flush=True)


def _opened(request: Request, machine: lock.Machine) -> session.Writer:
    """A new session with its first event in the log."""
    models, wanted = request.models, request.quants
    if request.demo:
        from quanttui.models import pocket

        models, wanted = (str(pocket.MODEL),), wanted or DEMO_QUANTS
    name, files = sources.resolve(models, wanted, imatrix=request.imatrix)
    planned = plan.with_kv(files, request.kv)
    haunting, said = _ghosts(request) if request.demo else ((), ())
    planned += haunting
    settings = _scheduled(_settings(request, planned), planned, request.shuffled, request.cache_dir)
    here, built = host.host(), build()
    folder = session.create(request.sessions_dir, name, request.session)
    machine.write(folder, fresh=True)
    writer = session.Writer(folder)
    writer.append(
        e.SessionOpened(
            schema=e.SCHEMA,
            model=name,
            host=here,
            build=built,
            settings=settings,
            plan=planned,
            origin_ns=writer.origin_ns,
            notes=(*_notes(here, built), *said, *filter(None, [machine.note])),
            observer=request.observer(built, settings.threads),
            wall=time.time(),
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
        )
    )
    _recall(writer, request.cache_dir)
    session.write_manifest(folder, session.manifest(writer.state))
    return writer


def _ghosts(request: Request) -> tuple[tuple[e.PlannedArm, ...], tuple[str, ...]]:
    """The demo's ghosts, larger than any cache, beside which the shipped model shows how fast what a cache holds is;
    and what is to be said of them. None where quants were named, speed is not asked for, or there is no room."""
    if not request.ghosts or request.quants or "speed" not in request.settings.tasks:
        return (), ()
    each = [sources.ghost(f"ghost:{shapes.DEMO}", quant) for quant in quants.parse(GHOST_QUANTS)]
    arms = tuple(
        msgspec.structs.replace(arm, id=f"ghost-{arm.quant}", prompt=GHOST_PROMPT, decode=GHOST_DECODE) for arm in each
    )
    missing = tiles.missing_bytes(arms, request.cache_dir)
    if not tiles.fits(missing, request.cache_dir, request.cache_bytes):
        return (), (f"without its ghosts: {size(missing)} have no room in {clean(str(request.cache_dir), 200)}",)
    if missing and not request.json:
        _say(f"writing {size(missing)} of ghosts into {clean(str(request.cache_dir), 200)} (--no-ghosts: without them)")
    return arms, ()


def _resumed(request: Request, machine: lock.Machine) -> session.Writer:
    """A session that another process began: what it recorded is kept, what is missing is to be done.

    Raises:
        UserError: it is no session, its writer still lives, or what it measures is no longer what it was.
    """
    folder = session.find(request.sessions_dir, str(request.resume))
    if (there := session.origin(folder)) is not None:
        raise UserError(f"{folder}: mirrors a session of {clean(there.host, 80)}: resume it there")
    machine.write(folder)
    state = session.load(folder)
    if state.opened is None:
        raise UserError(f"{folder}: holds no plan to resume: start anew with `quanttui run MODEL`")
    if state.writer is not None and not state.writer[0]:
        raise UserError(f"{folder}: was imported, nothing of it can go on: start anew with `quanttui run MODEL`")
    gone = (os.getpid(), machine.predecessor)
    if session.status(state, folder) == "running" and state.writer and state.writer[0] not in gone:
        raise UserError(f"{folder}: process {state.writer[0]} is running it: `quanttui attach {folder}` watches it")
    _same_text(folder, state.settings)
    _same_items(folder, state.settings)
    here, built = host.host(), build()
    differs = () if machine.inherited else changed.since(state, here, built, request.cache_dir, _warn)
    if differs and not request.anyway:
        raise UserError(_refusal(folder, differs))
    writer = session.Writer(folder)
    writer.append(
        e.SessionResumed(
            host=here,
            build=built,
            settings=state.settings,
            plan=tuple(arm.plan for arm in state.arms.values()),
            origin_ns=writer.origin_ns,
            notes=(*_notes(here, built), *(f"resumed though {one}" for one in differs), *filter(None, [machine.note])),
            observer=request.observer(built, state.settings.threads),
            wall=time.time(),
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
            changed=differs,
        )
    )
    return writer


def _refusal(folder: Path, differs: tuple[str, ...]) -> str:
    """Why a session is not gone on with, and the ways out."""
    count = "something" if len(differs) == 1 else f"{len(differs)} things"
    return (
        f"{clean(str(folder))}: {count} changed since it was begun: {'; '.join(differs)}: put back what was there, or "
        "start a new session; --anyway goes on all the same, and the reports will say so"
    )


def _same_text(folder: Path, settings: e.Settings) -> None:
    """Chunks of another text must not be mixed with those that are recorded.

    Raises:
        UserError: the text is gone or was changed.
    """
    if settings.text and corpus.text(settings.text).sha256 != settings.text_sha256:
        raise UserError(
            f"{settings.text}: has changed since {folder} was begun: put the old text back, or start a new session"
        )


def _same_items(folder: Path, settings: e.Settings) -> None:
    """Answers to other items must not be mixed with those that are recorded.

    Raises:
        UserError: a task's items are gone or were changed.
    """
    known = {"prompts": settings.prompts_sha256, **dict(settings.digests)}
    for task in tasks.load(settings):
        if task.sha256 != known.get(task.name):
            name = task.name.partition("-")[0]
            file = clean(getattr(settings, name)) if name in FILES else ""
            raise UserError(
                f"{file or name}: the items of {task.name} changed since {folder} was begun: put the old ones back, or "
                "start a new session"
            )


def _settings(request: Request, planned: tuple[e.PlannedArm, ...]) -> e.Settings:
    """The settings with what only this machine can say filled in: threads, the text's path and digest. Of ghosts alone
    nothing but speed is asked.

    Raises:
        UserError: the text cannot be had, a threshold is none, or nothing is asked that a ghost could answer.
    """
    settings = request.settings
    thresholds.check(dict(settings.thresholds))
    if all(arm.ghost for arm in planned):
        if "speed" not in settings.tasks:
            raise UserError("--tasks: a ghost has random weights: there is nothing to ask of it but speed")
        settings = msgspec.structs.replace(settings, tasks=("speed",))
    changes: dict[str, object] = {"text": ""}
    if settings.threads == 0:
        changes["threads"] = host.host().cores
    if plan.wants_perplexity(settings):
        spec = request.text or ("pocket" if request.demo else corpus.WIKITEXT)
        text = corpus.text(spec, cache=request.cache_dir)
        changes |= {"text": str(text.path), "text_sha256": text.sha256}
    given = {name: getattr(settings, name) for name in FILES}
    changes |= {name: str(Path(path).expanduser().resolve()) for name, path in given.items() if path}
    settings = msgspec.structs.replace(settings, **changes)
    return msgspec.structs.replace(settings, digests=tuple((one.name, one.sha256) for one in tasks.load(settings)))


def _scheduled(
    settings: e.Settings, planned: tuple[e.PlannedArm, ...], shuffled: bool, cache: Path
) -> e.Settings:
    """The settings with the arms' order, and a schedule that fits.

    Raises:
        UserError: the base is none of the arms, or the base logits cannot be used.
    """
    if settings.base and not any(settings.base in (arm.id, arm.quant) for arm in planned):
        names = ", ".join(arm.id for arm in planned)
        raise UserError(f"--base {clean(settings.base, 40)}: is none of the quants of this sweep: {clean(names)}")
    if settings.kld_base:
        settings = _with_logits(settings, cache)
    schedule = settings.schedule
    if schedule == "auto":
        gpus = host.host().gpus if settings.gpu_layers and build().gpu_offload else ()
        held = sum(gpu.memory or 0 for gpu in gpus)
        fitting = room.fits([arm.bytes for arm in planned], _memory(), (held, held) if gpus else None)
        schedule = "abba" if fitting and len(planned) > 1 else "sequential"
    order = plan.shuffled(settings, planned) if shuffled else plan.base_first(settings, planned)
    return msgspec.structs.replace(settings, schedule=schedule, order=order)


def _with_logits(settings: e.Settings, cache: Path) -> e.Settings:
    """The settings with the base logits that exist already as a file of this machine, and its digest: they must be of
    the perplexity's context. Vocabulary and text the engine looks at.

    Raises:
        UserError: they cannot be used.
    """
    given = divergence.BaseFile.open(Path(settings.kld_base))
    given.close()
    if given.context != settings.context:
        raise UserError(
            f"{clean(settings.kld_base)}: was made with a context of {given.context} and not {settings.context}: "
            f"measure with --ctx {given.context}, or make it anew"
        )
    file = Path(settings.kld_base).resolve()
    digest = header.sha256(file, cache, changed.reading(file, _warn))
    return msgspec.structs.replace(settings, kld_base=str(file), kld_base_sha256=digest)


def _memory() -> dict[str, float]:
    """mem.total and mem.available in bytes, empty where they are unknown."""
    machine, limit, available = limits()
    if machine is None or available is None:
        return {}
    return {"mem.total": limit or machine, "mem.available": available}


def _notes(here: e.Host, built: e.Build) -> tuple[str, ...]:
    advice = host.build_advice(built.gpu_offload, here.gpus)
    return (advice,) if advice else ()


def build() -> e.Build:
    """Which llama.cpp will measure: asked of an engine process, for this one must not load it.

    Raises:
        UserError: llama-cpp-python cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine.start(Path(folder) / "stderr.txt", time.monotonic_ns())
        try:
            (described,) = list(engine.ask(protocol.Describe(), 120))
        except EngineFailure as failure:
            lines = " ".join(failure.stderr[-1:])
            raise UserError(
                f"llama-cpp-python: cannot be loaded ({failure.error} {lines}): reinstall it with "
                "pip install --force-reinstall llama-cpp-python"
            ) from None
        finally:
            engine.close()
    assert isinstance(described, protocol.Described)
    return msgspec.structs.replace(described.build, quanttui=__version__)


def _detach(folder: Path, machine: lock.Machine, request: Request) -> None:
    """Go on with a session in a process that no terminal holds: it has the machine from now on, resumes what is missing
    and prints to a file."""
    path = session.part(folder, "stderr", "headless.txt")
    log = open(path, "ab", opener=paths.private)  # noqa: SIM115 (the child keeps it)
    with log:
        anyway = ["--anyway"] if request.anyway else []
        machine.start(
            [sys.executable, "-m", "quanttui", "run", "--resume", str(folder.resolve()), "--headless", *anyway],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            close_fds=True,
        )
