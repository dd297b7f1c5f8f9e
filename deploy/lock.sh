#!/usr/bin/env bash
# Writes the lock files anew from pyproject.toml: exact versions and hashes for every platform, and no index's name.
# Needs uv in the virtual environment (pip install uv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compile() {
    # The build backend is locked too: Chancery itself is installed without build isolation.
    printf 'hatchling\neditables\n' | .venv/bin/uv pip compile pyproject.toml - "$@" --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate -q
}
compile -o deploy/requirements.lock
compile --extra test -c deploy/requirements.lock -o deploy/requirements-test.lock
