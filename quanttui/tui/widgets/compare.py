"""A comparison on the screen: figures side by side, speed and perplexity as curves over the first side's, answers in
two columns, what differs around them. Pure.

Every function draws exactly `width` x `height` cells. The first side is dotted, as the quant that is compared with is
on the monitor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quanttui.decide.compare import Against, Answer, Comparison, Curve, Difference, Loss, Pair, Ratio, Side, letter
from quanttui.format import ABSENT, clean, percent, significant
from quanttui.series import Series
from quanttui.tui.glyphs import Glyphs
from quanttui.tui.parts import Line, Span
from quanttui.tui.trace import Trace, bounds, finite, over_progress
from quanttui.tui.widgets import pareto as plane
from quanttui.tui.widgets.bars import wrap
from quanttui.tui.widgets.chart import plot
from quanttui.tui.widgets.pareto import filled
from quanttui.tui.widgets.sheet import crop, cut, framed, pad, rule, shown, sides, width_of

FRAMED = (60, 8)
"""The least size (columns, rows) at which there is a frame: below it every cell is needed."""

CHANGES = {"lost": ("✗", "bad"), "gained": ("✓", "ok"), "differs": ("~", "warn"), "same": ("=", "dim")}
"""What became of an item: a glyph and a role, beside the word."""

RIGHT = {True: ("✓ right", "ok"), False: ("✗ wrong", "bad"), None: ("", "dim")}

PARTS = "▶"
"""Stands before the first word that is not the same in two answers."""

LONGEST = 4000
"""Characters of one line of an answer that are shown."""

_CALLS = {"faster": "ok", "slower": "warn", "same": "dim", "contaminated": "bad"}

Body = Callable[[int, int], Sequence[Line]]


def _sheet(title: str, status: Line, body: Body, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A body of a given size in a frame where there is room for one, else below its title."""
    if width <= 0 or height <= 0:
        return []
    if width >= FRAMED[0] and height >= FRAMED[1]:
        drawn = body(width - 4, height - 2)
        return framed(((title, "title"),), status, drawn, width, height, glyphs)
    if height < 3:
        return filled(body(width, height), width, height)
    return [sides(((title, "title"),), status, width, glyphs), *filled(body(width, height - 1), width, height - 1)]


# --- figures --------------------------------------------------------------------------------------------------------


