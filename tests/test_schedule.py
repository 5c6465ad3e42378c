"""When a full sync is due."""

from __future__ import annotations

from datetime import datetime

import pytest

from psync.schedule import latest


def at(text: str) -> datetime:
    return datetime.strptime(f"2026-03-{text}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007  # on the wall


class TestLatest:
    @pytest.mark.parametrize(
        ("hours", "now", "expected"),
        [
            ([], "05 12:00:00", None),
            ([3], "05 02:59:59", "04 03:00:00"),
            ([3], "05 03:00:00", "05 03:00:00"),
            ([3], "05 23:59:59", "05 03:00:00"),
            ([13, 1], "05 12:59:00", "05 01:00:00"),
            ([13, 1], "05 14:00:00", "05 13:00:00"),
            ([13, 1], "05 00:30:00", "04 13:00:00"),
            ([0], "05 00:00:00", "05 00:00:00"),
        ],
    )
    def test_is_the_last_of_the_hours_that_has_begun(self, hours, now, expected):
        assert latest(hours, at(now)) == (expected and at(expected))
