"""What tells a right answer from a wrong one: a check and an answer in, yes or no out.

Regular expressions and JSON Schemas come from files of anybody's, and run where they can be stopped (`bounded`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from quanttui.errors import UserError
from quanttui.measure.tasks import bounded

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

LETTERS = "ABCD"
"""Between which a choice is made where the check says nothing else."""

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,9})\]")
MISSING = object()
"""What is no value of JSON, None included."""

LONGEST_REGEX = 2000
"""Characters of a regular expression: longer ones take long to be understood."""

DEEPEST = 64
"""Structures in one another, in a schema or a value that is asked for."""


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One question to the answer without the blanks around it.

    exact: it is this text. regex: this is found in it (Python's re). choice: the first letter of `of` in it that stands
    alone is this one. json_path: the first JSON object or array in it has `equals` at this path ($.name[0].other).
    schema: that JSON meets this JSON Schema (Draft 2020-12); it may stand beside json_path, and both must hold then.
    entities: these of `tokens`, each as (first token, token after the last, type), and no others are named in it.
    A regex or schema that takes more than bounded.SECONDS over an answer does not hold.
    """

    exact: str | None = None
    regex: str | None = None
    choice: str | None = None
    of: str = LETTERS
    json_path: str | None = None
    equals: Any = msgspec.UNSET
    schema: dict[str, Any] | None = None
    entities: tuple[tuple[int, int, str], ...] | None = None
    tokens: tuple[str, ...] = ()


KINDS = ("exact", "regex", "choice", "json_path", "schema", "entities")


def validate(check: Check) -> None:
    """See that the check asks for one thing, and that it can be asked.

    Raises:
        UserError: it does not, in words that complete "check: ".
    """
    given = [kind for kind in KINDS if getattr(check, kind) is not None]
    if len(given) != 1 and given != ["json_path", "schema"]:
        raise UserError(f"must have one of {', '.join(KINDS)}, and has {' and '.join(given) or 'none'}")
    if (check.json_path is None) != (check.equals is msgspec.UNSET):
        raise UserError("json_path and equals go together")
    if max(_depth(check.equals), _depth(check.schema)) > DEEPEST:
        raise UserError(f"equals and schema must not be nested more than {DEEPEST} deep")
    if check.regex is not None:
        if len(check.regex) > LONGEST_REGEX:
            raise UserError(f"regex has {len(check.regex)} characters, and must have {LONGEST_REGEX} at most")
        try:
            re.compile(check.regex)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(f"regex {check.regex!r} is none: {error}") from None
    if check.choice is not None and (len(check.choice) != 1 or check.choice not in check.of):
        raise UserError(f"choice {check.choice!r} must be one of the letters {check.of}")
    if check.json_path is not None:
        _steps(check.json_path)
    if check.schema is not None:
        _usable(check.schema)
    if any(not 0 <= start < end <= len(check.tokens) for start, end, _ in check.entities or ()):
        raise UserError(f"entities: each must be [first, past the last, type] within the {len(check.tokens)} tokens")


def holds(check: Check, answer: str) -> bool:
    """Whether the answer is right, where it is not entities that are asked for: those are judge.judge's to score."""
    said = answer.strip()
    if check.exact is not None:
        return said == check.exact.strip()
    if check.regex is not None:
        return _within(searched, check.regex, said)
    if check.choice is not None:
        return chosen(said, check.of) == check.choice
    given = found(said)
    fits = check.schema is None or meets(check.schema, given)
    return fits and (check.json_path is None or _same(_at(given, _steps(check.json_path)), check.equals))


def words(check: Check) -> str:
    """What the check asks for, for people."""
    if check.json_path is not None:
        return f"{check.json_path} = {json.dumps(check.equals, ensure_ascii=False)}"
    if check.regex is not None:
        return f"/{check.regex}/"
    if check.schema is not None:
        return "what its schema asks for"
    if check.entities is not None:
        named = [[" ".join(check.tokens[start:end]), kind] for start, end, kind in check.entities]
        return json.dumps(named, ensure_ascii=False)
    return check.exact if check.exact is not None else check.choice or ""


