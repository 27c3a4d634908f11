"""The Hugging Face Hub, through huggingface_hub: what a repository holds, and bytes of its files from any place on.

Owns the requests and what is said when they fail. Must not know quants, the cache or what is done with the bytes.
Tokens are huggingface_hub's own business: it takes them from its store or the environment; none is kept or said here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models.fetch.named import Named
from quanttui.repository import Remote

BLOCK = 1 << 20
"""Bytes that are read and written at once."""

HEADER_LIMIT = 24 << 20
"""Bytes of a file that are read for its header at most: a vocabulary of 262,144 tokens takes some 12 MiB."""

_RANGE = re.compile(r"bytes (\d+)-")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?|")


class Cut(Exception):
    """The connection was not made, or ended early: asking again may help. Its text says why, in a few words."""


@dataclass(frozen=True)
class Contents:
    """What a repository holds at a commit: its files, none of them looked for in the cache."""

    commit: str
    gated: bool
    files: tuple[Remote, ...]


@dataclass(frozen=True)
class Body:
    """The bytes of a file from `start` on, which is 0 where the server gives it only whole."""

    start: int
    blocks: Iterator[bytes]


class Source(Protocol):
    """Where a repository's bytes come from."""

    def body(self, named: Named, commit: str, path: str, start: int) -> AbstractContextManager[Body]:
        """A file's bytes from `start` on.

        Raises:
            Cut: when it is opened or while it is read, the connection ended.
            UserError: it is not to be had.
        """
        ...

    def whole(self, named: Named, commit: str, path: str, place: Path) -> None:
        """Have huggingface_hub bring a file into its cache `place` by itself, in one go, with its own bar.

        Raises:
            UserError: it is not to be had.
        """
        ...


class Hub:
    """The Hub at $HF_ENDPOINT, or its own address."""

    def __init__(self) -> None:
        import huggingface_hub
        from huggingface_hub import constants, utils

        self._hub: Any = huggingface_hub
        self._utils: Any = utils
        self._constants = constants
        # What it would say of retries is said here.
        self._utils.logging.set_verbosity_error()

    @property
    def offline(self) -> bool:
        """Whether nothing is to be asked ($HF_HUB_OFFLINE)."""
        return bool(self._constants.HF_HUB_OFFLINE)

    def contents(self, named: Named) -> Contents:
        """What the repository holds at the revision.

        Raises:
            UserError: it is not to be had.
        """
        timeout = self._constants.HF_HUB_ETAG_TIMEOUT
        try:
            info = self._hub.HfApi().model_info(
                named.repo, revision=named.revision, files_metadata=True, timeout=timeout
            )
        except Exception as error:  # whatever its transport raises
            _raise(named.argument, error, final=True)
        commit = str(info.sha)
        if not _COMMIT.fullmatch(commit):
            raise UserError(f"{named.argument}: the Hub's answer names no commit: look at HF_ENDPOINT")
        files = tuple(file for each in info.siblings or () if (file := _remote(each)) is not None)
        return Contents(commit=commit, gated=bool(getattr(info, "gated", False)), files=files)

    def whole(self, named: Named, commit: str, path: str, place: Path) -> None:
        """See `Source`."""
        try:
            self._hub.hf_hub_download(named.repo, path, revision=commit, cache_dir=place)
        except Exception as error:  # whatever its transport raises
            _raise(named.argument, error, final=True)

    @contextmanager
    def body(self, named: Named, commit: str, path: str, start: int, end: int | None = None) -> Iterator[Body]:
        """See `Source`. Up to `end`, to the file's end where it is None."""
        url = self._hub.hf_hub_url(named.repo, path, revision=commit)
        headers = self._utils.build_hf_headers() | {"Accept-Encoding": "identity"}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        timeout = self._constants.HF_HUB_DOWNLOAD_TIMEOUT
        request = self._hub.get_session().stream("GET", url, headers=headers, timeout=timeout)
        with _telling(named.argument):
            response = request.__enter__()
        try:
            with _telling(named.argument):
                if response.status_code >= 400:
                    response.read()
                self._utils.hf_raise_for_status(response)
                begins = _begin(response)
            yield Body(begins, _blocks(response, named.argument))
        finally:
            with suppress(Exception):  # of a connection that is lost already
                request.__exit__(None, None, None)


