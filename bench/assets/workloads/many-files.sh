# shellcheck shell=bash
work() {
    local files dir file made=0
    files=$(size 2000 100000)
    for ((dir = 0; made < files; dir++)); do
        mkdir "dir-$dir"
        for ((file = 0; file < 1000 && made < files; file++, made++)); do
            echo "$file" >"dir-$dir/file-$file"
        done
    done
    find . -type f | wc -l
    find . -name 'file-*7' -size -10c | wc -l
    du --all | wc -l
    find . -type f -print0 | du --bytes --total --files0-from=- | tail -n 1
    rm -rf dir-*
    ls -A
}
