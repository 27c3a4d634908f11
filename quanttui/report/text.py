"""The report for people: plain text, no colour, at most 120 columns, fit for a terminal and for pasting."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple

from quanttui.format import ABSENT, clean, duration, gib, percent, significant, size
from quanttui.state import State
from quanttui.summary import ArmSummary, Delta, Quality, Speed, Summary, peak, summarize, tainted

WIDTH = 120

_ASCII = str.maketrans({"±": "+-", "Δ": "d", "…": "...", ABSENT: "-", "×": "x", "–": "-", "—": "-"})

_HEADS = (
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
_LEFT = ("quant", "verdict")
_ENERGY, _VERDICT = 10, 11

_SEE_STDERR = "All that it said is in the session's stderr folder; run this quant alone to see whether it repeats."
_WAY_OUT = {"crashed": _SEE_STDERR, "timeout": _SEE_STDERR}


class Line(NamedTuple):
    """A paragraph: what it says, how far it is indented, and how much further its later lines are."""

    text: str
    indent: int = 0
    more: int = 2


def report(state: State, over: bool = False, ascii: bool = False) -> str:
    """The session as text, a newline at its end.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        ascii: nothing but ASCII.
    """
    found = summarize(state, over)
    safe = _to_ascii if ascii else str
    paragraphs = [_header(state, found, over), _legend(found), *(_arm(state, arm) for arm in found.arms)]
    sections = ["\n".join(_wrapped(safe(line.text), line) for line in lines) for lines in paragraphs]
    sections.insert(1, "\n".join(_table(found, safe)))
    return "\n\n".join(filter(None, sections)) + "\n"


def brief(state: State) -> str:
    """What fits a screen once a sweep has ended: the table, what is to be noted, what failed. A newline at its end."""
    found = summarize(state, over=True)
    failed = [Line(f"{arm.id} {arm.outcome}: {clean(arm.error)}") for arm in found.arms if arm.error]
    lines = [*(Line(f"note: {note}") for note in found.notes), *failed, *_legend(found)]
    return "\n".join(_table(found, str)) + "\n\n" + "\n".join(_wrapped(line.text, line) for line in lines) + "\n"


def _to_ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_ASCII))
    return "".join(char if char.isascii() else "?" for char in plain if not unicodedata.combining(char))


def _wrapped(text: str, line: Line) -> str:
    first, later = " " * line.indent, " " * (line.indent + line.more)
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def _header(state: State, found: Summary, over: bool) -> Iterator[Line]:
    yield Line(f"quanttui report: {found.model or 'no model'}")
    for name, text in _facts(state, found, over):
        yield Line(f"{name:<9}{text}", more=9)


def _facts(state: State, found: Summary, over: bool) -> Iterator[tuple[str, str]]:
    host, build, asked = found.host, found.build, state.settings
    if host is not None:
        memory = size(host.memory) + (f", limited to {size(host.memory_limit)}" if host.memory_limit else "")
        gpus = "".join(f", {clean(gpu.name)} ({size(gpu.memory)})" for gpu in host.gpus)
        cpu = f"{clean(host.cpu)}, {host.cores} cores ({host.threads} threads), {memory} of memory"
        yield "host", f"{clean(host.name)}: {clean(host.os)}, {cpu}{gpus}"
    if build is not None:
        offload = "with GPU offload" if build.gpu_offload else "CPU only"
        versions = f"llama.cpp {clean(build.llama_cpp)}, llama-cpp-python {clean(build.llama_cpp_python)}, {offload}"
        yield "build", f"quanttui {clean(build.quanttui)}, {versions}"
    yield "settings", (
        f"prompt {asked.prompt}, decode {asked.decode} at depth {', '.join(map(str, asked.depths))}, "
        f"{asked.repetitions} repetitions; "
        f"{asked.threads} threads, GPU layers asked {'all' if asked.gpu_layers < 0 else asked.gpu_layers}, "
        f"batch {asked.batch}/{asked.ubatch}, flash attention {clean(asked.flash_attn)}, KV {clean(asked.kv)}, "
        f"perplexity n_ctx {asked.context}, chunks {'all' if asked.chunks is None else asked.chunks}, seed {asked.seed}"
    )
    if asked.text:
        sha256 = f", sha256 {clean(asked.text_sha256, 64)}" if asked.text_sha256 else ""
        yield "text", clean(asked.text) + sha256
    ended = clean(state.closed) or ("interrupted" if over else "still running")
    yield "session", f"{ended}, {duration(state.t)}"
    for note in found.notes:
        yield "note", note


def _table(found: Summary, safe: Callable[[str], str]) -> list[str]:
    rows = [[safe(cell) for cell in _row(arm, found.base)] for arm in found.arms]
    if not rows:
        return []
    shown = [column for column in range(len(_HEADS)) if column != _ENERGY or any(row[_ENERGY] for row in rows)]
    heads = [[safe(head[line]) for head in _HEADS] for line in (0, 1)]
    widths = {column: max(len(row[column]) for row in heads + rows) for column in shown}
    spare = WIDTH - sum(widths.values()) - 2 * (len(shown) - 1)
    if spare < 0:
        widths[_VERDICT] = max(len("verdict"), widths[_VERDICT] + spare)
    return [_line(row, widths)[:WIDTH].rstrip() for row in heads + rows]


def _line(row: list[str], widths: dict[int, int]) -> str:
    return "  ".join(
        row[column][:width].ljust(width) if _HEADS[column][0] in _LEFT else row[column].rjust(width)
        for column, width in widths.items()
    )


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
        _quality(arm.perplexity),
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
    error = f"±{significant(delta.percent_error, 2)}" if delta.percent_error is not None else ""
    return f"{delta.percent:+.2f}{error}{'…' if quality and quality.running else ''}"


def _verdict(arm: ArmSummary) -> str:
    words = f"{arm.verdicts[0].glyph} {arm.verdicts[0].words}" if arm.verdicts else ""
    if arm.outcome == "ok" or (arm.outcome == "oom" and words):
        return words or "ok"
    if arm.outcome == "running":
        return f"{words} …".strip()
    return f"{arm.outcome}, {words}" if words else arm.outcome


def _legend(found: Summary) -> Iterator[Line]:
    if not found.arms:
        return
    yield Line("prompt, gen: ± one standard deviation (n-1) over the repetitions.")
    yield Line("perplexity: ± one standard error over the scored tokens, as llama-perplexity prints it.")
    if any(arm.delta for arm in found.arms):
        yield Line(
            f"Δppl: against {found.base}, paired over the chunks that both have scored; ± one standard error, the "
            "chunk as the unit."
        )
    yield Line("bus: active bytes per token x tok/s, and that as a share of the bandwidth found next to the arm.")
    yield Line("peak: the most memory held, host and devices together.")
    marks = {
        "* contaminated, not this quant's speed: see its verdict": any(
            arm.tainted or tainted(arm.verdicts, "prompt") for arm in found.arms
        ),
        "… still running": any(arm.outcome == "running" for arm in found.arms),
        "~ estimated": any(arm.bits_per_weight is None and arm.bytes is not None for arm in found.arms),
        f"{ABSENT} not measured": True,
    }
    yield Line("; ".join(mark for mark, shown in marks.items() if shown) + ".")


def _arm(state: State, arm: ArmSummary) -> Iterator[Line]:
    """What stands below the table of an arm; nothing for one that has not begun."""
    if arm.outcome == "planned":
        return
    types = ", ".join(f"{name} {count}" for name, count in sorted(arm.tensor_types.items(), key=lambda kv: -kv[1]))
    yield Line(f"{arm.id}: {arm.outcome}, {size(arm.bytes)}" + (f", tensors {types}" if types else ""))
    if arm.label_note:
        yield Line(f"label: {arm.label_note}", 2)
    if arm.error:
        way_out = _WAY_OUT.get(arm.outcome)
        yield Line(f"error: {arm.error}" + (f". {way_out}" if way_out else ""), 2)
    for text in _last_words(state, arm):
        yield Line(f"| {text}", 4)
    if arm.reproduced:
        yield Line(f"run again in a fresh process: {arm.reproduced}", 2)
    if arm.energy:
        yield Line(_energy(arm), 2)
    for verdict in arm.verdicts:
        place = f"{verdict.phase}, " if verdict.phase else ""
        yield Line(f"{verdict.glyph} {place}{verdict.code}: {clean(verdict.sentence, 600)}", 2)
        yield Line(clean(verdict.advice), 7, 0)
        yield Line(_evidence(verdict.evidence), 7, 0)


def _last_words(state: State, arm: ArmSummary) -> list[str]:
    """The end of a failed engine's stderr."""
    known = next((one for one in state.arms.values() if clean(one.id, 80) == arm.id), None)
    failed = known.attempt.failed if known and known.attempt else None
    return [clean(line) for line in failed.stderr] if failed and arm.outcome not in ("ok", "running") else []


def _energy(arm: ArmSummary) -> str:
    energy = arm.energy
    if energy is None or energy.joules_per_token is None:
        return f"energy: the {energy.source if energy else 'counter'} gave nothing to go by"
    per_watt = significant(energy.tok_s_per_w)
    return f"energy: {significant(energy.joules_per_token)} J/token, {per_watt} tok/s/W ({energy.source})"


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
