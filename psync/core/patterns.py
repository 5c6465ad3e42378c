"""Read one rule of a filter: a pattern as in `.gitignore`, or a regular expression.

    build/          directories of that name, anywhere
    *.iso           names, anywhere
    /cache          in the root only; so is whatever has a slash within: docs/*.pdf
    **/tmp/*.log    `**`: any number of directories
    !important.iso  not that, whatever an earlier rule says
    re:/~[^/]*$     a regular expression, searched without regard to case in "/path"

The meaning of a pattern is git's own, byte for byte (`wildmatch.c`, `dir.c` of git 2.39); the
tests compare it with `git check-ignore`. There are no comments and no blanks to trim here:
a rule is a whole string, not a line.

**Invariants.** A rule says whether it matches one path by itself; what follows for what is
below it, and which of several rules counts, is `core.ignore`'s. What could never match (an
open bracket) is refused, not kept as a rule that does nothing.
"""

from __future__ import annotations

import re
from re import Pattern
from typing import NamedTuple, Optional

__all__ = ["EXPRESSION", "Rule", "parse", "to_bytes"]

EXPRESSION = "re:"
_SPECIAL = re.compile(rb"[*?\[\\]")
_CLASSES = {
    b"alnum": rb"[0-9A-Za-z]", b"alpha": rb"[A-Za-z]", b"blank": rb"[ \t]",
    b"cntrl": rb"[\x00-\x1f\x7f]", b"digit": rb"[0-9]", b"graph": rb"[!-~]", b"lower": rb"[a-z]",
    b"print": rb"[ -~]", b"punct": rb"[!-/:-@\[-`{-~]", b"space": rb"[\t-\r ]",
    b"upper": rb"[A-Z]", b"xdigit": rb"[0-9A-Fa-f]",
}  # fmt: skip


class Rule(NamedTuple):
    """What a rule matches.

    Attributes:
        ignores: False: what it matches is replicated after all.
        directory: it matches directories only.
        name: it is about the last name of a path, not about all of it.
        text: what has to be there; with `wild` the pattern for it.
        wild: `text` is a regular expression for the whole; else a literal.
        before: with a literal: any name that ends so matches.
        after: likewise: that begins so.
        expression: of the user's own, searched in "/path"; the rest means nothing then.
    """

    ignores: bool
    directory: bool = False
    name: bool = False
    text: bytes = b""
    wild: bool = False
    before: bool = False
    after: bool = False
    expression: Optional[Pattern[str]] = None


def to_bytes(text: str) -> bytes:
    """What a name in a configuration is on the disk."""
    return text.encode("utf-8", "surrogateescape")


def parse(pattern: str) -> Rule:
    """Read a rule.

    Raises:
        ValueError: it could never match, would match everything, or is no regular expression; says
            which.
    """
    ignores = not pattern.startswith("!")
    body = pattern if ignores else pattern[1:]
    if body.startswith(EXPRESSION):
        return Rule(ignores, expression=_expression(body[len(EXPRESSION) :]))
    glob = to_bytes(body)
    if b"\0" in glob:
        raise ValueError("is no pattern: no name holds a NUL")
    directory = glob.endswith(b"/")
    if directory:
        glob = glob[:-1]
    if b"/" in glob:
        glob = glob[1:] if glob.startswith(b"/") else glob
        special = _SPECIAL.search(glob)
        at = special.start() if special else len(glob)
        # As in git, what comes before the first wildcard is compared by itself.
        text = re.escape(glob[:at]) + _translate(glob[at:], paths=True)
        return Rule(ignores, directory, text=text, wild=True)
    if not glob:
        raise ValueError("is no pattern: it is empty")
    if not _SPECIAL.search(glob):
        return Rule(ignores, directory, name=True, text=glob)
    if glob.startswith(b"*") and not _SPECIAL.search(glob[1:]):
        return Rule(ignores, directory, name=True, text=glob[1:], before=True)
    if glob.endswith(b"*") and not _SPECIAL.search(glob[:-1]):
        return Rule(ignores, directory, name=True, text=glob[:-1], after=True)
    return Rule(ignores, directory, name=True, text=_translate(glob, paths=False), wild=True)


def _expression(text: str) -> Pattern[str]:
    if not text:
        raise ValueError("is no regular expression: it is empty, and would match everything")
    try:
        return re.compile(text, re.IGNORECASE)
    except (re.error, OverflowError) as error:
        raise ValueError(f"is no regular expression: {error}") from None
    except RecursionError:
        raise ValueError("is no regular expression: it is nested too deep") from None


def _translate(glob: bytes, *, paths: bool) -> bytes:
    """Make a regular expression of a pattern; `paths`: a slash is matched by a slash only."""
    some = b"[^/]" if paths else b"."
    out: list[bytes] = []
    at = 0
    while at < len(glob):
        char = glob[at : at + 1]
        begin, at = at, at + 1
        if char == b"*":
            while glob[at : at + 1] == b"*":
                at += 1
            whole = begin == 0 or glob[begin - 1 : begin] == b"/"
            whole = whole and (at == len(glob) or glob.startswith((b"/", b"\\/"), at))
            if not paths or (at - begin > 1 and whole):
                if paths and glob.startswith(b"/", at):
                    out.append(b"(?:.*/)?")
                    at += 1
                else:
                    out.append(b".*")
            else:
                out.append(b"[^/]*")
        elif char == b"?":
            out.append(some)
        elif char == b"[":
            chosen, at = _bracket(glob, at)
            if paths:
                chosen.discard(ord("/"))
            out.append(b"[" + b"".join(b"\\x%02x" % c for c in sorted(chosen)) + b"]")
            if not chosen:
                out[-1] = b"(?!)"
        elif char == b"\\":
            if at == len(glob):
                raise ValueError("is no pattern: it ends in a backslash")
            out.append(re.escape(glob[at : at + 1]))
            at += 1
        else:
            out.append(re.escape(char))
    return b"".join(out)


def _bracket(glob: bytes, at: int) -> tuple[set[int], int]:
    """Read what stands in brackets, from after the first; return its bytes, and where it ends."""
    negated = glob[at : at + 1] in (b"!", b"^")
    at += negated
    chosen: set[int] = set()
    first = True
    last = 0  # from which a range may begin
    while first or glob[at : at + 1] != b"]":
        first = False
        char = glob[at : at + 1]
        if char == b"\\":
            at += 1
            last = _byte(glob, at)
            chosen.add(last)
        elif char == b"-" and last and glob[at + 1 : at + 2] not in (b"", b"]"):
            at += 2 if glob[at + 1 : at + 2] == b"\\" else 1
            chosen.update(range(last, _byte(glob, at) + 1))
            last = 0
        elif glob.startswith(b"[:", at):
            end = glob.find(b"]", at + 2)
            if end < 0:
                raise ValueError("is no pattern: a [ in it is never closed")
            if end == at + 2 or glob[end - 1 : end] != b":":
                last = ord("[")
                chosen.add(last)
            else:
                name = glob[at + 2 : end - 1]
                if name not in _CLASSES:
                    raise ValueError(f"is no pattern: there is no [:{name.decode('latin-1')}:]")
                members = re.compile(_CLASSES[name])
                chosen.update(c for c in range(256) if members.match(bytes((c,))))
                at, last = end, 0
        else:
            last = _byte(glob, at)
            chosen.add(last)
        at += 1
    return (set(range(256)) - chosen if negated else chosen), at + 1


def _byte(glob: bytes, at: int) -> int:
    if at >= len(glob):
        raise ValueError("is no pattern: a [ in it is never closed")
    return glob[at]
