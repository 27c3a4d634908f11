"""Where the base's logits for KL divergence come from, and what the engine is told of them. Pure, but for file sizes.

A base's logits are large (65 MB for a chunk of a vocabulary of 128k). So its 16-bit rows are kept in the session for as
many chunks as a cap allows, or the base is decoded again beside each arm, over a few places that are used in turn.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from quanttui import events as e
from quanttui import session
from quanttui.decide import paired
from quanttui.engine import protocol
from quanttui.format import size
from quanttui.measure import divergence
from quanttui.state import Arm, State
from quanttui.sweep import plan

SHARE_OF_DISK = 0.5
"""At most so much of what is free on the session's disk goes to the base's logits."""


def choose(state: State, folder: Path, chunks: int, pair_fits: bool) -> e.BaseChosen:
    """Where the base's logits are to come from, for `chunks` chunks in all.

    Args:
        folder: the session's, whose disk they would lie on.
        pair_fits: the base and another arm fit into memory together.
    """
    settings, base = state.settings, paired.planned_base(state)
    if settings.kld_base:
        given = divergence.BaseFile.open(Path(settings.kld_base))
        given.close()
        count = min(given.chunks, chunks)
        return e.BaseChosen(base=Path(settings.kld_base).name, how="given", chunks=count, file=settings.kld_base)
    shape = base.file.shape if base is not None and base.file is not None else None
    if base is None or shape is None or len(paired.scored(state)) < 2:
        return e.BaseChosen(base=base.id if base else "", how="none", why="")
    cap = min(settings.kld_bytes, int(SHARE_OF_DISK * shutil.disk_usage(folder).free))
    fitting = divergence.affordable(cap, settings.context, shape.vocabulary)
    wants_beside = settings.kld == "beside" or (settings.kld == "auto" and fitting < chunks)
    if wants_beside and pair_fits:
        return e.BaseChosen(
            base=base.id, how="beside", chunks=chunks, why=f"KL divergence: {base.id} is decoded beside each quant"
        )
    kept = min(chunks, fitting)
    if kept == 0:
        needed = size(divergence.size(settings.context, shape.vocabulary, 1))
        return e.BaseChosen(
            base=base.id, how="none", why=f"no KL divergence: one chunk of {base.id}'s logits takes {needed}: --kld-gib"
        )
    taken = divergence.size(settings.context, shape.vocabulary, kept)
    less = f": over {kept} of {chunks} chunks, for which {base.id}'s logits take {size(taken)} (--kld-gib)"
    return e.BaseChosen(
        base=base.id, how="file", chunks=kept, bytes=taken, why=f"KL divergence{less}" if kept < chunks else ""
    )


def told(state: State, folder: Path, arm: Arm, units: Sequence[e.Unit], chunks: int) -> protocol.Base | None:
    """What the engine is told about the base when it scores `units` of an arm; None where there is nothing to tell."""
    base, chosen = paired.planned_base(state), state.base
    places = [chunk for unit in units for chunk in unit.places]
    exact = base is not None and base is not arm
    known = tuple(chunk for chunk in places if base is not None and chunk in base.chunks) if exact else ()
    logits, ring = "", 0
    slots: dict[int, int] = {}
    order: tuple[int, ...] = ()
    if chosen is not None and chosen.how == "given":
        logits = chosen.file
        slots = {chunk: chunk for chunk in places if chunk < chosen.chunks}
    elif chosen is not None and chosen.how == "file":
        logits = str(folder / "raw" / session.LOGITS)
        order = _order(state.settings, chunks)[: chosen.chunks]
        at = {chunk: slot for slot, chunk in enumerate(order)}
        slots = {chunk: at[chunk] for chunk in places if chunk in at}
        if exact and base is not None:
            slots = {chunk: slot for chunk, slot in slots.items() if chunk in base.chunks}
    elif chosen is not None and chosen.how == "beside" and exact:
        logits, ring = str(folder / "raw" / session.LOGITS), plan.group(state.settings)
        slots = {chunk: slot for slot, chunk in enumerate(places[:ring])}
    if not slots:
        logits, order, ring = "", (), 0
    if not logits and not known:
        return None
    writes = bool(logits) and not exact and chosen is not None and chosen.how == "file"
    return protocol.Base(
        name=chosen.base if chosen and chosen.base and logits else base.id if base else "",
        logits=logits,
        places=order,
        slots=slots,
        ring=ring,
        write=writes,
        raw=str(folder / "raw" / f"{base.id}.nll") if known and base else "",
        known=known,
        arm=base.id if base else "",
        sums=str(folder / "raw" / f"{arm.id}.kld") if logits and not writes else "",
        file=f"raw/{arm.id}.kld",
    )


def _order(settings: e.Settings, chunks: int) -> tuple[int, ...]:
    """The chunks in the order in which they are scored."""
    return plan.draws(chunks, settings.seed) if settings.until == "decided" else tuple(range(chunks))
