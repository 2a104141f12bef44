"""The words of the manifest's column `status`."""

from __future__ import annotations

OK = "ok"
FAILED = "failed"
#: Of a row of a shard that something ended early: the next run does it.
NOT_RUN = "not_run"
#: Of a failed row that an extension replaced by another request; in no part, but said wherever rows are read.
SUPERSEDED = "superseded"
