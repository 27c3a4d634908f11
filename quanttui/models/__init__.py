"""Models as files: reading headers, telling what a file is, quantizing. Knows nothing of sessions or screens."""
