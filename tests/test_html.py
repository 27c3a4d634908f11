"""The page and the plots: the same bytes for a log, no markup and no address but their own, the summary's figures."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import builders
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.decide import study
from quanttui.decide.compare import Point, Scatter, front
from quanttui.errors import UserError
from quanttui.format import clean, significant
from quanttui.report import charts, html, markup, plots, svg
from quanttui.series import Series
from quanttui.summary import summarize

POCKET = Path(__file__).parents[1] / "sessions" / "pocket"

ANSWERS: dict[str, tuple[str, bool | None]] = {f"q{index}": (f"answer {index}", index % 3 > 0) for index in range(30)}
WORSE: dict[str, tuple[str, bool | None]] = {
    item: (text, right and index % 2 > 0) for index, (item, (text, right)) in enumerate(ANSWERS.items())
}
MIXED = (
    builders.Arm("F16", tok_s=9.5, ppl=8.0, tokens=16, watts=41.0, answers=ANSWERS, chunks=24),
    builders.Arm("Q8_0", tok_s=18.0, ppl=8.01, kld=0.001, watts=40.0, tokens=16, answers=ANSWERS, chunks=24),
    builders.Arm("Q6_K", tok_s=6.4, page_in=0.093, cpu=0.4, ppl=8.05, kld=0.004, watts=40.0, answers=WORSE),
    builders.Arm("Q4_K_M", tok_s=25.0, ppl=8.3, kld=0.02, gpu={"power": 200.0, "util": 90.0}, tokens=16),
    builders.Arm("Q2_K", fails="crashed", fails_in="prompt", error="signal 11", stderr=("ggml assert", "abort")),
    builders.Arm("Q3_K_S", fails="oom", fails_in="load"),
    builders.Arm("Q3_K_M", planned_only=True),
)
ASKED = builders.settings(tasks=("speed", "ppl", "kld", "prompts"), depths=(0, 1024))
LOG = builders.events(*MIXED, settings=ASKED)
STATE = fold.fold(LOG)


@cache
def made() -> str:
    return html.report(STATE, advice=(("Take Q8_0", ("Because it is <small>.", "Unless memory is short.")),))


DRAWN = {"svg", "title", "desc", "line", "text", "rect", "path", "circle", "defs", "pattern"}
TAGS = DRAWN | {
    "html", "head", "meta", "style", "body", "header", "nav", "main", "section", "div", "h1", "h2", "h3", "p", "a",
    "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "small", "span", "ul", "li", "figure",
    "figcaption", "pre", "br",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "id", "href", "scope", "tabindex", "role",
    "aria-label", "aria-labelledby", "viewbox", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "cx", "cy", "r",
    "d", "fill", "text-anchor", "patternunits",
}  # fmt: skip


class Parsed(HTMLParser):
    """Elements, their attributes and the text in them; fails where one is left open or is closed twice."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def own_markup_only(page: str) -> Parsed:
    """The page, once it is sure that nothing in it was made elsewhere."""
    parsed = Parsed(page)
    assert {tag for tag, _ in parsed.found} <= TAGS
    assert {name for _, attributes in parsed.found for name in attributes} <= ATTRIBUTES
    assert all((one.get("href") or "#").startswith("#") for _, one in parsed.found)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u200e\u202a-\u202e\u2066-\u2069]", page)
    return parsed


# --- the page -------------------------------------------------------------------------------------------------------


