"""What an `hf:` argument means, and a repository's files told into quants. Pure.

Owns the argument's grammar and the rule by which a file is a quant, a part of one, or none. Must not know the Hub.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

from quanttui import quants
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import label
from quanttui.repository import Offer, Remote

PREFIX = "hf:"

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_FORM = re.compile(
    rf"hf:(?://)?(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][\w./-]{{0,119}}))?(?::(?P<words>.*))?",
    re.ASCII | re.IGNORECASE,
)
_PART = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
_NO_MODEL = re.compile(r"(?:^|[-_.])(?:mmproj|imatrix)(?=[-_.])", re.IGNORECASE)
_MOST = 16
"""Quants that a complaint lists."""

LONGEST_PATH = 1000
"""Characters of a file's path in a repository; the cache could not hold a file of a longer one."""


@dataclass(frozen=True)
class Named:
    """A repository at a revision, and the quants (or files) of it that are meant: all where there are none."""

    repo: str
    revision: str = "main"
    words: tuple[str, ...] = ()

    @property
    def argument(self) -> str:
        """The repository as it is written."""
        return f"hf:{self.repo}" + (f"@{self.revision}" if self.revision != "main" else "")


def is_named(argument: str) -> bool:
    """Whether the argument means a repository."""
    return argument.lower().startswith(PREFIX)


def parse(argument: str) -> Named:
    """The repository, revision and quants of `hf:org/repo[@revision][:quant,…]`.

    Raises:
        UserError: it is none.
    """
    found = _FORM.fullmatch(argument.strip())
    revision = found["revision"] or "main" if found else ""
    if found is None or ".." in revision or revision.endswith("/") or ".." in found["repo"] or "--" in found["repo"]:
        raise UserError(f"{clean(argument, 120)}: write it as hf:ORG/REPOSITORY or hf:ORG/REPOSITORY:Q4_K_M,Q8_0")
    words = tuple(dict.fromkeys(word.strip() for word in (found["words"] or "").split(",") if word.strip()))
    return Named(found["repo"], revision, words)


def offers(files: Iterable[Remote]) -> tuple[tuple[Offer, ...], tuple[str, ...]]:
    """The quants among a repository's files, largest first, and what is to be said of the GGUFs that are none.

    The parts of a split one are one; projectors and importance matrices are left out, as is a set that lacks a part.
    """
    sets: dict[tuple[str, int], dict[int, Remote]] = {}
    left: list[str] = []
    for file in sorted(files, key=lambda each: each.path):
        name = PurePosixPath(file.path).name
        if not name.lower().endswith(".gguf") or not _is_plain(file.path):
            continue
        if _NO_MODEL.search(name):
            left.append(file.path)
            continue
        part = _PART.fullmatch(file.path)
        key = (part["stem"], int(part["parts"])) if part else (file.path, 1)
        sets.setdefault(key, {})[int(part["part"]) if part else 1] = file
    whole = [tuple(parts[number] for number in sorted(parts)) for (_, of), parts in sets.items() if _is_all(parts, of)]
    short = [next(iter(parts.values())).path for (_, of), parts in sets.items() if not _is_all(parts, of)]
    notes = [f"no quants: {_some(left)}"] if left else []
    notes += [f"parts are missing of {_some(short)}"] if short else []
    return _worded(whole), tuple(notes)


def choose(offered: Sequence[Offer], words: Sequence[str], argument: str) -> tuple[Offer, ...]:
    """The quants that the words name, each by its label or by its file, in any case, in the order offered.

    Raises:
        UserError: there is none of that name, or several are.
    """
    chosen = {id(each) for word in words for each in [_one(offered, word, argument)]}
    return tuple(each for each in offered if id(each) in chosen)


def matching(offered: Sequence[Offer], word: str) -> list[Offer]:
    """The quants that a word may mean: those of that label, else the one whose file is called so."""
    known = quants.named(word)
    wanted = {word.lower(), *([known.name.lower()] if known else [])}
    labelled = [each for each in offered if each.quant.lower() in wanted]
    return labelled or [each for each in offered if word.lower() in _names(each)]


def _one(offered: Sequence[Offer], word: str, argument: str) -> Offer:
    found = matching(offered, word)
    if len(found) == 1:
        return found[0]
    shown = f"{argument}:{clean(word, 80)}"
    if found:
        listed = ", ".join(clean(each.files[0].path, 120) for each in found[:_MOST])
        raise UserError(f"{shown}: {len(found)} files are that quant: name the one that you mean: {listed}")
    near = difflib.get_close_matches(word.upper(), [each.word for each in offered], n=3)
    listed = ", ".join(clean(each.word, 80) for each in offered[:_MOST])
    more = f" and {len(offered) - _MOST} more" if len(offered) > _MOST else ""
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise UserError(f"{shown}: {hint}it has {listed}{more}" if offered else f"{argument}: it has no GGUF")


def _names(offer: Offer) -> set[str]:
    """What the quant's file may be called by: its path, its name, and either without the ending or the part."""
    path = offer.files[0].path.lower()
    stem = _PART.sub(r"\g<stem>", path).removesuffix(".gguf")
    return {name for each in (path, stem) for name in (each, each.rpartition("/")[2])}


def _worded(sets: Iterable[tuple[Remote, ...]]) -> tuple[Offer, ...]:
    """Offers of the files, each under its quant, or under its path where several are that quant."""
    found = [Offer(quant=_quant(files[0].path), word="", files=files) for files in sets]
    count = Counter(each.quant for each in found)
    named = [
        msgspec.structs.replace(
            each, word=each.quant if count[each.quant] == 1 and each.quant != "unknown" else each.files[0].path
        )
        for each in found
    ]
    return tuple(sorted(named, key=lambda each: (-each.bytes, each.word)))


def _quant(path: str) -> str:
    """What the file's name claims, else its folder's."""
    where = PurePosixPath(path)
    return clean(label.from_name(where.name) or label.from_name(where.parent.name), 40) or "unknown"


def _is_all(parts: dict[int, Remote], of: int) -> bool:
    return sorted(parts) == list(range(1, of + 1))


def _is_plain(path: str) -> bool:
    """Whether it can be the name of a file below a folder: what comes from outside must not lead out of it."""
    within = path.isprintable() and len(path) <= LONGEST_PATH
    return within and "\\" not in path and ":" not in path and not {"", ".", ".."} & set(path.split("/"))


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(clean(path, 80) for path in paths[:3]) + more
