"""The task "ner": entities of sentences in CoNLL's columns, asked for as JSON and scored by exact span and type.

Owns the reading, the drawing, the question and the score of one answer; knows no engine, and sums up nothing but
conlleval's own counts.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from quanttui.errors import UserError
from quanttui.events import Settings
from quanttui.format import clean
from quanttui.measure import hub
from quanttui.measure.tasks import files
from quanttui.measure.tasks.checks import Check
from quanttui.measure.tasks.items import Item, Message, Task, digest

NAME = "ner"
DATASET = "eriktks/conll2003"
REVISION = "refs/convert/parquet"
"""The Hub's own conversion: the data set itself is a script, and `datasets` runs none since its version 4."""

ENTITIES, NONE = "entities", "none"
"""The groups: sentences that hold entities, and those that hold none."""

TYPES = {
    "PER": "people",
    "ORG": "organizations: companies, agencies, parties, teams",
    "LOC": "places: countries, cities, regions, rivers, buildings",
    "MISC": "other names: nationalities, languages, events, works, products",
}
"""CoNLL-2003's, in the words of the question."""

EXAMPLE = "Marta Oliveira of Halden Works flew to Lisbon for the Baltic Cup ."
EXAMPLE_ENTITIES = (("Marta Oliveira", "PER"), ("Halden Works", "ORG"), ("Lisbon", "LOC"), ("Baltic Cup", "MISC"))

QUESTION = """\
Find the named entities in a sentence. The types are:
{types}

Answer with nothing but a JSON array of objects {{"entity": "...", "type": "..."}}: one for each mention, in the order \
of the sentence, its words copied exactly as they stand there. If there are none, answer [].

Sentence: {example}
Answer: {answer}

Sentence: {sentence}
Answer:"""

ANSWER_TOKENS, WORD_TOKENS, MOST_TOKENS = 48, 16, 1024
"""Room for an answer: to begin and end it, and for each word of the sentence. An entity on lines of its own takes about
30 tokens, and hardly more than every second word is one."""

Fetch = Callable[[tuple[hub.Part, ...]], list[hub.Rows]]

Span = tuple[int, int, str]
"""(first token, token after the last, type)."""

_TAG = re.compile(r"O|[BI]-\S+")
_WORD = re.compile(r"\S+", re.ASCII)
_FENCED = re.compile(r"```\w*\s*\n(.*?)(?:```|\Z)", re.DOTALL)


