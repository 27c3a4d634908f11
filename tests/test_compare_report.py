"""Which arms are compared, and how that is told; and reports that are the same byte for byte wherever they are made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import cli
from quanttui import events as e
from quanttui import state as fold
from quanttui.decide import compare
from quanttui.decide.compare import Chosen, Comparison
from quanttui.decide.study import study
from quanttui.errors import UserError
from quanttui.report import compare as told
from quanttui.summary import summarize

POCKET = Path(__file__).resolve().parent.parent / "sessions" / "pocket"

ANSWERS = {f"i{n}": ("7", n % 3 > 0) for n in range(30)}
WORSE = {f"i{n}": ("7", n % 3 > 0 and n % 4 > 0) for n in range(30)}
ARMS = (
    builders.Arm("F16", tok_s=9.0, ppl=8.0, repetitions=8, answers=ANSWERS),
    builders.Arm("Q8_0", tok_s=17.0, ppl=8.01, repetitions=8, answers=ANSWERS),
    builders.Arm("Q2_K", tok_s=31.0, ppl=9.5, repetitions=8, answers=WORSE, swap=0.03),
)
TASKS: dict[str, Any] = {"tasks": ("speed", "ppl", "prompts")}
HOSTILE = ("\x1b[31mred\x1b[0m", "[bold]up[/bold]", "\u202eevil\u202c", "模型" * 20, "x" * 300, "a\nb\tc\x00", "é👩‍👧")


def one(*arms: builders.Arm, session: str = "here", arm: str = "", **settings: Any) -> Chosen:
    state = builders.state(*arms, settings=builders.settings(**(TASKS | settings)))
    return Chosen(state, summarize(state), arm, session)


def made(*sessions: Chosen, base: str = "") -> list[Comparison]:
    return [compare.of(group, sessions) for group in compare.pick(sessions, base)]


def arms_of(found: list[list[Chosen]]) -> list[list[str]]:
    return [[f"{one.session}:{one.arm}" for one in group] for group in found]


# --- which arms -----------------------------------------------------------------------------------------------------


def test_of_one_session_all_arms_are_held_against_its_base() -> None:
    here = one(*reversed(ARMS))
    assert arms_of(compare.pick([here])) == [["here:F16", "here:Q2_K", "here:Q8_0"]]
    assert arms_of(compare.pick([here], "Q8_0")) == [["here:Q8_0", "here:Q2_K", "here:F16"]]


def test_of_two_sessions_the_same_quants_are_held_against_one_another() -> None:
    a, b = one(*ARMS, session="a"), one(*ARMS[:2], builders.Arm("Q4_K_M"), session="b")
    assert arms_of(compare.pick([a, b])) == [["a:F16", "b:F16"], ["a:Q8_0", "b:Q8_0"], ["a:Q2_K"], ["b:Q4_K_M"]]


def test_the_same_quant_under_another_name_is_found_where_it_is_the_only_one() -> None:
    a, b = one(builders.Arm("Q8_0")), one(builders.Arm("Q8_0", id="tiny-Q8_0"), session="b")
    assert arms_of(compare.pick([a, b])) == [["here:Q8_0", "b:tiny-Q8_0"]]
    b = one(builders.Arm("Q8_0", id="x"), builders.Arm("Q8_0", id="y"), session="b")
    assert arms_of(compare.pick([a, b])) == [["here:Q8_0"], ["b:x"], ["b:y"]]


def test_arms_that_are_named_come_as_they_were_named() -> None:
    a, b = one(*ARMS, session="a"), one(*ARMS, session="b")
    named = [msgspec.structs.replace(a, arm="Q2_K"), msgspec.structs.replace(b, arm="F16")]
    assert arms_of(compare.pick(named)) == [["a:Q2_K", "b:F16"]]
    assert arms_of(compare.pick([named[0], b])) == [["a:Q2_K", "b:F16", "b:Q8_0", "b:Q2_K"]]
    assert arms_of(compare.pick([a, b], "Q8_0"))[0][0] == "a:Q8_0"


def test_nothing_to_pick_from_and_no_such_base_are_said() -> None:
    with pytest.raises(ValueError, match="nothing was chosen"):
        compare.pick([])
    with pytest.raises(ValueError, match="Q5_0: no such arm: there are F16, Q8_0, Q2_K"):
        compare.pick([one(*ARMS)], "Q5_0")
    with pytest.raises(ValueError, match="has no arms"):
        compare.pick([one()])


QUANTS = st.lists(st.sampled_from(["F16", "Q8_0", "Q6_K", "Q2_K"]), min_size=1, unique=True)


@given(st.lists(QUANTS, min_size=1, max_size=4))
def test_every_arm_is_in_one_comparison_and_each_session_once_in_each(sessions: list[list[str]]) -> None:
    class Row(msgspec.Struct, frozen=True):
        id: str
        quant: str

    class Rows(msgspec.Struct, frozen=True):
        arms: tuple[Row, ...]
        base: str = ""
        floor: float | None = None

    chosen = [
        Chosen(fold.State(), Rows(tuple(Row(name, name) for name in names)), "", str(place))  # type: ignore[arg-type]
        for place, names in enumerate(sessions)
    ]
    groups = compare.pick(chosen)
    each = [(one.session, one.arm) for group in groups for one in group]
    assert sorted(each) == sorted((str(place), name) for place, names in enumerate(sessions) for name in names)
    if len(sessions) > 1:
        assert all(len({one.session for one in group}) == len(group) for group in groups)
        assert all(len({one.arm for one in group}) == 1 for group in groups)


# --- what is told ---------------------------------------------------------------------------------------------------


def test_what_differs_comes_before_any_figure_and_letters_stay_the_sessions() -> None:
    a = one(*ARMS, session="laptop")
    state = builders.state(
        builders.Arm("Q2_K"), host=builders.host(cpu="Apple M2"), settings=builders.settings(**TASKS, threads=8)
    )
    b = Chosen(state, summarize(state), "", "server")
    text = told.report(made(a, b))
    assert text.index("Apple M2") < text.index("tok/s")
    assert "cpu           A: Zen 4; B: Apple M2" in text and "threads       A: 2; B: 8" in text
    assert "A  laptop\nB  server\n" in text
    assert "A:F16: nothing to hold it against" in text and "B:Q2_K" in text
    found = told.data(made(a, b))
    assert found["sessions"] == [{"letter": "A", "name": "laptop"}, {"letter": "B", "name": "server"}]
    assert {"about": "host", "name": "cpu", "values": ["Zen 4", "Apple M2"]} in found["differences"]


def test_the_items_of_each_task_differ_by_their_own_digest() -> None:
    a = one(*ARMS, session="a", digests=(("mmlu", "aa" * 32), ("ner", "cc" * 32)))
    b = one(*ARMS, session="b", digests=(("mmlu", "bb" * 32), ("ner", "cc" * 32)))
    assert [each["name"] for each in told.data(made(a, b))["differences"]] == ["items of mmlu"]


def test_nothing_that_differs_is_said() -> None:
    assert "what differs: nothing" in told.report(made(one(*ARMS, session="a"), one(*ARMS, session="b")))


def test_figures_are_the_comparisons_and_a_contaminated_one_has_its_star() -> None:
    (found,) = made(one(*ARMS))
    text = told.report([found])
    for against in found.against:
        assert against.speed is not None and against.loss is not None
        assert f"{against.speed.ratio:.3f}" in text and f"{against.loss.percent:+.3f}" in text
    assert "31.0*" in text and "contaminated" in text
    plain = told.data([found])["comparisons"][0]
    assert [arm["name"] for arm in plain["arms"]] == ["F16", "Q8_0", "Q2_K"]
    assert plain["against"][1]["speed"]["call"] == "contaminated"
    assert plain["against"][0]["perplexity"]["percent"] == found.against[0].loss.percent  # type: ignore[union-attr]


def test_answers_are_held_against_one_another_as_the_study_has_them() -> None:
    here = one(*ARMS)
    (found,) = made(here)
    shifts = {each.name: each for each in compare.shifts(found)}
    for finding in study(here.state).findings:
        mine = shifts[finding.arm]
        assert (mine.n, mine.lost, mine.gained, mine.test) == (
            finding.n, finding.lost, finding.gained, finding.test
        )  # fmt: skip
        assert (mine.delta, mine.low, mine.high) == (finding.delta, finding.low, finding.high)
        assert (mine.p, mine.p_holm) == (finding.p, finding.p_holm)


def test_answers_to_other_words_are_counted_and_not_paired() -> None:
    a, b = one(*ARMS, session="a"), one(*ARMS, session="b")
    item = b.state.arms["F16"].items["prompts/i3"]
    b.state.arms["F16"].open_items()["prompts/i3"] = msgspec.structs.replace(item, prompt="other words")
    found = made(a, b)
    assert compare.shifts(found[0])[0].n == 29
    assert "B:F16 against A:F16: 2 answers have none to the same words" in told.report(found)


def test_entities_are_compared_by_their_pooled_f1() -> None:
    here = one(*ARMS)
    for name, spans in (("F16", (3, 1, 0)), ("Q8_0", (2, 2, 1)), ("Q2_K", (0, 4, 3))):
        items = here.state.arms[name].open_items()
        for key, answer in items.items():
            items[key] = msgspec.structs.replace(answer, spans=spans, correct=False)
    shifts = {each.name: each for each in compare.shifts(made(here)[0])}
    assert {each.measure for each in shifts.values()} == {"micro-F1"}
    assert shifts["Q8_0"].other == pytest.approx(4 / 7) and shifts["Q8_0"].first == pytest.approx(6 / 7)
    assert shifts["Q2_K"].delta == pytest.approx(-6 / 7) and shifts["Q2_K"].high < 0


@pytest.mark.parametrize("name", HOSTILE)
def test_the_text_keeps_its_width_and_is_safe_whatever_names_come(name: str) -> None:
    a = one(builders.Arm("Q8_0", id=name), builders.Arm("F16", answers=ANSWERS), session=name)
    b = one(*ARMS, session=name, threads=8, text=name)
    for ascii in (False, True):
        lines = told.report(made(a, b), ascii=ascii).split("\n")
        assert all(len(line) <= 120 and "\x1b" not in line and "\u202e" not in line for line in lines)
        assert all(line.isascii() for line in lines) or not ascii
    assert json.loads(json.dumps(told.data(made(a, b)), allow_nan=False))["schema"] == 1


def test_a_session_that_has_only_begun_has_a_comparison() -> None:
    log = builders.events(*ARMS)
    for count in (1, 40, len(log) // 2):
        state = fold.fold(log[:count])
        found = made(Chosen(state, summarize(state), "", "x"))
        assert told.report(found).endswith("\n") and told.data(found)["comparisons"]


# --- sessions that are named ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions")
    for name in ("first", "second"):
        (folder / name).mkdir()
        log = builders.events(*ARMS, settings=builders.settings(**TASKS))
        (folder / name / "events.jsonl").write_bytes(b"".join(map(e.encode, log)))
    return folder


def test_a_session_is_read_once_and_an_arm_named_after_a_colon(sessions: Path) -> None:
    (found,) = told.read(["first:Q8_0", "first:Q2_K"], sessions)
    assert [side.name for side in found.sides] == ["Q8_0", "Q2_K"] and found.sessions == ("first",)
    found, *others = told.read(["first", "second"], sessions)
    assert [side.name for side in found.sides] == ["A:F16", "B:F16"] and len(others) == 2
    (found,) = told.read([str(sessions / "second")], sessions, base="Q8_0")
    assert found.sides[0].name == "Q8_0"


@pytest.mark.parametrize(
    ("words", "base", "said"),
    [
        (["first", "third"], "", "third: is no session"),
        (["first:Q9"], "", "Q9: no such quant in first: there are F16, Q8_0, Q2_K"),
        (["third:Q8_0"], "", "third:Q8_0: is no session"),
        (["first"], "Q9", "Q9: no such arm: there are F16, Q8_0, Q2_K"),
    ],
)
def test_what_is_not_there_is_one_line(sessions: Path, words: list[str], base: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        told.read(words, sessions, base)


# --- reproducible ---------------------------------------------------------------------------------------------------

MAKE = """\
import contextlib, hashlib, io, sys
from quanttui import cli

