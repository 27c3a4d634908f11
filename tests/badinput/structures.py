"""Structures for hypothesis to make up: JSON, values of the program's own types, lines of cells. All as bytes."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Sequence
from typing import Any, Union

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .mutate import INTEGERS, NUMBERS, STRINGS

WORDS: SearchStrategy[str] = st.sampled_from(STRINGS[:-1]) | st.text(max_size=12)
WHOLE: SearchStrategy[int] = (
    st.integers(0, 9)
    | st.sampled_from(INTEGERS)
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([-1, -(2**63), 10**25])
)
REAL: SearchStrategy[float] = (
    st.floats(0, 100)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -1.0, 1e300, 5e-324, -0.0])
)
JSON: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | WHOLE | REAL | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
TOKENS: SearchStrategy[str] = st.sampled_from(NUMBERS) | WORDS


def encoded(value: Any) -> bytes:
    """JSON as somebody may write it, lone surrogates included."""
    return json.dumps(value).encode()


def keyed(known: dict[str, SearchStrategy[Any]], required: Sequence[str] = ()) -> SearchStrategy[dict[str, Any]]:
    """Objects with these keys, each there or not, and others."""
    own = st.fixed_dictionaries(
        {key: known[key] for key in required}, optional={key: one for key, one in known.items() if key not in required}
    )
    return st.builds(lambda a, b: {**b, **a}, own, st.just({}) | st.dictionaries(WORDS, JSON, max_size=1))


def of_type(kind: Any, depth: int = 0) -> SearchStrategy[Any]:
    """Plain values that msgspec takes for a type: right in kind, and as odd as the kind allows."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.deferred(lambda: _struct(kind, depth))
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return of_type(parts[0], depth)
    if origin in (Union, types.UnionType):
        return st.one_of([of_type(one, depth) for one in parts])
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if origin is tuple and parts[-1] is not Ellipsis:
        return st.tuples(*(of_type(one, depth) for one in parts)).map(list)
    if origin in (tuple, list):
        return st.lists(of_type(parts[0], depth + 1), max_size=3)
    if origin is dict:
        return st.dictionaries(WORDS, of_type(parts[1], depth + 1), max_size=3)
    return {
        bool: st.booleans(),
        int: WHOLE,
        float: REAL | WHOLE,
        str: WORDS,
        bytes: st.binary(max_size=40),
        types.NoneType: st.none(),
        Any: JSON,
    }[kind]


def _struct(kind: type[msgspec.Struct], depth: int) -> SearchStrategy[dict[str, Any]]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {
        one.encode_name: (of_type(hints[one.name], depth + 1), one.required) for one in msgspec.structs.fields(kind)
    }
    tag = kind.__struct_config__.tag
    own = {str(kind.__struct_config__.tag_field): st.just(tag)} if tag else {}
    needed = {name: strategy for name, (strategy, required) in fields.items() if required}
    rest = {name: strategy for name, (strategy, required) in fields.items() if not required}
    return st.fixed_dictionaries({**own, **needed}, optional=rest)


def lines(cells: SearchStrategy[str], divider: str, ending: str = "\n") -> SearchStrategy[bytes]:
    """Lines of a few cells."""
    row = st.lists(cells, max_size=8).map(divider.join)
    return st.lists(row, max_size=8).map(lambda rows: ending.join(rows).encode("utf-8", "surrogatepass"))
