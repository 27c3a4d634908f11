"""huggingface_hub's cache, by its published layout: where a repository's files lie and how much of each. No network.

    models--<org>--<name>/blobs/<digest>  snapshots/<commit>/<path> (links to blobs)  refs/<revision> (a commit)

Owns the layout. Must not load huggingface_hub: a sweep of what is there already has no use for it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import find
from quanttui.models.fetch import named
from quanttui.models.fetch.named import Named
from quanttui.repository import Remote

PARTIAL = ".incomplete"
"""What a blob's name ends in while it is downloaded: huggingface_hub's own ending, older ones go on with such files."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SNAPSHOT = re.compile(r"models--(?P<org>[\w.-]+?)--(?P<name>[\w.-]+)")


def hub(environment: Mapping[str, str]) -> Path:
    """The cache's folder, by huggingface_hub's own variables."""
    every = find.places(environment, cache=Path())
    return Path(next(place.path for place in every if place.layout == "hub"))


def folder(hub: Path, repo: str) -> Path:
    """The repository's folder in the cache."""
    return hub / f"models--{repo.replace('/', '--')}"


def commit(place: Path, revision: str) -> str:
    """The commit that the revision was when it was last asked for; "" where it never was."""
    if _COMMIT.fullmatch(revision):
        return revision if (place / "snapshots" / revision).is_dir() else ""
    with suppress(OSError, UnicodeDecodeError):
        known = (place / "refs" / revision).read_text(encoding="ascii").strip()
        return known if _COMMIT.fullmatch(known) else ""
    return ""


def snapshot(place: Path, commit: str, path: str) -> Path:
    """Where the file of that commit lies, or will."""
    return place / "snapshots" / commit / Path(*path.split("/"))


def blob(place: Path, file: Remote) -> Path:
    """Where the file's bytes lie, or will."""
    return place / "blobs" / file.blob


def partial(place: Path, file: Remote) -> Path:
    """Where the bytes of a file that was begun lie."""
    return place / "blobs" / f"{file.blob}{PARTIAL}"


def held(place: Path, commit: str, file: Remote) -> Remote:
    """The file with how much of it is here."""
    for each in (snapshot(place, commit, file.path), blob(place, file)):
        if _bytes(each) == file.bytes:
            return msgspec.structs.replace(file, here=file.bytes, whole=True)
    return msgspec.structs.replace(file, here=min(_bytes(partial(place, file)), file.bytes), whole=False)


def files(place: Path, commit: str) -> Iterator[Remote]:
    """The GGUFs of a commit that the cache has, whole ones all of them."""
    top = place / "snapshots" / commit
    for above, _, names in os.walk(top):
        for name in names:
            found = Path(above) / name
            if name.lower().endswith(".gguf") and (size := _bytes(found)):
                digest = found.resolve().name
                yield Remote(
                    path=found.relative_to(top).as_posix(), bytes=size, here=size, whole=True, blob=digest,
                    sha256=digest if _SHA256.fullmatch(digest) else "",
                )  # fmt: skip


def has(wanted: Named, hub: Path) -> bool:
    """Whether all quants that are named are here, whole."""
    place = folder(hub, wanted.repo)
    known = commit(place, wanted.revision)
    offered, _ = named.offers(files(place, known)) if known else ((), ())
    return bool(offered) and all(named.matching(offered, word) for word in wanted.words)


def resolve(argument: str, hub: Path) -> list[Path]:
    """The files, of split ones the first part, that an `hf:` argument means, of those in the cache.

    Raises:
        UserError: the argument is none, or something that it names is not here.
    """
    wanted = named.parse(argument)
    place = folder(hub, wanted.repo)
    known = commit(place, wanted.revision)
    if not has(wanted, hub):
        shown = clean(argument, 120)
        raise UserError(
            f"{shown} is not in the Hugging Face cache, {clean(str(hub), 120)}: `quanttui fetch {wanted.argument}`"
            f" lists its quants, `quanttui fetch {wanted.argument}:QUANT` downloads one and says how much first"
        )
    offered, _ = named.offers(files(place, known))
    chosen = named.choose(offered, wanted.words, wanted.argument) if wanted.words else offered
    return [snapshot(place, known, offer.files[0].path) for offer in chosen]


def origin(path: str | Path) -> str:
    """The repository and commit that a file of the cache is from, `hf:org/name@commit`; "" for any other file."""
    parts = Path(path).parts
    for at, part in enumerate(parts[:-2]):
        found = _SNAPSHOT.fullmatch(part)
        if found and parts[at + 1] == "snapshots" and _COMMIT.fullmatch(parts[at + 2]):
            return f"hf:{found['org']}/{found['name']}@{parts[at + 2]}"
    return ""


def link(place: Path, commit: str, file: Remote) -> Path:
    """Give a blob its name in the snapshot: a link, or where there are none the file itself.

    Raises:
        OSError: the cache cannot be written.
    """
    pointer, target = snapshot(place, commit, file.path), blob(place, file)
    if _bytes(pointer) == file.bytes:
        return pointer
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        os.symlink(os.path.relpath(target, pointer.parent), pointer)
    except FileExistsError:
        pass
    except (OSError, NotImplementedError):
        os.replace(target, pointer)
    return pointer


def note(place: Path, revision: str, commit: str) -> None:
    """Note which commit the revision is, for whoever asks without a network.

    Raises:
        OSError: the cache cannot be written.
    """
    if revision == commit:
        return
    ref = place / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=ref.parent, prefix=".new-")
    with open(handle, "w", encoding="ascii") as file:
        file.write(commit)
    os.chmod(temporary, 0o644)
    os.replace(temporary, ref)


def free(hub: Path) -> int:
    """Free bytes of the disk that the cache lies on, or will lie on."""
    there = next(each for each in (hub, *hub.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def _bytes(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
