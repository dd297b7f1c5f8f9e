"""What can go wrong with a token. Each message is one line that says what to do; no PIN is ever in it."""


class HsmError(Exception):
    """Root of everything that this package raises on purpose."""


class ModuleUnusableError(HsmError):
    """The PKCS#11 module is missing, or does not load or start."""


class TokenMissingError(HsmError):
    """No token, or more than one, has the label."""


class PinFileError(HsmError):
    """The file with the PIN is missing, unreadable, empty, or open to everybody."""


class PinRefusedError(HsmError):
    """The token refuses the PIN. Never tried again: the next attempt may lock the token."""


class KeyNotFoundError(HsmError):
    """No key, or more than one, has the label; or one half of the pair is missing."""


class KeyUnsuitableError(HsmError):
    """The key is there and may not be used: another public key than expected, or an algorithm we do not sign with."""


class KeyGenerationError(HsmError):
    """The token made no key, or one whose attributes are not those of a CA key; such a key has been destroyed."""


class ForeignKeyError(HsmError):
    """The token holds a key that must not be in reach of this process (a root's, in an online process)."""


class ExportRefusedError(HsmError):
    """A private key stays in its token."""


class WrongThreadError(HsmError):
    """A token is used by the one thread that opened it: modules run without locks, two threads crash the process."""


class TokenInUseError(HsmError):
    """One process has one session on one token; this process has it already, or has closed this one."""


class ForkedError(HsmError):
    """A module that was loaded before a fork is unusable in the child: start the process by spawn or exec."""


class TokenLostError(HsmError):
    """The session or the token went away and did not come back within three tries."""


class TokenFaultError(HsmError):
    """The token answered with an error that trying again does not heal."""
