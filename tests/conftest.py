"""What tests of every layer share: a small job on the procedural backend, and one local Ray cluster."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import abstractvision_batch
from tests.support.emulators import abfs_server, gs_server, s3_server  # noqa: F401  fixtures
from tests.support.jobs import MakeJob
from tests.support.planning import Planner

# Before anything imports them: no telemetry, no network, and no GPU that some machine might have.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A store that is down for good is given up sooner than in life.
os.environ.setdefault("AVBATCH_STORE_PATIENCE_S", "12")
# Else gcsfs asks the emulator over gRPC what kind of bucket it has, for 60 s an operation.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# Images of containers often set it; then each process that a test starts would compile the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow what a sample leaves out, and put long files first: one that comes last keeps a single worker busy."""
    cases: Counter[str] = Counter()
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled and not item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % sampled.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[test] += 1
    on_ray = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: (item.path not in on_ray, item.path.parent.name not in ("clusters", "verbs")))


@pytest.fixture(scope="session", autouse=True)
def state_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs are noted as started in a folder of the tests', and not in that of whoever runs them."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A job spec of 20 requests in 5 shards of 2 batches; keywords replace whole sections."""

    def make(**sections: Any) -> dict[str, Any]:
        return {
            "name": "small",
            "model": "avbatch/procedural",
            "backend": {"kind": "procedural"},
            "prompts": {"source": ["a fox", "a cat", "a dog", "an owl", "a bee"]},
            "params": {"width": 32, "height": 24, "seed": 7},
            "samples_per_prompt": 4,
            "output": {"path": str(tmp_path / "run")},
            "execution": {"batch_size": 2, "shard_size": 4},
            **sections,
        }

    return make


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    """The planner, in a folder of its own."""
    return Planner(tmp_path)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray of two CPUs for the whole session; `run` joins what is initialised."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def copied_model(tmp_path: Path) -> Path:
    """A copy of the embedded model's folder, to be changed."""
    return shutil.copytree(Path(abstractvision_batch.__file__).parent / "models" / "shapes64", tmp_path / "model")
