"""What a run settles about its server once, so that all of its workers, and its later invocations, speak alike.

Not covered: asking the server (`identify`, `session`), where a run records it (`execute.run_server`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from abstractvision_batch.backends.openai_compatible.config import OpenAICompatibleBackendConfig
from abstractvision_batch.backends.openai_compatible.dialects import DIALECTS, Dialect
from abstractvision_batch.backends.openai_compatible.failures import redact
from abstractvision_batch.backends.openai_compatible.identify import Identity
from abstractvision_batch.errors import DependencyError, StorageError

logger = logging.getLogger(__name__)

By = Literal["configuration", "server", "default"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """The dialect of a server, and why it is that."""

    dialect: Dialect
    by: By
    """Who says so: the configuration, the server, or nobody."""
    says: Mapping[str, str] = field(default_factory=dict)
    """What the server says of itself: `version`, `model_root`."""

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {"dialect": self.dialect.name, "by": self.by, "says": dict(self.says)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settlement:
        """The settlement that a run recorded.

        Raises:
            StorageError: it is of a later version, or damaged.
        """
        name, by, says = data.get("dialect"), data.get("by"), data.get("says")
        if not isinstance(name, str) or name not in DIALECTS or not isinstance(says, Mapping):
            raise StorageError(f"the dialect {name!r} is not known here (use the version that began the run)")
        # a run folder may come from anybody, and a message shows these
        words = {name: redact(str(says[name])) for name in ("version", "model_root") if name in says}
        return cls(DIALECTS[name], by if by in ("configuration", "server") else "default", words)


def settle(config: OpenAICompatibleBackendConfig, identity: Identity, known: Settlement | None) -> Settlement:
    """The dialect to speak: that of the run, the configuration's, the server's own, or `extended`.

    Raises:
        DependencyError: the run began at a server of another kind, or that had another model.
    """
    if known is not None:
        _require_same(config, identity, known)
        return Settlement(known.dialect, known.by, {**known.says, **identity.says})
    dialect = config.known_dialect
    if dialect is None:
        name = identity.dialect
        return Settlement(DIALECTS[name or "extended"], "default" if name is None else "server", identity.says)
    if identity.dialect not in (None, dialect.name) and config.dialect != "auto":
        logger.warning(
            "%s says that it is %s, and is spoken to as %s, as backend.dialect says",
            config.base_url,
            DIALECTS[identity.dialect].title,
            dialect.title,
        )
    return Settlement(dialect, "configuration", identity.says)


def describe_unknown(settled: Settlement, config: OpenAICompatibleBackendConfig) -> str | None:
    """The warning about a server that says nothing of itself; None for any other."""
    if settled.by != "default":
        return None
    return (
        f"{config.base_url}: nothing says what this server is, so it is told steps, guidance_scale, negative_prompt, "
        "seed, strength, width and height by these names, and a server that calls them otherwise ignores them "
        "(name it: backend.dialect, or its names: backend.field_names)"
    )


def describe(settled: Settlement, config: OpenAICompatibleBackendConfig) -> str:
    """The settlement in a line."""
    version = f" {settled.says['version']}" if "version" in settled.says else ""
    who = {"configuration": "as configured", "server": "as it says", "default": "as nothing says"}[settled.by]
    return f"{config.base_url}: {settled.dialect.title}{version} ({who}); dialect {settled.dialect.name}"


def _require_same(config: OpenAICompatibleBackendConfig, identity: Identity, known: Settlement) -> None:
    found = identity.dialect
    if known.by == "server" and found not in (None, known.dialect.name):
        raise DependencyError(
            f"{config.base_url}: the run began at {known.dialect.title}, and this is {DIALECTS[found].title} now, "
            "which reads requests otherwise (start the server that it began with, or a new run)"
        )
    before, now = (says.get("model_root") for says in (known.says, identity.says))
    if before is not None and now is not None and before != now:
        raise DependencyError(
            f"{config.base_url}: the run began with the model {before}, and the server has {now} now "
            "(start it with the former, or begin a new run)"
        )
