"""The report as one page of HTML that needs nothing else: no network, no script, no font, light and dark, printable.

Its first page says what was measured, the advice if there is one, and all figures with their errors and verdicts; then
come the charts (report.svg), the tasks, the evidence of every verdict, and where all of it came from. Figures are
summary's, as every report's. What is written into the page is escaped by report.markup, whoever named it. The same log
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from quanttui import session
from quanttui.decide import study as studies
from quanttui.decide.compare import word
from quanttui.decide.study import Finding, Study
from quanttui.diagnosis import drift
from quanttui.diagnosis.case import GLYPHS, Verdict
from quanttui.events import Settings
from quanttui.format import ABSENT, clean, duration, gib, percent, significant, size
from quanttui.report import charts, svg
from quanttui.report import study as tasks
from quanttui.report.markup import LINE, SPACE, Markup, element, join, safe
from quanttui.report.text import machine
from quanttui.state import Arm, State
from quanttui.stats import divergence
from quanttui.stats.divergence import Divergence, Estimate
from quanttui.summary import AGAIN, ArmSummary, Depth, Kld, Speed, Summary, broken, peak, summarize, tainted

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page's own Content-Security-Policy: it may load nothing, and run nothing."""

_LIGHT = """
--page: #fbfaf7; --text: #22262c; --dim: #5b616b; --line: #d4d0c6; --soft: #efede7; --softer: #e2e0d9;
--accent: #1f6fb2; --ok: #2f7d32; --warn: #8a5800; --bad: #b3212a; --warn-soft: #f7e9cd; --bad-soft: #f6d9d8;
--curve: #7d4aa5; --a: #2f63b0; --b: #ae581c; --c: #4f7114;
"""
_DARK = """
--page: #16181d; --text: #d4d8df; --dim: #969dab; --line: #3a404c; --soft: #22262e; --softer: #2d323c;
--accent: #7fb4e0; --ok: #8fc48a; --warn: #e3b35c; --bad: #f08a8a; --warn-soft: #3d3320; --bad-soft: #472a2d;
--curve: #c9a2e3; --a: #7fa9e6; --b: #e09a6a; --c: #a5c96f;
"""
STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT.strip()} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK.strip()} }} }}\n"
    + """
body { margin: 0 auto; padding: 1.2rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.3rem 0 .3rem; } p { margin: .3rem 0; max-width: 60rem; }
.dim, figcaption, .notes { color: var(--dim); } .notes { font-size: .87rem; padding-left: 1.1rem; }
.good { color: var(--ok); } .caution { color: var(--warn); } .contaminated { color: var(--bad); font-weight: 600; }
.advice { border-left: 4px solid var(--accent); padding: .1rem 1rem; background: var(--soft); }
.advice h3 { margin-top: .6rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--dim); padding-bottom: .3rem; }
th, td { padding: .22rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { overflow-wrap: normal; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; font-weight: 600; }
thead small { display: block; font-weight: 400; color: var(--dim); }
th[scope=row], td.words, th.words { text-align: left; overflow-wrap: anywhere; }
th[scope=row] { min-width: 4.5rem; max-width: 16rem; }
td.number { white-space: nowrap; overflow-wrap: normal; } td small { color: var(--dim); display: block; }
td.words { min-width: 7rem; max-width: 26rem; }
td.hash, .hash { font-family: ui-monospace, monospace; font-size: .8rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0; }
dt { color: var(--dim); } dd { margin: 0; }
figure { margin: .8rem 0; overflow-x: auto; break-inside: avoid; } .single { max-width: 54rem; }
.single svg { min-width: 32rem; } .all svg { min-width: 48rem; }
.few { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }
.few figure { margin: 0; }
.verdict { margin: .5rem 0 .9rem; padding-left: .8rem; border-left: 3px solid var(--line); break-inside: avoid; }
pre { white-space: pre-wrap; font-size: .8rem; background: var(--soft); padding: .5rem; }
a { color: var(--accent); }
@page { margin: 12mm; }
@media print { :root { --page: #fff; } nav { display: none; }
  body { font-size: 8.5pt; line-height: 1.35; padding: 0; max-width: none; } .notes { font-size: 7.5pt; }
  h2 { margin-top: 1rem; }
  table { font-size: 6.8pt; } th, td { padding: .1rem .25rem; }
  .wide, figure { overflow: visible; } .single svg, .all svg { min-width: 0; }
  th[scope=row] { min-width: 0; } td.words { min-width: 0; } h2, h3 { break-after: avoid; } tr { break-inside: avoid; }
  .second { break-before: page; } .few { grid-template-columns: 1fr 1fr 1fr; } }
"""
    + svg.STYLE
)


