#!/usr/bin/env bash
# Sets up what the tests need and runs all of them: style, types, imports, unit, integration, acceptance.
# Arguments go to pytest; `-n 0` runs everything in one process.
# shellcheck source=deploy/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/../deploy/prepare.sh"

missing=
for tool in softhsm2-util lego pebble nginx openssl wrk apache2 ocsptool curl unbound nsd ldns-signzone ip \
    uacme dehydrated acme-tiny caddy proot p11-kit haproxy hexdump; do
    command -v "$tool" >/dev/null 2>&1 || [ -x "/usr/sbin/$tool" ] || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    say "missing:$missing"
    install_packages "softhsm2 opensc lego pebble nginx-light openssl wrk apache2-bin gnutls-bin curl unbound nsd ldnsutils \
        iproute2 uacme dehydrated acme-tiny caddy proot p11-kit p11-kit-modules haproxy \
        bsdextrautils" \
        "softhsm opensc p11-kit lego nginx openssl wrk httpd mod_ssl mod_md gnutls-utils curl unbound nsd ldns-utils \
        iproute uacme dehydrated acme-tiny caddy proot haproxy util-linux" \
        "softhsm opensc p11-kit lego nginx openssl wrk httpd gnutls curl unbound nsd ldns dehydrated caddy haproxy"
fi
command -v certutil >/dev/null 2>&1 || install_packages libnss3-tools nss-tools nss     # reads our chains as NSS does
make_venv "$repository/deploy/requirements-test.lock"
cd "$repository"
# Much of the suite waits for processes that it started: one worker more than there are cores.
workers=$(($("$venv/bin/python" -c 'import os; print(min(os.cpu_count() or 1, 7))') + 1))
exec "$venv/bin/python" -m pytest -n "$workers" "$@"
