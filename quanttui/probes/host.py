"""The machine a session runs on. Placeholder of the final module's first part."""

from __future__ import annotations

from pathlib import Path

from quanttui.probes import ROOT, contents, whole


def caches(root: Path = ROOT) -> tuple[int, ...]:
    """Bytes of each last-level cache, largest first; empty where the host does not say.

    A processor may have several, each shared by some of its cores.
    """
    found: dict[int, dict[str, int]] = {}
    for index in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        level, size = whole(contents(index / "level")), binary_size(contents(index / "size"))
        if level is None or size is None or contents(index / "type").strip() == b"Instruction":
            continue
        shared = contents(index / "shared_cpu_list").decode("ascii", "replace").strip()
        found.setdefault(level, {})[shared or str(index)] = size
    return tuple(sorted(found[max(found)].values(), reverse=True)) if found else ()


def binary_size(text: bytes) -> int | None:
    """sysfs's `32768K` or `32M` in bytes, None for anything else."""
    text = text.strip()
    factor = {b"K": 1 << 10, b"M": 1 << 20, b"G": 1 << 30}.get(text[-1:], 1)
    count = whole(text[:-1] if factor > 1 else text)
    return None if count is None else count * factor


def cache_bytes(root: Path = ROOT) -> int | None:
    """Bytes of last-level cache of the whole machine, None where it does not say."""
    return sum(caches(root)) or None
