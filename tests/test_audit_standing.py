"""For how long the verdict of an audit stands."""

from __future__ import annotations

import json
from typing import Any

import pytest

from psync.audit import ALERT, EQUAL, FAILED, NOTICE, _extra, _remember
from psync.audit_rules import Modes
from psync.config import make_options
from psync.effects.state import SessionDir

CLOSE, LITE, PLAIN = Modes(checksum=True), Modes(lite=True), Modes()
SOME = Modes(checksum=True, extra=("excludes re:^/f$",))
BELIEVED, ARRIVING = {"believed equal": 1, "on its way": 0}, {"on its way": 12}


class Audits:
    """What is remembered of a session's audits, as it is after a way through the file."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self._number = 0

    def __call__(self, code: int, modes: Modes, counts: dict[str, int] | None = None) -> bool:
        self._number += 1
        report = {
            "exit": code, "modes": modes._asdict(), "counts": counts or {},
            "time": str(self._number),
        }  # fmt: skip
        if code == FAILED:
            report["error"] = "cut"
        known, stands = _remember(self.known, report, modes)
        self.known = json.loads(json.dumps(known))
        return stands


class TestAlert:
    @pytest.mark.parametrize("lesser", [PLAIN, LITE, SOME, Modes(checksum=True, newer_min=60)])
    @pytest.mark.parametrize("code", [EQUAL, NOTICE, FAILED])
    def test_stands_until_an_audit_could_see_it(self, lesser: Modes, code: int) -> None:
        audits = Audits()
        assert not audits(ALERT, CLOSE, BELIEVED)
        assert audits(code, lesser)
        assert (audits.known["exit"], audits.known["time"]) == (ALERT, "1")
        assert audits.known["looked"] == "2"
        assert not audits(EQUAL, CLOSE)

        assert audits.known["exit"] == EQUAL
        assert "looked" not in audits.known

    def test_stands_below_a_lesser_one(self) -> None:
        audits = Audits()
        audits(ALERT, CLOSE, BELIEVED)
        assert not audits(ALERT, LITE, ARRIVING)
        assert (audits.known["time"], audits.known["counts"]) == ("2", ARRIVING)
        assert not audits(ALERT, PLAIN, ARRIVING)
        assert audits(EQUAL, LITE)
        assert audits(EQUAL, PLAIN)
        assert audits.known["exit"] == ALERT

        assert not audits(EQUAL, CLOSE)
        assert audits.known["exit"] == EQUAL

    def test_of_what_one_side_saw_is_not_ended_by_the_other(self) -> None:
        audits = Audits()
        audits(ALERT, SOME, BELIEVED)
        audits(ALERT, LITE, {"differs": 10})

        assert audits(EQUAL, SOME)
        assert audits(EQUAL, LITE)
        assert not audits(EQUAL, CLOSE)

    def test_that_only_was_on_its_way_does_not_stand(self) -> None:
        audits = Audits()
        audits(ALERT, CLOSE, ARRIVING)

        assert not audits(EQUAL, LITE)

    @pytest.mark.parametrize("modes", [None, "x", {"no such": 1}])
    def test_of_another_psync_does_not_stand(self, modes: object) -> None:
        audits = Audits()
        audits(ALERT, CLOSE, BELIEVED)
        audits.known["modes"] = modes

        assert not audits(EQUAL, LITE)

    def test_does_not_hide_that_audits_fail(self) -> None:
        audits = Audits()
        audits(ALERT, CLOSE, BELIEVED)
        audits(FAILED, CLOSE)
        assert (audits.known["exit"], audits.known["failed"]) == (ALERT, "cut")
        audits(EQUAL, LITE)

        assert "failed" not in audits.known


@pytest.mark.parametrize(
    ("own", "given", "extra"),
    [
        ({"excludes": ["a"]}, {"excludes": ["a"]}, ()),
        ({"excludes": ["a"]}, {"excludes": ["b", "a"]}, ("excludes b",)),
        ({"excludes": ["a"]}, {"excludes": []}, ()),
        ({"excludes": ["*", "!a"]}, {"excludes": ["*"]}, ("excludes *",)),
        ({"excludes": ["*", "!a"]}, {"excludes": ["!a", "*"]}, ("excludes !a *",)),
        (
            {"rsync_excludes": ["+ a", "*"]},
            {"rsync_excludes": ["*", "+ a"]},
            ("rsync_excludes * + a",),
        ),
        ({"xattrs": True}, {"xattrs": False}, ("attributes",)),
        ({"strip_special_bits": False}, {"strip_special_bits": True}, ("special bits",)),
        ({}, {"excludes": ["a"]}, ()),
    ],
)
def test_what_hides_more_than_the_sessions_own_is_extra(
    tmp_path: Any, own: dict[str, Any], given: dict[str, Any], extra: tuple[str, ...]
) -> None:
    session = SessionDir(tmp_path, "home")
    session.make()
    session.describe({"options": own})
    options = make_options({"left": "/l", "right": "/r", **given}, "here")

    assert _extra(options, session) == extra
