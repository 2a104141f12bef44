"""Types of the fixtures that tests of every layer share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Makes a small job spec; keywords replace whole sections of it.
MakeJob = Callable[..., dict[str, Any]]