class Column(NamedTuple):
    """A column of a table: its name, its unit below it, and whether its cells are words."""

    name: str
    unit: str = ""
    words: bool = False


def report(
    state: State,
    over: bool = False,
    folder: Path | None = None,
    advice: Sequence[tuple[str, Sequence[str]]] = (),
    answers: Study | None = None,
) -> str:
    """The session as a page, a newline at its end.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        folder: the session's, whose raw folder the percentiles of the KL divergence are taken from.
        advice: headings, each with its sentences, for the first page.
        answers: what the answers to tasks say; worked out here where it is not given.
    """
    found = summarize(state, over)
    known = {clean(arm.id, 80): arm for arm in state.arms.values()}
    parts = [
        ("measured", "What was measured", (_measured(state, found, over),)),
        ("advice", "Advice", tuple(_advice(advice))),
        ("figures", "All figures", (_figures(found),)),
        ("speed", "Quality against speed", (_pareto(found),)),
        ("perplexity", "Perplexity", (*_curves(state, found), *_losses(found, known, folder))),
        ("tasks", "Tasks", tuple(_tasks(answers or studies.study(state)))),
        ("depths", "Speed at depth", tuple(_depths(found))),
        ("time", "The session over time", tuple(_timeline(state, found))),
        ("evidence", "Verdicts and their evidence", tuple(_evidence(found, known))),
        ("settings", "Settings", (_settings(state.settings),)),
        ("origin", "Where it came from", tuple(_origin(state, found, known))),
    ]
    shown = [(name, title, inside) for name, title, inside in parts if inside]
    title = f"quanttui report: {found.model or 'no model'}"
    sections = [_section(*part) for part in shown]
    first = 1 + [name for name, _, _ in shown].index("figures")
    body = (
        element("header", element("h1", title), element("p", _subtitle(state, found, over), class_="dim")),
        element("nav", _contents(shown)),
        element("main", *sections[:first], element("div", *sections[first:], class_="second")),
    )
    head = (
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    page = element("html", element("head", *head), LINE, element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _section(name: str, title: str, inside: Iterable[str]) -> Markup:
    return element("section", LINE, element("h2", title), LINE, join(inside, LINE), LINE, id=name)


def _contents(shown: Iterable[tuple[str, str, Iterable[str]]]) -> Markup:
    links = [element("a", title, href=f"#{name}") for name, title, _ in shown]
    return element("p", join(links, Markup(" · ")), class_="dim")


def _subtitle(state: State, found: Summary, over: bool) -> str:
    quants = [arm for arm in found.arms if arm.attempt]
    ended = clean(state.closed) or ("interrupted" if over else "still running")
    return f"{len(quants)} of {len(found.arms)} quants measured, {ended}, {duration(state.t)}{_began(state)}"


def _began(state: State) -> str:
    """When it began, in UTC, so that a page is the same wherever it is made."""
    try:
        began = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=state.wall)
    except (OverflowError, ValueError):
        return ""
    return f", begun {began:%Y-%m-%d %H:%M} UTC" if state.wall else ""


def _advice(advice: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Markup]:
    if advice:
        said = [
            join([element("h3", heading), *(element("p", sentence) for sentence in sentences)])
            for heading, sentences in advice
        ]
        yield element("div", *said, class_="advice")


# --- tables ---------------------------------------------------------------------------------------------------------


def _table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Markup:
    """A table with a caption; the first column is the rows' heading. It scrolls by itself where it is too wide."""
    heads = [
        element(
            "th", column.name, *([element("small", column.unit)] if column.unit else []),
            scope="col", class_="words" if column.words or place == 0 else None,
        )
        for place, column in enumerate(columns)
    ]  # fmt: skip
    body = [_row(columns, row) for row in rows]
    table = element(
        "table", element("caption", caption), element("thead", element("tr", *heads)), LINE,
        element("tbody", join(body, LINE)),
    )  # fmt: skip
    return element("div", table, class_="wide", tabindex="0", role="region", aria_label=caption)


def _row(columns: Sequence[Column], row: Sequence[str]) -> Markup:
    first, *rest = row
    cells = [
        element("td", cell, class_="words" if column.words else "number")
        for column, cell in zip(columns[1:], rest, strict=True)
    ]
    return element("tr", element("th", first, scope="row"), *cells)


def _filled(columns: Sequence[Column], rows: Sequence[Sequence[str]], may_lack: Sequence[str]) -> list[int]:
    """The places of the columns that are shown: all but those that may be left out and have nothing in them."""
    return [
        place
        for place, column in enumerate(columns)
        if column.name not in may_lack or any(row[place] not in ("", ABSENT) for row in rows)
    ]


def _chosen(
    caption: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], may_lack: Sequence[str] = ()
) -> Markup:
    places = _filled(columns, rows, may_lack)
    return _table(caption, [columns[place] for place in places], [[row[place] for place in places] for row in rows])


