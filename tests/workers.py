"""Which tests run in one worker, in order, when pytest-xdist spreads the suite over several processes.

Every test is handed out by itself, but those of a group together: they share a running demo, which is dear to start, or
a port, or what they do to a server would disturb others.
"""

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.scheduler.protocol import Scheduling

# Acceptance tests share one demo, but for these: None is a test that starts what it needs by itself.
_OTHERS: dict[str, str | None] = {
    "tests/acceptance/test_certbot_extensions.py": "two demos",
    "tests/acceptance/test_client_pages.py": "two demos",
    "tests/acceptance/test_web_servers.py": "two demos",
    "tests/acceptance/test_faults.py": None,
    "tests/acceptance/test_hijack.py": "an internet",
    "tests/acceptance/test_kill.py": "a demo whose processes are killed",
    "tests/acceptance/test_ocsp_cache.py": None,
    "tests/acceptance/test_ocsp_clients.py": None,
    "tests/acceptance/test_public.py": "an internet",
}


def group_of(nodeid: str) -> str:
    """The group of a test, which is the test itself for most."""
    path = nodeid.partition("::")[0]
    return (_OTHERS.get(path, "a demo") if path.startswith("tests/acceptance/") else None) or nodeid


class _Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups whole and the largest first, then single tests in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    """How the suite is spread."""
    return _Groups(config, log)
