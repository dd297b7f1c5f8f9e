"""Fixtures shared by all tests are plugins, one a server."""

import importlib.util

_PLUGINS = ("tests.fixtures_postgres", "tests.fixtures_hsm", "tests.fixtures_dns")
pytest_plugins = [name for name in _PLUGINS if importlib.util.find_spec(name)]