def test_a_log_gives_the_same_bytes_in_another_process_which_loads_no_screen_engine_or_plot() -> None:
    script = (
        "import hashlib, sys\nfrom pathlib import Path\n"
        "from quanttui import session\nfrom quanttui.report import html\n"
        "folder = Path(sys.argv[1]); page = html.report(session.load(folder), True, folder)\n"
        "assert not {'textual', 'rich', 'llama_cpp', 'matplotlib'} & set(sys.modules)\n"
        "print(hashlib.sha256(page.encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script, str(POCKET)], env=os.environ | {"PYTHONHASHSEED": seed, "TZ": zone},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }  # fmt: skip
    assert len(found) == 1


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    parsed = own_markup_only(made())
    policies = [one for one in parsed.of("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"https?:|//|@import|src=|javascript:", made().replace("0//", ""))
    assert set(re.findall(r"url\(([^)]*)\)", made())) <= {"#hatch", "#dots"}


HOSTILE = st.text(min_size=1, max_size=60) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x onerror=y>', "' onload='z", "]]>&lt;", "</style>", "\x1b[31m\u202ered"]
)


@settings(max_examples=25, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_no_name_becomes_markup(name: str, said: str, other: str) -> None:
    arms = (
        builders.Arm("F16", tokens=2, repetitions=2, chunks=6, ppl=8.0, answers={other: (said, True)}),
        builders.Arm("Q8_0", id=name, tokens=2, repetitions=2, chunks=6, ppl=8.2, kld=0.1, page_in=0.2, cpu=0.3,
                     label_note=said, answers={other: (said, False)}),
        builders.Arm("Q2_K", fails="crashed", error=said, stderr=(other,)),
    )  # fmt: skip
    asked = builders.settings(tasks=("speed", "ppl", "kld", "prompts"), prompt=16, text=other, digests=((name, said),))
    host = builders.host(name=said, cpu=other, gpus=(e.Gpu(name=name),))
    log = builders.events(*arms, settings=asked, host=host, build=builders.build(llama_cpp=said), notes=(other,))
    now = fold.fold(log)
    now.opened = msgspec.structs.replace(now.opened, model=name) if now.opened else None
    now.lost["power"] = said
    own_markup_only(html.report(now, advice=((name, (said, other)),)))


def test_what_is_read_is_what_was_named() -> None:
    arms = (builders.Arm("F16", tokens=4), builders.Arm("Q8_0", id="<b>&amp;\"'", tokens=4, ppl=8.1))
    assert "<b>&amp;\"'" in own_markup_only(html.report(builders.state(*arms))).cells


def test_every_figure_is_the_summarys_with_its_error() -> None:
    rows = [row for row in _rows(made()) if row and row[0] in {arm.quant for arm in MIXED}]
    for arm in summarize(STATE).arms:
        row = next(one for one in rows if one[0] == arm.id)
        if arm.decode is not None:
            radius = "" if arm.decode.radius is None else f" ±{significant(arm.decode.radius, 2)}"
            assert f"{significant(arm.decode.tok_s)}{'*' if arm.tainted else ''}{radius}" in row
        if arm.delta is not None:
            low, high = arm.delta.low, arm.delta.high
            span = "not known yet" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
            assert f"{arm.delta.percent:+.2f} [{span}]" in row
        if arm.perplexity is not None:
            assert f"{arm.perplexity.value:.4f} ±{significant(arm.perplexity.se, 2)}" in row


def _rows(page: str) -> list[list[str]]:
    each = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [[cell.strip() for cell in Parsed(f"<tr>{row}</tr>").cells] for row in each]


def test_what_is_contaminated_is_starred_hollow_and_on_no_front() -> None:
    bad = [arm.id for arm in summarize(STATE).arms if arm.tainted and arm.decode]
    assert bad == ["Q6_K"]
    row = next(one for one in _rows(made()) if one and one[0] == "Q6_K")
    energy = [cell for cell in row if re.fullmatch(r"[\d.]+\*", cell)]
    assert len(energy) == 4  # bus, MBU, J/token, tok/s/W
    assert any(cell.startswith("[!!] page-in") for cell in row)
    chart = svg.pareto(charts.points(summarize(STATE)))
    assert re.findall(r'<circle [^>]*class="mark hollow"><title>(\w+)', chart) == bad
    assert "Q6_K" not in {one.name for one in charts.points(summarize(STATE)).points if one.front}


def test_tables_have_captions_and_headings_with_a_scope() -> None:
    parsed = own_markup_only(made())
    assert len(parsed.of("caption")) == len(parsed.of("table")) > 4
    assert {one.get("scope") for one in parsed.of("th")} == {"col", "row"}


def test_charts_are_told_to_those_who_do_not_see_them() -> None:
    drawn = re.findall(r"<svg.*?</svg>", made(), re.S)
    assert len(drawn) >= 6
    ids = re.findall(r' id="([^"]*)"', made())
    assert len(ids) == len(set(ids))
    for one in drawn:
        root = ElementTree.fromstring(one)
        title, desc = list(root)[:2]
        assert (title.tag, desc.tag) == ("title", "desc")
        assert title.text and desc.text
        assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {desc.attrib['id']}"
        assert "nan" not in one and "inf " not in one


def test_what_was_measured_the_advice_and_all_figures_come_before_the_rest() -> None:
    order = re.findall(r'<section id="(\w+)"', made())
    assert order[:4] == ["measured", "advice", "figures", "speed"]
    assert made().index("Because it is &lt;small&gt;.") < made().index("<table>")
    assert {"perplexity", "tasks", "depths", "time", "evidence", "settings", "origin"} <= set(order)
    assert 'id="advice"' not in html.report(STATE)


def test_every_verdict_is_there_with_its_evidence() -> None:
    for arm in summarize(STATE).arms:
        for verdict in arm.verdicts:
            assert markup.safe(clean(verdict.sentence, 600)) in made()
            assert all(markup.safe(name) in made() for name, value in verdict.evidence.items() if value)
    assert "ggml assert\nabort" in made()


def test_settings_and_digests_are_there() -> None:
    for name in e.Settings.__struct_fields__:
        assert name == "digests" or f"<dt>{name.replace('_', ' ')}</dt>" in made()
    assert "cd" * 32 in made()
    assert "ab" * 32 in made()


def test_tasks_are_told_as_the_study_has_them() -> None:
    found = study.study(STATE, resamples=500)
    assert html.report(STATE, answers=found) == html.report(STATE, answers=found)
    page = html.report(STATE, answers=study.Study("F16", 0.01))
    assert 'id="tasks"' not in page
    assert "accuracy less that of F16, percentage points" in made()
    assert [row[1] for row in _rows(made()) if row[:1] == ["Q6_K"] and row[1:2] == ["10/30"]]


def test_percentiles_are_there_with_the_raw_folder_only() -> None:
    state = session.load(POCKET)
    assert "Percentiles of the KL divergence" in html.report(state, True, POCKET)
    assert "Percentiles of the KL divergence" not in html.report(state, True)


@pytest.mark.parametrize("count", [0, 1, 5, 40, len(LOG) // 2, len(LOG) - 1])
def test_a_session_that_has_only_begun_has_a_page(count: int) -> None:
    own_markup_only(html.report(fold.fold(LOG[:count])))
    own_markup_only(html.report(fold.fold(LOG[:count]), over=True))


def test_a_number_that_is_none_breaks_no_chart() -> None:
    log = [
        msgspec.structs.replace(one, nll=float("nan"), against=None) if isinstance(one, e.Perplexity) else one
        for one in builders.events(builders.Arm("F16", tokens=4), builders.Arm("Q8_0", tokens=4))
    ]
    now = fold.fold(log)
    now.wall = math.inf
    page = html.report(now)
    own_markup_only(page)
    assert not re.search(r'="[^"]*\bnan\b[^"]*"', "".join(re.findall(r"<(?:path|line|rect|circle) [^>]*>", page)))


def test_eleven_quants_take_less_than_two_megabytes() -> None:
    names = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M", "Q3_K_S", "Q2_K")
    arms = [builders.Arm(name, tok_s=40.0 + place, chunks=300, ppl=8 + place / 20, kld=0.01, page_in=0.03)
            for place, name in enumerate(names)]  # fmt: skip
    state = builders.state(*arms, settings=builders.settings(tasks=("speed", "ppl", "kld"), depths=(0, 4096)))
    assert len(html.report(state).encode()) < 2_000_000


# --- what charts show -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [LOG, builders.deciding()])
def test_a_curve_ends_in_the_summarys_figures(log: list[e.Event]) -> None:
    now = fold.fold(log)
    found = summarize(now)
    deltas = {arm.id: arm.delta for arm in found.arms if arm.delta}
    drawn = [one for one in charts.curves(now, found) if one.base]
    assert {one.arm for one in drawn} == set(deltas)
    for one in drawn:
        delta = deltas[one.arm]
        assert one.chunks[-1] == delta.chunks
        assert one.mean[-1] == pytest.approx(delta.percent, rel=1e-6)
        assert [one.low[-1], one.high[-1]] == [
            None if end is None else pytest.approx(end, rel=1e-6) for end in (delta.low, delta.high)
        ]
        assert len(one.chunks) <= charts.POINTS


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(-1e6, 1e6)), min_size=1, max_size=300))
def test_an_envelope_holds_every_bin_and_no_more_columns_than_it_may(readings: list[tuple[float, float]]) -> None:
    series = Series(width=0.5)
    for x, value in readings:
        series.add(x, value)
    trace = charts.envelope("x", series, 5000.0)
    means = [total / count for total, count in zip(series.sums, series.counts, strict=True) if count]
    assert min(one for one in trace.low if one is not None) == min(means)
    assert max(one for one in trace.high if one is not None) == max(means)
    assert len(trace.low) == len(trace.high) <= charts.BINS + 1
    for place, (low, high) in enumerate(zip(trace.low, trace.high, strict=True)):
        begin, end = place * trace.width, (place + 1) * trace.width
        seen = any(begin <= int(x / series.width) * series.width < end for x, _ in readings)
        assert (low is not None) == (high is not None) == seen


@given(st.lists(st.floats(-1e9, 1e9), max_size=20), st.booleans())
def test_an_axis_holds_all_values_between_its_round_marks(values: list[float], zero: bool) -> None:
    axis = charts.axis(values, zero=zero)
    assert axis.low < axis.high
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= value <= axis.high + slack for value in values)
    assert 2 <= len(axis.marks) <= 12
    assert list(axis.marks) == sorted(axis.marks)
    assert not zero or axis.low <= 0 <= axis.high


def test_a_bent_axis_keeps_the_order_and_tells_small_losses_apart() -> None:
    points = tuple(Point(str(value), 10.0, value) for value in (0.0, 0.004, 0.08, 1.3, 15.7))
    axis = charts.losses(Scatter(points, ""))
    places = [axis.share(one.quality) for one in points]
    assert axis.bend > 0
    assert places == sorted(places)
    assert places[2] - places[1] > 0.05 * (places[4] - places[3])


def test_a_timeline_of_many_turns_has_a_bounded_number_of_stretches_that_cover_the_session() -> None:
    log = builders.events(builders.Arm("F16", tokens=4), builders.Arm("Q8_0", tokens=4), closed=None)
    t, n = log[-1].t, len(log)
    for turn in range(3000):
        arm = ("F16", "Q8_0")[turn % 2]
        log.append(e.PhaseStarted(arm=arm, phase="decode", n=n + turn, t=t + turn))
    now = fold.fold(log)
    drawn = charts.timeline(now, summarize(now))
    assert len(drawn.runs) <= charts.BINS
    assert sum(run.end - run.start for run in drawn.runs) == pytest.approx(drawn.end, rel=0.02)
    assert len(drawn.bands) <= 2 * charts.BINS


def test_what_is_contaminated_is_hatched_where_the_readings_say_so() -> None:
    arm = builders.Arm("Q8_0", tok_s=8.0, tokens=64, repetitions=8, swap=0.05, only=(3, 4))
    now = builders.state(arm, settings=builders.settings(repetitions=8, decode=64))
    drawn = charts.timeline(now, summarize(now))
    done = now.arms["Q8_0"].attempts[0].decode
    exact = [band for band in drawn.bands if band.exact and band.verdict.phase == "decode"]
    assert exact
    slack = 2 * drawn.end / charts.BINS + 1
    assert min(band.start for band in exact) >= done[3].at - slack
    assert max(band.end for band in exact) <= done[5].at + slack
    assert {band.verdict.code for band in exact} == {"swap-contaminated"}


def test_names_of_points_do_not_overlap() -> None:
    rng = np.random.default_rng(3)
    points = tuple(Point(f"Q{k}_K_M", *rng.uniform((10, 0), (30, 5))) for k in range(11))
    chart = ElementTree.fromstring(svg.pareto(Scatter(front(points), "Δppl")))
    named = [one for one in chart.iter("text") if (one.text or "").startswith("Q")]
    boxes = [(float(one.attrib["x"]), float(one.attrib["y"]), 6.0 * len(one.text or "")) for one in named]
    assert len(boxes) == 11
    for place, (x, y, width) in enumerate(boxes):
        for left, top, other in boxes[:place]:
            assert abs(y - top) >= 10 or x >= left + other or left >= x + width


# --- markup ---------------------------------------------------------------------------------------------------------


@given(st.text(max_size=100))
def test_text_and_attributes_are_read_as_they_were_cleaned(text: str) -> None:
    parsed = Parsed(markup.element("td", text, title=text))
    assert parsed.cells == [clean(text, markup.LIMIT)]
    assert parsed.found == [("td", {"title": clean(text, markup.LIMIT)})]


def test_markup_is_never_cut_and_text_is() -> None:
    long = "x" * 3 * markup.LIMIT
    assert long in markup.element("path", d=markup.Markup(long))
    assert long not in markup.element("p", long)


# --- plots ----------------------------------------------------------------------------------------------------------


def test_plots_are_written_as_svg_and_png_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arms = (builders.Arm("F16", tokens=4, chunks=6), builders.Arm("Q8_0", tokens=4, chunks=6, page_in=0.1))
    now = builders.state(*arms)
    first, again = plots.write(now, tmp_path / "a"), plots.write(now, tmp_path / "b")
    expected = [f"{name}.{ending}" for name in ("pareto", "perplexity", "timeline") for ending in ("svg", "png")]
    assert [path.name for path in first] == expected
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes().startswith(b"\x89PNG") or ElementTree.fromstring(one.read_text()) is not None


def test_a_plot_takes_a_name_for_no_formula(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arms = (builders.Arm("F16", tokens=4, chunks=6), builders.Arm("Q8_0", id="$\\frac{$<x>", tokens=4, chunks=6))
    found = plots.write(builders.state(*arms), tmp_path)
    assert "$\\frac{$&lt;x&gt;" in found[0].read_text()


def test_nothing_to_show_is_no_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plots.write(fold.State(), tmp_path) == []


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"quanttui\[report\]") as raised:
        plots.write(STATE, tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: the plots cannot be written there"):
        plots.write(STATE, tmp_path / "file")
