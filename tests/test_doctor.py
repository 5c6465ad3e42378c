"""What an agent has found is judged, with what to do about it."""

from __future__ import annotations

import pytest

from psync.doctor import BAD, OK, WARN, judge
from psync.wire import Examined, Hello

HELLO = Hello(1, "1.0", "3.11.2", "x86_64", 0, 7, "boot", "host", "3.2.7", ["cinotify"], 0)
WELL = Examined(
    token=1,
    root=b"/srv/files",
    trouble="",
    filesystem="ext4",
    free_bytes=500,
    total_bytes=1000,
    free_inodes=500,
    total_inodes=1000,
    directories=1000,
    all_counted=True,
    watches_max=100_000,
    watches_used=500,
    instances_max=128,
    queue_max=16384,
    able=["nanoseconds", "modes"],
    unable=["reflinks"],
    clock_ns=0,
)


def found(
    answer: Examined = WELL, hello: Hello = HELLO, skew_s: float = 0.0, *, runs: bool = False
) -> list[tuple[str, int, str]]:
    """What is not well: what, how bad, and what is said of it."""
    checks = judge("right", hello, answer, skew_s=skew_s, runs=runs)
    assert all(bool(check.todo) == (check.level != OK) for check in checks)
    return [
        (check.what, check.level, f"{check.text}: {check.todo}")
        for check in checks
        if check.level != OK
    ]


class TestJudge:
    def test_finds_nothing_where_all_is_well(self) -> None:
        assert found() == []

    @pytest.mark.parametrize(
        ("changed", "what", "level", "said"),
        [
            pytest.param({"free_bytes": 40}, "space", WARN, "40 B free of 1.0 kB", id="little"),
            pytest.param({"free_bytes": 4}, "space", BAD, "make room", id="no space"),
            pytest.param({"free_inodes": 3}, "inodes", BAD, "3 free of 1,000", id="no inodes"),
            pytest.param({"watches_max": 1400}, "inotify", BAD, "max_user_watches=", id="watches"),
            pytest.param({"watches_max": 1800}, "inotify", WARN, "of 1,800", id="few watches"),
            pytest.param({"watches_max": 0}, "inotify", WARN, "cannot be read", id="no inotify"),
            pytest.param({"all_counted": False}, "inotify", WARN, "watches", id="uncounted"),
            pytest.param({"queue_max": 64}, "inotify", WARN, "max_queued_events", id="queue"),
            pytest.param({"filesystem": "nfs4"}, "file system", WARN, "nfs4: changes", id="nfs"),
            pytest.param({"able": [], "unable": []}, "file system", WARN, "not be", id="untried"),
            pytest.param({"filesystem": "proc"}, "file system", BAD, "no files", id="kernel's"),
            pytest.param({"unable": ["ACLs"]}, "file system", WARN, "no ACLs", id="no ACLs"),
        ],
    )
    def test_says_what_is_not(
        self, changed: dict[str, object], what: str, level: int, said: str
    ) -> None:
        ((where, how_bad, text),) = found(WELL._replace(**changed))

        assert (where, how_bad) == (what, level)
        assert said in text

    def test_does_not_count_the_watches_of_a_session_that_runs_twice(self) -> None:
        assert found(WELL._replace(watches_max=1400, watches_used=1000), runs=True) == []

    def test_says_nothing_of_inodes_where_they_are_not_counted(self) -> None:
        assert found(WELL._replace(free_inodes=0, total_inodes=0)) == []

    def test_says_nothing_of_a_file_system_under_a_root_that_is_not_there(self) -> None:
        missing = WELL._replace(trouble="/srv/files does not exist", able=[], free_bytes=0)

        ((what, level, text),) = found(missing)

        assert (what, level) == ("root", BAD)
        assert text.startswith("/srv/files does not exist: make it")

    @pytest.mark.parametrize(
        ("skew_s", "level"), [(1.9, OK), (-3, WARN), (3, WARN), (-301, BAD), (301, BAD)]
    )
    def test_compares_clocks(self, skew_s: float, level: int) -> None:
        assert [how_bad for _, how_bad, _ in found(skew_s=skew_s)] == [level] * (level != OK)

    def test_wants_rsync_and_likes_cinotify(self) -> None:
        told = found(hello=HELLO._replace(rsync="", features=[]))

        assert [(what, level) for what, level, _ in told] == [("rsync", BAD), ("cinotify", WARN)]
