"""Fixtures shared by all tests are plugins, one a server.

`tests/run.sh` runs the suite in several workers (pytest-xdist): a session fixture is one server a worker, and
`tests/workers.py` says which tests run in one worker, in order.
"""

import importlib.util
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_PLUGINS = ("tests.fixtures_postgres", "tests.fixtures_hsm", "tests.fixtures_dns", "tests.workers")
pytest_plugins = [name for name in _PLUGINS if importlib.util.find_spec(name)]

# Properties are about values: how long an example takes on a busy machine proves nothing.
settings.register_profile("chancery", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chancery")


def pytest_configure(config: pytest.Config) -> None:
    """A directory of this run's own: another run would close the shared one to the database server's user."""
    if config.option.basetemp is None:
        config.option.basetemp = tempfile.mkdtemp(prefix="chancery-tests-")
        config.add_cleanup(lambda: shutil.rmtree(Path(config.option.basetemp), ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: not (item.path.name == "test_source.py" or item.path.parent.name == "acceptance"))
