"""The report for people: plain text, no colour, at most 120 columns, fit for a terminal and for pasting."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from quanttui import session
from quanttui.decide.study import Study, study
from quanttui.diagnosis import drift
from quanttui.events import Settings
from quanttui.format import ABSENT, clean, duration, gib, percent, significant, size
from quanttui.report import study as task_words
from quanttui.state import Arm, State
from quanttui.stats import divergence
from quanttui.stats.divergence import Estimate
from quanttui.summary import (
    AGAIN,
    ArmSummary,
    Delta,
    Depth,
    Placed,
    Quality,
    Speed,
    Summary,
    broken,
    peak,
    summarize,
    tainted,
)

WIDTH = 120

_ASCII = str.maketrans({"±": "+-", "Δ": "d", "…": "...", ABSENT: "-", "×": "x", "–": "-", "—": "-"})

_SPEED = (
    ("quant", ""),
    ("size", "GiB"),
    ("bpw", "bits"),
    ("prompt", "tok/s"),
    ("gen", "tok/s"),
    ("perplexity", ""),
    ("Δppl", "%"),
    ("bus", "GB/s"),
    ("bus", "%"),
    ("peak", "GiB"),
    ("energy", "J/tok"),
    ("verdict", ""),
)
_QUALITY = (
    ("quant", ""),
    ("chunks", ""),
    ("Δppl", "%"),
    ("95 % sequence", "%"),
    ("KLD", "nats"),
    ("95 % sequence", "nats"),
    ("same top", "%"),
    ("call", ""),
)
_DEPTHS = (("quant", ""), ("depth", "tokens"), ("prompt", "tok/s"), ("gen", "tok/s"))
_LEFT = ("quant", "verdict", "call")
_LAST = ("verdict", "call")

_SEE_STDERR = "All that it said is in the session's stderr folder; run this quant alone to see whether it repeats."
_WAY_OUT = {"crashed": _SEE_STDERR, "timeout": _SEE_STDERR}


class Line(NamedTuple):
    """A paragraph: what it says, how far it is indented, and how much further its later lines are."""

    text: str
    indent: int = 0
    more: int = 2


def report(
    state: State,
    over: bool = False,
    ascii: bool = False,
    folder: Path | None = None,
    advice: Sequence[tuple[str, Sequence[str]]] = (),
    answers: Study | None = None,
) -> str:
    """The session as text, a newline at its end.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        ascii: nothing but ASCII.
        folder: the session's, whose raw folder the percentiles of the KL divergence are taken from.
        advice: headings, each with its sentences; it stands before the figures.
        answers: what the answers to tasks say; worked out here where it is not given.
    """
    found = summarize(state, over)
    safe = to_ascii if ascii else str
    known = {clean(arm.id, 80): arm for arm in state.arms.values()}
    paragraphs = [
        _header(state, found, over),
        legend(found),
        decisions(state, found),
        *(_arm(state, arm, known[arm.id], folder) for arm in found.arms),
    ]
    sections = ["\n".join(wrapped(safe(line.text), line) for line in lines) for lines in paragraphs]
    tables = [speed_table(found), quality_table(found), depth_table(found)]
    sections[1:1] = ["\n".join(drawn(table, safe)) for table in tables] + _tasks(answers or study(state), safe)
    sections[1:1] = ["\n".join(wrapped(safe(line.text), line) for line in _advised(advice))]
    return "\n\n".join(filter(None, sections)) + "\n"


def _advised(advice: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Line]:
    for heading, sentences in advice:
        for place, sentence in enumerate(sentences):
            yield Line(f"{heading if place == 0 else '':<11}{sentence}", more=11)


def brief(state: State) -> str:
    """What fits a screen once a sweep has ended: the tables, what is to be noted, what failed. A newline at its end."""
    found = summarize(state, over=True)
    failed = [Line(f"{arm.id} {arm.outcome}: {clean(arm.error)}") for arm in found.arms if arm.error]
    lines = [*(Line(f"note: {note}") for note in found.notes), *failed, *legend(found)]
    tables = [speed_table(found)]
    if state.settings.until == "decided" or any(arm.kld for arm in found.arms):
        tables.append(quality_table(found))
    blocks = ["\n".join(drawn(table, str)) for table in tables]
    blocks += [_task(part.title, part.tables[:1], str) for part in task_words.sections(study(state)) if part.tables]
    return "\n\n".join([*filter(None, blocks), "\n".join(wrapped(line.text, line) for line in lines)]) + "\n"


def _tasks(found: Study, safe: Callable[[str], str]) -> list[str]:
    """The tasks' tables with what is to be said of each, then what their words mean; nothing without an answer."""
    blocks = []
    for part in task_words.sections(found):
        said = [wrapped(safe(text), Line(text)) for text in part.lines]
        blocks += [_task(part.title, part.tables, safe), "\n".join(said)]
    return [*blocks, "\n".join(wrapped(safe(text), Line(text)) for text in task_words.legend(found))]


