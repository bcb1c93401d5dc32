# shellcheck shell=bash disable=SC2164 # common.sh says set -e
# Text that is another in each round.
text() { for line in {1..40}; do echo "round $1, line $line of the text"; done; }

# As emacs and most others: written aside, synced, the old one kept by a link, renamed over it.
save_by_rename() {
    text "$1" >".$2.tmp"
    chmod 640 ".$2.tmp"
    sync ".$2.tmp"
    ln -f "$2" "$2~"
    mv -f ".$2.tmp" "$2"
    sync .
}

# As vim with backupcopy=no: the old one is renamed away, a new one made, the old one removed.
save_by_backup() {
    mv "$2" "$2.bak"
    text "$1" >"$2"
    sync "$2"
    rm "$2.bak"
}

# As vim with backupcopy=yes: a copy is kept, the file is cut and written in place.
save_in_place() {
    cp -p "$2" "$2.bak"
    text "$1" >"$2"
    sync "$2"
    rm "$2.bak"
}

work() {
    mkdir keep
    cd keep
    local round name
    for name in renamed moved rewritten; do text 0 >"$name"; done
    for ((round = 1; round <= $(size 25 250); round++)); do
        save_by_rename "$round" renamed
        save_by_backup "$round" moved
        save_in_place "$round" rewritten
        # Another mount has what was saved.
        for name in renamed moved rewritten; do
            cmp <(text "$round") "$OTHER/keep/$name"
        done
    done
    cmp <(text $((round - 2))) renamed~
    # shellcheck disable=SC2012 # these names are our own
    ls -A | sort
}
