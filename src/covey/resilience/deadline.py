"""What a deadline means to the next hop: how much of it to pass on, and when work is not worth starting.

The wire carries the time that *remains*, never an instant, since two machines have two clocks. A receiver drops what
it can't finish in time and not merely what is late: a queue otherwise serves requests in the moment of their death.
"""

from __future__ import annotations

from typing import Final

_HOP_SHARE: Final = 0.05
_HOP_S_MIN: Final = 0.005
_MARGIN_S_MIN: Final = 0.02


def passed_on_ms(remaining_s: float) -> int | None:
    """Return what to write on the wire, in milliseconds: what remains less what the way back takes.

    None without a deadline, at least 1 otherwise: 0 would read as "no deadline" to some.
    """
    if remaining_s == float("inf"):
        return None
    return max(1, int((remaining_s - max(remaining_s * _HOP_SHARE, _HOP_S_MIN)) * 1000))


def is_hopeless(remaining_s: float, *, typical_s: float = 0.0) -> bool:
    """Tell whether work that usually takes ``typical_s`` can't be finished in what remains."""
    return remaining_s < max(_MARGIN_S_MIN, typical_s)
