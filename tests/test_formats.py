"""Formats of the report: Markdown stays what it says, CSV computes nothing, llama-bench's keys are kept."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from quanttui import quants
from quanttui import state as fold
from quanttui.format import clean
from quanttui.report import bench, markdown
from quanttui.report import csv as as_csv
from quanttui.summary import summarize

NASTY = "a|b`c`<img src=x>[x](http://evil)*b* _u_ @somebody ~~no~~ $m$ &lt; www.evil.com\x1b[31m\r\n# x"
MIXED = builders.state(
    builders.Arm("F16", tok_s=9.5, ppl=8.0, tokens=16),
    builders.Arm("Q8_0", tok_s=18.0, ppl=8.01, watts=40.0, tokens=16, kld=0.001),
    builders.Arm("Q4_K_M", tok_s=4.0, swap=0.021, ppl=8.3, tokens=16, label_note=NASTY),
    builders.Arm("Q2_K", fails="crashed", fails_in="prompt", error=f"=cmd {NASTY}", id=f"=Q2_K {NASTY}"),
    builders.Arm("Q3_K_S", id="-5", tok_s=12.0, tokens=16),
    notes=(NASTY, "=1+1"),
    settings=builders.settings(depths=(0, 4096)),
)


# --- Markdown -------------------------------------------------------------------------------------------------------

PARSER = MarkdownIt("gfm-like")


def shown(tokens: list[Any]) -> str:
    """The text that inline Markdown shows; fails where it is anything but text."""
    told = ""
    for token in tokens:
        if token.type == "html_inline":
            assert token.content == "<!-- -->"
        elif token.type in ("link_open", "link_close") and token.markup == "linkify":
            # GitHub makes no link of a bare domain, as this parser does.
            assert not str(token.attrs.get("href", "")).startswith(("http://www.", "https:", "mailto:"))
        else:
            assert token.type in ("text", "text_special"), token
            told += token.content
    return told


def inline(source: str, kind: str) -> list[Any]:
    """The one inline token of a paragraph, a list item or a table's only cell."""
    tokens = PARSER.parse(source)
    assert kind in {token.type for token in tokens}
    return [token for token in tokens if token.type == "inline"][-1].children or []


AWKWARD = st.text(alphabet=st.sampled_from(" \\`*_{}[]()<>#+-=.!|~$@&:/\n\t\"'a1www.https:mailto"), max_size=40)


@settings(max_examples=150, deadline=None)
@given(st.one_of(AWKWARD, st.text(max_size=30)))
def test_escaped_text_shows_just_itself_in_a_paragraph_an_item_and_a_cell(text: str) -> None:
    told = clean(text, 4000)
    if not told:
        return
    assert shown(inline(f"x {markdown.escape(text)} y", "paragraph_open")) == f"x {told} y"
    assert shown(inline(f"- {markdown.escape(text)}", "list_item_open")) == told
    assert shown(inline(f"> {markdown.escape(text)}", "blockquote_open")) == told
    assert shown(inline(f"| a |\n| --- |\n| {markdown.escape(text)} |", "td_open")) == told


def test_hostile_names_make_no_markup_and_keep_the_tables_width() -> None:
    tokens = PARSER.parse(markdown.report(MIXED))
    for token in tokens:
        for child in token.children or []:
            assert child.type not in ("link_open", "image", "em_open", "s_open", "code_inline"), child
    assert not any(token.type == "html_block" for token in tokens)
    widths: list[list[int]] = []
    for token in tokens:
        if token.type == "table_open":
            widths.append([])
        elif token.type == "tr_open":
            widths[-1].append(0)
        elif token.type in ("th_open", "td_open"):
            widths[-1][-1] += 1
    assert [len(set(rows)) for rows in widths] == [1, 1, 1] and len(widths[0]) == 6, widths


def test_what_is_contaminated_has_its_star_and_the_reason_below_the_table() -> None:
    found = markdown.report(MIXED)
    line = next(line for line in found.splitlines() if line.startswith("| Q4_K_M "))
    assert "\\*±" in line and "[=]" not in line
    reason = next(line for line in found.splitlines() if line.startswith("- \\* Q4_K_M: "))
    verdict = next(one for arm in summarize(MIXED).arms if arm.id == "Q4_K_M" for one in arm.verdicts)
    assert verdict.code in reason and found.index(reason) > found.index(line)
    assert "\\*" not in next(line for line in found.splitlines() if line.startswith("| Q8_0 "))


def test_markdown_says_what_was_measured_the_settings_and_the_advice() -> None:
    found = markdown.report(MIXED, advice=[("Take Q8_0", ["Because <b>."])])
    places = [found.index(mark) for mark in ("**host**", "### Take Q8_0", "| quant ", "### Settings")]
    assert places == sorted(places)
    assert "&lt;b&gt;" in found and "flash attention auto" in found and "llama.cpp b6401" in found
    assert found.endswith("\n") and "\x1b" not in found


def test_a_session_with_nothing_in_it_is_still_markdown() -> None:
    assert markdown.report(fold.State()).startswith("## quanttui: no model\n")


