"""What a card may say of a backend: what that needs to run the model, and what a request costs.

Not covered: what a backend makes of it (`backends`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from abstractvision_batch.documents.strict_model import Number, StrTuple, Text, UndocumentedModel, tuple_from_list
from abstractvision_batch.registry.output_size import OutputSize
from abstractvision_batch.registry.prices import CardPrice
from abstractvision_batch.types import Task

#: `inpaint` is for `image_to_image` requests with a mask.
PipelineTask = Literal[Task, "inpaint"]
_Count = Annotated[int, Field(ge=1)]


class BackendFacts(UndocumentedModel):
    """What a card may say of any backend."""

    batch_size: _Count | None = None
    """Requests of one forward pass where the spec says `auto`."""
    memory_bytes: _Count | None = None
    """Of the weights of all components in the native type; activations come on top."""
    tasks: Annotated[tuple[Task, ...], BeforeValidator(tuple_from_list)] | None = None
    """Those of the model's tasks that the backend runs; by default those that it has a pipeline for, else all."""
    price: CardPrice | None = None
    packages: StrTuple = ()
    """Python packages that the model needs besides the backend's."""
    pipelines: dict[PipelineTask, Text] = Field(default_factory=dict)
    output_size: dict[PipelineTask, OutputSize] = Field(default_factory=dict)
    """How the size follows where the model does not simply make what is asked for."""


class DiffusersFacts(BackendFacts):
    """What Diffusers needs."""

    repo_id: Text | None = None
    repo_ids: dict[str, Text] = Field(default_factory=dict)
    path: Text | None = None
    revision: Text | None = None
    subfolder: Text | None = None
    variant: Text | None = None
    components: dict[str, Text] = Field(default_factory=dict)
    lora: Text | None = None
    rename: dict[str, Text] = Field(default_factory=dict)
    """Our name of a parameter to the pipeline's, where it is not the usual one."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None


class SdcppFacts(BackendFacts):
    """What stable-diffusion.cpp needs."""

    guidance: Literal["cfg", "distilled", "none"] | None = None
    image_input: Literal["init", "reference"] | None = None
    flow_shift: Number | None = None
    qwen_image_zero_cond_t: bool = False


class OtherFacts(BackendFacts):
    """What any other backend needs, which may have fields of its own."""

    model_config = ConfigDict(extra="allow")


FACTS: dict[str, type[BackendFacts]] = {"diffusers": DiffusersFacts, "sdcpp": SdcppFacts}
