"""`index.json` of a run with the layout `webdataset`: which tars there are and how many samples each has.

The format is that of WebDataset's indexed reader `wids`, version 1; the URLs are relative to the run's folder.
"""

from __future__ import annotations

import json
from pathlib import Path

from abstractvision_batch.storage.parquet import open_parquet
from abstractvision_batch.storage.store import Store

SHARD_INDEX = "index.json"
ROWS_AT_ONCE = 16_384


def write_shard_index(store: Store, name: str, manifest: Path) -> None:
    """Write the index of the tars that the merged manifest names, in its order.

    Args:
        store: The run's.
        name: The run's.
        manifest: The merged manifest, on the local disk.
    """
    samples: dict[str, int] = {}
    sizes: dict[str, int] = {}
    columns = ["file_name", "container_bytes"]
    with open_parquet(manifest, name=str(manifest)) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns):
            for row in batch.to_pylist():
                if row["file_name"] is not None:
                    samples[row["file_name"]] = samples.get(row["file_name"], 0) + 1
                    sizes[row["file_name"]] = row["container_bytes"]
    index = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name,
        "shardlist": [{"url": url, "nsamples": count, "filesize": sizes[url]} for url, count in samples.items()],
    }
    store.put(SHARD_INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode() + b"\n")
