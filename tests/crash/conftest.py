"""Drivers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.crash.drivers import Zygote


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Forks drivers in milliseconds."""
    started = Zygote(tmp_path_factory.mktemp("zygote"))
    yield started
    started.close()
