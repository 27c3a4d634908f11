"""A repository's quants, what is to be downloaded, and how far a download is, for people and for programs.

Plain text of 100 columns at most, or one JSON object, schema 1:

    {"schema": 1, "repo", "revision", "commit", "offline", "gated", "cache", "free", "notes": [text],
     "quants": [{"quant", "argument", "bytes", "missing", "verdict", "spare", "longest", "tok_s": {"low", "high"},
       "files": [{"path", "bytes", "sha256", "here", "whole"}]}]}

Sizes are bytes; what is absent is null; a verdict is fits, tight, no or unknown. After a download each file has
"local", where it lies.
"""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quanttui import repository
from quanttui.diagnosis.fit import VERDICTS
from quanttui.format import ABSENT, clean, duration, percent, significant, size
from quanttui.report.plan import GLYPHS
from quanttui.repository import Listing, Offer, Step

SCHEMA = 1
WIDTH = 100

WINDOW = 10.0
"""Seconds over which a download's rate is told."""


def report(found: Listing) -> str:
    """The quants as text, largest first."""
    return "\n".join(_listed(found))


def order(found: Listing, chosen: Sequence[Offer]) -> str:
    """What downloading these quants takes, file by file, before it begins."""
    return "\n".join(_ordered(found, tuple(chosen)))


def data(found: Listing, offers: Sequence[Offer], local: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The listing with these quants of it as the object above; `local` says where files lie, by their path."""
    return {
        "schema": SCHEMA,
        "repo": found.repo,
        "revision": found.revision,
        "commit": found.commit,
        "offline": found.offline,
        "gated": found.gated,
        "cache": clean(found.cache, 4096),
        "free": found.free,
        "notes": [clean(note) for note in found.notes],
        "quants": [_plain(found, offer, local) for offer in offers],
    }


def argument(found: Listing, offer: Offer | None = None) -> str:
    """The MODEL argument of the repository, or of a quant of it."""
    revision = "" if found.revision == "main" else f"@{found.revision}"
    return f"hf:{found.repo}{revision}" + (f":{clean(offer.word, 200)}" if offer else "")


def _plain(found: Listing, offer: Offer, local: Mapping[str, str] | None) -> dict[str, Any]:
    files: list[dict[str, Any]] = [
        {"path": file.path, "bytes": file.bytes, "sha256": file.sha256 or None, "here": file.here, "whole": file.whole}
        for file in offer.files
    ]
    for file in files if local is not None else ():
        file["local"] = (local or {}).get(file["path"])
    return {
        "quant": offer.quant,
        "argument": argument(found, offer),
        "bytes": offer.bytes,
        "missing": offer.missing,
        "verdict": offer.verdict,
        "spare": offer.spare,
        "longest": offer.longest,
        "tok_s": {"low": offer.tok_s[0], "high": offer.tok_s[1]} if offer.tok_s else None,
        "files": files,
    }


# --- text -----------------------------------------------------------------------------------------------------------


def _listed(found: Listing) -> Iterator[str]:
    where = " in the cache; HF_HUB_OFFLINE is set, the Hub was not asked" if found.offline else ""
    commit = f" ({found.commit[:7]})" if found.commit else ""
    yield f"{argument(found)}{commit}: {_some(len(found.offers), 'quant')}{where}"
    if found.gated:
        yield "gated: agree to its terms on its page, then `hf auth login`"
    yield ""
    wide = min(48, max([5, *(len(_word(offer)) for offer in found.offers)]))
    yield f"{'quant':<{wide}}      size  {'fits':<14} {'longest':>8} {'tok/s':>10}  here"
    for offer in found.offers:
        rate = f"{significant(offer.tok_s[0], 2)}-{significant(offer.tok_s[1], 2)}" if offer.tok_s else ABSENT
        parts = f" ({len(offer.files)} parts)" if len(offer.files) > 1 else ""
        yield (
            f"{_word(offer):<{wide}} {size(offer.bytes):>9}  {GLYPHS[offer.verdict]} {VERDICTS[offer.verdict]:<12}"
            f" {_tokens(offer.longest):>8} {rate:>10}  {_here(offer)}{parts}"
        ).rstrip()
    yield ""
    yield f"{clean(found.cache, 200)}: {size(found.free)} free"
    for note in found.notes:
        yield from textwrap.wrap(f"note: {clean(note, 400)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    if not found.offline:
        smallest = found.offers[-1]
        yield f"to download: `quanttui fetch {argument(found, smallest)}`, several with commas between"


def _ordered(found: Listing, chosen: tuple[Offer, ...]) -> Iterator[str]:
    files = repository.files(chosen)
    missing = repository.missing(chosen)
    whole = size(sum(file.bytes for file in files))
    commit = f" ({found.commit[:7]})" if found.commit else ""
    said = f"to download: {size(missing)} of {whole}" if missing else f"nothing to download: {whole} are here"
    yield f"{argument(found)}{commit}: {said}"
    for file in files:
        lacks = "here already" if file.whole else f"{size(file.here)} of it here already" if file.here else ""
        yield f"  {size(file.bytes):>9}  {clean(file.path, 80)}{f': {lacks}' if lacks else ''}"
    if any(file.bytes > repository.HTTP_LIMIT and not file.whole for file in files):
        yield "  what is larger than 50 GB comes by the Hub's own protocol, and begins anew when it is cut"
    if missing:
        yield f"into {clean(found.cache, 200)}: {size(found.free)} free"


def _word(offer: Offer) -> str:
    return clean(offer.word, 48)


def _here(offer: Offer) -> str:
    if offer.whole:
        return "yes"
    begun = offer.bytes - offer.missing
    return f"{size(begun)} of it" if begun else "no"


def _tokens(count: int | None) -> str:
    return ABSENT if count is None else f"{count // 1024}K" if count >= 1024 else str(count)


def _some(count: int, what: str) -> str:
    return f"1 {what}" if count == 1 else f"{count} {what}s"


# --- progress -------------------------------------------------------------------------------------------------------


class Meter:
    """A download's progress as lines: how far, how fast over the last WINDOW seconds, and how long it will take."""

    def __init__(self) -> None:
        self._kind = ("", "")
        self._seen: deque[tuple[float, int]] = deque()

    def line(self, t: float, step: Step) -> str:
        """The line at time `t` in seconds: of every step that is told, so that the rate is right."""
        kind = (step.doing, step.file)
        if kind != self._kind or (self._seen and step.done < self._seen[-1][1]):
            self._kind = kind
            self._seen.clear()
        self._seen.append((t, step.done))
        while len(self._seen) > 2 and t - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        name = clean(step.file.rpartition("/")[2], 40)
        if step.doing == "waits":
            return f"{name}: waits: {clean(step.why, 60)}"
        share = f"{size(step.done)} of {size(step.bytes)} {percent(step.done / max(1, step.bytes), 3):>4} %"
        if step.doing == "retries":
            return f"{name}: {share}  tries again: {clean(step.why, 50)}"
        if step.doing == "done":
            return f"{size(step.bytes)} are here, checked"
        verb = "checked" if step.doing == "checks" else "downloaded"
        return f"{name}: {verb} {share}{self._pace(step)}"

    def _pace(self, step: Step) -> str:
        """The rate and what is left of time, once there is a second to tell it by."""
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        if end - begin < 1.0 or after <= before:
            return ""
        rate = (after - before) / (end - begin)
        return f"  {size(rate)}/s  {duration((step.bytes - step.done) / rate)} left"
