"""The page of a run in a real browser: from a disk and from a server, with hostile prompts, without a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from abstractvision_batch.runs.opened import open_run
from abstractvision_batch.verbs.run import run
from tests.support.browser import Page, open_browser, serve

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "\u202ereversed \u0007bell",
    "مرحبا بالعالم 你好",
    "'; alert(3); //",
]
PROMPTS = [*(f"a fox number {number}" for number in range(10)), *HOSTILE]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(10_000)
    yield Page(context.new_page())
    context.close()


def make_run(folder: Path, **sections: Any) -> Path:
    """15 prompts × 4 points × 2 samples; the 8 requests of one prompt fail."""
    run(
        {
            "name": "foxes",
            "model": "avbatch/procedural",
            "backend": {"kind": "procedural", "fail_when": "number 7"},
            "prompts": {"source": PROMPTS},
            "matrix": {"guidance_scale": [1, 2.5], "steps": [3, 4]},
            "params": {"width": 64, "height": 48},
            "samples_per_prompt": 2,
            "output": {"path": str(folder)},
            **sections,
        }
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("gallery") / "run")


def index_of(folder: Path) -> str:
    return f"{folder.as_uri()}/gallery/index.html"


def test_search_facets_and_order_choose_what_is_shown(folder: Path, page: Page) -> None:
    page.open(index_of(folder))
    assert page.count_shown() == 120
    page.until("document.querySelectorAll('.tile canvas[data-painted=yes]').length > 20")

    page.page.fill("#search", "fox NUMBER 3")
    page.until("document.querySelector('#count').textContent.startsWith('8 of')")
    page.page.get_by_label("2.5", exact=False).first.check()
    assert page.count_shown() == 4

    page.page.fill("#search", "")
    page.until("document.querySelector('#count').textContent.startsWith('60 of')")
    page.page.select_option("#sort", "steps")
    page.page.click("#direction")
    rows = page.page.evaluate("[...VIEW.order].map((row) => valueOf('steps', row))")
    assert rows == [4] * 30 + [3] * 30
    page.page.select_option("#sort", "seed")
    seeds = page.page.evaluate("[...VIEW.order].map((row) => valueOf('seed', row))")
    assert seeds == sorted(seeds, reverse=True) and len(set(seeds)) > 1
    assert not page.faults


def test_many_numbers_are_sorted_with_equal_ones_in_their_order_and_absent_ones_last(folder: Path, page: Page) -> None:
    page.open(index_of(folder))
    numbers = "Float64Array.from([3, NaN, 1, 3, 2, 1])"
    sort = f"[1, -1].map((way) => [...sortedByNumbers(Uint32Array.from([0, 1, 2, 3, 4, 5]), {numbers}, way)])"

    assert page.page.evaluate(sort) == [[2, 5, 4, 0, 3, 1], [0, 3, 4, 2, 5, 1]]


def test_what_a_link_says_is_shown_again(folder: Path, page: Page, browser: Any) -> None:
    page.open(index_of(folder))
    page.page.fill("#search", "number 3")
    page.until("document.querySelector('#count').textContent.startsWith('8 of')")
    page.page.locator(".tile").nth(2).click()
    page.until("document.querySelector('#stage img')?.naturalWidth === 64")

    other = Page(browser.new_page()).open(page.page.url)

    assert other.count_shown() == 8
    assert other.text("#prompt") == "a fox number 3"
    assert other.page.evaluate("document.querySelector('#lightbox').open")


def test_hostile_prompts_are_text_and_nothing_else(folder: Path, page: Page) -> None:
    page.open(index_of(folder))
    for prompt in HOSTILE:
        row = page.page.evaluate("(wanted) => VIEW.order.find((row) => valueOf('prompt', row) === wanted)", prompt)
        page.page.evaluate("(row) => openPicture(row)", row)
        page.until("document.querySelector('#stage img')?.naturalWidth === 64")
        said = page.text("#prompt")
        assert "\u202e" not in said and "\u0007" not in said
        if prompt.isprintable():
            assert said == prompt
    assert page.page.evaluate("document.querySelectorAll('#prompt *, .tile p *').length") == 0
    assert not page.faults


def test_the_axes_of_a_matrix_have_the_samples_in_the_cells(folder: Path, page: Page) -> None:
    page.open(index_of(folder))
    page.page.select_option("#across", "guidance_scale")
    page.page.select_option("#down", "prompt")

    heads = page.page.evaluate("[...document.querySelectorAll('thead th')].map((cell) => cell.textContent)")
    cells = page.page.evaluate("[...document.querySelectorAll('td')].map((c) => c.querySelectorAll('.tile').length)")

    assert heads == ["", "guidance scale 1", "guidance scale 2.5"]
    assert cells == [4] * 2 * len(PROMPTS)
    assert not page.faults


def test_failures_stand_together_with_their_reason(folder: Path, page: Page) -> None:
    page.open(index_of(folder))
    assert page.text("#failures") == "Failures (8)"

    page.page.click("#failures")
    assert page.text(".group strong").startswith("8 × ")
    page.page.click("text=Show them")
    assert page.count_shown() == 8
    page.page.keyboard.press("Enter")
    page.until("!document.querySelector('#reason').hidden")
    assert not page.faults


def test_labels_are_kept_exported_and_imported(folder: Path, page: Page, browser: Any, tmp_path: Path) -> None:
    page.open(index_of(folder))
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("4")
    page.until("document.querySelector('.mark')?.textContent === '4'")
    page.page.keyboard.press("f")
    page.until("document.querySelector('.mark')?.textContent === '★4'")
    page.page.keyboard.press("Enter")
    page.page.fill("#note", 'sharp, "quoted"')
    page.page.keyboard.press("Tab")
    page.until("document.querySelector('#note').value !== '' && LABELS.byRow.get(1)?.note")
    page.page.keyboard.press("Escape")
    page.until("!location.hash.includes('open')")
    page.page.reload()
    page.until("document.querySelector('.mark')?.textContent === '★4✎'")
    page.page.click("#more")
    with page.page.expect_download() as download:
        page.page.click("#export")
    csv = tmp_path / "labels.csv"
    download.value.save_as(csv)

    table = open_run(folder).table()
    request_id = table["request_id"][1].as_py()
    assert csv.read_text().splitlines()[1].startswith(f'{request_id},4,true,"sharp, ""quoted""",')

    other = Page(browser.new_context().new_page()).open(index_of(folder))
    other.page.click("#more")
    other.page.set_input_files("#import", csv)
    other.until("document.querySelector('#about-said').textContent.startsWith('1 labels taken')")
    other.page.keyboard.press("Escape")
    other.page.select_option("#labelled", "4")
    assert other.count_shown() == 1
    assert not page.faults + other.faults


