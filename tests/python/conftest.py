"""Fixtures that several files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from site_of_models import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A repository in the test's folder with a model `other` beside whatever the test adds; closed at the end."""
    made = Site(tmp_path / "models")
    yield made
    made.close()