def _task(title: str, tables: Sequence[task_words.Sheet], safe: Callable[[str], str]) -> str:
    """A task's tables below its name."""
    blocks = ["\n".join(drawn(Table(*table), safe)) for table in tables]
    return f"task {safe(title)}\n" + "\n\n".join(blocks)


def to_ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_ASCII))
    return "".join(char if char.isascii() else "?" for char in plain if not unicodedata.combining(char))


def wrapped(text: str, line: Line) -> str:
    first, later = " " * line.indent, " " * (line.indent + line.more)
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def _header(state: State, found: Summary, over: bool) -> Iterator[Line]:
    yield Line(f"quanttui report: {found.model or 'no model'}")
    for name, text in facts(state, found, over):
        yield Line(f"{name:<9}{text}", more=9)


def machine(found: Summary) -> Iterator[tuple[str, str]]:
    """What measured: the host and the build, each with its name, where they are known."""
    host, build = found.host, found.build
    if host is not None:
        limit = f", limited to {size(host.memory_limit)}" if host.memory_limit else ""
        gpus = "".join(f", {clean(gpu.name)} ({size(gpu.memory)})" for gpu in host.gpus)
        cores = f"{host.cores} cores ({host.threads} threads)" if host.cores else ""
        memory = f"{size(host.memory)} of memory{limit}" if host.memory else ""
        cpu = ", ".join(filter(None, (clean(host.cpu), cores, memory)))
        yield "host", f"{clean(host.name)}: {clean(host.os)}, {cpu}{gpus}"
    if build is not None:
        offload = "with GPU offload" if build.gpu_offload else "CPU only"
        versions = f"llama.cpp {clean(build.llama_cpp)}, llama-cpp-python {clean(build.llama_cpp_python)}, {offload}"
        yield "build", f"quanttui {clean(build.quanttui)}, {versions}"


def facts(state: State, found: Summary, over: bool) -> Iterator[tuple[str, str]]:
    asked = state.settings
    yield from machine(found)
    yield "settings", (
        f"prompt {asked.prompt}, decode {asked.decode} at depth {', '.join(map(str, asked.depths))}, "
        f"{asked.repetitions} repetitions{_precision(asked)}; "
        f"{asked.threads} threads, GPU layers asked {'all' if asked.gpu_layers < 0 else asked.gpu_layers}, "
        f"batch {asked.batch}/{asked.ubatch}, flash attention {clean(asked.flash_attn)}, KV {clean(asked.kv)}, "
        f"perplexity n_ctx {asked.context}, chunks {'all' if asked.chunks is None else asked.chunks}, seed {asked.seed}"
    )
    yield "schedule", _schedule(asked)
    if found.floor is not None:
        anchor = drift.anchor(state)
        rounds = f"{clean(anchor.id, 20) if anchor else 'the anchor'} over {len(drift.rounds(state))} rounds"
        yield "A/A floor", (
            f" ±{percent(found.floor)} %: the largest change of the anchor against itself ({rounds}); no difference "
            "below it is one"
        )
    for arm in found.arms:
        if arm.drift is not None:
            yield "drift", (
                f"the anchor changed by {100 * arm.drift:+.1f} % while {arm.id} was measured (more than "
                f"{100 * asked.drift:g} %): not comparable with the others"
            )
    if asked.text:
        sha256 = f", sha256 {clean(asked.text_sha256, 64)}" if asked.text_sha256 else ""
        yield "text", clean(asked.text) + sha256
    ended = clean(state.closed) or ("interrupted" if over else "still running")
    yield "session", f"{ended}, {duration(state.t)}"
    for note in found.notes:
        yield "note", note


