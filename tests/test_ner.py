"""Entities: sentences read by conlleval's rules, drawn fairly, asked for plainly, and answers scored span by span."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui.errors import UserError
from quanttui.measure import hub
from quanttui.measure.tasks import ner
from quanttui.measure.tasks.checks import Check
from quanttui.measure.tasks.ner import Counts, Scored, Sentence, Span, Tally

CONLL = Path(__file__).parent / "fixtures" / "conll"
IOB1, IOB2 = CONLL / "iob1.txt", CONLL / "iob2.txt"

UNHURRIED = given_settings(deadline=None)
TAGS = st.sampled_from(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
TEXTS = st.lists(st.lists(TAGS, min_size=1, max_size=9), max_size=6)
WORDS = st.lists(st.sampled_from("ab"), min_size=1, max_size=12)


@st.composite
def chunks(draw: st.DrawFn) -> tuple[int, tuple[Span, ...]]:
    """A sentence's length, and chunks that do not overlap, in order."""
    length = draw(st.integers(1, 12))
    found, at = [], 0
    while at < length:
        end = draw(st.integers(at + 1, length))
        if kind := draw(st.sampled_from(["", "PER", "LOC"])):
            found.append((at, end, kind))
        at = end
    return length, tuple(found)


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[str], tuple[Span, ...]]:
    """Words, some of them more than once, and what of them are entities."""
    length, gold = draw(chunks())
    return draw(st.lists(st.sampled_from("abc"), min_size=length, max_size=length)), gold


def iob2(length: int, found: Sequence[Span]) -> list[str]:
    tags = ["O"] * length
    for start, end, kind in found:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def iob1(length: int, found: Sequence[Span]) -> list[str]:
    """B only where a chunk of the same type ends right before."""
    tags = iob2(length, found)
    ends = {(end, kind) for _, end, kind in found}
    for start, _, kind in found:
        tags[start] = f"{'B' if (start, kind) in ends else 'I'}-{kind}"
    return tags


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "mine.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def asked(**given: object) -> e.Settings:
    return e.Settings(tasks=("ner",), ner=str(IOB2), **given)  # type: ignore[arg-type]


# --- the file


def test_a_file_holds_its_sentences_and_no_document_marks() -> None:
    found = ner.read(IOB2)
    assert len(found) == 10
    assert found[0] == Sentence(
        ("Marta", "Oliveira", "sold", "Halden", "Works", "in", "Lisbon", "."),
        ("B-PER", "I-PER", "O", "B-ORG", "I-ORG", "O", "B-LOC", "O"),
    )
    assert [bool(ner.spans(one.tags)) for one in found] == [True, False] * 2 + [True, False, True, False, True, False]


def test_iob1_and_iob2_say_the_same() -> None:
    one, two = ner.read(IOB1), ner.read(IOB2)
    assert one != two
    assert [each.tokens for each in one] == [each.tokens for each in two]
    assert [ner.spans(each.tags) for each in one] == [ner.spans(each.tags) for each in two]


def test_line_ends_tabs_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + IOB2.read_bytes().rstrip().replace(b" ", b"\t").replace(b"\n", b"\r\n")
    assert ner.read(written(tmp_path, data)) == ner.read(IOB2)


