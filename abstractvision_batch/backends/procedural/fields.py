"""The `backend` section of a spec for pictures that are drawn without a model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from abstractvision_batch.documents.strict_model import Number, Text
from abstractvision_batch.job.backend_section import BackendSection
from abstractvision_batch.job.fields import RegularExpression
from abstractvision_batch.job.marks import LocalPath, Runtime


class ProceduralBackendSpec(BackendSection):
    """Deterministic pictures drawn from prompt and seed: a pipeline without a model."""

    needs_card: ClassVar[bool] = True

    kind: Literal["procedural"] = "procedural"
    delay_s: Runtime[Annotated[Number, Field(ge=0, le=3600)]] = 0.0
    """Seconds that each request takes."""
    load_s: Runtime[Annotated[Number, Field(ge=0, le=3600)]] = 0.0
    """Seconds that loading takes."""
    fail_when: Runtime[RegularExpression | None] = None
    """Regular expression; a request whose prompt matches fails."""
    crash_when: Runtime[RegularExpression | None] = None
    """Regular expression; a request whose prompt matches ends its worker process."""
    hang_when: Runtime[RegularExpression | None] = None
    """Regular expression; a request whose prompt matches never ends, and cannot be cancelled."""
    journal_path: Runtime[Annotated[Text, LocalPath("write to {value}", is_written=True)] | None] = None
    """File, relative to the spec, to which each request appends a JSON line when it begins: time, process and seed."""
