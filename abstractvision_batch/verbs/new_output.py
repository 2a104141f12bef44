"""`avbatch run --new-run`: where a run goes whose output holds another one.

The other run stays as it is; the new one goes beside it, as `<output.path>-2`, or the next number that is free. Running
the same command again finds the folder that it chose, because that holds the same run by then, and resumes there.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from abstractvision_batch.job.load import LoadedSpec
from abstractvision_batch.plan.build import prompts_digest
from abstractvision_batch.runs.record import RunRecord, read_record
from abstractvision_batch.runs.weights import find_conflict
from abstractvision_batch.verbs.model_check import find_weights
from abstractvision_batch.verbs.start import open_output


def choose_output(loaded: LoadedSpec) -> LoadedSpec:
    """The spec with the first output, by number, that holds no run or this one.

    Raises:
        SpecError: nothing can be written there.
        StorageError: the outputs cannot be read.
    """
    weights = find_weights(loaded)
    path = loaded.spec.output.path.rstrip("/")
    for number in count(1):
        output = loaded.spec.output.model_copy(update={"path": path if number == 1 else f"{path}-{number}"})
        candidate = replace(loaded, spec=loaded.spec.model_copy(update={"output": output}))
        store = open_output(candidate)
        record = read_record(store)
        same = record is not None and record.layout == output.layout and _is_run_of(candidate, record)
        if record is None or (same and (weights is None or find_conflict(store, weights) is None)):
            return candidate
    raise AssertionError("unreachable")


def _is_run_of(loaded: LoadedSpec, record: RunRecord) -> bool:
    loaded = loaded.under(record.fingerprint_version)
    return record.fingerprint == loaded.fingerprint(prompts_digest(loaded))
