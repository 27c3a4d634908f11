"""The task "mmlu": four-way questions drawn evenly from subjects, as messages or with five examples. Knows no engine.

Hendrycks et al., Measuring Massive Multitask Language Understanding (ICLR 2021). Asked to be answered in words, a
question stands alone; weighed by log-likelihood it follows the paper's header and the subject's five dev questions.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.format import clean
from quanttui.measure import hub
from quanttui.measure.tasks.checks import LETTERS, Check
from quanttui.measure.tasks.files import content
from quanttui.measure.tasks.items import Item, Message, Task, digest

NAME = "mmlu"
DATASET = "cais/mmlu"
SUBJECTS = (
    "abstract_algebra", "college_computer_science", "college_physics", "high_school_biology", "machine_learning",
    "high_school_us_history", "philosophy", "world_religions",
    "professional_law", "professional_medicine",
)  # fmt: skip
"""Asked where none are named: five of STEM, three of the humanities, two professions."""

SHOTS = 5
MAX_TOKENS = 16
SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Fetch = Callable[[tuple[hub.Part, ...]], list[hub.Rows]]
"""The rows of each part: `question`, four `choices` and the `answer`, a letter or a number. May raise OSError."""


class Question(msgspec.Struct, frozen=True):
    """A question with its four choices; `answer` is the letter of the right one. `row` counts from 1 in its split."""

    row: int
    text: str
    choices: tuple[str, ...]
    answer: str


class Source(msgspec.Struct, frozen=True):
    """Where questions come from: the subjects there are (all that are wanted, where that cannot be said), and the
    questions of one, of its split test or dev."""

    subjects: tuple[str, ...]
    questions: Callable[[str, str], tuple[Question, ...]]


def load(settings: Settings, fetch: Fetch | None = None) -> Task:
    """The items that the settings ask for, subject by subject, each subject's in the order of its file.

    Args:
        fetch: rows of the data set, by default as the library `datasets` has them.

    Raises:
        UserError: the questions cannot be had, or are none; names file and row.
    """
    source = _folder(Path(settings.mmlu)) if settings.mmlu else _dataset(settings, fetch or _fetched)
    subjects = _subjects(settings.mmlu_subjects, source, settings.mmlu)
    asked = {subject: source.questions(subject, "test") for subject in subjects}
    shares = even([len(questions) for questions in asked.values()], settings.mmlu_items)
    items: list[Item] = []
    for (subject, questions), share in zip(asked.items(), shares, strict=True):
        drawn = draw(questions, share, f"{settings.items_seed}/{subject}")
        if settings.mmlu_score == "logits":
            header = _header(subject, source.questions(subject, "dev")) if drawn else ""
            items += [_weighed(subject, question, header) for question in drawn]
        else:
            items += [_answered(subject, question) for question in drawn]
    return Task(name=NAME, items=tuple(items), sha256=digest(items))


def even(there: Sequence[int], wanted: int) -> tuple[int, ...]:
    """How many to take of each so that they add up to `wanted`, or to all there are, and none has two more than
    another that has some left. The first ones take what cannot be shared."""
    taken = [0] * len(there)
    while left := min(wanted, sum(there)) - sum(taken):
        short = [k for k, most in enumerate(there) if taken[k] < most]
        share = max(1, left // len(short))
        for k in short[:left]:
            taken[k] += min(share, there[k] - taken[k])
    return tuple(taken)


def draw(questions: Sequence[Question], share: int, seed: str) -> list[Question]:
    """So many by chance, in their own order: fewer by the same seed are among them.

    Each has a random number of its own and the smallest are drawn: of Python's generator only the sequence of `random`
    is promised for ever.
    """
    chance = Random(seed)
    key = [chance.random() for _ in questions]
    return [questions[k] for k in sorted(sorted(range(len(key)), key=key.__getitem__)[:share])]


def _answered(subject: str, question: Question) -> Item:
    asked = (
        f"The following is a multiple choice question about {_words(subject)}.\n\n{_choices(question)}\n\n"
        "Which choice is right? Answer with its letter only."
    )
    return Item(
        id=f"{subject}/{question.row}",
        messages=(Message(role="user", content=asked),),
        check=Check(choice=question.answer),
        max_tokens=MAX_TOKENS,
        group=subject,
        until=LETTERS,
    )


def _weighed(subject: str, question: Question, header: str) -> Item:
    return Item(
        id=f"{subject}/{question.row}",
        prompt=f"{header}{_choices(question)}\nAnswer:",
        check=Check(choice=question.answer),
        group=subject,
        choices=tuple(f" {letter}" for letter in LETTERS),
        prefix=header,
    )


def _header(subject: str, examples: Sequence[Question]) -> str:
    """What comes before each question of a subject, to the letter as in the paper's own evaluation but for a second
    blank before the subject."""
    shown = "".join(f"{_choices(one)}\nAnswer: {one.answer}\n\n" for one in examples[:SHOTS])
    return f"The following are multiple choice questions (with answers) about {_words(subject)}.\n\n{shown}"


def _choices(question: Question) -> str:
    lettered = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True))
    return "\n".join((question.text, *lettered))


def _words(subject: str) -> str:
    return subject.replace("_", " ")


def _subjects(named: Sequence[str], source: Source, folder: str) -> tuple[str, ...]:
    """Those that are named, else the ten, else as many as there are.

    Raises:
        UserError: one is not there.
    """
    if missing := [subject for subject in named if subject not in source.subjects]:
        where, there = clean(folder), clean(", ".join(source.subjects))
        raise UserError(f"--mmlu-subjects {clean(missing[0], 64)}: {where} has no such subject; it has {there}")
    others = [subject for subject in source.subjects if subject not in SUBJECTS]
    return tuple(dict.fromkeys(named)) or (*filter(source.subjects.__contains__, SUBJECTS), *others)[: len(SUBJECTS)]


# --- a folder of files


def _folder(folder: Path) -> Source:
    """Files of a folder: NAME_test.csv and NAME_dev.csv, or the same in its folders test and dev.

    Raises:
        UserError: there is none.
    """
    files = {split: _files(folder, split) for split in ("test", "dev")}
    if not files["test"]:
        raise UserError(f"{clean(str(folder))}: has no NAME_test.csv: give a folder of MMLU's files with --mmlu")

    def questions(subject: str, split: str) -> tuple[Question, ...]:
        if subject not in files[split]:
            raise UserError(f"{clean(str(folder))}: has no {subject}_{split}.csv{WITHOUT_DEV}")
        return _enough(_read(files[split][subject]), split, clean(str(files[split][subject])))

    return Source(tuple(files["test"]), questions)


WITHOUT_DEV = f", whose first {SHOTS} questions come before each by logits: put it there, or use --mmlu-score generate"


def _files(folder: Path, split: str) -> dict[str, Path]:
    """The file of each subject, subjects by name."""
    ending = f"_{split}.csv"
    found = [*folder.glob(f"{split}/*{ending}"), *folder.glob(f"*{ending}")]
    named = {path.name.removesuffix(ending): path for path in found}
    return {name: named[name] for name in sorted(named) if SUBJECT.fullmatch(name)}


def _enough(questions: tuple[Question, ...], split: str, where: str) -> tuple[Question, ...]:
    """
    Raises:
        UserError: there are none, or fewer examples than are shown.
    """
    if not questions:
        raise UserError(f"{where}: holds no question")
    if split == "dev" and len(questions) < SHOTS:
        raise UserError(f"{where}: holds {len(questions)} questions{WITHOUT_DEV}")
    return questions


def _read(path: Path) -> tuple[Question, ...]:
    """A file in either form: question, four choices and the right one's letter in this order; or a first row with the
    names question, choice0 … choice3 (or A … D) and answer.

    Raises:
        UserError: the file cannot be read, or a row is no question; names file and row, of which the first is 1.
    """
    where, rows = clean(str(path)), _rows(path)
    columns, width = list(range(6)), 6
    if rows and {"question", "answer"} <= {name.strip().lower() for name in rows[0][1]}:
        _, header = rows.pop(0)
        columns, width = _columns(header, where), len(header)
    return tuple(
        _question(row, fields, columns, width, f"{where}: row {number}")
        for row, (number, fields) in enumerate(rows, start=1)
    )


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a file with their numbers, without the empty ones."""
    rows: list[tuple[int, list[str]]] = []
    try:
        text = content(path, "--mmlu").decode("utf-8-sig").replace("\r\n", "\n")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows += ((number, fields) for number, fields in enumerate(reader, start=1) if fields)
    except UnicodeDecodeError as error:
        raise UserError(f"{clean(str(path))}: byte {error.start} is no UTF-8: save it as such") from None
    except csv.Error as error:
        after = rows[-1][0] if rows else 0
        raise UserError(f"{clean(str(path))}: is no CSV after row {after} ({clean(str(error))})") from None
    return rows


