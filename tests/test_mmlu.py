"""MMLU: read in either form or refused in one line, drawn evenly and the same each time, asked in the paper's words."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.measure import hub
from quanttui.measure.tasks import Item, asked, mmlu
from quanttui.measure.tasks.judge import judge

FIXTURE = Path(__file__).parent / "fixtures" / "mmlu"


def settings(folder: Path | str = FIXTURE, **changed: Any) -> Settings:
    return Settings(tasks=("mmlu",), mmlu=str(folder), **changed)


def ids(items: Sequence[Item]) -> list[str]:
    return [item.id for item in items]


# --- what is drawn


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 300))
def test_items_are_taken_as_evenly_as_there_are_and_as_many_as_are_wanted(there: list[int], wanted: int) -> None:
    taken = mmlu.even(there, wanted)
    assert sum(taken) == min(wanted, sum(there))
    assert all(0 <= some <= most for some, most in zip(taken, there, strict=True))
    short = [some for some, most in zip(taken, there, strict=True) if some < most]
    assert not short or max(taken) <= min(short) + 1


@given(st.integers(0, 60), st.integers(0, 60), st.text(max_size=5))
def test_a_smaller_draw_lies_within_a_larger_one_of_the_same_seed(few: int, many: int, seed: str) -> None:
    questions = [mmlu.Question(row, "q", ("a", "b", "c", "d"), "A") for row in range(1, 51)]
    less, more = (mmlu.draw(questions, n, seed) for n in sorted((few, many)))
    assert set(one.row for one in less) <= set(one.row for one in more)
    assert [one.row for one in more] == sorted(one.row for one in more) and len(more) == min(50, max(few, many))


def test_the_same_settings_draw_the_same_items_and_another_seed_draws_others() -> None:
    first, again, other = (mmlu.load(settings(mmlu_items=6, items_seed=seed)) for seed in (42, 42, 43))
    assert first == again and first.sha256 != other.sha256
    assert Counter(item.group for item in first.items) == {"kitchen_science": 3, "town_history": 3}


def test_a_draw_does_not_depend_on_the_other_subjects() -> None:
    alone = mmlu.load(settings(mmlu_subjects=("town_history",), mmlu_items=3)).items
    beside = mmlu.load(settings(mmlu_items=6)).items
    assert ids(alone) == [item.id for item in beside if item.group == "town_history"]


def test_a_recorded_session_draws_the_same_items_for_ever() -> None:
    questions = [mmlu.Question(row, "q", ("a", "b", "c", "d"), "A") for row in range(1, 101)]
    assert [one.row for one in mmlu.draw(questions, 5, "42/abstract_algebra")] == [43, 52, 53, 59, 76]


def test_all_there_are_is_asked_where_more_are_wanted_subject_by_subject_in_the_order_of_the_file() -> None:
    items = mmlu.load(settings(mmlu_items=500)).items
    assert ids(items) == [f"kitchen_science/{k}" for k in range(1, 8)] + [f"town_history/{k}" for k in range(1, 6)]


def test_named_subjects_are_asked_in_the_order_in_which_they_are_named() -> None:
    named = ("town_history", "kitchen_science")
    items = mmlu.load(settings(mmlu_subjects=named, mmlu_items=2)).items
    assert tuple(item.group for item in items) == named


def test_of_a_folder_without_names_the_ten_come_first_and_others_fill_up(tmp_path: Path) -> None:
    row = "q,a,b,c,d,A\n"
    for name in (*mmlu.SUBJECTS[:9], "astronomy", "virology"):
        (tmp_path / f"{name}_test.csv").write_text(row)
    items = mmlu.load(settings(tmp_path)).items
    assert [item.group for item in items] == [*mmlu.SUBJECTS[:9], "astronomy"]


# --- how they are asked


def test_generating_asks_one_question_with_lettered_choices_and_ends_at_the_letter() -> None:
    item = mmlu.load(settings(mmlu_subjects=("kitchen_science",))).items[1]
    (message,) = item.messages
    assert message.role == "user" and "about kitchen science." in message.content
    assert "Why does dough with yeast rise?\nA. It dries\nB. Yeast gives off a gas, which stays in it\nC." in (
        message.content
    )
    assert (item.prompt, item.prefix, item.choices, item.until, item.max_tokens) == ("", "", (), "ABCD", 16)
    assert judge(item, "B. Yeast").correct is True and judge(item, "C").correct is False


def test_by_logits_a_question_follows_the_papers_header_and_five_examples() -> None:
    items = mmlu.load(settings(mmlu_subjects=("town_history",), mmlu_score="logits")).items
    header = (
        "The following are multiple choice questions (with answers) about town history.\n\n"
        "Which of these is a building?\nA. A school\nB. A song\nC. A river\nD. A cloud\nAnswer: A\n\n"
    )
    question = "Two mayors served three years each. How many years did they serve in all?"
    assert items[2].prompt.startswith(header) and items[2].prompt.count("\nAnswer: ") == 5
    assert items[2].prompt == f"{items[2].prefix}{question}\nA. Six\nB. Five\nC. Three\nD. Two\nAnswer:"
    assert "sixth" not in items[2].prompt and items[2].messages == () and items[2].until == ""
    assert items[2].choices == (" A", " B", " C", " D")
    assert len({item.prefix for item in items}) == 1
    assert judge(items[2], "A").chosen == "A" and judge(items[2], "A").correct is True


@pytest.mark.parametrize("score", ["generate", "logits"])
def test_every_prompt_starts_with_its_prefix_and_every_id_is_safe_and_its_own(score: str) -> None:
    items = mmlu.load(settings(mmlu_score=score)).items
    assert all(item.prompt.startswith(item.prefix) for item in items)
    assert len(set(ids(items))) == len(items) and all(len(item.id) <= 80 and item.id.isprintable() for item in items)


def test_both_forms_of_a_file_hold_the_same_questions(tmp_path: Path) -> None:
    lettered = (FIXTURE / "kitchen_science_test.csv").read_text()
    numbered = "question,choice0,choice1,choice2,choice3,answer\n" + "".join(
        f"{line[:-1]}{'ABCD'.index(line[-1])}\n" if line[-2:-1] == "," else f"{line}\n"
        for line in lettered.splitlines()
    )
    (tmp_path / "test").mkdir()
    saved = b"\xef\xbb\xbf" + numbered.replace("\n", "\r\n").encode()
    (tmp_path / "test" / "kitchen_science_test.csv").write_bytes(saved)
    found = [mmlu.load(settings(folder, mmlu_subjects=("kitchen_science",))) for folder in (tmp_path, FIXTURE)]
    assert found[0] == found[1] and len(found[0].items) == 7


def test_the_dev_questions_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    for split in ("test", "dev"):
        (tmp_path / split).mkdir()
        for file in FIXTURE.glob(f"*_{split}.csv"):
            shutil.copy(file, tmp_path / split)
    assert mmlu.load(settings(tmp_path, mmlu_score="logits")) == mmlu.load(settings(mmlu_score="logits"))


# --- what is refused


GOOD = "Is this a question?,yes,no,perhaps,never,A\n"
HEADER = "question,choice0,choice1,choice2,choice3,answer\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "q,a,b,c,d,E\n", "row 2: answer 'E'"),
        (GOOD + "q,a,b,c,d,4\n", "row 2: answer '4'"),
        (GOOD + "q,a,b,c,d,AB\n", "row 2: answer 'AB'"),
        (GOOD + "q,a,b,c,d,\n", "row 2: answer ''"),
        (GOOD + "q,a,b,c,D\n", "row 2: has 5 columns"),
        (GOOD + "q,a,b,c,d,A,x\n", "row 2: has 7 columns"),
        (GOOD + "q,a,,c,d,A\n", "row 2: the question or a choice is empty"),
        (GOOD + "\n  ,a,b,c,d,A\n", "row 3: the question or a choice is empty"),
        (HEADER + "q,a,b,c,d,9\n", "row 2: answer '9'"),
        (HEADER + "q,a,b,c,d\n", "row 2: has 5 columns"),
        ("question,subject,choices,answer\n", "row 1: has the columns question, subject, choices, answer"),
        ("text;yes;no\n", "row 1: has 1 columns"),
        (GOOD + 'q,"a,b,c,d,A\n', "is no CSV after row 1"),
        (GOOD + "q,a\x1b[31m,b,c,d,\x1b[31mA\n", "row 2: answer '[31mA'"),
        ("", "holds no question"),
        (HEADER, "holds no question"),
    ],
)
def test_what_is_no_question_names_file_and_row_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine_test.csv"
    path.write_text(text)
    with pytest.raises(UserError) as failure:
        mmlu.load(settings(tmp_path))
    told = str(failure.value)
    assert told.startswith(f"{path}: {said}") and "\n" not in told and "\x1b" not in told


@given_settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_questions_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    (folder / "any_test.csv").write_bytes(data)
    try:
        mmlu.load(settings(folder))
    except UserError as error:
        assert "\n" not in str(error)


def test_examples_that_are_missing_or_too_few_are_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "mine_test.csv").write_text(GOOD)
    assert len(mmlu.load(settings(tmp_path)).items) == 1
    with pytest.raises(UserError, match=r"has no mine_dev\.csv.*--mmlu-score generate"):
        mmlu.load(settings(tmp_path, mmlu_score="logits"))
    (tmp_path / "mine_dev.csv").write_text(GOOD * 4)
    with pytest.raises(UserError, match=r"mine_dev\.csv: holds 4 questions.*--mmlu-score generate"):
        mmlu.load(settings(tmp_path, mmlu_score="logits"))


def test_no_folder_an_empty_one_and_a_subject_that_is_not_there_are_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"has no NAME_test\.csv.*--mmlu"):
            mmlu.load(settings(folder))
    with pytest.raises(UserError, match=r"--mmlu-subjects astrology.*kitchen_science, town_history"):
        mmlu.load(settings(mmlu_subjects=("town_history", "astrology")))


# --- the data set


def served(parts: Sequence[hub.Part]) -> list[hub.Rows]:
    """Rows as cais/mmlu has them: the answer's label by its name, a choice without text among them."""
    row = {"subject": "x", "choices": ["a", "", "c", "d"], "answer": "C"}
    return [[row | {"question": f"{part.configuration} {part.split} {k}"} for k in range(6)] for part in parts]


