# What serverd.sh and test.sh share: packages, the default model, builds. Sourced by bash with
# `root` set to the repository.

build_packages=(gcc libc6-dev meson ninja-build pkg-config libmicrohttpd-dev libgnutls28-dev libjansson-dev
    libuv1-dev libyaml-dev libpcre2-dev libutf8proc-dev libxxhash-dev libzip-dev libsqlite3-dev liblua5.4-dev libcurl4-openssl-dev)
model_packages=(python3 python3-pip ca-certificates)

default_model_name=SmolLM2-135M-Instruct.Q4_1.gguf
default_model_path=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/serverd/models/$default_model_name

say() { printf 'serverd: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Installs the Debian packages of the arguments that are missing, and says so first.
need_packages() {
    local missing=() package
    command -v dpkg-query >/dev/null || {
        say "this is no Debian: needed are $* or their like; going on"
        return 0
    }
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p') || true
    for package in "$@"; do
        grep -qxF "$package" <<<"$installed" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        die "these Debian packages are missing: ${missing[*]}
         Only root can install them. Run this once, then try again:
             sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
    say "installing the Debian packages ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 && return 0
    apt-get update -qq || die "apt-get update failed: is the network there?"
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install ${missing[*]}"
}

# configure FOLDER MESON-OPTIONS...: once.
configure() {
    local folder=$1
    shift
    if [[ ! -f $folder/build.ninja ]]; then
        say "configuring $(basename "$folder")"
        mkdir -p "$folder"
        meson setup "$folder" "$root" "$@" >"$folder/setup.log" 2>&1 || {
            cat "$folder/setup.log" >&2
            rm -rf "$folder"
            die "meson could not configure the build"
        }
    fi
}

# build FOLDER MESON-OPTIONS...: configures once, then builds what changed.
build() {
    local folder=$1
    configure "$@"
    # Silent when there is nothing to do; else ninja's own progress line.
    if ! ninja -C "$folder" -n 2>/dev/null | grep -q 'no work to do'; then
        say "building $(basename "$folder")"
        ninja -C "$folder" >&2 || die "the build failed"
    fi
}

# The default model, fetched once; its path is $default_model_path.
need_default_model() {
    [[ -f $default_model_path ]] && return 0
    need_packages "${model_packages[@]}"
    python3 "$root/scripts/fetch_default_model.py" "$default_model_path" ||
        die "the default model could not be fetched; give another with --model-path FILE.gguf"
}
