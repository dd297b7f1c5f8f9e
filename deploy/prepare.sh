#!/usr/bin/env bash
# Shared by demo.sh and tests/run.sh; sourced, never run. Makes .venv from a lock file with hashes and installs system
# packages that are missing. A second run finds everything and does nothing.

set -euo pipefail

if [ -t 2 ]; then say() { printf '\033[2m·\033[0m %s\n' "$*" >&2; }; else say() { printf '· %s\n' "$*" >&2; }; fi
die() { printf 'chancery: %s\n' "$*" >&2; exit 1; }

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${CHANCERY_VENV:-$repository/.venv}

# The first Python >= 3.11 on PATH, or the one that $PYTHON names.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed; none is on PATH (set PYTHON to its path)"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else die "these packages have to be installed by root, and there is no sudo: ${*: -1}"
    fi
}

# install_packages DEBIAN-NAMES FEDORA-NAMES BREW-NAMES: three lists in quotes, for the package manager that is here.
install_packages() {
    local output
    if command -v apt-get >/dev/null 2>&1; then
        say "installing with apt: $1"
        output=$(mktemp)
        # shellcheck disable=SC2086 # a list of names
        { as_root apt-get update -q && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $1; } \
            >"$output" 2>&1 || { tail -n 5 "$output" >&2; die "apt could not install: $1"; }
        rm -f "$output"
    elif command -v dnf >/dev/null 2>&1; then
        say "installing with dnf: $2"
        # shellcheck disable=SC2086
        as_root dnf install -y -q $2 >&2 || die "dnf could not install: $2"
    elif command -v brew >/dev/null 2>&1; then
        say "installing with brew: $3"
        # shellcheck disable=SC2086
        HOMEBREW_NO_AUTO_UPDATE=1 brew install -q $3 >&2 || die "brew could not install: $3"
    else
        die "no apt, dnf or brew here: install these yourself and run this again: $1"
    fi
}

have_softhsm() {
    command -v softhsm2-util >/dev/null 2>&1
}

# make_venv LOCK-FILE: the virtual environment holds exactly what the lock file says, and Chancery itself.
make_venv() {
    local lock=$1 stamp wanted python
    python=$(find_python)
    stamp=$venv/.chancery-lock
    wanted=$(cat "$lock" "$repository/pyproject.toml" | cksum)" $lock"
    if [ -x "$venv/bin/chancery" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then return; fi
    if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making the virtual environment ($("$python" --version))"
        rm -rf "$venv"
        if ! "$python" -m venv --clear "$venv" >/dev/null 2>&1; then
            # Debian and Ubuntu ship venv apart from Python.
            install_packages "python3-venv" "python3" "python3"
            "$python" -m venv --clear "$venv" || die "python -m venv does not work here"
        fi
    fi
    say "installing Python packages (once; about a minute)"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-warn-script-location \
        --require-hashes -r "$lock" || die "pip could not install $lock"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-warn-script-location \
        --no-deps --no-build-isolation -e "$repository" || die "pip could not install Chancery itself"
    printf '%s' "$wanted" >"$stamp"
}
