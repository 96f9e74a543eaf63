"""What the tests of searches share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vitlora.studies.search.holds import Hold, Holds


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    held = Holds(tmp_path / "workers").take()
    yield held
    held.release()
