"""What is answered of transfers when a side is lost."""

from __future__ import annotations

import asyncio

import pytest

from psync.core.entry import Side
from psync.core.events import Transfer, Transferred
from psync.effects.rsync import Rsync
from psync.effects.transport import LocalHost
from psync.peer import Peer
from psync.transfers import Transfers
from psync.wire import Message, Opened
from tests.support.replica import file


class FakePeer(Peer):
    """A side with an agent that answers one question, before which its link may be lost."""

    def __init__(self, side: Side, *, there: bool) -> None:
        super().__init__(side, LocalHost(), "/root")
        self.there = there

    @property
    def connected(self) -> bool:
        return self.there

    def send(self, message: Message) -> None:
        asyncio.get_running_loop().call_soon(self.answered, Opened(1, [7], 1, []))


class TestLost:
    @pytest.mark.parametrize("lost", Side)
    @pytest.mark.parametrize("source", Side)
    def test_what_the_session_gives_up_by_itself_is_not_answered(
        self, lost: Side, source: Side
    ) -> None:
        """It would go on with what it does not know to be lost, at once and for ever."""
        told: list[Transferred] = []

        async def carry() -> None:
            peers = [FakePeer(side, there=side is not lost) for side in Side]

            def report(events: list[Transferred]) -> set[int]:
                assert len(told) < 100, "nobody else has a turn"
                told.extend(events)
                transfers.add(Transfer(len(told) + 2, source, b"f", file(b"x"), b""))
                return set()

            transfers = Transfers(peers, Rsync(LocalHost(), LocalHost()), 60, [], report, lambda: 1)
            transfers.add(Transfer(1, source, b"f", file(b"x"), b""))
            task = asyncio.ensure_future(transfers.carry(source))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        asyncio.run(carry())

        assert told == []
