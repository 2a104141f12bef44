"""The token that a Ray cluster asks for: found where Ray looks for it, and shown without being told to.

From Ray 2.60 on a cluster asks for a token by default, but a client in a plain shell shows the one that it has only
where `RAY_AUTH_MODE` says so. Ray reads that variable once, when it is imported; so this module, which imports no Ray,
is called before.

Not covered: making a token (`ray get-auth-token --generate`), and bringing it to the nodes.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
DEFAULT_PATH = "~/.ray/auth_token"


def show_token_if_any(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let Ray show the token that is found here; a `RAY_AUTH_MODE` that is set stays.

    The dashboard of a cluster that asks for none takes a client that shows one; a driver must show none there.
    """
    if MODE not in environ and find_token(environ) is not None:
        environ[MODE] = "token"


def find_token(environ: MutableMapping[str, str] = os.environ) -> str | None:
    """Where the token is, as a person would say it: a variable's name or a path; None where there is none."""
    if environ.get(TOKEN):
        return TOKEN
    path = environ.get(TOKEN_PATH) or DEFAULT_PATH
    try:
        found = Path(path).expanduser().stat().st_size > 0
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return path if found else None


def explain_refusal(address: str, environ: MutableMapping[str, str] = os.environ) -> str:
    """One line for a cluster that refused what it was shown: what that was, and what would do."""
    place = find_token(environ)
    if place is None:
        return f"{address}: the cluster asks for a token, and there is none here (set {TOKEN}, or write {DEFAULT_PATH})"
    if environ.get(MODE, "token").lower() != "token":
        return f"{address}: the cluster asks for a token, and {MODE}={environ[MODE]} keeps it back (unset {MODE})"
    mend = f"set {TOKEN} to the cluster's own: ray get-auth-token prints it on the head"
    return f"{address}: the cluster refuses the token of {place} ({mend})"
