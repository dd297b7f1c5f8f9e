"""Which keys may be an account's (row J7): the rules are ca.pki's, the spelling of the answer is ACME's."""

import msgspec

from acme_api.protocol import base64url
from acme_api.protocol.jwk import kind_of
from acme_api.protocol.jws import load_key
from acme_api.protocol.problem import bad_public_key
from ca.pki.public_key import PublicKeyError, require_acceptable_account_key, require_acceptable_account_rsa


def require_account_key(jwk_json: str) -> None:
    """Raises badPublicKey unless a canonical JWK is a sound key for a new account or a key change.

    RSA numbers are judged before anything is loaded, so that the answer says what is wrong with them.
    """
    try:
        if kind_of(jwk_json) == "RSA":
            document = msgspec.json.decode(jwk_json)
            modulus, exponent = (int.from_bytes(base64url.decode(document[name]), "big") for name in ("n", "e"))
            require_acceptable_account_rsa(modulus, exponent)
            load_key(jwk_json)
        else:
            require_acceptable_account_key(load_key(jwk_json))
    except PublicKeyError as fault:
        raise bad_public_key(fault.detail) from fault
