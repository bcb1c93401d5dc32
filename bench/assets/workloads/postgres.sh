# shellcheck shell=bash
# The server refuses to be root's. Each replaces itself by the program, so its PID is the program's.
as_postgres() { exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
run() { (as_postgres "$@"); }

server=
start() {
    (as_postgres postgres -D "$PWD/data" -k "$PWD" -c listen_addresses= >>log 2>&1) &
    server=$!
    until run pg_isready --quiet --host="$PWD"; do
        kill -0 "$server" || { cat log >&2; return 1; }
        sleep 0.05
    done
}

stop() {
    [[ -n $server ]] || return 0
    kill "-$1" "$server" 2>/dev/null || true
    wait "$server" || true
    server=
}

ask() { run psql --host="$PWD" --no-psqlrc --no-align --tuples-only --command="$1" postgres; }

check() {
    ask "SELECT count(*), (SELECT sum(abalance) FROM pgbench_accounts) = sum(delta),
        (SELECT sum(tbalance) FROM pgbench_tellers) = sum(delta) FROM pgbench_history"
}

work() {
    chown postgres: .
    trap 'stop QUIT' EXIT
    # Log files of a size that a short run fills, too.
    run initdb --pgdata="$PWD/data" --auth=trust --username=postgres --wal-segsize="$(size 1 16)" \
        --no-instructions >/dev/null
    start
    run pgbench --host="$PWD" --initialize --quiet --scale="$(size 1 10)" postgres 2>/dev/null
    run pgbench --host="$PWD" --client=4 --jobs=2 --transactions="$(size 25 1000)" \
        postgres >/dev/null 2>&1
    check
    # Its clients are cut off and nothing is written back: the log has all that was committed.
    stop QUIT
    start
    check
    if [[ -n $FULL ]]; then
        ask 'CREATE EXTENSION amcheck' >/dev/null
        run pg_amcheck --host="$PWD" --heapallindexed postgres
    fi
    stop INT
    grep -c 'PANIC' log || true
}
