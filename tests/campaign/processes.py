"""Faults of processes: killed, stopped, told to end, their terminal or reader gone, at a random moment of a sweep.

A moment is a number of lines that the log has reached, drawn evenly over those of an undisturbed sweep, and a few
milliseconds after it: so every phase has its share of moments, however short it is.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import psutil

from quanttui import events as e
from quanttui import session
from quanttui import state as fold

from . import judge
from .ground import LONG, SOON, Broken, Fault, Ground, Missed, Outcome, Program, Site
from .judge import Recorded
from .terminal import Terminal

AFTER = 0.02
"""Seconds after a line of the log within which a fault comes: longer than most events are apart."""

STOPPED = (0.2, 1.5)
"""Seconds for which a process is stopped, at least and at most."""

PATIENCE = 6.0
"""Seconds of silence after which an engine counts as hung here: it must at least be able to start."""

VIEWERS = 3

INTERRUPTED = (130, -signal.SIGINT)
"""A shell sees the same number: the second is a signal that comes when the interpreter itself is about to end."""

KILLED = ("crashed",)
"""With what an arm ends whose engine was killed."""

FRAMES = ("-c", "from quanttui import cli, session; session.FRAME_EVERY = 3; raise SystemExit(cli.main())")
"""quanttui with a key frame every third event: a sweep as short as ours would have none."""

SSH = """\
#!{python}
import subprocess, sys, threading