def _precision(asked: Settings) -> str:
    if asked.precision <= 0:
        return ""
    return f" or more, of gen until ±{100 * asked.precision:g} % (95 %) or {asked.speed_seconds:g} s"


def _schedule(asked: Settings) -> str:
    order = f", order {', '.join(clean(name, 40) for name in asked.order)}" if asked.order else ""
    anchor = f", anchor every {asked.anchor} quants" if asked.anchor else ""
    return f"{clean(asked.schedule)}{order}{anchor}"


class Table(NamedTuple):
    """Headings of two lines, and rows as wide; columns without anything in them are left out where they may be."""

    heads: tuple[tuple[str, str], ...]
    rows: list[list[str]]
    may_lack: tuple[str, ...] = ()


def drawn(table: Table, safe: Callable[[str], str]) -> list[str]:
    rows = [[safe(cell) for cell in row] for row in table.rows]
    if not rows:
        return []
    shown = [
        column for column, (name, _) in enumerate(table.heads)
        if name not in table.may_lack or any(row[column] for row in rows)
    ]  # fmt: skip
    heads = [[safe(head[line]) for head in table.heads] for line in (0, 1)]
    widths = {column: max(len(row[column]) for row in heads + rows) for column in shown}
    spare = WIDTH - sum(widths.values()) - 2 * (len(shown) - 1)
    if spare < 0 and table.heads[shown[-1]][0] in _LAST:
        widths[shown[-1]] = max(len(table.heads[shown[-1]][0]), widths[shown[-1]] + spare)
    names = [name for name, _ in table.heads]
    return [_line(row, widths, names)[:WIDTH].rstrip() for row in heads + rows]


def _line(row: list[str], widths: dict[int, int], names: list[str]) -> str:
    return "  ".join(
        row[column][:width].ljust(width) if names[column] in _LEFT else row[column].rjust(width)
        for column, width in widths.items()
    )


def speed_table(found: Summary) -> Table:
    return Table(_SPEED, [_row(arm, found.base) for arm in found.arms], ("energy",))


def quality_table(found: Summary) -> Table:
    """What is known of the arms against the base; no rows where nothing is."""
    if not any(arm.delta or arm.kld for arm in found.arms):
        return Table(_QUALITY, [])
    may_lack = () if any(arm.kld for arm in found.arms) else ("KLD", "same top")
    rows = [_compared(arm, found.base) for arm in found.arms if arm.perplexity]
    if may_lack:
        heads = tuple(head for head in _QUALITY if head[0] not in may_lack and head[1] != "nats")
        keep = [column for column, head in enumerate(_QUALITY) if head in heads]
        return Table(heads, [[row[column] for column in keep] for row in rows])
    return Table(_QUALITY, rows)


def _compared(arm: ArmSummary, base: str) -> list[str]:
    quality, delta, kld = arm.perplexity, arm.delta, arm.kld
    chunks = f"{quality.chunks}" if quality else ABSENT
    if quality and quality.chunks_planned and quality.chunks != quality.chunks_planned:
        chunks += f"/{quality.chunks_planned}"
    cells = [clean(arm.id, 20), chunks]
    cells += ["base" if arm.id == base else f"{delta.percent:+.3f}" if delta else ABSENT]
    cells += [_span(delta.low, delta.high, "+.3f") if delta else ""]
    cells += [_estimate(kld.found.kld, "{:.6f}", "{:.6f}") if kld else ABSENT]
    cells += [_span(kld.low, kld.high, ".6f") if kld else ""]
    cells += [_estimate(kld.found.same_top, "{:.3f}", "{:.3f}", 100) if kld else ABSENT]
    return [*cells, _called(arm)]


def _span(low: float | None, high: float | None, form: str) -> str:
    return "not known yet" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def _estimate(found: Estimate, value: str, error: str, times: float = 1.0) -> str:
    spread = "" if found.error is None else f" ± {error.format(times * found.error)}"
    return value.format(times * found.value) + spread


