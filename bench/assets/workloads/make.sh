# shellcheck shell=bash disable=SC2164 # common.sh says set -e
prepare() {
    cat >lua/Makefile <<'END'
sources := $(sort $(wildcard */*.c */*/*.c))
objects := $(sources:.c=.o)
andrew: $(objects)
	$(CC) -o $@ $^ -lm
%.o: %.c
	$(CC) -O0 -w -Iinclude -c $< -o $@
$(objects): include/lua.h
END
}

work() {
    cp -r "$IN/lua" keep
    cd keep
    make --quiet -j2
    ./andrew
    make --question
    touch core/vm/lvm.c
    make -j2 | grep -c -- ' -c '
    ./andrew
}
