"""Style, types and the import graph are tests: one command shows whether a change is fit to land."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("ca", "acme_api", "ocsp", "hsm")
_BIN = Path(sys.executable).parent


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def _sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (_ROOT / package).rglob("*.py"))


def test_ruff_finds_nothing() -> None:
    """The listed rules hold in the whole tree."""
    _run(str(_BIN / "ruff"), "check", "--no-cache", ".")


def test_types_are_strict() -> None:
    """mypy strict passes, tests included."""
    _run(str(_BIN / "mypy"))


def test_import_contracts_hold() -> None:
    """Packages import one way, processes never import each other, and each dependency has its door."""
    _run(str(_BIN / "lint-imports"), "--no-cache")


@pytest.mark.parametrize("package", _PACKAGES)
def test_package_roots_are_maps(package: str) -> None:
    """An `__init__.py` is a docstring without re-exports, which would tie modules into cycles."""
    for path in (_ROOT / package).rglob("__init__.py"):
        body = ast.parse(path.read_text("utf-8")).body
        assert len(body) == 1, path
        assert isinstance(body[0], ast.Expr), path
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), f"{path} does not say what is in it"


def test_asyncpg_and_josepy_stay_behind_their_doors() -> None:
    """SQL is spoken in store modules and in the plumbing alone; josepy in the JWS module alone."""
    doors = {
        "asyncpg": re.compile(r"(^|/)(store|migrate|postgres)\.py$"),
        "josepy": re.compile(r"^acme_api/protocol/jws\w*\.py$"),
        "pkcs11": re.compile(r"^hsm/"),
        "lmdb": re.compile(r"^ocsp/responder/"),
    }
    for path in _sources(*_PACKAGES):
        name = path.relative_to(_ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                       else [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else [])
            for module in modules:
                door = doors.get(module.split(".")[0])
                assert door is None or door.search(name), f"{name} imports {module}"


def test_every_problem_type_is_registered() -> None:
    """No error type outside the IANA registry of ACME is ever sent (RFC 8555 6.7, row P2)."""
    registered = {
        "accountDoesNotExist", "alreadyReplaced", "alreadyRevoked", "badCSR", "badNonce", "badPublicKey",
        "badRevocationReason", "badSignatureAlgorithm", "caa", "compound", "connection", "dns",
        "externalAccountRequired", "incorrectResponse", "invalidContact", "invalidProfile", "malformed",
        "orderNotReady", "rateLimited", "rejectedIdentifier", "serverInternal", "tls", "unauthorized",
        "unsupportedContact", "unsupportedIdentifier", "userActionRequired", "badAttestationStatement",
    }
    for path in _sources(*_PACKAGES):
        for name in re.findall(r"urn:ietf:params:acme:error:(\w+)", path.read_text("utf-8")):
            assert name in registered, f"{path}: {name}"


def test_every_test_states_its_promise() -> None:
    """Each test function has a docstring."""
    for path in _sources("tests"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path.relative_to(_ROOT)}: {node.name}"


def test_lock_files_name_no_index_and_hash_everything() -> None:
    """Every requirement is pinned with a hash, and no package index is named."""
    for path in (_ROOT / "deploy").glob("*.lock"):
        text = path.read_text("utf-8")
        assert "://" not in text, path
        for line in text.splitlines():
            if line and not line.startswith((" ", "#")):
                assert "==" in line, f"{path}: {line}"
                assert line.endswith("\\"), f"{path}: {line}"


def test_migrations_are_numbered_without_gap_or_twin() -> None:
    """The order in which migrations are applied is the order of their numbers, one each."""
    numbers = [int(path.name.partition("_")[0]) for path in sorted((_ROOT / "deploy" / "migrations").glob("*.sql"))]
    assert numbers == list(range(1, len(numbers) + 1))
