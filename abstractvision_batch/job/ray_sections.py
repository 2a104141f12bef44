"""What `execution` says about Ray beyond numbers: a range of actors, custom resources, a runtime environment.

*Not covered:* what a run makes of them (`execute.ray.placement`, `execute.ray.pool_size`, `execute.ray.ray_cluster`).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from abstractvision_batch.documents.strict_model import Number, StrictModel, StrTuple, Text
from abstractvision_batch.job.fields import FromEnv
from abstractvision_batch.job.marks import Outside, Uploaded

ActorCount = Annotated[int, Field(ge=1, le=100_000)]


class ActorRange(StrictModel):
    """How many Ray actors, on a cluster that grows and shrinks."""

    written: ClassVar[str] = "{min: …, max: …}"

    min: ActorCount = 1
    """Kept to the end of the run."""
    max: ActorCount
    """Asked for as long as there are shards for them; those without a place are what an autoscaler looks at."""

    @model_validator(mode="after")
    def _is_in_order(self) -> ActorRange:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max, which is {self.max} (swap them, or write one number)")
        return self


#: What Ray counts by itself, and the fields that ask for it.
_COUNTED_BY_RAY = {"CPU": "cpus_per_actor", "GPU": "gpus_per_actor"}


def _require_custom_names(resources: dict[str, float]) -> dict[str, float]:
    for name in resources:
        if field := _COUNTED_BY_RAY.get(name):
            raise ValueError(f"{name} is no custom resource (write {field})")
        if name in ("memory", "object_store_memory"):
            raise ValueError(f"{name} is no custom resource, and no share of it can be asked for (remove it)")
    return resources


Resources = Annotated[dict[Text, Annotated[Number, Field(gt=0, le=1_000_000)]], AfterValidator(_require_custom_names)]


class RuntimeEnvSpec(StrictModel):
    """Ray's runtime environment of a run's workers. Paths in it start at the current folder.

    Source: https://docs.ray.io/en/latest/ray-core/api/doc/ray.runtime_env.RuntimeEnv.html (the fields of Ray 2.60)
    """

    env_vars: Annotated[
        dict[Text, str | FromEnv],
        Outside("set {key} for workers", with_secret="set {key} to the value of {value} for workers"),
    ] = Field(default_factory=dict)
    """Environment variables of the workers. Secrets as `{env: NAME}`: Ray never gets to see those."""
    working_dir: Annotated[Text, Uploaded()] | None = None
    """Folder or archive that workers start in."""
    py_modules: Annotated[StrTuple, Uploaded()] | None = None
    """Folders, wheels or archives that workers can import."""
    py_executable: Text | None = None
    """The command that starts Python on a worker."""
    excludes: StrTuple | None = None
    """Patterns of files that are not uploaded with `working_dir` and `py_modules`."""
    pip: Annotated[Text, Uploaded()] | list[Any] | dict[str, Any] | None = None
    """Packages, or the path of a requirements file."""
    uv: Annotated[Text, Uploaded()] | list[Any] | dict[str, Any] | None = None
    """As `pip`, installed by uv."""
    conda: Text | dict[str, Any] | None = None
    """A conda environment: its name, its file or its content."""
    container: dict[str, Any] | None = None
    """Container of the workers; older than `image_uri`."""
    image_uri: Text | None = None
    """Container image of the workers."""
    java_jars: StrTuple | None = None
    worker_process_setup_hook: Text | None = None
    """Function, as `module.name`, that each worker calls when it starts."""
    config: dict[str, Any] | None = None
    """How Ray sets the environment up: `{setup_timeout_seconds: 900}`."""

    def for_ray(self) -> dict[str, Any]:
        """What Ray is told: no secrets."""
        told = self.model_dump(mode="json", exclude_none=True, exclude={"env_vars"})
        if plain := {name: value for name, value in self.env_vars.items() if isinstance(value, str)}:
            told["env_vars"] = plain
        return told

    def secrets(self) -> dict[str, FromEnv]:
        """The environment variables that Ray must not see."""
        return {name: value for name, value in self.env_vars.items() if isinstance(value, FromEnv)}
