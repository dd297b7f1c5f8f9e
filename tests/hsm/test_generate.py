"""A generated key is what a CA key must be, or it does not exist."""

import os
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute

from hsm import generate
from hsm.errors import KeyGenerationError, KeyNotFoundError
from hsm.generate import PRIVATE_TEMPLATE, KeySpec, destroy_key, generate_key
from hsm.key import private_key, sign_many
from tests.fixtures_hsm import SoftHsm, make_softhsm


@pytest.fixture(scope="module")
def empty_token(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    """A token of this module's own."""
    return make_softhsm(tmp_path_factory.mktemp("generate"), "Generate")


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.P_256, KeySpec.P_384])
def test_attributes_of_a_new_key(empty_token: SoftHsm, spec: KeySpec) -> None:
    """Sensitive from birth, never to leave, made in the token, signs and nothing else; one id for both halves."""
    key_id = os.urandom(16)
    with empty_token.open(writable=True) as token:
        key = generate_key(token, label=spec.value, key_id=key_id, spec=spec)
        private, public = token.within(lambda session: token.find_pair(session, spec.value))
        for name in ("TOKEN", "PRIVATE", "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL", "SIGN"):
            assert private[Attribute[name]] is True, name
        for name in ("EXTRACTABLE", "DECRYPT", "UNWRAP", "DERIVE", "MODIFIABLE", "COPYABLE", "SIGN_RECOVER"):
            assert private[Attribute[name]] is False, name
        assert private[Attribute.ID] == public[Attribute.ID] == key_id
        assert public[Attribute.VERIFY] is True
        assert public[Attribute.MODIFIABLE] is False
        assert key.key_size == spec.bits
        [listed] = [found for found in token.list_keys() if found.label == spec.value]
        assert (listed.spki, listed.key_id, listed.has_private, listed.has_public) == (key.spki, key_id, True, True)


@pytest.mark.parametrize(("attribute", "value"), [
    (Attribute.EXTRACTABLE, True), (Attribute.SENSITIVE, False), (Attribute.DERIVE, True), (Attribute.MODIFIABLE, True),
])
def test_a_key_with_other_attributes_is_destroyed(empty_token: SoftHsm, attribute: Attribute, value: bool) -> None:
    """When the token makes something weaker, the error says what, and no half of the key remains."""
    template = {**PRIVATE_TEMPLATE, attribute: value}
    with empty_token.open(writable=True) as token:
        before = token.list_keys()
        with pytest.raises(KeyGenerationError, match=f"CKA_{attribute.name} is {value}.*destroyed"):
            generate_key(token, label="weak", key_id=b"weak", spec=KeySpec.P_256, private_template=template)
        assert token.list_keys() == before


@pytest.mark.parametrize("unknown", [
    (Attribute.COPYABLE,), (Attribute.SIGN_RECOVER,), (Attribute.COPYABLE, Attribute.SIGN_RECOVER)],
    ids=["copyable", "sign-recover", "both"])
def test_a_module_that_knows_less(
    empty_token: SoftHsm, monkeypatch: pytest.MonkeyPatch, unknown: tuple[Attribute, ...]
) -> None:
    """What it does not know, and no key of it has, is not asked for, and nothing else is left out: opencryptoki knows
    no COPYABLE, and lets a key recover messages unless it is told not to."""
    once = generate._generate_once
    asked: list[set[Attribute]] = []

    def picky(session: object, label: str, key_id: bytes, spec: KeySpec, template: dict[Attribute, object]
              ) -> tuple[object, object]:
        if any(attribute in template for attribute in unknown):
            raise pkcs11.AttributeTypeInvalid
        asked.append(set(template))
        return once(session, label, key_id, spec, {**template, **dict.fromkeys(unknown, False)})

    monkeypatch.setattr(generate, "_generate_once", picky)
    label = "-".join(attribute.name for attribute in unknown)
    with empty_token.open(writable=True) as token:
        generate_key(token, label=label, key_id=label.encode(), spec=KeySpec.P_256)
    assert asked == [set(PRIVATE_TEMPLATE) - set(unknown)]


def test_a_key_that_wants_the_pin_each_time(empty_token: SoftHsm) -> None:
    """CKA_ALWAYS_AUTHENTICATE, as a root's key may have it: the PIN is given before each signature."""
    template = {**PRIVATE_TEMPLATE, Attribute.ALWAYS_AUTHENTICATE: True}
    with empty_token.open(writable=True) as token:
        key = generate_key(token, label="careful", key_id=b"careful", spec=KeySpec.P_256, private_template=template)
        assert len(sign_many(key, [b"one", b"two"])) == 2
        assert len(sign_many(key, [b"three"])) == 1


def test_a_label_is_used_once(empty_token: SoftHsm) -> None:
    """A key is never made over another; one that was made in vain can be destroyed, and only that one."""
    with empty_token.open(writable=True) as token:
        generate_key(token, label="once", key_id=b"1", spec=KeySpec.P_256)
        with pytest.raises(KeyGenerationError, match="has a key labelled 'once' already"):
            generate_key(token, label="once", key_id=b"2", spec=KeySpec.P_256)
        assert destroy_key(token, label="once", key_id=b"2") == 0
        assert destroy_key(token, label="once", key_id=b"1") == 2
        with pytest.raises(KeyNotFoundError):
            private_key(token, "once")


def test_two_keys_of_one_label_are_refused(tmp_path: Path) -> None:
    """A label that names two keys (made by another program) is an error, never a guess."""
    softhsm = make_softhsm(tmp_path / "hsm", "Doubled")
    with softhsm.open(writable=True) as token:
        generate_key(token, label="first", key_id=b"1", spec=KeySpec.P_256)

        def make_twin(session: object) -> None:
            from pkcs11 import KeyType
            from pkcs11.util.ec import encode_named_curve_parameters

            for key_id in (b"2", b"3"):
                session.create_domain_parameters(  # type: ignore[attr-defined]
                    KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True,
                ).generate_keypair(id=key_id, label="twin", store=True)

        token.within(make_twin)
        with pytest.raises(KeyNotFoundError, match="2 private keys labelled 'twin'"):
            private_key(token, "twin")