def test_without_a_folder_the_ten_subjects_come_from_the_data_set() -> None:
    task = mmlu.load(Settings(tasks=("mmlu",), mmlu_items=20, mmlu_score="logits"), served)
    assert [item.group for item in task.items] == [subject for subject in mmlu.SUBJECTS for _ in range(2)]
    assert task.items[0].prefix.count("abstract_algebra dev") == 5
    assert all(item.check is not None and item.check.choice == "C" for item in task.items)


def test_a_data_set_that_cannot_be_had_is_one_line_that_names_the_way_out() -> None:
    def fails(parts: Sequence[hub.Part]) -> list[hub.Rows]:
        raise OSError("no route to host\nand more")

    with pytest.raises(UserError, match=r"no route to host.*--mmlu DIR") as failure:
        mmlu.load(Settings(tasks=("mmlu",)), fails)
    assert "\n" not in str(failure.value)


def test_rows_of_another_form_are_told() -> None:
    with pytest.raises(UserError, match=r"cais/mmlu: abstract_algebra: test: row 1: .*--mmlu DIR"):
        mmlu.load(Settings(tasks=("mmlu",)), lambda parts: [[{"question": "q", "answer": 1}] for _ in parts])


def test_a_part_that_no_cache_has_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(OSError) as failure:
        hub.rows([hub.Part("nobody/nothing", "none", "test")])
    assert "\n" not in str(failure.value)


