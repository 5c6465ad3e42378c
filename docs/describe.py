"""Make the man page and the completions for shells from the command's own grammar.

    python docs/describe.py             write them into conf, where the wheel takes them from
    python docs/describe.py --check     only tell which of them are stale; status 1 if any is

What a verb takes is said once, in `psync/grammar.py`; `tests/test_describe.py` notices who changes
that and forgets this. What the man page says beside it stands in `docs/psync.1.in`. Session names
are asked of `psync names` when a word is completed.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from psync import __version__
from psync import grammar as command
from psync.config import Options

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
_PLACES = ("--state-dir", "--config")  # may stand before the verb
_KINDS = {
    "NAME": "name", "HOST": "host", "FILE": "file", "DIR": "directory", "LEFT": "directory",
    "RIGHT": "directory", "GROUP": "group", "KEY=VALUE": "key",
}  # fmt: skip


class Word(NamedTuple):
    """An option, or what stands without one.

    Attributes:
        names: as `-n`, `--lines`; none of what stands without an option.
        values: what to call what follows, one each; none: it is a switch.
        kinds: what may follow: `name`, `host`, `file`, `directory`, `group`, `key`; none: anything.
        choices: the words that may follow.
        about: what it is for.
        many: it may be given again, or more than one may follow.
    """

    names: list[str]
    values: list[str]
    kinds: list[str]
    choices: list[str]
    about: str
    many: bool


class Verb(NamedTuple):
    """A verb, and what it takes."""

    name: str
    about: str
    words: list[Word]

    @property
    def options(self) -> list[Word]:
        """What begins with a dash."""
        return [word for word in self.words if word.names]

    @property
    def operands(self) -> list[Word]:
        """What does not."""
        return [word for word in self.words if not word.names]


def grammar() -> list[Verb]:
    """Read the command's grammar."""
    parser = command.grammar()
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    about = {choice.dest: choice.help or "" for choice in subparsers._choices_actions}
    return [
        Verb(name, about[name], [_word(sub, action) for action in sub._actions])
        for name, sub in subparsers.choices.items()
    ]


def _word(parser: argparse.ArgumentParser, action: argparse.Action) -> Word:
    metavar: Any = action.metavar or action.dest.upper()
    values = list(metavar) if isinstance(metavar, tuple) else [metavar]
    if action.nargs == 0:
        values = []
    choices = [str(choice) for choice in action.choices or ()]
    if action.choices:
        values = ["|".join(choices)]
    elif values and "|" in values[0] and action.option_strings:
        choices = values[0].split("|")
    about = parser._get_formatter()._expand_help(action) if action.help else ""
    many = action.nargs in ("*", "+") or isinstance(action, argparse._AppendAction)
    words = re.split(r"[ |]+", values[0]) if values else []
    kinds = list(dict.fromkeys(_KINDS[word] for word in words if word in _KINDS))
    return Word(list(action.option_strings), values, kinds, choices, about, many)


def keys() -> list[str]:
    """The keys of the configuration."""
    return sorted(field for field in Options.__struct_fields__ if field != "name")


# --- the man page -------------------------------------------------------------------------


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def man(verbs: list[Verb]) -> str:
    """The page, in man's macros."""
    lines: list[str] = []
    for verb in verbs:
        lines += [".SS " + _roff(f"psync {verb.name}"), _roff(_sentence(verb.about))]
        for word in verb.words:
            if "--help" in word.names:
                continue
            values = " ".join(f"\\fI{_roff(value)}\\fR" for value in word.values)
            names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in word.names)
            lines += [".TP", " ".join(filter(None, (names, values)))]
            lines.append(_roff(word.about) or "see above")
    text = (ROOT / "docs" / "psync.1.in").read_text()
    return (
        text.replace("@VERSION@", __version__)
        .replace("@VERBS@", "\n".join(lines))
        .replace("@KEYS@", ",\n".join(f".BR {key}" for key in keys()).replace(",\n", " ,\n"))
    )


# --- bash ---------------------------------------------------------------------------------

