# shellcheck shell=bash
work() {
    local engine
    for engine in psync mmap; do
        # Two processes in files of their own; every block that is read is the one written last.
        fio --name="$engine" --ioengine="$engine" --rw=randrw --rwmixread=40 --numjobs=2 \
            --size="$(size 4M 128M)" --bsrange=4k-64k --verify=crc32c --verify_fatal=1 \
            --do_verify=1 --end_fsync=1 --fallocate=none --output="$engine.report"
        grep -c 'err= *0' "$engine.report"
        rm "$engine".*
    done
}
