"""Fixtures shared by all tests are plugins, one a server."""

import importlib.util
import shutil
import tempfile
from pathlib import Path

import pytest

_PLUGINS = ("tests.fixtures_postgres", "tests.fixtures_hsm", "tests.fixtures_dns")
pytest_plugins = [name for name in _PLUGINS if importlib.util.find_spec(name)]


def pytest_configure(config: pytest.Config) -> None:
    """A directory of this run's own: another run would close the shared one to the database server's user."""
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="chancery-tests-")
        config.add_cleanup(lambda: shutil.rmtree(Path(config.option.basetemp), ignore_errors=True))
