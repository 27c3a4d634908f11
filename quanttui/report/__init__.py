"""Reports of a session, one module a format. Each takes a State and gives its text or its data; none does I/O."""
