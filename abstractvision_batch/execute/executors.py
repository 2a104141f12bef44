"""Which executors there are. Each runs shards through the same shard runner; Ray is imported only when it is used."""

from __future__ import annotations

from importlib.util import find_spec

from abstractvision_batch.errors import OptionalDependencyMissingError
from abstractvision_batch.execute.context import Variants
from abstractvision_batch.execute.control import Control
from abstractvision_batch.execute.executor_choice import INSTALL_RAY, choose_executor
from abstractvision_batch.execute.inline_executor import run_shards_inline
from abstractvision_batch.job.model import JobSpec


def require_executor(*specs: JobSpec) -> None:
    """Check that what a job's executor imports is installed, without importing it.

    Raises:
        OptionalDependencyMissingError: it is not; the message has the pip command.
    """
    choice = choose_executor(*specs)
    if choice.executor == "ray" and find_spec("ray") is None:
        raise OptionalDependencyMissingError(f"ray is not installed, and {choice.why} ({INSTALL_RAY}, or use inline)")


def run_shards(variants: Variants, control: Control) -> None:
    """Run shards on the chosen executor until they are done, an interrupt drains the run, or the budget is used up."""
    if variants[0][0].choice.executor == "ray":
        from abstractvision_batch.execute.ray.executor import run_shards_ray

        run_shards_ray(variants, control)
    else:
        run_shards_inline(variants, control)
