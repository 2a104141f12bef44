"""Lines typed at a terminal, with history and completion, by prompt_toolkit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from abstractvision_batch.cli.repl.completion import complete
from abstractvision_batch.cli.repl.session import Session

HISTORY_NAME = "repl_history"


class SessionCompleter(Completer):
    """Offers what continues the last word."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        word = text.rpartition(" ")[2]
        for found in complete(self._session, text):
            yield Completion(found, start_position=-len(word))


def typed_lines(session: Session, prompt: str) -> Iterator[str]:
    """Yield typed lines until Ctrl-D; Ctrl-C drops the line that is being typed."""
    editor: PromptSession[str] = PromptSession(
        history=_open_history(), completer=SessionCompleter(session), complete_while_typing=False
    )
    while True:
        try:
            yield editor.prompt(prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _open_history() -> History:
    """Keep lines in a file that only its owner reads, in memory where there is no place for one."""
    path = Path.home() / ".abstractvision" / HISTORY_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
