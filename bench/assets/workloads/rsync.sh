# shellcheck shell=bash disable=SC2103,SC2164 # common.sh says set -e
prepare() {
    mkdir tree-to-copy
    cp -r lua/. tree-to-copy
    cd tree-to-copy
    mkdir empty odd
    echo one >odd/one
    ln odd/one odd/hard-link
    ln -s one odd/link
    ln -s nowhere odd/dangling
    mkfifo odd/pipe
    echo x >$'odd/new\nline' && echo x >odd/$'\xff\xfe' && echo x >'odd/ and spaces '
    chmod 4711 odd/one
    chown 1234:5678 odd/one
    truncate --size=1M odd/hole
    old .
}

work() {
    rsync --archive --hard-links "$IN/tree-to-copy/" there
    rsync --archive --hard-links --checksum there/ keep
    # Nothing differs, so nothing is said.
    rsync --archive --hard-links --checksum --delete --dry-run --itemize-changes \
        "$IN/tree-to-copy/" keep
    echo changed >>there/odd/one
    rm -r there/core
    mv there/odd/hole there/moved
    old there/odd/one
    rsync --archive --hard-links --checksum --delete --itemize-changes there/ keep | sort
    rsync --archive --hard-links --checksum --delete --dry-run --itemize-changes there/ keep
}
