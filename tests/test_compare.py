"""Arms held against one another: what is paired and what is not, where answers part, and how it is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from quanttui import events as e
from quanttui import state as fold
from quanttui.decide import compare, paired
from quanttui.decide.compare import Answer, Chosen, Comparison, Point, Scatter
from quanttui.stats import sequential
from quanttui.summary import summarize
from quanttui.tui.glyphs import SETS, Glyphs
from quanttui.tui.parts import Line
from quanttui.tui.widgets import compare as drawn
from quanttui.tui.widgets import pareto
from tests import builders

GLYPHS = st.sampled_from(sorted(SETS)).map(SETS.__getitem__)
SIZES = ((40, 10), (80, 24), (120, 40), (200, 50))
HOSTILE = ("\x1b[31mred\x1b[0m", "[bold]up[/bold]", "\u202eevil\u202c", "模型" * 20, "x" * 300, "a\nb\tc\x00", "‮é👩‍👧")

ARMS = (
    builders.Arm("Q8_0", tok_s=17.0, ppl=8.0, chunks=40),
    builders.Arm("Q4_K_M", tok_s=25.0, ppl=8.2, chunks=40),
    builders.Arm("Q2_K", tok_s=31.0, ppl=9.5, chunks=40, swap=0.03),
)


def said(lines: Sequence[Line]) -> list[str]:
    return ["".join(part for part, _ in line) for line in lines]


def of(state: fold.State, *names: str, session: str = "") -> list[Chosen]:
    summary = summarize(state)
    return [Chosen(state, summary, name, session) for name in names or state.arms]


def two(**changes: Any) -> tuple[fold.State, fold.State]:
    """Two sessions of one arm each, the second with other settings."""
    settings = builders.settings(**changes)
    return builders.state(ARMS[1]), builders.state(ARMS[1], settings=settings)


def answer(text: str, correct: bool | None = None, prompt: str = "p") -> fold.Answer:
    unit = e.Unit(arm="x", kind="task", index=0)
    return fold.Answer(unit, text, correct, "7", "eos", 5, 5, 1.0, prompt, "plain")


def taking_turns(ours: Sequence[float], theirs: Sequence[float], order: str) -> fold.State:
    """Two arms whose repetitions came in `order`, a letter for each: A for the first arm."""
    state = builders.state(builders.Arm("Q8_0", id="A"), builders.Arm("Q4_K_M", id="B"))
    for name, rates in (("A", theirs), ("B", ours)):
        places = [at for at, letter in enumerate(order) if letter == name]
        units = [e.Unit(arm=name, kind="decode", index=index) for index in range(len(places))]
        state.arms[name].attempts[-1].opened().decode = [
            fold.Repetition(unit, float(at), 32, round(32e9 / rate), e.Counters())
            for unit, rate, at in zip(units, rates, places, strict=True)
        ]
    return state


# --- speed ----------------------------------------------------------------------------------------------------------


@given(st.permutations([1.0, 1.3, 0.7, 1.1, 0.9, 1.2, 0.8, 1.05]))
def test_what_a_machine_does_to_both_of_a_pair_cancels(factors: list[float]) -> None:
    """In turns, an interval of the ratio depends on how much the pairs' ratios differ, not on the speeds' spread."""
    state = taking_turns([20 * f for f in factors], [10 * f for f in factors], "AB" * 4 + "BA" * 4)
    found = compare.of(of(state, "A", "B")).against[0].speed
    assert found is not None and found.paired and found.n == 8
    assert found.ratio == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0, rel=1e-6) and found.high == pytest.approx(2.0, rel=1e-6)
    assert found.call == "faster"


@pytest.mark.parametrize(("order", "turns"), [("ABABABAB", True), ("ABBAABBA", True), ("AAAABBBB", False)])
def test_only_repetitions_that_followed_one_another_took_turns(order: str, turns: bool) -> None:
    state = taking_turns([20.0] * 4, [10.0] * 4, order)
    found = compare.of(of(state, "A", "B")).against[0].speed
    assert found is not None and found.paired is turns


def test_arms_of_two_sessions_never_took_turns() -> None:
    a, b = (taking_turns([20.0] * 4, [10.0] * 4, "ABABABAB") for _ in range(2))
    found = compare.of([*of(a, "A"), *of(b, "B")]).against[0].speed
    assert found is not None and not found.paired


@given(st.lists(st.floats(5, 50), min_size=5, max_size=12), st.lists(st.floats(5, 50), min_size=5, max_size=12))
def test_a_ratio_turned_round_is_its_inverse(ours: list[float], theirs: list[float]) -> None:
    count = min(len(ours), len(theirs))
    state = taking_turns(ours[:count], theirs[:count], "AB" * count)
    one, other = (compare.of(of(state, *names)).against[0].speed for names in (("A", "B"), ("B", "A")))
    assert one is not None and other is not None
    assert one.ratio * other.ratio == pytest.approx(1.0)
    if one.low is not None and one.high is not None:
        assert other.low is not None and other.high is not None
        assert one.low <= one.ratio <= one.high
        assert (one.low * other.high, one.high * other.low) == pytest.approx((1.0, 1.0))
        turned = {"faster": "slower", "slower": "faster", "same": "same", "": "", "contaminated": "contaminated"}
        assert other.call == turned[one.call]


def test_a_difference_within_the_sessions_own_noise_is_none() -> None:
    state = taking_turns([10.2] * 8, [10.0] * 8, "AB" * 8)
    summary = summarize(state)
    calls = {}
    for floor in (None, 0.01, 0.05):
        noisy = msgspec.structs.replace(summary, floor=floor)
        found = compare.of([Chosen(state, noisy, "A"), Chosen(state, noisy, "B")]).against[0].speed
        assert found is not None
        calls[floor] = found.call
    assert calls == {None: "faster", 0.01: "faster", 0.05: "same"}


def test_a_contaminated_speed_is_starred_and_called_nothing_else() -> None:
    made = compare.of(of(builders.state(*ARMS), "Q8_0", "Q2_K"))
    assert made.sides[1].tainted
    assert made.against[0].speed is not None and made.against[0].speed.call == "contaminated"
    assert any("31.0*" in line for line in said(drawn.figures(made, 80, 10, SETS["braille"])))


def test_an_arm_that_has_not_decoded_has_no_ratio_and_says_so() -> None:
    state = builders.state(builders.Arm("Q8_0"), builders.Arm("Q4_K_M", planned_only=True), closed=None)
    found = compare.of(of(state)).against[0]
    assert found.speed is None and found.why_speed == "Q4_K_M has not decoded"
    assert found.loss is None and found.why_loss == "Q4_K_M has scored nothing"


# --- perplexity -----------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 39), min_size=1), st.sets(st.integers(0, 39), min_size=1))
def test_only_chunks_that_both_have_scored_are_paired(first: set[int], other: set[int]) -> None:
    state = builders.state(*ARMS[:2])
    for name, kept in (("Q8_0", first), ("Q4_K_M", other)):
        state.arms[name].scores = {k: one for k, one in state.arms[name].chunks.items() if k in kept}
    found = compare.of(of(state, "Q8_0", "Q4_K_M")).against[0]
    common = [k for k in state.arms["Q8_0"].chunks if k in first & other]
    if not common:
        assert found.loss is None and "no chunk" in found.why_loss
        return
    ours, theirs = (state.arms[name].chunks for name in ("Q4_K_M", "Q8_0"))
    values = [(ours[k].nll - theirs[k].nll) / ours[k].scored for k in common]
    watched = sequential.mean_sequence(values)
    assert found.loss is not None and found.loss.chunks == len(common)
    assert found.loss.percent == pytest.approx(100 * math.expm1(watched.mean))
    assert (found.loss.low is None) == (watched.low is None)
    if watched.low is not None:
        assert found.loss.low == pytest.approx(100 * math.expm1(watched.low))
    for curve in (found.loss.ours, found.loss.theirs, found.loss.percents, found.loss.lows, found.loss.highs):
        assert len(curve.values) == len(common)
    assert found.loss.ours.values[-1] == pytest.approx(state.arms["Q4_K_M"].perplexity(common)[0])  # type: ignore[index]


def test_against_the_base_it_says_what_the_report_says() -> None:
    state = builders.state(*ARMS[:2])
    base = paired.base_of(state)
    assert base is not None
    other = next(arm for arm in state.arms.values() if arm is not base)
    found = compare.of(of(state, base.id, other.id)).against[0].loss
    row = next(one for one in summarize(state).arms if one.id == other.id)
    assert found is not None and row.delta is not None
    assert (found.percent, found.low, found.high) == pytest.approx((row.delta.percent, row.delta.low, row.delta.high))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"text_sha256": "cd" * 32}, "the texts differ"),
        ({"text_sha256": ""}, "the texts differ"),
        ({"context": 2048}, "the contexts differ (512 and 2048 tokens)"),
        ({"threads": 8}, ""),
    ],
)
def test_chunks_of_other_texts_are_not_paired(changes: dict[str, Any], why: str) -> None:
    a, b = two(**changes)
    found = compare.of([*of(a), *of(b)]).against[0]
    assert found.why_loss == (f"not paired: {why}" if why else "")
    assert (found.loss is None) == bool(why)


def test_another_vocabulary_is_another_text() -> None:
    a, b = two()
    file = b.arms["Q4_K_M"].file
    assert file is not None
    b.arms["Q4_K_M"].file = msgspec.structs.replace(file, shape=msgspec.structs.replace(file.shape, vocabulary=5))
    assert "tokens differ" in compare.of([*of(a), *of(b)]).against[0].why_loss


# --- answers --------------------------------------------------------------------------------------------------------

WORDS = st.text(st.sampled_from("ab é\u0301\u200d👩👧🇩🇪\n1."), max_size=20)


@given(WORDS, WORDS, WORDS)
def test_where_answers_part_is_the_same_from_both_sides_and_never_beyond_the_first_difference(
    common: str, a: str, b: str
) -> None:
    a, b = common + a, common + b
    place = compare.divergence(a, b)
    assert place == compare.divergence(b, a)
    assert (place is None) == (a == b)
    if place is not None:
        assert a[:place] == b[:place]
        first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert place <= first


@pytest.mark.parametrize(
    ("a", "b", "place"),
    [
        ("the cat sat", "the car sat", 4),
        ("the cat", "the cats", 4),
        ("yes", "yes.", 3),
        ("one two", "one", 3),
        ("cafe\u0301", "cafe\u0300", 0),
        (". e\u0301", ". e\u0300", 2),
        ("🇩🇪", "🇩🇰", 0),
        ("🇩🇪🇫🇷", "🇩🇪🇫🇮", 2),
        ("👩\u200d👧", "👩\u200d👦", 0),
        ("x" * 100 + "a", "x" * 100 + "b", 100),
        ("", "a", 0),
    ],
)
def test_answers_part_before_a_word_and_never_within_a_sign(a: str, b: str, place: int) -> None:
    assert compare.divergence(a, b) == place


def test_flipped_items_come_first_then_those_that_differ() -> None:
    state = builders.state(*ARMS[:2])
    first, other = state.arms["Q8_0"].open_items(), state.arms["Q4_K_M"].open_items()
    for item, ours, theirs in (
        ("same", answer("7", True), answer("7", True)),
        ("differs", answer("7", True), answer("7.", True)),
        ("gained", answer("8", False), answer("7", True)),
        ("unchecked", answer("8"), answer("7", True)),
        ("lost", answer("7", True), answer("8", False)),
        ("asked otherwise", answer("7", True), answer("7", True, prompt="q")),
    ):
        first[item], other[item] = ours, theirs
    other["alone"] = answer("7", True)
    made = compare.of(of(state, "Q8_0", "Q4_K_M"))
    found = made.against[0]
    assert [one.item for one in found.answers] == ["lost", "gained", "differs", "unchecked", "same"]
    assert [one.flipped for one in found.answers] == [True, True, False, False, False]
    assert found.alone == 3
    assert [(side.right, side.checked) for side in made.sides] == [(4, 5), (6, 7)]


def test_an_answer_that_was_cut_parts_from_none_beyond_what_is_known_of_it() -> None:
    assert compare.pair("x", Answer("one two", cut=True), Answer("one two three")).change == "same"
    assert compare.pair("x", Answer("one two"), Answer("one two three")).change == "differs"
    assert compare.pair("x", Answer("one six", cut=True), Answer("one two three")).diverges == 4


# --- what differs, and who is who -----------------------------------------------------------------------------------


def test_what_differs_around_two_sessions_is_listed_and_what_does_not_is_not() -> None:
    a = builders.state(ARMS[1])
    b = builders.state(ARMS[1], host=builders.host(cpu="Apple M2"), settings=builders.settings(threads=8))
    found = {(one.about, one.name): one.values for one in compare.of([*of(a), *of(b)]).differences}
    assert found == {("host", "cpu"): ("Zen 4", "Apple M2"), ("settings", "threads"): ("2", "8")}
    assert compare.of(of(builders.state(*ARMS))).differences == ()


def test_arms_with_caches_of_other_types_differ_in_them() -> None:
    state = builders.state(builders.Arm("Q8_0"), builders.Arm("Q8_0", id="Q8_0 kv q4_0", kv="q4_0"))
    found = compare.of(of(state)).differences
    assert [(one.about, one.name, one.values) for one in found] == [("arm", "kv", ("f16", "q4_0"))]


def test_sides_have_names_of_their_own_and_an_arm_chosen_twice_is_one() -> None:
    a, b = two()
    made = compare.of([*of(a, session="one"), *of(b, session="two"), *of(a, session="one")])
    assert [side.name for side in made.sides] == ["A:Q4_K_M", "B:Q4_K_M"]
    assert made.sessions == ("one", "two")


def test_nothing_chosen_and_no_such_arm_are_said() -> None:
    with pytest.raises(ValueError, match="nothing was chosen"):
        compare.of([])
    with pytest.raises(ValueError, match="Q9: no such arm in one: there are Q8_0, Q4_K_M, Q2_K"):
        compare.of(of(builders.state(*ARMS), "Q9", session="one"))


def test_a_comparison_does_not_change_with_the_state_that_it_was_made_of() -> None:
    log = builders.events(*ARMS)
    half = fold.fold(log[: len(log) // 2])
    made = compare.of(of(half))
    before = msgspec.json.encode(made)
    fold.fold(log[len(log) // 2 :], half)
    assert msgspec.json.encode(made) == before


# --- quality against speed ------------------------------------------------------------------------------------------

POINTS = st.lists(
    st.builds(
        Point,
        name=st.text(min_size=1, max_size=12),
        tok_s=st.floats(0.1, 1e4),
        quality=st.floats(-5, 1e4),
        tok_low=st.none() | st.floats(0, 100),
        tok_high=st.none() | st.floats(100, 1e4),
        quality_low=st.none() | st.floats(-100, 0),
        quality_high=st.none() | st.floats(0, 1e4),
        tainted=st.booleans(),
    ),
    max_size=14,
)


@given(POINTS)
def test_the_front_is_of_points_that_may_be_believed_and_that_nothing_beats(points: list[Point]) -> None:
    placed = compare.front(points)
    best = [one for one in placed if one.front]
    assert not any(one.tainted for one in best)
    believed = [one for one in placed if not one.tainted]
    assert bool(best) == bool(believed)
    assert not any(compare.beats(other, one) for one in best for other in believed)
    assert all(any(compare.beats(other, one) for other in best) for one in believed if not one.front)


def test_a_tainted_point_beats_none() -> None:
    placed = compare.front([Point("slow", 10.0, 0.0), Point("wrong", 99.0, -1.0, tainted=True)])
    assert [(one.name, one.front) for one in placed] == [("slow", True), ("wrong", False)]


def test_what_is_no_number_has_no_place() -> None:
    assert compare.front([Point("a", math.nan, 0.0), Point("b", 1.0, math.inf)]) == ()


def test_a_summary_makes_a_point_of_each_quant_that_has_both() -> None:
    state = builders.state(*ARMS, builders.Arm("Q3_K_M", fails="oom", fails_in="load"))
    found = pareto.points(summarize(state))
    assert [(one.name, one.tainted) for one in found.points] == [("Q8_0", False), ("Q4_K_M", False), ("Q2_K", True)]
    assert found.points[0].quality == 0.0 and found.quality == "Δppl % vs Q8_0"
    assert found.missing == ("Q3_K_M: no speed",)


@given(POINTS, st.integers(1, 90), st.integers(1, 30), GLYPHS)
def test_a_plot_is_exactly_as_large_as_asked_whatever_its_points(
    points: list[Point], width: int, height: int, used: Glyphs
) -> None:
    lines = pareto.draw(Scatter(compare.front(points), "Δppl %"), width, height, used)
    assert len(lines) == height
    assert all(cell_len(line) == width for line in said(lines))
    if used.plain:
        assert all(line.isascii() for line in said(lines))


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 20)), min_size=1, max_size=12, unique=True))
def test_names_never_overlap_and_those_without_room_are_counted(places: list[tuple[float, float]]) -> None:
    names = [f"q{'abcdefghijkl'[index]}z" for index in range(len(places))]
    points = [Point(name, x, y) for name, (x, y) in zip(names, places, strict=True)]
    scatter = Scatter(compare.front(points), "Δppl %")
    lines = said(pareto.draw(scatter, 60, 20, SETS["ascii"]))
    seen = sum(name in "".join(lines[1:]) for name in names)
    told = re.search(r"(\d+) without room", lines[0])
    unnamed = int(told[1]) if told else 0
    # Points that share a cell share a name, which may be cut.
    shared = "," in "".join(lines[1:])
    assert shared or seen + unnamed == len(names)


def test_a_tainted_point_is_hollow_in_every_set_and_its_name_is_starred() -> None:
    points = compare.front([Point("good", 10.0, 1.0), Point("bad", 20.0, 2.0, tainted=True)])
    for name, marks in (("braille", "●○"), ("block", "●○"), ("ascii", "o*")):
        lines = "\n".join(said(pareto.draw(Scatter(points, "Δppl %"), 60, 16, SETS[name])))
        assert all(mark in lines for mark in marks) and "bad*" in lines


def test_marks_on_an_axis_are_round_and_in_order() -> None:
    found = pareto.axis([5.2, 30.9], 5)
    assert found.low <= 5.2 and found.high >= 30.9
    assert len(found.marks) >= 2 and list(found.marks) == sorted(found.marks)
    assert all(mark % 5 == 0 for mark in found.marks)


@given(st.lists(st.floats(-50, 5000), min_size=1, max_size=12), st.integers(2, 6))
def test_the_upward_axis_keeps_the_order_of_what_is_on_it(values: list[float], most: int) -> None:
    found = pareto.upward(values, most)
    places = [found.share(value) for value in sorted(values)]
    assert places == sorted(places) and places[0] >= 0 and places[-1] <= 1
    assert all(found.low <= mark <= found.high for mark in found.marks)


def test_one_quant_far_off_does_not_press_the_others_into_one_line() -> None:
    lost = [0.0, 0.1, 0.3, 0.9, 900.0]
    found = pareto.upward(lost, 5)
    rows = [round(found.share(value) * 20) for value in lost]
    assert found.bend and len(set(rows)) == len(rows)
    assert not pareto.upward(lost[:4], 5).bend
    points = compare.front([Point(f"q{index}", 10.0 + index, value) for index, value in enumerate(lost)])
    assert "bent scale" in said(pareto.draw(Scatter(points, "Δppl %"), 60, 20, SETS["braille"]))[0]


# --- drawing --------------------------------------------------------------------------------------------------------

Draw = Callable[[Comparison, int, int, Glyphs], Sequence[Line]]
DRAWN: dict[str, Draw] = {
    "figures": drawn.figures,
    "speed": drawn.speed,
    "perplexity": drawn.perplexity,
    "answers": drawn.answers,
    "table": drawn.table,
    "pareto": drawn.pareto,
}


def hostile() -> Comparison:
    """A comparison in which every foreign text is out to harm a terminal."""
    arms = [builders.Arm("Q8_0", id=text, chunks=12) for text in HOSTILE]
    state = builders.state(*arms, host=builders.host(name=HOSTILE[0], cpu=HOSTILE[4]))
    for place, arm in enumerate(state.arms.values()):
        for index, text in enumerate(HOSTILE):
            arm.open_items()[f"{text}/{index}"] = answer(f"{text} {text if place else ''}", bool(place))
    other = builders.state(builders.Arm("Q4_K_M", id=HOSTILE[2]), host=builders.host(name=HOSTILE[5]))
    return compare.of([*of(state, session=HOSTILE[0]), *of(other, session=HOSTILE[1])])


def plain() -> Comparison:
    state = builders.state(*ARMS)
    for index in range(9):
        state.arms["Q8_0"].open_items()[f"prompts/{index}"] = answer("The answer is 7, of course.", True)
        right = index % 2 == 0
        state.arms["Q4_K_M"].open_items()[f"prompts/{index}"] = answer(f"The answer is {7 if right else 8}.", right)
    return compare.of(of(state))


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("glyphs", SETS)
def test_every_drawing_is_exactly_as_large_as_asked_and_harmless(name: str, glyphs: str) -> None:
    for made in (plain(), hostile(), compare.of(of(builders.state(ARMS[0])))):
        for width, height in (*SIZES, (20, 5), (8, 3), (3, 2), (1, 1)):
            lines = said(DRAWN[name](made, width, height, SETS[glyphs]))
            assert len(lines) == height, (name, width, height)
            assert all(cell_len(line) == width for line in lines), (name, width, height)
            assert all(line.isprintable() for line in lines)
            assert not any("\u202e" in line or "\x1b" in line for line in lines)
            assert glyphs != "ascii" or all(line.isascii() for line in lines)


@pytest.mark.parametrize("name", DRAWN)
def test_no_size_is_refused(name: str) -> None:
    for size in ((0, 0), (5, 0), (0, 5)):
        assert not any(said(DRAWN[name](plain(), *size, SETS["braille"])))


def test_where_two_answers_part_stands_a_sign_and_the_word_is_reversed() -> None:
    made = plain()
    for glyphs, sign in (("braille", "▶"), ("block", "▶"), ("ascii", ">")):
        lines = drawn.answers(made, 100, 20, SETS[glyphs])
        row = next(line for line in lines if "The answer is" in "".join(part for part, _ in line))
        assert f"is {sign}7, of course." in said([row])[0] and f"is {sign}8." in said([row])[0]
        assert [part for part, role in row if role == "warn+"] == ["7,", "8."]


def test_answers_scroll_and_choose_within_what_there_is() -> None:
    made = plain()
    long = msgspec.structs.replace(made.against[0].answers[0], first=Answer("\n".join(f"line{i}" for i in range(90))))
    made = msgspec.structs.replace(made, against=(msgspec.structs.replace(made.against[0], answers=(long,)),))
    text = "\n".join(said(drawn.answers(made, 80, 24, SETS["braille"], top=40)))
    assert "line40" in text and "line39" not in text and "lines" in text
    end = "\n".join(said(drawn.answers(made, 80, 24, SETS["braille"], other=9, item=99, top=10_000)))
    assert "line89" in end


def test_a_speed_is_drawn_over_the_first_ones_at_the_same_token() -> None:
    for glyphs in SETS:
        lines = drawn.speed(plain(), 120, 40, SETS[glyphs])
        text = "\n".join(said(lines))
        assert "dotted: Q8_0 at the same token" in text and "5 apart" in text
        assert {"ghost", "speed"} <= {role for line in lines for part, role in line if part.strip()}


def test_a_perplexity_is_drawn_with_its_difference_and_sequence() -> None:
    for glyphs in SETS:
        text = "\n".join(said(drawn.perplexity(plain(), 120, 40, SETS[glyphs])))
        assert "40 common chunks, of such texts" in text and "95 % sequence" in text


def test_what_cannot_be_paired_is_said_where_the_curve_would_be() -> None:
    a, b = two(text_sha256="cd" * 32)
    text = "\n".join(said(drawn.perplexity(compare.of([*of(a), *of(b)]), 100, 12, SETS["braille"])))
    assert "not paired: the texts differ" in text


def test_figures_and_answers_as_they_stand_on_a_screen() -> None:
    made = plain()
    assert [line.rstrip() for line in said(drawn.figures(made, 78, 5, SETS["ascii"]))] == [
        "figures against Q8_0                               * tainted  +-95 % sequences",
        "        tok/s     +-       x                            dppl %      +-  right",
        "Q8_0     17.0  +-2.5   first                             first            9/9",
        "Q4_K_M   25.0  +-3.7   x1.47        (1.47-1.47) faster   +2.74  +-0.57    5/9",
        "Q2_K    31.0*  +-4.5  x1.82*  (1.82-1.82) contaminated   +18.7  +-0.69      .",
    ]
    assert [line.rstrip() for line in said(drawn.answers(made, 56, 6, SETS["block"], item=1))] == [
        "answers: Q8_0 and Q4_K_M                             2/9",
        "✗ 4 lost  ✓ 0 gained  ~ 5 differs  = 0 same",
        "Q8_0               ✓ right │ Q4_K_M              ✗ wrong",
        "The answer is ▶7, of       │ The answer is ▶8.",
        "course.                    │",
        "",
    ]


def test_on_a_narrow_screen_the_ratio_and_the_difference_stay() -> None:
    lines = said(drawn.figures(plain(), 40, 10, SETS["braille"]))
    assert lines[3].split() == ["Q4_K_M", "25.0", "×1.47", "+2.74", "±0.57"]


def test_more_quants_than_lines_are_counted() -> None:
    for draw in (drawn.figures, drawn.speed, drawn.perplexity):
        assert any("+" in line and line.strip()[1:].isdigit() for line in said(draw(hostile(), 60, 4, SETS["braille"])))
