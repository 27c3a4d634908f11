"""A session on another machine, followed through the ssh program: a relay there, a mirror here."""
