"""Rules on what had to be read again: from swap, from the file, at the edge of memory, or only until it settled."""

from __future__ import annotations

from quanttui.diagnosis.case import Case, Verdict, brief, for_seconds
from quanttui.diagnosis.taint import PAGE_IN, SWAP
from quanttui.format import percent, significant, size

FILE_COST, SWAP_COST = 33.0, 180.0
"""How much dearer a byte from the file, or from swap, is than one from memory: a share f of bytes read again takes
1 - 1 / (1 + f r) of the speed. 0.28 % and 9.3 % from the file took 12 and 67 % (r of 48 and 22), 2.1 % from swap 79 %.
"""


def rules(case: Case) -> list[Verdict]:
    """What was read again, swap before the file: a share over the whole phase, or over stretches of it."""
    limits, swap, file = case.limits, case.share(case.reread.swap), case.share(case.reread.file)
    if (settled := _settling(case)) is not None:
        return [settled]
    found = []
    if swap >= limits.contaminated:
        found.append(_swap(case, swap))
    elif case.seconds(SWAP):
        found.append(_for_a_while(case, SWAP, "swap"))
    if file >= limits.contaminated:
        found.append(_page_in(case, file))
    elif case.seconds(PAGE_IN):
        found.append(_for_a_while(case, PAGE_IN, "page-in"))
    if not found and max(swap, file) >= limits.edge and not case.is_short:
        found.append(_edge(case, swap, file))
    return found


def _kind(case: Case) -> str:
    return "caution" if case.window.phase == "perplexity" else "contaminated"


def _means(case: Case) -> str:
    """What re-reading means for the figure of the phase."""
    if case.window.phase == "perplexity":
        return "it takes longer, and its value is what it would be anyway"
    return "this speed is the storage's, not the quant's"


def _amount(case: Case, share: float, count: float | None) -> str:
    each = (count or 0.0) / max(1, case.window.most_passes)
    return f"{percent(share)} % of the bytes that a {case.per} needs ({size(each)} of {size(case.bounds.active)})"


def _taken(share: float, dearer: float) -> float:
    return 1 - 1 / (1 + share * dearer)


def _swap(case: Case, share: float) -> Verdict:
    whose = " Part of it may be a neighbour's: compressed memory cannot be attributed." if case.reread.note else ""
    return case.verdict(
        SWAP,
        _kind(case),
        f"swap {brief(share)}%",
        f"{_amount(case, share, case.reread.swap)} came back from swap each time: {_means(case)}.{whose}",
        "Take a smaller quant; leave the file mapped (--load-mode auto) and --repack false, so that weights need no "
        "swap; or free memory.",
        _taken(share, SWAP_COST),
    )


def _page_in(case: Case, share: float) -> Verdict:
    apart = f" ({case.reread.note})" if case.reread.swap is None else ""
    return case.verdict(
        PAGE_IN,
        _kind(case),
        f"page-in {brief(share)}%",
        f"{_amount(case, share, case.reread.file)} had to be fetched from the file again each time{apart}: "
        f"{_means(case)}.",
        "Free memory or take a smaller quant; if it just fits, lock it in memory (--load-mode mmap+mlock).",
        _taken(share, FILE_COST),
    )


def _for_a_while(case: Case, code: str, name: str) -> Verdict:
    """A stretch that the phase as a whole no longer shows."""
    worst = max(one.worst for one in case.tainted.intervals if one.code == code)
    lasted = case.seconds(code)
    return case.verdict(
        code,
        _kind(case),
        f"{name} for {significant(lasted, 2)} s",
        f"{for_seconds(case, code).capitalize()} up to {percent(worst)} % of the bytes that a {case.per} needs came "
        f"back {'from swap' if code == SWAP else 'from the file'}: {_means(case)}.",
        "The clean-only speed is of the rest. Run it again (r) with more memory free.",
        case.part(code) * _taken(worst, SWAP_COST if code == SWAP else FILE_COST),
    )


def _settling(case: Case) -> Verdict | None:
    """Re-reading that was over after a while, as what nearly fits settles into memory."""
    tainted, found = case.tainted, case.tainted.clean
    if tainted.settled < case.limits.window or found is None or case.window.phase == "perplexity":
        return None
    lasted = sum(one.seconds for one in tainted.intervals)
    source = "swap" if any(one.code == SWAP for one in tainted.intervals) else "the file"
    rate = case.window.tok_s
    speed = f": {significant(found.tok_s)} tok/s since" if case.window.phase == "decode" else ""
    return case.verdict(
        "settling",
        "contaminated",
        f"settled after {significant(lasted, 2)} s",
        f"It came back from {source} for the first {significant(lasted, 2)} s and then no more{speed}. The mean has "
        "both in it.",
        "The clean-only speed is this quant's, at the edge of memory; run it again (r) for one without the beginning.",
        max(0.0, 1 - rate / found.tok_s) if rate and case.window.phase == "decode" else None,
    )


def _edge(case: Case, swap: float, file: float) -> Verdict:
    source, share = ("swap", swap) if swap > file else ("the file", file)
    count = case.reread.swap if swap > file else case.reread.file
    return case.verdict(
        "edge-of-memory",
        "caution",
        f"edge {brief(share)}%",
        f"{_amount(case, share, count)} came from {source} again each time: it barely fits, and a little less memory "
        "would be thrashing.",
        "Free some memory before trusting small differences, or take a smaller quant.",
        _taken(share, SWAP_COST if swap > file else FILE_COST),
    )
