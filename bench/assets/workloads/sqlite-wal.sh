# shellcheck shell=bash
add() {
    local round
    for ((round = 0; round < $1; round++)); do
        sqlite3 -bail -cmd '.timeout 60000' db \
            "BEGIN IMMEDIATE; UPDATE c SET n = n + 1; INSERT INTO log VALUES($2, $round); COMMIT;"
    done
}

work() {
    local count one two
    count=$(size 30 500)
    sqlite3 db 'PRAGMA journal_mode=WAL; CREATE TABLE c(n INT); INSERT INTO c VALUES(0);
        CREATE TABLE log(who INT, round INT);'
    add "$count" 1 &
    one=$!
    add "$count" 2 &
    two=$!
    wait "$one"
    wait "$two"
    sqlite3 db 'SELECT n FROM c; SELECT who, count(*), sum(round) FROM log GROUP BY who;
        PRAGMA integrity_check; PRAGMA wal_checkpoint(TRUNCATE);'
    ls -A
}
