"""Which layouts there are."""

from __future__ import annotations

from abstractvision_batch.execute.layouts.containers import ContainerLayout
from abstractvision_batch.execute.layouts.files import FilesLayout
from abstractvision_batch.execute.layouts.layout import Layout
from abstractvision_batch.execute.layouts.parquet_container import ParquetContainer
from abstractvision_batch.execute.layouts.tar_container import TarContainer

#: Under the values of the spec's `output.layout`.
LAYOUTS: dict[str, Layout] = {
    "files": FilesLayout(),
    "webdataset": ContainerLayout(".tar", TarContainer),
    "parquet": ContainerLayout(".parquet", ParquetContainer),
}
