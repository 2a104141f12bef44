"""The session behind `repl`: its commands called one by one, then through a pipe, then typed at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abstractvision_batch.backends.from_environment import choose_target
from abstractvision_batch.cli.repl.commands import ALIASES, COMMANDS, run_line
from abstractvision_batch.cli.repl.completion import complete
from abstractvision_batch.cli.repl.session import Session
from abstractvision_batch.cli.request_words import parse_request
from abstractvision_batch.errors import AbstractVisionError
from abstractvision_batch.media.probe import probe, sniff_mime_type
from abstractvision_batch.model_capabilities import VisionModelCapabilitiesRegistry
from abstractvision_batch.storage.asset_store import LocalAssetStore
from tests.support.openai_server import OpenAIServer, running_server

SMALL = "--steps 2 --width 32 --height 24"


@pytest.fixture(scope="module")
def cards() -> VisionModelCapabilitiesRegistry:
    return VisionModelCapabilitiesRegistry()


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with running_server(api_key="s3cret-key") as server:
        yield server


@pytest.fixture
def session(
    cards: VisionModelCapabilitiesRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Session]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", "s3cret-key")
    environ = {"MY_KEY": "s3cret-key", "ABSTRACTVISION_API_KEY": "another-secret"}
    session = Session(environ, choose_target(cards, environ, kind="procedural"), cards, store="assets")
    yield session
    session.close()


def metadata_of(session: Session) -> dict[str, Any]:
    record = LocalAssetStore(session.store_place).get_metadata(session.made[-1])
    assert record is not None
    generation: dict[str, Any] = record["metadata"]["generation"]
    return generation


def test_plain_text_is_an_image_in_the_store(session: Session) -> None:
    ref, path, seed = run_line(session, f"a fox's den {SMALL} --seed 7")

    assert json.loads(ref)["$artifact"] in path
    assert sniff_mime_type(Path(path).read_bytes()) == "image/png"
    assert seed == "seed 7"
    assert metadata_of(session)["parameters"]["prompt"] == "a fox's den"


@pytest.mark.parametrize(
    ("line", "task", "outputs"),
    [
        ("/t2i a fox", "text_to_image", 1),
        ("/i2i --image {image} --mask {image} a fox", "image_to_image", 1),
        ("/t2v a fox --num-frames 3", "text_to_video", 1),
        ("/i2v --image {image} --num-frames 3", "image_to_video", 1),
        ("/angles a fox --image {image} --angles front,back", "multi_view_image", 2),
    ],
)
def test_every_task_has_its_command(session: Session, line: str, task: str, outputs: int) -> None:
    image = run_line(session, f"a cat {SMALL}")[1]
    session.made.clear()

    reply = run_line(session, f"{line.format(image=image)} {SMALL}")

    assert metadata_of(session)["task"] == task
    assert len(session.made) == outputs
    paths = [Path(one) for one in reply if one.startswith("/")]
    mime_type = "video/mp4" if task.endswith("video") else "image/png"
    frames = [probe(path.read_bytes(), mime_type).frames for path in paths]
    assert frames == [3 if task.endswith("video") else 1] * outputs


def test_what_is_set_holds_for_the_tasks_that_have_it_until_it_is_unset(session: Session) -> None:
    for line in ("/set steps 3", "/set width 40", "/set height 24", "/set num-frames 5", "/set negative_prompt no"):
        run_line(session, line)

    run_line(session, "a fox")
    assert metadata_of(session)["parameters"].items() >= {"steps": 3, "width": 40, "negative_prompt": "no"}.items()
    run_line(session, "a fox --steps 4")
    assert metadata_of(session)["parameters"]["steps"] == 4
    assert run_line(session, "/defaults")[0] == "steps: 3"
    assert "steps" not in " ".join(run_line(session, "/unset steps"))
    run_line(session, "a fox")
    assert metadata_of(session)["parameters"]["steps"] == 20  # the card's


def test_unknown_flags_are_for_the_backend(session: Session, server: OpenAIServer) -> None:
    run_line(session, f"/backend openai {server.base_url} MY_KEY painter")

    run_line(session, "a fox --width 32 --height 32 --quality high --output-compression 90")

    assert server.last.fields.items() >= {"model": "painter", "quality": "high", "output_compression": 90}.items()
    assert server.last.headers["authorization"] == "Bearer s3cret-key"


def test_a_secret_is_never_shown_nor_sent_to_another_server(session: Session, server: OpenAIServer) -> None:
    run_line(session, f"/backend openai {server.base_url} MY_KEY")

    config = "\n".join(run_line(session, "/config"))

    assert '{"env": "MY_KEY"}' in config
    assert "ABSTRACTVISION_API_KEY=***" in config
    assert "secret" not in config.replace("s3cret", "secret")
    with pytest.raises(AbstractVisionError) as caught:
        run_line(session, f"/backend openai {server.base_url} sk-pasted-key")
    assert "sk-pasted-key" not in str(caught.value)


def test_the_server_s_models_are_listed(session: Session, server: OpenAIServer) -> None:
    assert "offers no catalog" in run_line(session, "/provider-models")[0]

    run_line(session, f"/backend openai {server.base_url} MY_KEY")

    assert run_line(session, "/provider-models") == ["a-model"]
    assert run_line(session, "/provider-models text_to_image") == ["a-model"]


def test_a_backend_that_cannot_be_made_leaves_the_old_one(session: Session) -> None:
    for line in ("/backend diffusers nobody/nothing", "/backend openai no-url", "/backend diffusers", "/backend nope"):
        with pytest.raises(AbstractVisionError):
            run_line(session, line)

    assert session.target.backend.kind == "procedural"
    run_line(session, f"a fox {SMALL}")


def test_the_card_that_requests_are_checked_against_can_be_changed(session: Session) -> None:
    assert run_line(session, "/cap-model avbatch/shapes64") == ["cap-model: avbatch/shapes64"]
    with pytest.raises(AbstractVisionError, match="only 64"):
        run_line(session, f"a fox {SMALL}")
    run_line(session, "/cap-model off")

    run_line(session, f"a fox {SMALL}")

    with pytest.raises(AbstractVisionError, match="did you mean"):
        run_line(session, "/cap-model avbatch/shape64")


def test_the_store_can_be_changed(session: Session, tmp_path: Path) -> None:
    run_line(session, "/store elsewhere")
    run_line(session, f"a fox {SMALL}")

    assert list((tmp_path / "elsewhere").glob("*.png"))


def test_open_shows_an_artifact_and_by_default_the_last_one(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text('#!/bin/sh\necho "$1" >> opened\n')
    opener.chmod(0o755)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("PATH", str(opener.parent), prepend=":")

    first = run_line(session, f"a fox {SMALL} --open")[1]
    second = run_line(session, f"a cat {SMALL}")[1]
    run_line(session, "/open")
    run_line(session, f"/open {session.made[0]}")

    assert (tmp_path / "opened").read_text().split() == [first, second, first]


def test_the_registry_can_be_read(session: Session) -> None:
    assert "avbatch/shapes64" in run_line(session, "/models")
    assert "avbatch/shapes64" not in run_line(session, "/models text_to_video")
    assert run_line(session, "/tasks")[0] == "text_to_image: Generate an image from a prompt."
    shown = run_line(session, "/show-model avbatch/shapes64")
    assert "license: apache-2.0" in shown
    assert any(line.startswith("  required params: prompt") for line in shown)


@pytest.mark.parametrize("end", ["/exit", "/quit", "/q"])
def test_a_session_ends_when_told(session: Session, end: str) -> None:
    run_line(session, end)

    assert session.ended


def test_help_names_every_command(session: Session) -> None:
    text = "\n".join(run_line(session, "/help"))

    assert all(name in text for name in (*COMMANDS, *ALIASES, "sdcpp <diffusion-model> <vae> <llm> [cli]"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/hepl", "did you mean /help?"),
        ("/i2i a fox", "image: missing"),
        ("/i2i --image absent.png a fox", "--image: absent.png: cannot be read"),
        ("a fox --steps many", "'many' is not a whole number"),
        ("a fox --steps [", "--steps"),
        ("a fox --cfg-scale 3", "write guidance_scale"),
        ("/set cfg 3", "write guidance_scale"),
        ("/set steps", "/set <parameter> <value>"),
        ("/unset steps", "is not set"),
        ("/open", "nothing was made yet"),
        ("/open zzz", "not an artifact id"),
        ("/models paint", "is no task"),
        ("/show-model", "/show-model <id>"),
        ("/t2i", "prompt: missing"),
    ],
)
def test_a_mistake_is_an_error_that_says_the_way_out(session: Session, line: str, said: str) -> None:
    with pytest.raises(AbstractVisionError, match=re.escape(said)):
        run_line(session, line)


@pytest.mark.parametrize(
    ("text", "prompt", "params"),
    [
        ("a cat's eye", "a cat's eye", {}),
        ('"a fox" --steps 3', "a fox", {"steps": 3}),
        ('a sign "OPEN" --seed=7', 'a sign "OPEN"', {"seed": 7}),
        ("--negative-prompt 'blurry, dark' a fox", "a fox", {"negative_prompt": "blurry, dark"}),
        ('--negative-prompt="no text" a fox', "a fox", {"negative_prompt": "no text"}),
        ("a fox - red -- in snow", "a fox - red -- in snow", {}),
        ('a fox --loras-json \'[{"source": "x"}]\'', "a fox", {"loras_json": [{"source": "x"}]}),
        ("--tiling --steps 2 a fox", "a fox", {"tiling": True, "steps": 2}),
        ("--seed 1", None, {"seed": 1}),
    ],
)
def test_words_are_a_prompt_and_flags(text: str, prompt: str | None, params: dict[str, Any]) -> None:
    words = parse_request(text)

    assert (words.prompt, words.params) == (prompt, params)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("/ba", ["/backend"]),
        ("/backend pro", ["procedural"]),
        ("/backend diffusers avbatch/", ["avbatch/shapes64"]),
        ("/show-model avbatch/", ["avbatch/procedural", "avbatch/shapes64"]),
        ("/set gui", ["guidance_scale"]),
        ("/t2v a fox --num", ["--num-frames"]),
        ("a fox --ne", ["--negative-prompt"]),
        ("/i2i --image pho", ["photo.png"]),
        ("/provider-models text_to_v", ["text_to_video"]),
        ("a fo", []),
    ],
)
def test_tab_offers_what_fits(session: Session, tmp_path: Path, text: str, offered: list[str]) -> None:
    (tmp_path / "photo.png").touch()

    assert complete(session, text) == offered


def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ABSTRACTVISION_", "OPENAI_"))}
    return {**kept, "HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}


REPL = [sys.executable, "-m", "abstractvision_batch", "repl", "--backend", "procedural", "--store", "assets"]


def test_a_piped_session_goes_on_after_a_mistake(tmp_path: Path) -> None:
    script = f"/nope\n\na fox {SMALL}\n/i2i nothing\n/exit\na fox that is never read\n"

    done = subprocess.run(
        REPL, input=script, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), check=True
    )

    assert len(list((tmp_path / "assets").glob("*.png"))) == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "error"]
    assert len(done.stdout.splitlines()) == 3


def test_a_piped_session_answers_in_json_line_by_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*REPL, "--json"],
        input="/tasks\n/nope\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        check=True,
    )

    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["ok"], len(first["reply"])) == (True, 5)
    assert (second["ok"], second["error"]) == (False, "SpecError")


def test_at_a_terminal_tab_completes_and_history_is_kept_for_the_owner_alone(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        REPL, stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path, env=environment(tmp_path)
    )
    os.close(terminal)
    try:
        # A key that is typed before the prompt stands is the terminal's own business.
        read_past(controller, "avbatch>")
        os.write(controller, b"/show-model avbatch/proc\t")
        read_past(controller, "edural")
        os.write(controller, b"\r")
        read_past(controller, "license: apache-2.0", "avbatch>")
        os.write(controller, b"half a line")
        read_past(controller, "half a line")
        os.write(controller, b"\x03")  # Ctrl-C drops it
        read_past(controller, "avbatch>")
        os.write(controller, f"a fox {SMALL}\r".encode())
        read_past(controller, "seed ", "avbatch>")
        os.write(controller, b"\x04")  # Ctrl-D
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)

    history = tmp_path / ".abstractvision" / "repl_history"
    assert "+/show-model avbatch/procedural" in history.read_text()
    assert "half a line" not in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    assert len(list((tmp_path / "assets").glob("*.png"))) == 1


def test_at_a_terminal_without_prompt_toolkit_lines_are_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'prompt_toolkit' else find(name, package)\n"
    )
    controller, terminal = pty.openpty()
    variables = environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(REPL, stdin=terminal, stdout=terminal, stderr=terminal, cwd=tmp_path, env=variables)
    os.close(terminal)
    try:
        read_past(controller, 'pip install "abstractvision_batch[repl]"', "avbatch>")
        os.write(controller, b"/nope\n")
        read_past(controller, "error: /nope: unknown command", "avbatch>")
        os.write(controller, b"/quit\n")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def read_past(controller: int, *texts: str, timeout_s: float = 20) -> None:
    """Read what the terminal shows until it has shown these texts one after the other."""
    seen = ""
    end = time.monotonic() + timeout_s
    while not re.search(".*".join(map(re.escape, texts)), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen), re.DOTALL):
        assert time.monotonic() < end, seen
        if select.select([controller], [], [], 0.2)[0]:
            seen += os.read(controller, 4096).decode(errors="replace")
