"""What other programs read of each layout, offline: Hugging Face `datasets`, WebDataset and its indexed reader."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.media.images import decode_image, pixel_sha256
from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run

datasets = pytest.importorskip("datasets")

LAYOUTS = ("files", "webdataset", "parquet")
LATE = "späte Füchse 狐"
#: A prompt per column value that is easily lost: none at first, then text beyond ASCII; a fraction.
PROMPTS: list[dict[str, Any]] = [
    {"prompt": f"picture {number}", "weight": number / 3, "note": LATE if number > 5 else None} for number in range(8)
]


def job(layout: str, path: Path, **sections: Any) -> dict[str, Any]:
    return {
        "name": "readers",
        "model": "avbatch/procedural",
        "backend": {"kind": "procedural", "fail_when": "picture 3"},
        "prompts": {"source": PROMPTS},
        "params": {"width": 16, "height": 16},
        "output": {"path": str(path), "layout": layout},
        "execution": {"batch_size": 1, "shard_size": 4},
        **sections,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of 8 requests, one of which failed, in each layout."""
    folder = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUTS:
        run(job(layout, folder / layout))
    return {layout: folder / layout for layout in LAYOUTS}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def pixels(folder: Path) -> dict[str, str]:
    rows = open_run(folder).table().to_pylist()
    return {row["request_id"]: row["pixel_sha256"] for row in rows if row["status"] == "ok"}


def python_of_the_readme(folder: Path) -> str:
    blocks = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    return "\n".join(block.split("```")[0] for block in blocks)


def test_datasets_reads_a_parquet_file_of_pictures(runs: dict[str, Path]) -> None:
    files = sorted(map(str, (runs["parquet"] / "artifacts").iterdir()))

    rows = datasets.load_dataset("parquet", data_files=files, split="train")

    assert {row["request_id"]: pixel_sha256(row["image"]) for row in rows} == pixels(runs["parquet"])
    assert rows[6]["note"] == LATE


def test_datasets_reads_a_tar_of_samples(runs: dict[str, Path]) -> None:
    files = sorted(map(str, (runs["webdataset"] / "artifacts").iterdir()))

    samples = list(datasets.load_dataset("webdataset", data_files=files, split="train"))

    assert {sample["__key__"]: pixel_sha256(sample["png"]) for sample in samples} == pixels(runs["webdataset"])
    assert samples[0]["txt"] == samples[0]["json"]["prompt"] == "picture 0"
    assert samples[6]["json"]["pixel_sha256"] == pixels(runs["webdataset"])[samples[6]["__key__"]]


def test_datasets_reads_files_as_an_image_folder(runs: dict[str, Path]) -> None:
    rows = datasets.load_dataset("imagefolder", data_dir=str(runs["files"]), split="train")

    there = {row["request_id"]: pixel_sha256(row["image"]) for row in rows if row["image"] is not None}
    assert (there, rows.num_rows) == (pixels(runs["files"]), 7)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_lines_of_the_readme_load_the_pictures(
    layout: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs[layout])
    names: dict[str, Any] = {}

    exec(python_of_the_readme(runs[layout]), names)

    column = {"webdataset": "png"}.get(layout, "image")
    found = [pixel_sha256(row[column]) for row in names["images"]]
    assert found == list(pixels(runs[layout]).values())
    if layout == "webdataset":
        assert [pixel_sha256(sample["png"]) for sample in names["samples"]] == found
    names.clear()
    gc.collect()  # of tars that webdataset leaves open, while the warning is not an error


@pytest.mark.parametrize("layout", LAYOUTS)
def test_datasets_reads_the_folder_by_its_readme(layout: str, runs: dict[str, Path]) -> None:
    rows = datasets.load_dataset(str(runs[layout]), split="train")

    column = {"webdataset": "png"}.get(layout, "image")
    assert [pixel_sha256(row[column]) for row in rows] == list(pixels(runs[layout]).values())


def test_views_are_a_list_of_images_in_parquet_and_fields_of_a_sample_in_a_tar(tmp_path: Path) -> None:
    sections = {"task": "multi_view_image", "prompts": {"source": ["a fox"]}, "execution": {}}
    params = {"width": 16, "height": 16, "extra": {"angles": ["front", "left", "back"]}}
    folders = {layout: tmp_path / layout for layout in ("webdataset", "parquet")}
    for layout, folder in folders.items():
        run(job(layout, folder, params=params, **sections))
    files = {layout: [str(next((folder / "artifacts").iterdir()))] for layout, folder in folders.items()}

    (row,) = datasets.load_dataset("parquet", data_files=files["parquet"], split="train")
    (sample,) = datasets.load_dataset("webdataset", data_files=files["webdataset"], split="train")

    views = [pixel_sha256(image) for image in row["images"]]
    assert len(set(views)) == 3
    assert views == [pixel_sha256(sample[field]) for field in ("png", "v1.png", "v2.png")]
    assert views[0] == next(iter(pixels(folders["parquet"]).values()))


def test_videos_are_a_video_column(tmp_path: Path) -> None:
    params = {"width": 16, "height": 16, "num_frames": 3}
    sections = {"task": "text_to_video", "prompts": {"source": ["a fox"]}, "execution": {}}
    for layout in ("webdataset", "parquet"):
        run(job(layout, tmp_path / layout, params=params, **sections))
    undecoded = datasets.Video(decode=False)
    files = {layout: [str(next((tmp_path / layout / "artifacts").iterdir()))] for layout in ("webdataset", "parquet")}

    rows = datasets.load_dataset("parquet", data_files=files["parquet"], split="train")
    samples = datasets.load_dataset("webdataset", data_files=files["webdataset"], split="train")

    assert isinstance(rows.features["video"], datasets.Video)
    video = rows.cast_column("video", undecoded)[0]["video"]["bytes"]
    assert video == samples.cast_column("mp4", undecoded)[0]["mp4"]["bytes"]
    opened = open_run(tmp_path / "parquet")
    assert video == opened.read_artifact(opened.table().to_pylist()[0])


@pytest.mark.filterwarnings("ignore")
def test_the_indexed_reader_of_webdataset_finds_every_sample_by_the_index(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    wids = pytest.importorskip("wids")

    samples = wids.ShardListDataset(str(runs["webdataset"] / "index.json"), cache_dir=str(tmp_path), transformations=[])

    found = {
        sample["__key__"]: pixel_sha256(decode_image(sample[".png"].read()))
        for sample in (samples[number] for number in range(len(samples)))
    }
    assert found == pixels(runs["webdataset"])
