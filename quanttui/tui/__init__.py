"""The terminal screen: follows a session's log and shows it. Knows nothing of how a sweep is run.

Textual reads its settings from the environment when it is imported, so they are set here, before that.
"""

from __future__ import annotations

import os

os.environ.setdefault("TEXTUAL_FPS", "15")
os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
