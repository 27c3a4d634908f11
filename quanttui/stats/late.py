"""numpy, imported when something of it is first asked for: `quanttui report` and the first screen, which rarely need
it, would spend a fifth of their time on it."""

from __future__ import annotations

import importlib
from typing import Any


class Late:
    """Stands for a module of this name until one of its names is asked for, and after."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


numpy = Late("numpy")
