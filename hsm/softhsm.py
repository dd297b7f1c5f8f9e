"""SoftHSM 2, the module of demos, tests and private CAs: where it is installed, and a new token in a directory."""

import os
import pty
import select
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from hsm.errors import ModuleUnusableError, TokenFaultError

_PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",                      # Debian, Ubuntu
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",                     # Fedora, RHEL
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",                       # Arch, Alpine
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",             # macOS, brew on Apple silicon and on Intel
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
_TOOL = "softhsm2-util"
_PATIENCE_S = 20.0
_PROMPT = b"PIN: "
_CONF = """\
directories.tokendir = {tokens}
objectstore.backend = file
log.level = ERROR
slots.removable = false
slots.mechanisms = ALL
library.reset_on_fork = false
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftHsmToken:
    """What `Token.open` needs to know."""

    conf: Path
    label: str
    pin_file: Path


def default_module(explicit: str = "") -> str:
    """The path given, or the first SoftHSM that is installed. Raises ModuleUnusableError with what to install."""
    if explicit:
        if "/" in explicit and not Path(explicit).is_file():
            raise ModuleUnusableError(f"the PKCS#11 module {explicit} does not exist")
        return explicit
    for place in _PLACES:
        if Path(place).is_file():
            return place
    raise ModuleUnusableError("SoftHSM is not installed: apt install softhsm2, dnf install softhsm or brew install "
                              f"softhsm (looked for {', '.join(_PLACES)})")


def initialise_softhsm_token(directory: Path, label: str, pin: str, so_pin: str | None = None) -> SoftHsmToken:
    """A new token in `directory`: `tokens/`, `softhsm2.conf`, and the files `pin` and `so-pin`, readable by this user.

    The PINs go to softhsm2-util through a terminal of its own, so they are in no argument list. Raises TokenFaultError
    when the directory holds a token already, or the tool fails; ModuleUnusableError when it is not installed.
    """
    if shutil.which(_TOOL) is None:
        raise ModuleUnusableError(f"{_TOOL} is not installed: apt install softhsm2, dnf install softhsm or brew "
                                  "install softhsm")
    tokens, conf = directory / "tokens", directory / "softhsm2.conf"
    if conf.exists():
        raise TokenFaultError(f"{directory} holds a token already: it is never made again over the old one")
    for place in (directory, tokens):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
    so_pin = pin if so_pin is None else so_pin
    _write_private(directory / "pin", pin + "\n")
    _write_private(directory / "so-pin", so_pin + "\n")
    _write_private(conf, _CONF.format(tokens=tokens.resolve()))
    _run_tool(conf, label, [so_pin, so_pin, pin, pin])
    return SoftHsmToken(conf=conf, label=label, pin_file=directory / "pin")


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _run_tool(conf: Path, label: str, answers: list[str]) -> None:
    """Runs softhsm2-util on a pseudo-terminal, because it asks for PINs nowhere else, and answers its prompts."""
    controller, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [_TOOL, "--init-token", "--free", "--label", label], stdin=terminal, stdout=terminal, stderr=terminal,
            env={**os.environ, "SOFTHSM2_CONF": str(conf)}, start_new_session=True)
        os.close(terminal)
        said = _converse(controller, process, answers)
        code = process.wait(timeout=_PATIENCE_S)
    finally:
        os.close(controller)
    if code:
        raise TokenFaultError(f"{_TOOL} could not make token {label!r} in {conf.parent}: {said}")


def _converse(controller: int, process: "subprocess.Popen[bytes]", answers: list[str]) -> str:
    """Answers each prompt ('...enter ... PIN: ') in turn; returns the last line that was said without a prompt."""
    said = b""
    answered = 0
    give_up_at = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up_at:
        if not select.select([controller], [], [], 0.1)[0]:
            if process.poll() is not None:
                break
            continue
        try:
            chunk = os.read(controller, 4096)
        except OSError:         # Linux: the other end of the terminal is closed.
            break
        if not chunk:           # The same on macOS.
            break
        said += chunk
        for answer in answers[answered:said.count(_PROMPT)]:
            os.write(controller, answer.encode() + b"\n")
            answered += 1
        if said.count(_PROMPT) > len(answers):      # It did not like an answer, and asks again.
            process.kill()
            break
    else:
        process.kill()
    lines = [line.strip() for line in said.split(b"\n") if _PROMPT not in line]
    return next((line.decode("utf-8", "replace") for line in reversed(lines) if line), "it said nothing")