class Sentence(msgspec.Struct, frozen=True):
    """Tokens and as many tags: O, B-TYPE or I-TYPE."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


class Scored(msgspec.Struct, frozen=True):
    """An answer against the gold entities. `parsed`: it has a JSON array; without one nothing of it counts.

    tp: gold entities that it names. fp: what it names besides. fn: gold entities that it leaves out. tp + fn = gold.
    """

    parsed: bool
    tp: int
    fp: int
    fn: int


class Tally(msgspec.Struct, frozen=True):
    """Chunks: `phrases` in truth, `found` by the guess, `correct` in both."""

    phrases: int
    found: int
    correct: int


class Counts(msgspec.Struct, frozen=True):
    """What conlleval counts: `tokens`, and how many of them have the `right` tag; chunks of all types and of each."""

    tokens: int
    right: int
    all: Tally
    types: dict[str, Tally]


def load(settings: Settings, fetch: Fetch | None = None) -> Task:
    """The sentences that the settings ask for, of their file or else of CoNLL-2003's test part.

    Args:
        fetch: rows of the data set, by default as the library `datasets` has them.

    Raises:
        UserError: they cannot be read or fetched; names the file and the line, or --ner.
    """
    found = read(Path(settings.ner)) if settings.ner else _dataset(fetch or _fetched)
    types = _types(found)
    asked = drawn(found, settings.ner_items, settings.items_seed)
    made = tuple(_item(number, found[number], types) for number in asked)
    return Task(name=NAME, items=made, sha256=digest(made))


def read(path: Path) -> list[Sentence]:
    """A file in CoNLL's columns: a token a line, its tag (IOB1 or IOB2) in the last column, a blank line in between.

    Raises:
        UserError: it cannot be read, holds no sentence, or has a line that is none; names file and line.
    """
    found, tokens, tags = [], [], []
    data, name = files.content(path, "--ner FILE").removeprefix(b"\xef\xbb\xbf"), clean(str(path))
    for number, line in enumerate(data.split(b"\n"), start=1):
        columns = _columns(line, f"{name}: line {number}")
        if columns:
            tokens.append(columns[0])
            tags.append(columns[-1])
        elif tokens:
            found.append(Sentence(tuple(tokens), tuple(tags)))
            tokens, tags = [], []
    if tokens:
        found.append(Sentence(tuple(tokens), tuple(tags)))
    if not found:
        raise UserError(f"{name}: holds no sentence: give a token and its tag a line with --ner FILE")
    return found


def spans(tags: Sequence[str]) -> tuple[Span, ...]:
    """The chunks of a sentence by conlleval's rules, which IOB1 and IOB2 share: B begins one, and so does an I that no
    chunk of its type stands before. (Tjong Kim Sang, conlleval, 2004: startOfChunk and endOfChunk.)"""
    found = []
    start, inside = 0, ""
    for at, tag in enumerate((*tags, "O")):
        prefix, _, kind = tag.partition("-")
        if inside and (prefix != "I" or kind != inside):
            found.append((start, at, inside))
            inside = ""
        if kind and not inside:
            start, inside = at, kind
    return tuple(found)


def counts(true: Sequence[Sequence[str]], guessed: Sequence[Sequence[str]]) -> Counts:
    """conlleval's counts of the tags of sentences, and of as many guessed ones.

    Raises:
        ValueError: they are not as many.
    """
    pairs = list(zip(true, guessed, strict=True))
    right = sum(a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
    phrases, found, correct = Counter[str](), Counter[str](), Counter[str]()
    for ours, theirs in pairs:
        gold, guess = set(spans(ours)), set(spans(theirs))
        for counted, chunks in ((phrases, gold), (found, guess), (correct, gold & guess)):
            counted.update(kind for _, _, kind in chunks)
    types = {kind: Tally(phrases[kind], found[kind], correct[kind]) for kind in sorted(phrases | found)}
    every = Tally(phrases.total(), found.total(), correct.total())
    return Counts(sum(map(len, true)), right, every, types)


def score(tokens: Sequence[str], gold: Sequence[Span], answer: str) -> Scored:
    """An answer: the first JSON array in it, of {"entity": …, "type": …} or [entity, type].

    Each entity in turn takes the first place where its words stand in the sentence, letter for letter, and none is
    taken yet. Whatever else the array holds is a false positive. An array that is malformed scores nothing.
    """
    named = _array(answer)
    if named is None:
        return Scored(False, 0, 0, len(gold))
    taken: set[int] = set()
    tp = 0
    for one in named:
        entity, kind = _entity(one)
        words = _WORD.findall(entity)
        place = _place(tokens, words, taken)
        if place is not None:
            taken.update(range(place, place + len(words)))
            tp += (place, place + len(words), kind) in gold
    return Scored(True, tp, len(named) - tp, len(gold) - tp)


def drawn(sentences: Sequence[Sentence], wanted: int, seed: int) -> list[int]:
    """Which sentences are asked, at most so many, in the order in which they are.

    Sentences without entities have the share that they have among all. Each sentence has a random number of its own,
    and the smallest are drawn: whoever asks for more gets the same ones and others. Only `random` is used of Python's
    generator, whose sequence its documentation promises for ever.
    """
    rng = random.Random(seed)
    key = [rng.random() for _ in sentences]
    order = sorted(range(len(sentences)), key=key.__getitem__)
    full = [number for number in order if spans(sentences[number].tags)]
    empty = [number for number in order if not spans(sentences[number].tags)]
    total, wanted = len(sentences), min(wanted, len(sentences))
    empties = (2 * wanted * len(empty) + total) // (2 * total)
    return sorted(empty[:empties] + full[: wanted - empties], key=key.__getitem__)


def _columns(line: bytes, where: str) -> list[str]:
    """The columns of a line, none of one between sentences."""
    try:
        columns = [column.decode() for column in line.split()]
    except UnicodeDecodeError:
        raise UserError(f"{where}: is no UTF-8: convert the file") from None
    if not columns or columns[0] == "-DOCSTART-":
        return []
    if len(columns) < 2:
        raise UserError(f"{where}: has one column: it must have a token first and its tag last")
    if not _TAG.fullmatch(columns[-1]):
        raise UserError(f"{where}: tag {clean(columns[-1], 40)!r}: must be O, B-TYPE or I-TYPE (IOB1 or IOB2)")
    return columns


def _dataset(fetch: Fetch) -> list[Sentence]:
    """CoNLL-2003's test part.

    Raises:
        UserError: it cannot be had.
    """
    try:
        (rows,) = fetch((hub.Part(DATASET, "", "test", REVISION),))
    except OSError as error:
        why = clean(str(error), 120) or type(error).__name__
        raise UserError(
            f"--tasks {NAME}: CoNLL-2003 cannot be fetched ({why}): give sentences in its columns with --ner FILE"
        ) from None
    try:
        found = [msgspec.convert({"tokens": row["tokens"], "tags": row["ner_tags"]}, Sentence) for row in rows]
    except (KeyError, msgspec.ValidationError):
        found = []
    if not found or not all(map(_sound, found)):
        raise UserError(f"--tasks {NAME}: {DATASET} is not CoNLL-2003 any more: give its file with --ner FILE")
    return found


@lru_cache(maxsize=1)
def _fetched(parts: tuple[hub.Part, ...]) -> list[hub.Rows]:
    """Once: a sweep asks for its tasks when it is planned, and again when it begins."""
    return hub.rows(parts)


def _sound(sentence: Sentence) -> bool:
    """Whether it has as many tags as tokens, and nothing else for tags."""
    return len(sentence.tokens) == len(sentence.tags) > 0 and all(map(_TAG.fullmatch, sentence.tags))


def _types(sentences: Sequence[Sentence]) -> list[str]:
    """CoNLL-2003's types, or where a file has others those that it has."""
    found = {kind for one in sentences for _, _, kind in spans(one.tags)}
    return [kind for kind in TYPES if kind in found or found <= TYPES.keys()] + sorted(found - TYPES.keys())


