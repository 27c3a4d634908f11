"""Why a quant runs at the speed it does: judgements on a session's fold. Pure: no I/O, no clock, no screen."""
