#!/bin/sh
# build_delegates.sh SOURCE_ROOT OUT: builds the example and the broken delegates of the tests as
# somebody else would: with the plain compiler, against a copy of the headers that are installed.
# OUT, a file, is written last.
set -e
root=$1
out=$2
folder=$(dirname "$out")/delegates
mkdir -p "$folder/include/serverd"
cp "$root/include/serverd/delegate.h" "$root/include/serverd/status.h" "$folder/include/serverd/"
build() { # NAME SOURCE OPTIONS...
    name=$1
    source=$2
    shift 2
    "${CC:-cc}" -std=gnu11 -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden \
        -I"$folder/include" "$@" -o "$folder/$name.so" "$source" -lm
    chmod 755 "$folder/$name.so"
}
build example "$root/examples/delegate/example.c" -Wpedantic
for variant in 0 1 2 3 4 5 6 7 8 9 10 11; do
    build "broken$variant" "$root/tests/runtime/broken_delegate.c" "-DVARIANT=$variant"
done
echo "$folder" > "$out"
