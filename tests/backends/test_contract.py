"""What every backend must do. A backend joins by a subclass that says how it is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from abstractvision_batch.backends import ProceduralVisionBackend
from abstractvision_batch.backends.base_backend import BatchItem, VisionBackend
from abstractvision_batch.errors import (
    AbstractVisionError,
    CapabilityNotSupportedError,
    GenerationCancelledError,
    GenerationError,
)
from abstractvision_batch.media.images import decode_image, encode_image, pixel_sha256
from abstractvision_batch.media.probe import probe, sniff_mime_type
from abstractvision_batch.registry.weights import Weights
from abstractvision_batch.types import (
    TASKS,
    GeneratedAsset,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageToVideoRequest,
    MultiAngleRequest,
    VideoGenerationRequest,
    VisionRequest,
)
from tests.support.openai_server import running_server


def a_picture(width: int = 64, height: int = 32) -> bytes:
    gradient = Image.linear_gradient("L").resize((width, height))
    return encode_image(Image.merge("RGB", (gradient, gradient.rotate(180), gradient.rotate(90))), "png")


def a_request(task: str, seed: int = 1) -> VisionRequest:
    match task:
        case "text_to_image":
            return ImageGenerationRequest("a red circle", width=64, height=32, steps=2, seed=seed)
        case "image_to_image":
            return ImageEditRequest("a red circle", image=a_picture(), steps=2, seed=seed, strength=0.9)
        case "multi_view_image":
            return MultiAngleRequest("a red circle", angles=("front", "back"), steps=2, seed=seed, width=64, height=32)
        case "text_to_video":
            return VideoGenerationRequest("a red circle", width=64, height=32, num_frames=5, fps=4, steps=2, seed=seed)
        case _:
            return ImageToVideoRequest(
                a_picture(), "a red circle", width=64, height=32, num_frames=5, fps=4, steps=2, seed=seed
            )


def pixels(item: BatchItem) -> str:
    assert isinstance(item, GeneratedAsset), item
    return pixel_sha256(decode_image(item.data))


class BackendContract:
    """Inherit, name the class `Test…` and define the class-scoped fixture `backend`."""

    REPORTS_STEPS = True
    BAD_REQUEST: VisionRequest = ImageEditRequest("a red circle", image=b"not an image", steps=2, seed=1)

    def text_requests(self, count: int) -> list[VisionRequest]:
        return [ImageGenerationRequest(f"a fox {n}", width=64, height=64, steps=2, seed=n) for n in range(count)]

    def test_the_same_seed_gives_the_same_pixels_and_another_does_not(self, backend: VisionBackend) -> None:
        first, again, other = (
            backend.generate_image(ImageGenerationRequest("a fox", width=64, height=64, steps=2, seed=seed))
            for seed in (7, 7, 8)
        )

        assert first.data == again.data
        assert pixels(first) != pixels(other)

    def test_size_is_width_by_height(self, backend: VisionBackend) -> None:
        asset = backend.generate_image(ImageGenerationRequest("a fox", width=64, height=32, steps=2, seed=7))

        assert sniff_mime_type(asset.data) == asset.mime_type == "image/png"
        assert (asset.media_type, decode_image(asset.data).size) == ("image", (64, 32))

    def test_a_batch_answers_every_request_in_order(self, backend: VisionBackend) -> None:
        requests = self.text_requests(3)

        forward = [pixels(item) for item in backend.generate_batch(requests)]
        backward = [pixels(item) for item in backend.generate_batch(requests[::-1])]

        assert len(set(forward)) == 3
        assert forward == backward[::-1]

    def test_a_bad_request_never_fails_its_neighbours(self, backend: VisionBackend) -> None:
        good = self.text_requests(2)

        items = backend.generate_batch([good[0], self.BAD_REQUEST, good[1]])

        assert isinstance(items[0], GeneratedAsset)
        assert isinstance(items[1], GenerationError)
        assert isinstance(items[2], GeneratedAsset)

    def test_an_empty_batch_is_an_empty_answer(self, backend: VisionBackend) -> None:
        assert backend.generate_batch([]) == []

    def test_a_cancelled_batch_answers_that_it_was_cancelled(self, backend: VisionBackend) -> None:
        items = backend.generate_batch(self.text_requests(2), cancelled=lambda: True)

        assert [type(item) for item in items] == [GenerationCancelledError] * 2

    def test_steps_are_reported_from_one_to_the_last(self, backend: VisionBackend) -> None:
        steps: list[tuple[int, int | None]] = []

        backend.generate_image_with_progress(
            ImageGenerationRequest("a fox", width=64, height=64, steps=3, seed=7),
            lambda step, total: steps.append((step, total)),
        )

        assert steps == ([(1, 3), (2, 3), (3, 3)] if self.REPORTS_STEPS else [])

    @pytest.mark.parametrize("task", TASKS)
    def test_each_task_is_done_or_refused_as_declared(self, backend: VisionBackend, task: str) -> None:
        capabilities = backend.get_capabilities()
        supported = capabilities is None or capabilities.supported_tasks is None or task in capabilities.supported_tasks
        if not supported:
            with pytest.raises(CapabilityNotSupportedError):
                backend.generate_batch([a_request(task)])
            return

        (item,) = backend.generate_batch([a_request(task)])

        assets = item if isinstance(item, list) else [item]
        assert len(assets) == (2 if task == "multi_view_image" else 1)
        for asset in assets:
            assert isinstance(asset, GeneratedAsset), asset
            info = probe(asset.data, asset.mime_type)
            assert (info.width, info.height) == (64, 32)
            assert info.frames == (5 if task.endswith("video") else 1)
            json.dumps(asset.metadata)

    def test_strength_says_how_much_of_the_image_is_replaced(self, backend: VisionBackend) -> None:
        requests: list[VisionRequest] = [
            ImageEditRequest("a fox", image=a_picture(), steps=4, seed=3, strength=strength) for strength in (0.5, 1.0)
        ]

        weak, strong = backend.generate_batch(requests)

        assert pixels(weak) != pixels(strong)

    def test_an_error_is_one_of_the_tree(self, backend: VisionBackend) -> None:
        with pytest.raises(AbstractVisionError, match="input image"):
            backend.edit_image(ImageEditRequest("a fox", image=b"not an image", seed=1))

    def test_the_environment_is_plain_json(self, backend: VisionBackend) -> None:
        environment = backend.environment()

        assert json.loads(json.dumps(environment)) == environment
        assert environment["device"]

    def test_the_weights_are_named_with_one_digest_whatever_is_loaded(self, backend: VisionBackend) -> None:
        before = backend.weights()
        backend.preload("text_to_image")

        after = backend.weights("text_to_image")

        assert before == after
        if after is not None:
            assert Weights.from_json(json.loads(json.dumps(after.to_json()))) == after
            assert all(file.size_bytes > 0 for file in after.files.values())

    def test_unloading_frees_and_the_next_request_loads_again(self, backend: VisionBackend) -> None:
        request = self.text_requests(1)
        before = pixels(backend.generate_batch(request)[0])

        backend.unload()
        backend.unload()

        assert pixels(backend.generate_batch(request)[0]) == before

    def test_closing_twice_is_allowed(self, backend: VisionBackend) -> None:
        backend.close()
        backend.close()


class TestProceduralContract(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> Iterator[VisionBackend]:
        with ProceduralVisionBackend() as backend:
            yield backend


class TestOpenAIContract(BackendContract):
    REPORTS_STEPS = False  # a server says nothing before it is done

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> Iterator[VisionBackend]:
        from abstractvision_batch.backends import OpenAICompatibleBackendConfig, OpenAICompatibleVisionBackend

        with running_server() as server:
            config = OpenAICompatibleBackendConfig(server.base_url, video_mode="videos_api", poll_interval_s=0.01)
            with OpenAICompatibleVisionBackend(config) as backend:
                yield backend


@pytest.mark.model
class TestDiffusersContract(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, tiny_sd: Path) -> Iterator[VisionBackend]:
        from abstractvision_batch.backends import HuggingFaceDiffusersBackendConfig, HuggingFaceDiffusersVisionBackend

        config = HuggingFaceDiffusersBackendConfig("test/tiny-sd", path=str(tiny_sd), device="cpu")
        with HuggingFaceDiffusersVisionBackend(config) as backend:
            yield backend
