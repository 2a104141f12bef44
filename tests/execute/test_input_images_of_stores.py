"""Input images from object stores, whose drivers do not fail alike."""

from __future__ import annotations

import pytest

from abstractvision_batch.errors import GenerationError
from abstractvision_batch.execute.requests import InputImages
from abstractvision_batch.storage.store import open_store
from tests.support.emulators import StoreServer


@pytest.mark.parametrize("kind", ["s3", "gs", "abfs"])
def test_an_image_that_is_gone_is_the_failure_of_its_row(kind: str, request: pytest.FixtureRequest) -> None:
    server: StoreServer = request.getfixturevalue(f"{kind}_server")
    url = server.new_url()
    open_store(url, server.options).put("there.png", b"bytes")
    load_bytes = InputImages(server.options).read

    assert load_bytes(f"{url}/there.png") == b"bytes"
    with pytest.raises(GenerationError, match=r"gone\.png: the input image cannot be read: does not exist"):
        load_bytes(f"{url}/gone.png")


def test_a_local_image_that_is_gone_is_the_failure_of_its_row() -> None:
    with pytest.raises(GenerationError, match=r"/no/such\.png: the input image cannot be read"):
        InputImages({}).read("/no/such.png")
