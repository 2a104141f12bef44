"""Encode, hash and keep what a backend generated, on a few threads, while the next batch generates.

A file holds what a repeat of its row has in common and nothing else: its name has a hash of its bytes, so no time,
host, worker or attempt goes in, nor do the prompt dataset's own columns.

Not covered: where the files are kept, and where they lie in the end (`layouts`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from PIL import Image

from abstractvision_batch.errors import DependencyError, InvalidOutputError
from abstractvision_batch.job.model import OutputSpec
from abstractvision_batch.media.frame_rates import tidy_fps
from abstractvision_batch.media.images import MIME_TYPES, decode_image, encode_image, pixel_sha256
from abstractvision_batch.media.metadata.embed import Embedded, embed_generation
from abstractvision_batch.media.metadata.payload import describe_generation
from abstractvision_batch.media.probe import FILE_EXTENSIONS, probe, sniff_mime_type
from abstractvision_batch.media.video import decode_video, video_pixel_sha256
from abstractvision_batch.report.gallery.inputs import DIGESTS, InputPreviews
from abstractvision_batch.report.gallery.sheets import ShardSheets
from abstractvision_batch.runs.artifact_names import artifact_name
from abstractvision_batch.runs.layouts.spool import Pieces
from abstractvision_batch.types import GeneratedAsset, VisionRequest


class ArtifactWriter:
    """A pool of threads that turns assets into encoded files. Encoders release the GIL."""

    def __init__(self, output: OutputSpec, *, run: str, threads: int) -> None:
        self._output = output
        self._run = run
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="artifact-writer")

    def submit(
        self,
        row: Mapping[str, Any],
        assets: Sequence[GeneratedAsset],
        pieces: Pieces,
        sheets: ShardSheets | None = None,
    ) -> Future[dict[str, Any]]:
        """Put a row's files into `pieces`; the future holds the manifest columns that describe them.

        Its thumbnail goes to `sheets`, while the pixels are in memory.

        The future raises InvalidOutputError for bytes that are no image or video and StorageError when storing fails.
        """
        return self._pool.submit(self._write_row, dict(row), list(assets), pieces, sheets)

    def preview(self, previews: InputPreviews, row: Mapping[str, Any], request: VisionRequest) -> None:
        """Store previews of a request's input pictures, on a thread."""
        for digest, field in DIGESTS.items():
            if row.get(digest) and (data := getattr(request, field, None)):
                self._pool.submit(previews.keep, dict(row), digest, data)

    def close(self) -> None:
        """Wait for what was submitted, then end the threads."""
        self._pool.shutdown(wait=True)

    def _write_row(
        self, row: Mapping[str, Any], assets: list[GeneratedAsset], pieces: Pieces, sheets: ShardSheets | None
    ) -> dict[str, Any]:
        written = []
        for view, asset in enumerate(assets):
            columns, data, picture = encode_asset(asset, self._output)
            if sheets is not None and view == 0:
                sheets.add(row["index"], picture or _first_frame(data))
            if self._output.embed_metadata:
                data, assets[view] = self._embed(row, asset, columns, data)
            written.append(_keep(row, columns, data, view, pieces))
        metadata = dict(assets[0].metadata)
        if row["task"] == "multi_view_image":
            metadata = _views_metadata(assets, written)
        return {**written[0], "metadata_json": json.dumps(metadata, sort_keys=True, ensure_ascii=False, default=str)}

    def _embed(
        self, row: Mapping[str, Any], asset: GeneratedAsset, columns: Mapping[str, Any], data: bytes
    ) -> tuple[bytes, GeneratedAsset]:
        """The file with what made it inside, and the asset, whose metadata say what did not go in."""
        embedded = embed_row(data, row, asset, columns, run=self._run)
        notes = {"not_embedded": list(embedded.left_out)} if embedded.left_out else {}
        return embedded.data, replace(asset, metadata=asset.metadata | notes)


