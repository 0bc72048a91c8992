#!/bin/sh
# test_minimal.sh BUILD SOURCE MAKE_MODEL COMPILE: the installed header and library and the plain
# compiler make the example, which decodes; it needs libc and libm alone, and keeps to its size.
set -eu
build=$1 source=$2 make_model=$3 compile=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "$*" >&2
    exit 1
}

meson install -C "$build" --no-rebuild --quiet --tags devel --destdir "$work/root"
pc=$(find "$work/root" -name serverd_rt.pc)
prefix=$work/root$(sed -n 's/^prefix=//p' "$pc")
export PKG_CONFIG_PATH
PKG_CONFIG_PATH=$(dirname "$pc")
flags=$(pkg-config --define-variable=prefix="$prefix" --cflags --libs serverd_rt)

"$make_model" llama "$work/model.gguf" Q8_0
"$compile" "$work/model.gguf" -o "$work/model.sdp" >"$work/log" 2>&1 || fail "$(cat "$work/log")"

# shellcheck disable=SC2086
cc -Wall -Wextra -Werror "$source/examples/minimal.c" -o "$work/minimal" $flags -Wl,--gc-sections
[ "$(wc -l <"$source/examples/minimal.c")" -le 60 ] || fail "minimal.c: more than 60 lines"
"$work/minimal" "$work/model.sdp" 5 6 7 >"$work/ids"
[ "$(wc -w <"$work/ids")" = 32 ] || fail "minimal: $(cat "$work/ids")"
"$work/minimal" "$work/model.sdp" 5 6 7 | cmp - "$work/ids" || fail "minimal: not the same again"
if "$work/minimal" "$work/model.gguf" 5 2>"$work/log"; then fail "minimal takes a GGUF file"; fi
if "$work/minimal" "$work/model.sdp" 99999999 2>"$work/log"; then fail "minimal takes any id"; fi
grep -q 'token 0 is 99999999' "$work/log" || fail "minimal: $(cat "$work/log")"

needed=$(readelf -d "$work/minimal" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
for library in $needed; do
    case $library in libc.so.* | libm.so.* | ld-linux*) ;; *) fail "minimal needs $library" ;; esac
done

# All functions but the CPU back-end; text and data beyond those of an empty program.
cat >"$work/all.c" <<'TEXT'
#include <serverd/runtime.h>
#define USE(f) (void (*)(void))(f)
void (*volatile all[])(void) = {
    USE(serverd_runtime_plan), USE(serverd_runtime_open), USE(serverd_runtime_close),
    USE(serverd_runtime_get_info), USE(serverd_runtime_step), USE(serverd_session_create),
    USE(serverd_session_destroy), USE(serverd_session_prefill), USE(serverd_session_decode),
    USE(serverd_session_logits), USE(serverd_session_greedy), USE(serverd_session_rollback),
    USE(serverd_session_reset), USE(serverd_session_stop), USE(serverd_session_position),
    USE(serverd_session_capacity), USE(serverd_session_error)};
int main(void) { return all[0] == 0; }
TEXT
echo 'int main(void) { return 0; }' >"$work/empty.c"
size_of() { size "$1" | awk 'NR == 2 { print $1 + $2 }'; }
# shellcheck disable=SC2086
cc -O2 "$work/all.c" -o "$work/all" $flags -Wl,--gc-sections
cc -O2 "$work/empty.c" -o "$work/empty" -Wl,--gc-sections
runtime=$(($(size_of "$work/all") - $(size_of "$work/empty")))
kernels=$(($(size_of "$work/minimal") - $(size_of "$work/empty")))
echo "runtime: $runtime bytes, with all CPU kernels: $kernels bytes"
# names that a host program might have, too
others=$(nm -g --defined-only "$(find "$work/root" -name libserverd_rt.a)" 2>/dev/null | awk 'NF == 3 && $3 !~ /^serverd_/ { print $3 }')
[ -z "$others" ] || fail "the library defines $others"
if [ "${CHECK_SIZE:-1}" = 1 ]; then
    [ "$runtime" -le 100000 ] || fail "the runtime is larger than 100 kB"
    [ "$kernels" -le 2000000 ] || fail "runtime and kernels are larger than 2 MB"
fi
