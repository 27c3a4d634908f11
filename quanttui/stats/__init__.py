"""Statistics: arrays in, numbers out. No I/O, nothing of quanttui's own vocabulary."""