def chosen(answer: str, letters: str = LETTERS) -> str | None:
    """The first of the letters that stands alone in an answer, None where there is none."""
    letter = re.search(rf"(?<![^\W_])[{re.escape(letters)}](?![^\W_])", answer)
    return letter[0] if letter else None


def found(answer: str) -> Any:
    """The first JSON object or array in an answer, MISSING where there is none, or the answer ends within it. NaN and
    Infinity are no JSON."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    for opened in re.finditer(r"[\[{]", answer):
        try:
            return decoder.raw_decode(answer, opened.start())[0]
        except json.JSONDecodeError as error:
            if error.pos >= len(answer) or error.msg.startswith("Unterminated"):
                return MISSING
        except (ValueError, RecursionError):
            return MISSING
    return MISSING


def meets(schema: dict[str, Any], value: Any) -> bool:
    """Whether a JSON value meets a schema (JSON Schema, Draft 2020-12). `format` is not asked; nothing is fetched."""
    return value is not MISSING and _within(met, schema, value)


def _within(ask: Callable[..., bool], *given: Any) -> bool:
    """What comes of a question that is asked within limits; no where it goes beyond them."""
    try:
        return bounded.call(ask, *given)
    except bounded.Exceeded:
        return False


def searched(regex: str, text: str) -> bool:
    """Whether a regular expression is found in a text. Without limits: `holds` has them."""
    return re.search(regex, text) is not None


def met(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value meets a schema. Without limits: `meets` has them."""
    try:
        return bool(_validator(schema).is_valid(value))
    except RecursionError:
        return False


def _validator(schema: dict[str, Any]) -> Validator:
    """With an empty registry: a reference out of the schema cannot be followed."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry())


def _usable(schema: dict[str, Any]) -> None:
    """See that it is a schema, whole in itself, that can be asked in time.

    Raises:
        UserError: it is not.
    """
    try:
        wrong = bounded.call(complaint, schema)
    except bounded.Exceeded:
        wrong = f"schema takes more than {bounded.SECONDS:g} s, or too much memory, for an empty object"
    if wrong:
        raise UserError(wrong)


def complaint(schema: dict[str, Any]) -> str:
    """Why it is no schema, or refers to what it does not hold, or to itself without end; "" where it can be asked.
    Without limits: `validate` has them."""
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"schema is none: {error.message[:200]}"
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            return f"schema refers to {reference!r}, which it does not hold: nothing is fetched"
    empty: tuple[Any, ...] = ({}, [])
    try:
        for value in empty:
            _validator(schema).is_valid(value)
    except RecursionError:
        return "schema refers to itself without end"
    return ""


def _depth(value: Any) -> int:
    """How many structures lie in one another at most."""
    found, level = 0, [value]
    while level := [one for one in level if isinstance(one, (dict, list))]:
        found += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return found


def _references(part: Any) -> Iterator[str]:
    """What a schema refers to, at any depth."""
    if isinstance(part, dict):
        yield from (part[key] for key in ("$ref", "$dynamicRef") if isinstance(part.get(key), str))
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _references(inner)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _steps(path: str) -> list[str | int]:
    """The names and places of a path.

    Raises:
        UserError: it is none.
    """
    rest = path.removeprefix("$")
    found = list(_STEP.finditer(rest))
    if not path.startswith("$") or "".join(one[0] for one in found) != rest:
        raise UserError(f"json_path {path!r} is none: write it as $.name[0].other")
    return [int(one[2]) if one[2] else one[1] for one in found]


def _at(value: Any, steps: list[str | int]) -> Any:
    """What lies at a path, MISSING where nothing does."""
    for step in steps:
        named = isinstance(value, dict) and isinstance(step, str) and step in value
        if not (named or (isinstance(value, list) and isinstance(step, int) and step < len(value))):
            return MISSING
        value = value[step]
    return value


def _same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: 1 is 1.0, and not true."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
