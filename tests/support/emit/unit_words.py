"""How systemd reads a command line, by its manual."""

from __future__ import annotations


def read_words(value: str) -> list[str]:
    """Words of ExecStart as systemd.syntax(7) and systemd.service(5) have them, written down here once more."""
    words: list[str] = []
    at = 0
    while at < len(value):
        word, quoted = "", value[at] == '"'
        at += quoted
        while at < len(value) and value[at] != ('"' if quoted else " "):
            pair = value[at : at + 2]
            single = {"\\\\": "\\", '\\"': '"', "%%": "%", "$$": "$" if words else None}.get(pair)
            # Variables are not replaced in the program's path, the first word.
            assert single is not None or value[at] not in ('\\%$"' if words else '\\%"'), f"not escaped: {pair}"
            word, at = (word + single, at + 2) if single else (word + value[at], at + 1)
        words.append(word)
        at += 1 + quoted
    return words
