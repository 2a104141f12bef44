"""Files that say something already: it stays, signed files are not touched at all, and no stream is written anew."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from abstractvision_batch.media.metadata.embed import embed_generation, read_parameters
from abstractvision_batch.media.video import encode_video, video_pixel_sha256

OURS: dict[str, Any] = {"avbatch": "1", "prompt": "ours", "seed": 7, "model": "m", "width": 16, "height": 16}
C2PA = "all: the file is signed (C2PA)"
#: How a manifest that is kept elsewhere is named.
REMOTE = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="https://example.org/m.c2pa"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def saved(format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(out, format, **options)
    return out.getvalue()


def mp4() -> bytes:
    noise = np.random.default_rng(3)
    return encode_video([noise.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(12)], fps=6)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def signed_png() -> bytes:
    data = saved("PNG")
    return data[:33] + png_chunk(b"caBX", b"\x00\x00\x00\x08jumb") + data[33:]


def signed_jpeg() -> bytes:
    data = saved("JPEG")
    box = b"JP\x00\x01\x00\x00\x00\x01\x00\x00\x00\x30jumb\x00\x00\x00\x20jumdc2pa"
    return data[:2] + b"\xff\xeb" + struct.pack(">H", len(box) + 2) + box + data[2:]


def signed_webp() -> bytes:
    body = saved("WEBP")[8:] + b"C2PA" + struct.pack("<I", 4) + b"jumb"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def signed_mp4() -> bytes:
    box = b"uuid" + bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + b"\x00" * 8
    data = mp4()
    first = struct.unpack_from(">I", data)[0]
    return data[:first] + struct.pack(">I", len(box) + 4) + box + data[first:]


SIGNED: dict[str, Callable[[], bytes]] = {
    "png": signed_png,
    "jpeg": signed_jpeg,
    "webp": signed_webp,
    "mp4": signed_mp4,
    "png, elsewhere": lambda: saved("PNG", pnginfo=_text("XML:com.adobe.xmp", REMOTE.decode())),
    "jpeg, elsewhere": lambda: saved("JPEG", xmp=REMOTE),
    "webp, elsewhere": lambda: saved("WEBP", xmp=REMOTE),
}


def _text(keyword: str, text: str) -> PngInfo:
    info = PngInfo()
    info.add_itxt(keyword, text)
    return info


@pytest.mark.parametrize("name", SIGNED)
def test_a_signed_file_is_not_touched(name: str) -> None:
    """A C2PA manifest holds a hash of the whole file: one more chunk, and it is no longer valid."""
    data = SIGNED[name]()

    embedded = embed_generation(data, OURS)

    assert (embedded.data, embedded.left_out) == (data, (C2PA,))


def test_a_png_keeps_its_chunks_and_the_parameters_that_another_tool_wrote() -> None:
    theirs = PngInfo()
    theirs.add_text("parameters", "theirs\nSteps: 4, Sampler: Euler, Seed: 3, CFG scale: 1")
    theirs.add_text("Software", "a server")
    data = saved("PNG", pnginfo=theirs, dpi=(300, 300))

    embedded = embed_generation(data, OURS)

    assert embedded.left_out == ("parameters",)
    with Image.open(io.BytesIO(embedded.data)) as image:
        assert image.info["parameters"].startswith("theirs")
        assert (image.info["Software"], round(image.info["dpi"][0])) == ("a server", 300)
    assert read_parameters(embedded.data)["prompt"] == "ours"
    assert _without(embedded.data, len(embedded.data) - len(data)) == data


def test_another_tools_parameters_are_read_where_ours_are_not_there() -> None:
    text = "theirs\nSteps: 4, Sampler: Euler, Seed: 3, CFG scale: 1"
    found = read_parameters(saved("PNG", pnginfo=_text("parameters", text)))

    assert found == {"prompt": "theirs", "steps": 4, "sampler": "Euler", "seed": 3, "guidance_scale": 1}


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_exif_and_a_colour_profile_of_the_server_stay(format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "theirs"
    data = saved(format, exif=exif, icc_profile=b"a profile")

    embedded = embed_generation(data, OURS)

    assert embedded.left_out == ("EXIF",)
    with Image.open(io.BytesIO(embedded.data)) as image:
        assert image.getexif()[0x010E] == "theirs"
        assert image.info["icc_profile"] == b"a profile"
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]
    assert read_parameters(embedded.data)["prompt"] == "ours"


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_xmp_of_the_server_stays(format: str) -> None:
    data = saved(format, xmp=REMOTE.replace(b"provenance", b"title"))

    embedded = embed_generation(data, OURS)

    assert embedded.left_out == ("XMP",)
    with Image.open(io.BytesIO(embedded.data)) as image:
        assert b"dcterms:title" in image.info["xmp"]
    assert read_parameters(embedded.data)["prompt"] == "ours"


@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_a_comment_in_either_byte_order_is_read(order: bytes) -> None:
    form = "<" if order == b"II" else ">"
    comment = b"UNICODE\x00" + "a fox\nSteps: 4, Seed: 3, Size: 8x8".encode("utf-16-le" if form == "<" else "utf-16-be")
    exif = Image.Exif()
    exif.endian = form
    exif[0x8769] = {0x9286: comment}

    assert read_parameters(saved("JPEG", exif=exif)) == {
        "prompt": "a fox",
        "steps": 4,
        "seed": 3,
        "width": 8,
        "height": 8,
    }


def test_every_kind_of_webp_is_extended_and_stays_what_it_is() -> None:
    for options in ({"lossless": True}, {"lossless": False}, {"lossless": True, "icc_profile": b"a profile"}):
        data = saved("WEBP", **options)

        with Image.open(io.BytesIO(embed_generation(data, OURS).data)) as image, Image.open(io.BytesIO(data)) as plain:
            assert image.size == plain.size == (16, 16)
            assert image.tobytes() == plain.tobytes()


def test_an_animated_webp_keeps_its_frames() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=100)

    with Image.open(io.BytesIO(embed_generation(out.getvalue(), OURS).data)) as image:
        assert getattr(image, "n_frames", 1) == 3


def remuxed(tmp_path: Path, flags: str, **tags: str) -> bytes:
    path = tmp_path / "remuxed.mp4"
    with (
        av.open(io.BytesIO(mp4())) as source,
        av.open(path, "w", options={"movflags": flags} if flags else {}) as target,
    ):
        target.metadata.update(tags)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in itertools.takewhile(lambda packet: packet.dts is not None, source.demux()):
            packet.stream = stream
            target.mux(packet)
    return path.read_bytes()


def packets(data: bytes) -> list[tuple[int, int, bytes]]:
    with av.open(io.BytesIO(data)) as container:
        return [(packet.pts, packet.dts, bytes(packet)) for packet in container.demux() if packet.dts is not None]


@pytest.mark.parametrize("flags", ["", "faststart"])
def test_a_videos_packets_stay_byte_for_byte_wherever_its_index_is(tmp_path: Path, flags: str) -> None:
    data = remuxed(tmp_path, flags, title="theirs")
    assert (data.index(b"moov") < data.index(b"mdat")) is (flags == "faststart")

    embedded = embed_generation(data, OURS)

    assert embedded.left_out == ("title",)
    assert packets(embedded.data) == packets(data)
    assert video_pixel_sha256(embedded.data) == video_pixel_sha256(data)
    with av.open(io.BytesIO(embedded.data)) as container:
        assert (container.metadata["title"], container.metadata["description"]) == ("theirs", "ours")
        assert container.metadata["comment"].startswith("ours\nSampler: unknown, Seed: 7, ")
    assert embed_generation(embedded.data, OURS).data == embedded.data


@pytest.mark.parametrize("flags", ["", "faststart"])
@pytest.mark.parametrize("absent", [b"udta", b"meta", b"ilst"])
def test_what_a_video_lacks_around_its_tags_is_made(tmp_path: Path, flags: str, absent: bytes) -> None:
    data = remuxed(tmp_path, flags, title="theirs").replace(absent, b"free")

    embedded = embed_generation(data, OURS)

    assert embedded.left_out == ()
    assert packets(embedded.data) == packets(data)
    with av.open(io.BytesIO(embedded.data)) as container:
        assert (container.metadata["title"], container.metadata["description"]) == ("ours", "ours")
    assert read_parameters(embedded.data)["seed"] == 7


def test_a_fragmented_video_is_left_alone(tmp_path: Path) -> None:
    data = remuxed(tmp_path, "frag_keyframe+empty_moov")

    embedded = embed_generation(data, OURS)

    assert (embedded.data, embedded.left_out) == (data, ("all: MP4: the file is fragmented, or has no index",))


def _without(data: bytes, added: int) -> bytes:
    """A PNG without the bytes that were put before its first IDAT."""
    at = data.index(b"IDAT") - 4
    return data[: at - added] + data[at:]