def test_only_ascii_blanks_part_columns(tmp_path: Path) -> None:
    found = ner.read(written(tmp_path, "10\u00a0000 B-MISC\n\u3000 O\n"))
    assert found == [Sentence(("10\u00a0000", "\u3000"), ("B-MISC", "O"))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ito B-PER\nleft\n", "line 2: has one column"),
        ("Ito S-PER\n", "line 1: tag 'S-PER': must be O, B-TYPE or I-TYPE"),
        ("\nIto NNP PER\n", "line 2: tag 'PER'"),
        ("Ito B-\n", "line 1: tag 'B-'"),
        ("Ito B\n", "line 1: tag 'B'"),
        ("Ito o\n", "line 1: tag 'o'"),
        ("Ito \x1b[31m\n", "line 1: tag"),
        (b"Jos\xe9 B-PER\n", "line 1: is no UTF-8"),
        ("", "holds no sentence"),
        ("-DOCSTART- -X- O O\n\n", "holds no sentence"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as refused:
        ner.read(path)
    assert str(refused.value).startswith(f"{path}: {said}")
    assert str(refused.value).isprintable()


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read .*--ner FILE"):
        ner.load(msgspec.structs.replace(asked(), ner=str(tmp_path / "gone.txt")))


# --- conlleval


@UNHURRIED
@given(chunks())
def test_chunks_come_back_from_either_scheme(drawn: tuple[int, tuple[Span, ...]]) -> None:
    length, found = drawn
    assert ner.spans(iob2(length, found)) == ner.spans(iob1(length, found)) == found


@UNHURRIED
@given(st.lists(TAGS, max_size=12))
def test_chunks_hold_each_tagged_token_once(tags: list[str]) -> None:
    held = [(at, kind) for start, end, kind in ner.spans(tags) for at in range(start, end)]
    assert held == [(at, tag[2:]) for at, tag in enumerate(tags) if tag != "O"]


def evaluated(true: Sequence[Sequence[str]], guessed: Sequence[Sequence[str]]) -> tuple[int, int, int, int, int]:
    """(tokens, right tags, phrases, found, correct) in one pass with conlleval's own two questions and its flag.

    A sentence ends with a token outside of all chunks that is not counted.
    """
    tokens = right = phrases = found = correct = 0
    inside, before = False, (("O", ""), ("O", ""))
    for ours, theirs in zip(true, guessed, strict=True):
        for real, pair in [(True, both) for both in zip(ours, theirs, strict=True)] + [(False, ("O", "O"))]:
            now = tuple((tag.partition("-")[0], tag.partition("-")[2]) for tag in pair)
            ends = [ended(*was, *has) for was, has in zip(before, now, strict=True)]
            starts = [started(*was, *has) for was, has in zip(before, now, strict=True)]
            if inside and all(ends) and before[0][1] == before[1][1]:
                correct += 1
                inside = False
            elif inside and (ends[0] != ends[1] or now[0][1] != now[1][1]):
                inside = False
            if all(starts) and now[0][1] == now[1][1]:
                inside = True
            phrases, found = phrases + starts[0], found + starts[1]
            tokens, right = tokens + real, right + (real and pair[0] == pair[1])
            before = (now[0], now[1])
    return tokens, right, phrases, found, correct


def ended(was: str, was_kind: str, now: str, kind: str) -> bool:
    return was != "O" and (now in "BO" or was_kind != kind)


def started(was: str, was_kind: str, now: str, kind: str) -> bool:
    return now == "B" or (now == "I" and was == "O") or (now != "O" and was_kind != kind)


@UNHURRIED
@given(st.data(), TEXTS)
def test_counts_are_those_of_conllevals_one_pass(data: st.DataObject, true: list[list[str]]) -> None:
    guessed = [[data.draw(st.one_of(st.just(tag), TAGS)) for tag in sentence] for sentence in true]
    told = ner.counts(true, guessed)
    counted = (told.tokens, told.right, told.all.phrases, told.all.found, told.all.correct)
    assert counted == evaluated(true, guessed)
    assert told.all.correct == sum(each.correct for each in told.types.values())


def test_counts_of_an_example_worked_by_hand() -> None:
    """Each difference that conlleval knows: a chunk cut short, two run together, one that a sentence's end closes, one
    right though tagged by the other scheme, one invented, one of another type."""
    true = [
        ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "O", "B-ORG"],
        ["I-ORG", "O", "I-MISC", "I-MISC", "B-MISC", "I-PER"],
    ]
    guessed = [
        ["B-PER", "O", "O", "B-LOC", "I-LOC", "O", "B-ORG"],
        ["B-ORG", "B-PER", "I-MISC", "I-MISC", "I-MISC", "I-LOC"],
    ]
    assert ner.counts(true, guessed) == Counts(
        tokens=13,
        right=7,
        all=Tally(8, 7, 2),
        types={"LOC": Tally(2, 2, 0), "MISC": Tally(2, 1, 0), "ORG": Tally(2, 2, 2), "PER": Tally(2, 2, 0)},
    )


def test_counting_needs_a_guess_for_each_token() -> None:
    with pytest.raises(ValueError):
        ner.counts([["O", "O"]], [["O"]])


def test_chunks_are_those_of_seqeval() -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")

    @UNHURRIED
    @given(st.lists(TAGS, min_size=1, max_size=12))
    def same(tags: list[str]) -> None:
        theirs = labeling.get_entities(tags)
        assert ner.spans(tags) == tuple((start, last + 1, kind) for kind, start, last in theirs)

    same()


# --- an answer

TOKENS = ("Oliveira", "met", "Ito", "at", "Bank", "of", "Faro", "in", "Faro", "and", "Faro", ".")
GOLD = ((0, 1, "PER"), (2, 3, "PER"), (4, 7, "ORG"), (8, 9, "LOC"), (10, 11, "LOC"))


def said(*pairs: tuple[str, str]) -> str:
    return json.dumps([{"entity": entity, "type": kind} for entity, kind in pairs])


ALL = (("Oliveira", "PER"), ("Ito", "PER"), ("Bank of Faro", "ORG"), ("Faro", "LOC"), ("Faro", "LOC"))


@pytest.mark.parametrize(
    ("answer", "scored"),
    [
        (said(*ALL), Scored(True, 5, 0, 0)),
        (json.dumps(ALL), Scored(True, 5, 0, 0)),
        (f"```json\n{said(*ALL)}\n```", Scored(True, 5, 0, 0)),
        (f"I see [some]:\n```\n{said(*ALL)}", Scored(True, 5, 0, 0)),
        (f"Here they are: {said(*ALL)}. Anything else?", Scored(True, 5, 0, 0)),
        (said(*reversed(ALL)), Scored(True, 3, 2, 2)),
        (said(("Bank of Faro", "LOC"), ("Bank of Faro", "ORG")), Scored(True, 0, 2, 5)),
        (said(*[("Faro", "LOC")] * 3), Scored(True, 2, 1, 3)),
        (said(*[("Faro", "LOC")] * 4), Scored(True, 2, 2, 3)),
        (said(("Ito", "PER"), ("Ito", "PER")), Scored(True, 1, 1, 4)),
        (said(("ito", "PER"), ("It", "PER"), ("Ito met", "PER")), Scored(True, 0, 3, 5)),
        (said(("Ito", "per"), ("Oliveira", "PERSON")), Scored(True, 0, 2, 5)),
        (said((" Bank  of\nFaro ", " ORG ")), Scored(True, 1, 0, 4)),
        (said(("", "PER"), (" ", "PER")), Scored(True, 0, 2, 5)),
        ('[{"entity": "Ito"}, ["Ito", "PER", 1], "Ito", null]', Scored(True, 0, 4, 5)),
        ('{"entities": [{"entity": ["Ito"], "type": "PER"}]}', Scored(True, 0, 1, 5)),
        ('[["Ito", "PER"], ["Oliveira\n", "PER"]]', Scored(False, 0, 0, 5)),
        ("[]", Scored(True, 0, 0, 5)),
        ('{"entity": "Ito", "type": "PER"}', Scored(False, 0, 0, 5)),
        ('[["Ito", "PER"], ["Oliveira", "PER"', Scored(False, 0, 0, 5)),
        ('["Ito", [], ', Scored(False, 0, 0, 5)),
        ("There are none.", Scored(False, 0, 0, 5)),
        ("", Scored(False, 0, 0, 5)),
        ("[" * 100_000, Scored(False, 0, 0, 5)),
        ("[" + "9" * 10_000 + "]", Scored(False, 0, 0, 5)),
    ],
)  # fmt: skip
def test_an_answer_is_scored_by_exact_span_and_type(answer: str, scored: Scored) -> None:
    assert ner.score(TOKENS, GOLD, answer) == scored


def test_a_word_is_parted_where_the_files_columns_are() -> None:
    assert ner.score(("10\u00a0000", "m"), ((0, 2, "MISC"),), said(("10\u00a0000 m", "MISC"))) == Scored(True, 1, 0, 0)


def test_a_sentence_without_entities_is_answered_rightly_by_an_empty_array() -> None:
    assert ner.score(("Rain", "."), (), "[]") == Scored(True, 0, 0, 0)
    assert ner.score(("Rain", "."), (), said(("Rain", "LOC"))) == Scored(True, 0, 1, 0)
    assert ner.score(("Rain", "."), (), "none") == Scored(False, 0, 0, 0)


@UNHURRIED
@given(sentences())
def test_who_names_all_entities_in_order_has_them(
    drawn: tuple[list[str], tuple[Span, ...]],
) -> None:
    """All of them where no word stands twice. Else each wrong one is one missed."""
    tokens, gold = drawn
    answer = said(*((" ".join(tokens[start:end]), kind) for start, end, kind in gold))
    apart = [f"{word}{at}" for at, word in enumerate(tokens)]
    answer_apart = said(*((" ".join(apart[start:end]), kind) for start, end, kind in gold))
    assert ner.score(apart, gold, answer_apart) == Scored(True, len(gold), 0, 0)
    scored = ner.score(tokens, gold, answer)
    assert scored.parsed and scored.fp == scored.fn == len(gold) - scored.tp


@UNHURRIED
@given(sentences(), st.lists(st.tuples(WORDS.map(" ".join), st.sampled_from(["PER", "LOC", "X"])), max_size=8))
def test_each_entity_named_is_right_or_wrong_and_each_gold_one_found_or_missed(
    drawn: tuple[list[str], tuple[Span, ...]], pairs: list[tuple[str, str]]
) -> None:
    tokens, gold = drawn
    scored = ner.score(tokens, gold, said(*pairs))
    assert scored.tp + scored.fn == len(gold)
    assert scored.tp + scored.fp == len(pairs)
    assert min(scored.tp, scored.fp, scored.fn) >= 0


@UNHURRIED
@given(sentences(), st.text() | st.recursive(st.none() | st.text(), st.lists, max_leaves=9).map(json.dumps))
def test_no_answer_is_too_odd_to_be_scored(drawn: tuple[list[str], tuple[Span, ...]], answer: str) -> None:
    tokens, gold = drawn
    scored = ner.score(tokens, gold, answer)
    assert scored.tp + scored.fn == len(gold)
    assert scored.parsed or scored.tp == scored.fp == 0


@UNHURRIED
@given(sentences(), st.data())
def test_what_is_scored_is_what_conlleval_counts(
    drawn: tuple[list[str], tuple[Span, ...]], data: st.DataObject
) -> None:
    """Entities of words that stand once, as tags: the same right and wrong ones."""
    tokens, gold = [f"{word}{at}" for at, word in enumerate(drawn[0])], drawn[1]
    guess = ner.spans(data.draw(st.lists(TAGS, min_size=len(tokens), max_size=len(tokens))))
    scored = ner.score(tokens, gold, said(*((" ".join(tokens[start:end]), kind) for start, end, kind in guess)))
    told = ner.counts([iob2(len(tokens), gold)], [iob1(len(tokens), guess)]).all
    assert (scored.tp, scored.tp + scored.fp, scored.tp + scored.fn) == (told.correct, told.found, told.phrases)


# --- the draw

KINDS = st.lists(st.booleans(), min_size=1, max_size=60)


def made(kinds: Sequence[bool]) -> list[Sentence]:
    return [Sentence(("a",), ("B-PER" if full else "O",)) for full in kinds]


@UNHURRIED
@given(KINDS, st.integers(1, 70), st.integers(0, 5))
def test_sentences_without_entities_keep_their_share(kinds: list[bool], wanted: int, seed: int) -> None:
    found = ner.drawn(made(kinds), wanted, seed)
    assert len(set(found)) == len(found) == min(wanted, len(kinds))
    empties = sum(not kinds[number] for number in found)
    assert abs(empties - len(found) * kinds.count(False) / len(kinds)) <= 0.5


@UNHURRIED
@given(KINDS, st.integers(1, 60), st.integers(0, 5))
def test_who_asks_for_more_gets_the_same_and_others(kinds: list[bool], wanted: int, seed: int) -> None:
    fewer, more = (ner.drawn(made(kinds), count, seed) for count in (wanted, wanted + 1))
    assert [number for number in more if number in fewer] == fewer


def test_the_draw_is_the_seeds_for_ever() -> None:
    halves = made([True, False] * 5)
    assert ner.drawn(halves, 4, 42) == [1, 9, 2, 8]
    assert ner.drawn(halves, 4, 43) != [1, 9, 2, 8]


# --- the task


def test_a_task_asks_each_sentence_with_its_check_and_room_to_answer() -> None:
    task = ner.load(asked(ner_items=300))
    assert task.name == "ner" and len(task.items) == 10
    assert sorted(int(item.id) for item in task.items) == list(range(1, 11))
    (item,) = [item for item in task.items if item.id == "5"]
    assert item.check is not None and item.check.entities is not None
    assert item.check.entities == ((0, 1, "PER"), (2, 3, "PER"), (5, 8, "ORG"), (9, 10, "LOC"), (13, 14, "LOC"))
    assert item.check.tokens[5:8] == ("Bank", "of", "Faro")
    assert item.group == "entities"
    (message,) = item.messages
    assert message.role == "user"
    assert message.content.endswith("Sentence: " + " ".join(item.check.tokens) + "\nAnswer:")
    assert all(f"\n- {kind}: " in message.content for kind in ner.TYPES)
    whole = said(*((" ".join(item.check.tokens[start:end]), kind) for start, end, kind in item.check.entities))
    assert whole not in message.content and (item.max_tokens or 0) >= len(whole) / 3


def test_items_without_entities_are_a_group_of_their_own() -> None:
    task = ner.load(asked())
    assert {item.group for item in task.items} == {"entities", "none"}
    assert all((item.group == "none") == (item.check is not None and item.check.entities == ()) for item in task.items)


def test_all_questions_begin_alike() -> None:
    """So that an engine may keep the beginning."""
    first, *others = (item.messages[0].content.rpartition("Sentence: ")[0] for item in ner.load(asked()).items)
    assert set(others) == {first}


def test_the_digest_is_the_items(tmp_path: Path) -> None:
    same, again, other = (ner.load(asked(ner_items=4, items_seed=seed)) for seed in (1, 1, 2))
    assert same == again and same.sha256 != other.sha256
    edited = written(tmp_path, IOB2.read_bytes().replace(b"Marta", b"Maria"))
    whole, changed = ner.load(asked()), ner.load(msgspec.structs.replace(asked(), ner=str(edited)))
    assert len(whole.items) == len(changed.items) and whole.sha256 != changed.sha256


def test_the_example_names_each_type_once_in_its_own_words_and_order() -> None:
    assert [kind for _, kind in ner.EXAMPLE_ENTITIES] == list(ner.TYPES)
    places = [f" {ner.EXAMPLE} ".index(f" {entity} ") for entity, _ in ner.EXAMPLE_ENTITIES]
    assert places == sorted(places)


def test_a_file_with_other_types_is_asked_for_those(tmp_path: Path) -> None:
    path = written(tmp_path, "Ito B-PER\nleft O\non O\nMonday B-DATE\n")
    (item,) = ner.load(msgspec.structs.replace(asked(), ner=str(path))).items
    asks = item.messages[0].content
    assert "- PER: people\n- DATE\n" in asks and "- LOC" not in asks
    assert '[{"entity": "Marta Oliveira", "type": "PER"}]' in asks


# --- CoNLL-2003 itself

NAMES = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]


