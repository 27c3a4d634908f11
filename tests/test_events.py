"""The vocabulary: its codec, its tolerance of newer logs, and that every reading is described."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e

UNITS = st.builds(
    e.Unit,
    arm=st.text(max_size=20),
    kind=st.sampled_from(["prompt", "decode", "perplexity"]),
    index=st.integers(0, 10**6),
    tokens=st.integers(0, 10**6),
    depth=st.integers(0, 10**6),
    count=st.integers(1, 64),
    attempt=st.integers(1, 4),
)


@given(st.text(max_size=50), st.floats(0, 1e9), st.integers(0, 2**40), UNITS)
def test_what_is_written_is_read(text: str, t: float, n: int, unit: e.Unit) -> None:
    for event in (
        e.ArmFailed(n=n, t=t, arm=text, outcome="crashed", error=text, stderr=(text, text)),
        e.UnitDone(n=n, t=t, unit=unit, at=t, tokens=3, ns=n, counters=e.Counters(read=n)),
        e.Sample(n=n, t=t, readings={"mem.used": t}, pid=7),
    ):
        line = e.encode(event)
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        assert e.decode(line) == event


@given(st.data())
def test_a_torn_line_is_never_another_event(data: st.DataObject) -> None:
    line = e.encode(e.ArmDone(n=3, t=1.5, arm="Q4_K_M"))[:-1]
    cut = data.draw(st.integers(0, len(line) - 1))
    with pytest.raises(ValueError):
        e.decode(line[:cut])


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_a_value_error(line: bytes) -> None:
    try:
        assert isinstance(e.decode(line), e.Event | e.Unknown)
    except ValueError:
        pass


def test_events_and_fields_of_a_newer_quanttui_are_tolerated() -> None:
    assert e.decode(b'{"event":"moon.phase","n":4,"t":2.0,"full":true}') == e.Unknown(n=4, t=2.0, event="moon.phase")
    assert e.decode(b'{"event":"beat","n":4,"t":2.0,"wall":1.0,"mood":"good"}') == e.Beat(n=4, t=2.0, wall=1.0)


@given(UNITS, UNITS)
def test_a_unit_id_names_one_unit(a: e.Unit, b: e.Unit) -> None:
    def key(unit: e.Unit) -> tuple[object, ...]:
        if unit.kind == "perplexity":
            return (unit.arm, unit.kind, unit.index, unit.count, unit.attempt)
        return (unit.arm, unit.kind, unit.index, unit.tokens, unit.depth, unit.attempt)

    if a.arm == b.arm:
        assert (a.id == b.id) == (key(a) == key(b))
