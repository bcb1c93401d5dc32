# shellcheck shell=bash
# What getfattr and getfacl say of all that is below a directory.
attributes() {
    (cd "$1" && find . -print0 | sort -z | xargs -0 getfattr --no-dereference --dump --match=- &&
        find . ! -type l -print0 | sort -z | xargs -0 getfacl --numeric)
}

work() {
    mkdir tree tree/dir
    echo text >tree/file
    echo more >tree/dir/more
    setfattr --name=user.colour --value=blue tree/file
    setfattr --name=user.empty tree/file
    setfattr --name=user.bytes --value=0x00ff00 tree/dir
    setfattr --name=trusted.mine --value=x tree/file
    setfattr --name=user.long --value="$(printf '%.0sv' {1..2000})" tree/dir/more
    setfacl --modify=user:1234:rw,group:5678:r tree/file
    setfacl --modify=default:user:1234:rwx,default:group::rx tree/dir
    echo inherited >tree/dir/new
    mkdir tree/dir/below
    attributes tree
    tar --xattrs --xattrs-include='*' --acls --create --file=archive tree
    mkdir back
    tar --xattrs --xattrs-include='*' --acls --extract --file=archive --directory=back
    diff <(attributes tree) <(attributes back/tree)
    cp --archive tree copy
    diff <(attributes tree) <(attributes copy)
    setfattr --remove=user.colour tree/file
    setfacl --remove-all tree/file
    attributes tree/file 2>/dev/null || getfacl --numeric tree/file
    mv back/tree keep
}