def test_rows_of_parts_come_in_their_order_with_labels_by_name(tmp_path: Path) -> None:
    label = {"names": list("ABCD"), "_type": "ClassLabel"}
    features = {
        "question": {"dtype": "string", "_type": "Value"},
        "choices": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
        "answer": label,
    }
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    for split in ("test", "train"):
        table = pyarrow.table({"question": [split], "choices": [list("wxyz")], "answer": [2]})
        pyarrow.parquet.write_table(table.replace_schema_metadata(described), tmp_path / f"{split}.parquet")
    found = hub.rows([hub.Part(str(tmp_path), "", split) for split in ("train", "test")])
    told = {"choices": list("wxyz"), "answer": "C"}
    assert found == [[{"question": "train", **told}], [{"question": "test", **told}]]


def test_one_subject_gives_the_folder_and_the_data_set_the_same_items() -> None:
    def as_rows(parts: Sequence[hub.Part]) -> list[hub.Rows]:
        found = [mmlu._read(FIXTURE / f"{part.configuration}_{part.split}.csv") for part in parts]
        return [[{"question": q.text, "choices": list(q.choices), "answer": q.answer} for q in rows] for rows in found]

    named = {"mmlu_subjects": ("kitchen_science", "town_history"), "mmlu_score": "logits"}
    assert mmlu.load(Settings(tasks=("mmlu",), **named), as_rows) == mmlu.load(settings(**named))  # type: ignore[arg-type]


def test_weighed_questions_are_asked_once_whatever_the_thinking() -> None:
    for score, names in (("generate", ["mmlu", "mmlu-thinking"]), ("logits", ["mmlu"])):
        found = asked.load(settings(mmlu_score=score, thinking="both"))
        assert [task.name for task in found] == names
