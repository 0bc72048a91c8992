#!/bin/sh
# make_library.sh OUT.a NM OBJCOPY AR ARCHIVE...: one archive of the members of others, in which all
# that is not named serverd_* has a name that no host program has.
set -eu
out=$1 nm=$2 objcopy=$3 ar=$4
shift 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

n=0
for archive; do
    mkdir "$work/in$n"
    for member in $("$ar" t "$archive"); do # paths: the archives are thin
        name=$(basename "$member")
        case $name in reference_* | testing_* | builtin.*) continue ;; esac # not of the library
        cp "$member" "$work/in$n/$n-$name"
    done
    n=$((n + 1))
done

"$nm" -g --defined-only "$work"/in*/*.o | awk 'NF == 3 && $3 !~ /^serverd_/ { print $3, "serverd_private_" $3 }' |
    sort -u >"$work/names"
mkdir "$work/out"
for object in "$work"/in*/*.o; do
    "$objcopy" --redefine-syms="$work/names" "$object" "$work/out/$(basename "$object")"
done
rm -f "$out"
"$ar" crsD "$out" "$work"/out/*.o
