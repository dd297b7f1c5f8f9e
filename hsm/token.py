"""One PKCS#11 token, opened by one thread of one process, with one session that heals itself.

python-pkcs11 calls C_Initialize(NULL) and drops the GIL, so modules run without locks: two threads on SoftHSM give
CKR_GENERAL_ERROR or a crash. Therefore a process has at most one open `Token`, and only the thread that opened it may
use it (`thread.HsmThread` gives asyncio programs such a thread). A lost session is healed by starting the module
again: that alone also notices a token that was removed and put back. A PIN that was refused once is never tried again.
"""

import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import pkcs11
from pkcs11 import Attribute, ObjectClass

from hsm.errors import (
    ForeignKeyError,
    ForkedError,
    HsmError,
    KeyNotFoundError,
    ModuleUnusableError,
    PinFileError,
    PinRefusedError,
    TokenFaultError,
    TokenInUseError,
    TokenLostError,
    TokenMissingError,
    WrongThreadError,
)
from hsm.public_key import spki_of_object

_Result = TypeVar("_Result")
_MAX_HEALING_TRIES = 3
_FIRST_PAUSE_S = 0.1
_PAUSE_FACTOR = 5
_MAX_FIRST_LOOKS = 6
_PAUSE_AFTER_FIRST_LOOK_S = 0.05
_PAUSE_FOR_A_KEY_S = 0.2
_MAX_PIN_BYTES = 255
_OPEN_TO_EVERYBODY = 0o007

