"""Two trees side by side: every pair once, whatever comes first, and nobody is believed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from random import Random

import pytest

from psync.audit_merge import WINDOW, Found, Merge
from psync.core.entry import Entry, Kind, Side, join
from psync.errors import AgentError
from psync.wire import AUDIT_CREDIT, UNREADABLE, Item, Listing, Trouble, listing_weight
from tests.support.replica import directory, file, link

LEFT, RIGHT = Side
FILE = file(b"")
Tree = dict[bytes, Entry]


def listings(tree: Tree, path: bytes, size: int = 2) -> Iterator[Listing]:
    """What an honest agent says of a directory, some names at a time."""
    own = directory() if not path else tree.get(path)
    if own is None or own.kind != Kind.DIRECTORY:
        yield Listing(path, None, b"", None, [])
        return
    names = sorted(
        p[len(path) + 1 if path else 0 :] for p in tree if p.rpartition(b"/")[0] == path and p
    )
    items = [Item(name, tree[join(path, name)]) for name in names]
    after = b""
    while len(items) >= size:
        part, items = items[:size], items[size:]
        yield Listing(path, own, after, part[-1].path, part)
        after = part[-1].path
    yield Listing(path, own, after, None, items)


def walk(
    left: Tree,
    right: Tree,
    *,
    one_sided: bool = True,
    order: Callable[[list[Side]], Side] = lambda sides: sides[0],
) -> dict[bytes, Found]:
    """Merge two trees; `order` says who is to speak next of those who have something to say."""
    merge = Merge(one_sided=one_sided)
    waiting: list[list[Listing]] = [[], []]
    found: dict[bytes, Found] = {}
    while not merge.done:
        for side, paths in zip(Side, merge.ask(), strict=True):
            for path in paths:
                waiting[side] += listings((left, right)[side], path)
        ready = [side for side in Side if waiting[side]]
        if ready:
            side = order(ready)
            merge.hear(side, waiting[side].pop(0))
        for each in merge.found():
            assert each.path not in found
            found[each.path] = each
        assert ready or merge.done or merge.can_ask
    return found


TREES = (
    {
        b"a": file(b"1"), b"d": directory(), b"d/e": directory(), b"d/e/f": file(b"x"),
        b"d/only": link(b"t"), b"l": directory(), b"l/x": file(b"y"), b"l/z": directory(),
        b"l/z/f": file(b""), b"k": directory(), b"k/f": file(b"k"), b"same": file(b"s"),
    },
    {
        b"a": file(b"2"), b"b": file(b"b"), b"d": directory(), b"d/e": directory(),
        b"d/e/f": file(b"x"), b"d/e/g": file(b"g"), b"k": file(b"k"), b"same": file(b"s"),
    },
)  # fmt: skip


class TestWalk:
    def test_pairs_what_both_have_and_what_one_has(self) -> None:
        found = walk(*TREES)

        assert set(found) == set(TREES[0]) | set(TREES[1])
        for path, each in found.items():
            for side, tree in zip(Side, TREES, strict=True):
                item = each.sides[side]
                assert (item and item.entry) == tree.get(path)
        assert {path for path, each in found.items() if each.nested} == {
            b"l/x", b"l/z", b"l/z/f", b"k/f",
        }  # fmt: skip
        assert [found[path].stirred for path in (b"d", b"d/e")] == [True, True]

    def test_does_not_depend_on_who_speaks_first(self) -> None:
        random = Random(1)
        expected = walk(*TREES)

        assert walk(*TREES, order=lambda sides: sides[-1]) == expected
        for _ in range(50):
            assert walk(*TREES, order=random.choice) == expected

    def test_leaves_out_the_inside_of_what_one_has(self) -> None:
        found = walk(*TREES, one_sided=False)

        assert {b"l", b"k"} < set(found)
        assert not any(each.nested for each in found.values())

    def test_tells_of_a_directory_after_the_names_in_it(self) -> None:
        paths = list(walk(*TREES))

        assert paths.index(b"d/only") < paths.index(b"d")
        assert paths.index(b"d/e/g") < paths.index(b"d/e")

    def test_of_random_trees_finds_each_path_once(self) -> None:
        for seed in range(100):
            random = Random(seed)
            trees: tuple[Tree, Tree] = ({}, {})
            for tree in trees:
                tops = [b""]
                for _ in range(random.randrange(40)):
                    path = join(random.choice(tops), b"%c" % random.choice(b"abcdefgh"))
                    if path in tree:
                        continue
                    if random.random() < 0.4:
                        tree[path] = directory()
                        tops.append(path)
                    else:
                        tree[path] = file(b"x")
            found = walk(*trees, order=random.choice)

            assert set(found) == set(trees[0]) | set(trees[1])
            for path, each in found.items():
                assert [item and item.entry for item in each.sides] == [
                    tree.get(path) for tree in trees
                ]

    def test_of_a_directory_that_goes_meanwhile_finds_it_missing(self) -> None:
        merge = Merge()
        merge.ask()
        for side in Side:
            merge.hear(side, Listing(b"", directory(), b"", None, [Item(b"d", directory())]))
        assert list(merge.found()) == []
        assert merge.ask() == ([b"d"], [b"d"])
        merge.hear(LEFT, Listing(b"d", None, b"", None, []))
        merge.hear(RIGHT, Listing(b"d", directory(), b"", None, [Item(b"f", file(b""))]))

        inside, itself = merge.found()
        assert inside == Found(b"d/f", (None, Item(b"f", file(b""))))
        assert itself == Found(b"d", (None, Item(b"d", directory())), stirred=True)
        assert merge.done

    def test_tells_what_cannot_be_read_from_what_is_not_there(self) -> None:
        merge = Merge()
        merge.ask()
        trouble = Trouble("unreadable", b"", "Permission denied")
        merge.trouble(RIGHT, trouble)
        merge.hear(RIGHT, Listing(b"", None, b"", None, []))
        merge.hear(LEFT, Listing(b"", directory(), b"", None, []))
        (root,) = merge.found()

        assert root.sides[RIGHT] == Item(b"", None, None, b"", UNREADABLE)
        assert merge.why(RIGHT, b"") == trouble
        assert merge.why(RIGHT, b"").message == "cannot be read"  # it is said once

    @pytest.mark.parametrize("mine", Side)
    def test_tells_nothing_of_what_is_where_one_cannot_look(self, mine: Side) -> None:
        merge = Merge()
        merge.ask()
        for side in Side:
            items = [Item(b"closed", directory()), Item(b"mount", directory())]
            if side == mine:
                items[1] = Item(b"mount", None, None, b"", UNREADABLE)
            merge.hear(side, Listing(b"", directory(), b"", None, items))
        (mount,) = merge.found()
        assert mount.path == b"mount"
        assert merge.ask() == ([b"closed"], [b"closed"])
        other = [Item(b"d", directory()), Item(b"f", FILE)]
        merge.hear(mine.other, Listing(b"closed", directory(), b"", None, other))
        assert list(merge.found()) == []
        merge.trouble(mine, Trouble("unreadable", b"closed", "Permission denied"))
        merge.hear(mine, Listing(b"closed", None, b"", None, []))
        (closed,) = merge.found()

        assert closed.sides[mine] == Item(b"closed", None, None, b"", UNREADABLE)
        assert merge.done


class TestBounds:
    def test_no_more_directories_are_asked_for_than_that(self) -> None:
        merge = Merge()
        merge.ask()
        items = [Item(b"%04d" % i, directory()) for i in range(1000)]
        for side in Side:
            merge.hear(side, Listing(b"", directory(), b"", None, items))
        assert list(merge.found()) == []
        asked = merge.ask()

        assert asked[0] == asked[1] == [b"%04d" % i for i in range(WINDOW)]
        assert merge.ask() == ([], [])
        assert not merge.can_ask

    def test_credit_comes_back_when_a_listing_is_used(self) -> None:
        merge = Merge()
        merge.ask()
        items = [Item(b"f", file(b"x"))]
        merge.hear(LEFT, Listing(b"", directory(), b"", None, items))
        assert list(merge.found()) == []
        assert merge.credit(LEFT) == listing_weight(items)  # it is at its head
        assert merge.credit(LEFT) == 0
        merge.hear(RIGHT, Listing(b"", directory(), b"", None, []))
        assert len(list(merge.found())) == 1

        assert merge.credit(RIGHT) == listing_weight([])

    def test_nobody_says_more_than_he_has_credit_for(self) -> None:
        merge = Merge()
        merge.ask()
        after = b""
        said = 0
        with pytest.raises(AgentError, match="credit"):
            for i in range(1 << 30):
                items = [Item(b"%010d" % (1000 * i + j), file(b"")) for j in range(1000)]
                merge.hear(LEFT, Listing(b"", directory(), after, items[-1].path, items))
                after = items[-1].path
                said += listing_weight(items)

        assert said <= 2 * AUDIT_CREDIT

    def test_nor_has_trouble_without_end(self) -> None:
        merge = Merge()
        with pytest.raises(AgentError, match="too much"):
            for i in range(1 << 30):
                merge.trouble(LEFT, Trouble("unreadable", b"%d" % i, ""))

    def test_nothing_is_nested_without_end(self) -> None:
        merge = Merge()
        path = b""
        with pytest.raises(AgentError, match="without end"):
            while True:
                assert merge.ask()[LEFT] == [path]
                for side in Side:
                    items = [Item(b"d" * 255, directory())]
                    merge.hear(side, Listing(path, directory(), b"", None, items))
                list(merge.found())
                path = join(path, b"d" * 255)


    def crowd(self, entry: Entry, count: int) -> None:
        """Hear so many names from one side, as fast as they are used."""
        merge = Merge()
        merge.ask()
        merge.hear(LEFT, Listing(b"", directory(), b"", None, []))
        after = b""
        for begin in range(0, count, 100):
            items = [Item(b"%010d" % (begin + i), entry) for i in range(100)]
            merge.hear(RIGHT, Listing(b"", directory(), after, items[-1].path, items))
            list(merge.found())
            after = items[-1].path

    def test_nobody_invents_names_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("psync.audit_merge._NAMES_MAX", 5000)

        self.crowd(file(b""), 5000)
        with pytest.raises(AgentError, match="named more than 5,000 files"):
            self.crowd(file(b""), 5100)

    def test_nor_directories_that_are_to_be_listed_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("psync.audit_merge._WAITING_BYTES_MAX", 160 * 1000)

        self.crowd(directory(), 1000)
        with pytest.raises(AgentError, match="more directories in it than can be held"):
            self.crowd(directory(), 1100)

    def test_what_has_been_listed_waits_no_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("psync.audit_merge._WAITING_BYTES_MAX", 3 * 160)
        tree = {b"%d" % i: directory() for i in range(2)}
        tree |= {b"%d/%d" % (i, j): directory() for i in range(2) for j in range(2)}
        tree |= {b"1/0/%d" % i: directory() for i in range(2)}

        assert walk(tree, tree).keys() == tree.keys()
        assert walk(tree, {}).keys() == tree.keys()

    def test_of_what_waits_next_to_nothing_is_held(self) -> None:
        merge = Merge()
        merge.ask()
        after = b""
        tracemalloc.start()
        try:
            for i in range(100):
                items = [Item(b"%010d" % (100 * i + j), directory()) for j in range(100)]
                for side in Side:
                    merge.hear(side, Listing(b"", directory(), after, items[-1].path, items))
                list(merge.found())
                after = items[-1].path
            assert tracemalloc.get_traced_memory()[0] < 10_000 * 200
        finally:
            tracemalloc.stop()


def listing(*items: Item, after: bytes = b"", upto: bytes | None = None) -> Listing:
    return Listing(b"", directory(), after, upto, list(items))


class TestLies:
    @pytest.mark.parametrize(
        ("lie", "said"),
        [
            pytest.param(Listing(b"x", directory(), b"", None, []), "not asked for", id="path"),
            pytest.param(listing(after=b"a"), "gap", id="gap"),
            pytest.param(listing(Item(b"b", FILE), Item(b"a", FILE)), "order", id="order"),
            pytest.param(listing(Item(b"a", FILE), Item(b"a", FILE)), "order", id="twice"),
            pytest.param(listing(Item(b"a", None)), "says nothing", id="nothing"),
            pytest.param(listing(Item(b"a", file(b"")._replace(kind=7))), "cannot be", id="kind"),
            pytest.param(listing(Item(b"a", file(b"")._replace(size=-1))), "cannot be", id="size"),
            pytest.param(listing(Item(b"a", link(b"t" * 5000))), "cannot be", id="target"),
            pytest.param(listing(upto=b"a"), "does not go on", id="empty range"),
            pytest.param(listing(Item(b"a", file(b"")), upto=b"b"), "does not go on", id="range"),
            pytest.param(
                Listing(b"", None, b"", None, [Item(b"a", file(b""))]), "of nothing", id="gone"
            ),
            pytest.param(Listing(b"", None, b"", b"a", []), "of nothing", id="gone and goes on"),
        ]
        + [
            pytest.param(listing(Item(name, file(b""))), "cannot be a name", id=repr(name))
            for name in (b"", b"a/b", b"..", b".", b"a\0b", b".psync", b"n" * 256)
        ],
    )  # fmt: skip
    def test_are_no_listings(self, lie: Listing, said: str) -> None:
        merge = Merge()
        merge.ask()

        with pytest.raises(AgentError, match=said):
            merge.hear(LEFT, lie)

    def test_nor_is_what_comes_after_the_end(self) -> None:
        merge = Merge()
        merge.ask()
        merge.hear(LEFT, listing())

        with pytest.raises(AgentError, match="not asked for"):
            merge.hear(LEFT, listing())
