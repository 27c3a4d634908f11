"""What a Hugging Face repository offers, as data: its GGUFs told into quants, and how much of each is here. Pure.

Owns the sums. Must not know the Hub, its cache or commands: models.fetch makes a `Listing`, those who show it (report)
read it. Names come from outside and must be cleaned before they are shown.
"""

from __future__ import annotations

import msgspec

HTTP_LIMIT = 50_000_000_000
"""Bytes of a file above which the Hub gives it by its own protocol alone (huggingface_hub, MAX_HTTP_DOWNLOAD_SIZE): a
download of such a file begins anew when it is cut."""


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the repository. `path` is within it; `bytes` its size.

    `sha256`: what its bytes must have, "" where the repository says none (small files that are no LFS ones). `blob` is
    its name in the cache, the SHA-256 or git's own digest. `here`: bytes of it that lie in the cache, a begun download
    included; `whole`: it lies there under its name, all of it.
    """

    path: str
    bytes: int
    sha256: str = ""
    blob: str = ""
    here: int = 0
    whole: bool = False


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A quant that the repository has: its files in order, and the word that names it after `hf:org/repo:`.

    `verdict`: fits, tight, no, or unknown where that is not known; `spare` bytes of headroom there, negative where they
    are missing; `longest` tokens of the longest context that fits, None if unknown; `tok_s` from, to.
    """

    quant: str
    word: str
    files: tuple[Remote, ...]
    verdict: str = "unknown"
    spare: int | None = None
    longest: int | None = None
    tok_s: tuple[float, float] | None = None

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes that are still to be downloaded."""
        return sum(lacking(file) for file in self.files)

    @property
    def whole(self) -> bool:
        """Whether nothing is to be downloaded."""
        return all(file.whole for file in self.files)


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A repository at one commit, its quants largest first.

    `revision` is what was asked for, `commit` what that is. `cache` is the Hub's cache on this machine, with `free`
    bytes on its disk. `offline`: nothing was asked, this is what the cache has. `gated`: who wants it must have agreed
    to its terms. `notes`: what is to be said of it, such as files that are no quants.
    """

    repo: str
    revision: str
    commit: str
    offers: tuple[Offer, ...]
    cache: str
    free: int
    offline: bool = False
    gated: bool = False
    notes: tuple[str, ...] = ()


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How far a download is. `doing`: waits, checks, downloads, retries or done; `file` is the one under way.

    `bytes` are those of all that is to be downloaded or was begun, `done` of them are here; `why` it retries.
    """

    doing: str
    file: str
    done: int
    bytes: int
    why: str = ""


def lacking(file: Remote) -> int:
    """Bytes of a file that are still to be downloaded."""
    return 0 if file.whole else file.bytes - file.here


def missing(offers: tuple[Offer, ...]) -> int:
    """Bytes of several quants that are still to be downloaded; a file that two of them share counts once."""
    return sum(lacking(file) for file in files(offers))


def files(offers: tuple[Offer, ...]) -> tuple[Remote, ...]:
    """The files of several quants, each once."""
    return tuple({file.path: file for offer in offers for file in offer.files}.values())