def _columns(header: list[str], where: str) -> list[int]:
    """Where the question, its choices and its answer stand.

    Raises:
        UserError: a column is missing.
    """
    names = [name.strip().lower() for name in header]
    for choices in (("choice0", "choice1", "choice2", "choice3"), ("a", "b", "c", "d")):
        wanted = ("question", *choices, "answer")
        if set(wanted) <= set(names):
            return [names.index(name) for name in wanted]
    told = clean(", ".join(header), 120)
    raise UserError(f"{where}: row 1: has the columns {told}: they must be question, choice0 … choice3, answer")


def _question(row: int, fields: list[str], columns: list[int], width: int, where: str) -> Question:
    if len(fields) != width:
        raise UserError(f"{where}: has {len(fields)} columns and must have {width}: question, four choices, answer")
    text, *choices, answer = (fields[k] for k in columns)
    if not all(field.strip() for field in (text, *choices)):
        raise UserError(f"{where}: the question or a choice is empty")
    return Question(row, text, tuple(choices), _letter(answer.strip(), where))


def _letter(answer: str, where: str) -> str:
    """
    Raises:
        UserError: it is neither a letter from A to D nor a number from 0 to 3.
    """
    if len(answer) == 1 and answer in LETTERS:
        return answer
    if len(answer) == 1 and answer in "0123":
        return LETTERS[int(answer)]
    raise UserError(f"{where}: answer {clean(answer, 40)!r}: must be one of A, B, C, D, or 0, 1, 2, 3")


