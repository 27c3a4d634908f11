"""What a quant moves for a token and what it holds in memory: roofline, tensor types, memory."""

from __future__ import annotations

from collections.abc import Iterator

from quanttui.diagnosis import ceilings, roofline
from quanttui.events import ArmStarted, Ceiling, ContextMade
from quanttui.flags import brief as short
from quanttui.format import clean, percent, significant, size
from quanttui.state import Attempt
from quanttui.summary import peak
from quanttui.tui.dossier.forms import Bar, Fact, Grid, Item, Section, Subject, absent, fact, plural, says
from quanttui.tui.parts import Line, Span


def roof(at: Subject) -> Section:
    """What a token reads, what the memory and the arithmetic allow, and what came of it."""
    if at.arm.file is None:
        return Section("roofline", (says("not known before the file's header is read"),))
    items: list[Item] = [*_active(at, at.arm.file)]
    if at.attempt is None:
        return Section("roofline", (*items, fact("ceilings", (absent(at, "decode"), "dim"))))
    items += [_ceiling(one) for one in at.attempt.ceilings]
    if not at.attempt.ceilings:
        items.append(fact("bandwidth", ("none was measured next to it yet", "dim")))
    items += _elsewhere(at, at.attempt)
    items += _arithmetic(at, at.attempt)
    items += _reached(at, at.arm.file)
    return Section("roofline", tuple(items))


def _active(at: Subject, file: ArmStarted) -> Iterator[Item]:
    """What one token reads, by tensor types, KV cache and state."""
    shape, settings = file.shape, at.state.settings
    kv = at.arm.plan.kv or settings.kv
    if not roofline.knows(kv):
        yield fact("per token", (f"ggml has no KV cache of type {clean(kv, 20)}: what is read is not known", "dim"))
        return
    depth = settings.depths[0]
    whole = roofline.active_bytes(shape, depth, kv)
    yield fact("per token", f"{size(whole)} are read at depth {depth} (active bytes A, KV cache {clean(kv, 20)})")
    types = sorted(roofline.active_types(shape).items(), key=lambda one: -one[1])
    named = [(clean(name, 20), read, "weights") for name, read in types]
    named.append(("KV cache", roofline.kv_bytes(shape, depth, kv), "kv"))
    named.append(("state", 2.0 * shape.state_bytes, "other"))
    for name, read, role in named:
        if read and whole:
            yield Bar(name, read / whole, ((f"{size(read)}  {percent(read / whole)} %", "text"),), role)
    for deeper in settings.depths[1:]:
        read, cache = roofline.active_bytes(shape, deeper, kv), roofline.kv_bytes(shape, deeper, kv)
        yield fact(f"  @{deeper}", f"{size(read)}, of it {size(cache)} of KV cache")


def _ceiling(one: Ceiling) -> Fact:
    """A bandwidth with the word for how it is known."""
    device = f"{clean(one.device, 20)}, " if one.device != "cpu" else ""
    if one.gb_s is None:
        return fact("bandwidth", (f"{device}{clean(one.how, 20)}: {clean(one.why) or 'nobody said why'}", "dim"))
    over = f" over {clean(one.over, 80)}" if one.over else ""
    spread = ""
    if len(one.repeats) > 1:
        spread = f", {significant(min(one.repeats))} to {significant(max(one.repeats))} in {len(one.repeats)} passes"
    when = f" {clean(one.when, 10)} it" if one.how == "measured" else ""
    threads = f", {plural(one.threads, 'thread')}" if one.device == "cpu" else ""
    said = f" {clean(one.how, 20)}{when}{over}{threads}{spread}"
    return fact("bandwidth", (f"{device}{significant(one.gb_s)} GB/s", "bus"), said)


