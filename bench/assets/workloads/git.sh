# shellcheck shell=bash disable=SC2164 # common.sh says set -e
prepare() {
    git init --quiet --initial-branch=main origin
    cp -r lua/. origin
    cd origin
    local dir
    for dir in */; do
        git add "$dir"
        git commit --quiet --message="Add $dir"
    done
}

work() {
    git clone --quiet "file://$IN/origin" clone
    cd clone
    local round
    for ((round = 1; round <= $(size 6 200); round++)); do
        echo "line $round" >>notes
        echo "$round" >"file-$((round % 7))"
        git add --all
        git commit --quiet --message="Round $round"
    done
    git checkout --quiet -b side HEAD~3
    echo side >side
    git add side
    git commit --quiet --message=Side
    git checkout --quiet main
    git merge --quiet --no-edit side
    git checkout --quiet -b other side
    git rebase --quiet main
    git checkout --quiet main
    echo changed >>notes
    git stash --quiet
    git stash pop --quiet
    git diff --stat
    git checkout --quiet notes
    git worktree add --quiet ../tree side
    git -C ../tree status --porcelain
    git -C ../tree rev-parse HEAD
    git worktree remove ../tree
    git gc --quiet
    git fsck --full --strict --no-progress
    git status --porcelain
    git rev-parse main side other
    git ls-tree -r main | sha256sum
    find .git/objects -name '*.pack' | wc -l
    mkdir ../keep
    git archive main | tar -x -C ../keep
}