def _facts(facts: Iterable[tuple[str, str]]) -> Markup:
    return element("dl", *(part for name, said in facts for part in (element("dt", name), element("dd", said))))


def _notes(notes: Iterable[str]) -> list[Markup]:
    listed = [element("li", note) for note in notes]
    return [element("ul", *listed, class_="notes")] if listed else []


# --- first page -----------------------------------------------------------------------------------------------------


def _measured(state: State, found: Summary, over: bool) -> Markup:
    return _facts([*_machine(found), ("session", _subtitle(state, found, over)), *_noise(state, found)])


def _machine(found: Summary) -> Iterator[tuple[str, str]]:
    yield "model", found.model or "no model"
    yield from machine(found)


def _noise(state: State, found: Summary) -> Iterator[tuple[str, str]]:
    """The session's own noise, what drifted, and what is to be noted."""
    if found.floor is not None:
        anchor = drift.anchor(state)
        name = clean(anchor.id, 40) if anchor else "the anchor"
        yield "A/A floor", (
            f"±{percent(found.floor)} %: the largest change of {name} against itself over {len(drift.rounds(state))} "
            "rounds; no difference below it is one"
        )
    for arm in found.arms:
        if arm.drift is not None:
            yield "drift", (
                f"the anchor changed by {100 * arm.drift:+.1f} % while {arm.id} was measured (more than "
                f"{100 * state.settings.drift:g} %): not comparable with the others"
            )
    for note in found.notes:
        yield "note", note


_FIGURES = (
    Column("quant"),
    Column("size", "GiB"),
    Column("bpw", "bits"),
    Column("prompt", "tok/s ± sd"),
    Column("generation", "tok/s ± 95 %"),
    Column("perplexity", "± se"),
    Column("Δppl", "% [95 %]"),
    Column("KLD", "nats"),
    Column("bus", "GB/s"),
    Column("MBU", "%"),
    Column("peak", "GiB"),
    Column("energy", "J/token"),
    Column("efficiency", "tok/s/W"),
    Column("verdict", words=True),
)


def _figures(found: Summary) -> Markup:
    rows = [_figures_of(arm, found.base) for arm in found.arms]
    if not rows:
        return element("p", "No quant was planned.")
    table = _chosen("All quants, each figure with its error", _FIGURES, rows, ("KLD", "MBU", "energy", "efficiency"))
    return join([table, *_notes(_legend(found))])


