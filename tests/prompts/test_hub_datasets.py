"""Hugging Face data sets as prompts, with the library itself: folders on the disk, and a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from abstractvision_batch.errors import OptionalDependencyMissingError
from tests.support.dataset_hub import COMMIT, serve_dataset
from tests.support.planning import Planner

ROWS = {"prompt": ["a fox", "a cat"], "n": [1, 2]}
CSV = b"prompt,n\na fox,1\na cat,2\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_what_save_to_disk_wrote_is_read(planner: Planner) -> None:
    Dataset.from_dict(ROWS).save_to_disk(planner.folder / "one")
    DatasetDict({"train": Dataset.from_dict(ROWS), "test": Dataset.from_dict(ROWS).select([1])}).save_to_disk(
        planner.folder / "several"
    )

    assert planner.build({"dataset": "one"}).column("prompt") == ["a fox", "a cat"]
    plan = planner.build({"dataset": "several", "split": "test"})
    assert (plan.column("prompt"), plan.column("n")) == (["a cat"], [2])
    assert plan.summary.prompts_origins == ({"dataset": "several", "config": None, "split": "test", "revision": None},)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_data_files_is_read_as_the_hub_would(planner: Planner, streaming: bool) -> None:
    planner.write("set/data/train-00000.csv", CSV)
    planner.write("set/data/test-00000.csv", b"prompt,n\nan owl,3\n")

    plan = planner.build({"dataset": "set", "split": "train", "streaming": streaming})

    assert (plan.column("prompt"), plan.column("n")) == (["a fox", "a cat"], [1, 2])


def test_a_part_of_a_split_and_a_configuration_are_chosen(planner: Planner) -> None:
    planner.write(
        "set/README.md",
        "---\nconfigs:\n- config_name: en\n  data_files: en.csv\n- config_name: de\n  data_files: de.csv\n---\n",
    )
    planner.write("set/en.csv", CSV)
    planner.write("set/de.csv", "prompt,n\nein Fuchs,1\n")

    assert planner.build({"dataset": "set", "config": "de"}).column("prompt") == ["ein Fuchs"]
    assert planner.build({"dataset": "set", "config": "en", "split": "train[:1]"}).column("prompt") == ["a fox"]
    (problem,) = planner.problems({"dataset": "set"})
    assert problem.startswith("<spec>: prompts.source.dataset: set: ") and "en" in problem and "de" in problem


def test_labels_are_their_names_and_media_are_left_out(planner: Planner) -> None:
    features = Features(
        {"prompt": Value("string"), "kind": ClassLabel(names=["animal", "thing"]), "photo": datasets.Image()}
    )
    rows = {"prompt": ["a fox"], "kind": [0], "photo": [Image.new("RGB", (4, 4))]}
    Dataset.from_dict(rows, features=features).save_to_disk(planner.folder / "set")

    plan = planner.build({"dataset": "set"}, prompts={"template": "{{ prompt }}, {{ kind }}"})

    assert plan.column("prompt") == ["a fox, animal"]
    assert "photo" not in plan.schema.names
    assert plan.summary.notes == ("set: columns left out, since they hold media: photo",)
    (problem,) = planner.problems({"dataset": "set"}, task="image_to_image", prompts={"fields": {"image": "photo"}})
    assert "column 'photo' holds pictures inside the data set" in problem


def test_the_same_rows_of_a_folder_and_of_what_save_to_disk_wrote_are_one_prompt_dataset(planner: Planner) -> None:
    Dataset.from_dict(ROWS).save_to_disk(planner.folder / "one")
    planner.write("two/train.csv", CSV)

    plans = [planner.build({"dataset": name}) for name in ("one", "two")]

    assert len({plan.summary.prompts_digest for plan in plans}) == 1


def test_streaming_reads_no_more_than_the_limit(planner: Planner) -> None:
    planner.write("set/train-00001.parquet", b"no Parquet file")
    pq.write_table(pa.table({"prompt": ["a fox"] * 5}), planner.folder / "set" / "train-00000.parquet")

    assert len(planner.build({"dataset": "set", "streaming": True}, prompts={"limit": 3}).rows) == 3


def test_what_is_wrong_with_a_data_set_is_one_line(planner: Planner) -> None:
    planner.write("set/data/train-00000.csv", CSV)
    planner.write("set/data/test-00000.csv", CSV)
    planner.write("empty/notes.xyz", "x")
    Dataset.from_dict(ROWS).save_to_disk(planner.folder / "saved")

    for source, said in (
        ({"dataset": "none"}, "source.dataset: none: no such folder (looked for "),
        ({"dataset": "s3://b/x"}, "s3://b/x: neither hf://datasets/owner/name nor a folder"),
        ({"dataset": "set"}, "source.split: the data set has several: train, test (name one)"),
        ({"dataset": "set", "split": "dev"}, "source.dataset: set: Unknown split"),
        ({"dataset": "set", "revision": "v1"}, "source.revision: a folder has no revisions"),
        ({"dataset": "empty"}, "source.dataset: empty: "),
        ({"dataset": "saved", "split": "dev"}, "source.split: dev: the folder has no splits"),
        ({"dataset": "saved", "config": "x"}, "source.config: what save_to_disk wrote has no configurations"),
    ):
        (problem,) = planner.problems(source)
        assert said in problem, problem


def test_without_the_library_the_command_that_installs_it_is_named(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(OptionalDependencyMissingError, match=r'pip install "abstractvision_batch\[datasets\]"'):
        planner.build({"dataset": "hf://datasets/owner/name"})


def hub_plan(address: str, folder: Path, source: Any) -> subprocess.CompletedProcess[str]:
    """Plan in a process of its own: the library reads its settings when it is imported."""
    spec = {
        "name": "job", "model": "avbatch/procedural", "backend": {"kind": "procedural"},
        "prompts": {"source": source}, "output": {"path": str(folder / "run")},
    }  # fmt: skip
    (folder / "spec.yaml").write_text(json.dumps(spec))
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-m", "abstractvision_batch", "run", str(folder / "spec.yaml")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "source",
    [
        "hf://datasets/owner/name",
        pytest.param({"dataset": "hf://datasets/owner/name", "streaming": True}, marks=pytest.mark.slow),
    ],
)
def test_a_data_set_of_the_hub_is_read_and_its_commit_recorded(tmp_path: Path, source: Any) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(ROWS), sink)
    files = {"data/train-00000-of-00001.parquet": sink.getvalue().to_pybytes()}
    with serve_dataset("owner/name", files) as (address, _):
        done = hub_plan(address, tmp_path, source)

    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert (plan["prompts"], plan["prompts_origins"][0]["revision"]) == (2, COMMIT)