_BASH = """\
# bash completion for psync; made by docs/describe.py from the command's own grammar.

_psync() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} before=
    local at word verb= verbs='@VERBS@' options= kinds= kind place=() names keys='@KEYS@'
    COMPREPLY=()
    # bash makes three words of --option=value
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if ((COMP_CWORD > 2)); then before=${COMP_WORDS[COMP_CWORD - 2]}; fi
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $word == @(@PLACES@) ]]; then
            ((at++))
            [[ ${COMP_WORDS[at]} == = ]] && ((at++))
            ((at < COMP_CWORD)) && place+=("$word" "${COMP_WORDS[at]}")
        elif [[ -z $verb && " $verbs " == *" $word "* ]]; then
            verb=$word
        elif [[ -z $verb ]]; then
            verb=run
        fi
    done
    case ${verb:-run} in
@OPTIONS@
    esac
    case ${verb:-run}:$prev in
@VALUES@
    esac
    case ${verb:-run}:$before in
@SECOND@
    esac
    if [[ -z $kinds ]]; then
        if [[ $cur == -* ]]; then
            COMPREPLY=($(compgen -W "$options" -- "$cur"))
            return
        fi
        case ${verb:-run} in
@OPERANDS@
        esac
    fi
    for kind in $kinds; do
        case $kind in
            name)
                names=$(psync names "${place[@]}" 2>/dev/null)
                [[ -z $verb ]] && names+=" $verbs"
                COMPREPLY+=($(compgen -W "$names" -- "$cur"))
                ;;
            host) COMPREPLY+=($(compgen -A hostname -- "$cur")) ;;
            group) COMPREPLY+=($(compgen -g -- "$cur")) ;;
            file | directory)
                compopt -o filenames
                mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -A "$kind" -- "$cur")
                ;;
            key)
                compopt -o nospace
                COMPREPLY+=($(compgen -S = -W "$keys" -- "$cur"))
                ;;
            =*) COMPREPLY+=($(compgen -W "${kind#=}" -- "$cur")) ;;
        esac
    done
}

complete -F _psync psync
"""


def bash(verbs: list[Verb]) -> str:
    """Completion for bash 4.4 and newer."""
    options, values, second, operands = [], [], [], []
    for verb in verbs:
        names = " ".join(name for word in verb.options for name in word.names)
        options.append(f"        {verb.name}) options='{names}' ;;")
        for word in verb.options:
            which = "|".join(f"{verb.name}:{name}" for name in word.names)
            if word.values:
                values.append(f"        {which}) kinds='{_bash_kinds([word])}' ;;")
            if len(word.values) > 1:
                second.append(f"        {which}) kinds=any ;;")
        if verb.operands:
            operands.append(f"            {verb.name}) kinds='{_bash_kinds(verb.operands)}' ;;")
    return _filled(
        _BASH,
        verbs=" ".join(verb.name for verb in verbs),
        keys=" ".join(keys()),
        places="|".join(_PLACES),
        options="\n".join(options),
        values="\n".join(values),
        second="\n".join(second),
        operands="\n".join(operands),
    )


def _bash_kinds(words: list[Word]) -> str:
    """What may follow; a word that is meant as it stands has a `=` before it."""
    kinds = [kind for word in words for kind in [f"={c}" for c in word.choices] or word.kinds]
    return " ".join(dict.fromkeys(kinds)) or "any"


def _filled(template: str, **parts: str) -> str:
    return re.sub(r"@([A-Z]+)@", lambda match: parts[match[1].lower()], template)


# --- zsh ----------------------------------------------------------------------------------

_ZSH = """\
#compdef psync
# zsh completion for psync; made by docs/describe.py from the command's own grammar.

_psync_names() {
    local -a names
    names=(${(f)"$(_call_program names psync names 2>/dev/null)"})
    _describe -t sessions session names
}

@EITHER@
_psync_keys() {
    local -a keys
    keys=(@KEYS@)
    compadd -S = -a keys
}

_psync() {
    local verb=run
    local -a verbs
    verbs=(
@VERBS@
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        _describe -t verbs verb verbs
        @FIRST@
        return
    fi
    if (( ${verbs[(I)$words[2]:*]} )); then
        verb=$words[2]
        shift words
        (( CURRENT-- ))
    fi
    case $verb in
@CASES@
    esac
}

_psync "$@"
"""
_ZSH_ACTIONS = {
    "name": "_psync_names", "host": "_hosts", "file": "_files", "directory": "_directories",
    "group": "_groups", "key": "_psync_keys",
}  # fmt: skip


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_text(text: str) -> str:
    return re.sub(r"([\[\]:\\])", r"\\\1", text)


def _zsh_word(word: Word) -> str:
    def value(at: int) -> str:
        if word.choices and at == 0:
            return f":{_zsh_text(word.values[at])}:({' '.join(word.choices)})"
        action = _zsh_action(word.kinds) if at == 0 else ""
        return f":{_zsh_text(word.values[at])}:{action or ' '}"

    values = "".join(value(at) for at in range(len(word.values)))
    if not word.names:
        return _quoted(("*" if word.many else ":") + values)
    told = f"[{_zsh_text(word.about)}]{values}"
    if len(word.names) == 1:
        return _quoted(("*" if word.many else "") + word.names[0] + told)
    first = "*" if word.many else f"({' '.join(word.names)})"
    return f"{_quoted(first)}{{{','.join(word.names)}}}{_quoted(told)}"


