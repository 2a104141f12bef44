"""The Diffusers backend: requests in, one forward pass for those that may share it, assets out.

Offline unless downloads are allowed. torch and diffusers are imported when the first request or `preload` needs them.

Not covered: what a request becomes (`prepare`, `views`), the pass itself (`forward`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from abstractvision_batch.backends.base_backend import (
    NOT_BEGUN,
    BatchItem,
    Cancelled,
    ProgramRow,
    ProgressCallback,
    keep_finished,
)
from abstractvision_batch.backends.batch_backend import BatchBackend
from abstractvision_batch.backends.choices import Choice, ModelChoices
from abstractvision_batch.backends.huggingface_diffusers.config import (
    HuggingFaceDiffusersBackendConfig,
    LoraAdapter,
    config_from_fields,
)
from abstractvision_batch.backends.huggingface_diffusers.families import kinds_of
from abstractvision_batch.backends.huggingface_diffusers.locate import find_folder, find_lora, find_model
from abstractvision_batch.backends.huggingface_diffusers.prepare import (
    BACKEND_EXTRA,
    PreparedRequest,
    kind_of,
    prepare_request,
)
from abstractvision_batch.backends.huggingface_diffusers.signatures import read_pipeline
from abstractvision_batch.backends.huggingface_diffusers.views import plan_views
from abstractvision_batch.backends.huggingface_diffusers.weight_files import describe_weights
from abstractvision_batch.backends.table import require_extra
from abstractvision_batch.documents.positions import FieldPath
from abstractvision_batch.errors import DependencyError, GenerationCancelledError, GenerationError, OutOfMemoryError
from abstractvision_batch.registry.model_card import ModelCard
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.storage.hub import HubPart
from abstractvision_batch.types import (
    GeneratedAsset,
    ImageGenerationRequest,
    MultiAngleRequest,
    Task,
    VisionBackendCapabilities,
    VisionRequest,
)

if TYPE_CHECKING:
    from abstractvision_batch.backends.huggingface_diffusers.loaded_model import LoadedModel

#: Measured on a CPU between batches of 1 and 8: one level in 0.01 % of the pixels of float32 (87 dB), two levels in
#: 21 % of bfloat16 (50 dB); many steps and deep models add to it. Pictures of two prompts have 5 to 15 dB.
_BATCH_TOLERANCE_DB = {"float64": 60.0, "float32": 40.0, "float16": 26.0}
_LEAST_TOLERANCE_DB = 20.0


class HuggingFaceDiffusersVisionBackend(BatchBackend):
    """Generates with one Diffusers model on one device."""

    def __init__(self, config: HuggingFaceDiffusersBackendConfig) -> None:
        require_extra("diffusers")
        self.config = config
        self._model: LoadedModel | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, card_facts: Mapping[str, Any], model: str) -> Self:
        """Make the backend that a job and its model's card describe."""
        return cls(config_from_fields(fields, card_facts=card_facts, model=model))

    def generate_batch(
        self,
        requests: Sequence[VisionRequest],
        *,
        cancelled: Cancelled | None = None,
        on_step: ProgressCallback | None = None,
    ) -> list[BatchItem]:
        """Generate requests, those that differ in prompt, seed and images alone in one forward pass.

        Images come as raw pixels, videos as MP4.

        Raises:
            CapabilityNotSupportedError: the model does not offer a request's task.
            DependencyError: the model is missing or damaged.
        """
        items: dict[int, BatchItem] = {}
        groups: dict[str, list[tuple[int, PreparedRequest]]] = {}
        for index, request in enumerate(requests):
            if isinstance(request, MultiAngleRequest):
                items[index] = self._run_views(request, cancelled, on_step)
                continue
            pipeline = self.loaded(kind_of(request)).pipeline(kind_of(request))
            try:
                prepared = prepare_request(request, pipeline, self.config)
            except GenerationError as error:
                items[index] = error
                continue
            key = prepared.key if prepared.batchable else f"alone {index}"
            groups.setdefault(key, []).append((index, prepared))
        ended: DependencyError | None = None
        for group in groups.values():
            try:
                if ended is None:
                    outcomes = self._run_group([prepared for _, prepared in group], cancelled, on_step)
                else:
                    outcomes = [GenerationCancelledError(NOT_BEGUN, begun=False) for _ in group]
            except DependencyError as error:
                ended = error
                outcomes = [error for _ in group]
            items.update((index, outcome) for (index, _), outcome in zip(group, outcomes, strict=True))
        return keep_finished([items[index] for index in range(len(requests))])

    def get_capabilities(self) -> VisionBackendCapabilities | None:
        """Name the tasks that the model's pipelines do, as its card or else its `model_index.json` has them.

        None, no limits, where neither says: the model is yet to be downloaded, or of a class that is not installed.
        """
        kinds = tuple(self.config.pipelines) or self._find_kinds()
        if not kinds:
            return None
        tasks = [kind for kind in kinds if kind != "inpaint"]
        return VisionBackendCapabilities(supported_tasks=tasks, supports_mask="inpaint" in kinds)

    def derive_card(self) -> ModelCard:
        """By its `model_index.json`, the configurations of its components and the installed Diffusers."""
        from abstractvision_batch.backends.huggingface_diffusers.derived_card import derive_card

        return derive_card(self.config)

    def hub_parts(self, task: Task | None = None) -> Iterator[HubPart]:
        """Name the repositories of the model, of its components and of its adapters."""
        from abstractvision_batch.backends.huggingface_diffusers.hub_parts import find_parts

        return find_parts(self.config, task)

    def _find_kinds(self) -> tuple[str, ...]:
        try:
            name = find_model(self.config).pipeline_class
        except DependencyError:
            return ()  # what is missing is said when it is needed
        found = read_pipeline(name)
        return () if found is None else kinds_of(name, found.required, self.config.rename)

    def batch_tolerance_db(self) -> float | None:
        """By dtype; far below what rounding costs, far above what another picture has."""
        return _BATCH_TOLERANCE_DB.get(str(self.environment()["dtype"]), _LEAST_TOLERANCE_DB)

    def write_program(self, rows: Sequence[ProgramRow], slot: int) -> str:
        """As Diffusers alone would do it."""
        from abstractvision_batch.backends.huggingface_diffusers.python_program import write_program

        return write_program(self.config, rows, slot)

    def environment(self) -> dict[str, Any]:
        """Describe device, dtype, threads, switches and versions: the pixels depend on each."""
        from abstractvision_batch.backends.huggingface_diffusers.loading import resolve_device, resolve_dtype
        from abstractvision_batch.backends.huggingface_diffusers.torch_state import (
            describe_device,
            describe_libraries,
            describe_switches,
            package_versions,
        )

        device = resolve_device(self.config.device)
        return {
            "device": str(device),
            **describe_device(device),
            "dtype": str(resolve_dtype(self.config, device)).removeprefix("torch."),
            "threads": self.config.threads,
            **describe_libraries(),
            "switches": describe_switches(),
            "versions": dict(package_versions()),
        }

    def weights(self, task: Task | None = None) -> Weights:
        """Hash the files of the model and of what the configuration adds to it."""
        return describe_weights(self.config, task)

    def check_ready(self) -> None:
        """Check that the model's files are there, and all that goes with them, unless they may be downloaded."""
        if self.config.allow_download:
            return
        missing: list[DependencyError] = []
        kinds = self.config.repo_ids or (None,)
        for kind in kinds:
            try:
                find_model(self.config.for_kind(kind))
            except DependencyError as error:
                missing.append(error)
        if len(missing) == len(kinds):
            raise missing[0]
        rapid = self.config.rapid_aio_repo
        for source in (*self.config.components.values(), *([rapid] if rapid else [])):
            find_folder(source, self.config.cache_dir)
        turning = self.config.angles_lora if list(self.config.pipelines) == ["multi_view_image"] else None
        for lora in (*self.config.adapters().values(), *([LoraAdapter(turning)] if turning else [])):
            find_lora(lora, self.config)

    def find_problems(self, task: Task, extra: Mapping[str, Any]) -> list[tuple[FieldPath, str]]:
        """By the source of the installed Diffusers."""
        from abstractvision_batch.backends.huggingface_diffusers.spec_check import find_problems

        return list(find_problems(self.config, task, extra))

    @classmethod
    def list_extras(cls) -> tuple[Choice, ...]:
        """Those that no pipeline has."""
        return tuple(map(Choice, BACKEND_EXTRA))

    def describe_choices(self) -> ModelChoices:
        """By the source of the installed Diffusers and the model's own configuration."""
        from abstractvision_batch.backends.huggingface_diffusers.model_choices import find_choices

        return find_choices(self.config)

    def count_cut_tokens(self, task: Task, prompts: Iterable[str], extra: Mapping[str, Any]) -> Iterator[int]:
        """By the tokenizers of the model's folder."""
        from abstractvision_batch.backends.huggingface_diffusers.prompt_length import (
            LENGTH_ARGUMENT,
            count_cut,
            readers_on_disk,
        )

        length = extra.get(LENGTH_ARGUMENT)
        readers = readers_on_disk(self.config, task, length if isinstance(length, int) else None)
        return (max(count_cut(prompt, readers).values(), default=0) for prompt in prompts) if readers else iter(())

    def preload(self, task: Task | None = None) -> None:
        """Load the model's weights; where each task has its own, those of `task`, and without it none."""
        if task is None and self.config.repo_ids:
            return
        model = self.loaded(task)
        model.use_denoiser(self.config.rapid_aio_repo)
        model.activate_loras(self.config.loras)
        if self.config.angles_lora is not None and task == "multi_view_image":
            find_lora(LoraAdapter(self.config.angles_lora), self.config)  # there, if it may be downloaded

    def unload(self) -> None:
        """Free the model's weights; the next request loads them again."""
        if self._model is not None:
            self._model.free()
            self._model = None

    def loaded(self, kind: str | None = None) -> LoadedModel:
        """Return the model in memory, loaded first if need be; `kind` says which repository of several."""
        config = self.config.for_kind(kind)
        if self._model is not None and self._model.config != config:
            self.unload()
        if self._model is None:
            from abstractvision_batch.backends.huggingface_diffusers.loaded_model import LoadedModel

            self._model = LoadedModel(config)
        return self._model

    def _run_views(
        self, request: MultiAngleRequest, cancelled: Cancelled | None, on_step: ProgressCallback | None
    ) -> list[GeneratedAsset] | GenerationError:
        """Edit the reference picture once per angle, all in one pass where the pipeline takes several and they fit.

        One angle that fails fails the request.
        """
        pipeline = self.loaded("multi_view_image").pipeline("multi_view_image")
        seed = secrets.randbelow(2**63) if request.seed is None else request.seed
        reference = request.reference_image
        if reference is None:
            front = ImageGenerationRequest(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt,
                width=request.width,
                height=request.height,
                seed=seed,
                steps=request.steps,
                guidance_scale=request.guidance_scale,
            )
            (item,) = self.generate_batch([front], cancelled=cancelled, on_step=on_step)
            if isinstance(item, DependencyError):
                raise item
            if not isinstance(item, GeneratedAsset):
                assert isinstance(item, GenerationError)  # a list is only for multi_view_image
                return item
            reference = item.data
        lora = self.config.angles_lora
        edits = plan_views(request, reference, seed=seed, trained=lora is not None)
        try:
            views = [prepare_request(edit, pipeline, self.config) for edit in edits]
        except GenerationError as error:
            return error
        turning = () if lora is None else (LoraAdapter(lora),)
        views = [replace(view, kind="multi_view_image", loras=(*view.loras, *turning)) for view in views]
        together = len(views) > 1 and all(view.batchable for view in views)
        outcomes = self._run_group(views, cancelled, on_step) if together else []
        alone = not together or any(isinstance(outcome, OutOfMemoryError) for outcome in outcomes)
        notes = {"reproducibility": "perceptual"} if together and alone else {}  # not the planned pass
        assets: list[GeneratedAsset] = []
        for index, angle in enumerate(request.angles):
            outcome = self._run_group([views[index]], cancelled, on_step)[0] if alone else outcomes[index]
            if not isinstance(outcome, GeneratedAsset):
                assert isinstance(outcome, GenerationError)  # a list is only for multi_view_image
                return outcome
            assets.append(replace(outcome, metadata=outcome.metadata | notes | {"angle": angle}))
        return assets

    def _run_group(
        self, group: list[PreparedRequest], cancelled: Cancelled | None, on_step: ProgressCallback | None
    ) -> list[BatchItem]:
        from abstractvision_batch.backends.huggingface_diffusers.forward import make_asset, run_forward

        def step(number: int, total: int | None) -> None:
            if on_step is not None:
                on_step(number, total)
            if cancelled is not None and cancelled():
                raise GenerationCancelledError("cancelled by the caller")

        if cancelled is not None and cancelled():
            return [GenerationCancelledError("cancelled by the caller", begun=False) for _ in group]
        model = self.loaded(group[0].kind)
        try:
            outcomes = run_forward(model, group, step)
        except GenerationCancelledError as error:
            return [GenerationCancelledError(str(error)) for _ in group]
        return [
            outcome if isinstance(outcome, GenerationError) else make_asset(model, request, outcome)
            for request, outcome in zip(group, outcomes, strict=True)
        ]