def figures(view: Comparison, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A row for each side: speed, against the first, perplexity, against the first, answers."""
    status = (("* tainted  ±95 % sequences", "dim"),) if width >= 70 else ()

    def body(across: int, rows: int) -> list[Line]:
        return _rows([_HEADINGS, *_figures(view)], across, rows, glyphs)

    return _sheet(f"figures against {view.sides[0].name}", status, body, width, height, glyphs)


_HEADINGS: tuple[Span, ...] = tuple(
    (text, "dim") for text in ("", "tok/s", "±", "×", "", "ppl", "Δppl %", "±", "right", "GB", "bpw")
)
_FIRST_OUT = (10, 9, 5, 2, 8, 4, 7)
"""Columns by number, in the order in which a narrow screen does without them."""


def _figures(view: Comparison) -> list[tuple[Span, ...]]:
    by_name = {one.name: one for one in view.against}
    return [(_named(side), *_cells(side, by_name.get(side.name))) for side in view.sides]


def _named(side: Side) -> Span:
    failed = "" if side.outcome in ("ok", "running") else f" ({side.outcome})"
    return f"{side.name}{failed}", "bad" if side.tainted else "strong"


def _cells(side: Side, against: Against | None) -> tuple[Span, ...]:
    """The cells after the name."""
    star, role = ("*", "bad") if side.tainted and side.tok_s is not None else ("", "text")
    absent: Span = (ABSENT, "dim") if against is not None else ("first", "dim")
    ratio, said, lost, half = absent, ("", ""), absent, ("", "")
    if against is not None and against.speed is not None:
        kind = _CALLS.get(against.speed.call, "text")
        ratio, said = (times(against.speed), kind), (spread(against.speed), kind)
    if against is not None and against.loss is not None:
        lost, half = (change(against.loss), "text"), (f"±{_half(against.loss)}", "text")
    return (
        (f"{significant(side.tok_s)}{star}", role),
        (f"±{significant(side.radius, 2)}" if side.radius is not None else "", role),
        ratio,
        said,
        (f"{side.perplexity:.3f}" if side.perplexity is not None else ABSENT, "text"),
        lost,
        half,
        (f"{side.right}/{side.checked}" if side.checked else ABSENT, "text"),
        (significant(side.bytes / 1e9) if side.bytes is not None else ABSENT, "dim"),
        (significant(side.bits_per_weight), "dim"),
    )


def times(found: Ratio) -> str:
    """A ratio of speeds: ×1.36, with a star where one of them is tainted."""
    return f"×{found.ratio:.2f}{'*' if found.call == 'contaminated' else ''}"


def spread(found: Ratio) -> str:
    """Its interval, and what that says: (1.30–1.42) faster."""
    ends = f"({found.low:.2f}–{found.high:.2f}) " if found.low is not None and found.high is not None else ""
    return f"{ends}{found.call or 'open'}"


def change(found: Loss) -> str:
    """A difference in perplexity in percent: +1.71."""
    return f"{'+' if found.percent >= 0 else '-'}{significant(abs(found.percent))}"


def _half(found: Loss) -> str:
    """Half the interval of a difference in perplexity, in percent."""
    return significant((found.high - found.low) / 2, 2) if found.low is not None and found.high is not None else ABSENT


def _rows(rows: Sequence[Sequence[Span]], width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A table of as many columns as fit; where not all rows do, the last line counts those left out."""
    rows = [[(glyphs.text(text), role) for text, role in row] for row in rows]
    widths = [max(width_of(row[column][0]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = min(widths[0], max(8, width // 3))
    kept, mark = list(range(len(widths))), glyphs.text("…")
    for column in _FIRST_OUT:
        if sum(widths[k] + 2 for k in kept) <= width + 2 or column not in kept:
            break
        kept.remove(column)
    lines = [
        crop([part for k in kept for part in ((pad(row[k][0], widths[k], k > 0, mark), row[k][1]), ("  ", ""))], width)
        for row in rows
    ]
    if len(lines) <= height:
        return lines
    return [*lines[: height - 1], sides(((f"+{len(lines) - height + 1}", "dim"),), (), width, glyphs)]


# --- curves ---------------------------------------------------------------------------------------------------------


def speed(view: Comparison, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """Decode tok/s over the token of each other side, the first side's at the same token dotted, on one scale."""
    first, others = view.sides[0], view.sides[1:]
    curves = [_series(one.rate) for one in view.sides]
    span = max((len(one.sums) * one.width for one in curves if one is not None), default=0.0)

    def block(index: int, across: int, rows: int) -> list[Line]:
        side, against, curve = others[index], view.against[index], curves[index + 1]
        right: Line = ((against.why_speed, "dim"),)
        if against.speed is not None:
            how = "in turns" if against.speed.paired else "apart"
            noise = f", noise {percent(against.speed.floor)} %" if against.speed.floor is not None else ""
            said = f"{times(against.speed)} {spread(against.speed)}, {against.speed.n} {how}{noise}"
            right = ((said, _CALLS.get(against.speed.call, "text")),)
        known = (_named(side), _rate(side)) if side.tok_s is not None else (_named(side),)
        head = sides(known, right, across, glyphs)
        if curve is None or rows < 3:
            return [head]
        drawn = over_progress(curve, curves[0], span, across * glyphs.curve.across)
        return [head, *_chart(drawn, across, rows - 1, glyphs, "speed", f"{first.name} at the same token", "tok/s")]

    def body(across: int, rows: int) -> list[Line]:
        if not others:
            return [sides((_named(first), _rate(first)), (("nothing to compare with", "dim"),), across, glyphs)]
        return _stacked(len(others), block, across, rows, glyphs)

    return _sheet(f"speed against {first.name}", (_bare(_rate(first)),), body, width, height, glyphs)


def perplexity(view: Comparison, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The running perplexity of each other side over the common chunks, the first side's dotted; below it how the
    difference and its 95 % sequence went on."""
    first, others = view.sides[0], view.against

    def block(index: int, across: int, rows: int) -> list[Line]:
        one, side = others[index], view.sides[index + 1]
        if one.loss is None:
            known = (_named(side), _quality(side)) if side.perplexity is not None else (_named(side),)
            return [sides(known, ((one.why_loss, "warn"),), across, glyphs)]
        found = one.loss
        about = "of this text" if found.of_text else "of such texts"
        said = f"{change(found)} ±{_half(found)} %, {found.chunks} common chunks, {about}"
        head = sides((_named(side), _quality(side)), ((said, "text"),), across, glyphs)
        room = rows - 1
        if room < 2:
            return [head]
        upper = room if room < 6 else (room + 1) // 2
        columns = across * glyphs.curve.across
        ours, theirs = _series(found.ours), _series(found.theirs)
        assert ours is not None
        drawn = over_progress(ours, theirs, found.chunks, columns)
        lines = [head, *_chart(drawn, across, upper, glyphs, "perplexity", f"{first.name} at the same chunk", "ppl")]
        return lines if upper == room else [*lines, *_band(found, across, room - upper, glyphs)]

    def body(across: int, rows: int) -> list[Line]:
        if not others:
            return [sides((_named(first), _quality(first)), (("nothing to compare with", "dim"),), across, glyphs)]
        return _stacked(len(others), block, across, rows, glyphs)

    return _sheet(f"perplexity against {first.name}", (_bare(_quality(first)),), body, width, height, glyphs)


def _rate(side: Side) -> Span:
    if side.tok_s is None:
        return "  has not decoded", "dim"
    return f"  {significant(side.tok_s)}{'*' if side.tainted else ''} tok/s", "bad" if side.tainted else "text"


def _quality(side: Side) -> Span:
    if side.perplexity is None:
        return "  has scored nothing", "dim"
    planned = f"/{side.planned}" if side.planned else ""
    return f"  {side.perplexity:.3f}  {side.chunks}{planned}", "text"


def _bare(span: Span) -> Span:
    return span[0].strip(), span[1]


def _series(curve: Curve | None) -> Series | None:
    """A curve as a series, each of its bins of one value."""
    if curve is None or not curve.values:
        return None
    known = [value is not None for value in curve.values]
    return Series(curve.width, [value or 0.0 for value in curve.values], [int(one) for one in known])


def _stacked(
    count: int, block: Callable[[int, int, int], list[Line]], width: int, height: int, glyphs: Glyphs
) -> list[Line]:
    """Blocks of one height below one another; where there is not a line for each, the last line counts the rest."""
    drawn = count if count <= height else max(0, height - 1)
    lines: list[Line] = []
    for index in range(drawn):
        rows = height * (index + 1) // drawn - height * index // drawn if drawn == count else 1
        lines += filled(block(index, width, rows), width, rows)
    if drawn < count:
        lines.append(sides(((f"+{count - drawn}", "dim"),), (), width, glyphs))
    return lines


def _chart(trace: Trace, width: int, height: int, glyphs: Glyphs, role: str, ghost: str, unit: str) -> list[Line]:
    """A chart, with a line that says what is dotted and what the range is where there is room for it."""
    if height < 3:
        return list(plot(trace, width, height, glyphs, role))
    scale = f"{plane.number(trace.low)} to {plane.number(trace.high)} {unit}"
    below = sides(((f"dotted: {ghost}" if trace.ghost else "", "dim"),), ((scale, "dim"),), width, glyphs)
    return [*plot(trace, width, height - 1, glyphs, role), below]


def _band(found: Loss, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The difference in percent over the chunks, the ends of its 95 % sequence dotted around it.

    The range is that of what holds at the end and half the time before it: the first few chunks tell little.
    """
    columns = width * glyphs.curve.across
    parts = [_series(curve) for curve in (found.percents, found.lows, found.highs)]
    middle, low, high = (over_progress(one, None, found.chunks, columns) if one else None for one in parts)
    assert middle is not None
    ends = [trace.values if trace else () for trace in (low, high)]
    later = [value for values in (middle.values, *ends) for value in values[len(values) // 2 :]]
    bottom, top = bounds([0.0, *finite(later)])
    room = max(1, height - 1)
    zero = tuple(0.0 if column % (8 * glyphs.curve.across) == 0 else None for column in range(columns))
    line = Trace(middle.values, zero, False, bottom, top)
    drawn = plot(line, width, room, glyphs, "perplexity")
    for values in ends:
        dotted = plot(Trace((), values, False, bottom, top), width, room, glyphs, "text")
        drawn = tuple(_laid(a, b) for a, b in zip(drawn, dotted, strict=True))
    if height < 2:
        return list(drawn)
    scale = f"{plane.number(bottom)} to {plane.number(top)} %"
    said = (("Δppl %, dotted: its 95 % sequence, sparse: zero", "dim"),)
    return [*drawn, sides(said, ((scale, "dim"),), width, glyphs)]


def _laid(front: Line, back: Line) -> Line:
    """A chart's line over another's: the back is seen where the front is blank."""
    spans: list[Span] = []
    for a, b in zip(_single(front), _single(back), strict=True):
        char, role = a if a[0] != " " else b
        if spans and spans[-1][1] == role:
            spans[-1] = (spans[-1][0] + char, role)
        else:
            spans.append((char, role))
    return tuple(spans)


def _single(line: Line) -> list[Span]:
    return [(char, role) for text, role in line for char in text]


# --- answers --------------------------------------------------------------------------------------------------------


def answers(
    view: Comparison, width: int, height: int, glyphs: Glyphs, other: int = 0, item: int = 0, top: int = 0
) -> list[Line]:
    """Both answers to one item side by side, the place where they part marked; above them the items, flipped ones
    first, where there is room.

    Args:
        other: which of the comparison's others; item: which of its pairs; top: lines of the answers scrolled past.
            Each is taken as near as there is one.
    """
    against = view.against[max(0, min(other, len(view.against) - 1))] if view.against else None
    pairs = against.answers if against is not None else ()
    here = max(0, min(item, len(pairs) - 1))

    def body(across: int, rows: int) -> list[Line]:
        if against is None or not pairs:
            return _said(_none(view, against), across, glyphs)
        listed = min(len(pairs), rows // 4) if rows >= 12 else 0
        lines = _tally(against, across, glyphs)[: max(1, rows // 4)]
        lines += _items(pairs, here, across, listed, glyphs)
        lines += [rule(across, glyphs)] if listed else []
        return [*lines, *_both(against, pairs[here], across, rows - len(lines), glyphs, top)]

    status: Line = ((f"{here + 1}/{len(pairs)}", "dim"),) if pairs else ()
    title = f"answers: {against.first} and {against.name}" if against is not None else "answers"
    return _sheet(title, status, body, width, height, glyphs)


def _said(words: str, width: int, glyphs: Glyphs) -> list[Line]:
    return [crop(line, width) for line in wrap(shown(((words, "dim"),), glyphs), width, 0)]


def _none(view: Comparison, against: Against | None) -> str:
    if against is None:
        return "nothing to compare with"
    silent = [side.name for side in view.sides if side.name in (against.first, against.name) and not side.answers]
    if len(silent) == 1:
        return f"{silent[0]} has not answered yet"
    if against.alone:
        return f"{against.first} and {against.name} were not asked the same: {against.alone} answers have no other"
    return "no answers: the sweep has no task that asks for any (--tasks …,prompts)"


def _tally(against: Against, width: int, glyphs: Glyphs) -> list[Line]:
    """How many items were lost, gained, and so on."""
    spans: list[Span] = []
    for change, (sign, role) in CHANGES.items():
        spans += [(f"{sign} {against.count(change)} {change}  ", role if against.count(change) else "dim")]
    spans += [(f"{against.alone} answers alone", "dim")] if against.alone else []
    return [crop(line, width) for line in wrap(shown(spans, glyphs), width, 0)]


def _items(pairs: Sequence[Pair], here: int, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The items around the one that is shown."""
    first = max(0, min(here - height // 2, len(pairs) - height))
    lines = []
    for index in range(first, first + height):
        one = pairs[index]
        sign, role = CHANGES[one.change]
        chosen = "+" if index == here else ""
        spans: list[Span] = [(f"{sign} {one.change:<8}", role + chosen), (one.item, "text" + chosen)]
        expected = f"  expected {clean(one.first.expected, 40)}" if one.first.expected else ""
        spans += [(expected, "dim" + chosen)] if expected else []
        line = crop(cut(shown(spans, glyphs), width, glyphs), width)
        lines.append(tuple((text, kind or chosen) for text, kind in line))
    return lines


def _both(against: Against, one: Pair, width: int, height: int, glyphs: Glyphs, top: int) -> list[Line]:
    """Two columns, each with a heading: the arm, whether it is right, how long the answer is."""
    left = (width - 3) // 2
    right = width - 3 - left
    sizes = (left, right)
    heads = [
        _heading(name, answer, size, glyphs)
        for name, answer, size in ((against.first, one.first, left), (against.name, one.other, right))
    ]
    texts = [
        _wrapped(answer.text, one.diverges, size, glyphs) for answer, size in ((one.first, left), (one.other, right))
    ]
    room, longest = max(0, height - 1), max(len(text) for text in texts)
    top = max(0, min(top, longest - room))
    between: Span = (f" {glyphs.text('│')} ", "border")
    lines: list[Line] = [(*heads[0], between, *heads[1])] if height > 0 else []
    for row in range(top, min(longest, top + room)):
        cells = [crop(text[row] if row < len(text) else (), size) for text, size in zip(texts, sizes, strict=True)]
        lines.append((*cells[0], between, *cells[1]))
    if top + room < longest and room > 1:
        lines[-1] = sides(((f"+{longest - top - room + 1} lines", "dim"),), (), width, glyphs)
    return lines


def _heading(name: str, answer: Answer, width: int, glyphs: Glyphs) -> Line:
    word, role = RIGHT[answer.correct]
    return crop(sides(((name, "strong"),), ((word, role),), width, glyphs), width)


def _wrapped(text: str, diverges: int | None, width: int, glyphs: Glyphs) -> list[Line]:
    """An answer in lines of `width` cells. Before the first word that differs stands PARTS, and the word is reversed.

    Foreign text: each of its lines is cleaned, and what does not fit is broken.
    """
    place = len(text) if diverges is None else diverges
    spans: list[list[Span]] = [[]]
    for index, line in enumerate(text[:place].split("\n")):
        if index:
            spans.append([])
        spans[-1].append((_kept(line), "text"))
    if diverges is not None:
        rest = text[place:]
        word = rest[: next((i for i, char in enumerate(rest) if i and char.isspace()), len(rest))] if rest else ""
        spans[-1].append((PARTS, "warn"))
        spans[-1].append((_kept(word) or "(ends)", "warn+"))
        for index, line in enumerate(rest[len(word) :].split("\n")):
            if index:
                spans.append([])
            spans[-1].append((_kept(line), "text"))
    lines: list[Line] = []
    for one in spans:
        lines += _broken(shown(one, glyphs), width)
    return lines


def _kept(text: str) -> str:
    """Clean text with a blank kept where it began or ended in one, so that words on both sides stay apart."""
    if not text:
        return ""
    kept = clean(text, LONGEST)
    if not kept:
        return " "
    return f"{' ' if text[0].isspace() else ''}{kept}{' ' if text[-1].isspace() else ''}"


def _broken(spans: Line, width: int) -> list[Line]:
    """Spans wrapped at blanks; a word longer than a line is broken where the line ends."""
    pieces: list[Span] = []
    for text, role in spans:
        for word in text.replace(" ", " \0").split("\0"):
            pieces += [(part, role) for part in _parts(word, max(1, width))]
    lines: list[list[Span]] = [[]]
    used = 0
    for text, role in pieces:
        if used and used + width_of(text.rstrip()) > width:
            lines.append([])
            used = 0
        lines[-1].append((text, role))
        used += width_of(text)
    return [tuple(line) for line in lines]


def _parts(word: str, width: int) -> list[str]:
    """A word cut into pieces of at most `width` cells, the blank at its end not counted."""
    if width_of(word.rstrip()) <= width:
        return [word] if word else []
    parts, used = [""], 0
    for char in word:
        size = width_of(char)
        if used + size > width and parts[-1]:
            parts.append("")
            used = 0
        parts[-1] += char
        used += size
    return parts


# --- what differs ---------------------------------------------------------------------------------------------------


def table(view: Comparison, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """What is not the same around the sides: host, build and settings by session, the arms' own by arm."""

    def body(across: int, rows: int) -> list[Line]:
        lines = _named_sessions(view, across, glyphs)
        around = [one for one in view.differences if one.about != "arm"]
        letters = [letter(place) for place in range(len(view.sessions))]
        lines += _grid(around, letters, across, glyphs)
        lines += _grid([one for one in view.differences if one.about == "arm"], _names(view), across, glyphs)
        if not view.differences:
            lines += _said("nothing differs: host, build and settings are the same", across, glyphs)
        if len(lines) <= rows:
            return lines
        return [*lines[: rows - 1], sides(((f"+{len(lines) - rows + 1} lines", "dim"),), (), across, glyphs)]

    return _sheet("what differs", ((f"{len(view.differences)}", "dim"),), body, width, height, glyphs)


def _names(view: Comparison) -> list[str]:
    return [side.name for side in view.sides]


def _named_sessions(view: Comparison, width: int, glyphs: Glyphs) -> list[Line]:
    if len(view.sessions) < 2:
        return []
    return [
        crop(cut(shown(((f"{letter(place)} ", "strong"), (name, "text")), glyphs), width, glyphs), width)
        for place, name in enumerate(view.sessions)
    ]


LEAST_VALUE = 12
"""Cells of a column of values at least; where there are too many columns for that, values stand below one another."""


def _grid(rows: Sequence[Difference], heads: Sequence[str], width: int, glyphs: Glyphs) -> list[Line]:
    """A row for each difference and a column for each head; or a line for each value."""
    if not rows:
        return []
    names = [glyphs.text(f"{row.about} {row.name}") for row in rows]
    name = min(max(width_of(text) for text in names), width // 3)
    room = (width - name) // len(heads) - 2
    if room < LEAST_VALUE:
        return [line for row in rows for line in _upright(row, heads, width, glyphs)]
    mark = glyphs.text("…")
    lines = [_row("", heads, name, room, width, glyphs, "strong")]
    for text, row in zip(names, rows, strict=True):
        lines.append(_row(pad(text, name, mark=mark), row.values, name, room, width, glyphs, "text"))
    return lines


def _row(head: str, values: Sequence[str], name: int, room: int, width: int, glyphs: Glyphs, role: str) -> Line:
    spans: list[Span] = [(pad(head, name), "dim")]
    for value in values:
        spans.append(("  " + pad(glyphs.text(value), room, mark=glyphs.text("…")), role))
    return crop(spans, width)


def _upright(row: Difference, heads: Sequence[str], width: int, glyphs: Glyphs) -> list[Line]:
    """A difference as a heading, and below it each value once with those who have it."""
    by_value: dict[str, list[str]] = {}
    for head, value in zip(heads, row.values, strict=True):
        by_value.setdefault(value, []).append(head)
    lines = [sides(((f"{row.about} {row.name}", "dim"),), (), width, glyphs)]
    for value, who in by_value.items():
        spans = shown(((f"  {', '.join(who)}: ", "strong"), (value, "text")), glyphs)
        lines.append(crop(cut(spans, width, glyphs), width))
    return lines


# --- speed and quality together -------------------------------------------------------------------------------------


def advice(
    parts: Sequence[tuple[str, Sequence[str]]], width: int, height: int, glyphs: Glyphs, top: int = 0
) -> list[Line]:
    """Headings with their sentences, from line `top` on."""
    lines: list[Line] = []
    for heading, sentences in parts:
        lines += [crop(((f" {heading}", "title"),), width)]
        for sentence in sentences:
            wrapped = wrap(shown([(sentence, "text")], glyphs), max(8, width - 5), 0) or [()]
            lines += [crop(((" - " if at == 0 else "   ", "dim"), *line), width) for at, line in enumerate(wrapped)]
        lines.append(crop((), width))
    lines.append(crop(((" quanttui advise has --memory, --ctx, --tolerance, --min-tok-s, --needs", "dim"),), width))
    first = max(0, min(top, len(lines) - height))
    kept = lines[first : first + height]
    return [*kept, *([crop((), width)] * (height - len(kept)))]


def pareto(view: Comparison, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The sides by speed and by perplexity against the first."""

    def body(across: int, rows: int) -> list[Line]:
        return plane.draw(view.scatter, across, rows, glyphs)

    return _sheet("quality against speed", ((plane.BETTER, "dim"),), body, width, height, glyphs)
