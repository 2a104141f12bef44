"""The sweep: each class of Diffusers works without a card, or fails for the reason that the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.sweep import CLASSES, NEED_TORCHVISION, TABLE, describe, make_folder, try_family, wrong

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning", "ignore:\\s*flex_attention called:UserWarning")
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("name", CLASSES)
def test_a_family_works_without_a_card_or_fails_for_the_reason_that_is_known(root: Path, name: str) -> None:
    if name.startswith(NEED_TORCHVISION):
        pytest.importorskip("torchvision")

    ended = try_family(make_folder(name, root))

    assert not wrong(name, ended)
    assert describe(name, ended) in TABLE.read_text(encoding="utf-8")