def _call(arm: ArmSummary) -> str:
    if arm.decision is None:
        return ""
    return f"within {100 * arm.decision.tolerance:g} %" if arm.decision.call == "within" else arm.decision.call


def _called(arm: ArmSummary) -> str:
    """The call as the table has it: in parentheses where it is of this text only."""
    return f"({_call(arm)})" if arm.decision is not None and not arm.decision.sure else _call(arm)


def depth_table(found: Summary) -> Table:
    rows = []
    for arm in found.arms:
        if arm.deeper:
            marks = tainted(arm.verdicts, "prompt"), arm.tainted
            first = Depth(_first_depth(arm), arm.prompt, arm.decode, *marks)
            rows += [
                [
                    clean(arm.id, 20),
                    str(one.depth),
                    _speed(one.prompt, "*" if one.prompt_tainted else ""),
                    _speed(one.decode, "*" if one.decode_tainted else ""),
                ]
                for one in (first, *arm.deeper)
            ]
    return Table(_DEPTHS, rows)


def _first_depth(arm: ArmSummary) -> int:
    depth = arm.settings["depth"]
    return depth if isinstance(depth, int) else 0


def _deeper(arm: ArmSummary) -> Iterator[tuple[str, Speed | None]]:
    for one in arm.deeper:
        yield from ((f"prompt at depth {one.depth}", one.prompt), (f"gen at depth {one.depth}", one.decode))


def _row(arm: ArmSummary, base: str) -> list[str]:
    decode, mark = arm.decode, "*" if arm.tainted else ""
    prompt_mark = "*" if tainted(arm.verdicts, "prompt") else ""
    joules = arm.energy.joules_per_token if arm.energy else None
    estimate = "~" if arm.bits_per_weight is None and arm.bytes is not None else ""
    return [
        clean(arm.id, 20),
        estimate + gib(arm.bytes),
        ABSENT if arm.bits_per_weight is None else f"{arm.bits_per_weight:.2f}",
        _speed(arm.prompt, prompt_mark),
        _speed(decode, mark),
        "ghost" if arm.ghost else _quality(arm.perplexity),
        "base" if arm.id == base else _delta(arm.delta, arm.perplexity),
        significant(decode.gb_s) + mark if decode and decode.gb_s is not None else ABSENT,
        percent(decode.mbu) + mark if decode and decode.mbu is not None else ABSENT,
        gib(peak(arm)),
        significant(joules) + mark if joules is not None else "",
        _verdict(arm),
    ]


def _speed(speed: Speed | None, mark: str) -> str:
    if speed is None:
        return ABSENT
    spread = f"±{significant(speed.sd, 2)}" if speed.sd is not None else ""
    return f"{significant(speed.tok_s)}{mark}{spread}"


def _quality(quality: Quality | None) -> str:
    if quality is None:
        return ABSENT
    error = f"±{significant(quality.se, 2)}" if quality.se is not None else ""
    return f"{quality.value:.4f}{error}{'…' if quality.running else ''}"


def _delta(delta: Delta | None, quality: Quality | None) -> str:
    if delta is None:
        return ABSENT
    if delta.low is None or delta.high is None:
        error = "±?"
    else:
        error = f"±{significant(max(delta.high - delta.percent, delta.percent - delta.low), 2)}"
    return f"{delta.percent:+.2f}{error}{'…' if quality and quality.running else ''}"


def _verdict(arm: ArmSummary) -> str:
    words = f"{arm.verdicts[0].glyph} {arm.verdicts[0].words}" if arm.verdicts else ""
    if arm.outcome == "ok" or (arm.outcome == "oom" and words):
        return words or "ok"
    if arm.outcome == "running":
        return f"{words} …".strip()
    return f"{arm.outcome}, {words}" if words else arm.outcome