def test_a_picture_as_a_spec_is_the_request_again(folder: Path, page: Page, tmp_path: Path) -> None:
    page.open(index_of(folder))
    page.page.locator(".tile").nth(5).click()
    page.page.click("text=Copy spec")
    spec = json.loads(page.text("#copied"))

    result = run(spec | {"output": {"path": str(tmp_path / "again"), "gallery": False}})

    again = result.run.table().to_pylist()[0]
    first = open_run(folder).table().slice(5, 1).to_pylist()[0]
    assert again["pixel_sha256"] == first["pixel_sha256"]


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_pictures_in_containers_open_from_a_server_that_ignores_ranges(layout: str, page: Page, tmp_path: Path) -> None:
    make_run(tmp_path / "run", output={"path": str(tmp_path / "run"), "layout": layout}, matrix={})
    with serve(tmp_path) as url:
        page.open(f"{url}/run/gallery/index.html")
        page.page.locator(".tile").nth(3).click()
        page.until("document.querySelector('#stage img')?.naturalWidth === 64")
        assert {address.split("/")[2] for address in page.asked if address.startswith("http")} == {url.split("/")[2]}
    assert not page.faults


def test_pictures_in_containers_on_a_disk_ask_for_the_folder(page: Page, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", output={"path": str(tmp_path / "run"), "layout": "webdataset"}, matrix={})
    page.open(index_of(folder))
    page.page.locator(".tile").nth(3).click()
    page.until("document.querySelector('#stage p')?.textContent.includes('folder')")
    page.page.keyboard.press("Escape")
    page.page.click("#more")
    page.page.set_input_files("#folder", folder)
    page.page.keyboard.press("Escape")
    page.page.locator(".tile").nth(3).click()
    page.until("document.querySelector('#stage img')?.naturalWidth === 64")


def test_an_edit_shows_its_input_and_its_mask(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "photo.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((16, 16, 40, 40), fill=255)
    mask.save(tmp_path / "mask.png")
    row = {"prompt": "a door", "image": str(tmp_path / "photo.png"), "mask": str(tmp_path / "mask.png")}
    folder = make_run(
        tmp_path / "run",
        task="image_to_image",
        prompts={"source": [row]},
        matrix={},
        params={"width": 64, "height": 64},
    )
    page.open(index_of(folder))
    page.page.locator(".tile").first.click()
    page.page.click("text=Mask")
    page.until("[...document.querySelectorAll('#stage img')].filter((image) => image.naturalWidth === 64).length === 2")
    text = "".join(path.read_text(errors="replace") for path in (folder / "gallery").rglob("*.js"))
    assert str(tmp_path) not in text
    assert not page.faults


def test_a_video_plays(page: Page, tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", task="text_to_video", params={"width": 64, "height": 48, "num_frames": 4, "fps": 8}, matrix={}
    )
    page.open(index_of(folder))
    page.until("document.querySelectorAll('.tile canvas[data-painted=yes]').length > 5")
    page.page.locator(".tile").first.click()
    page.until("document.querySelector('#stage video')?.videoWidth === 64")
    assert not page.faults


@pytest.mark.parametrize("size", [(390, 800), (1280, 800)])
def test_the_last_picture_is_reached_by_keys_at_any_width(size: tuple[int, int], folder: Path, page: Page) -> None:
    page.page.set_viewport_size({"width": size[0], "height": size[1]})
    page.open(index_of(folder))
    page.page.keyboard.press("End")
    page.until("document.activeElement?.classList.contains('tile')")
    page.page.keyboard.press("Enter")
    page.until("document.querySelector('#position').textContent === '120 of 120'")
    overflow = page.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow == 0
