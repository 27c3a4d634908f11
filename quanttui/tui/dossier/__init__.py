"""Everything about one quant, as frozen data: sections of facts, bars, tables and a timeline. Pure.

forms.py     what it consists of, and the words for what is absent
figures.py   what the quant is, and its speeds
judged.py    verdicts, evidence, contaminated stretches
moved.py     what it moves and holds: roofline, tensor types, memory
quality.py   what it loses and costs: perplexity, KL divergence, energy
run.py       how it ran: timeline, stderr, settings

Its figures are the summary's and the diagnosis's, so that it cannot disagree with the monitor and the reports. Knows no
widget and no file: the engine's stderr is handed in. All text in it is clean: safe to print.
"""

from __future__ import annotations

from collections.abc import Sequence

from quanttui.diagnosis import windows
from quanttui.format import clean
from quanttui.state import State
from quanttui.summary import Summary
from quanttui.tui import view
from quanttui.tui.dossier import figures, judged, moved, quality, run
from quanttui.tui.dossier.forms import Dossier, Section, Subject, says
from quanttui.tui.dossier.run import tail

__all__ = ["Dossier", "of", "tail"]


def of(state: State, summary: Summary, arm: str, stderr: Sequence[str] = ()) -> Dossier:
    """The dossier of one quant.

    Args:
        summary: of the same state.
        arm: its id.
        stderr: the last lines of its engines, oldest first; what the log quotes of a failed one stands in for them.
    """
    known = next((one for one in state.arms.values() if clean(one.id, 80) == clean(arm, 80)), None)
    mine = next((one for one in summary.arms if known is not None and one.id == clean(known.id, 80)), None)
    model = clean(state.model, 80)
    if known is None or mine is None:
        nothing = Section("quant", (says("the session knows no such quant at this moment"),))
        return Dossier(clean(arm, 80), "·", "not known", "dim", model, (nothing,))
    attempt = windows.latest(known, "decode") or known.attempt
    bounds = windows.bounds(state, known, attempt, "decode") if attempt is not None else None
    at = Subject(state, summary, known, mine, attempt, bounds)
    sign, role = view.sign(mine, clean(state.arm, 80))
    sections = (
        figures.head(at), figures.speeds(at), judged.verdicts(at), judged.contaminated(at), moved.roof(at),
        moved.tensors(at), moved.memory(at), run.timeline(at), quality.losses(at), quality.energy(at),
        run.last_words(at, stderr), run.requested(at),
    )  # fmt: skip
    return Dossier(mine.id, sign, mine.outcome, role, model, sections)
