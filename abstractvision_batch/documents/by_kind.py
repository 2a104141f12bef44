"""A section whose model follows from its `kind`: `backend: {kind: diffusers, …}`.

The model is looked up when a kind is named, so that one which is slow to import or broken costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from abstractvision_batch.documents.strict_model import IN_RECORD
from abstractvision_batch.errors import DependencyError

TAG = "kind"
#: Pydantic's type of the error about a section that names no known kind.
NO_SUCH_KIND = "no_such_kind"


@dataclass(frozen=True)
class ByKind:
    """Marks a field that holds one of several models: `Annotated[Section, ByKind(…)]`."""

    kinds: Callable[[], Iterable[str]]
    model_of: Callable[[str], type[BaseModel]]
    usual: tuple[str, ...]
    """Those to look at where none is named."""
    unknown: type[BaseModel]
    """What the record of a run is read as where another kind than these is not installed, or takes other fields now."""

    def model_for(self, value: Any) -> type[BaseModel] | None:
        """Return the model of a section, which may be wrong; None where it names no known kind."""
        kind = value.get(TAG) if isinstance(value, dict) else getattr(value, TAG, None)
        return self.model_of(kind) if isinstance(kind, str) and kind in self.kinds() else None

    def usual_models(self) -> list[type[BaseModel]]:
        """Return the models of the usual kinds."""
        return [self.model_of(kind) for kind in self.usual]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any, info: ValidationInfo) -> Any:
            if isinstance(value, source):
                return value
            try:
                model = self.model_for(value) if isinstance(value, dict) else None
                if model is None:
                    raise PydanticCustomError(NO_SUCH_KIND, "no known kind")
                return model.model_validate(value, context=info.context)
            except (ValidationError, PydanticCustomError, DependencyError):
                if info.context != IN_RECORD or not isinstance(value, dict) or value.get(TAG) in self.usual:
                    raise
            return self.unknown.model_validate(value)

        return core_schema.with_info_plain_validator_function(read)


def find_by_kind(info: FieldInfo) -> ByKind | None:
    """Return the mark of a field that holds one of several models."""
    return next((item for item in info.metadata if isinstance(item, ByKind)), None)
