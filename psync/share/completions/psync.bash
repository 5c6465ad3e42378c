# bash completion for psync; made by docs/describe.py from the command's own grammar.

_psync() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} before=
    local at word verb= verbs='run sync status log web flush pause resume stop conflicts trash trust names' options= kind= place=() names keys='banned conflict conflict_keep debug dry_run durability excludes force host inline_max left log_file log_format log_level max_delay max_delete max_rewrite meta_from poll_interval quarantine right rsync_excludes rsync_extra settle_ms skip_initial_sync ssh_options strip_special_bits suppress_echoes sync_interval sync_only tempfiles timeout translate trash versions xattrs'
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
        if [[ $word == @(--state-dir|--config) ]]; then
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
        run) options='-h --help --state-dir -r --remote-host -d --debug -t --tempfiles -e --excludes --rsync-excludes -x --extra -b --banned -T --translate -n --dry-run -s --sync-only -k --skip-initial-sync -f --force --name --config --set' ;;
        sync) options='-h --help --state-dir -r --remote-host -d --debug -t --tempfiles -e --excludes --rsync-excludes -x --extra -b --banned -T --translate -n --dry-run -s --sync-only -k --skip-initial-sync -f --force --name --config --set' ;;
        status) options='-h --help --state-dir --json --watch' ;;
        log) options='-h --help --state-dir -f --follow -n --lines --since --level --side --grep --path --json' ;;
        web) options='-h --help --state-dir --listen --group' ;;
        flush) options='-h --help --state-dir --timeout' ;;
        pause) options='-h --help --state-dir' ;;
        resume) options='-h --help --state-dir --accept --accept-deletes' ;;
        stop) options='-h --help --state-dir --timeout' ;;
        conflicts) options='-h --help --state-dir --json --to --show --diff --restore --drop --take' ;;
        trash) options='-h --help --state-dir --json --to --show --diff --restore --drop --empty' ;;
        trust) options='-h --help --state-dir -y --yes --set' ;;
        names) options='-h --help --state-dir --config' ;;
    esac
    case ${verb:-run}:$prev in
        run:--state-dir) kind='directory' ;;
        run:-r|run:--remote-host) kind='host' ;;
        run:-d|run:--debug) kind='any' ;;
        run:-t|run:--tempfiles) kind='any' ;;
        run:-e|run:--excludes) kind='any' ;;
        run:--rsync-excludes) kind='any' ;;
        run:-x|run:--extra) kind='any' ;;
        run:-b|run:--banned) kind='any' ;;
        run:-T|run:--translate) kind='any' ;;
        run:--name) kind='name' ;;
        run:--config) kind='file' ;;
        run:--set) kind='key' ;;
        sync:--state-dir) kind='directory' ;;
        sync:-r|sync:--remote-host) kind='host' ;;
        sync:-d|sync:--debug) kind='any' ;;
        sync:-t|sync:--tempfiles) kind='any' ;;
        sync:-e|sync:--excludes) kind='any' ;;
        sync:--rsync-excludes) kind='any' ;;
        sync:-x|sync:--extra) kind='any' ;;
        sync:-b|sync:--banned) kind='any' ;;
        sync:-T|sync:--translate) kind='any' ;;
        sync:--name) kind='name' ;;
        sync:--config) kind='file' ;;
        sync:--set) kind='key' ;;
        status:--state-dir) kind='directory' ;;
        log:--state-dir) kind='directory' ;;
        log:-n|log:--lines) kind='any' ;;
        log:--since) kind='any' ;;
        log:--level) kind='words debug info warning error critical' ;;
        log:--side) kind='words left right' ;;
        log:--grep) kind='any' ;;
        log:--path) kind='any' ;;
        web:--state-dir) kind='directory' ;;
        web:--listen) kind='any' ;;
        web:--group) kind='any' ;;
        flush:--state-dir) kind='directory' ;;
        flush:--timeout) kind='any' ;;
        pause:--state-dir) kind='directory' ;;
        resume:--state-dir) kind='directory' ;;
        stop:--state-dir) kind='directory' ;;
        stop:--timeout) kind='any' ;;
        conflicts:--state-dir) kind='directory' ;;
        conflicts:--to) kind='any' ;;
        conflicts:--show) kind='any' ;;
        conflicts:--diff) kind='any' ;;
        conflicts:--restore) kind='any' ;;
        conflicts:--drop) kind='any' ;;
        conflicts:--take) kind='words left right' ;;
        trash:--state-dir) kind='directory' ;;
        trash:--to) kind='any' ;;
        trash:--show) kind='any' ;;
        trash:--diff) kind='any' ;;
        trash:--restore) kind='any' ;;
        trash:--drop) kind='any' ;;
        trust:--state-dir) kind='directory' ;;
        trust:--set) kind='key' ;;
        names:--state-dir) kind='directory' ;;
        names:--config) kind='file' ;;
    esac
    case ${verb:-run}:$before in
        conflicts:--take) kind='any' ;;
    esac
    if [[ -z $kind ]]; then
        if [[ $cur == -* ]]; then
            COMPREPLY=($(compgen -W "$options" -- "$cur"))
            return
        fi
        case ${verb:-run} in
            run) kind='roots' ;;
            sync) kind='roots' ;;
            status) kind='name' ;;
            log) kind='name' ;;
            web) kind='name' ;;
            flush) kind='name' ;;
            pause) kind='name' ;;
            resume) kind='name' ;;
            stop) kind='name' ;;
            conflicts) kind='name' ;;
            trash) kind='name' ;;
            trust) kind='host' ;;
        esac
    fi
    case $kind in
        name | roots)
            names=$(psync names "${place[@]}" 2>/dev/null)
            [[ -z $verb ]] && names+=" $verbs"
            COMPREPLY=($(compgen -W "$names" -- "$cur"))
            if [[ $kind == roots ]]; then
                compopt -o filenames
                mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$cur")
            fi
            ;;
        host) COMPREPLY=($(compgen -A hostname -- "$cur")) ;;
        file | directory)
            compopt -o filenames
            if [[ $kind == file ]]; then mapfile -t COMPREPLY < <(compgen -f -- "$cur"); fi
            if [[ $kind == directory ]]; then mapfile -t COMPREPLY < <(compgen -d -- "$cur"); fi
            ;;
        key)
            compopt -o nospace
            COMPREPLY=($(compgen -S = -W "$keys" -- "$cur"))
            ;;
        words\ *) COMPREPLY=($(compgen -W "${kind#words }" -- "$cur")) ;;
    esac
}

complete -F _psync psync
