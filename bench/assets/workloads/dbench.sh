# shellcheck shell=bash
work() {
    local load
    load=$(find /usr/share -path '*dbench*' -name client.txt -print -quit)
    dbench --loadfile="$load" --directory=. --timelimit="$(size 4 30)" 2 >report
    # Megabytes per second, as the time is given.
    sed -n 's/^Throughput \([0-9.]*\) MB.*/\1/p' report >"$FIGURE"
    grep -c '^Throughput' report
}
