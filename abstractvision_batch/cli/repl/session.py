"""What a session is set to, and generating with it. Prints nothing; a mistake is an exception."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from abstractvision_batch.artifacts import ArtifactNotFoundError
from abstractvision_batch.backends.base_backend import ProgressCallback
from abstractvision_batch.backends.from_environment import Target, choose_target, read_choice
from abstractvision_batch.cli.output_files import keep_output, open_in_viewer, open_store, read_input
from abstractvision_batch.cli.request_words import RequestWords
from abstractvision_batch.errors import SpecError
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.registry.param_rule import STANDARD_PARAMS
from abstractvision_batch.storage.asset_store import LocalAssetStore
from abstractvision_batch.types import TASK_OF_REQUEST, Task
from abstractvision_batch.verbs.generate import generate, open_manager
from abstractvision_batch.vision_manager import VisionManager

MAX_DRAWN_SEED = 2**31


class Session:
    """One backend, one store, default parameters, and what was made.

    Args:
        environ: the process's environment.
        target: what generates first.
        registry: the cards.
        store: place of the asset store, as `/store` takes it.
        on_step: called after each step of a generation.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        target: Target,
        registry: VisionModelCapabilitiesRegistry,
        *,
        store: str | None = None,
        on_step: ProgressCallback | None = None,
    ) -> None:
        self.environ = environ
        self.target = target
        self.registry = registry
        self.store_place = store or read_choice(environ, "store") or "default"
        self.defaults: dict[str, Any] = {}
        self.made: list[str] = []
        """Artifact ids, oldest first."""
        self.ended = False
        self._on_step = on_step
        self._manager: VisionManager | None = None

    def use_backend(self, kind: str, model: str | None = None, **given: Any) -> None:
        """Change to another backend; the old one stays where the new one cannot be made."""
        target = choose_target(self.registry, self.environ, kind=kind, model=model, fields=given)
        manager = open_manager(target, self.registry)
        if manager.backend is not None:
            manager.backend.check_ready()
        self.close()
        self.target, self._manager = target, manager

    def use_card(self, model: str | None) -> None:
        """Check calls against this model's card; None: against no card."""
        card = None if model is None else self.registry.card(model)
        self.target = replace(self.target, card=card)
        if self._manager is not None:
            self._manager.model_id = model

    def use_store(self, place: str) -> None:
        """Put outputs elsewhere."""
        open_store(place)
        self.store_place = place

    def manager(self) -> VisionManager:
        """Return the manager of the current backend, made on first use."""
        if self._manager is None:
            self._manager = open_manager(self.target, self.registry)
        self._manager.store = open_store(self.store_place)
        return self._manager

    def generate(self, task: Task, words: RequestWords) -> list[dict[str, Any]]:
        """Generate once; returns where each output is, as `keep_output` says it."""
        own = {field.name for request, of in TASK_OF_REQUEST.items() if of == task for field in fields(request)}
        params = {name: value for name, value in self.defaults.items() if name in own or name not in STANDARD_PARAMS}
        params |= words.params
        params |= {name: read_input(path, f"--{name}") for name, path in words.files.items()}
        if words.prompt is not None:
            params["prompt"] = words.prompt
        if params.get("seed") is None and self.target.backend.server_url is None:
            params["seed"] = secrets.randbelow(MAX_DRAWN_SEED)
        manager = self.manager()
        found = []
        for one in generate(manager, self.target, task, params, on_step=self._on_step):
            where = keep_output(one, open_store(self.store_place), None, task, None)
            self.made.append(where["artifact"]["$artifact"])
            found.append(where)
        if words.wants_open:
            self.open_artifacts([where["artifact"]["$artifact"] for where in found])
        return found

    def open_artifacts(self, ids: Sequence[str]) -> list[Path]:
        """Show artifacts of a local store with the desktop's program."""
        store = open_store(self.store_place)
        if not isinstance(store, LocalAssetStore):
            raise SpecError(f"{self.store_place}: only a local store's artifacts can be opened (/store DIR)")
        paths = []
        for artifact_id in ids:
            path = store.get_content_path(artifact_id)
            if path is None:
                raise ArtifactNotFoundError(f"{artifact_id}: no such artifact in {store.base_dir}")
            open_in_viewer(path)
            paths.append(path)
        return paths

    def close(self) -> None:
        """Free the backend; the next generation makes it again."""
        if self._manager is not None and self._manager.backend is not None:
            self._manager.backend.close()
        self._manager = None