# What a removed card, a restarted network HSM or a logout by another application looks like.
_LOST = (
    pkcs11.SessionHandleInvalid, pkcs11.SessionClosed, pkcs11.DeviceRemoved, pkcs11.DeviceError,
    pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised, pkcs11.UserNotLoggedIn, pkcs11.KeyHandleInvalid,
    pkcs11.ObjectHandleInvalid, pkcs11.GeneralError, pkcs11.FunctionFailed, pkcs11.SlotIDInvalid,
)
_PIN_REFUSED = (
    pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked, pkcs11.PinExpired,
    pkcs11.UserPinNotInitialized,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInfo:
    """What a transcript says about the token that signed."""

    module: str
    library: str
    library_version: str
    token_label: str
    manufacturer: str
    model: str
    serial: str
    firmware_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyListing:
    """A key of the token, by (label, id).

    `spki` is None for an algorithm that we do not sign with, and for an EC private key whose public half the token does
    not show (`has_public` is false then).
    """

    label: str
    key_id: bytes
    spki: bytes | None
    has_private: bool
    has_public: bool


class Token:
    """The open token of this process. Made by `Token.open`, in the thread that will use it."""

    _guard: ClassVar[threading.Lock] = threading.Lock()
    _opened: ClassVar["Token | None"] = None
    _loaded_by_pid: ClassVar[int | None] = None

    def __init__(self, *, module: str, token_label: str, pin_file: Path, writable: bool,
                 pause: Callable[[float], None]) -> None:
        self._module = module
        self._token_label = token_label
        self._pin_file = pin_file
        self._writable = writable
        self._pause = pause
        self._thread = threading.get_ident()
        self._pin_refused = False
        self._closed = False
        self._library: Any = None
        self._session: Any = None
        self.generation = 0

    @classmethod
    def open(
        cls,
        *,
        module: str,
        token_label: str,
        pin_file: Path,
        conf: Path | None = None,
        writable: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> "Token":
        """Loads the module, finds the token by its label and logs in with the PIN of the file.

        `conf` goes into SOFTHSM2_CONF first. `writable` is for the ceremony, which generates keys. Raises an HsmError
        with one line that says what to do.
        """
        token = cls(module=module, token_label=token_label, pin_file=pin_file, writable=writable, pause=pause)
        with cls._guard:
            if cls._loaded_by_pid not in (None, os.getpid()):
                raise ForkedError(f"{module} was loaded before this process was forked: start the process by spawn")
            if cls._opened is not None:
                raise TokenInUseError(f"this process has token {cls._opened._token_label!r} open already: one process "
                                      "uses one token at a time, close that one first")
            _require_module(module)
            if conf is not None:
                if not conf.is_file():
                    raise ModuleUnusableError(f"the module's configuration {conf} does not exist: name the right file, "
                                              "or make the token first")
                os.environ["SOFTHSM2_CONF"] = str(conf)
            pin = token._read_pin()
            cls._loaded_by_pid = os.getpid()
            try:
                token._connect_at_start(pin)
            except pkcs11.PKCS11Error as fault:
                token._finalize()
                raise TokenFaultError(f"token {token_label!r} in {module} cannot be opened: {_text(fault)}") from fault
            except HsmError:
                token._finalize()
                raise
            cls._opened = token
        return token

    def close(self) -> None:
        """Logs out and stops the module, so that another token can be opened. Closing twice is harmless."""
        if self._closed:
            return
        self._require_owner()
        try:
            if self._session is not None:
                self._session.close()
        except pkcs11.PKCS11Error:
            pass        # The session is gone already; C_Finalize below ends what is left of it.
        finally:
            self._session = None
            self._closed = True
            self._finalize()
            with Token._guard:
                Token._opened = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> TokenInfo:
        """Module, library and token as they describe themselves."""
        self._require_owner()
        token, library = self._session.token, self._library
        return TokenInfo(
            module=self._module, library=f"{library.manufacturer_id} {library.library_description}".strip(),
            library_version="{}.{}".format(*library.library_version), token_label=token.label,
            manufacturer=token.manufacturer_id, model=token.model,
            serial=token.serial.rstrip(b"\0 ").decode("ascii", "replace"),
            firmware_version="{}.{}".format(*token.firmware_version))

    def within(self, act: Callable[[Any], _Result], *, heal: bool = True) -> _Result:
        """Calls `act(session)`. When the session turns out to be lost it is opened again and `act` called again.

        `act` must be repeatable; with `heal=False` (key generation) a lost session is an error at once.
        """
        self._require_owner()
        pause_s = _FIRST_PAUSE_S
        lost: Exception | None = None
        for attempt in range(1 + (_MAX_HEALING_TRIES if heal else 0)):
            try:
                if attempt:
                    self._pause(pause_s)
                    pause_s *= _PAUSE_FACTOR
                if attempt or self._session is None:
                    self._reconnect()
                return act(self._session)
            except (TokenMissingError, ModuleUnusableError) as fault:
                lost = fault
            except _LOST as fault:
                lost = fault
            except pkcs11.PKCS11Error as fault:
                if not _is_not_initialized(fault):
                    raise TokenFaultError(f"token {self._token_label!r}: {_text(fault)}") from fault
                lost = fault
        tried = f" and did not come back in {_MAX_HEALING_TRIES} tries" if heal else ""
        raise TokenLostError(f"token {self._token_label!r} was lost ({_text(lost)}){tried}: check that the HSM is "
                             "connected and running") from lost

    def read_pin(self) -> str:
        """The PIN, for keys that want it at every signature (CKA_ALWAYS_AUTHENTICATE)."""
        self._require_owner()
        return self._read_pin()

    def list_keys(self) -> list[KeyListing]:
        """Every key pair, and every half of one, that this login can see."""
        found: dict[tuple[str, bytes], KeyListing] = {}

        def look(session: Any) -> None:
            found.clear()
            for kind in (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY):
                for item in list(session.get_objects({Attribute.CLASS: kind})):
                    label, key_id = item[Attribute.LABEL], bytes(item[Attribute.ID])
                    known = found.get((label, key_id))
                    spki = known.spki if known else spki_of_object(item)
                    found[label, key_id] = KeyListing(
                        label=label, key_id=key_id, spki=spki,
                        has_private=kind is ObjectClass.PRIVATE_KEY or (known is not None and known.has_private),
                        has_public=kind is ObjectClass.PUBLIC_KEY or known is not None)

        self.within(look)
        return list(found.values())

    def public_key_spkis(self) -> frozenset[bytes]:
        """SubjectPublicKeyInfo (DER) of every key in the token."""
        return frozenset(key.spki for key in self.list_keys() if key.spki is not None)

    def require_without(self, spkis: Collection[bytes]) -> None:
        """Raises ForeignKeyError when the token holds one of these public keys' private halves (a root's, online).

        Fails closed: a private key whose public half is not shown cannot be told from a root's. Another process may be
        making it just now, so it is looked at again before that is said.
        """
        keys = self.list_keys()
        for _ in range(_MAX_FIRST_LOOKS - 1):
            if all(key.has_public or key.spki is not None for key in keys):
                break
            self._pause(_PAUSE_FOR_A_KEY_S)
            keys = self.list_keys()
        for key in keys:
            if key.spki is None and not key.has_public:
                raise ForeignKeyError(f"token {self._token_label!r} shows private key {key.label!r} without its public "
                                      "half, so it cannot be told whose it is: add the public key object, or move it")
            if key.has_private and key.spki in spkis:
                raise ForeignKeyError(f"token {self._token_label!r} holds the key of a root, {key.label!r}: a root key "
                                      "belongs into an offline token; remove it from this one")

    def find_pair(self, session: Any, label: str) -> tuple[Any, Any]:
        """The private key object with the label and the public one of the same label and id; exactly one of each."""
        private = self._only(session, ObjectClass.PRIVATE_KEY, label, None)
        public = self._only(session, ObjectClass.PUBLIC_KEY, label, bytes(private[Attribute.ID]))
        return private, public

    def _only(self, session: Any, kind: ObjectClass, label: str, key_id: bytes | None) -> Any:
        wanted: dict[Attribute, Any] = {Attribute.CLASS: kind, Attribute.LABEL: label}
        if key_id is not None:
            wanted[Attribute.ID] = key_id
        found = list(session.get_objects(wanted))
        half = "private" if kind is ObjectClass.PRIVATE_KEY else "public"
        if not found:
            raise KeyNotFoundError(f"token {self._token_label!r} has no {half} key labelled {label!r}: it holds "
                                   f"{self._labels(session)}")
        if len(found) > 1:
            raise KeyNotFoundError(f"token {self._token_label!r} has {len(found)} {half} keys labelled {label!r}: one "
                                   "label must name one key, remove or rename the others")
        return found[0]

    @staticmethod
    def _labels(session: Any) -> str:
        labels = sorted({repr(item[Attribute.LABEL])
                         for item in list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}))})
        return ", ".join(labels[:20]) or "no private key at all"

    def _require_owner(self) -> None:
        if Token._loaded_by_pid != os.getpid():
            raise ForkedError("this token was opened before the process was forked: open one after spawn")
        if self._thread != threading.get_ident():
            raise WrongThreadError(f"token {self._token_label!r} was opened by another thread: PKCS#11 modules run "
                                   "without locks, so only that thread may use it (see hsm.thread.HsmThread)")
        if self._closed:
            raise TokenInUseError(f"token {self._token_label!r} is closed: open it again")

    def _connect_at_start(self, pin: str) -> None:
        """As `_connect`, which is called again when the token is not there, or is at fault: SoftHSM overlooks a token,
        or cannot log in, while another process writes to its file, as each login does, and processes start together.
        A PIN that is refused is still tried once only."""
        pause_s = _PAUSE_AFTER_FIRST_LOOK_S
        for _ in range(_MAX_FIRST_LOOKS - 1):
            try:
                return self._connect(pin)
            except (TokenMissingError, pkcs11.GeneralError, pkcs11.FunctionFailed):
                self._finalize()
                self._pause(pause_s)
                pause_s *= 2
        return self._connect(pin)

    def _connect(self, pin: str) -> None:
        try:
            self._library = pkcs11.lib(self._module)
        except pkcs11.PKCS11Error as fault:
            raise ModuleUnusableError(f"the PKCS#11 module {self._module} does not start: {_text(fault)}; is it a "
                                      "PKCS#11 module, and is its configuration in place?") from fault
        token = self._find_token()
        try:
            self._session = token.open(rw=self._writable, user_pin=pin)
        except _PIN_REFUSED as fault:
            self._pin_refused = True
            raise PinRefusedError(f"token {self._token_label!r} refuses the PIN in {self._pin_file} ({_text(fault)}): "
                                  "put the right PIN there; it was tried once only, so that the token is not locked"
                                  ) from fault
        self.generation += 1

    def _find_token(self) -> Any:
        found = []
        others = set()
        for token in self._library.get_tokens():
            if token.label == self._token_label:
                found.append(token)
            elif token.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED:
                others.add(repr(token.label))
        if not found:
            there = ", ".join(sorted(others)) or "none"
            raise TokenMissingError(f"no token labelled {self._token_label!r} in {self._module} (tokens there: "
                                    f"{there}): name the right token, or the module's configuration that holds it")
        if len(found) > 1:
            raise TokenMissingError(f"{len(found)} tokens are labelled {self._token_label!r} in {self._module}: give "
                                    "each its own label")
        return found[0]

    def _reconnect(self) -> None:
        self._session = None
        self._finalize()
        if self._pin_refused:
            raise PinRefusedError(f"token {self._token_label!r} refused the PIN in {self._pin_file} before: not tried "
                                  "again, because that may lock the token")
        self._connect(self._read_pin())

    def _finalize(self) -> None:
        """C_Finalize; the next use of the module starts it anew. It may have been stopped behind our back."""
        if self._library is not None:
            with suppress(pkcs11.PKCS11Error):      # Not initialised any more: what is wanted has happened.
                self._library.finalize()
            self._library = None

    def _read_pin(self) -> str:
        try:
            if self._pin_file.stat().st_mode & _OPEN_TO_EVERYBODY:
                raise PinFileError(f"the PIN file {self._pin_file} is open to every user: chmod 600 it")
            pin = self._pin_file.read_text("utf-8").strip()
        except OSError as fault:
            raise PinFileError(f"the PIN file {self._pin_file} cannot be read ({fault.strerror}): write the PIN of "
                               f"token {self._token_label!r} there, readable by this user alone") from fault
        except UnicodeDecodeError as fault:
            raise PinFileError(f"the PIN file {self._pin_file} is not text: expected the PIN on one line") from fault
        if not pin or "\n" in pin or len(pin.encode()) > _MAX_PIN_BYTES:
            raise PinFileError(f"the PIN file {self._pin_file} must hold the PIN on one line, 1 to {_MAX_PIN_BYTES} "
                               "bytes, and nothing else")
        return pin


def _require_module(module: str) -> None:
    """A bare name is looked for by the dynamic linker; a path must exist."""
    if "/" in module and not Path(module).is_file():
        raise ModuleUnusableError(f"the PKCS#11 module {module} does not exist: install it (SoftHSM: apt install "
                                  "softhsm2, dnf install softhsm, brew install softhsm) or set hsm.module to its path")


def _is_not_initialized(fault: pkcs11.PKCS11Error) -> bool:
    """CKR_CRYPTOKI_NOT_INITIALIZED has no class of its own in python-pkcs11."""
    return "not initialized" in str(fault)


def _text(fault: BaseException | None) -> str:
    """'PinIncorrect' or 'GeneralError: text': the class carries the PKCS#11 return value."""
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
