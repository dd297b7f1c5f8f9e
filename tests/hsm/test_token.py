"""One token, one thread, one session; faults say what to do; a lost session comes back."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from hsm.errors import (
    ForeignKeyError,
    ModuleUnusableError,
    PinFileError,
    PinRefusedError,
    TokenFaultError,
    TokenInUseError,
    TokenLostError,
    TokenMissingError,
    WrongThreadError,
)
from hsm.generate import KeySpec, destroy_key, generate_key
from hsm.key import private_key, sign_many
from hsm.token import Token
from tests.fixtures_hsm import SoftHsm, make_softhsm

# python-pkcs11 ends a search of a lost session once more when the search is collected.
_SEARCH_OF_LOST_SESSION = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def _run_python(text: str, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", textwrap.dedent(text), *args], capture_output=True, text=True,
                          check=False, timeout=60)


def _open(softhsm: SoftHsm, pauses: list[float] | None = None, changed: Mapping[str, object] = {}) -> Token:
    arguments: dict[str, object] = {"module": softhsm.module, "conf": softhsm.conf, "pin_file": softhsm.pin_file,
                                    "token_label": softhsm.token_label}
    return Token.open(**(arguments | dict(changed)), pause=(pauses if pauses is not None else []).append)  # type: ignore[arg-type]


def test_a_second_thread_is_refused(softhsm_token: SoftHsm) -> None:
    """A call from another thread raises, instead of crashing the process inside the module."""
    raised: list[BaseException] = []
    with softhsm_token.open() as token:
        key = private_key(token, softhsm_token.ec_label)

        def sign_elsewhere() -> None:
            for call in (lambda: sign_many(key, [b"x"]), token.list_keys, token.close):
                try:
                    call()
                except WrongThreadError as fault:
                    raised.append(fault)

        thread = threading.Thread(target=sign_elsewhere)
        thread.start()
        thread.join()
        assert len(sign_many(key, [b"x"])) == 1
    assert len(raised) == 3


def test_one_token_at_a_time(softhsm_token: SoftHsm) -> None:
    """A second open is refused until the first is closed; a closed token is not used again, its key neither."""
    with softhsm_token.open() as token:
        key = private_key(token, softhsm_token.ec_label)
        with pytest.raises(TokenInUseError, match="open already"):
            softhsm_token.open()
    with pytest.raises(TokenInUseError, match="is closed"):
        sign_many(key, [b"x"])
    softhsm_token.open().close()


def test_a_fork_is_refused(softhsm_token: SoftHsm) -> None:
    """In a forked child both the inherited token and a new one are refused; the parent's goes on, and exits cleanly."""
    done = _run_python("""
        import os, sys
        from pathlib import Path
        from hsm.errors import ForkedError
        from hsm.key import private_key, sign_many
        from hsm.token import Token
        arguments = dict(module=sys.argv[1], conf=Path(sys.argv[2]), token_label=sys.argv[3],
                         pin_file=Path(sys.argv[4]))
        key = private_key(Token.open(**arguments), sys.argv[5])
        if os.fork() == 0:
            refused = 0
            for call in (lambda: sign_many(key, [b"x"]), lambda: Token.open(**arguments)):
                try:
                    call()
                except ForkedError:
                    refused += 1
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 2
        sign_many(key, [b"x"])
        print("signed")
        """, softhsm_token.module, str(softhsm_token.conf), softhsm_token.token_label, str(softhsm_token.pin_file),
        softhsm_token.ec_label)
    assert (done.returncode, done.stdout) == (0, "signed\n"), done.stderr


def test_two_tokens_one_after_the_other(softhsm_token: SoftHsm, tmp_path: Path) -> None:
    """After a close another configuration of the module can be opened; each shows its own keys, ten times over."""
    other = make_softhsm(tmp_path / "other", "Other")
    for _ in range(10):
        with softhsm_token.open() as token:
            assert len(token.public_key_spkis()) == 2
            assert token.info.token_label == "Chancery Tests"
        with other.open() as token:
            assert not token.public_key_spkis()
            assert token.info.token_label == "Other"


