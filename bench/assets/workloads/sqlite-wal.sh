# shellcheck shell=bash
work() {
    count_up WAL "$PWD" "$PWD"
    sqlite3 db 'PRAGMA wal_checkpoint(TRUNCATE);'
    ls -A
}
