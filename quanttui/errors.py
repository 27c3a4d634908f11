"""What may go wrong in a way that the user can mend. Owns the one exception that becomes a line on stderr."""

from __future__ import annotations

import errno


class UserError(Exception):
    """Bad usage or bad input: its text is one clear line that names the file, key or flag, and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


def no_room(error: OSError) -> bool:
    """Whether a disk, or somebody's share of it, is full."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
