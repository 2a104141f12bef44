"""Whatever stands in a file, loading it is a spec or a `SpecError` of single lines, soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import Job, load_job
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.walk import leaves

NAMES = {part for leaf in leaves(JobSpec) for part in leaf.name.split(".")}
KEYS = st.sampled_from([*sorted(NAMES), *("source", "env", "scale", "x", "<<", "")])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["procedural", "diffusers", "avbatch/procedural", "auto", "${X}", "${"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)
YAML_BITS = st.sampled_from(
    [*"[]{}:,-?&*!|>'\"%@`#\n\t ~\ufeff\0\ud800", ": ", "- ", "\n  ", "name", "steps", "a", "1", "0x", ".nan"]
)
#: Every field by its dotted name, as it stands in a spec.
LEAVES = [leaf.name.replace(".diffusers.", ".").replace(".procedural.", ".") for leaf in leaves(JobSpec)]
GOOD = {
    "name": "demo",
    "model": "avbatch/shapes64",
    "backend": {"kind": "diffusers"},
    "prompts": {"source": ["a fox"]},
    "output": {"path": "runs/demo"},
}
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _check(load: Callable[[], Job]) -> None:
    started = time.process_time()
    problems: tuple[str, ...] = ("none",)
    try:
        load()
    except SpecError as error:
        problems = error.problems
    assert problems
    assert all(line and "\n" not in line for line in problems)
    assert time.process_time() - started < 2


@QUICK
@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_a_spec_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(content)
    _check(lambda: load_job(file))


@QUICK
@given(bits=st.lists(YAML_BITS, max_size=60))
def test_arbitrary_yaml_is_a_spec_error(bits: list[str], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes("".join(bits).encode("utf-8", "surrogatepass"))
    _check(lambda: load_job(file))


@QUICK
@given(data=st.dictionaries(KEYS, VALUES, max_size=8))
def test_arbitrary_mappings_of_our_words_are_a_spec_error(data: dict[str, object]) -> None:
    _check(lambda: load_job(data))


@QUICK
@given(key=st.one_of(KEYS, st.text(max_size=10)), bits=st.lists(YAML_BITS, max_size=20))
def test_arbitrary_overrides_are_a_spec_error(key: str, bits: list[str], tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("name: demo\nmodel: avbatch/procedural\n")
    value = "".join(bits)
    _check(lambda: load_job(file, overrides=[f"{key}={value}", f"params.{key}={value}"]))


@QUICK
@given(changes=st.lists(st.tuples(st.sampled_from(LEAVES), VALUES), min_size=1, max_size=4))
def test_a_good_spec_with_arbitrary_fields_changed_is_a_spec_or_a_spec_error(changes: list[tuple[str, object]]) -> None:
    data: dict[str, Any] = json.loads(json.dumps(GOOD))
    for dotted, value in changes:
        *parents, name = dotted.split(".")
        part = data
        for parent in parents:
            part = part.setdefault(parent, {})
        part[name] = value
    _check(lambda: load_job(data))
