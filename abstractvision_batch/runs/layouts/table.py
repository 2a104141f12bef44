"""Which layouts there are."""

from __future__ import annotations

from abstractvision_batch.runs.layouts.containers import ContainerLayout
from abstractvision_batch.runs.layouts.files import FilesLayout
from abstractvision_batch.runs.layouts.layout import Layout
from abstractvision_batch.runs.layouts.parquet_container import ParquetContainer
from abstractvision_batch.runs.layouts.tar_container import TarContainer

#: Under the values of the spec's `output.layout`.
LAYOUTS: dict[str, Layout] = {
    "files": FilesLayout(),
    "webdataset": ContainerLayout(".tar", TarContainer),
    "parquet": ContainerLayout(".parquet", ParquetContainer),
}
