"""Sets TXT records of challenges in the tests' DNS server: certbot's manual hook and lego's exec provider.

certbot: `dns_hook.py add|clear` with CERTBOT_DOMAIN and CERTBOT_VALIDATION; lego: `present|cleanup NAME. VALUE`.
"""

import json
import os
import sys
import urllib.request

_CALLS = {"add": "add", "present": "add", "clear": "clear", "cleanup": "clear"}


def main() -> None:
    """One control call."""
    action, *rest = sys.argv[1:]
    name, value = (rest[0].rstrip("."), rest[1]) if rest else (
        f"_acme-challenge.{os.environ['CERTBOT_DOMAIN']}", os.environ["CERTBOT_VALIDATION"])
    body: dict[str, object] = {"name": name, "type": "TXT"}
    if _CALLS[action] == "add":
        body["values"] = [value]
    request = urllib.request.Request(f"{os.environ['MOCK_DNS_CONTROL']}/{_CALLS[action]}", method="POST",
                                     data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10):
        return


if __name__ == "__main__":
    main()
