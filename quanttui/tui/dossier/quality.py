"""What a quant loses and what it costs: perplexity and KL divergence with their intervals, energy."""

from __future__ import annotations

from collections.abc import Iterator

from quanttui.format import clean, significant
from quanttui.state import energy_counter
from quanttui.stats.divergence import Divergence, Estimate
from quanttui.summary import ArmSummary
from quanttui.tui import panels
from quanttui.tui.dossier.forms import Fact, Item, Section, Subject, absent, fact, plural, says


def losses(at: Subject) -> Section:
    """Perplexity, the difference from the base, the call and the KL divergence, each with the kind of its interval."""
    found = at.mine.perplexity
    if found is None:
        return Section("perplexity", (says(absent(at, "perplexity")),))
    error = f" ± {found.se:.4f}" if found.se is not None else ""
    mark = "…" if found.running else ""
    planned = f" of {found.chunks_planned}" if found.chunks_planned else ""
    items: list[Item] = [
        fact(
            "perplexity",
            (f"{panels.ppl(found.value)}{mark}", "perplexity"),
            f"{error} (one standard error over the tokens), {found.chunks}{planned} chunks",
        )
    ]
    if found.batch is not None:
        flash = {True: "on", False: "off", None: "not told"}[found.flash_attn]
        said = f"n_batch {found.batch}, n_ubatch {found.ubatch}, flash attention {flash}"
        items.append(fact("scored with", said))
    if at.mine.id == at.summary.base:
        items.append(fact("Δppl", "this is the base: the others are held against it"))
    items += [*_delta(at.mine), *_call(at), *_kld(at.mine)]
    return Section("perplexity", tuple(items))


def _delta(mine: ArmSummary) -> Iterator[Fact]:
    delta = mine.delta
    if delta is None:
        return
    span = "not known yet"
    if delta.low is not None and delta.high is not None:
        span = f"{delta.low:+.3f} to {delta.high:+.3f} %"
    about = "all of this text" if delta.of_text else "texts like it"
    yield fact(
        "Δppl",
        (f"{delta.percent:+.3f} %", "perplexity"),
        f" against {delta.base}, paired over {plural(delta.chunks, 'chunk')}; 95 % confidence sequence {span}, of "
        f"{about}, the chunk as its unit: it may be watched",
    )
    if delta.percent_error is not None:
        yield fact("", f"  ± {delta.percent_error:.3f} %: one standard error, for a number of chunks fixed beforehand")
    if delta.tokens is not None:
        yield from _tokens(delta.tokens)


def _tokens(found: Divergence) -> Iterator[Fact]:
    """llama-perplexity's figures over the same tokens."""
    how = f"one standard error over {found.scored} tokens, corrected for covariance"
    yield fact("ln ratio", f"{_estimate(found.ln_ratio, 6)}: {how}")
    yield fact("ratio", f"{_estimate(found.ratio, 6)}, difference {_estimate(found.difference, 6)}: the same")


def _call(at: Subject) -> Iterator[Fact]:
    word, role = panels.call(at.mine)
    if not word or at.mine.decision is None:
        return
    sure = "" if at.mine.decision.sure else ", of this text only"
    within = f"tolerance ±{100 * at.mine.decision.tolerance:g} %"
    yield fact("call", (word, role), f" {panels.after(at.mine, at.state.settings.until)}{sure} ({within})")


def _kld(mine: ArmSummary) -> Iterator[Fact]:
    kld = mine.kld
    if kld is None:
        return
    span = "not known yet"
    if kld.low is not None and kld.high is not None:
        span = f"{kld.low:.6f} to {kld.high:.6f}"
    yield fact(
        "KLD",
        (f"{_estimate(kld.found.kld, 6)} nats", "perplexity"),
        f" (one standard error over the tokens), {plural(kld.chunks, 'chunk')} against {kld.base}'s logits; 95 % "
        f"confidence sequence {span}, the chunk as its unit",
    )
    shares = (("same top", kld.found.same_top), ("mean Δp", kld.found.p_diff), ("RMS Δp", kld.found.p_diff_rms))
    for name, one in shares:
        yield fact(name, f"{_estimate(one, 3, 100)} % (one standard error)")


def _estimate(found: Estimate, digits: int, times: float = 1.0) -> str:
    error = f" ± {times * found.error:.{digits}f}" if found.error is not None else ""
    return f"{times * found.value:.{digits}f}{error}"


def energy(at: Subject) -> Section:
    """Energy of decoding, or which counter is missing."""
    found = at.mine.energy
    if found is None and energy_counter(at.state.readings) is None:
        why = clean(at.state.lost.get("power", "")) or "this host has no energy counter"
        return Section("energy", (says(f"no counter: {why}"),))
    if found is None:
        return Section("energy", (says(absent(at, "decode")),))
    if found.joules_per_token is None:
        return Section("energy", (says(f"the {found.source} gave nothing to go by"),))
    star, role = ("*", "bad") if found.tainted else ("", "power")
    items = [
        fact("gen", (f"{significant(found.joules_per_token)}{star} J/token", role),
              f", {significant(found.tok_s_per_w)}{star} tok/s/W"),
        fact("counter", found.source),
    ]  # fmt: skip
    if found.idle_watts is not None:
        gross = f"{significant(found.gross_joules_per_token)}{star} J/token with it"
        items.append(fact("idle", f"{significant(found.idle_watts)} W of the idle machine taken off; {gross}"))
    else:
        items.append(fact("idle", "not measured: what the idle machine takes is in it"))
    if found.tainted:
        items.append(says("* contaminated: no measure of this quant, and in no ranking", "bad"))
    return Section("energy", tuple(items))