def _elsewhere(at: Subject, attempt: Attempt) -> Iterator[Fact]:
    """The bandwidths that it is compared with: of this session's other quants, and of earlier sessions."""
    if (usual := ceilings.usual(at.state, attempt)) is not None:
        said = " measured: the median next to this session's quants"
        yield fact("usual", (f"{significant(usual)} GB/s", "bus"), said)
    if (earlier := ceilings.remembered(at.state, attempt)) is not None:
        said = " in earlier sessions on this machine, their median"
        yield fact("remembered", (f"{significant(earlier)} GB/s", "bus"), said)


def _arithmetic(at: Subject, attempt: Attempt) -> Iterator[Item]:
    """C(type), and what it comes to for this mixture of types."""
    rows: list[Line] = []
    for one in sorted(attempt.kernels.values(), key=lambda one: one.type):
        if one.gb_s is None:
            said = f"{clean(one.how, 20)}: {clean(one.why) or 'nobody said why'}"
            yield fact(f"C({clean(one.type, 20)})", (said, "dim"))
            continue
        how = f"{clean(one.how, 20)}, {plural(one.threads, 'thread')}, {clean(one.device, 20)}"
        rows.append(((clean(one.type, 20), "text"), (how, "dim"), (f"{significant(one.gb_s)} GB/s", "text")))
    if rows:
        yield Grid(("C(type)", "", "out of the cache"), tuple(rows), 2)
    if at.bounds is not None and at.bounds.compute is not None:
        said = " of weights: what the arithmetic of its own mixture allows"
        yield fact("C", (f"{significant(at.bounds.compute)} GB/s", "bus"), said)
    elif not rows:
        yield fact("C", ("not measured: the arithmetic of its types", "dim"))


def _reached(at: Subject, file: ArmStarted) -> Iterator[Fact]:
    """What the ceiling predicts, and what came of it."""
    held, gen, star = at.bounds, at.mine.decode, "*" if at.mine.tainted else ""
    if held is None:
        return
    ceiling = held.ceiling.gb_s if held.ceiling is not None else None
    if held.cache is not None:
        yield fact("predicted", "nothing: the last-level cache holds the weights, and memory has no part in it")
    elif held.split is not None:
        yield fact("predicted", f"{significant(held.split)} tok/s by both memories in turn")
    elif ceiling and held.active:
        how = clean(held.ceiling.how, 20) if held.ceiling is not None else ""
        rate = f"{significant(ceiling * 1e9 / held.active)} tok/s"
        yield fact("predicted", rate, f" if moving A at {significant(ceiling)} GB/s ({how}) were all")
    else:
        yield fact("predicted", (f"nothing: {clean(held.split_why or held.why)}", "dim"))
    if gen is None:
        yield fact("achieved", (absent(at, "decode"), "dim"))
        return
    achieved = gen.gb_s if gen.gb_s is not None else held.active * gen.tok_s / 1e9
    share = f", {percent(gen.mbu)}{star} % of the ceiling (MBU)" if gen.mbu is not None else ""
    of_c = f", {percent(achieved / held.compute)}{star} % of C" if held.compute else ""
    said = f" = {significant(achieved)}{star} GB/s{share}{of_c}"
    yield fact("achieved", (f"{significant(gen.tok_s)}{star} tok/s", "bad" if star else "speed"), said)


def tensors(at: Subject) -> Section:
    """The tensor types with their share of the bytes."""
    file = at.arm.file
    if file is None:
        return Section("tensor types", (says("not known before the file's header is read"),))
    found: dict[str, tuple[int, int]] = {}
    for group in file.shape.tensors:
        count, held = found.get(group.type, (0, 0))
        found[group.type] = count + group.count, held + group.bytes
    whole = sum(held for _, held in found.values())
    bars: list[Item] = []
    for name, (count, held) in sorted(found.items(), key=lambda one: -one[1][1]):
        share = held / whole if whole else 0.0
        words = f"{plural(count, 'tensor')}, {size(held)}, {percent(share)} %"
        bars.append(Bar(clean(name, 20), share, ((words, "text"),), "weights"))
    if not bars:
        told = sorted(at.mine.tensor_types.items(), key=lambda one: -one[1])
        bars = [fact(name, plural(count, "tensor"), (", bytes not known", "dim")) for name, count in told]
    return Section("tensor types", tuple(bars) or (says("the file names none"),))


