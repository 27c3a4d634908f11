"""One line of the self-check. Owns its form; knows nothing of what is checked."""

from __future__ import annotations

import msgspec

from quanttui.format import clean


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, whether it is as it should be, what was expected and found; `how` says what counts as equal."""

    what: str
    ok: bool
    expected: str
    found: str
    how: str = ""

    @property
    def line(self) -> str:
        """`ok   what   expected 3.3166  found 3.3166  (how)`."""
        verdict = "ok " if self.ok else "BAD"
        how = f"  ({clean(self.how)})" if self.how else ""
        return f"{verdict}  {clean(self.what):<44}  expected {clean(self.expected)}  found {clean(self.found)}{how}"


def near(what: str, expected: float, found: float, within: float, how: str = "", digits: int = 6) -> Check:
    """A check that two numbers are no further apart than the share `within` of the expected one."""
    ok = abs(found - expected) <= within * abs(expected)
    return Check(what=what, ok=ok, expected=f"{expected:.{digits}f}", found=f"{found:.{digits}f}", how=how)


def equal(what: str, expected: str, found: str, how: str = "") -> Check:
    """A check that two things read the same."""
    return Check(what=what, ok=expected == found, expected=expected, found=found, how=how)