def _zsh_action(kinds: list[str]) -> str:
    """What completes these kinds; of several a function of this file."""
    if len(kinds) > 1:
        return f"_psync_{'_or_'.join(kinds)}"
    return _ZSH_ACTIONS[kinds[0]] if kinds else ""


def _zsh_either(verbs: list[Verb]) -> str:
    """The functions for what may be of several kinds."""
    sets = {tuple(word.kinds) for verb in verbs for word in verb.words if len(word.kinds) > 1}
    lines = []
    for kinds in sorted(sets):
        each = " ".join(f"'{kind}:{kind}:{_ZSH_ACTIONS[kind]}'" for kind in kinds)
        lines.append(f"{_zsh_action(list(kinds))}() {{\n    _alternative {each}\n}}\n")
    return "\n".join(lines)


def zsh(verbs: list[Verb]) -> str:
    """Completion for zsh."""
    (run,) = (verb for verb in verbs if verb.name == "run")
    cases = []
    for verb in verbs:
        cases.append(f"        {verb.name})")
        cases.append("            _arguments \\")
        cases += [f"                {_zsh_word(word)} \\" for word in verb.words]
        cases.append("                && return")
        cases.append("            ;;")
    listed = [f"        {_quoted(f'{v.name}:{_zsh_text(v.about)}')}" for v in verbs]
    return _filled(
        _ZSH,
        either=_zsh_either(verbs),
        first=_zsh_action(run.operands[0].kinds),
        keys=" ".join(keys()),
        verbs="\n".join(listed),
        cases="\n".join(cases),
    )


# --- fish ---------------------------------------------------------------------------------


def fish(verbs: list[Verb]) -> str:
    """Completion for fish."""
    names = " ".join(verb.name for verb in verbs)
    lines = [
        "# fish completion for psync; made by docs/describe.py from the command's own grammar.",
        "",
        f"set -l verbs {names}",
        "complete -c psync -f",
    ]
    for verb in verbs:
        first = f"-n __fish_use_subcommand -a {verb.name} -d {_fish(verb.about)}"
        lines.append(f"complete -c psync {first}")
    for verb in verbs:
        here = f"complete -c psync -n '__fish_seen_subcommand_from {verb.name}'"
        for word in verb.options:
            line = here
            for name in word.names:
                line += f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}"
            if word.values:
                line += (" -r" if "file" in word.kinds else " -x") + _fish_values(word)
            lines.append(f"{line} -d {_fish(word.about)}")
        lines += [here + _fish_values(word) for word in verb.operands if _fish_values(word)]
    (run,) = (verb for verb in verbs if verb.name == "run")
    here = 'complete -c psync -n "not __fish_seen_subcommand_from $verbs"'
    lines += [here + _fish_values(word) for word in run.operands]
    return "\n".join(lines) + "\n"


def _fish_values(word: Word) -> str:
    """The flags that say what may follow."""
    sources = {
        "name": "psync names 2>/dev/null",
        "host": "__fish_print_hostnames",
        "directory": "__fish_complete_directories",
        "group": "__fish_complete_groups",
        "key": f"string join \\n {' '.join(f'{key}=' for key in keys())}",
    }
    if word.choices:
        return f" -a '{' '.join(word.choices)}'"
    commands = "; ".join(sources[kind] for kind in word.kinds if kind != "file")
    return (f" -a '({commands})'" if commands else "") + (" -F" if "file" in word.kinds else "")


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# --- all of it ----------------------------------------------------------------------------


def made() -> dict[Path, str]:
    """What there should be: the content of each file."""
    verbs = grammar()
    # An agent is started by a session, or by sshd: nobody types that.
    typed = [verb for verb in verbs if verb.name != "agent"]
    return {
        CONF / "man" / "psync.1": man(verbs),
        CONF / "completions" / "psync.bash": bash(typed),
        CONF / "completions" / "_psync": zsh(typed),
        CONF / "completions" / "psync.fish": fish(typed),
    }


def main() -> int:
    """Write what is stale, or tell."""
    check = sys.argv[1:] == ["--check"]
    stale = 0
    for file, text in made().items():
        if file.exists() and file.read_text() == text:
            continue
        stale += 1
        sys.stdout.write(f"{file.relative_to(ROOT)}\n")
        if not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