def legend(found: Summary) -> Iterator[Line]:
    if not found.arms:
        return
    yield Line("prompt, gen: ± one standard deviation (n-1) over the repetitions.")
    yield Line("perplexity: ± one standard error over the scored tokens, as llama-perplexity prints it.")
    deltas = [arm.delta for arm in found.arms if arm.delta]
    if any(delta.of_text for delta in deltas):
        yield Line("The quants' perplexities are over different chunks here: compare them by Δppl only.")
    if deltas:
        about = "of all of this text, whose chunks were drawn at random" if deltas[0].of_text else "of texts like it"
        yield Line(
            f"Δppl: against {clean(found.base, 40)}, paired over the chunks that both have scored; ± the larger side "
            f"of its 95 % confidence sequence, which may be watched and stopped at any time, {about}; the chunk as the "
            "unit."
        )
    if any(arm.kld for arm in found.arms):
        yield Line(
            "KLD, same top: ± one standard error over the tokens, as llama-perplexity prints it; the 95 % sequence of "
            "KLD has the chunk as its unit."
        )
    if any(arm.decision for arm in found.arms):
        yield Line(
            "call: whether that sequence of Δppl lies within the tolerance, above it (worse) or below it (better); of "
            "a text that is scored to its end, whether Δppl itself does, in parentheses where it is not sure of others."
        )
    yield Line("bus: active bytes per token x tok/s, and that as a share of the bandwidth found next to the arm.")
    yield Line("peak: the most memory held, host and devices together.")
    if found.thriftiest:
        yield Line(
            f"energy: {clean(found.thriftiest, 40)} gives the most tok/s per watt of those that nothing contaminated."
        )
    marks = {
        "* contaminated, not this quant's speed: see its verdict": any(
            arm.tainted or tainted(arm.verdicts, "prompt") for arm in found.arms
        ),
        "… still running": any(arm.outcome == "running" for arm in found.arms),
        "~ estimated": any(arm.bits_per_weight is None and arm.bytes is not None for arm in found.arms),
        f"{ABSENT} not measured": True,
    }
    yield Line("; ".join(mark for mark, shown in marks.items() if shown) + ".")


def decisions(state: State, found: Summary) -> Iterator[Line]:
    """The call on each arm with what it rests on, and what a deciding sweep saved."""
    called = [arm for arm in found.arms if arm.decision and arm.delta]
    for arm in called:
        yield Line(f"{arm.id}: {_decided(state, arm)}")
    if called and state.settings.until == "decided":
        scored = [arm.perplexity for arm in found.arms if arm.perplexity]
        done = sum(one.chunks for one in scored)
        whole = sum(one.chunks_planned or one.chunks for one in scored)
        share = f" ({percent(done / whole)} %)" if whole else ""
        yield Line(
            f"Scored {done} of the {whole} chunks{share} that a full run of these quants would have. The calls are "
            "95 % each: each by itself is wrong with a chance of 5 % at most."
        )


def _decided(state: State, arm: ArmSummary) -> str:
    """One call in words: `within 1 % of F16, decided after 36 of 655 chunks: …`."""
    found, delta = arm.decision, arm.delta
    if found is None or delta is None:
        return ""
    base = clean(delta.base, 40)
    word = _call(arm)
    word = f"{word} of {base}" if found.call == "within" else f"{word} {_than(found.call)}{base}"
    total = f" of {found.of}" if found.of else ""
    stops = state.settings.until == "decided"
    how = ", decided after" if stops and found.call != "undecided" else " after"
    if not stops and arm.perplexity is not None and arm.perplexity.running:
        how = " so far, after"
    span = _span(delta.low, delta.high, "+.3f")
    unit = "" if delta.low is None else " %"
    about = "this text" if delta.of_text else "texts like it"
    only = "" if found.sure else ": of those it is not sure"
    interval = f"95 % sequence {span}{unit}, {about}{only}"
    return f"{word}{how} {found.chunks}{total} chunks: Δppl {delta.percent:+.3f} %, {interval}"


def _than(call: str) -> str:
    return {"worse": "than ", "better": "than "}.get(call, "against ")