for form in sys.argv[2:]:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\\n")
    with contextlib.redirect_stdout(out):
        code = cli.main(["report", sys.argv[1], "--format", form])
    out.flush()
    made = out.buffer.getvalue()
    print(form, code, len(made), hashlib.sha256(made).hexdigest())
"""

PLACES: tuple[dict[str, str], ...] = (
    {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C.UTF-8", "COLUMNS": "80"},
    {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C", "COLUMNS": "200"},
    {"PYTHONHASHSEED": "3", "TZ": "America/St_Johns", "LC_ALL": "de_DE.UTF-8", "LANG": "tr_TR.UTF-8"},
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[str]]]:
    """Of each place, and of a copy of the session that has no key frames and another time of change: code, size and
    digest of the report, by format."""
    copy = tmp_path_factory.mktemp("copy") / "pocket"
    shutil.copytree(POCKET, copy)
    os.utime(copy / "events.jsonl", (1e9, 1e9))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(folder), *cli.FORMATS], env=os.environ | place,
            stdout=subprocess.PIPE, text=True,
        )
        for place, folder in zip((*PLACES, PLACES[0]), (*[POCKET] * len(PLACES), copy), strict=True)
    ]  # fmt: skip
    said = [run.communicate()[0] for run in runs]
    assert all(run.returncode == 0 for run in runs)
    return [{line.split()[0]: line.split()[1:] for line in text.splitlines()} for text in said]


@pytest.mark.parametrize("form", cli.FORMATS)
def test_a_report_is_the_same_bytes_in_any_process_time_zone_locale_and_folder(
    form: str, reports: list[dict[str, list[str]]]
) -> None:
    code, size, _ = reports[0][form]
    assert code == "0" and int(size) > 100
    assert all(found[form] == reports[0][form] for found in reports)
