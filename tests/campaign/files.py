"""Faults of what lies on the disk: logs cut at a byte, key frames and manifests that are gone or are not ours, folders
that are moved, removed or locked under way, models replaced under the engine that has them mapped, quants half made.

All that touches only what the sweep's own process reads and writes is done to scripted sweeps (bench.py), at any byte;
what concerns an engine or several processes, to real ones.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import msgspec
import psutil

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.models import pocket

from . import bench as benches
from . import clocks, devices, disks, judge, viewers
from .bench import Bench, also
from .ground import SOON, Fault, Ground, Missed, Outcome, Site, Unusable
from .judge import Recorded

# --- logs -----------------------------------------------------------------------------------------------------------


def torn_log(ground: Ground, rng: random.Random) -> Outcome:
    """The log is cut at a byte of a line, of each kind of event as often as of any other. What was cut off is a crash's
    usual half line, or zeros as a power cut leaves them."""
    whole = benches.whole(ground)
    begin, end = rng.choice(rng.choice(_lines(whole.log)))
    cut = rng.randrange(begin, end)
    tail = bytes(rng.randrange(1, 5000)) if rng.random() < 0.25 else b""
    with benches.bench(ground) as made:
        whole.copy(made, whole.log[:cut] + tail)
        before = judge.recorded(made.folder)
        if torn := _misread(made.folder, whole.log, begin, end):
            return Outcome(lost_sweep=True, said=torn)
        (made.folder / session.EVENTS).write_bytes(whole.log[:cut] + tail)
        return made.resumed(before, whole.qualities)


@lru_cache(maxsize=4)
def _lines(log: bytes) -> list[list[tuple[int, int]]]:
    """Where the lines of each kind of event begin and end, newline excluded."""
    kinds, at = defaultdict(list), 0
    for line in log.splitlines():
        kinds[json.loads(line)["event"]].append((at, at + len(line)))
        at += len(line) + 1
    return list(kinds.values())


def _misread(folder: Path, log: bytes, begin: int, end: int) -> str:
    """What a reader makes of the line cut at each of its bytes, where that is more than nothing."""
    (folder / session.EVENTS).write_bytes(log[:end])
    for cut in range(end - 1, begin - 1, -1):
        os.truncate(folder / session.EVENTS, cut)
        reader = session.Reader(folder, begin)
        try:
            if list(reader.events()) or reader.offset != begin or reader.dropped:
                return f"half a line is read as an event: {log[begin:cut]!r}"
        finally:
            reader.close()
    return ""


# --- key frames and manifests ---------------------------------------------------------------------------------------

FILLED = 2 * session.FRAME_EVERY + 500
"""Events of a log that has key frames, and some behind the last."""


@lru_cache(maxsize=4)
def _long(ground: Ground) -> tuple[Path, Recorded, Path]:
    """A killed sweep with key frames, its log, and the key frames of another one's."""
    folders = []
    for answer in (60, 20):
        made = Bench(Path(tempfile.mkdtemp(prefix="long-", dir=ground.folder)), ground.cache)
        made.killed(answer)
        writer = session.Writer(made.folder)
        for at in range(FILLED):
            writer.append(e.Sample(readings={"mem.used": float(at * answer)}))
        writer.close()
        folders.append(made.folder)
    return folders[0], judge.recorded(folders[0]), folders[1] / session.FRAMES


def _gone(path: Path, rng: random.Random, foreign: Path) -> None:
    path.unlink()


