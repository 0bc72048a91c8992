#!/usr/bin/env bash
# Builds and runs the tests; does all its own set-up. See --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

usage() {
    cat <<'TEXT'
./test.sh [PART...]: all parts in this order, or those named.

  format   clang-format has nothing to change
  unit     warnings are errors; unit, property, golden, kernel and style suites, corpus replay
  pages    KV pages of 1 and of 64 tokens: the suites of pages, scheduler and programs in builds with these
  e2e      the real binary with the default model: openai package, curl, raw sockets
  asan     the same suites under AddressSanitizer and UndefinedBehaviorSanitizer, and e2e
  tsan     the concurrent suites under ThreadSanitizer
  clients  the packages of docs/CLIENTS.md against a real model; not one of "all parts"
  gpu      the CUDA back-end on the NVIDIA GPU here: kernel tests, compute-sanitizer, times, e2e; not one of "all parts"
  fuzz     each libFuzzer target for FUZZ_SECONDS (20) from its corpus; FUZZ_SEED (1; 0: another each time)

SERVERD_TEST_MODELS=FOLDER runs the tests that need further real models, too.
TEXT
}

page_tests=(page_pool radix_tree disk_page disk_tier kv_size runtime cpu_attention
    engine queue handles forks windows tier inspect draft draft_model
    frontend_dsl_{branches,pressure,roles,run,select,values})
test_packages=(g++ libcmocka-dev python3 python3-venv curl)
# no detect_stack_use_after_return: gcc's fake stacks are not aligned for 64-byte vectors
asan_options=detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1

need_test_build() { build "$root/build-test" --buildtype=release -Db_ndebug=false -Dtests=enabled -Dwerror=true; }

# build_only PATTERN FOLDER MESON-OPTIONS...: what has a name that fits, and what it needs.
build_only() {
    local pattern=$1 folder=$2 targets
    shift
    configure "$@"
    mapfile -t targets < <(ninja -C "$folder" -t targets all | sed -n 's/: .*//p' | grep -E "^($pattern)\$")
    say "building $(basename "$folder")"
    ninja -C "$folder" "${targets[@]}" >&2 || die "the build failed"
}
e2e_programs='src/tools/([a-z_]+/)?serverd[a-z-]*|tests/support/make_model|tests/runtime/measure_plan'

# Python packages of the end-to-end tests, pinned, in a venv of the build folder.
need_python() {
    python=$root/build-test/venv/bin/python
    local stamp=$root/build-test/venv/requirements.txt
    cmp -s "$root/tests/requirements.txt" "$stamp" && return 0
    say "installing the Python packages of the tests"
    python3 -m venv "$root/build-test/venv"
    "$python" -m pip install --disable-pip-version-check -q -r "$root/tests/requirements.txt"
    cp "$root/tests/requirements.txt" "$stamp"
}

run_suites() {
    local folder=$1
    shift
    meson test -C "$folder" --print-errorlogs --no-rebuild "$@"
}

run_e2e() {
    local folder=$1
    shift
    need_python
    need_default_model
    (cd "$root/tests/e2e" &&
        SERVERD_BUILD=$folder SERVERD_DEFAULT_MODEL=$default_model_path "$python" -m pytest -q -p no:cacheprovider --durations=12 "$@")
}

part_format() {
    need_packages clang-format git
    (cd "$root" && git ls-files -z '*.c' '*.h' '*.cu' '*.cuh' | xargs -0 clang-format --dry-run --Werror)
}

part_unit() {
    need_test_build
    run_suites "$root/build-test"
}

# Little optimised: they compile faster so, and run on tiny models.
part_pages() {
    local tokens
    for tokens in 1 64; do
        configure "$root/build-pages-$tokens" --buildtype=plain -Doptimization=1 -Dtests=enabled -Dwerror=true \
            -Dpage_tokens="$tokens"
        meson test -C "$root/build-pages-$tokens" --print-errorlogs --timeout-multiplier 4 "${page_tests[@]}"
    done
}

part_e2e() {
    need_test_build
    run_e2e "$root/build-test"
}

part_clients() {
    need_test_build
    need_default_model
    local venv=$root/build-test/venv-clients
    if ! cmp -s "$root/tests/clients/requirements.txt" "$venv/requirements.txt"; then
        say "installing the client packages"
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install --disable-pip-version-check -q uv
        "$venv/bin/uv" pip install -q --python "$venv/bin/python" -r "$root/tests/clients/requirements.txt"
        cp "$root/tests/clients/requirements.txt" "$venv/requirements.txt"
    fi
    (cd "$root/tests/clients" && SERVERD_BUILD=$root/build-test SERVERD_DEFAULT_MODEL=$default_model_path \
        "$venv/bin/python" -m pytest -q -p no:cacheprovider)
}

# Dies unless there is what the suite gpu needs; puts the toolkit's programs on the path.
need_gpu() {
    PATH=$PATH:/usr/local/cuda/bin
    command -v nvcc >/dev/null || die "nvcc is not installed: the CUDA toolkit is needed"
    python3 -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null ||
        die "no NVIDIA driver is installed: libcuda.so.1 cannot be loaded"
}

