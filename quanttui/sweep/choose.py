"""The start screen with what it asks: models on this machine, what fits of them, sessions. No sweep yet."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from quanttui import events as e
from quanttui.diagnosis.fit import Plan
from quanttui.engine.weigh import Scales
from quanttui.format import clean, gib
from quanttui.measure import corpus
from quanttui.models import find, fit, pocket
from quanttui.probes import host
from quanttui.sweep.launch import DEMO_QUANTS
from quanttui.tui.start import Choice

COMMON = "common"
"""What is made of a model that is there unquantized alone."""


def choose(
    settings: e.Settings, text: str, cache: Path, sessions: Path, screen: dict[str, Any], notice: str = ""
) -> Choice | None:
    """Ask what is to be done.

    Args:
        settings: as configured; the tasks and `until` are where the screen begins.
        text: what perplexities are of, as configured.
        screen: arguments of every screen (cli.screen).
        notice: why the last choice came to nothing.
    """
    from quanttui.tui.screens.start import Start

    places = find.places(os.environ, cache=cache)
    about = host.host()
    told = {name: value for name, value in screen.items() if name != "sessions"}
    app = Start(
        partial(find.walk, places, cache),
        partial(outline, settings, cache),
        places,
        sessions,
        f"{clean(about.name, 24)} · {gib(about.memory_limit or about.memory, 2)} GiB · {about.cores} cores",
        tasks=settings.tasks,
        until=settings.until,
        text="WikiText-2, fetched once" if text == corpus.WIKITEXT else text,
        notice=notice,
        **told,
    )
    return app.run()


def outline(settings: e.Settings, cache: Path, models: tuple[str, ...], tasks: tuple[str, ...], until: str) -> Plan:
    """What fits of a model, estimated within milliseconds: of the shipped one where none is named, and of one that is
    there unquantized alone the common quants that can be made of it.

    Raises:
        UserError: the model cannot be used.
    """
    wanted = msgspec.structs.replace(settings, tasks=tasks, until=until)
    scales = Scales(cache, wanted)
    if not models:
        wanted = msgspec.structs.replace(wanted, text=str(pocket.TEXT), speed_seconds=4.0)
        name, every, _ = fit.sized((str(pocket.MODEL),), DEMO_QUANTS)
    else:
        name, every, _ = fit.sized(models)
        if len(every) == 1 and every[0].arm.quant in ("F32", "F16", "BF16"):
            name, every, _ = fit.sized(models, f"{every[0].arm.quant},{COMMON}")
    machine = fit.here(wanted, cache, scales.remembered.gpu_offload)
    return fit.quick(name, every, wanted, machine, scales)