def _keep(row: Mapping[str, Any], columns: Mapping[str, Any], data: bytes, view: int, pieces: Pieces) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    extension = FILE_EXTENSIONS[columns["content_type"]]
    name = artifact_name(row["shard"], row["request_id"], view, sha256, extension)
    pieces.put(name, data)
    return {**columns, "file_name": name, "size_bytes": len(data), "sha256": sha256}


def _views_metadata(assets: Sequence[GeneratedAsset], written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row's views have in common, and under `views` each one's file with what only it has.

    The columns of the row describe the first view alone.
    """
    first = assets[0].metadata
    shared = {
        name: value
        for name, value in first.items()
        if name != "angle" and all(asset.metadata.get(name) == value for asset in assets)
    }
    views = [
        {name: value for name, value in asset.metadata.items() if name not in shared}
        | {name: one[name] for name in ("file_name", "sha256", "pixel_sha256", "size_bytes")}
        for asset, one in zip(assets, written, strict=True)
    ]
    return {**shared, "views": views}


#: Columns of the plan that are written into a file.
_COLUMNS = (
    *("request_id", "prompt_id", "sample_index", "task", "model", "backend", "prompt", "negative_prompt", "seed"),
    *("steps", "guidance_scale", "num_frames", "fps", "strength", "input_image", "mask_image"),
)


def embed_row(
    data: bytes, row: Mapping[str, Any], asset: GeneratedAsset, columns: Mapping[str, Any], *, run: str
) -> Embedded:
    """Write what made a file into it.

    Args:
        data: the encoded file.
        row: of the plan.
        asset: what the backend answered with.
        columns: what is known of the encoded file.
        run: the job's name.
    """
    extra = json.loads(row["params_json"] or "{}")
    asked = {"run": run, "extra": extra, **{name: row[name] for name in _COLUMNS}}
    asked["fps"] = row["fps"] and tidy_fps(row["fps"])
    size = {"width": columns["media_width"], "height": columns["media_height"]}
    return embed_generation(data, describe_generation(asked, asset.metadata, **size))


def encode_asset(asset: GeneratedAsset, output: OutputSpec) -> tuple[dict[str, Any], bytes, Image.Image | None]:
    """The columns from `content_type` to `duration_s`, the file's bytes, and of an image the pixels.

    Raises:
        InvalidOutputError: the bytes are no image or video.
    """
    if asset.media_type == "video":
        return (*_measure_video(asset), None)
    return _encode_image(asset, output)


def _first_frame(data: bytes) -> Image.Image | None:
    """Return the first frame of a video; None where nothing that decodes videos is installed."""
    try:
        frame = next(decode_video(data), None)
    except DependencyError:
        return None
    return None if frame is None else Image.fromarray(frame)


def _encode_image(asset: GeneratedAsset, output: OutputSpec) -> tuple[dict[str, Any], bytes, Image.Image]:
    image = decode_image(asset.data, name="the generated image")
    wanted = MIME_TYPES[output.image_format]
    data = asset.data
    if sniff_mime_type(data) != wanted:
        data = encode_image(image, output.image_format, jpeg_quality=output.jpeg_quality)
        if wanted == "image/jpeg":
            image = decode_image(data)  # JPEG loses pixels: the hash is of what the file holds
    columns = {
        "content_type": wanted,
        "pixel_sha256": pixel_sha256(image),
        "media_width": image.width,
        "media_height": image.height,
        "media_frames": 1,
        "duration_s": None,
    }
    return columns, data, image


def _measure_video(asset: GeneratedAsset) -> tuple[dict[str, Any], bytes]:
    mime_type = sniff_mime_type(asset.data)
    if mime_type not in FILE_EXTENSIONS:
        raise InvalidOutputError(f"the generated video is {mime_type or 'of no known type'}, not MP4 or WebM")
    info = probe(asset.data, mime_type)
    columns = {
        "content_type": mime_type,
        "pixel_sha256": video_pixel_sha256(asset.data),
        "media_width": info.width,
        "media_height": info.height,
        "media_frames": info.frames,
        "duration_s": info.duration_s,
    }
    return columns, asset.data
