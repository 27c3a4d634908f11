"""A repository's quants, with how much of each is here and what fits on this machine, before any of it is downloaded.

Owns the step from one header, read from afar or found in the cache, to the headers of all the other quants: they have
its tensors, in llama.cpp's types for their label, and in all the bytes that their files have. What fits is
`diagnosis.fit`'s to say. Where no header can be read, sizes are all there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from quanttui import quants, repository
from quanttui.errors import UserError
from quanttui.events import PlannedArm, Settings
from quanttui.models import fit, mix
from quanttui.models import header as headers
from quanttui.models.fetch import cached, named, transfer
from quanttui.models.fetch import hub as hubs
from quanttui.models.fetch.hub import Cut, Hub
from quanttui.models.fetch.named import Named
from quanttui.models.fit import Sized
from quanttui.models.header import Header
from quanttui.repository import Listing, Offer


def listing(hub: Hub, wanted: Named, place: Path) -> Listing:
    """What the repository has, and how much of it lies in the Hub's cache `place`; offline what that has alone.

    Raises:
        UserError: the repository is not to be had, or has no GGUF.
    """
    folder = cached.folder(place, wanted.repo)
    if hub.offline:
        commit, gated = cached.commit(folder, wanted.revision), False
        files = tuple(cached.files(folder, commit)) if commit else ()
    else:
        contents = hub.contents(wanted)
        commit, gated = contents.commit, contents.gated
        files = tuple(cached.held(folder, commit, file) for file in contents.files if file.blob)
    offered, notes = named.offers(files)
    if not offered:
        raise UserError(f"{wanted.argument}: {_nothing(hub.offline)}")
    return Listing(
        repo=wanted.repo, revision=wanted.revision, commit=commit, offers=offered, cache=str(place),
        free=cached.free(place), offline=hub.offline, gated=gated, notes=notes,
    )  # fmt: skip


def fitted(hub: Hub, found: Listing, settings: Settings, digests: Path) -> Listing:
    """The listing with what fits of it on this machine, in the contexts that a sweep with these settings makes."""
    try:
        header = _header(hub, found)
        every = [sized(offer, header) for offer in found.offers]
        plan = fit.quick(found.repo, every, settings, fit.here(settings, digests))
    except (Cut, UserError) as error:
        why = str(error).removeprefix(f"hf:{found.repo}: ")
        return msgspec.structs.replace(found, notes=(*found.notes, f"what fits is not known: {why}"))
    verdicts = {arm.id: arm for arm in plan.arms}
    offers = tuple(
        msgspec.structs.replace(
            offer,
            verdict=(one := verdicts[offer.word]).verdict,
            spare=one.spare,
            longest=one.longest,
            tok_s=(one.tok_s.low, one.tok_s.high) if one.tok_s else None,
        )
        for offer in found.offers
    )
    return msgspec.structs.replace(found, offers=offers, notes=(*found.notes, *plan.notes))


def download(hub: Hub, found: Listing, offers: Sequence[Offer], digests: Path, tell: transfer.Tell) -> tuple[Path, ...]:
    """Have the quants' files, each where it then lies; what is here already is checked.

    Raises:
        UserError: they do not fit on the disk, are not to be had, or are not what the repository says.
    """
    chosen, place = tuple(offers), Path(found.cache)
    transfer.check_room(place, repository.missing(chosen), cached.free(place))
    wanted = Named(found.repo, found.revision)
    return transfer.Transfer(hub, wanted, found.commit, place, digests, tell).fetch(repository.files(chosen))


def _nothing(offline: bool) -> str:
    if offline:
        return "nothing of it is in the Hugging Face cache, and HF_HUB_OFFLINE is set: unset it to ask the Hub"
    return "has no GGUF: look for a repository of quants of it, mostly called …-GGUF"


def _header(hub: Hub, found: Listing) -> Header:
    """The header of a quant that is here, else of the smallest that is one file.

    Raises:
        Cut: the connection ended.
        UserError: it cannot be read, or is too long to be read from afar.
    """
    folder = cached.folder(Path(found.cache), found.repo)
    near = next((offer for offer in found.offers if offer.whole), None)
    if near is not None:
        there = cached.link(folder, found.commit, near.files[0])
        for file in near.files[1:]:
            cached.link(folder, found.commit, file)
        return headers.read(there)
    chosen = min(found.offers, key=lambda offer: (len(offer.files), offer.bytes))
    wanted = Named(found.repo, found.revision)
    parts = []
    for file in chosen.files:
        far = hubs.ranged(hub, wanted, found.commit, file)
        parts.append(headers.parse(far, Path(Path(file.path).name), file.bytes))
    return headers.joined(parts, parts[0].path)


def sized(offer: Offer, header: Header) -> Sized:
    """The quant as that header's model would be in it; its tensors share the bytes that its files really have."""
    quant = quants.named(offer.quant.removeprefix("UD-"))
    like = mix.requantized(header, quant, quant.needs_imatrix) if quant else header
    held = sum(tensor.bytes for tensor in like.tensors)
    share = (offer.bytes - header.data_offset) / held if held else 1.0
    tensors = tuple(replace(tensor, bytes=round(tensor.bytes * share)) for tensor in like.tensors)
    arm = PlannedArm(id=offer.word, quant=offer.quant, file=offer.files[0].path, bytes=offer.bytes)
    return Sized(arm, replace(like, tensors=tensors, file_bytes=offer.bytes))