def memory(at: Subject) -> Section:
    """What was held: reserved by llama.cpp, seen at most in each phase, on the host and on devices."""
    loaded = at.attempt.loaded if at.attempt is not None else None
    most = peak(at.mine)
    items: list[Item] = [*_held(at, most)]
    if loaded is not None and loaded.buffers:
        each = ", ".join(f"{clean(name, 40)} {size(held)}" for name, held in sorted(loaded.buffers.items()))
        items.append(fact("weights in", each))
    items += _placed(at)
    rows = tuple(
        (
            (short(phase), "text"),
            (size(one["rss"]), "text"),
            (size(one["anonymous"]), "text"),
            (size(one["device"]), "text"),
        )
        for phase, one in at.mine.peak_memory.items()
    )
    if rows:
        items.append(Grid(("peak in", "host", "of its own", "devices"), rows))
    host = at.summary.host
    if host is not None and host.memory:
        limit = " (the container's limit)" if host.memory_limit else ""
        items.append(fact("the host has", f"{size(host.memory_limit or host.memory)}{limit}"))
    return Section("memory", tuple(items), (f"peak {size(most)}" if most is not None else "", "dim"))


def _held(at: Subject, most: float | None) -> Iterator[Item]:
    """Weights, KV cache and compute buffers as llama.cpp reserved them, and what else was held at most."""
    attempt = at.attempt
    loaded = attempt.loaded if attempt is not None else None
    if attempt is None or loaded is None:
        yield says(absent(at, "load"))
        return
    weights = float(sum(loaded.buffers.values()) or at.mine.bytes or 0)
    made = max(attempt.contexts.values(), key=_context_bytes, default=None)
    kv, compute = (float(made.kv_bytes or 0), float(made.compute_bytes or 0)) if made is not None else (0.0, 0.0)
    rest = None if most is None else most - weights - kv - compute
    whole = weights + kv + compute + max(0.0, rest or 0.0)
    named = (("weights", weights, "weights"), ("KV cache", kv, "kv"), ("compute", compute, "power"))
    for name, held, role in (*named, ("other", max(0.0, rest or 0.0), "other")):
        if held and whole:
            yield Bar(name, held / whole, ((f"{size(held)}  {percent(held / whole)} %", "text"),), role)
    if made is None:
        yield fact("KV, compute", ("not told by the engine", "dim"))
    if rest is None:
        yield fact("other", ("not known: its memory was never seen", "dim"))
    elif rest < 0:
        yield fact("", f"{size(-rest)} of it were never in memory at once")


def _context_bytes(one: ContextMade) -> int:
    return (one.kv_bytes or 0) + (one.compute_bytes or 0)


def _placed(at: Subject) -> Iterator[Fact]:
    """Where the layers lie, and whether the driver counts what llama.cpp says."""
    placed, loaded = at.mine.placed, at.attempt.loaded if at.attempt is not None else None
    if placed is None:
        if loaded is not None:
            yield fact("placed", f"all {plural(loaded.layers, 'layer')} on the host")
        return
    counted = size(placed.counted) if placed.counted is not None else "not known"
    yield fact("placed", f"{placed.layers} of {plural(placed.of, 'layer')} on the GPU")
    reserved = size(placed.reserved) if placed.reserved is not None else "not known"
    apart = f", {percent(placed.gap)} % apart" if placed.gap is not None else ""
    mark: tuple[Span, ...] = (("[!] ", "warn"),) if placed.doubtful else ()
    yield fact("on devices", *mark, f"reserved by llama.cpp {reserved}, counted by the driver {counted}{apart}")