def _item(number: int, sentence: Sentence, types: Sequence[str]) -> Item:
    """The sentence of this number, the file's first being 0, which has the id 1."""
    gold = spans(sentence.tags)
    asked = QUESTION.format(
        types="\n".join(f"- {kind}: {TYPES[kind]}" if kind in TYPES else f"- {kind}" for kind in types),
        example=EXAMPLE,
        answer=json.dumps([{"entity": entity, "type": kind} for entity, kind in EXAMPLE_ENTITIES if kind in types]),
        sentence=" ".join(sentence.tokens),
    )
    return Item(
        id=str(number + 1),
        messages=(Message("user", asked),),
        check=Check(entities=gold, tokens=sentence.tokens),
        max_tokens=min(MOST_TOKENS, ANSWER_TOKENS + WORD_TOKENS * len(sentence.tokens)),
        group=ENTITIES if gold else NONE,
    )


def _array(answer: str) -> list[Any] | None:
    """The JSON array that begins at the first bracket of a code fence, or of the answer where it has no fence."""
    fenced = _FENCED.search(answer)
    said = fenced[1] if fenced else answer
    try:
        found = json.JSONDecoder().raw_decode(said, said.index("["))[0]
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _entity(one: Any) -> tuple[str, str]:
    """An entity's words and type, nothing where it is no entity."""
    pair = (one.get("entity"), one.get("type")) if isinstance(one, dict) else one
    match pair:
        case (str(entity), str(kind)):
            return entity, kind.strip()
    return "", ""


def _place(tokens: Sequence[str], words: Sequence[str], taken: set[int]) -> int | None:
    """Where the words stand first and are not taken."""
    free = (at for at in range(len(tokens) - len(words) + 1) if taken.isdisjoint(range(at, at + len(words))))
    return next((at for at in free if list(tokens[at : at + len(words)]) == words), None)