def _figures_of(arm: ArmSummary, base: str) -> list[str]:
    star = "*" if arm.tainted else ""
    decode, energy = arm.decode, arm.energy
    return [
        arm.id,
        ("~" if arm.bits_per_weight is None and arm.bytes is not None else "") + gib(arm.bytes),
        ABSENT if arm.bits_per_weight is None else f"{arm.bits_per_weight:.2f}",
        _speed(arm.prompt, arm.prompt.sd if arm.prompt else None, tainted(arm.verdicts, "prompt")),
        _speed(decode, decode.radius if decode else None, arm.tainted),
        "ghost" if arm.ghost else _perplexity(arm),
        "base" if arm.id == base else _delta(arm),
        _kld(arm.kld),
        significant(decode.gb_s) + star if decode and decode.gb_s is not None else ABSENT,
        percent(decode.mbu) + star if decode and decode.mbu is not None else ABSENT,
        gib(peak(arm)),
        significant(energy.joules_per_token) + star if energy and energy.joules_per_token is not None else "",
        significant(energy.tok_s_per_w) + star if energy and energy.tok_s_per_w is not None else "",
        _verdict(arm),
    ]


def _speed(speed: Speed | None, spread: float | None, is_tainted: bool) -> str:
    if speed is None:
        return ABSENT
    error = f"±{significant(spread, 2)}" if spread is not None else ""
    return _with(f"{significant(speed.tok_s)}{'*' if is_tainted else ''}", error)


def _perplexity(arm: ArmSummary) -> str:
    found = arm.perplexity
    if found is None:
        return ABSENT
    error = f"±{significant(found.se, 2)}" if found.se is not None else ""
    return _with(f"{found.value:.4f}{'…' if found.running else ''}", error)


def _delta(arm: ArmSummary) -> str:
    found = arm.delta
    if found is None:
        return ABSENT
    running = "…" if arm.perplexity and arm.perplexity.running else ""
    return _with(f"{found.percent:+.2f}{running}", f"[{_span(found.low, found.high, '+.2f')}]")


def _kld(kld: Kld | None) -> str:
    if kld is None:
        return ABSENT
    error = "" if kld.found.kld.error is None else f"±{kld.found.kld.error:.5f}"
    return _with(f"{kld.found.kld.value:.5f}", error)


def _with(value: str, error: str) -> Markup:
    """A figure with its error, which is smaller."""
    return join([value, element("small", error)] if error else [value], SPACE)


def _span(low: float | None, high: float | None, form: str) -> str:
    return "not known yet" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def _verdict(arm: ArmSummary) -> Markup:
    """Outcome where that was not well, glyph and words of the first verdict, and of the worst on another phase."""
    said: list[Markup] = []
    if arm.outcome not in ("ok", "oom"):
        failed = arm.outcome not in ("planned", "running")
        said.append(element("span", arm.outcome, class_="contaminated" if failed else None))
    first = arm.verdicts[:1]
    more = [one for one in arm.verdicts[1:] if one.kind == "contaminated" and one.phase != first[0].phase][:1]
    said += [_flag(one, one.words) for one in first]
    said += [_flag(one, f"{one.words} ({one.phase})") for one in more]
    return join(said or [element("span", arm.outcome, class_="good")], Markup(", "))


def _flag(verdict: Verdict, words: str) -> Markup:
    """The kind as a mark, and words."""
    return element("span", f"{verdict.glyph} {words}", class_=verdict.kind)


