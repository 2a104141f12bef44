"""Lines in, replies out: the only part of the session that reads and prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

from abstractvision_batch.cli.output import one_line, print_json, print_lines, print_notes
from abstractvision_batch.cli.repl.commands import run_line
from abstractvision_batch.cli.repl.session import Session
from abstractvision_batch.errors import AbstractVisionError

PROMPT = "avbatch> "


def run_loop(session: Session, *, as_json: bool) -> None:
    """Do line after line until the end; a mistake is one line, and the session goes on."""
    lines = read_lines(session)
    try:
        while not session.ended:
            try:
                line = next(lines, None)
                if line is None:
                    return
                reply = run_line(session, line)
            except AbstractVisionError as error:
                said = one_line("; ".join(error.problems or (str(error),)))
                if as_json:
                    print_json({"ok": False, "error": type(error).__name__, "message": said})
                else:
                    print_notes(f"error: {said}")
            except KeyboardInterrupt:
                print_notes("interrupted")
            else:
                if as_json and line.strip():
                    print_json({"ok": True, "reply": reply})
                elif not as_json:
                    print_lines(*reply)
            sys.stdout.flush()
    finally:
        session.close()


def read_lines(session: Session) -> Iterator[str]:
    """Return the lines of stdin, typed ones with history and completion where prompt_toolkit is installed."""
    if not sys.stdin.isatty():
        reconfigure = getattr(sys.stdin, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a stray byte in a script ends no session
        return (line.rstrip("\n") for line in sys.stdin)
    backend = session.target.backend.kind
    print_notes(f"{session.target.model or 'the server’s model'} on {backend}. /help lists commands, Ctrl-D ends.")
    if find_spec("prompt_toolkit") is None:
        print_notes('note: no history and completion (pip install "abstractvision_batch[repl]")')
        return _plain_lines()
    from abstractvision_batch.cli.repl.line_editor import typed_lines

    return typed_lines(session, PROMPT)


def _plain_lines() -> Iterator[str]:
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            print_notes("")
        except EOFError:
            print_notes("")
            return
