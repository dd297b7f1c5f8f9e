"""Sets TXT records of challenges in the tests' DNS server, called as each client calls such a program.

certbot: `dns_hook.py add|clear` with CERTBOT_DOMAIN and CERTBOT_VALIDATION; lego: `present|cleanup NAME. VALUE`;
uacme: `begin|done|failed dns-01 NAME TOKEN VALUE`; dehydrated: `deploy_challenge|clean_challenge NAME TOKEN VALUE`;
mod_md: `setup|teardown NAME [VALUE]`.
"""

import json
import os
import sys
import urllib.request

_CALLS = {"add": "add", "present": "add", "begin": "add", "deploy_challenge": "add", "setup": "add",
          "clear": "clear", "cleanup": "clear", "done": "clear", "failed": "clear", "clean_challenge": "clear",
          "teardown": "clear"}


def main() -> None:
    """One control call."""
    action, *rest = sys.argv[1:]
    if action in ("begin", "done", "failed") and rest[0] != "dns-01":
        sys.exit(1)     # uacme offers one method after the other.
    if action not in _CALLS:
        return          # dehydrated tells of all that it does.
    if action in ("add", "clear"):
        name, value = f"_acme-challenge.{os.environ['CERTBOT_DOMAIN']}", os.environ["CERTBOT_VALIDATION"]
    elif action in ("present", "cleanup"):
        name, value = rest[0].rstrip("."), rest[1]
    elif action in ("begin", "done", "failed"):
        name, value = f"_acme-challenge.{rest[1]}", rest[3]
    elif action in ("setup", "teardown"):
        name, value = f"_acme-challenge.{rest[0]}", rest[-1]
    else:
        name, value = f"_acme-challenge.{rest[0]}", rest[2]
    body: dict[str, object] = {"name": name, "type": "TXT"}
    if _CALLS[action] == "add":
        body["values"] = [value]
    request = urllib.request.Request(f"{os.environ['MOCK_DNS_CONTROL']}/{_CALLS[action]}", method="POST",
                                     data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10):
        return


if __name__ == "__main__":
    main()