def _arm(state: State, arm: ArmSummary, known: Arm, folder: Path | None) -> Iterator[Line]:
    """What stands below the tables of an arm; nothing for one that has not begun."""
    if arm.outcome == "planned":
        return
    types = ", ".join(f"{name} {count}" for name, count in sorted(arm.tensor_types.items(), key=lambda kv: -kv[1]))
    kv = f", KV {arm.kv}" if arm.kv else ""
    yield Line(f"{arm.id}: {arm.outcome}, {size(arm.bytes)}{kv}" + (f", tensors {types}" if types else ""))
    if arm.label_note:
        yield Line(f"label: {arm.label_note}", 2)
    if arm.error:
        way_out = _WAY_OUT.get(arm.outcome)
        yield Line(f"error: {arm.error}" + (f". {way_out}" if way_out else ""), 2)
    for text in _last_words(known, arm):
        yield Line(f"| {text}", 4)
    if arm.reproduced:
        yield Line(f"run again in a fresh process: {arm.reproduced}", 2)
    if arm.decode is not None and arm.decode.radius is not None:
        gen = arm.decode
        yield Line(
            f"gen: {significant(gen.tok_s)}{'*' if arm.tainted else ''} ±{significant(gen.radius, 2)} tok/s, 95 % "
            f"confidence sequence of the mean over {gen.n} repetitions",
            2,
        )
    if arm.decode is not None and arm.decode.clean is not None:
        found = arm.decode.clean
        yield Line(
            f"gen, clean-only: {significant(found.tok_s)} tok/s over the {significant(found.seconds)} of "
            f"{significant(found.of)} s without re-reading and CPU contention",
            2,
        )
    for kind, speed in (("prompt", arm.prompt), ("gen", arm.decode), *_deeper(arm)):
        if said := broken(speed):
            yield Line(f"{kind}: {said}", 2)
    if arm.placed:
        yield Line(_placed(arm.placed), 2)
    if arm.disturbed:
        times = f"{arm.disturbed} repetition{'s' if arm.disturbed > 1 else ''}"
        yield Line(f"{times} done again: {AGAIN}", 2)
    if arm.energy:
        yield Line(_energy(arm), 2)
    if arm.perplexity:
        yield Line(_scored(state, arm, arm.perplexity), 2)
    yield from _losses(arm, known, folder)
    for verdict in arm.verdicts:
        place = f"{verdict.phase}, " if verdict.phase else ""
        yield Line(f"{verdict.glyph} {place}{verdict.code}: {clean(verdict.sentence, 600)}", 2)
        yield Line(clean(verdict.advice), 7, 0)
        yield Line(_evidence(verdict.evidence), 7, 0)


def _scored(state: State, arm: ArmSummary, quality: Quality) -> str:
    """The perplexity with all that changes its last digits."""
    error = f" ± {quality.se:.5f}" if quality.se is not None else ""
    planned = f" of {quality.chunks_planned}" if quality.chunks_planned else ""
    batch = f"n_batch {quality.batch or arm.settings['batch']}, n_ubatch {quality.ubatch or arm.settings['ubatch']}"
    if quality.flash_attn is None:
        flash = f"asked {clean(state.settings.flash_attn, 20)}"
    else:
        flash = "on" if quality.flash_attn else "off"
    kv = arm.kv or clean(str(arm.settings["kv"]), 40)
    return (
        f"perplexity: {quality.value:.4f}{error} over {quality.chunks}{planned} chunks; {batch}, flash attention "
        f"{flash}, KV {kv}"
    )


def _losses(arm: ArmSummary, known: Arm, folder: Path | None) -> Iterator[Line]:
    """What the arm loses against its base, in llama-perplexity's terms and digits."""
    tokens, kld = arm.delta.tokens if arm.delta else None, arm.kld
    if tokens is not None and arm.delta is not None:
        yield Line(
            f"against {arm.delta.base}, {arm.delta.chunks} chunks, {tokens.scored} tokens; ± one standard error, "
            "corrected for covariance:",
            2,
        )
        yield Line(f"Mean PPL(Q)                   : {_wide(tokens.ppl)}", 4)
        yield Line(f"Mean PPL(base)                : {_wide(tokens.ppl_base)}", 4)
        if tokens.correlation is not None:
            yield Line(f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * tokens.correlation:6.2f}%", 4)
        yield Line(f"Mean ln(PPL(Q)/PPL(base))     : {_wide(tokens.ln_ratio)}", 4)
        yield Line(f"Mean PPL(Q)/PPL(base)         : {_wide(tokens.ratio)}", 4)
        yield Line(f"Mean PPL(Q)-PPL(base)         : {_wide(tokens.difference)}", 4)
    if kld is None:
        return
    rows = session.rows(folder, known) if folder is not None else None
    found = divergence.from_rows(rows) if rows is not None else kld.found
    ratio = _estimate(found.ln_ratio, "{:.6f}", "{:.6f}")
    yield Line(
        f"against {clean(kld.base, 40)}'s logits as 16-bit rows, {kld.chunks} chunks, {found.scored} tokens; "
        f"ln(PPL(Q)/PPL(base)) by these: {ratio}",
        2,
    )
    left = [f"Mean    KLD: {_wide(found.kld)}"]
    left += [f"{_percentile(at)} KLD: {value:10.6f}" for at, value in found.kld_at.items()]
    right = [f"Mean    Δp: {_narrow(found.p_diff)}"]
    right += [f"{_percentile(at)} Δp: {100 * value:6.3f}%" for at, value in found.p_diff_at.items()]
    right += [f"RMS Δp    : {_narrow(found.p_diff_rms)}", f"Same top p: {_narrow(found.same_top)}"]
    for one, other in zip_longest(left, right, fillvalue=""):
        yield Line(f"{one:<44}{other}".rstrip() if one else " " * 44 + other, 4)
    if rows is None:
        yield Line("percentiles: not here, they need the session's raw folder, whole", 4)


