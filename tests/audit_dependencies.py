"""Known vulnerabilities of what quanttui is installed with: its dependencies, those of its extras, and theirs.

    pip install pip-audit
    python -m tests.audit_dependencies [EXTRA…]      all extras that are installed, where none is named

Asks the advisories of the Python Packaging Authority, by pip-audit, about exactly the versions that are installed here.
Exit codes: 0 none is known, 1 some are, 2 it could not be asked about all of them (no pip-audit, no network).
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from quanttui.format import clean

PROJECT = "quanttui"
SECONDS = 300


def installed(extras: Sequence[str] = ()) -> dict[str, str]:
    """Name and version of every distribution here that the project needs, with those extras (none named: all of its).

    What a marker leaves out, or is not installed, is not in it.
    """
    found: dict[str, str] = {}
    own = metadata.metadata(PROJECT).get_all("Provides-Extra") or []
    waiting = [(PROJECT, frozenset(extras or own))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            here = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name != PROJECT:
            found[name] = here.version
        waiting += _needed(here.requires or (), wanted)
    return dict(sorted(found.items()))


def _needed(requires: Iterable[str], extras: frozenset[str]) -> Iterable[tuple[str, frozenset[str]]]:
    for text in requires:
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield re.sub(r"[-_.]+", "-", one.name).lower(), frozenset(one.extras)


def asked(known: dict[str, str]) -> tuple[int, str]:
    """pip-audit's exit code and JSON about these distributions, or 2 and why there is none."""
    if importlib.util.find_spec("pip_audit") is None:
        return 2, "pip-audit is not installed: pip install pip-audit"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "installed.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in known.items()), encoding="utf-8")
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(path), *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return 2, f"pip-audit did not answer within {SECONDS} s"
    if not done.stdout.lstrip().startswith("{"):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return 2, f"pip-audit could not ask: {clean(last, 200)}"
    return done.returncode, done.stdout


def told(content: dict[str, Any]) -> list[str]:
    """A line for each known vulnerability: which version of what, its names, and which versions are without it."""
    return [
        clean(
            f"{one['name']} {one['version']}: {', '.join([found['id'], *found.get('aliases', [])])}: "
            f"mended in {', '.join(found.get('fix_versions', [])) or 'no version'}", 300,
        )
        for one in content["dependencies"]
        for found in one.get("vulns", [])
    ]  # fmt: skip


def main(extras: Sequence[str], ask: Callable[[dict[str, str]], tuple[int, str]] = asked) -> int:
    """Ask, print; the exit code."""
    known = installed(extras)
    code, answer = ask(known)
    if code == 2:
        print(f"audit: {answer}", file=sys.stderr)
        return 2
    content = json.loads(answer)
    lines, unknown = told(content), [one for one in content["dependencies"] if "skip_reason" in one]
    print("\n".join([*lines, f"{len(known)} distributions, {len(lines)} known vulnerabilities"]))
    if unknown:
        why = clean(str(unknown[0]["skip_reason"]), 200)
        print(f"audit: {len(unknown)} of {len(known)} could not be asked about: {why}", file=sys.stderr)
    return 1 if lines else 2 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
