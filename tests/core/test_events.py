"""The words that a session and its driver exchange."""

from __future__ import annotations

from typing import get_args

from psync.core import events
from psync.core.events import Limits, State


class TestWords:
    def test_are_values(self) -> None:
        for word in (*get_args(events.Event), *get_args(events.Command)):
            assert issubclass(word, tuple)

    def test_of_the_state_have_an_order_that_is_stored(self) -> None:
        assert [state.name for state in State] == [
            "STARTING",
            "SCANNING",
            "WATCHING",
            "PAUSED",
            "DISCONNECTED",
            "HALTED",
        ]

    def test_of_limits_guard_from_the_start(self) -> None:
        limits = Limits()

        assert limits.max_delete == 0.5
        assert limits.compare
