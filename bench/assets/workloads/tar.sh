# shellcheck shell=bash disable=SC2103,SC2164 # common.sh says set -e
work() {
    cp -r "$IN/lua" tree
    cd tree
    local megabytes
    megabytes=$(size 3 500)
    truncate --size="${megabytes}M" sparse
    echo begin | dd of=sparse conv=notrunc status=none
    echo middle | dd of=sparse conv=notrunc status=none bs=1M seek=$((megabytes / 2))
    echo end | dd of=sparse conv=notrunc status=none bs=1M seek=$((megabytes - 1))
    ln sparse sparse-too
    ln -s sparse link
    mkfifo pipe
    mknod device c 1 3
    echo x >$'new\nline'
    printf '%.0sx' {1..255} >"$(printf '%.0sn' {1..255})"
    chmod 6755 core
    chown -R 1234:5678 lib
    old .
    cd ..
    tar --sparse --create --file=archive tree
    tar --compare --file=archive
    mkdir keep
    tar --sparse --extract --same-owner --preserve-permissions --file=archive --directory=keep
    cmp tree/sparse keep/tree/sparse
    # What was a hole takes no room, in the archive and after.
    (($(stat --format=%s archive) < 2000000)) && echo "a small archive"
    (($(du --block-size=1 keep/tree/sparse | cut -f 1) < 1000000)) && echo "a sparse file"
    # The file is too long to be compared byte by byte once more.
    rm keep/tree/sparse keep/tree/sparse-too
}
