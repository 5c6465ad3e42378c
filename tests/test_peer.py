"""What a peer makes of what its agent says of the host."""

from __future__ import annotations

import time

import pytest

from psync.core.entry import Side
from psync.effects.transport import LocalHost
from psync.peer import Peer
from psync.wire import PROTOCOL, Hello

HOUR = 3600 * 10**9


class TestCut:
    @pytest.mark.parametrize(
        ("booted", "stopped", "was_up", "cut"),
        [
            pytest.param(-2, None, False, -2, id="an earlier run was killed, perhaps by the cut"),
            pytest.param(-2, -3, False, -3, id="the host was started after we had stopped"),
            pytest.param(-5, -3, False, -5, id="it has not been started anew since"),
            pytest.param(-1, -3, True, -1, id="it was started anew in this run"),
        ],
    )
    @pytest.mark.parametrize("ahead", [-7, 0, 7])
    def test_is_before_what_a_user_did_without_us(
        self, booted: int, stopped: int | None, was_up: bool, cut: int, ahead: int
    ) -> None:
        now = time.time_ns()
        there = now + ahead * HOUR
        peer = Peer(Side.RIGHT, LocalHost(), "/root")
        peer.hello = Hello(
            PROTOCOL, "1", "3", "x", 0, 1, "", "", "", [], there, there + booted * HOUR
        )
        peer.was_up = was_up
        found = peer.cut_ns(0 if stopped is None else now + stopped * HOUR)

        assert abs(found - (there + cut * HOUR)) < HOUR // 60

    def test_is_when_its_disk_came_back_if_that_was_later(self) -> None:
        now = time.time_ns()
        peer = Peer(Side.RIGHT, LocalHost(), "/root")
        peer.hello = Hello(PROTOCOL, "1", "3", "x", 0, 1, "", "", "", [], now, now - 9 * HOUR)
        peer.remounted_ns = now - HOUR

        assert peer.cut_ns(0) == now - HOUR
        assert abs(peer.cut_ns(now - 2 * HOUR) - (now - 2 * HOUR)) < HOUR // 60