def _wide(found: Estimate) -> str:
    """A value as llama-perplexity prints it: %10.6lf ± %10.6lf."""
    return f"{found.value:10.6f}" + (f" ± {found.error:10.6f}" if found.error is not None else "")


def _narrow(found: Estimate) -> str:
    """A share in percent as it prints it: %6.3lf ± %5.3lf %%."""
    error = f" ± {100 * found.error:5.3f}" if found.error is not None else ""
    return f"{100 * found.value:6.3f}{error} %"


def _percentile(at: float) -> str:
    """A fraction's name: Maximum, 99.9%, Median, Minimum."""
    named = {1.0: "Maximum", 0.5: "Median ", 0.0: "Minimum"}.get(at)
    return named or f"{100 * at:4.1f}%  "


def _last_words(known: Arm, arm: ArmSummary) -> list[str]:
    """The end of a failed engine's stderr."""
    failed = known.attempt.failed if known.attempt else None
    return [clean(line) for line in failed.stderr] if failed and arm.outcome not in ("ok", "running") else []


def _energy(arm: ArmSummary) -> str:
    energy = arm.energy
    if energy is None or energy.joules_per_token is None:
        return f"energy: the {energy.source if energy else 'counter'} gave nothing to go by"
    star = "*" if energy.tainted else ""
    rest = "idle power was not measured and is in it"
    if energy.idle_watts is not None:
        rest = (
            f"{significant(energy.idle_watts)} W of the idle machine subtracted, "
            f"{significant(energy.gross_joules_per_token)} J/token with it"
        )
    why = next((v.code for v in arm.verdicts if v.kind == "contaminated"), "")
    doubt = f"; * {why}: no measure of this quant, and in no ranking" if energy.tainted else ""
    return (
        f"energy: {significant(energy.joules_per_token)}{star} J/token, "
        f"{significant(energy.tok_s_per_w)}{star} tok/s/W ({energy.source}; {rest}){doubt}"
    )


def _placed(placed: Placed) -> str:
    """`layers 33/33 on the GPU; weights, KV and buffers 8.1 GB, the driver counts 8.3 GB`."""
    text = f"layers {placed.layers}/{placed.of} on the GPU"
    if placed.reserved is not None:
        text += f"; weights, KV cache and buffers {size(placed.reserved)}"
    if placed.counted is not None:
        text += f", the driver counts {size(placed.counted)}"
    if placed.doubtful and placed.gap is not None:
        text += (
            f": [!] {percent(placed.gap)} % apart, which may be the driver's own, another process's, or layers that "
            "are not where they are said to be"
        )
    return text


def _evidence(evidence: dict[str, float | str]) -> str:
    """The evidence in one paragraph. Of re-reads that there were none of, the share alone is told."""
    told = ((name, value) for name, value in evidence.items() if value != 0 or "%" in name)
    return "; ".join(f"{name} {_figure(name, value)}" for name, value in told)


def _figure(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return clean(value)
    if "bytes" in name and "%" not in name:
        return size(value)
    return significant(value) if value != int(value) else str(int(value))