@_SEARCH_OF_LOST_SESSION
def test_a_lost_session_comes_back(softhsm_token: SoftHsm) -> None:
    """When the module is restarted behind our back, signing goes on with the same key, and with nothing lost."""
    pauses: list[float] = []
    with _open(softhsm_token, pauses) as token:
        key = private_key(token, softhsm_token.ec_label)
        pkcs11.lib(softhsm_token.module).reinitialize()     # every session and login is gone
        assert len(sign_many(key, [b"x"] * 3)) == 3
        pkcs11.lib(softhsm_token.module).finalize()         # even the module is stopped
        assert len(sign_many(key, [b"x"] * 3)) == 3
        assert token.generation == 3
    assert pauses == [0.1, 0.1]


@_SEARCH_OF_LOST_SESSION
def test_a_token_that_stays_away_is_an_error_and_may_come_back_later(tmp_path: Path) -> None:
    """Three tries with growing pauses, then one clear line; a later call tries again and works."""
    softhsm = make_softhsm(tmp_path / "hsm", "Removed")
    pauses: list[float] = []
    with _open(softhsm, pauses) as token:
        (tmp_path / "hsm" / "tokens").rename(tmp_path / "away")
        (tmp_path / "hsm" / "tokens").mkdir()
        pkcs11.lib(softhsm.module).reinitialize()
        with pytest.raises(TokenLostError, match=r"'Removed' was lost .* did not come back in 3 tries: check that"):
            token.list_keys()
        assert pauses == [0.1, 0.5, 2.5]
        (tmp_path / "hsm" / "tokens").rmdir()
        (tmp_path / "away").rename(tmp_path / "hsm" / "tokens")
        assert token.list_keys() == []


def test_other_faults_of_the_token_are_not_tried_again(softhsm_token: SoftHsm) -> None:
    """What opening again cannot heal is one clear line at once, and the session stays usable."""
    pauses: list[float] = []
    calls: list[object] = []

    def act(session: object) -> None:
        calls.append(session)
        raise pkcs11.MechanismInvalid

    with _open(softhsm_token, pauses) as token:
        with pytest.raises(TokenFaultError, match="token 'Chancery Tests': MechanismInvalid"):
            token.within(act)
        assert (len(calls), pauses) == (1, [])
        assert len(token.list_keys()) == 2


@_SEARCH_OF_LOST_SESSION
def test_a_wrong_pin_is_tried_once(tmp_path: Path) -> None:
    """A refused PIN is one clear line, at the start and when a session is opened again, and is never tried twice."""
    softhsm = make_softhsm(tmp_path / "hsm", "Locked")
    pauses: list[float] = []
    with _open(softhsm, pauses) as token:
        softhsm.pin_file.write_text("not the PIN\n")
        pkcs11.lib(softhsm.module).reinitialize()
        with pytest.raises(PinRefusedError, match=r"refuses the PIN in .*/pin .*: put the right PIN there"):
            token.list_keys()
        with pytest.raises(PinRefusedError, match=r"refused the PIN .* before: not tried again"):
            token.list_keys()
    assert pauses == [0.1]
    with pytest.raises(PinRefusedError) as caught:
        softhsm.open()
    assert "not the PIN" not in str(caught.value)


@pytest.mark.parametrize(("changed", "error", "text"), [
    ({"module": "/nowhere/libsofthsm2.so"}, ModuleUnusableError,
     "the PKCS#11 module /nowhere/libsofthsm2.so does not exist: install it"),
    ({"module": "/etc/passwd"}, ModuleUnusableError, "the PKCS#11 module /etc/passwd does not start"),
    ({"conf": Path("/nowhere/softhsm2.conf")}, ModuleUnusableError,
     "configuration /nowhere/softhsm2.conf does not exist"),
    ({"token_label": "Nobody"}, TokenMissingError, "no token labelled 'Nobody'"),
    ({"pin_file": Path("/nowhere/pin")}, PinFileError, "the PIN file /nowhere/pin cannot be read"),
    ({"pin_file": Path("/etc/passwd")}, PinFileError, "the PIN file /etc/passwd is open to every user: chmod 600 it"),
])
def test_faults_at_the_start_are_one_clear_line(
    softhsm_token: SoftHsm, changed: dict[str, object], error: type[Exception], text: str
) -> None:
    """Each missing or wrong thing is named with what to do; nothing stays open, so that the next open works."""
    with pytest.raises(error) as caught:
        _open(softhsm_token, changed=changed)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    softhsm_token.open().close()


