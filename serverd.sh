#!/usr/bin/env bash
# Builds serverd if need be, fetches the default model if none is named, and starts the server.
# Every argument is one of serverd's own: ./serverd.sh --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$root/scripts/lib.sh"

# Whether an option was given: --NAME on the command line, SERVERD_NAME, or in the --config file.
given() {
    local name=$1 variable argument config='' previous=''
    variable=SERVERD_$(tr a-z- A-Z_ <<<"$name")
    [[ -n ${!variable:-} ]] && return 0
    config=${SERVERD_CONFIG:-}
    for argument in "${arguments[@]}"; do
        [[ $argument == "--$name" || $argument == "--$name="* ]] && return 0
        [[ $argument == --config=* ]] && config=${argument#--config=}
        [[ $previous == --config ]] && config=$argument
        previous=$argument
    done
    [[ -n $config && -f $config ]] && grep -Eq "^$name[[:space:]]*:" "$config"
}

# The options that print something and end.
prints_only() {
    local argument
    for argument in "${arguments[@]}"; do
        case $argument in
        --help | -h | --version | --print-*) return 0 ;;
        esac
    done
    return 1
}

arguments=("$@")
need_packages "${build_packages[@]}"
build "$root/build" --buildtype=release -Dtests=disabled -Dcuda=disabled # nvcc takes minutes, for what is not loaded from here
serverd=$root/build/src/tools/serverd

if ! prints_only; then
    if ! given model-path && ! given models-path && ! given models; then
        need_default_model
        arguments=(--model-path "$default_model_path" "${arguments[@]}")
    fi
    if ! given port && ! given host; then
        cat >&2 <<'TEXT'
serverd: when it is ready, try this from another terminal (Ctrl-C here ends the server):

    curl -N http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \
        -d '{"messages": [{"role": "user", "content": "Tell me a joke."}], "stream": true}'

TEXT
    fi
fi
exec "$serverd" "${arguments[@]}"
