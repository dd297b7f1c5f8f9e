#!/usr/bin/env bash
# The main job: a certificate authority on this machine, from a fresh clone. Options are those of `chancery demo`.
# shellcheck source=deploy/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

have_softhsm || install_packages "softhsm2" "softhsm" "softhsm"
# A venv that the tests made holds all of this and more.
if [ "$(cut -d' ' -f3- "$venv/.chancery-lock" 2>/dev/null)" = "$repository/deploy/requirements-test.lock" ]; then
    make_venv "$repository/deploy/requirements-test.lock"
else
    make_venv "$repository/deploy/requirements.lock"
fi
exec "$venv/bin/chancery" demo "$@"