# --- CSV ------------------------------------------------------------------------------------------------------------


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv_has_a_row_for_each_arm_with_the_summarys_figures() -> None:
    text = as_csv.report(MIXED)
    rows, arms = table(text), summarize(MIXED).arms
    assert len(rows) == len(arms) == text.count("\r\n") - 1 and text.count("\n") == text.count("\r\n")
    for row, arm in zip(rows, arms, strict=True):
        assert None not in row and row["outcome"] == arm.outcome
        if arm.decode is not None:
            assert float(row["decode_tok_s"]) == arm.decode.tok_s
            assert row["decode_contaminated"] == ("true" if arm.tainted else "false")
        else:
            assert row["decode_tok_s"] == row["decode_contaminated"] == ""
        if arm.delta is not None:
            assert float(row["delta_ppl_pct"]) == arm.delta.percent
    assert {row["decode_contaminated"] for row in rows} == {"true", "false", ""}
    assert any(row["decode_d4096_tok_s"] for row in rows)


def test_no_cell_is_a_formula_and_numbers_stay_numbers() -> None:
    rows = table(as_csv.report(MIXED))
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
            assert not cell.startswith("-") or math.isfinite(float(cell))
    assert rows[3]["arm"].startswith("'=Q2_K") and rows[3]["error"].startswith("'=cmd")
    assert rows[4]["arm"] == "-5"


@given(st.text(max_size=20))
def test_any_text_comes_back_from_its_cell(text: str) -> None:
    cell = as_csv.cell(text)
    assert cell.removeprefix("'") == clean(text, 2000).removeprefix("'")
    assert "\n" not in cell and "\r" not in cell


def test_what_is_no_number_is_an_empty_cell() -> None:
    assert as_csv.cell(math.nan) == as_csv.cell(math.inf) == as_csv.cell(None) == ""
    assert float(as_csv.cell(0.1 + 0.2)) == 0.1 + 0.2 and as_csv.cell(-3) == "-3"


def test_a_session_without_arms_is_a_header() -> None:
    assert as_csv.report(fold.State()).count("\r\n") == 1


# --- llama-bench ----------------------------------------------------------------------------------------------------

TEXTS = ("build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "cpu_mask", "type_k",
         "type_v", "split_mode", "devices", "tensor_split", "tensor_buft_overrides", "load_mode", "lazy_mode",
         "test_time")  # fmt: skip
TRUTHS = ("cpu_strict", "no_kv_offload", "embeddings", "no_host", "repack")
RATES = ("avg_ts", "stddev_ts")
LISTS = ("samples_ns", "samples_ts")


def test_llama_benchs_keys_order_and_types_are_kept() -> None:
    rows = json.loads(bench.report(MIXED))
    assert rows
    for row in rows:
        assert tuple(row) == bench.FIELDS
        for key, value in row.items():
            kind = (str if key in TEXTS else bool if key in TRUTHS else float if key in RATES
                    else list if key in LISTS else int)  # fmt: skip
            assert type(value) is kind, key


def test_jsonl_says_what_json_says() -> None:
    lines = bench.lines(MIXED).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(bench.report(MIXED))
    assert json.loads(bench.report(fold.State())) == [] and bench.lines(fold.State()) == ""


def test_the_rates_are_those_of_the_repetitions() -> None:
    rows = {(one["model_filename"], one["n_gen"], one["n_depth"]): one for one in bench.rows(MIXED)}
    arm = next(arm for arm in summarize(MIXED).arms if arm.id == "Q8_0")
    assert arm.decode is not None and arm.decode.sd is not None
    row = rows["Q8_0.gguf", 16, 0]
    assert row["avg_ts"] == round(arm.decode.tok_s, 6) and row["stddev_ts"] == round(arm.decode.sd, 6)
    assert len(row["samples_ns"]) == arm.decode.n
    for ns, rate in zip(row["samples_ns"], row["samples_ts"], strict=True):
        assert 16e9 / ns == pytest.approx(rate, rel=1e-5)
    assert ("Q8_0.gguf", 16, 4096) in rows, "each depth is a test"
    assert row["test_time"].startswith("2023-11-14T22:1") and row["test_time"].endswith("Z")
    assert not any(name.startswith("=") for name, *_ in rows), "an arm that was not timed has no test"


def test_the_build_is_told_apart_by_what_is_known_of_it() -> None:
    def told(**build: Any) -> tuple[str, int]:
        row = bench.rows(builders.state(builders.Arm("Q8_0"), build=builders.build(**build)))[0]
        return row["build_commit"], row["build_number"]

    assert told(llama_cpp="5163 (8cf427ff)") == ("8cf427ff", 5163)
    assert told(llama_cpp="b6401") == ("0.3.36", 6401)
    assert told(llama_cpp="0.5.0-dev", llama_cpp_python="0.3.37") == ("0.3.37", 0)
    assert told(llama_cpp="", llama_cpp_python="") == ("unknown", 0)


def test_what_the_form_cannot_say_is_warned_of() -> None:
    found = bench.warnings(MIXED)
    assert [line.partition(":")[0] for line in found] == ["Q4_K_M"] and "contaminated" in found[0]


def test_quants_are_called_what_llama_cpp_calls_them() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    for quant in quants.QUANTS:
        assert bench.TYPE_NAMES.get(quant.name, quant.name) == llama_cpp.llama_ftype_name(quant.ftype).decode()
