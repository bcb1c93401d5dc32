# shellcheck shell=bash
# What every workload begins with. A workload is a function `work` that is run in an empty
# directory: what it says on standard output and leaves in the directory `keep` has to be the same
# on a local disk and on a mount. `prepare`, if it has one, is run once in $IN before that. $OTHER is
# the working directory as another mount shows it; $FULL is set if all the work is to be done.
set -euo pipefail
umask 022

# size LITTLE ALL: how much is to be done.
size() { if [[ -n $FULL ]]; then echo "$2"; else echo "$1"; fi; }

# old FILE...: gives files a time that is compared, as no clock says it any more.
old() { find "$@" -exec touch --no-dereference --date=2001-02-03T04:05:06.123456789 {} +; }

prepare() { :; }
