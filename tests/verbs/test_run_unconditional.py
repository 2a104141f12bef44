"""Two specs for one output at once, on a store where no put is conditional: the record that stays decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job
from abstractvision_batch.runs.files import RECORD
from abstractvision_batch.storage.objects import ObjectStore
from abstractvision_batch.verbs.start import start_run
from tests.support.faulty_filesystem import Fault, FaultyFileSystem, faulty_store
from tests.support.jobs import MakeJob

PLAN = "plan.parquet"


@pytest.fixture
def other(make_job: MakeJob, tmp_path: Path) -> ObjectStore:
    """What another spec's driver wrote."""
    store, _ = _careless_store()
    start_run(load_job(_other_job(make_job)), store)
    return store


def _careless_store() -> tuple[ObjectStore, FaultyFileSystem]:
    store, filesystem = faulty_store()
    filesystem.honours_condition = False
    return store, filesystem


def _other_job(make_job: MakeJob) -> dict[str, Any]:
    return make_job(params={"width": 32, "height": 24, "seed": 8})


def test_a_driver_whose_record_was_replaced_is_refused(make_job: MakeJob, other: ObjectStore) -> None:
    store, filesystem = _careless_store()
    lost_answer = ConnectionError("while this driver puts its plan, the other puts its record")
    filesystem.faults.append(Fault("put_file", lost_answer, also=lambda: store.put(RECORD, other.read(RECORD))))

    with pytest.raises(SpecError, match=r"holds another run.*params.seed: 8 there, 7 here"):
        start_run(load_job(make_job()), store)

    assert store.read(RECORD) == other.read(RECORD)


def test_the_plan_of_the_refused_driver_is_replaced(make_job: MakeJob, other: ObjectStore) -> None:
    store, _ = _careless_store()
    store.put(PLAN, other.read(PLAN))
    alone, _ = _careless_store()

    record = start_run(load_job(make_job()), store)
    start_run(load_job(make_job()), alone)

    assert record.revisions[0]["conditional_put"] is False
    assert store.read(PLAN) == alone.read(PLAN) != other.read(PLAN)