def _legend(found: Summary) -> Iterator[str]:
    arms = found.arms
    stars = [arm for arm in arms if arm.tainted or tainted(arm.verdicts, "prompt")]
    if stars:
        yield "* contaminated: not this quant's speed or efficiency, and in no ranking; its verdict says why."
    yield "prompt: ± one standard deviation over the repetitions. generation: ± half of the 95 % confidence sequence."
    if any(arm.perplexity for arm in arms):
        yield "perplexity: ± one standard error over the scored tokens, as llama-perplexity prints it."
    deltas = [arm.delta for arm in arms if arm.delta]
    if deltas:
        about = "all of this text" if deltas[0].of_text else "texts like it"
        yield (
            f"Δppl: against {clean(found.base, 40)}, paired over the chunks that both have scored; 95 % confidence "
            f"sequence, of {about}: it may be watched and stopped at any time."
        )
    yield "bus: active bytes per token x tok/s" + (
        "; MBU: that as a share of the bandwidth found next to the quant."
        if any(arm.decode and arm.decode.mbu is not None for arm in arms)
        else "."
    )
    yield "peak: the most memory held, host and devices together."
    if found.thriftiest:
        yield f"{clean(found.thriftiest, 40)} gives the most tok/s per watt of those that nothing contaminated."
    kinds = {one.kind for arm in arms for one in arm.verdicts}
    if kinds:
        yield "verdicts: " + ", ".join(f"{glyph} {kind}" for kind, glyph in GLYPHS.items() if kind in kinds) + "."
    if any(arm.bits_per_weight is None and arm.bytes is not None for arm in arms):
        yield "~ estimated."
    if any(arm.outcome == "running" for arm in arms):
        yield "… still running."
    yield f"{ABSENT} not measured."


# --- charts ---------------------------------------------------------------------------------------------------------


def _figure(drawing: str, said: str, wide: bool = False) -> Markup:
    return element("figure", drawing, element("figcaption", said), class_="all" if wide else "single")


def _pareto(found: Summary) -> Markup:
    scatter = charts.points(found)
    missing = f" Not here: {'; '.join(scatter.missing)}." if scatter.missing else ""
    if not scatter.points:
        return element("p", f"No quant has both a speed and a perplexity.{missing}")
    hollow = " A hollow mark is contaminated: of no rank." if any(one.tainted for one in scatter.points) else ""
    said = "Lower right is better. Bars are 95 % confidence sequences, the dotted steps join what nothing beats."
    return _figure(svg.pareto(scatter), said + hollow + missing)


def _curves(state: State, found: Summary) -> list[Markup]:
    drawn = [svg.curve(one, f"curve-{place}") for place, one in enumerate(charts.curves(state, found))]
    if not drawn:
        return []
    said = (
        "Shaded: of a difference its 95 % confidence sequence, of the base's own perplexity one standard error. "
        "Dashed: the tolerance. The scales differ."
    )
    return [element("div", *(element("figure", one) for one in drawn), class_="few"), element("p", said, class_="dim")]


def _timeline(state: State, found: Summary) -> list[Markup]:
    if not state.spans:
        return []
    drawn = charts.timeline(state, found)
    absent = "".join(f" No {strip.title}: {strip.why}." for strip in drawn.strips if strip.why)
    said = (
        "Areas reach from the smallest to the largest reading of each moment. Hatched through all strips: "
        f"contaminated. Dotted in the lane of verdicts: a caution. Phases: {svg.letters(drawn)}.{absent}"
    )
    return [_figure(svg.timeline(drawn), said, wide=True)]


# --- quality --------------------------------------------------------------------------------------------------------

_LOSSES = (
    Column("quant"),
    Column("chunks"),
    Column("Δppl", "%"),
    Column("95 % sequence", "%"),
    Column("KLD", "nats ± se"),
    Column("95 % sequence", "nats"),
    Column("RMS Δp", "%"),
    Column("same top", "%"),
    Column("call", words=True),
)


