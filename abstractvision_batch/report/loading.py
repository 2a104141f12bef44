"""How to load a run's rows and pictures, for the README of its folder: lines to copy, which depend on the layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abstractvision_batch.media.images import EXTENSIONS, MIME_TYPES
from abstractvision_batch.runs.columns import media_column
from abstractvision_batch.runs.files import METADATA

#: Rows of the pictures that there are, under the name that Hugging Face's image and video folders look for.
#: What the Hugging Face hub takes for the data, by layout; one builder serves a folder.
_CONTAINERS = {"webdataset": "artifacts/*.tar", "parquet": "artifacts/*.parquet"}


def data_files(spec: Mapping[str, Any]) -> str | list[str]:
    """Return the glob, or globs, of what the hub takes for the data of a run of this spec."""
    layout = spec["output"].get("layout", "files")
    return _CONTAINERS.get(layout) or [f"artifacts/**/*{_extension(spec)}", METADATA]


def describe_loading(record: Mapping[str, Any]) -> str:
    """The section "Loading".

    Args:
        record: `RunRecord.data`: the run as it is now.
    """
    layout, task = record["spec"]["output"].get("layout", "files"), record["spec"]["task"]
    plan = ", ".join(sorted({f"`{_top(file['name'])}`" for file in record["plan"]["files"]}))
    extensions = "`extensions/` what it was extended by, " if record["extensions"] else ""
    views = ""
    if task == "multi_view_image":
        views = "`file_name` is a request's first view; `views` in its `metadata_json` has all of them.\n\n"
    index = ", `index.json` the list of tars for WebDataset's reader `wids`" if layout == "webdataset" else ""
    return f"""## Loading

`manifest.parquet` has one row per request: its prompt, seed and parameters, the columns of the prompt data set, and
what became of it. `file_name` is relative to this folder.

```python
import pandas as pd

rows = pd.read_parquet("manifest.parquet")
rows[rows.status == "ok"][["prompt", "seed", "file_name"]]
```

```sql
-- duckdb
SELECT error_kind, count(*) FROM 'manifest.parquet' GROUP BY error_kind;
```

{_files(record["spec"]) if layout == "files" else _containers(record["spec"])}
{views}`run.json` is the record of the run, {extensions}{plan} its requests, `artifacts/` the files,
`manifest/` one part per finished shard{index}.
"""


def _top(name: str) -> str:
    """The folder of a file, or the file where it is in none."""
    folder, slash, _ = name.partition("/")
    return folder + slash


def _files(spec: Mapping[str, Any]) -> str:
    feature = "video" if media_column(spec["task"]) == "video" else "image"
    return f"""```python
from datasets import load_dataset

{feature}s = load_dataset("{feature}folder", data_dir=".", split="train")
```

A row has the {feature} in the column `{feature}` and every column of the manifest; `load_dataset` with the path of this
folder, or with its name on the hub, gives the same. `{METADATA}` has the rows whose {feature} is there; failed requests
are in the manifest alone.
"""


def _extension(spec: Mapping[str, Any]) -> str:
    """Return what the names of the run's files end in, with the dot."""
    video = media_column(spec["task"]) == "video"
    return EXTENSIONS[MIME_TYPES["mp4" if video else spec["output"].get("image_format", "png")]]


def _containers(spec: Mapping[str, Any]) -> str:
    layout, name = spec["output"]["layout"], media_column(spec["task"])
    holds = f"A row is a picture, in the column `{name}`, with its prompt and parameters"
    more = ""
    if layout == "webdataset":
        extension = _extension(spec).lstrip(".")
        holds = f"A sample is `{extension}`, `txt` (the prompt) and `json` (the row of the plan)"
        more = f"""```python
import webdataset

samples = webdataset.WebDataset(files, shardshuffle=False){"" if name == "video" else '.decode("pil")'}
```

"""
    return f"""```python
import pandas as pd
from datasets import load_dataset

files = pd.read_parquet("manifest.parquet", columns=["file_name"]).file_name.dropna().unique().tolist()
{name.removesuffix("s")}s = load_dataset("{layout}", data_files=files, split="train")
```

{more}{holds}; `request_id` joins it with the manifest.
A single one is `size_bytes` bytes at `offset_bytes` of `file_name`, uncompressed. Failed requests
are in the manifest alone.
"""
