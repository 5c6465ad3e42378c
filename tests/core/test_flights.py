"""What is under way, and what is locked meanwhile."""

from __future__ import annotations

import pytest

from psync.core.entry import Side
from psync.core.flights import Flights, Op
from psync.core.reconcile import Decision, Verb
from psync.wire import DELETE, META, PUT, RENAME, Transition
from tests.support.replica import directory, file

OLD = file(b"one")._replace(ino=7)


@pytest.fixture
def flights() -> Flights:
    return Flights(5)


def begin(flights: Flights, verb: int, path: bytes = b"f", expected=OLD, wanted=None) -> Op:
    transition = Transition(0, verb, path, expected, wanted)
    return flights.begin(Side.LEFT, transition, Decision(Verb.NOTHING), None, 1, intact=False)


class TestOperation:
    def test_has_a_number_that_is_never_used_again(self, flights: Flights) -> None:
        first, second = begin(flights, PUT), begin(flights, PUT)
        flights.end(first)

        assert [first.number, second.number, begin(flights, PUT).number] == [5, 6, 7]
        assert first.transition.op == 5

    def test_is_the_last_at_its_path_when_the_others_have_ended(self, flights: Flights) -> None:
        first, second = begin(flights, META), begin(flights, META)

        assert flights.at == {b"f": 2}
        assert not flights.end(first)
        assert flights.end(second)
        assert flights.at == {}

    def test_is_found_by_what_is_true_of_it(self, flights: Flights) -> None:
        op = begin(flights, RENAME, b"g")

        assert flights.find(lambda each: each.is_rename) is op
        assert flights.find(lambda each: each.path == b"f") is None

    def test_is_void_until_it_ends(self, flights: Flights) -> None:
        old = begin(flights, PUT)
        flights.void_all()
        new = begin(flights, PUT)

        assert flights.is_void(old)
        assert not flights.is_void(new)


class TestDoom:
    def test_is_what_an_operation_takes_away(self, flights: Flights) -> None:
        op = begin(flights, DELETE)

        link = begin(flights, DELETE, b"g")

        assert flights.doom(Side.LEFT, OLD) == [b"f", b"g"]
        assert flights.doom(Side.RIGHT, OLD) == []
        assert flights.doom(Side.LEFT, None) == []
        assert flights.doom(Side.LEFT, OLD._replace(ino=8)) == []

        flights.end(op)
        assert flights.doom(Side.LEFT, OLD) == [b"g"]
        flights.end(link)

        assert flights.doom(Side.LEFT, OLD) == []

    @pytest.mark.parametrize(
        ("verb", "expected"), [(META, OLD), (PUT, None), (PUT, directory()._replace(ino=7))]
    )
    def test_is_not_on_what_stays(self, flights: Flights, verb: int, expected) -> None:
        assert begin(flights, verb, expected=expected).doomed == 0


class TestLock:
    def test_covers_a_name_and_all_below_until_it_is_opened_as_often(
        self, flights: Flights
    ) -> None:
        flights.lock(b"d", b"e")
        flights.lock(b"d")
        assert flights.lock_above(b"d/x/y") == b"d"
        assert flights.lock_above(b"e") == b"e"
        assert flights.lock_above(b"da") is None
        flights.unlock(b"d", b"e")
        assert flights.lock_above(b"d") == b"d"
        flights.unlock(b"d")

        assert flights.lock_above(b"d/x") is None
        assert flights.locked == {}
