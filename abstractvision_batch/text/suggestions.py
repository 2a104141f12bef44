"""Did you mean: the field, parameter or value that an unknown word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

#: What other tools call our fields. Spellings are compared without case, dashes and underscores.
FOREIGN_FIELDS: dict[str, str] = {
    "numinferencesteps": "steps",
    "inferencesteps": "steps",
    "samplesteps": "steps",
    "samplingsteps": "steps",
    "numsteps": "steps",
    "cfg": "guidance_scale",
    "cfgscale": "guidance_scale",
    "guidance": "guidance_scale",
    "cfgweight": "guidance_scale",
    "denoise": "strength",
    "denoisingstrength": "strength",
    "imagestrength": "strength",
    "frames": "num_frames",
    "numframe": "num_frames",
    "videoframes": "num_frames",
    "framerate": "fps",
    "framespersecond": "fps",
    "negative": "negative_prompt",
    "uc": "negative_prompt",
    "baseseed": "seed",
    "randomseed": "seed",
    "n": "samples_per_prompt",
    "numimages": "samples_per_prompt",
    "numsamples": "samples_per_prompt",
    "numimagesperprompt": "samples_per_prompt",
    "imagesperprompt": "samples_per_prompt",
    "samples": "samples_per_prompt",
    "modelid": "model",
    "modelname": "model",
    "checkpoint": "model_path",
    "weights": "model_path",
    "torchdtype": "dtype",
    "precision": "dtype",
    "sampler": "scheduler",
    "lora": "loras",
    "engine": "backend",
    "provider": "backend",
    "type": "kind",
    "config": "params",
    "parameters": "params",
    "sweep": "matrix",
    "grid": "matrix",
    "prompt": "prompts",
    "dataset": "prompts",
    "input": "prompts",
    "file": "source",
    "path": "source",
    "url": "source",
    "columns": "fields",
    "filter": "where",
    "maxprompts": "limit",
    "directory": "path",
    "dir": "path",
    "folder": "path",
    "outputdir": "path",
    "outdir": "path",
    "format": "image_format",
    "workers": "actors",
    "numworkers": "actors",
    "numgpus": "gpus_per_actor",
    "gpus": "gpus_per_actor",
    "numcpus": "cpus_per_actor",
    "retries": "max_attempts",
    "maxretries": "max_attempts",
    "batch": "batch_size",
    "batchsize": "batch_size",
    "chunksize": "shard_size",
    "rayaddress": "address",
}

#: What other tools call our values.
FOREIGN_VALUES: dict[str, str] = {
    "t2i": "text_to_image",
    "txt2img": "text_to_image",
    "text2img": "text_to_image",
    "text2image": "text_to_image",
    "i2i": "image_to_image",
    "img2img": "image_to_image",
    "image2image": "image_to_image",
    "inpaint": "image_to_image",
    "inpainting": "image_to_image",
    "t2v": "text_to_video",
    "txt2vid": "text_to_video",
    "text2video": "text_to_video",
    "i2v": "image_to_video",
    "img2vid": "image_to_video",
    "image2video": "image_to_video",
    "multiview": "multi_view_image",
    "huggingface": "diffusers",
    "huggingfacediffusers": "diffusers",
    "hf": "diffusers",
    "stablediffusioncpp": "sdcpp",
    "stablediffusion.cpp": "sdcpp",
    "openaicompatible": "openai",
    "http": "openai",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "jpg": "jpeg",
    "local": "inline",
}


def did_you_mean(word: str, candidates: Iterable[str], foreign: Mapping[str, str] | None = None) -> str | None:
    """The candidate that `word` was meant to be, if one is near enough."""
    word = word[:200]
    names = sorted(set(candidates))
    same = _same_word(word, names, foreign or {})
    if same is not None:
        return same
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return close[0] if close else None


def hint_for(word: str, candidates: Iterable[str], otherwise: str) -> str:
    """Return ``did you mean X?``, or what to say where no candidate is near."""
    near = did_you_mean(word, candidates)
    return f"did you mean {near}?" if near else otherwise


def hint_for_field(word: str, siblings: Sequence[str], elsewhere: Sequence[str]) -> str:
    """Parenthesis after ``unknown field``: a sibling, else a field of another part, else what is known here."""
    word = word[:200]
    near = _same_word(word, siblings, FOREIGN_FIELDS)
    if near is None:
        leaf = squeeze(FOREIGN_FIELDS.get(squeeze(word), word))
        same = [name for name in elsewhere if squeeze(name.rpartition(".")[2]) == leaf]
        near = min(same, key=lambda name: not name.startswith("params."), default=None)
    near = near or did_you_mean(word, siblings)
    return f"did you mean {near}?" if near else f"known here: {', '.join(siblings)}"


def _same_word(word: str, names: Sequence[str], foreign: Mapping[str, str]) -> str | None:
    squeezed = squeeze(word)
    known = foreign.get(squeezed)
    return next((name for name in names if squeeze(name) == squeezed or name == known), None)


def hint_for_value(word: str, words: Sequence[str]) -> str | None:
    """``did you mean X?`` for one of a few words."""
    near = did_you_mean(word, words, FOREIGN_VALUES)
    return f"did you mean {near}?" if near else None


def squeeze(word: str) -> str:
    """Return a name without case, dashes, underscores and spaces."""
    return word.lower().replace("_", "").replace("-", "").replace(" ", "")


def foreign_name_of(word: str, names: Iterable[str]) -> str | None:
    """Our name of another tool's field, if it is one of `names`."""
    known = FOREIGN_FIELDS.get(squeeze(word))
    return known if known in set(names) else None
