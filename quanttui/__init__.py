"""quanttui: run every quant of one model, watch it live, and know which of the numbers to believe.

Everything that is known is an event in a session's log; everything that is shown is derived from events.
"""

__version__ = "0.1.0"