part_gpu() {
    need_gpu
    local folder=$root/build-gpu tool
    build_only "$e2e_programs|src/kernels/cuda.so|tests/kernels/cuda/(test_gpu_[a-z]+|measure_cuda)" "$folder" \
        --buildtype=release -Db_ndebug=false -Dtests=enabled -Dcuda=enabled -Dgpu_tests=true
    "$folder/tests/kernels/cuda/measure_cuda" --devices || die "no GPU to test on"
    run_suites "$folder" --suite gpu
    if command -v compute-sanitizer >/dev/null; then
        for tool in memcheck racecheck synccheck; do
            run_sanitizer "$folder" "$tool" "--error-exitcode 9"
        done
        run_sanitizer "$folder" initcheck "" # reads of padding, which nothing depends on, are no errors
    else
        say "compute-sanitizer is not installed (it is part of the CUDA toolkit): ITS CHECKS ARE LEFT OUT"
    fi
    "$folder/tests/kernels/cuda/measure_cuda" | tee "$folder/measure_cuda.txt"
    local on_gpu="--delegate $folder/src/kernels/cuda.so --device cuda"
    SERVERD_TEST_OPTIONS=$on_gpu SERVERD_TEST_STREAMS=64 \
        run_e2e "$folder" test_accuracy.py test_batching.py test_openai_client.py test_sampling.py
    local serverd="$folder/src/tools/serverd --model-path $default_model_path --port 8099"
    say "the GPU (a) and the CPU (b) under 64 streams"
    "$folder/src/tools/bench/serverd-bench" compare closed -n 128 -c 64 -R 3 --url http://127.0.0.1:8099 \
        -a "$serverd $on_gpu" -b "$serverd" | tee "$folder/compare.txt"
}

# The kernel suites under one tool of compute-sanitizer; the models' steps are the same kernels again.
run_sanitizer() {
    local folder=$1 tool=$2 options=$3
    say "compute-sanitizer $tool"
    run_suites "$folder" --timeout-multiplier 20 --verbose --wrapper "compute-sanitizer --tool $tool $options" \
        gpu_kernels gpu_weights gpu_fused gpu_chains gpu_sampling
}

part_asan() {
    need_test_build # for the Python packages' folder
    build "$root/build-asan" --buildtype=debugoptimized -Db_sanitize=address,undefined -Dtests=enabled
    export ASAN_OPTIONS=$asan_options UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    run_suites "$root/build-asan" --timeout-multiplier 4
    run_e2e "$root/build-asan" -m 'not timing and not slow'
    unset ASAN_OPTIONS UBSAN_OPTIONS
}

part_tsan() {
    need_test_build
    build_only "$e2e_programs" "$root/build-tsan" --buildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false \
        -Dtests=enabled
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=$root/tests/tsan-suppressions.txt
    meson test -C "$root/build-tsan" --print-errorlogs --timeout-multiplier 4 --suite concurrent # builds what it runs
    run_e2e "$root/build-tsan" -m concurrent
    unset TSAN_OPTIONS
}

part_fuzz() {
    need_packages clang llvm libclang-rt-14-dev
    CC=clang build_only 'tests/fuzz/fuzz_[a-z_]+' "$root/build-fuzz" --buildtype=debugoptimized -Dfuzzing=libfuzzer -Db_sanitize=address,undefined \
        -Db_lundef=false -Dtests=enabled
    local target has_failed=0 running=()
    for target in "$root"/build-fuzz/tests/fuzz/fuzz_*; do
        [[ -f $target && -x $target ]] || continue
        fuzz_one "$target" &
        running+=($!)
        if ((${#running[@]} >= $(nproc))); then # each has a processor
            wait "${running[0]}" || has_failed=1
            running=("${running[@]:1}")
        fi
    done
    for target in "${running[@]}"; do
        wait "$target" || has_failed=1
    done
    return "$has_failed"
}

# One libFuzzer target; what it said is shown at its end.
fuzz_one() {
    local name
    name=$(basename "$1")
    say "fuzzing ${name#fuzz_} for ${FUZZ_SECONDS:-20} s"
    mkdir -p "$root/build-fuzz/corpus/${name#fuzz_}"
    # a seed of its own each time would make an old fault look like the newest change's
    (cd "$root/build-fuzz" && UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
        "$1" -max_total_time="${FUZZ_SECONDS:-20}" -seed="${FUZZ_SEED:-1}" -timeout=20 -rss_limit_mb=4096 \
        -print_final_stats=1 -verbosity=0 "corpus/${name#fuzz_}" "$root/tests/fuzz/corpus/${name#fuzz_}" \
        >"$name.log" 2>&1 && tail -n 6 "$name.log" || { tail -n 100 "$name.log"; exit 1; })
}

parts=("$@")
((${#parts[@]})) || parts=(format unit pages e2e asan tsan fuzz)
for part in "${parts[@]}"; do
    case $part in
    -h | --help)
        usage
        exit 0
        ;;
    --clients | --gpu | clients | gpu | format | unit | pages | e2e | asan | tsan | fuzz) ;;
    *)
        usage >&2
        die "there is no part $part"
        ;;
    esac
done

need_packages "${build_packages[@]}" "${test_packages[@]}"
for part in "${parts[@]}"; do
    begin=$SECONDS
    say "== $part"
    "part_${part#--}"
    say "== $part passed in $((SECONDS - begin)) s"
done
say "all passed in $SECONDS s: ${parts[*]}"