@pytest.mark.parametrize("content", [b"", b"\n", b"1234\n5678\n", b"\xff\xfe", b"7" * 256])
def test_a_pin_file_holds_one_pin(softhsm_token: SoftHsm, tmp_path: Path, content: bytes) -> None:
    """An empty file, two lines, and what is not text are refused before the token sees any of it."""
    pin_file = tmp_path / "pin"
    pin_file.write_bytes(content)
    pin_file.chmod(0o600)
    with pytest.raises(PinFileError, match="PIN on one line"):
        _open(softhsm_token, changed={"pin_file": pin_file})


def test_two_tokens_of_one_label_are_refused(tmp_path: Path) -> None:
    """Which of two tokens is meant is never guessed."""
    softhsm = make_softhsm(tmp_path / "hsm", "Twin")
    subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "Twin", "--pin", "1234", "--so-pin", "1234"],
                   check=True, capture_output=True, env={**os.environ, "SOFTHSM2_CONF": str(softhsm.conf)})
    with pytest.raises(TokenMissingError, match="2 tokens are labelled 'Twin'"):
        softhsm.open()


def test_a_roots_key_in_reach_is_refused(softhsm_token: SoftHsm) -> None:
    """A process can refuse a token that holds one of the given public keys, and passes one that holds none."""
    with softhsm_token.open() as token:
        spki = private_key(token, softhsm_token.rsa_label).spki
        token.require_without([b"another key"])
        with pytest.raises(ForeignKeyError, match="holds the key of a root, 'Test R1'"):
            token.require_without([b"another key", spki])


def test_a_key_that_is_being_made_is_looked_at_again(tmp_path: Path) -> None:
    """Another process's key shows its private half alone for a moment: no reason to refuse the token. A half that stays
    is one, because nobody can tell whose it is."""
    softhsm, looks = make_softhsm(tmp_path / "hsm", "halves"), list[float]()

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 9:
            destroy_key(token, label="new", key_id=b"1")

    token = Token.open(module=softhsm.module, conf=softhsm.conf, token_label=softhsm.token_label,
                       pin_file=softhsm.pin_file, writable=True, pause=pause)
    with token:
        generate_key(token, label="new", key_id=b"1", spec=KeySpec.P_256)
        token.within(lambda session: next(iter(session.get_objects({
            Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: "new"}))).destroy())
        with pytest.raises(ForeignKeyError, match="private key 'new' without its public half"):
            token.require_without([])
        assert 0.5 < sum(looks) < 2
        token.require_without([])
        assert len(looks) == 9


def test_a_process_ends_cleanly_with_its_token_open(softhsm_token: SoftHsm) -> None:
    """No crash at exit, whether the token was closed or not, in the main thread or in another."""
    for mode in ("open", "closed", "thread"):
        done = _run_python("""
            import sys, threading
            from pathlib import Path
            from hsm.key import private_key, sign_many
            from hsm.token import Token
            kept = []
            def use():
                token = Token.open(module=sys.argv[1], conf=Path(sys.argv[2]), token_label=sys.argv[3],
                                   pin_file=Path(sys.argv[4]))
                sign_many(private_key(token, sys.argv[5]), [b"x"])
                kept.append(token)
                if sys.argv[6] == "closed":
                    token.close()
            if sys.argv[6] == "thread":
                thread = threading.Thread(target=use)
                thread.start()
                thread.join()
            else:
                use()
            """, softhsm_token.module, str(softhsm_token.conf), softhsm_token.token_label, str(softhsm_token.pin_file),
            softhsm_token.ec_label, mode)
        assert (done.returncode, done.stderr) == (0, ""), mode


def test_processes_that_start_together_all_find_the_token(softhsm_token: SoftHsm) -> None:
    """SoftHSM overlooks a token to which another process logs in at that moment: it is looked for again."""
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from hsm.token import Token
        module, conf, label, pin = sys.argv[1:]
        for _ in range(40):
            Token.open(module=module, conf=Path(conf), token_label=label, pin_file=Path(pin)).close()
    """)
    command = [sys.executable, "-c", program, softhsm_token.module, str(softhsm_token.conf), softhsm_token.token_label,
               str(softhsm_token.pin_file)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said


def test_a_token_that_is_not_there_is_looked_for_some_times(softhsm_token: SoftHsm) -> None:
    """Growing pauses, a second and a half together, then the clear line."""
    pauses: list[float] = []
    with pytest.raises(TokenMissingError, match="no token labelled 'other'"):
        _open(softhsm_token, pauses, {"token_label": "other"})
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8]
