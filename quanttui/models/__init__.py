"""Models as files: reading their headers, naming what they are, quantizing them. Knows nothing of sessions or screens."""
