"""What a good spec becomes, and where its fields are said to stand."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.huggingface_diffusers.fields import DiffusersBackendSpec
from abstractvision_batch.errors import SpecError
from abstractvision_batch.job.load import load_job

GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/procedural",
    "backend": {"kind": "procedural"},
    "prompts": {"source": ["a fox", {"prompt": "a hen", "breed": "Sussex"}]},
    "output": {"path": "runs/demo"},
}


def _write(folder: Path, text: str) -> Path:
    file = folder / "spec.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_spec_knows_its_file_its_folder_its_card_and_its_places(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        "name: demo\n"
        "model: avbatch/procedural\n"
        "backend: {kind: procedural}\n"
        "prompts: {source: [a fox]}\n"
        "params:\n"
        "  steps: 3\n"
        "matrix: {guidance_scale: [3, 5.5]}\n"
        "output: {path: runs/demo}\n",
    )

    loaded = load_job(file)

    assert loaded.path == str(file)
    assert loaded.base_dir == tmp_path
    assert loaded.card.id == "avbatch/procedural"
    assert loaded.positions.where(("params", "steps")) == f"{file}:6:3"
    assert loaded.positions.where(("matrix", "guidance_scale", 1)) == f"{file}:7:30"
    assert loaded.positions.where(("params", "seed")) == f"{file}:5:1", "an absent field stands at its parent"
    assert loaded.positions.where(()) == f"{file}:1:1"


def test_values_of_matrix_and_zip_are_typed_as_params_are() -> None:
    loaded = load_job(
        {**GOOD, "matrix": {"guidance_scale": [3, 5.5]}, "zip": {"steps": [1, 2], "negative_prompt": [None, "blurry"]}}
    )

    assert [(type(value), value) for value in loaded.spec.matrix["guidance_scale"]] == [(float, 3.0), (float, 5.5)]
    assert loaded.spec.zip == {"steps": [1, 2], "negative_prompt": [None, "blurry"]}


def test_a_mapping_and_a_file_give_the_same_spec(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        "name: demo\nmodel: avbatch/procedural\nbackend: {kind: procedural}\noutput: {path: runs/demo}\n"
        "prompts: {source: [a fox, {prompt: a hen, breed: Sussex}]}\n",
    )

    assert load_job(GOOD).spec == load_job(file).spec


def test_a_mapping_takes_paths_and_tuples_and_names_the_field_of_what_it_cannot_take(tmp_path: Path) -> None:
    loaded = load_job({**GOOD, "output": {"path": tmp_path}, "matrix": {"steps": (1, 2)}})
    assert loaded.spec.output.path == str(tmp_path)

    with pytest.raises(SpecError) as caught:
        load_job({**GOOD, "params": {"steps": 0, "extra": {"a": {1, 2}, "b": float("nan"), "c": 2**70, "d": "\ud800"}}})
    assert caught.value.problems == (
        "<spec>: params.extra.a: a set cannot stand in a spec",
        "<spec>: params.extra.b: nan is not a finite number",
        "<spec>: params.extra.c: an integer beyond 64 bits",
        "<spec>: params.extra.d: text with half a surrogate pair in it",
        "<spec>: params.steps: 0 is not an integer from 1 to 10000",
    )


def test_a_mapping_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = dict(GOOD)
    endless["params"] = {"extra": endless}

    with pytest.raises(SpecError, match="levels"):
        load_job(endless)


@pytest.mark.parametrize(
    ("yaml_text", "value"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("2026-01-31", "2026-01-31"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("1e-4", 1e-4),
        ("-.5", -0.5),
        ("+3", 3),
        ("-0", 0),
        ("0" * 5000 + "7", 7),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("True", True),
        ("~", None),
        ("&x [1, 2]", [1, 2]),
        ("{1: a, true: b}", {"1": "a", "true": "b"}),
        ('"${HOME} stays"', "${HOME} stays"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_has_them(yaml_text: str, value: object, tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        "name: demo\nmodel: avbatch/procedural\nbackend: {kind: procedural}\nprompts: {source: [a fox]}\n"
        f"output: {{path: runs/demo}}\nparams: {{extra: {{value: {yaml_text}}}}}\n",
    )

    found = load_job(file).spec.params.extra["value"]

    assert (type(found), found) == (type(value), value)


def test_an_alias_repeats_a_value_and_stands_where_its_anchor_does(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        "name: demo\nmodel: avbatch/procedural\nbackend: {kind: procedural}\nprompts: {source: [a fox]}\n"
        "output: {path: runs/demo}\nmatrix:\n  steps: &some [1, 2]\nparams: {extra: {some: *some}}\n",
    )

    assert load_job(file).spec.params.extra == {"some": [1, 2]}


def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(
        b"\xef\xbb\xbfname: demo\r\nmodel: avbatch/procedural\r\nbackend: {kind: procedural}\r\n"
        b"prompts: {source: [a f\xc3\xb6x]}\r\noutput: {path: x}\r\n"
    )

    assert load_job(file).spec.prompts.source == ["a föx"]


def test_local_paths_start_at_the_spec_and_urls_stay(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    loaded = load_job(
        {
            **GOOD,
            "model": "avbatch/shapes64",
            "backend": {
                "kind": "diffusers",
                "model_path": "weights.safetensors",
                "config_path": "config",
                "rapid_aio_repo": "lora",
                "loras": [{"source": "lora"}, {"source": "someone/a-hub-id"}],
            },
        },
        base_dir=tmp_path,
    )

    assert isinstance(loaded.spec.backend, DiffusersBackendSpec)
    assert loaded.spec.backend.model_path == "weights.safetensors", "the spec keeps what is written"
    assert isinstance(loaded.backend, DiffusersBackendSpec)
    assert loaded.backend.model_path == str(tmp_path / "weights.safetensors")
    assert loaded.backend.config_path == str(tmp_path / "config")
    assert loaded.backend.rapid_aio_repo == str(tmp_path / "lora")
    assert [lora.source for lora in loaded.backend.loras] == [str(tmp_path / "lora"), "someone/a-hub-id"]
    assert loaded.local_path("s3://bucket/x.txt") == "s3://bucket/x.txt"
    assert loaded.local_path("/x.txt") == "/x.txt"


def test_cards_of_the_spec_are_found_beside_it_and_broken_ones_are_named(tmp_path: Path) -> None:
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "mine.yaml").write_text(
        "cards:\n  - id: me/mine\n    provider: me\n    license: mit\n    tasks: {text_to_image: {params: {}}}\n"
        "    backends: {procedural: {}}\n    sources: [here]\n"
    )
    mine = {**GOOD, "model": "me/mine", "registry": {"paths": ["cards"]}}

    assert load_job(mine, base_dir=tmp_path).card.id == "me/mine"
    assert load_job({**mine, "registry": {}}, registry_paths=[cards]).card.id == "me/mine"

    (cards / "mine.yaml").write_text("cards: [")
    with pytest.raises(SpecError) as caught:
        load_job(mine, base_dir=tmp_path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"<spec>: registry.paths: {cards / 'mine.yaml'}")


def test_a_spec_error_and_a_loaded_spec_survive_pickling() -> None:
    loaded = load_job(GOOD)
    again = pickle.loads(pickle.dumps(loaded))
    assert again == loaded

    with pytest.raises(SpecError) as caught:
        load_job({})
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_loading_specs_imports_nothing_heavy() -> None:
    code = (
        "import sys; import abstractvision_batch.job.load; "
        "print([m for m in ('numpy', 'pyarrow', 'fsspec', 'jinja2', 'torch', 'ray', 'PIL') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
