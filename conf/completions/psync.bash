# bash completion for psync; made by docs/describe.py from the command's own grammar.

_psync() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} before=
    local at word verb= verbs='run sync status log web flush pause resume stop check conflicts trash config trust start runcheck doctor install uninstall names' options= kinds= kind place=() names keys='alert_threshold banned conflict conflict_keep debug dry_run durability etimeout event_interval excludes force fullsync host inline_max itimeout left log_file log_format log_level max_delay max_delete max_rewrite maxtimeout meta_from poll_interval quarantine right rsync_excludes rsync_extra settle_ms skip_initial_sync ssh_options strip_special_bits suppress_echoes sync_interval sync_only tempfiles timeout translate trash versions xattrs'
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
        sync) options='-h --help --state-dir --json -r --remote-host -d --debug -t --tempfiles -e --excludes --rsync-excludes -x --extra -b --banned -T --translate -n --dry-run -s --sync-only -k --skip-initial-sync -f --force --name --config --set' ;;
        status) options='-h --help --state-dir --json --watch' ;;
        log) options='-h --help --state-dir -f --follow -n --lines --since --level --side --grep --path --json' ;;
        web) options='-h --help --state-dir --listen --group --config' ;;
        flush) options='-h --help --state-dir --timeout' ;;
        pause) options='-h --help --state-dir' ;;
        resume) options='-h --help --state-dir --accept --accept-deletes' ;;
        stop) options='-h --help --state-dir --timeout --all' ;;
        check) options='-h --help --state-dir -l --lite -c --checksum -m --modified -X --no-links -n --newer -b --backup --alert-threshold --json -r --remote-host -t --tempfiles -e --excludes --rsync-excludes --name --config --set' ;;
        conflicts) options='-h --help --state-dir --json --to --show --diff --restore --drop --take' ;;
        trash) options='-h --help --state-dir --json --to --show --diff --restore --drop --empty' ;;
        config) options='-h --help --state-dir --config --json' ;;
        trust) options='-h --help --state-dir -y --yes --set' ;;
        start) options='-h --help --state-dir --config' ;;
        runcheck) options='-h --help --state-dir --config --lag --after --no-restart --json' ;;
        doctor) options='-h --help --state-dir --json -r --remote-host -d --debug -t --tempfiles -e --excludes --rsync-excludes -x --extra -b --banned -T --translate -n --dry-run -s --sync-only -k --skip-initial-sync -f --force --name --config --set' ;;
        install) options='-h --help --state-dir --systemd --cron --command --root' ;;
        uninstall) options='-h --help --state-dir --root' ;;
        names) options='-h --help --state-dir --config' ;;
    esac
    case ${verb:-run}:$prev in
        run:--state-dir) kinds='directory' ;;
        run:-r|run:--remote-host) kinds='host' ;;
        run:-d|run:--debug) kinds='any' ;;
        run:-t|run:--tempfiles) kinds='any' ;;
        run:-e|run:--excludes) kinds='any' ;;
        run:--rsync-excludes) kinds='any' ;;
        run:-x|run:--extra) kinds='any' ;;
        run:-b|run:--banned) kinds='any' ;;
        run:-T|run:--translate) kinds='any' ;;
        run:--name) kinds='name' ;;
        run:--config) kinds='file' ;;
        run:--set) kinds='key' ;;
        sync:--state-dir) kinds='directory' ;;
        sync:-r|sync:--remote-host) kinds='host' ;;
        sync:-d|sync:--debug) kinds='any' ;;
        sync:-t|sync:--tempfiles) kinds='any' ;;
        sync:-e|sync:--excludes) kinds='any' ;;
        sync:--rsync-excludes) kinds='any' ;;
        sync:-x|sync:--extra) kinds='any' ;;
        sync:-b|sync:--banned) kinds='any' ;;
        sync:-T|sync:--translate) kinds='any' ;;
        sync:--name) kinds='name' ;;
        sync:--config) kinds='file' ;;
        sync:--set) kinds='key' ;;
        status:--state-dir) kinds='directory' ;;
        log:--state-dir) kinds='directory' ;;
        log:-n|log:--lines) kinds='any' ;;
        log:--since) kinds='any' ;;
        log:--level) kinds='=debug =info =warning =error =critical' ;;
        log:--side) kinds='=left =right' ;;
        log:--grep) kinds='any' ;;
        log:--path) kinds='any' ;;
        web:--state-dir) kinds='directory' ;;
        web:--listen) kinds='any' ;;
        web:--group) kinds='group' ;;
        web:--config) kinds='file' ;;
        flush:--state-dir) kinds='directory' ;;
        flush:--timeout) kinds='any' ;;
        pause:--state-dir) kinds='directory' ;;
        resume:--state-dir) kinds='directory' ;;
        stop:--state-dir) kinds='directory' ;;
        stop:--timeout) kinds='any' ;;
        check:--state-dir) kinds='directory' ;;
        check:-n|check:--newer) kinds='any' ;;
        check:--alert-threshold) kinds='any' ;;
        check:-r|check:--remote-host) kinds='host' ;;
        check:-t|check:--tempfiles) kinds='any' ;;
        check:-e|check:--excludes) kinds='any' ;;
        check:--rsync-excludes) kinds='any' ;;
        check:--name) kinds='name' ;;
        check:--config) kinds='file' ;;
        check:--set) kinds='key' ;;
        conflicts:--state-dir) kinds='directory' ;;
        conflicts:--to) kinds='any' ;;
        conflicts:--show) kinds='any' ;;
        conflicts:--diff) kinds='any' ;;
        conflicts:--restore) kinds='any' ;;
        conflicts:--drop) kinds='any' ;;
        conflicts:--take) kinds='=left =right' ;;
        trash:--state-dir) kinds='directory' ;;
        trash:--to) kinds='any' ;;
        trash:--show) kinds='any' ;;
        trash:--diff) kinds='any' ;;
        trash:--restore) kinds='any' ;;
        trash:--drop) kinds='any' ;;
        config:--state-dir) kinds='directory' ;;
        config:--config) kinds='file' ;;
        trust:--state-dir) kinds='directory' ;;
        trust:--set) kinds='key' ;;
        start:--state-dir) kinds='directory' ;;
        start:--config) kinds='file' ;;
        runcheck:--state-dir) kinds='directory' ;;
        runcheck:--config) kinds='file' ;;
        runcheck:--lag) kinds='any' ;;
        runcheck:--after) kinds='any' ;;
        doctor:--state-dir) kinds='directory' ;;
        doctor:-r|doctor:--remote-host) kinds='host' ;;
        doctor:-d|doctor:--debug) kinds='any' ;;
        doctor:-t|doctor:--tempfiles) kinds='any' ;;
        doctor:-e|doctor:--excludes) kinds='any' ;;
        doctor:--rsync-excludes) kinds='any' ;;
        doctor:-x|doctor:--extra) kinds='any' ;;
        doctor:-b|doctor:--banned) kinds='any' ;;
        doctor:-T|doctor:--translate) kinds='any' ;;
        doctor:--name) kinds='name' ;;
        doctor:--config) kinds='file' ;;
        doctor:--set) kinds='key' ;;
        install:--state-dir) kinds='directory' ;;
        install:--command) kinds='any' ;;
        install:--root) kinds='directory' ;;
        uninstall:--state-dir) kinds='directory' ;;
        uninstall:--root) kinds='directory' ;;
        names:--state-dir) kinds='directory' ;;
        names:--config) kinds='file' ;;
    esac
    case ${verb:-run}:$before in
        conflicts:--take) kinds=any ;;
    esac
    if [[ -z $kinds ]]; then
        if [[ $cur == -* ]]; then
            COMPREPLY=($(compgen -W "$options" -- "$cur"))
            return
        fi
        case ${verb:-run} in
            run) kinds='directory name' ;;
            sync) kinds='directory name' ;;
            status) kinds='name' ;;
            log) kinds='name' ;;
            web) kinds='name' ;;
            flush) kinds='name' ;;
            pause) kinds='name' ;;
            resume) kinds='name' ;;
            stop) kinds='name' ;;
            check) kinds='directory name' ;;
            conflicts) kinds='name' ;;
            trash) kinds='name' ;;
            config) kinds='=check =show =import file name' ;;
            trust) kinds='host' ;;
            start) kinds='name' ;;
            runcheck) kinds='name' ;;
            doctor) kinds='directory name' ;;
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
