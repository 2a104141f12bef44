"""stable-diffusion.cpp under the contract of every backend, in each of its modes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from abstractvision_batch.backends import StableDiffusionCppVisionBackend
from abstractvision_batch.backends.base_backend import VisionBackend
from tests.backends.test_contract import BackendContract
from tests.support.sdcpp_models import config_for

pytestmark = pytest.mark.sdcpp


def make_backend(mode: str, models: Path) -> Iterator[VisionBackend]:
    with StableDiffusionCppVisionBackend(config_for(mode, models)) as backend:
        yield backend


@pytest.mark.slow
class TestSdCliContract(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, sdcpp_models: Path) -> Iterator[VisionBackend]:
        yield from make_backend("cli", sdcpp_models)


class TestSdServerContract(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, sdcpp_models: Path) -> Iterator[VisionBackend]:
        yield from make_backend("server", sdcpp_models)


@pytest.mark.slow
class TestPythonPackageContract(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, sdcpp_models: Path) -> Iterator[VisionBackend]:
        yield from make_backend("python", sdcpp_models)
