"""From figures to decisions: pure functions of what is known. No I/O."""
