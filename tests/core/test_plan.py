"""The plan: order is kept, windows are bounded, and what is ready goes out at once."""

from __future__ import annotations

import itertools
import random

import pytest

from psync.core import plan as module
from psync.core.entry import Entry, Kind
from psync.core.plan import BATCH_BYTES_MAX, BATCH_OPS_MAX, BYTES_MAX, OPS_MAX, Plan
from psync.wire import FRAME_MAX, PUT, Transition, encode

WANTED = Entry(Kind.FILE, 0o644, 0, 0, 0, 1, b"", b"", 0, 0)


def put(op: int, size: int = 0) -> Transition:
    return Transition(op, PUT, b"f%d" % op, None, WANTED, content=bytes(size) if size else None)


def lengths(batches) -> list[int]:
    return [len(batch.transitions) for batch in batches]


@pytest.fixture
def plan() -> Plan:
    return Plan()


class TestBatches:
    def test_of_nothing_are_none(self, plan):
        assert plan.take() == []
        assert plan.idle and plan.has_room

    def test_go_out_at_once_and_only_once(self, plan):
        plan.add(put(1))
        plan.add(put(2))

        (batch,) = plan.take()
        assert (batch.batch, batch.transitions) == (1, [put(1), put(2)])
        assert plan.take() == []
        assert not plan.idle

    def test_hold_a_bounded_number_of_operations(self, plan):
        for op in range(2 * BATCH_OPS_MAX + 1):
            plan.add(put(op))

        assert lengths(plan.take()) == [BATCH_OPS_MAX, BATCH_OPS_MAX, 1]

    def test_hold_a_bounded_number_of_bytes(self, plan):
        for op, size in enumerate([BATCH_BYTES_MAX - 1, 1, 0, 1]):
            plan.add(put(op, size))

        assert lengths(plan.take()) == [3, 1]

    def test_hold_one_operation_however_large(self, plan):
        for op, size in enumerate([1, 3 * BATCH_BYTES_MAX, 1]):
            plan.add(put(op, size))

        assert lengths(plan.take()) == [1, 1, 1]

    def test_fit_a_frame(self, plan):
        long = WANTED._replace(target=bytes(4096))
        for op in range(BATCH_OPS_MAX):
            plan.add(
                Transition(
                    op, PUT, bytes(65535), long, long, bytes(65535), long,
                    bytes(BATCH_BYTES_MAX // BATCH_OPS_MAX),
                )
            )  # fmt: skip

        for batch in plan.take():
            assert len(encode(batch)) < FRAME_MAX

    def test_keep_the_order_and_their_numbers_rise(self, plan):
        chance = random.Random(3)
        ops = itertools.count()
        sent = []
        for _ in range(50):
            for _ in range(chance.randrange(200)):
                plan.add(put(next(ops), chance.choice([0, 0, 10, BATCH_BYTES_MAX // 3])))
            for batch in plan.take():
                sent.append(batch)
                assert 0 < len(batch.transitions) <= BATCH_OPS_MAX
                assert sum(len(t.content or b"") for t in batch.transitions) <= BATCH_BYTES_MAX

        assert [t.op for batch in sent for t in batch.transitions] == list(range(next(ops)))
        assert [batch.batch for batch in sent] == list(range(1, len(sent) + 1))


class TestWindow:
    def test_is_full_of_operations(self, plan):
        for op in range(OPS_MAX):
            assert plan.has_room
            plan.add(put(op))

        assert not plan.has_room

    def test_is_full_of_bytes(self, plan):
        plan.add(put(1, BYTES_MAX - 1))
        assert plan.has_room
        plan.add(put(2, 1))
        assert not plan.has_room

    def test_opens_when_answers_come_in_any_order(self, plan, monkeypatch):
        monkeypatch.setattr(module, "OPS_MAX", 4)
        monkeypatch.setattr(module, "BATCH_OPS_MAX", 2)
        for op in range(4):
            plan.add(put(op, 10))
        first, second = plan.take()
        assert not plan.has_room

        assert plan.answered(second.batch) == 2
        assert plan.has_room and not plan.idle
        assert plan.answered(first.batch) == 2
        assert plan.idle

    def test_takes_an_answer_once_and_no_others(self, plan):
        plan.add(put(1))
        (batch,) = plan.take()

        assert plan.answered(batch.batch + 1) is None
        assert plan.answered(batch.batch) == 1
        assert plan.answered(batch.batch) is None
        assert plan.idle

    def test_is_empty_after_a_reset_while_numbers_go_on(self, plan):
        plan.add(put(1, BYTES_MAX))
        (lost,) = plan.take()
        plan.add(put(2))
        plan.reset()
        assert plan.idle and plan.has_room

        plan.add(put(3))
        (batch,) = plan.take()
        assert batch.batch > lost.batch
        assert batch.transitions == [put(3)]
        assert plan.answered(lost.batch) is None  # a late answer of the lost connection
        assert not plan.idle
