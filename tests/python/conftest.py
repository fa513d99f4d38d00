"""Fixtures that several files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interpreters import TRIED
from loaded_model import Load, Loaded
from site_of_models import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A repository in the test's folder with a model `other` beside whatever the test adds; closed at the end."""
    made = Site(tmp_path / "models")
    yield made
    made.close()


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Loads a model whose `answers(self, tensors)` has the body that is given; its server is closed at the end."""
    servers = []

    def start(body: str, **options: Any) -> Loaded:
        loaded = Loaded(tmp_path / "models", body, **options)
        servers.append(loaded.server)
        return loaded

    yield start
    for server in servers:
        server.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if tried := config.stash.get(TRIED, []):
        terminalreporter.write_line(f"interpreters tried: {', '.join(tried)}")
