"""A dossier says everything about one quant, at every size, and lets nothing through that is unsafe to print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from quanttui import events as e
from quanttui import state as fold
from quanttui.diagnosis import thresholds
from quanttui.diagnosis.case import CODES
from quanttui.format import clock
from quanttui.summary import summarize
from quanttui.tui import dossier, theming
from quanttui.tui.dossier import figures, judged
from quanttui.tui.dossier.forms import Bar, Dossier, Fact, Grid, Lane, Section
from quanttui.tui.glyphs import SETS, Glyphs
from quanttui.tui.widgets import dossier as widget

GOLDEN = Path(__file__).parent / "snapshots"
BASE = builders.Arm("Q8_0")
SWAPPED = builders.Arm(
    "Q5_K_M", tok_s=3.0, swap=0.021, only=(1, 2), disturbed=1, after=32.0, watts=40.0, kld=0.01, ppl=8.1,
    kernels={"Q5_K_M": 50.0}, imatrix="imatrix.gguf", label_note="half of its tensors are Q8_0",
)  # fmt: skip
TO_COME = builders.Arm("Q4_K_S", planned_only=True)
STDERR = ("llama_model_loader: loaded meta data", "", "  load_tensors: offloading 0 layers")
ASKED = builders.settings(tasks=("speed", "ppl", "kld"), depths=(0, 1024), thresholds=(("contaminated", 0.015),))
SESSION = builders.state(BASE, SWAPPED, TO_COME, settings=ASKED)
SIZES = [(40, 10), (80, 24), (120, 40), (150, 30), (200, 50)]
HOSTILE = {
    "escape": "\x1b[31mred\x1b[0m\x07",
    "markup": "[red]x[/red][link=file:///etc/passwd]",
    "right-to-left": "\u202eabc\u2066 \u05d0\u05d1",
    "wide": "日本語" * 30,
    "long": "a" * 300,
    "combining": "e\u0301\u200d\u200b" * 20,
    "lines": "one\ntwo\r\nthree\u2028four\x85five",
}


def made(state: fold.State, arm: str, **options: Any) -> Dossier:
    return dossier.of(state, summarize(state), arm, **options)


def text(line: Any) -> str:
    return "".join(part for part, _ in line)


def whole(one: Dossier, width: int = 120, used: Glyphs = SETS["braille"]) -> str:
    """All lines of a dossier."""
    lines = widget.most(one, width, 1, used)
    return "\n".join(text(line).rstrip() for line in widget.draw(one, width, lines + 1, used)) + "\n"


def block(one: Dossier, title: str, width: int = 120) -> str:
    """The lines of one section, blanks in a row taken together."""
    mine = msgspec.structs.replace(one, sections=tuple(s for s in one.sections if s.title.startswith(title)))
    return " ".join(" ".join(whole(mine, width).splitlines()[1:]).split())


_MADE = made(SESSION, "Q5_K_M", stderr=STDERR)


def strings(one: Any) -> Iterator[str]:
    """Every text in a dossier."""
    if isinstance(one, str):
        yield one
    elif isinstance(one, msgspec.Struct):
        for name in one.__struct_fields__:
            yield from strings(getattr(one, name))
    elif isinstance(one, tuple):
        for part in one:
            yield from strings(part)


@pytest.mark.parametrize("size", ["40x10", "80x24", "120x40", "200x50", "120xall", "80xall"])
def test_the_dossier_of_a_swapped_quant_is_the_expected_one(size: str) -> None:
    """The files in tests/snapshots are written anew with QUANTTUI_TEST_REGENERATE=1, to be read before kept. Settings,
    of which any feature may add one, are left out."""
    one = msgspec.structs.replace(_MADE, sections=_MADE.sections[:-1])
    width, rows = size.split("x")
    if rows == "all":
        drawn = whole(one, int(width))
    else:
        lines = widget.draw(one, int(width), int(rows), SETS["braille"])
        drawn = "\n".join(text(line).rstrip() for line in lines) + "\n"
        assert len(lines) == int(rows)
    path = GOLDEN / f"dossier-{size}-braille.txt"
    if os.environ.get("QUANTTUI_TEST_REGENERATE"):
        path.write_text(drawn, encoding="utf-8")
    assert drawn == path.read_text(encoding="utf-8")


# --- what it says ---------------------------------------------------------------------------------------------------


def test_the_sections_stand_in_their_order() -> None:
    titles = [one.title for one in made(SESSION, "Q5_K_M").sections]
    assert titles == [
        "quant", "figures, tok/s", "verdicts", "contaminated stretches", "roofline", "tensor types", "memory",
        "timeline", "perplexity", "energy", "stderr", "settings",
    ]  # fmt: skip


def test_exactly_the_repetitions_that_a_contaminated_stretch_touches_carry_a_star() -> None:
    one = made(SESSION, "Q5_K_M")
    figures = next(section for section in one.sections if section.title.startswith("figures"))
    gen = [item for item in figures.items if isinstance(item, Fact)]
    at = next(place for place, item in enumerate(gen) if item.label == "gen @0")
    each = next(item for item in gen[at:] if item.label == "  each")
    assert ["*" in rate for rate, _ in each.words] == [False, True, True, False, False]


def test_repetitions_that_were_disturbed_are_counted() -> None:
    assert "1 repetition done again" in block(made(SESSION, "Q5_K_M"), "figures")
    assert "done again" not in block(made(SESSION, "Q8_0"), "figures")


def test_of_many_repetitions_those_between_are_told_by_their_range() -> None:
    many = builders.state(builders.Arm("Q8_0", repetitions=90, spread=0.1, tokens=4))
    said = block(made(many, "Q8_0"), "figures")
    assert f"… {90 - figures.EACH} more, " in said
    assert len(said) < 1500


def test_a_verdict_is_spelled_out_with_evidence_thresholds_advice_and_cost() -> None:
    said = block(made(SESSION, "Q5_K_M"), "verdicts")
    verdict = summarize(SESSION).arms[1].verdicts[0]
    assert f"[!!] {verdict.words} gen" in said and verdict.code in said
    assert verdict.sentence in said and verdict.advice in said
    assert "cost: about" in said
    assert "contaminated 1.5 % (moved from 1 %), edge 0.2 %" in said
    for name, value in verdict.evidence.items():
        if value != 0:
            assert name in said


def test_evidence_that_verdicts_on_a_phase_share_is_told_once() -> None:
    state = builders.state(replace(SWAPPED, page_in=0.09, only=()))
    one = made(state, "Q5_K_M")
    assert sum(v.phase == "decode" for v in summarize(state).arms[0].verdicts) == 2
    assert block(one, "verdicts").count("own CPU share of threads x wall") == len(
        {v.phase for v in summarize(state).arms[0].verdicts}
    )


def test_every_code_has_its_thresholds_and_each_of_them_exists() -> None:
    assert set(judged.LINES) == set(CODES)
    known = set(thresholds.Thresholds.__struct_fields__)
    assert {name for names in (*judged.LINES.values(), judged.TOO_SHORT) for name in names} <= known


def test_contaminated_stretches_are_told_with_session_times() -> None:
    said = block(made(SESSION, "Q5_K_M"), "contaminated")
    begun = next(span.start for span in SESSION.spans if span.arm == "Q5_K_M" and span.phase == "decode")
    first = SESSION.arms["Q5_K_M"].attempts[0].decode[1].at
    assert begun < first and f"gen @0 swap-contaminated {clock(first)}" in said
    assert "2.1 % re-read" in said
    assert block(made(SESSION, "Q8_0"), "contaminated").endswith("none")


@pytest.mark.parametrize(
    ("how", "said"),
    [("measured", "33.0 GB/s measured before it"), ("looked up", "33.0 GB/s looked up"),
     ("configured", "33.0 GB/s configured")],
)  # fmt: skip
def test_a_ceiling_has_the_word_for_how_it_is_known(how: str, said: str) -> None:
    assert said in block(made(builders.state(replace(BASE, ceiling_how=how)), "Q8_0"), "roofline")


def test_a_ceiling_that_is_absent_says_why_and_nothing_is_predicted() -> None:
    said = block(made(builders.state(replace(BASE, ceiling=None)), "Q8_0"), "roofline")
    assert "absent: too little memory is free to measure it" in said
    assert "predicted nothing: " in said


def test_what_earlier_sessions_measured_is_called_remembered() -> None:
    log = builders.events(BASE)
    earlier = e.Ceiling(arm="", how="remembered", gb_s=31.5, threads=2)
    state = fold.fold([log[0], earlier, *log[1:]])
    assert "remembered 31.5 GB/s in earlier sessions" in block(made(state, "Q8_0"), "roofline")


def test_the_active_bytes_are_split_without_a_rest() -> None:
    """The bars of types, KV cache and state add up to one."""
    section = next(one for one in made(SESSION, "Q5_K_M").sections if one.title == "roofline")
    assert sum(item.share for item in section.items if isinstance(item, Bar)) == pytest.approx(1.0)


def test_tensor_types_are_shares_of_all_bytes() -> None:
    section = next(one for one in made(SESSION, "Q5_K_M").sections if one.title == "tensor types")
    assert sum(item.share for item in section.items if isinstance(item, Bar)) == pytest.approx(1.0)


def test_layers_on_a_gpu_are_placed_with_both_counts() -> None:
    on_gpu = builders.Arm(
        "Q8_0", gpu_layers=23, buffers={"CUDA0": 1_300_000_000, "CUDA_Host": 1_000_000},
        gpu={"mem_used": 2.0e9, "util": 97.0}, gpu_before={"mem_used": 1e8},
    )  # fmt: skip
    said = block(made(builders.state(on_gpu), "Q8_0"), "memory")
    assert "23 of 23 layers on the GPU" in said
    assert "[!] reserved by llama.cpp 1.21 GiB, counted by the driver 1.77 GiB" in said
    assert "CUDA0 1.21 GiB" in said


def test_every_phase_is_in_the_timeline_with_its_attempt() -> None:
    state = builders.state(builders.Arm("Q8_0", again=(17.1,)))
    section = next(one for one in made(state, "Q8_0").sections if one.title == "timeline")
    lane, grid = section.items[:2]
    spans = [span for span in state.spans if span.arm == "Q8_0"]
    assert isinstance(lane, Lane) and len(lane.stretches) == len(spans)
    assert isinstance(grid, Grid) and len(grid.rows) == len(spans)
    assert any(row[0][0] == "gen #2" for row in grid.rows)


def test_thousands_of_turns_are_told_by_phase() -> None:
    state = builders.state(BASE, closed=None)
    begin = state.t
    for turn in range(3000):
        at = begin + turn
        state.spans.append(fold.Span("Q8_0", ("prompt", "decode")[turn % 2], at, end=at + 0.5))
    state.t = begin + 3000
    said = block(made(state, "Q8_0"), "timeline")
    assert "gen 1501 turns" in said
    assert len(said) < 2000


def test_each_interval_says_what_kind_it_is() -> None:
    said = block(made(SESSION, "Q5_K_M"), "perplexity")
    assert "(one standard error over the tokens), 8 of 8 chunks" in said
    assert "against Q8_0, paired over 8 chunks; 95 % confidence sequence" in said
    assert "corrected for covariance" in said
    assert "against Q8_0's logits; 95 % confidence sequence" in said
    assert "this is the base" in block(made(SESSION, "Q8_0"), "perplexity")


def test_a_contaminated_energy_is_marked_and_a_missing_counter_named() -> None:
    assert "* contaminated: no measure of this quant" in block(made(SESSION, "Q5_K_M"), "energy")
    assert "no counter" in block(made(builders.state(BASE), "Q8_0"), "energy")


def test_of_stderr_the_last_lines_are_shown_and_the_log_stands_in_for_them() -> None:
    said = whole(made(SESSION, "Q8_0", stderr=[f"line {k}!" for k in range(1000)]))
    assert "line 999!" in said and "line 800!" in said and "line 799!" not in said
    failed = builders.state(builders.Arm("Q8_0", fails="crashed", stderr=("GGML_ASSERT failed",)))
    assert "GGML_ASSERT failed" in block(made(failed, "Q8_0"), "stderr")
    assert "nothing at hand" in block(made(SESSION, "Q8_0"), "stderr")


def test_a_torn_first_line_of_stderr_is_left_out() -> None:
    assert dossier.tail(b"rn\nsecond\xff\nthird\n", whole=False) == ("second\ufffd", "third")
    assert dossier.tail(b"first\nsecond", whole=True) == ("first", "second")
    assert dossier.tail(b"", whole=False) == ()


def test_every_setting_is_told() -> None:
    section = next(one for one in made(SESSION, "Q8_0").sections if one.title == "settings")
    labels = [item.label for item in section.items if isinstance(item, Fact)]
    assert set(SESSION.settings.__struct_fields__) <= set(labels)
    assert "gpu_layers all → 0" in block(made(SESSION, "Q8_0"), "settings")


# --- what is missing ------------------------------------------------------------------------------------------------


def test_of_a_quant_that_has_not_begun_every_section_says_so() -> None:
    one = made(SESSION, "Q4_K_S")
    running = builders.state(BASE, TO_COME, closed=None)
    open_, over = (dossier.of(running, summarize(running, over=over), "Q4_K_S") for over in (False, True))
    assert all(section.items for section in (*one.sections, *open_.sections))
    assert "not yet: it has not begun" in block(open_, "figures")
    assert "none: skipped" in block(over, "figures")
    assert "~" in block(one, "quant") and "not known" in block(one, "quant")
    for title in ("roofline", "tensor types"):
        assert "not known before the file's header is read" in block(one, title)


def test_a_plan_without_a_phase_says_that() -> None:
    state = builders.state(BASE, settings=builders.settings(tasks=("ppl",), decode=0, prompt=0))
    assert "gen not measured: the plan has none" in block(made(state, "Q8_0"), "figures")


def test_a_quant_that_is_not_known_at_the_moment_is_no_error() -> None:
    said = whole(dossier.of(fold.State(), summarize(fold.State()), "Q8_0"))
    assert "knows no such quant" in said


@pytest.mark.parametrize("arms", [(BASE, SWAPPED), (replace(BASE, fails="oom", fails_in="load"),)])
def test_at_every_moment_of_a_session_there_is_a_dossier(arms: tuple[builders.Arm, ...]) -> None:
    for place, state in enumerate(builders.states(builders.events(*arms))):
        if place % 7 == 0:
            one = made(state, arms[-1].name)
            assert all(cell_len(text(line)) == 80 for line in widget.draw(one, 80, 24, SETS["braille"]))


# --- how it is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", SETS.values(), ids=str)
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_names_and_stderr_never_leave_their_cells(words: str, width: int, height: int, used: Glyphs) -> None:
    arm = builders.Arm(
        "Q8_0", id=words, label_note=words, imatrix=words, stderr=(words,), fails="crashed", error=words,
        kernels={words: 5.0}, buffers={words: 10**9},
    )  # fmt: skip
    state = builders.state(arm, builders.Arm("Q4_K_M"), settings=builders.settings(text=words, base=words))
    one = made(state, words, stderr=[words] * 3)
    assert all(part.isprintable() for part in strings(one))
    for top in (0, 30, 10**6):
        lines = widget.draw(one, width, height, used, top)
        assert [cell_len(text(line)) for line in lines] == [width] * height
        assert all(text(line).isprintable() for line in lines)
        assert not used.plain or all(text(line).isascii() for line in lines)
    if words == HOSTILE["markup"]:
        assert "[red]x[/red]" in whole(one, 200)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 220), st.integers(1, 60), st.integers(-10, 1000), st.sampled_from(sorted(SETS)))
def test_a_screen_of_any_size_and_place_is_filled_exactly(width: int, height: int, top: int, used: str) -> None:
    lines = widget.draw(_MADE, width, height, SETS[used], top)
    assert [cell_len(text(line)) for line in lines] == [width] * height


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_scrolling_page_by_page_shows_every_line_once(width: int, height: int) -> None:
    used, body = SETS["braille"], []
    lowest = widget.most(_MADE, width, height, used)
    for top in range(0, lowest + 1):
        body.append(text(widget.draw(_MADE, width, height, used, top)[1]))
    body += [text(line) for line in widget.draw(_MADE, width, height, used, lowest)[2:]]
    assert body == [text(line) for line in widget.draw(_MADE, width, len(body) + 1, used)[1:]]
    assert widget.draw(_MADE, width, height, used, 10**6) == widget.draw(_MADE, width, height, used, lowest)


def test_the_place_among_all_lines_is_told() -> None:
    used = SETS["braille"]
    count = widget.most(_MADE, 80, 1, used)
    assert text(widget.draw(_MADE, 80, 24, used, 5)[0]).rstrip().endswith(f"line 6–28 of {count}")
    assert f"1–9 of {widget.most(_MADE, 40, 1, used)}" in text(widget.draw(_MADE, 40, 10, used)[0])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_from_section_to_section_and_back_passes_every_title(width: int) -> None:
    used, height, top, seen = SETS["braille"], 2, 0, []
    for _ in _MADE.sections:
        seen.append(top)
        top = widget.section(_MADE, width, height, used, top, 1)
    back = [widget.section(_MADE, width, height, used, top, -1)]
    while back[-1]:
        back.append(widget.section(_MADE, width, height, used, back[-1], -1))
    assert set(seen) - {top} == set(back)
    assert len(back) == len(_MADE.sections) or width >= widget.TWO
    assert widget.section(_MADE, width, height, used, top, 1) == widget.most(_MADE, width, height, used)


def test_two_columns_hold_what_one_holds() -> None:
    def words(width: int) -> list[str]:
        lines = whole(msgspec.structs.replace(_MADE, sections=SHORT), width).splitlines()[1:]
        return sorted(word for line in lines for word in line.replace("│", " ").replace("─", " ").split())

    assert words(widget.TWO) == words(widget.TWO - 80)


SHORT = (
    Section("one", (Fact("a", (("first second", "text"),)),)),
    Section("two", (Fact("b", (("third", "text"),)), Fact("", (("fourth", "text"),)))),
    Section("three", (Fact("c", (("fifth", "text"),)),), wide=True),
)


@pytest.mark.parametrize("width", [1, 7, 8, 20, 33, 60, 120])
@pytest.mark.parametrize("indent", [0, 4])
def test_folded_lines_hold_every_character(width: int, indent: int) -> None:
    spans = (("x" * 100 + " some words ", "text"), ("日本" * 20, "dim"))
    lines = widget.fold(spans, width, indent)
    if width >= 8:
        assert "".join("".join(text(line).split()) for line in lines) == "".join(text(spans).split())
        assert all(cell_len(text(line).rstrip()) <= width for line in lines)


def test_a_share_that_is_not_nothing_is_seen() -> None:
    def bar(share: float) -> str:
        one = Section("x", (Bar("a", share, (("w", "text"),), "speed"),))
        return block(Dossier("a", "·", "ok", "dim", "m", (one,)), "x")

    assert "█" in bar(1e-9) and "░" in bar(1e-9)
    assert "█" not in bar(0.0) and "░" not in bar(1.0)


def test_every_role_is_a_themes() -> None:
    roles = {role for line in widget.draw(_MADE, 200, 500, SETS["braille"]) for _, role in line}
    assert roles <= {"", *theming.COLOURS}


def test_a_dossier_is_json() -> None:
    again = msgspec.json.decode(msgspec.json.encode(_MADE), type=Dossier)
    assert again == _MADE
