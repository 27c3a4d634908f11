"""What is no longer as a session's log has it, before somebody goes on with it: model files, programs, the machine.
Says what, what it was and what it is; what comes of that is decided elsewhere.

A file is read again only where neither its size nor its digest, remembered by path, size and time of change, tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from quanttui import events as e
from quanttui.errors import UserError
from quanttui.format import clean, size
from quanttui.models import header
from quanttui.state import State

MEMORY = 0.05
"""A machine whose memory differs by less than this share is the same: kernels and drivers keep some for themselves."""

SHOWN = 12
"""Characters of a digest that are shown."""

Tell = Callable[[str], object]


def since(state: State, machine: e.Host, built: e.Build, cache: Path, tell: Tell) -> tuple[str, ...]:
    """All that changed, a line each: `what: was this, is that`.

    Args:
        machine, built: as they are now.
        cache: where digests are remembered.
        tell: is told of a file that has to be read.
    """
    return (*log(state), *host(state.host, machine), *build(state.build, built), *files(state, cache, tell))


def log(state: State) -> Iterator[str]:
    """A log of a newer schema: its rules for what is missing may be others."""
    schema = state.opened.schema if state.opened is not None else e.SCHEMA
    if schema > e.SCHEMA:
        yield f"the log's schema: was {schema}, of a newer quanttui, is {e.SCHEMA}"


def host(before: e.Host | None, now: e.Host) -> Iterator[str]:
    """Another machine, or another in the same place. A boot and an update of the system change nothing of it."""
    if before is None:
        return
    for what, old, new in (
        ("the machine", before.name, now.name),
        ("its processor", before.cpu, now.cpu),
        ("its cores", f"{before.cores} of {before.threads} threads", f"{now.cores} of {now.threads} threads"),
        ("its GPUs", _gpus(before), _gpus(now)),
    ):
        yield from _differs(what, old, new)
    if abs(now.memory - before.memory) > MEMORY * before.memory:
        yield from _differs("its memory", size(before.memory), size(now.memory))


def build(before: e.Build | None, now: e.Build) -> Iterator[str]:
    """Another llama.cpp. Another quanttui is none: what it measures is defined by the log."""
    if before is None:
        return
    yield from _differs("llama.cpp", before.llama_cpp, now.llama_cpp)
    yield from _differs("llama-cpp-python", before.llama_cpp_python, now.llama_cpp_python)
    old, new = (sorted({*one.system_info.split(" | "), *one.devices} - {""}) for one in (before, now))
    if old != new:
        gone, come = ([part for part in these if part not in those] for these, those in ((old, new), (new, old)))
        yield from _differs("llama.cpp's backends", ", ".join(gone) or "fewer", ", ".join(come) or "fewer")
    yield from _differs("GPU offload", _able(before), _able(now))


def files(state: State, cache: Path, tell: Tell) -> Iterator[str]:
    """Model files whose digest the log knows, and what quants are made from. A quant that was made and has left the
    cache, or is cut off there, is made again: whether it comes out the same is seen then (`other`)."""
    told: set[str] = set()
    for arm in state.arms.values():
        known = arm.file
        if known is None:
            continue
        for path, digest, whole in (
            ("" if arm.plan.source and not _is_whole(known) else known.file, known.sha256, known.bytes),
            (arm.plan.source, known.source_sha256, None),
            (arm.plan.imatrix, known.imatrix_sha256, None),
        ):
            if path and digest and path not in told:
                told.add(path)
                yield from _file(f"{clean(arm.id, 80)}: {clean(path, 200)}", Path(path), digest, whole, cache, tell)
    if (path := state.settings.kld_base) and (digest := state.settings.kld_base_sha256):
        yield from _file(f"base logits: {clean(path, 200)}", Path(path), digest, None, cache, tell)


def other(path: Path, known: e.ArmStarted | None, digest: str) -> str:
    """Why a file is not what its arm was measured with, "" where it is."""
    if known is None or not known.sha256 or known.sha256 == digest:
        return ""
    return next(_differs(f"the content of {clean(str(path), 200)}", _short(known.sha256), _short(digest)), "")


def digests(path: Path, cache: Path, told: Callable[[float], None] | None = None) -> str:
    """The SHA-256 of a model, of each of its files where it is split, comma between; of another file its own.

    Raises:
        UserError: it cannot be read.
    """
    return ",".join(header.sha256(part, cache, told) for part in _parts(path))


def reading(path: Path, tell: Tell) -> Callable[[float], None]:
    """What is to be told of how far a file is read for its digest: that it is read, once."""
    said: list[str] = []

    def told(_: float) -> None:
        if not said:
            said.append(f"reading {clean(str(path), 200)} for its SHA-256")
            tell(said[0])

    return told


def _parts(path: Path) -> tuple[Path, ...]:
    """The files of a split model, whichever of them is named."""
    try:
        return header.read(path).files
    except UserError:
        return (path,)  # an importance matrix, or a model that is damaged: one file


def _is_whole(known: e.ArmStarted) -> bool:
    """Whether a made quant is there with its length: one that is gone or cut off is made again anyway."""
    try:
        return Path(known.file).stat().st_size == known.bytes
    except OSError:
        return False


def _file(name: str, path: Path, digest: str, whole: int | None, cache: Path, tell: Tell) -> Iterator[str]:
    """What became of a file, under some name; `whole` is the size that it had, in bytes, where that is known."""
    if not path.is_file():
        yield f"{name}: is gone"
        return
    parts = _parts(path)
    found = sum(part.stat().st_size for part in parts)
    if whole is not None and found != whole:
        yield f"{name}: was {whole} bytes, is {found}"
        return
    told = reading(path, tell)
    try:
        now = ",".join(header.sha256(part, cache, told) for part in parts)
    except UserError as error:
        yield f"{name}: {error}"
        return
    yield from _differs(f"{name}: its content", _short(digest), _short(now)) if now != digest else ()


def _differs(what: str, before: str, now: str) -> Iterator[str]:
    if before != now:
        yield f"{what}: was {clean(before, 200) or 'not known'}, is {clean(now, 200) or 'not known'}"


def _short(digests: str) -> str:
    """The beginning of each digest; all of them where they begin alike."""
    return "sha256 " + ",".join(one[:SHOWN] for one in digests.split(","))


def _gpus(machine: e.Host) -> str:
    each = (f"{gpu.name} ({f'driver {gpu.driver}' if gpu.driver else 'driver not known'})" for gpu in machine.gpus)
    return ", ".join(each) or "none"


def _able(built: e.Build) -> str:
    return "able" if built.gpu_offload else "not able"
