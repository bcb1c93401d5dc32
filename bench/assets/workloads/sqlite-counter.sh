# shellcheck shell=bash
add() {
    local round
    for ((round = 0; round < $1; round++)); do
        sqlite3 -bail -cmd '.timeout 60000' "$2/db" \
            'BEGIN IMMEDIATE; UPDATE c SET n = n + 1; INSERT INTO log SELECT n FROM c; COMMIT;'
    done
}

# count_up JOURNAL ONE TWO: two processes add to one counter, each at its own place.
count_up() {
    local count one two
    count=$(size 30 500)
    sqlite3 db "PRAGMA journal_mode=$1; CREATE TABLE c(n INT); INSERT INTO c VALUES(0);
        CREATE TABLE log(n INT);"
    add "$count" "$2" &
    one=$!
    add "$count" "$3" &
    two=$!
    wait "$one"
    wait "$two"
    # No addition was lost or done twice.
    sqlite3 "$2/db" 'SELECT n FROM c; SELECT count(DISTINCT n), max(n) FROM log;'
    sqlite3 "$3/db" 'PRAGMA integrity_check;'
}