def _losses(found: Summary, known: Mapping[str, Arm], folder: Path | None) -> list[Markup]:
    """What is known of each quant against the base, and the percentiles of the divergence."""
    if not any(arm.delta or arm.kld for arm in found.arms):
        return []
    rows = [_loss(arm, found.base) for arm in found.arms if arm.perplexity]
    lacking = () if any(arm.kld for arm in found.arms) else ("KLD", "RMS Δp", "same top")
    places = [
        place
        for place, column in enumerate(_LOSSES)
        if column.name not in lacking and not (lacking and column.unit == "nats")
    ]  # fmt: skip
    columns, shown = [_LOSSES[place] for place in places], [[row[place] for place in places] for row in rows]
    caption = f"What is lost against {clean(found.base, 40) or 'the base'}, over the chunks that both have scored"
    return [_table(caption, columns, shown), *_percentiles(found, known, folder), *_notes(_calls(found))]


def _loss(arm: ArmSummary, base: str) -> list[str]:
    quality, delta, kld = arm.perplexity, arm.delta, arm.kld
    planned = quality.chunks_planned if quality else None
    done = f"{quality.chunks}" if quality else ABSENT
    return [
        arm.id,
        f"{done}/{planned}" if planned and quality and planned != quality.chunks else done,
        "base" if arm.id == base else f"{delta.percent:+.3f}" if delta else ABSENT,
        _span(delta.low, delta.high, "+.3f") if delta else "",
        _estimate(kld.found.kld, 6) if kld else ABSENT,
        _span(kld.low, kld.high, ".6f") if kld else "",
        _estimate(kld.found.p_diff_rms, 3, 100) if kld else ABSENT,
        _estimate(kld.found.same_top, 3, 100) if kld else ABSENT,
        _call(arm),
    ]


def _estimate(found: Estimate, places: int, times: float = 1.0) -> str:
    error = "" if found.error is None else f" ± {times * found.error:.{places}f}"
    return f"{times * found.value:.{places}f}{error}"


def _call(arm: ArmSummary) -> str:
    found = arm.decision
    if found is None:
        return ""
    word = f"within {100 * found.tolerance:g} %" if found.call == "within" else found.call
    return word if found.sure else f"({word})"


def _calls(found: Summary) -> Iterator[str]:
    if any(arm.decision for arm in found.arms):
        yield (
            "call: whether the 95 % sequence of Δppl lies within the tolerance, above it (worse) or below it (better); "
            "of a text that is scored to its end, whether Δppl itself does, in parentheses where it is not sure of "
            "others."
        )
    if any(arm.kld for arm in found.arms):
        yield "KLD, Δp, same top: against the base's logits as 16-bit rows, ± one standard error over the tokens."


def _percentiles(found: Summary, known: Mapping[str, Arm], folder: Path | None) -> list[Markup]:
    """Percentiles of the KL divergence, which need the session's raw folder."""
    whole: list[tuple[str, Divergence]] = []
    for arm in found.arms:
        rows = session.rows(folder, known[arm.id]) if folder is not None and arm.kld is not None else None
        if rows is not None:
            whole.append((arm.id, divergence.from_rows(rows)))
    if not whole:
        return []
    fractions = list(whole[0][1].kld_at)
    columns = [Column("quant"), *(Column(_fraction(at)) for at in fractions)]
    rows_ = [[name, *(f"{one.kld_at[at]:.6f}" for at in fractions)] for name, one in whole]
    return [_table("Percentiles of the KL divergence over the tokens, nats", columns, rows_)]


def _fraction(at: float) -> str:
    return {1.0: "maximum", 0.5: "median", 0.0: "minimum"}.get(at) or f"{100 * at:g} %"


# --- tasks ----------------------------------------------------------------------------------------------------------


def _tasks(found: Study) -> Iterator[Markup]:
    """Each task's tables and sentences, and its differences drawn."""
    for place, section in enumerate(tasks.sections(found)):
        yield element("h3", section.title)
        for sheet in section.tables:
            columns = [Column(name, unit, name == "call") for name, unit in sheet.heads]
            yield _chosen(f"{section.title}: {_about(columns)}", columns, sheet.rows, sheet.may_lack)
        yield from _drawn([one for one in found.findings if one.task == section.title], f"task-{place}")
        yield from (element("p", line) for line in section.lines)
    yield from _notes(tasks.legend(found) if found.standings else ())


