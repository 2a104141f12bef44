"""What changes the fingerprint and what does not, in both directions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from abstractvision_batch.job.fingerprint import (
    FINGERPRINT_VERSION,
    backend_identity,
    card_identity,
    fingerprint,
    spec_identity,
)
from abstractvision_batch.job.load import load_job
from abstractvision_batch.job.marks import Effect
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.job.walk import FieldValue, leaves

GOOD: dict[str, Any] = {
    "name": "demo",
    "model": "avbatch/shapes64",
    "backend": {"kind": "diffusers"},
    "prompts": {"source": ["a fox"]},
    "params": {"guidance_scale": 3.0},
    "matrix": {"steps": [10, 20], "seed": [1, 2]},
    "output": {"path": "runs/demo"},
}
PINNED = "9904211402d12e739e13df2375222008a3f4265f490d6e4a6b4425cefc01d95a"
PINNED_OF_VERSION_1 = "69da1b30f47e6cd932dc77b33971e4d3c9b75507bfcdf33e37320ae03c381a2c"

#: Defaults that fingerprints rest on. A new identity field is added here; a changed default takes a new version.
DEFAULTS_OF_VERSION_1: dict[str, object] = {
    "version": 1,
    "task": "text_to_image",
    "backend.kind": "diffusers",
    "backend.diffusers.model_path": None,
    "backend.diffusers.config_path": None,
    "backend.diffusers.revision": None,
    "backend.diffusers.variant": None,
    "backend.diffusers.device": "auto",
    "backend.diffusers.dtype": "auto",
    "backend.diffusers.scheduler": None,
    "backend.diffusers.loras": (),
    "backend.diffusers.lora_sets": {},
    "backend.diffusers.rapid_aio_repo": None,
    "backend.diffusers.threads": 1,
    "backend.diffusers.attention_slicing": False,
    "backend.diffusers.vae_slicing": False,
    "backend.diffusers.vae_tiling": False,
    "backend.diffusers.quantization": "none",
    "backend.diffusers.torch_compile": "none",
    "backend.diffusers.attention_backend": None,
    "backend.diffusers.auto_retry_fp32": True,
    "backend.openai.label": None,
    "backend.openai.served_model": None,
    "backend.openai.dialect": "auto",
    "backend.openai.request_shape": None,
    "backend.openai.field_names": {},
    "backend.openai.video_mode": "paths",
    "backend.sdcpp.model_path": None,
    "backend.sdcpp.diffusion_model": None,
    "backend.sdcpp.high_noise_diffusion_model": None,
    "backend.sdcpp.vae": None,
    "backend.sdcpp.taesd": None,
    "backend.sdcpp.clip_l": None,
    "backend.sdcpp.clip_g": None,
    "backend.sdcpp.clip_vision": None,
    "backend.sdcpp.t5xxl": None,
    "backend.sdcpp.llm": None,
    "backend.sdcpp.llm_vision": None,
    "backend.sdcpp.lora_dir": None,
    "backend.sdcpp.loras": (),
    "backend.sdcpp.lora_sets": {},
    "backend.sdcpp.weight_type": None,
    "backend.sdcpp.sampler": None,
    "backend.sdcpp.scheduler": None,
    "backend.sdcpp.eta": None,
    "backend.sdcpp.flow_shift": None,
    "backend.sdcpp.rng": "cpu",
    "backend.sdcpp.flash_attention": False,
    "backend.sdcpp.vae_tiling": False,
    "backend.sdcpp.extra_args": (),
    "prompts.format": "auto",
    "prompts.comments": None,
    "prompts.fields.prompt": "prompt",
    "prompts.fields.id": "id",
    "prompts.fields.negative_prompt": "negative_prompt",
    "prompts.fields.seed": "seed",
    "prompts.fields.image": "image",
    "prompts.fields.mask": "mask",
    "prompts.fields.width": "width",
    "prompts.fields.height": "height",
    "prompts.fields.steps": "steps",
    "prompts.fields.guidance_scale": "guidance_scale",
    "prompts.fields.strength": "strength",
    "prompts.fields.num_frames": "num_frames",
    "prompts.fields.fps": "fps",
    "prompts.fit": "error",
    "prompts.template": None,
    "prompts.grammar": None,
    "prompts.where": None,
    "prompts.shuffle": None,
    "prompts.limit": None,
    "prompts.drop": (),
    "prompts.rename": {},
    "params.negative_prompt": None,
    "params.width": None,
    "params.height": None,
    "params.steps": None,
    "params.guidance_scale": None,
    "params.strength": None,
    "params.num_frames": None,
    "params.fps": None,
    "params.seed": 0,
    "params.extra": {},
    "matrix": {},
    "zip": {},
    "draw": None,
    "skip": None,
    "seeds": [],
    "variants": {},
    "samples_per_prompt": 1,
    "output.image_format": "png",
    "output.jpeg_quality": 95,
    "execution.batch_size": "auto",
}


#: Every identity field of every backend, and of the rest, with a value that is not its default.
EVERY_BACKEND_FIELD: dict[str, dict[str, Any]] = {
    "diffusers": {
        "model_path": "weights",
        "config_path": "configuration",
        "revision": "main",
        "variant": "fp16",
        "device": "cuda:1",
        "dtype": "float16",
        "scheduler": "EulerDiscreteScheduler",
        "loras": [{"source": "a", "scale": 0.5, "weight_name": "b", "subfolder": "c"}, {"source": "d"}],
        "rapid_aio_repo": "some/repo",
        "threads": 2,
        "attention_slicing": True,
        "vae_slicing": True,
        "vae_tiling": True,
        "quantization": "int8",
        "torch_compile": "default",
        "attention_backend": "flash",
        "auto_retry_fp32": False,
    },
    "openai": {
        "base_url": "http://127.0.0.1:1/v1",
        "served_model": "served",
        "dialect": "extended",
        "field_names": {"steps": "num_inference_steps", "seed": "random_seed"},
        "video_mode": "videos_api",
    },
    "openai with a label": {"base_url": "http://127.0.0.1:1/v1", "label": "west"},
    "openai of before there were dialects": {"base_url": "http://127.0.0.1:1/v1", "request_shape": "sd_server"},
    "procedural": {},
    "sdcpp": {
        **{name: f"{name}.gguf" for name in ("model_path", "diffusion_model", "high_noise_diffusion_model", "vae")},
        **{name: f"{name}.gguf" for name in ("taesd", "clip_l", "clip_g", "clip_vision", "t5xxl", "llm")},
        "llm_vision": "llm_vision.gguf",
        "lora_dir": "loras",
        "loras": [{"source": "a", "scale": 0.5}],
        "weight_type": "q8_0",
        "sampler": "euler",
        "scheduler": "karras",
        "eta": 0.5,
        "flow_shift": 3,
        "rng": "cuda",
        "flash_attention": True,
        "vae_tiling": True,
        "extra_args": ["--x", "y"],
    },
}
EVERY_OTHER_FIELD: dict[str, Any] = {
    "version": 1,
    "name": "demo",
    "task": "image_to_image",
    "model": "avbatch/shapes64",
    "prompts": {
        "source": ["a fox"],
        "format": "csv",
        "comments": "#",
        "fields": {
            name: f"the {name}"
            for name in (
                *("prompt", "id", "negative_prompt", "seed", "image", "mask", "width", "height"),
                *("steps", "guidance_scale", "strength", "num_frames", "fps"),
            )
        },
        "fit": "crop",
        "template": "{{ a }}",
        "where": "a",
        "shuffle": 1,
        "limit": 2,
        "drop": ["b"],
        "rename": {"c": "d"},
    },
    "params": {
        **{"negative_prompt": "n", "width": 64, "height": 32, "steps": 3, "guidance_scale": 2, "strength": 0.5},
        **{"num_frames": 5, "fps": 24, "seed": 9, "extra": {"b": 1, "a": [2.5, None]}},
    },
    "matrix": {"steps": [10, 20], "guidance_scale": [3]},
    "zip": {"seed": [1, 2], "strength": [0, 1]},
    "samples_per_prompt": 3,
    "output": {"path": "run", "image_format": "jpeg", "jpeg_quality": 50},
    "execution": {"batch_size": 4},
}
PINNED_OF_EVERY_FIELD = {
    "diffusers": "85e62bada2aad39852c844c9b5734099059038c8620a4f56344d8c37e5a1d1b4",
    "openai": "83430bcf14f285f3c42c36152903aae7c8b7498f9e9c9514aed431b6f0bb3fed",
    "openai with a label": "29d0c379ad7321cb583896fa708b644aabf07ed70ac8fead3224c5354f6c0b69",
    "openai of before there were dialects": "c286bd726fd0207851d2f1ae1edbf6256d03d7826a76196f8b99f16bebce7a9b",
    "procedural": "565d6169044adb0c0d8271462ac0f6caa19ce46f680942dcba88c00fdbcc13ac",
    "sdcpp": "1226a77e0fe660504b16d1b82eda57809e77171ede9e499c4af6503cd50badcc",
}
#: Fields of parameter spaces, which came later, over `GOOD`.
EVERY_FIELD_OF_SPACES: dict[str, Any] = {
    "prompts.grammar": {"kind": "dynamic", "mode": "random", "n": 3, "wildcards": "w"},
    "seeds": [3, 4],
    "skip": "steps > 10 and guidance_scale < 2",
    "draw": {
        "n": 2,
        "guidance_scale": {"uniform": [1, 9]},
        "strength": {"loguniform": [0.1, 1]},
        "width": {"int": [1, 9]},
        "height": {"choice": [32, 64]},
    },
}
PINNED_OF_SPACES = "c68230dd243ada129caedf38399e8dc71e8c7198769bf59547b92cf250446296"


#: By backend: what its requests may choose from, and other parameters that vary.
EVERY_FIELD_OF_OTHER_PARAMETERS: dict[str, dict[str, Any]] = {
    kind: {
        "backend": {"kind": kind, "lora_sets": {"soft": [{"source": "s.safetensors", "scale": 0.5}], "none": []}},
        "matrix": {"loras": ["soft", "none"], "extra.clip_skip": [1, 2], "loras[0].scale": [0.5, 1]},
        "draw": {"n": 2, "extra.eta": {"uniform": [0, 1]}, "scheduler": {"choice": ["a", {"name": "b"}]}},
        "prompts.fields": {"extra.sigmas": "column"},
    }
    for kind in ("diffusers", "sdcpp")
}
PINNED_OF_OTHER_PARAMETERS = {
    "diffusers": "e2144a9f00bb7771a1f644fb08b3bfc9e4f454e55ba64106a0fb9ccc6c81cd96",
    "sdcpp": "5d9c0e60d9440160c37613587af4e507f087fa5451a3e8a6d90fc6300d373255",
}


def _spec(changes: dict[str, Any] | None = None) -> JobSpec:
    data = {name: dict(value) if isinstance(value, dict) else value for name, value in GOOD.items()}
    for dotted, value in (changes or {}).items():
        *parents, name = dotted.split(".")
        part: Any = data
        for parent in parents:
            part = part.setdefault(parent, {})
        part[name] = value
    return JobSpec.model_validate(data)


def _fingerprint(changes: dict[str, Any] | None = None, prompts_digest: str = "0" * 64) -> str:
    return fingerprint(_spec(changes), prompts_digest=prompts_digest)


def test_every_field_is_marked_as_identity_or_runtime() -> None:
    unmarked = [leaf.name for leaf in leaves(JobSpec) if leaf.mark(Effect) is None]

    assert unmarked == [], f"mark as Identity[...] (changes pixels) or Runtime[...] (does not): {unmarked}"


CHANGES_IT: dict[str, dict[str, Any]] = {
    "task": {"task": "image_to_image"},
    "model": {"model": "avbatch/procedural"},
    "backend kind": {"backend": {"kind": "procedural"}},
    "weights": {"backend.model_path": "weights"},
    "dtype": {"backend.dtype": "float16"},
    "device": {"backend.device": "cuda"},
    "threads": {"backend.threads": 2},
    "a LoRA": {"backend.loras": [{"source": "x"}]},
    "guidance": {"params.guidance_scale": 3.5},
    "steps": {"params.steps": 3},
    "seed": {"params.seed": 1},
    "extra": {"params.extra": {"eta": 0.5}},
    "template": {"prompts.template": "{{ prompt }}!"},
    "limit": {"prompts.limit": 1},
    "a column": {"prompts.fields": {"prompt": "caption"}},
    "a crop": {"prompts.fit": "crop"},
    "padding": {"prompts.fit": "pad"},
    "no column": {"prompts.fields": {"seed": None}},
    "matrix values": {"matrix": {"steps": [10, 30], "seed": [1, 2]}},
    "matrix order": {"matrix": {"seed": [1, 2], "steps": [10, 20]}},
    "zip": {"zip": {"guidance_scale": [1.0, 2.0]}},
    "samples": {"samples_per_prompt": 2},
    "seeds": {"seeds": [1, 2]},
    "draws": {"draw": {"n": 2, "fps": {"uniform": [1, 2]}}},
    "a grammar": {"prompts.grammar": "dynamic"},
    "skipped points": {"skip": "steps > 10"},
    "a lossy format": {"output.image_format": "jpeg"},
    "batch size": {"execution.batch_size": 2},
}


@pytest.mark.parametrize("what", CHANGES_IT)
def test_what_changes_pixels_or_requests_changes_the_fingerprint(what: str) -> None:
    assert _fingerprint(CHANGES_IT[what]) != _fingerprint()


CHANGES_NOTHING: dict[str, dict[str, Any]] = {
    "name": {"name": "other", "description": "words"},
    "output path": {"output.path": "s3://elsewhere"},
    "output options": {"output.storage_options": {"anon": True}},
    "path of the prompts": {"prompts.source": "other.txt"},
    "executor": {"execution.executor": "ray"},
    "actors": {"execution.actors": 7, "execution.gpus_per_actor": 0.5, "execution.cpus_per_actor": 2},
    "shard size": {"execution.shard_size": 7},
    "writer threads": {"execution.writer_threads": 7},
    "attempts": {"execution.max_attempts": 7},
    "cache folder": {"backend.cache_dir": "x", "backend.allow_download": True},
    "cards": {"registry.paths": ["x"]},
    "a default written out": {"params.seed": 0, "execution.batch_size": "auto", "samples_per_prompt": 1},
    "another lossless format": {"output.image_format": "webp"},
    "quality that no file has": {"output.jpeg_quality": 50},
    "stretched as before there was a choice": {"prompts.fit": "stretch"},
    "5 for 5.0": {"params.guidance_scale": 3},
}


@pytest.mark.parametrize("what", CHANGES_NOTHING)
def test_what_does_not_change_pixels_does_not_change_the_fingerprint(what: str) -> None:
    assert _fingerprint(CHANGES_NOTHING[what]) == _fingerprint()


def test_prompts_change_the_fingerprint_by_their_digest() -> None:
    assert _fingerprint(prompts_digest="1" * 64) != _fingerprint()


def test_quality_counts_for_jpeg_and_the_number_of_a_gpu_does_not() -> None:
    jpeg = {"output.image_format": "jpeg"}
    assert _fingerprint({**jpeg, "output.jpeg_quality": 50}) != _fingerprint(jpeg)
    assert _fingerprint({"backend.device": "cuda:1"}) == _fingerprint({"backend.device": "cuda"})


def test_3_and_3_0_in_an_unchecked_matrix_are_one() -> None:
    assert _fingerprint({"matrix": {"guidance_scale": [3]}}) == _fingerprint({"matrix": {"guidance_scale": [3.0]}})


def test_the_card_counts_by_its_defaults_and_not_by_its_notes() -> None:
    loaded = load_job(GOOD)
    spec, card = loaded.spec, loaded.card
    data = card.to_json()

    def changed(**parts: Any) -> str:
        return fingerprint(spec, prompts_digest="", card=type(card).from_json({**data, **parts}))

    before = fingerprint(spec, prompts_digest="", card=card)
    task = data["tasks"]["text_to_image"]
    tasks = {"text_to_image": {**task, "params": {**task["params"], "steps": {"required": False, "default": 21}}}}
    assert changed(notes="other", sources=["other"], gated=True) == before
    assert changed(tasks=tasks) != before
    assert card_identity(card, spec)["params"]["steps"] == 20


def test_the_identity_of_a_backend_is_its_kind_and_what_differs() -> None:
    changed = {"backend.dtype": "float16", "backend.cache_dir": "x"}

    assert backend_identity(_spec()) == {"kind": "diffusers"}
    assert backend_identity(_spec(changed)) == {"kind": "diffusers", "dtype": "float16"}


def test_the_fingerprint_is_the_same_in_every_process_and_release() -> None:
    code = (
        "from abstractvision_batch.job.fingerprint import fingerprint\n"
        "from abstractvision_batch.job.model import JobSpec\n"
        f"print(fingerprint(JobSpec.model_validate({GOOD!r}), prompts_digest='0' * 64))"
    )
    for seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
        assert done.stdout.strip() == PINNED
    assert _fingerprint() == PINNED, "fingerprints of runs on disk would change: raise FINGERPRINT_VERSION"


def _full_spec(name: str) -> JobSpec:
    return JobSpec.model_validate(
        {**EVERY_OTHER_FIELD, "backend": {"kind": name.partition(" ")[0], **EVERY_BACKEND_FIELD[name]}}
    )


@pytest.mark.parametrize("name", EVERY_BACKEND_FIELD)
def test_every_identity_field_enters_the_fingerprint_as_it_always_did(name: str) -> None:
    assert fingerprint(_full_spec(name), prompts_digest="0" * 64) == PINNED_OF_EVERY_FIELD[name]


def test_every_field_of_a_parameter_space_enters_the_fingerprint_as_it_always_did() -> None:
    assert _fingerprint(EVERY_FIELD_OF_SPACES) == PINNED_OF_SPACES


@pytest.mark.parametrize("kind", EVERY_FIELD_OF_OTHER_PARAMETERS)
def test_other_parameters_enter_the_fingerprint_as_they_always_did(kind: str) -> None:
    assert _fingerprint(EVERY_FIELD_OF_OTHER_PARAMETERS[kind]) == PINNED_OF_OTHER_PARAMETERS[kind]


def test_the_pinned_specs_set_every_identity_field() -> None:
    pinned = {field for name in EVERY_BACKEND_FIELD for field in spec_identity(_full_spec(name))}
    for changes in (EVERY_FIELD_OF_SPACES, *EVERY_FIELD_OF_OTHER_PARAMETERS.values()):
        pinned |= set(spec_identity(_spec(changes)))

    fields = {leaf.name for leaf in _identity_fields()}
    # A job of variants has the fingerprints of its variants, each a job of its own.
    assert fields - pinned == {"version", "variants"}, "give the new field a value in the pinned specs"


def test_the_fingerprints_of_an_earlier_version_can_be_computed_for_ever() -> None:
    loaded = load_job(GOOD).under(1)

    assert fingerprint(loaded.spec, prompts_digest="0" * 64, version=1) == PINNED_OF_VERSION_1


def test_defaults_of_identity_fields_stay_within_a_version() -> None:
    assert FINGERPRINT_VERSION == 2, "record the defaults of the new version"
    assert defaults_of_identity_fields() == DEFAULTS_OF_VERSION_1, (
        "a new identity field is added to DEFAULTS_OF_VERSION_1; a changed default also takes a new FINGERPRINT_VERSION"
    )


def defaults_of_identity_fields() -> dict[str, object]:
    """Under dotted names; required fields have none."""
    found = {
        leaf.name: leaf.info.get_default(call_default_factory=True)
        for leaf in _identity_fields()
        if not leaf.info.is_required()
    }
    return {**found, "backend.kind": found["backend.kind"].kind}


def _identity_fields() -> Iterator[FieldValue]:
    return (leaf for leaf in leaves(JobSpec) if leaf.effect is Effect.IDENTITY)