def parquet(path: Path) -> None:
    """Two rows as the Hub's conversion holds them, with the names of the tags in its metadata."""
    columns = {"id": ["0", "1"], "tokens": [["Halden", "Works", "fell"], ["Rain"]], "ner_tags": [[3, 4, 0], [0]]}
    features = {
        "id": {"dtype": "string", "_type": "Value"},
        "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
        "ner_tags": {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), path)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Hub, and an empty cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_of_the_data_set_become_sentences(alone: Path) -> None:
    """The library takes a folder of this name for the data set: process, split and tags are as with the Hub's."""
    parquet(alone / ner.DATASET / "conll2003" / "test" / "0000.parquet")
    one, two = ner.load(e.Settings(tasks=("ner",)), hub.rows).items
    assert {one.id, two.id} == {"1", "2"}
    checks = {item.id: item.check for item in (one, two)}
    assert checks["1"] == Check(entities=((0, 2, "ORG"),), tokens=("Halden", "Works", "fell"))
    assert checks["2"] == Check(entities=(), tokens=("Rain",))
    assert "datasets" not in sys.modules


def test_what_cannot_be_fetched_is_one_line_that_names_the_way_out(alone: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched \(.*cannot be reached.*\): .*--ner FILE") as refused:
        ner.load(e.Settings(tasks=("ner",)), hub.rows)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 300


def test_fetched_sentences_are_drawn_like_those_of_a_file() -> None:
    rows: hub.Rows = [{"tokens": one.tokens, "ner_tags": one.tags} for one in ner.read(IOB2)]
    settings = asked(ner_items=6)
    assert ner.load(msgspec.structs.replace(settings, ner=""), lambda parts: [rows]) == ner.load(settings)


@pytest.mark.parametrize(
    "odd",
    [
        {"tokens": ["a"], "ner_tags": ["O", "O"]},
        {"tokens": ["a"], "ner_tags": ["E-PER"]},
        {"tokens": ["a"], "ner_tags": [3]},
        {"tokens": [], "ner_tags": []},
        {"tokens": ["a"], "tags": ["O"]},
    ],
)
def test_a_data_set_that_became_something_else_is_refused(odd: dict[str, object]) -> None:
    whole: list[hub.Rows] = [[], [{"tokens": ["a"], "ner_tags": ["O"]}, odd]]
    for rows in whole:
        with pytest.raises(UserError, match=r"is not CoNLL-2003 any more.*--ner FILE"):
            ner.load(e.Settings(tasks=("ner",)), partial(_given, rows))


def _given(rows: hub.Rows, parts: object) -> list[hub.Rows]:
    return [rows]