def _about(columns: Sequence[Column]) -> str:
    """What a task's table is about, by its columns."""
    names = [column.name for column in columns]
    return "against the base" if "call" in names else "answers" if "answered" in names else "further measures"


def _drawn(findings: Sequence[Finding], name: str) -> Iterator[Markup]:
    if not findings:
        return
    rows = [
        svg.Row(one.arm, 100 * one.delta, 100 * one.low, 100 * one.high, f"{one.call}, p {tasks.p_value(one.p_holm)}")
        for one in findings
    ]
    first = findings[0]
    what = f"{first.measure} less that of {first.base}, percentage points, 95 %"
    yield _figure(svg.forest(rows, 100 * first.margin, name, what), "Shaded: the margin within which two are the same.")


# --- the rest -------------------------------------------------------------------------------------------------------

_DEPTHS = (
    Column("quant"),
    Column("depth", "tokens"),
    Column("prompt", "tok/s ± sd"),
    Column("generation", "tok/s ± 95 %"),
)


def _depths(found: Summary) -> list[Markup]:
    rows: list[list[str]] = []
    for arm in found.arms:
        depth, bad = arm.settings["depth"], tainted(arm.verdicts, "prompt")
        first = Depth(depth if isinstance(depth, int) else 0, arm.prompt, arm.decode, bad, arm.tainted)
        rows += [_depth(arm.id, one) for one in (first, *arm.deeper) if arm.deeper]
    return [_table("Speed with so many tokens in the KV cache already", _DEPTHS, rows)] if rows else []


def _depth(name: str, one: Depth) -> list[str]:
    prompt, decode = one.prompt, one.decode
    return [
        name,
        str(one.depth),
        _speed(prompt, prompt.sd if prompt else None, one.prompt_tainted),
        _speed(decode, decode.radius if decode else None, one.decode_tainted),
    ]


def _evidence(found: Summary, known: Mapping[str, Arm]) -> Iterator[Markup]:
    for arm in found.arms:
        if arm.outcome != "planned":
            yield element("h3", f"{arm.id}: {arm.outcome}")
            yield from (element("p", line) for line in _told(arm))
            yield from _last_words(known[arm.id], arm)
            yield from (_spelled(one) for one in arm.verdicts)


def _told(arm: ArmSummary) -> Iterator[str]:
    """What is to be said of an arm beside its verdicts."""
    if arm.error:
        yield f"error: {arm.error}"
    if arm.label_note:
        yield f"label: {arm.label_note}"
    if arm.reproduced:
        yield f"run again in a fresh process: {arm.reproduced}"
    if arm.decode is not None and arm.decode.clean is not None:
        part = arm.decode.clean
        yield (
            f"generation, clean-only: {significant(part.tok_s)} tok/s over the {significant(part.seconds)} of "
            f"{significant(part.of)} s without re-reading and CPU contention"
        )
    if arm.placed is not None:
        reserved = f", {size(arm.placed.reserved)} by llama.cpp" if arm.placed.reserved is not None else ""
        counted = f", {size(arm.placed.counted)} by the driver" if arm.placed.counted is not None else ""
        doubt = " [!] these are too far apart" if arm.placed.doubtful else ""
        yield f"layers {arm.placed.layers}/{arm.placed.of} on the GPU{reserved}{counted}{doubt}"
    if arm.disturbed:
        yield f"{arm.disturbed} repetitions done again: {AGAIN}"
    for kind, speed in (("prompt", arm.prompt), ("generation", arm.decode)):
        if said := broken(speed):
            yield f"{kind}: {said}"
    if arm.energy is not None and arm.energy.joules_per_token is not None:
        idle = arm.energy.idle_watts
        net = "idle power was not measured and is in it" if idle is None else f"{significant(idle)} W idle subtracted"
        yield f"energy by the {arm.energy.source}; {net}"