there = subprocess.Popen(["sh", "-c", sys.argv[-1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def pump(source, sink):
    while block := source.read1(65536):
        sink.write(block)
        sink.flush()
    sink.close()


threading.Thread(target=pump, args=(sys.stdin.buffer, there.stdin), daemon=True).start()
pump(there.stdout, sys.stdout.buffer)
"""
"""What stands in for ssh: a parent of the relay whose end closes the relay's pipes, as that of sshd does."""


# --- moments --------------------------------------------------------------------------------------------------------


def pause(seconds: float) -> None:
    """Let time pass."""
    threading.Event().wait(seconds)


def await_moment(
    site: Site, chance: random.Random, program: Program | None, share: float = 1.0, since: int = 0
) -> None:
    """Wait for a moment of the first `share` of a sweep whose log has `since` lines already.

    Raises:
        Missed: the sweep was over before.
    """
    lines = len(site.ground.whole(*site.more).recorded.lines)
    first = since + 1
    site.reached(chance.randint(first, max(first, int(share * lines) - 1)), program)
    pause(chance.uniform(0.0, AFTER))


def child(site: Site, program: Program) -> psutil.Process:
    """The engine of a sweep, when there is one.

    Raises:
        Missed: the sweep was over before.
    """
    found: list[psutil.Process] = []

    def seen() -> bool:
        if program.poll() is not None:
            raise Missed
        with suppress(psutil.Error):
            found.extend(site.engines())
        return bool(found)

    site.until(seen, "no engine is there")
    return found[0]


def signalled(process: psutil.Process, number: int) -> None:
    """Send a signal.

    Raises:
        Missed: the process is gone.
    """
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        raise Missed from None


def kill(site: Site, program: Program) -> Recorded:
    """End a writer at once; what it had recorded.

    Raises:
        Missed: the sweep was over.
    """
    program.kill()
    site.ended(program, SOON)
    before = site.recorded()
    if before.closed == "ok":
        raise Missed
    return before


# --- kill -9 --------------------------------------------------------------------------------------------------------


def sweep_killed(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep)
        return site.resumed(kill(site, sweep))


def killed_at_start(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        sweep = site.sweep()
        pause(chance.uniform(0.0, ground.whole().starts))
        return site.resumed(kill(site, sweep))


def all_killed(ground: Ground, chance: random.Random) -> Outcome:
    """As a machine that loses its power, but for what its disk makes of it."""
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep)
        engines = site.engines()
        sweep.kill()
        for engine in engines:
            with suppress(psutil.Error):
                engine.kill()
        return site.resumed(kill(site, sweep))


def app_killed(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        app = site.terminal(*site.words)
        await_moment(site, chance, None)
        return site.resumed(kill(site, app))


def detached_killed(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        if site.ended(site.start(*site.words, "--detach")):
            raise Broken(f"--detach: {site.last_words()}")
        heir = heir_of(site)
        await_moment(site, chance, None, since=2)
        signalled(heir, signal.SIGKILL)
        heir.wait(SOON)
        before = site.recorded()
        if before.closed == "ok":
            raise Missed
        return site.resumed(before)


def heir_of(site: Site) -> psutil.Process:
    """The process that goes on with a session.

    Raises:
        Missed: it is over.
    """
    resumed = site.follow(None, lambda event: isinstance(event, e.SessionResumed))
    assert isinstance(resumed, e.SessionResumed)
    try:
        return psutil.Process(resumed.pid)
    except psutil.NoSuchProcess:
        raise Missed from None


def engine_killed(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep)
        return without_engine(site, sweep, signal.SIGKILL, KILLED)


def engine_killed_in(phase: str, ground: Ground, chance: random.Random) -> Outcome:
    with ground.site(cache=phase != "quantize") as site:
        sweep = site.sweep()
        site.follow(sweep, phase_of(phase, chance))
        pause(chance.uniform(0.0, AFTER))
        return without_engine(site, sweep, signal.SIGKILL, KILLED)


def phase_of(phase: str, chance: random.Random) -> Callable[[e.Event], bool]:
    """Whether an event begins this phase of one arm or the other; only one arm is made."""
    wanted = 0 if phase == "quantize" else chance.randrange(2)
    seen = []

    def wants(event: e.Event) -> bool:
        if isinstance(event, e.PhaseStarted) and event.phase == phase and event.arm not in seen:
            seen.append(event.arm)
            return len(seen) > wanted
        return False

    return wants


def without_engine(site: Site, sweep: Program, number: int, fails: tuple[str, ...]) -> Outcome:
    """A sweep whose engine under way gets a signal goes on to its end by itself."""
    engine, before = child(site, sweep), site.recorded()
    signalled(engine, number)
    return site.judged(before, site.ended(sweep), fails)


def describing_killed(ground: Ground, chance: random.Random) -> Outcome:
    """The engine that only says what it is: nothing is begun, in one line."""
    with ground.site() as site:
        sweep = site.sweep()
        signalled(child(site, sweep), signal.SIGKILL)
        code = site.ended(sweep)
        if code == 2 and not site.recorded().begun:
            return site.resumed(Recorded())
        return site.judged(Recorded(), code, KILLED)  # it came late, and was the first arm's


def resume_killed(links: int, ground: Ground, chance: random.Random) -> Outcome:
    """A sweep is killed, and then `links` times what resumes it."""
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep, 1 / (links + 1))
        before = kill(site, sweep)
        for link in range(links):
            resume = site.resume()
            if chance.random() < 0.25:
                pause(chance.uniform(0.0, ground.whole().starts))
            else:
                await_moment(site, chance, resume, (link + 2) / (links + 1), len(before.lines))
            after = kill(site, resume)
            if not after.log.startswith(before.log):
                site.amiss = True
                return Outcome(True, judge.lost(before, after), said="the log does not begin with what was recorded")
            before = after
        return site.resumed(before)


def handing_over_killed(ground: Ground, chance: random.Random) -> Outcome:
    """While `q`, leave it running, is done; then the heir as well, or it alone goes on."""
    with ground.site() as site:
        app = site.terminal(*site.words)
        await_moment(site, chance, None, 0.6)
        app.press("q")
        app.press("l")
        pause(chance.uniform(0.0, 2 * ground.whole().starts))
        app.kill()
        site.ended(app, SOON)
        before = site.recorded()
        heirs = site.processes("--resume")
        if heirs and chance.random() < 0.5:
            for heir in heirs:
                with suppress(psutil.Error):
                    heir.wait(LONG)
            return site.judged(before, 0)
        for heir in heirs:
            with suppress(psutil.Error):
                heir.kill()
                heir.wait(SOON)
        before = site.recorded()
        if before.closed == "ok":
            raise Missed
        return site.resumed(before)


def manifest_killed(ground: Ground, chance: random.Random) -> Outcome:
    """manifest.json is written after these events."""
    kind = chance.choice((e.SessionOpened, e.ArmStarted, e.SessionClosed))
    with ground.site() as site:
        sweep = site.sweep()
        site.follow(sweep, lambda event: isinstance(event, kind))
        pause(chance.uniform(0.0, AFTER / 4))
        sweep.kill()
        site.ended(sweep, SOON)
        return site.resumed(site.recorded())


def frames_killed(ground: Ground, chance: random.Random) -> Outcome:
    """What the key frames lead to is what the whole log does."""
    with ground.site() as site:
        sweep = site.start(*site.words, "--headless", program=FRAMES)
        await_moment(site, chance, sweep)
        before = kill(site, sweep)
        resume = site.start("run", "--resume", str(site.session), "--headless", program=FRAMES)
        outcome = site.judged(before, site.ended(resume))
        whole = fold.decode(fold.encode(fold.fold(site.recorded().events)))
        if not session.frames(site.session) or session.load(site.session) != whole:
            site.amiss = True
            return Outcome(said=f"{outcome.said}; the key frames lead to another state than the log")
        return outcome


# --- viewers --------------------------------------------------------------------------------------------------------


def watched(site: Site, sweep: Program, count: int, *words: str, **more: str) -> list[Terminal]:
    """So many viewers whose screens are up, and the sweep goes on: it was paused until then."""
    site.reached(2, sweep)
    session.request(site.session, "pause")
    viewers = [site.terminal("attach", *(words or (str(site.session),)), **more) for _ in range(count)]
    outputs = sorted(site.out.iterdir())[-count:]
    site.until(lambda: all(path.stat().st_size > 4096 for path in outputs), "a viewer's screen does not come")
    if sweep.poll() is not None:
        raise Missed
    session.request(site.session, "resume")
    return viewers


def viewers_killed(ground: Ground, chance: random.Random) -> Outcome:
    """The sweep knows nothing of them."""
    with ground.site() as site:
        sweep = site.sweep()
        viewers = watched(site, sweep, VIEWERS)
        before = site.recorded()
        for viewer in viewers:
            pause(chance.uniform(0.0, 0.5))
            if viewer.poll() is not None:
                raise Broken(f"a viewer ended by itself: {site.last_words()}")
            viewer.kill()
            site.ended(viewer, SOON)
        return site.judged(before, site.ended(sweep))


def viewer_stopped(ground: Ground, chance: random.Random) -> Outcome:
    """The sweep comes to its end while it stands still; then the viewer is there again, and can be left."""
    with ground.site() as site:
        sweep = site.sweep()
        (viewer,) = watched(site, sweep, 1)
        pause(chance.uniform(0.0, 0.5))
        before = site.recorded()
        viewer.send_signal(signal.SIGSTOP)
        code = site.ended(sweep)
        viewer.send_signal(signal.SIGCONT)
        left(site, viewer)
        return site.judged(before, code)


def left(site: Site, viewer: Terminal) -> None:
    """Leave a viewer.

    Raises:
        Broken: it does not end, or not well.
    """
    viewer.press("q")
    if code := site.ended(viewer, SOON):
        raise Broken(f"a viewer ends with exit code {code}: {site.last_words()}")


def relay_killed(ground: Ground, chance: random.Random) -> Outcome:
    """A viewer of another machine loses its connection: the relay ends, and the viewer comes back by another."""
    with ground.site() as site:
        ssh = site.folder / "ssh"
        ssh.write_text(SSH.format(python=sys.executable))
        ssh.chmod(0o700)
        sweep = site.sweep()
        there = (f"somebody@there:{site.session}", "--remote-command", f"{sys.executable} -m quanttui")
        own = {"QUANTTUI_TEST_SSH": str(ssh), "QUANTTUI_CACHE_DIR": str(site.folder / "mirrors")}
        (viewer,) = watched(site, sweep, 1, *there, **own)
        pause(chance.uniform(0.0, 0.5))
        before = site.recorded()
        parents = [psutil.Process(viewer.pid).children()[0]]
        relays = [one for one in parents[0].children(recursive=True) if "relay" in one.cmdline()]
        parents[0].kill()
        _, alive = psutil.wait_procs(relays, timeout=SOON)
        if not relays or alive:
            raise Broken("the relay does not end with its connection")
        code = site.ended(sweep)
        left(site, viewer)
        return site.judged(before, code)


# --- other signals --------------------------------------------------------------------------------------------------


def terminal_closed(ground: Ground, chance: random.Random) -> Outcome:
    """SIGHUP ends the screen, and not the sweep."""
    with ground.site() as site:
        app = site.terminal(*site.words)
        await_moment(site, chance, None)
        before = site.recorded()
        app.hang_up()
        return site.judged(before, site.ended(app))


def headless_hung_up(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep)
        before = site.recorded()
        sweep.send_signal(signal.SIGHUP)
        return site.judged(before, site.ended(sweep))


def app_terminated(ground: Ground, chance: random.Random) -> Outcome:
    """SIGTERM ends the screen, and not the sweep."""
    with ground.site() as site:
        app = site.terminal(*site.words)
        await_moment(site, chance, None)
        before = site.recorded()
        app.send_signal(signal.SIGTERM)
        return site.judged(before, site.ended(app))


def told_to_end(numbers: tuple[int, ...], ground: Ground, chance: random.Random) -> Outcome:
    """A headless sweep ends at once and says so, however often it is told."""
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep)
        for number in numbers:
            sweep.send_signal(number)
            pause(chance.uniform(0.0, 0.3))
        code, before = site.ended(sweep, SOON), site.recorded()
        if before.closed == "ok":
            raise Missed
        outcome = site.resumed(before)
        if code not in INTERRUPTED or before.closed != "interrupted":
            site.amiss = True
            return Outcome(wrong_resume=True, said=f"ended with {code}, closed {before.closed!r}; {outcome.said}")
        return outcome


def app_interrupted(ground: Ground, chance: random.Random) -> Outcome:
    """SIGINT ends the screen and the sweep, whether the screen stands already or not, however often it comes."""
    with ground.site() as site:
        app = site.terminal(*site.words)
        await_moment(site, chance, None)
        for _ in range(2):
            app.send_signal(signal.SIGINT)
            pause(chance.uniform(0.0, 0.3))
        site.ended(app, SOON)
        before = site.recorded()
        if before.closed == "ok":
            raise Missed
        outcome = site.resumed(before)
        if before.closed != "interrupted" and any(isinstance(one, e.PhaseStarted) for one in before.events):
            site.amiss = True
            return Outcome(wrong_resume=True, said=f"closed {before.closed!r}; {outcome.said}")
        return outcome


def told_at_start(ground: Ground, chance: random.Random) -> Outcome:
    """Before anything runs that could be stopped, it just ends."""
    number = chance.choice((signal.SIGINT, signal.SIGTERM))
    with ground.site() as site:
        sweep = site.sweep()
        child(site, sweep)
        pause(chance.uniform(0.0, ground.whole().starts))
        sweep.send_signal(number)
        code, before = site.ended(sweep, SOON), site.recorded()
        if before.closed == "ok":
            raise Missed
        outcome = site.resumed(before)
        if code not in (*INTERRUPTED, -signal.SIGTERM):
            site.amiss = True
            return Outcome(wrong_resume=True, said=f"ended with {code}, closed {before.closed!r}; {outcome.said}")
        return outcome


def ctrl_c_in_app(ground: Ground, chance: random.Random) -> Outcome:
    """It asks and does nothing by itself."""
    with ground.site() as site:
        app = site.terminal(*site.words)
        await_moment(site, chance, None)
        before = site.recorded()
        app.press("\x03")
        pause(chance.uniform(0.0, 0.3))
        app.press("\x03")
        if site.closes() == "interrupted":
            site.ended(app)
            return site.resumed(before)
        app.hang_up()
        return site.judged(before, site.ended(app))


def engine_paused(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep)
        engine, before = child(site, sweep), site.recorded()
        signalled(engine, signal.SIGSTOP)
        pause(chance.uniform(*STOPPED))
        with suppress(Missed):
            signalled(engine, signal.SIGCONT)
        return site.judged(before, site.ended(sweep))


def sweep_paused(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep)
        before = site.recorded()
        sweep.send_signal(signal.SIGSTOP)
        pause(chance.uniform(*STOPPED))
        sweep.send_signal(signal.SIGCONT)
        return site.judged(before, site.ended(sweep))


def app_paused(ground: Ground, chance: random.Random) -> Outcome:
    with ground.site() as site:
        app = site.terminal(*site.words)
        await_moment(site, chance, None)
        before = site.recorded()
        app.send_signal(signal.SIGSTOP)
        pause(chance.uniform(*STOPPED))
        app.send_signal(signal.SIGCONT)
        site.closes()
        app.hang_up()
        return site.judged(before, site.ended(app))


def engine_hung(ground: Ground, chance: random.Random) -> Outcome:
    """It is stopped for good: what waits for it loses its patience."""
    with ground.site() as site:
        sweep = site.sweep(QUANTTUI_PATIENCE=str(PATIENCE))
        await_moment(site, chance, sweep)
        return without_engine(site, sweep, signal.SIGSTOP, ("timeout",))


def reader_gone(ground: Ground, chance: random.Random) -> Outcome:
    """Nobody reads what the headless sweep says any more (SIGPIPE)."""
    with ground.site() as site:
        ours, its = os.pipe()
        try:
            sweep = site.sweep(stdout=its)
        finally:
            os.close(its)
        try:
            await_moment(site, chance, sweep)
        finally:
            os.close(ours)
        before = site.recorded()
        return site.judged(before, site.ended(sweep))


def two_resumes(ground: Ground, chance: random.Random) -> Outcome:
    """Exactly one goes on; where the other comes when that is over, there is nothing left for it to do."""
    with ground.site() as site:
        sweep = site.sweep()
        await_moment(site, chance, sweep, 0.5)
        before = kill(site, sweep)
        both = [site.resume(), site.resume()]
        codes = sorted(site.ended(one) for one in both)
        after = site.recorded()
        outcome = site.judged(before, 0 if codes in ([0, 2], [0, 0]) else max(codes))
        starts = [at for at, event in enumerate(after.events) if isinstance(event, e.SessionResumed)]
        ends = [at for at, event in enumerate(after.events) if isinstance(event, e.SessionClosed)]
        in_turn = len(starts) == 2 and any(starts[0] < at < starts[1] for at in ends)
        if not ((codes == [0, 2] and len(starts) == 1) or (codes == [0, 0] and in_turn)):
            site.amiss = True
            said = f"exit codes {codes}, {len(starts)} of two resumes began; {outcome.said}"
            return Outcome(outcome.lost_sweep, outcome.lost_units, True, outcome.quality, said)
        return outcome


PHASES = ("quantize", "bandwidth", "load", "prompt", "decode", "perplexity", "task")
"""Phases in which an engine works."""

FAULTS: list[Fault] = [
    Fault("headless sweep killed", "kill -9", 45, 1, sweep_killed, "at a random moment, then resumed"),
    Fault("sweep killed as it starts", "kill -9", 12, 1, killed_at_start, "before or just after it records anything"),
    Fault("sweep and engine killed", "kill -9", 10, 0, all_killed, "both at once, then resumed"),
    Fault("app killed", "kill -9", 20, 0, app_killed, "on a terminal, then resumed without one"),
    Fault("detached sweep killed", "kill -9", 15, 1, detached_killed, "begun with --detach, then resumed"),
    Fault("engine killed", "kill -9", 35, 1, engine_killed, "its arm may fail, the others are done"),
    *(
        Fault(f"engine killed in {phase}", "kill -9", 3, int(phase == "quantize"), partial(engine_killed_in, phase),
              "its arm may fail, the others are done")
        for phase in PHASES
    ),
    Fault("engine killed before the sweep", "kill -9", 4, 0, describing_killed, "which was to say what it is"),
    Fault("resume killed", "kill -9", 20, 1, partial(resume_killed, 1), "of a sweep that was killed, then resumed"),
    Fault("resume of a resume killed", "kill -9", 12, 0, partial(resume_killed, 2), "three kills in all"),
    Fault("killed while handing over", "kill -9", 14, 1, handing_over_killed, "after q, leave it running"),
    Fault("killed at the manifest", "kill -9", 10, 0, manifest_killed, "when manifest.json is written"),
    Fault("killed at key frames", "kill -9", 12, 1, frames_killed, "with a key frame every third event"),
    Fault("viewers killed", "kill -9", 10, 1, viewers_killed, f"{VIEWERS} at once, one after the other"),
    Fault("parent of the relay killed", "kill -9", 8, 1, relay_killed, "a viewer of another machine"),
    Fault("terminal closed", "signals", 10, 0, terminal_closed, "SIGHUP: the sweep goes on"),
    Fault("headless sweep hung up", "signals", 3, 0, headless_hung_up, "SIGHUP: the sweep goes on"),
    Fault("app terminated", "signals", 5, 0, app_terminated, "SIGTERM: the sweep goes on"),
    Fault("sweep terminated", "signals", 8, 0, partial(told_to_end, (signal.SIGTERM,)), "SIGTERM, then resumed"),
    Fault("ctrl-c twice", "signals", 8, 1, partial(told_to_end, (signal.SIGINT,) * 2), "SIGINT, then resumed"),
    Fault("told to end as it starts", "signals", 8, 0, told_at_start, "SIGINT or SIGTERM, then resumed"),
    Fault("ctrl-c twice in the app", "signals", 4, 0, ctrl_c_in_app, "which asks"),
    Fault("app interrupted", "signals", 10, 1, app_interrupted, "SIGINT twice, then resumed"),
    Fault("engine stopped for a while", "signals", 8, 0, engine_paused, "SIGSTOP, SIGCONT"),
    Fault("sweep stopped for a while", "signals", 6, 0, sweep_paused, "SIGSTOP, SIGCONT"),
    Fault("app stopped for a while", "signals", 4, 0, app_paused, "SIGSTOP, SIGCONT"),
    Fault("viewer stopped", "signals", 6, 1, viewer_stopped, "SIGSTOP until the sweep is over"),
    Fault("engine hung", "signals", 6, 0, engine_hung, f"SIGSTOP for more than its patience of {PATIENCE:g} s"),
    Fault("reader of the output gone", "signals", 8, 1, reader_gone, "SIGPIPE: the sweep goes on"),
    Fault("two resumes at once", "signals", 10, 1, two_resumes, "exactly one goes on"),
]
