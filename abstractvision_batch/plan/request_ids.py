"""Seeds and ids of requests: stable hashes of what determines the pixels, the same on every machine and for ever.

A request id is the first 26 hex digits (104 bits) of a SHA-256 over canonical JSON:
`[{"backend": …, "model": …, "params": …, "task": …}, prompt id, prompt, negative prompt, image, mask, sample, seed]`.
Its order of columns, its shard and its batch are not part of it; of a seed that `seeds` lists, nor is its place there.

The seed of a sample is a hash of (base seed, prompt id, sample number) alone, so all points of a matrix share it and
only the swept parameter differs between their images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as _quote
from typing import Any

from abstractvision_batch.job.fingerprint import backend_identity
from abstractvision_batch.job.model import JobSpec
from abstractvision_batch.runs.columns import REQUEST_ID_DIGITS


def derive_seed(base_seed: int, prompt_id: str, sample_index: int) -> int:
    """A seed in [0, 2**31), which every backend takes."""
    text = f"{base_seed}/{sample_index}/{prompt_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4, person=b"avbatch-seed").digest()) >> 1


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class RequestIds:
    """Ids of the requests that share task, model, backend and `params`, which are hashed once."""

    def __init__(self, spec: JobSpec, params: Mapping[str, Any]) -> None:
        shared = {
            "task": spec.task,
            "model": spec.model,
            "backend": backend_identity(spec),
            "params": {name: value for name, value in params.items() if value is not None},
        }
        self._seeds_are_listed = bool(spec.seeds)
        self._hash = hashlib.sha256(b"[" + canonical_json(shared).encode() + b",")

    def id_of(
        self,
        prompt_id: str,
        prompt: str,
        negative_prompt: str | None,
        image: str | None,
        mask: str | None,
        sample_index: int,
        seed: int,
    ) -> str:
        """The id of one request; images by what stands for their content."""
        if self._seeds_are_listed:
            sample_index = 0  # a seed that is put between others leaves their requests as they are
        texts = f"{_quote(prompt_id)},{_quote(prompt)},{_json(negative_prompt)},{_json(image)},{_json(mask)}"
        hash_ = self._hash.copy()
        hash_.update(f"{texts},{sample_index},{seed}]".encode())
        return hash_.hexdigest()[:REQUEST_ID_DIGITS]


def _json(text: str | None) -> str:
    return "null" if text is None else _quote(text)