def _last_words(known: Arm, arm: ArmSummary) -> Iterator[Markup]:
    """The end of a failed engine's stderr."""
    failed = known.attempt.failed if known.attempt else None
    if failed is not None and failed.stderr and arm.outcome not in ("ok", "running"):
        yield element("pre", join((clean(line) for line in failed.stderr), LINE))


def _spelled(verdict: Verdict) -> Markup:
    phase = f"{verdict.phase}, " if verdict.phase else ""
    mark = element("span", f"{verdict.glyph} {phase}{verdict.code}:", class_=verdict.kind)
    numbers = "; ".join(f"{name} {_number(name, value)}" for name, value in _telling(verdict.evidence))
    return element(
        "div", element("p", mark, SPACE, clean(verdict.sentence, 600)), element("p", verdict.advice),
        element("p", numbers, class_="dim"), class_="verdict",
    )  # fmt: skip


def _telling(evidence: Mapping[str, float | str]) -> Iterator[tuple[str, float | str]]:
    """Of re-reads that there were none of, the share alone is told."""
    return ((name, value) for name, value in evidence.items() if value != 0 or "%" in name)


def _number(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return clean(value)
    if "bytes" in name and "%" not in name:
        return size(value)
    return str(int(value)) if float(value).is_integer() else significant(value)


def _settings(asked: Settings) -> Markup:
    """All of them, as they were asked for."""
    names = [name for name in asked.__struct_fields__ if name != "digests"]
    return _facts((name.replace("_", " "), word(getattr(asked, name), 1000)) for name in names)


_FILES = (
    Column("quant"),
    Column("tensors", words=True),
    Column("importance matrix", words=True),
    Column("from", words=True),
    Column("sha256", words=True),
)


def _origin(state: State, found: Summary, known: Mapping[str, Arm]) -> Iterator[Markup]:
    """Files, texts and programs with their digests."""
    rows = [_file(arm, known[arm.id]) for arm in found.arms]
    if rows:
        yield _chosen("Model files", _FILES, rows, ("importance matrix", "from"))
    yield _facts([*_digests(state.settings), *_programs(state)])


def _file(arm: ArmSummary, known: Arm) -> list[str]:
    types = sorted(arm.tensor_types.items(), key=lambda kv: (-kv[1], kv[0]))
    return [
        arm.id,
        ", ".join(f"{name} {count}" for name, count in types) or ABSENT,
        clean(str(arm.settings["imatrix"] or ""), 200),
        clean(known.plan.origin or Path(known.plan.source).name, 200),
        _hash(known.file.sha256 if known.file else ""),
    ]


def _hash(digests: str) -> Markup:
    """One SHA-256 for each part of a file, or that there is none."""
    if not digests:
        return safe("not hashed")
    return join((element("span", digest, class_="hash") for digest in clean(digests, 2000).split(",")), element("br"))


def _digests(asked: Settings) -> Iterator[tuple[str, str]]:
    named = [(asked.text, asked.text_sha256), (asked.prompts, asked.prompts_sha256)]
    for what, digest in (*named, *((f"items of {task}", digest) for task, digest in asked.digests)):
        if digest:
            yield Path(clean(what, 200)).name or "text", join(["sha256", element("span", digest, class_="hash")], SPACE)


def _programs(state: State) -> Iterator[tuple[str, str]]:
    build, host = state.build, state.host
    if build is not None:
        yield "quanttui", build.quanttui
        yield "llama.cpp", f"{build.llama_cpp}, llama-cpp-python {build.llama_cpp_python}"
        yield "backends", build.system_info or ABSENT
        yield "devices", word(build.devices, 1000)
    if host is not None:
        drivers = [f"{gpu.name} {gpu.driver}".strip() for gpu in host.gpus]
        yield "host", f"{host.name}: {host.os}, {host.cpu}{''.join(f', {one}' for one in drivers)}"
    for probe, found in sorted(state.probes.items()):
        yield f"read: {clean(probe, 40)}", found.detail or "found"
    for probe, why in sorted(state.lost.items()):
        yield f"not read: {clean(probe, 40)}", why
