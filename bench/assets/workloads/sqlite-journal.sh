# shellcheck shell=bash
# insert FROM TO: each in a transaction of its own.
insert() {
    local number
    for ((number = $1; number <= $2; number++)); do
        echo "INSERT INTO t VALUES($number, 'name $number', $number * 7);"
    done
}

work() {
    local count one two
    count=$(size 40 1000)
    sqlite3 db "PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL;
        CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INT); CREATE INDEX i ON t(name);"
    insert 1 "$count" | sqlite3 -bail -cmd '.timeout 60000' db &
    one=$!
    insert $((count + 1)) $((2 * count)) | sqlite3 -bail -cmd '.timeout 60000' db &
    two=$!
    wait "$one"
    wait "$two"
    sqlite3 db 'BEGIN; UPDATE t SET n = 0; ROLLBACK; PRAGMA integrity_check;
        SELECT count(*), sum(n) FROM t;'
    sqlite3 db 'DELETE FROM t WHERE id % 3 = 0; VACUUM; PRAGMA integrity_check;'
    sqlite3 db 'SELECT * FROM t ORDER BY id' | sha256sum
    ls -A
}