# --- the data set


def _dataset(settings: Settings, fetch: Fetch) -> Source:
    """Hugging Face's copy, whole subjects at once.

    Raises:
        UserError: a subject has no such name.
    """
    if wrong := [subject for subject in settings.mmlu_subjects if not SUBJECT.fullmatch(subject)]:
        raise UserError(f"--mmlu-subjects {clean(wrong[0], 64)!r}: is none: write it as abstract_algebra")
    subjects = settings.mmlu_subjects or SUBJECTS
    splits = ("test", "dev") if settings.mmlu_score == "logits" else ("test",)
    parts = tuple(hub.Part(DATASET, subject, split) for split in splits for subject in subjects)
    rows = dict(zip(parts, _asked(parts, fetch), strict=True))

    def questions(subject: str, split: str) -> tuple[Question, ...]:
        where = f"{DATASET}: {subject}: {split}"
        found = enumerate(rows[hub.Part(DATASET, subject, split)], start=1)
        return _enough(tuple(_given(number, row, where) for number, row in found), split, where)

    return Source(subjects, questions)


def _asked(parts: tuple[hub.Part, ...], fetch: Fetch) -> list[hub.Rows]:
    """
    Raises:
        UserError: they cannot be had.
    """
    try:
        return fetch(parts)
    except OSError as error:
        why = clean(str(error), 120) or type(error).__name__
        raise UserError(
            f"--tasks {NAME}: {DATASET} cannot be fetched ({why}): give a folder of its CSV files with --mmlu DIR"
        ) from None


@lru_cache(maxsize=2)
def _fetched(parts: tuple[hub.Part, ...]) -> list[hub.Rows]:
    """Once: a sweep asks for its tasks when it is planned, and again when it begins."""
    return hub.rows(parts)


def _given(number: int, row: Mapping[str, Any], where: str) -> Question:
    """A row as the data set has it, a choice without text included.

    Raises:
        UserError: it has other fields.
    """
    text, choices, answer = row.get("question"), row.get("choices"), str(row.get("answer"))
    if not isinstance(text, str) or not isinstance(choices, (list, tuple)) or len(choices) != len(LETTERS):
        raise UserError(f"{where}: row {number}: is no question with four choices: give MMLU's files with --mmlu DIR")
    return Question(number, text, tuple(map(str, choices)), _letter(answer, f"{where}: row {number}"))