def _cut(path: Path, rng: random.Random, foreign: Path) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def _flipped(path: Path, rng: random.Random, foreign: Path) -> None:
    """A bit of it, in the heads and their neighbourhood as likely as anywhere else."""
    data = bytearray(path.read_bytes())
    frames = session.frames(path.parent)
    head = rng.choice(frames).place - rng.randrange(1, 25)
    data[head if rng.random() < 0.5 else rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _noise(path: Path, rng: random.Random, foreign: Path) -> None:
    path.write_bytes(rng.randbytes(rng.randrange(100_000)))


def _foreign(path: Path, rng: random.Random, foreign: Path) -> None:
    shutil.copy(foreign, path)


def _followed(path: Path, rng: random.Random, foreign: Path) -> None:
    with open(path, "ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 200)))


DAMAGE: tuple[Callable[[Path, random.Random, Path], None], ...] = (_gone, _cut, _flipped, _noise, _foreign, _followed)


def damaged_frames(ground: Ground, rng: random.Random) -> Outcome:
    """Key frames that are gone, cut, damaged, or another session's."""
    folder, before, foreign = _long(ground)
    with benches.bench(ground) as made:
        shutil.copytree(folder, made.folder)
        shutil.copy(folder.parent / "prompts.jsonl", made.place)
        damage = rng.choice(DAMAGE)
        damage(made.folder / session.FRAMES, rng, foreign)
        told = "".join(_unlike(made.folder))
        outcome = made.resumed(before, benches.whole(ground).qualities)
        told += "".join(_unlike(made.folder))
        if told:
            said = f"{damage.__name__.strip('_')} key frames: {told} {outcome.said}"
            return Outcome(True, outcome.lost_units, outcome.wrong_resume, outcome.quality, said)
        return outcome


def _unlike(folder: Path) -> Iterator[str]:
    """Where what is loaded by way of key frames is not what the log says."""
    reader = session.Reader(folder)
    told = fold.fold(reader.events(), fold.State())
    reader.close()
    found = session.load(folder)
    if msgspec.msgpack.decode(fold.encode(found)) != msgspec.msgpack.decode(fold.encode(told)):
        yield "the state is not the log's; "


def damaged_manifest(ground: Ground, rng: random.Random) -> Outcome:
    """The manifest is gone, torn or something else while the sweep runs, and another time between stop and resume."""
    whole = benches.whole(ground)
    contents = [None, b"", b"{", rng.randbytes(300), b"[]", b'{"schema": 99}']
    moment = rng.randrange(20, whole.answers)

    def damage(folder: Path) -> None:
        content = rng.choice(contents)
        (folder / session.MANIFEST).unlink(missing_ok=True)
        if content is not None:
            (folder / session.MANIFEST).write_bytes(content)

    with benches.bench(ground) as made:
        before = made.killed(rng.randrange(1, whole.answers))
        damage(made.folder)

        def strike(running: Bench) -> None:
            if running.answers == moment:
                damage(running.folder)

        outcome = made.resume(strike)
        why = judge.manifest(made.folder)
        found = made.judged(before, outcome, whole.qualities)
        return found if not why else Outcome(lost_sweep=True, said=f"{why}; {found.said}")


# --- folders --------------------------------------------------------------------------------------------------------


def linked_folder(ground: Ground, rng: random.Random) -> Outcome:
    """The session, its raw folder, or the folder that it lies in is a link to another place since it was killed."""
    whole = benches.whole(ground)
    with benches.bench(ground) as made:
        before = made.killed(rng.randrange(1, whole.answers))
        away = made.place / "away"
        away.mkdir()
        part = rng.choice(("", "raw", "stderr"))
        moved = made.folder / part if part else made.folder
        shutil.move(moved, away / "it")
        moved.symlink_to(away / "it", target_is_directory=True)
        return made.resumed(before, whole.qualities)


def _moment(ground: Ground, rng: random.Random, site: Site) -> subprocess.Popen[bytes]:
    """A sweep that has come to some line of its log."""
    process = site.sweep()
    site.reached(rng.randrange(2, len(ground.whole().recorded.lines)), process)
    return process


def _refused(site: Site, process: subprocess.Popen[bytes], why: str) -> str:
    """What is amiss where a sweep ends that cannot go on: it has to in time, with exit code 2 and one line."""
    code, lines = site.ended(process), disks.said(site)
    if code == 2 and len(lines) == 1:
        return ""
    return f"after {why} it ends with exit code {code} and says {' | '.join(lines) or site.last_words()}; "


def renamed_folder(ground: Ground, rng: random.Random) -> Outcome:
    """Somebody renames the session's folder under the sweep; it ends, and goes on where the folder is now."""
    with ground.site() as site:
        process = _moment(ground, rng, site)
        moved = site.session.with_name("moved")
        os.rename(site.session, moved)
        old = site.session
        site.session = moved
        told = _refused(site, process, "its folder was renamed")
        if process.returncode == 0:  # it came to its end in the second before it looks
            told = ""
        if old.exists():
            told += f"it made {old.name} anew: {sorted(path.name for path in old.rglob('*'))}; "
        return also(site.resumed(site.recorded()), told)


def removed_folder(ground: Ground, rng: random.Random) -> Outcome:
    """Somebody deletes the session under the sweep: it ends with a line, and nothing stands in the way of another."""
    with ground.site() as site:
        process = _moment(ground, rng, site)
        shutil.rmtree(site.session, ignore_errors=True)
        told = _refused(site, process, "its folder was deleted")
        if process.returncode == 0:
            told = ""
        return also(site.resumed(Recorded()), told)


def locked_folder(ground: Ground, rng: random.Random) -> Outcome:
    """The session's folder and all in it become immutable under the sweep, and writable again before it is resumed."""
    with ground.site() as site:
        process = _moment(ground, rng, site)
        with _immutable(site.session):
            told = _refused(site, process, "its folder became read-only")
            before = site.recorded()
            again = site.resume()
            told += _refused_again(site, again)
        return also(site.resumed(before), told)


def _refused_again(site: Site, process: subprocess.Popen[bytes]) -> str:
    code = site.ended(process)
    return "" if code == 2 else f"a resume of a read-only session ends with exit code {code}; "


@contextmanager
def _immutable(folder: Path) -> Iterator[None]:
    """Nobody, not even root, writes below it.

    Raises:
        Unusable: the file system or the user cannot do that.
    """
    made = subprocess.run(["chattr", "-R", "+i", str(folder)], capture_output=True, text=True)
    try:
        if made.returncode:
            raise Unusable(f"chattr +i: {made.stderr.strip().splitlines()[-1:] or made.returncode}")
        yield
    finally:
        subprocess.run(["chattr", "-R", "-i", str(folder)], capture_output=True)


# --- models ---------------------------------------------------------------------------------------------------------

QUANT = "Q4_K_M"


@contextmanager
def _models(ground: Ground) -> Iterator[tuple[Site, dict[str, Path]]]:
    """A site with the quants of the undisturbed sweep as files of its own."""
    ground.whole()
    (made,) = (ground.cache / "quants").glob(f"*-{QUANT}-*.gguf")
    with ground.site() as site:
        folder = site.folder / "models"
        folder.mkdir()
        files = {"F16": folder / "pocket-F16.gguf", QUANT: folder / f"pocket-{QUANT}.gguf"}
        shutil.copy(pocket.MODEL, files["F16"])
        shutil.copy(made, files[QUANT])
        yield site, files


def _sweep_of(site: Site, files: dict[str, Path]) -> subprocess.Popen[bytes]:
    """The same sweep, over these files."""
    words = [word for word in site.words if word not in ("demo", "--no-ghosts")]
    given = ("--text", "pocket", "--anchor", "0", "--speed-seconds", "4")
    return site.start("run", str(files["F16"].parent), *words, *given, "--headless")


ENDS = ("crashed", "refused", "failed")
"""How an arm may end whose file is taken away."""


def _struck_model(ground: Ground, rng: random.Random, strike: Callable[[Path], None]) -> Outcome:
    """Something happens to the file of an arm while it runs."""
    with _models(ground) as (site, files):
        process = _sweep_of(site, files)
        arm = rng.choice(list(files))
        site.follow(process, lambda event: isinstance(event, e.ArmLoaded) and event.arm == arm)
        here = len(site.recorded().lines)
        site.reached(here + rng.randrange(0, 25), process)
        before = site.recorded()
        strike(files[arm])
        code = site.ended(process)
        failed = set(site.recorded().failed)
        found = site.judged(before, code, ENDS)
        return found if failed <= {arm} else also(found, f"{', '.join(failed)} failed, and {arm} was struck; ")


def truncated_model(ground: Ground, rng: random.Random) -> Outcome:
    """A GGUF is cut off while an engine has it mapped: reading on is a SIGBUS there."""
    return _struck_model(ground, rng, lambda file: os.truncate(file, rng.randrange(4096, file.stat().st_size)))


def overwritten_model(ground: Ground, rng: random.Random) -> Outcome:
    """Other weights of the same length are written into a GGUF that is mapped."""

    def strike(file: Path) -> None:
        size = file.stat().st_size
        with open(file, "r+b") as opened:
            opened.seek(size // 2)
            opened.write(rng.randbytes(size // 4))

    return _struck_model(ground, rng, strike)


def replaced_model(ground: Ground, rng: random.Random) -> Outcome:
    """Another file takes the name of a GGUF that is mapped."""

    def strike(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0x55
        new = file.with_suffix(".new")
        new.write_bytes(data)
        os.replace(new, file)

    return _struck_model(ground, rng, strike)


def removed_model(ground: Ground, rng: random.Random) -> Outcome:
    """A GGUF that is mapped is deleted."""
    return _struck_model(ground, rng, Path.unlink)


def changed_model(ground: Ground, rng: random.Random) -> Outcome:
    """A GGUF is another one, or gone, when the sweep is to go on: it is named and nothing goes on until it is back."""
    with _models(ground) as (site, files):
        process = _sweep_of(site, files)
        started = {e.ArmStarted, e.ArmLoaded}
        site.follow(process, lambda event: type(event) in started)
        site.reached(len(site.recorded().lines) + rng.randrange(1, 60), process)
        process.kill()
        site.ended(process)
        site.gone(site.processes)
        before = site.recorded()
        known = {event.arm for event in before.events if isinstance(event, e.ArmStarted)}
        arm = rng.choice(sorted(known))
        kept = files[arm].read_bytes()
        if rng.random() < 0.3:
            files[arm].unlink()
        else:
            data = bytearray(kept)
            data[rng.randrange(len(data) // 2, len(data))] ^= 1
            files[arm].write_bytes(data)
        again = site.resume()
        code = site.ended(again)
        told = ""
        if code != 2 or not any(files[arm].name in line for line in disks.said(site)):
            told = f"resumed with another {files[arm].name}: exit code {code}, {' | '.join(disks.said(site))}; "
        if site.recorded().done != before.done:
            told += "it went on; "
        files[arm].write_bytes(kept)
        return also(site.resumed(before), told)


# --- quants that are made -------------------------------------------------------------------------------------------


def evicted_quant(ground: Ground, rng: random.Random) -> Outcome:
    """A made quant is gone from the cache, or only half of it is there, when the sweep goes on."""
    with ground.site(cache=False) as site:
        _seed(ground, site)
        process = _moment(ground, rng, site)
        process.kill()
        site.ended(process)
        site.gone(site.processes)
        before = site.recorded()
        for file in (site.cache / "quants").glob("*.gguf"):
            if rng.random() < 0.5:
                file.unlink()
            else:
                os.truncate(file, rng.randrange(file.stat().st_size))
        return site.resumed(before)


def _seed(ground: Ground, site: Site) -> None:
    """What the undisturbed sweep made, as this site's own cache."""
    ground.whole()
    shutil.copytree(ground.cache, site.cache)


def killed_quantizing(ground: Ground, rng: random.Random) -> Outcome:
    """The sweep is killed while a quant is made; what it left half made is gone when another one goes on."""
    with ground.site(cache=False) as site:
        process = _quantizing(site, rng)
        process.kill()
        site.ended(process)
        site.gone(site.processes)
        outcome = site.resumed(site.recorded())
        left = [path.name for path in (site.cache / "quants").iterdir() if path.name.startswith(".")]
        return also(outcome, f"left over in the cache: {', '.join(left)}; " if left else "")


def engine_killed_quantizing(ground: Ground, rng: random.Random) -> Outcome:
    """The engine that makes a quant is killed: that arm fails and says so, the other is done."""
    with ground.site(cache=False) as site:
        process = _quantizing(site, rng)
        before, engines = site.recorded(), site.engines()
        if not engines:
            raise Missed
        for engine in engines:
            with suppress(psutil.NoSuchProcess):
                engine.kill()
        return site.judged(before, site.ended(process), ENDS)


def _quantizing(site: Site, rng: random.Random) -> subprocess.Popen[bytes]:
    """A sweep that makes a quant: it has begun to, or there is some of it."""
    process = site.sweep()
    site.follow(process, lambda event: isinstance(event, e.PhaseStarted) and event.phase == "quantize")
    if rng.random() < 0.5:
        site.until(lambda: bool(list((site.cache / "quants").glob(".*.tmp*"))), "no quant is being made", SOON)
    return process


def two_quantizing(ground: Ground, rng: random.Random) -> Outcome:
    """Two sweeps make the same quant at the same time, in the same cache."""
    with ExitStack() as held:
        one, other = held.enter_context(ground.site(cache=False)), held.enter_context(ground.site(cache=False))
        other.cache = one.cache
        first = one.sweep()
        if rng.random() < 0.5:
            one.follow(first, lambda event: isinstance(event, e.PhaseStarted) and event.phase == "quantize")
        second = other.sweep()
        codes = one.ended(first), other.ended(second)
        found = [site.judged(Recorded(), code) for site, code in zip((one, other), codes, strict=True)]
        files = sorted(path.name for path in (one.cache / "quants").iterdir())
        told = "" if len(files) == 1 else f"the cache holds {', '.join(files)}; "
        return also(next((outcome for outcome in found if outcome.amiss), found[0]), told)


GROUP = "files"

OWN = (
    Fault("log torn at a byte", GROUP, 120, 12, torn_log, "the log ends within a line of each kind"),
    Fault("key frames damaged", GROUP, 24, 6, damaged_frames, "gone, cut, damaged, another session's"),
    Fault("manifest damaged", GROUP, 10, 2, damaged_manifest, "gone, torn, another's"),
    Fault("folder linked", GROUP, 10, 2, linked_folder, "the session or a part of it is a link since"),
    Fault("folder renamed", GROUP, 6, 1, renamed_folder, "under the running sweep"),
    Fault("folder deleted", GROUP, 5, 0, removed_folder, "under the running sweep"),
    Fault("folder read-only", GROUP, 5, 0, locked_folder, "under the running sweep"),
    Fault("model truncated", GROUP, 8, 1, truncated_model, "while an engine has it mapped"),
    Fault("model overwritten", GROUP, 5, 0, overwritten_model, "while an engine has it mapped"),
    Fault("model replaced", GROUP, 5, 0, replaced_model, "while an engine has it mapped"),
    Fault("model deleted", GROUP, 4, 0, removed_model, "while an engine has it mapped"),
    Fault("model changed, resume", GROUP, 6, 1, changed_model, "between stop and resume"),
    Fault("quant evicted", GROUP, 5, 0, evicted_quant, "or half there, when the sweep goes on"),
    Fault("killed quantizing", GROUP, 4, 0, killed_quantizing, "the sweep, which leaves half a quant"),
    Fault("engine killed quantizing", GROUP, 4, 0, engine_killed_quantizing, "its arm fails"),
    Fault("two quantizing", GROUP, 3, 0, two_quantizing, "the same quant into the same cache"),
)

FAULTS = [*OWN, *disks.FAULTS, *clocks.FAULTS, *devices.FAULTS, *viewers.FAULTS]
