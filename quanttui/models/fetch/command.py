"""`quanttui fetch`, and what `quanttui run` does first where a MODEL is a repository: list, say how much, ask, get.

Owns what is printed and asked: lists and results on stdout, questions and progress on stderr. Never downloads anything
whose size was not said before, and agreed to, at the terminal or with --yes.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from quanttui import repository
from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.format import clean, json_text, size
from quanttui.models.fetch import cached, named, offers, transfer
from quanttui.models.fetch.hub import Hub
from quanttui.models.fetch.named import Named
from quanttui.report import fetch as told
from quanttui.report.models import shown
from quanttui.repository import Listing, Offer, Step

EVERY = {True: 0.2, False: 10.0}
"""Seconds between lines of progress: one rewritten in place at a terminal, else one after another."""


def run(arguments: Sequence[str], settings: Settings, cache: Path, *, yes: bool = False, as_json: bool = False) -> int:
    """List a repository's quants with what fits, or download those that an argument names; returns the exit code.

    Args:
        arguments: `hf:org/repo` to list, `hf:org/repo:quant,…` to download.
        settings: what a sweep would be run with: its contexts decide what fits.
        cache: quanttui's cache folder, where digests are remembered.
        yes: download without asking.

    Raises:
        UserError: one is no repository, or it is not to be had, or nobody is there to be asked.
    """
    wanted = [named.parse(argument) for argument in arguments]
    hub, place = Hub(), cached.hub(os.environ)
    for index, each in enumerate(wanted):
        found = offers.listing(hub, each, place)
        if each.words:
            _get(hub, found, each, cache, yes=yes, as_json=as_json)
            continue
        found = offers.fitted(hub, found, settings, cache)
        if as_json:
            print(json_text(told.data(found, found.offers)))
        else:
            print(("\n" if index else "") + told.report(found))
    return 0


def ensure(models: Sequence[str], cache: Path, *, yes: bool = False) -> None:
    """Have the quants of repositories that MODEL arguments name in the Hub's cache, as far as they are not yet.

    What is there is used as it is: a newer revision is looked for by `quanttui fetch` alone. A repository without
    quants means those of it that are there, so that nothing large is downloaded by a slip.

    Raises:
        UserError: see `run`.
    """
    place = cached.hub(os.environ)
    for argument in models:
        if not named.is_named(argument) or os.path.exists(argument):
            continue
        wanted = named.parse(argument)
        if not wanted.words or cached.has(wanted, place):
            continue
        hub = Hub()
        _get(hub, offers.listing(hub, wanted, place), wanted, cache, yes=yes, quiet=True)


def _get(
    hub: Hub, found: Listing, wanted: Named, cache: Path, *, yes: bool, as_json: bool = False, quiet: bool = False
) -> None:
    """Say what it takes, ask, download, say where it lies."""
    chosen = _chosen(found, wanted)
    print(told.order(found, chosen), file=sys.stderr)
    if not yes and repository.missing(chosen):
        _ask(found, repository.missing(chosen))
    bar = Bar(sys.stderr)
    try:
        paths = offers.download(hub, found, chosen, cache, bar.step)
    except KeyboardInterrupt:
        bar.end()
        print("stopped: what came is kept, the same command goes on from there", file=sys.stderr)
        raise
    finally:
        bar.end()
    local = {file.path: str(path) for file, path in zip(repository.files(chosen), paths, strict=True)}
    if as_json:
        print(json_text(told.data(found, chosen, local)))
    elif not quiet:
        print("\n".join(shown(path) for path in local.values()))


def _chosen(found: Listing, wanted: Named) -> tuple[Offer, ...]:
    """Raises: UserError: the repository, or offline the cache, has no such quant."""
    absent = next((word for word in wanted.words if not named.matching(found.offers, word)), None)
    if found.offline and absent is not None:
        raise UserError(
            f"{wanted.argument}:{clean(absent, 80)} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set:"
            " unset it to ask the Hub"
        )
    return named.choose(found.offers, wanted.words, wanted.argument)


def _ask(found: Listing, missing: int) -> None:
    """Whether so much may be downloaded.

    Raises:
        UserError: nobody is there to be asked, or the answer is no.
    """
    transfer.check_room(Path(found.cache), missing, found.free)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(f"{told.argument(found)}: {size(missing)} to download, and no terminal to ask at: add --yes")
    print(f"download {size(missing)}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError(f"{told.argument(found)}: nothing was downloaded")


@dataclass
class Bar:
    """Progress on a stream: one line that is rewritten at a terminal, lines now and then elsewhere."""

    out: TextIO
    clock: Callable[[], float] = time.monotonic
    meter: told.Meter = field(default_factory=told.Meter)
    _shown: float = field(default=float("-inf"), init=False)
    _doing: str = field(default="", init=False)
    _open: bool = field(default=False, init=False)

    def step(self, step: Step) -> None:
        """Tell of a step, if it is time to."""
        t, live = self.clock(), self.out.isatty()
        line = self.meter.line(t, step)
        news = step.doing != self._doing and step.doing not in ("checks", "downloads")
        if not news and t - self._shown < EVERY[live]:
            return
        self._shown, self._doing = t, step.doing
        if live:
            wide = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:wide]:<{wide}}", end="", file=self.out, flush=True)
            self._open = True
        else:
            print(line, file=self.out, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._open:
            print(file=self.out, flush=True)
            self._open = False
