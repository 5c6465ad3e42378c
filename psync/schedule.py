"""Tell when it is time for the full sync that a user wants at some hours of the day.

**Invariants.** An hour that was missed (the machine slept) is made up for once, however many
were. The hours are those of the clock on the wall, where there may be none or two of an hour
when it is put on or back. No clock is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

__all__ = ["latest"]


def latest(hours: Sequence[int], now: datetime) -> datetime | None:
    """When the last of some hours of the day began, by `now`; None without any.

    Args:
        hours: 0 to 23.
        now: local time, without a zone.
    """
    hour = now.replace(minute=0, second=0, microsecond=0)
    return max(
        (
            when if when <= now else when - timedelta(days=1)
            for when in (hour.replace(hour=each) for each in hours)
        ),
        default=None,
    )
