from __future__ import annotations

import subprocess
import sys

import pytest

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.backends.base_backend import VisionBackend
from abstractvision_batch.backends.huggingface_diffusers.fields import DiffusersBackendSpec, LoraSpec
from abstractvision_batch.backends.openai_compatible.fields import OpenAIBackendSpec
from abstractvision_batch.backends.procedural.fields import ProceduralBackendSpec
from abstractvision_batch.backends.table import (
    BACKENDS,
    BackendEntry,
    create_backend,
    load_backend_class,
    require_extra,
)
from abstractvision_batch.errors import (
    CapabilityNotSupportedError,
    DependencyError,
    OptionalDependencyMissingError,
)
from abstractvision_batch.job.model import BackendSpec
from abstractvision_batch.registry.cards import load_cards
from abstractvision_batch.types import TASKS


def test_the_table_is_sorted() -> None:
    assert list(BACKENDS) == sorted(BACKENDS)


@pytest.mark.parametrize("kind", BACKENDS)
def test_checking_for_an_extra_imports_nothing(kind: str) -> None:
    code = (
        "import sys, abstractvision_batch.backends.table as table\n"
        f"table.require_extra({kind!r})\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'av', 'ray'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_diffusers_names_come_without_importing_torch() -> None:
    code = (
        "import sys\n"
        "import abstractvision_batch.backends as b\n"
        "b.HuggingFaceDiffusersVisionBackend(b.HuggingFaceDiffusersBackendConfig('a/b')).get_capabilities()\n"
        "print('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_missing_extra_is_an_error_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = BackendEntry("here:There", ("no_such_module",), 'pip install "abstractvision_batch[there]"')
    monkeypatch.setitem(BACKENDS, "there", entry)

    with pytest.raises(
        OptionalDependencyMissingError, match=r'no_such_module \(pip install "abstractvision_batch\[there'
    ):
        require_extra("there")


def test_an_unknown_backend_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(CapabilityNotSupportedError, match=r"backend difusers: unknown \(did you mean diffusers\?\)"):
        require_extra("difusers")


@pytest.mark.parametrize("target", ["no_such_module:Class", "pathlib:NoSuchClass", "pathlib:Path"])
def test_an_outside_backend_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setitem(BACKENDS, "outside", BackendEntry(target))

    with pytest.raises(DependencyError, match=f"backend outside: {target}"):
        load_backend_class("outside")


def test_a_spec_makes_its_backend() -> None:
    card = load_cards()["avbatch/procedural"]

    backend = create_backend(ProceduralBackendSpec(fail_when="bad"), card=card, model=card.id)

    assert isinstance(backend, ProceduralVisionBackend)
    assert backend.config.fail_when == "bad"


def test_the_job_wins_over_the_card() -> None:
    from abstractvision_batch.backends import HuggingFaceDiffusersVisionBackend

    card = load_cards()["avbatch/shapes64"]
    plain = create_backend(DiffusersBackendSpec(), card=card, model=card.id)
    changed = create_backend(
        DiffusersBackendSpec(model_path="/elsewhere", dtype="bfloat16", loras=(LoraSpec(source="x", scale=0.5),)),
        card=card,
        model=card.id,
    )

    assert isinstance(plain, HuggingFaceDiffusersVisionBackend)
    assert isinstance(changed, HuggingFaceDiffusersVisionBackend)
    assert (plain.config.path, plain.config.torch_dtype, plain.config.native_dtype) == (
        "package:models/shapes64",
        None,
        "float32",
    )
    assert plain.config.pipelines["inpaint"] == "StableDiffusionInpaintPipeline"
    assert (changed.config.path, changed.config.torch_dtype) == ("/elsewhere", "bfloat16")
    assert changed.config.loras[0].scale == 0.5


def make_able(kind: str) -> VisionBackend:
    """A backend whose model and configuration can do all that the backend can."""
    if kind == "openai":
        spec: BackendSpec = OpenAIBackendSpec(base_url="http://127.0.0.1:1/v1", video_mode="videos_api")
        return create_backend(spec, card=None, model="m")
    if kind == "diffusers":
        pipelines = dict.fromkeys(TASKS, "AnyPipeline")
        fields = {"device": "cpu"}
        return load_backend_class(kind).from_fields(fields, card_facts={"pipelines": pipelines}, model="m")
    return load_backend_class(kind).from_fields({}, card_facts={}, model="m")


@pytest.mark.parametrize("kind", BACKENDS)
def test_the_tasks_that_the_table_declares_are_those_of_the_backend(kind: str) -> None:
    entry, backend = BACKENDS[kind], make_able(kind)

    capabilities = backend.get_capabilities()

    assert entry.gpu and entry.notes
    assert capabilities is not None and capabilities.supported_tasks is not None
    assert set(entry.tasks) == set(capabilities.supported_tasks)


@pytest.mark.parametrize("kind", BACKENDS)
def test_an_extra_is_named_like_its_backend(kind: str) -> None:
    assert BACKENDS[kind].install in ("", f'pip install "abstractvision_batch[{kind}]"')
    # sdcpp runs an installed program as well, so it asks for its package only where there is none
    assert bool(BACKENDS[kind].install) == (bool(BACKENDS[kind].modules) or kind == "sdcpp")