class Ranged:
    """A file of the Hub to be read as one on this machine: a few large requests, and no more than HEADER_LIMIT bytes.

    `read_range` gives the bytes from one place up to another.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._at = 0
        self._start = 0
        self._held = b""
        self._fetched = 0

    def seek(self, offset: int, /) -> int:
        """Go to the byte `offset`."""
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes.

        Raises:
            Cut: the connection ended.
            UserError: the header is longer than HEADER_LIMIT.
        """
        offset = self._at - self._start
        if not 0 <= offset < len(self._held):
            self._fetch()
            offset = 0
        taken = self._held[offset : offset + size]
        self._at += len(taken)
        return taken

    def _fetch(self) -> None:
        """The next block, each twice as large as the one before: a vocabulary needs many, a part's header one."""
        if self._fetched >= HEADER_LIMIT:
            raise UserError(f"its header is longer than {HEADER_LIMIT >> 20} MiB")
        wanted = min(max(BLOCK, self._fetched), HEADER_LIMIT - self._fetched, self._size - self._at)
        self._held = self._read_range(self._at, self._at + wanted) if wanted > 0 else b""
        self._start = self._at
        self._fetched += len(self._held)


def lock(path: Path) -> AbstractContextManager[Any]:
    """huggingface_hub's own lock; TimeoutError where another process has it for another second."""
    from huggingface_hub import utils

    every: Any = utils
    held: AbstractContextManager[Any] = every.WeakFileLock(path, timeout=1.0)
    return held


def ranged(hub: Hub, named: Named, commit: str, file: Remote) -> Ranged:
    """The file, to be read from afar."""

    def read_range(start: int, end: int) -> bytes:
        with hub.body(named, commit, file.path, start, end) as body:
            if body.start != start:
                raise Cut("the server gives files only whole")
            return b"".join(body.blocks)[: end - start]

    return Ranged(read_range, file.bytes)


def _remote(sibling: Any) -> Remote | None:
    """A file as the Hub tells of it; None where that is none: its digest becomes the name of a file in the cache."""
    sha256 = getattr(sibling.lfs, "sha256", None) or ""
    path, size, blob = sibling.rfilename, sibling.size, sha256 or sibling.blob_id or ""
    is_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63
    is_named = isinstance(path, str) and isinstance(blob, str) and _BLOB.fullmatch(blob)
    return Remote(path=path, bytes=size, sha256=sha256, blob=blob) if is_size and is_named else None


def _begin(response: Any) -> int:
    """Where the answer begins: a server that knows no ranges sends the whole file."""
    found = _RANGE.match(response.headers.get("Content-Range", "")) if response.status_code == 206 else None
    return int(found[1]) if found else 0


def _blocks(response: Any, argument: str) -> Iterator[bytes]:
    blocks = response.iter_bytes(BLOCK)
    while True:
        with _telling(argument):
            block = next(blocks, b"")
        if not block:
            return
        yield block


@contextmanager
def _telling(argument: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever its transport raises
        _raise(argument, error)


def _raise(argument: str, error: Exception, final: bool = False) -> NoReturn:
    """What went wrong, as a Cut where asking again may help; as a UserError where it will not, or was the last try."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status < 500 and status != 408:
            raise UserError(f"{argument}: {_refusal(error, status)}") from None
        why = f"the Hub answers {status}"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        raise UserError(f"{argument}: HF_HUB_OFFLINE is set, so the Hub is not to be asked: unset it") from None
    elif isinstance(error, errors.HFValidationError):
        raise UserError(f"{argument}: is no name of a repository: {clean(str(error), 120)}") from None
    else:
        why = clean(str(error), 100) or type(error).__name__
    if final:
        raise UserError(
            f"{argument}: the Hub cannot be reached ({why}): look at the network and at HF_ENDPOINT;"
            " `quanttui models` lists what is here already"
        ) from None
    raise Cut(why) from None


def _refusal(error: Any, status: int) -> str:
    """What a refusal means, and the way out."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "is gated: agree to its terms on its page, then `hf auth login` with a token that may read it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "has no such revision: leave @… out for the newest"
    if isinstance(error, errors.EntryNotFoundError):
        return "the file is there no longer: ask again what there is, with `quanttui fetch`"
    if isinstance(error, errors.DisabledRepoError):
        return "was disabled"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return "there is no such repository, or a private one: look at the name, or `hf auth login`"
    if status in (401, 403):
        return f"the Hub refuses ({status}): `hf auth login` with a token that may read it"
    if status == 429:
        after = error.response.headers.get("Retry-After", "")
        wait = f"{after} s" if after.isdigit() else "some minutes"
        return f"too many requests: wait {wait} and go on with the same command; `hf auth login` allows more of them"
    return f"the Hub answers {status}: {clean(str(error), 120)}"
