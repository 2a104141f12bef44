"""Which programs of stable-diffusion.cpp are installed, and which flags they take: asked of them, never assumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from abstractvision_batch.backends.stable_diffusion_cpp.config import StableDiffusionCppBackendConfig
from abstractvision_batch.errors import DependencyError, OptionalDependencyMissingError
from abstractvision_batch.storage.file_hashes import hash_file

PACKAGE = "stable_diffusion_cpp"
INSTALL = 'pip install "abstractvision_batch[sdcpp]"'
_PROBE_TIMEOUT_S = 30
_LIBRARIES = ("libstable-diffusion.so", "libstable-diffusion.dylib", "stable-diffusion.dll")
# A line of help begins with the names of one option: `  -m, --model <string>   path to full model`.
_HELP_LINE = re.compile(r"^\s{1,8}(-{1,2}[A-Za-z][\w-]*)(?:,\s+(-{1,2}[A-Za-z][\w-]*))?(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Program:
    """An executable, what its `--help` lists, and a digest that tells builds apart."""

    path: str
    flags: frozenset[str]
    sha256: str


def choose_mode(config: StableDiffusionCppBackendConfig) -> Literal["cli", "server", "python"]:
    """Resolve the configured mode against what is installed.

    Raises:
        OptionalDependencyMissingError: nothing is installed that could run it.
    """
    if config.mode == "server":
        find_server(config)
        return "server"
    if config.mode == "cli" or (config.mode == "auto" and _find(config.sd_cli_path) is not None):
        find_command_line(config)
        return "cli"
    if find_spec(PACKAGE) is None:
        looked = "" if config.mode == "python" else f"no program {config.sd_cli_path}, and "
        raise OptionalDependencyMissingError(
            f"backend sdcpp: {looked}the Python package {PACKAGE} is not installed ({INSTALL})"
        )
    return "python"


def find_command_line(config: StableDiffusionCppBackendConfig) -> str:
    """Return the path of sd-cli.

    Raises:
        OptionalDependencyMissingError: it is not installed.
    """
    path = _find(config.sd_cli_path)
    if path is None:
        raise _missing("sd-cli", config.sd_cli_path)
    return path


def find_server(config: StableDiffusionCppBackendConfig) -> str:
    """Return the path of sd-server: as configured, else beside sd-cli, else on PATH.

    Raises:
        OptionalDependencyMissingError: it is not installed.
    """
    if config.sd_server_path is not None:
        path = _find(config.sd_server_path)
    else:
        beside = _find(config.sd_cli_path)
        path = (_find(str(Path(beside).with_name("sd-server"))) if beside else None) or _find("sd-server")
    if path is None:
        raise _missing("sd-server", config.sd_server_path or "sd-server")
    return path


def probe_program(path: str) -> Program:
    """Ask a program which flags it takes; asked once per version of the file.

    Raises:
        DependencyError: it does not answer as stable-diffusion.cpp does.
    """
    stat = Path(path).stat()
    return _probe(path, stat.st_mtime_ns, stat.st_size)


def package_version() -> str | None:
    """Return the version of the Python package, None if it is not installed."""
    try:
        return version("stable-diffusion-cpp-python")
    except PackageNotFoundError:
        return None


def find_library(program: str | None) -> Path | None:
    """Return the shared library that a program runs, or the Python package for None; None if it is in the program."""
    if program is not None:
        folders = [Path(program).resolve().parent, Path(program).resolve().parent.parent / "lib"]
    elif override := os.environ.get("STABLE_DIFFUSION_CPP_LIB"):
        return Path(override)
    else:
        found = find_spec(PACKAGE)
        folders = [] if found is None or found.origin is None else [Path(found.origin).parent / "lib"]
    libraries = (path for folder in folders for name in _LIBRARIES if (path := folder / name).is_file())
    return next(libraries, None)


@cache
def _probe(path: str, _modified_ns: int, _size: int) -> Program:
    try:
        answer = subprocess.run(
            [path, "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise DependencyError(f"{path}: --help does not run ({exc}; install stable-diffusion.cpp)") from exc
    flags = frozenset(flag for match in _HELP_LINE.finditer(answer.stdout) for flag in match.groups() if flag)
    if not {"--diffusion-model", "--vae"} <= flags:
        raise DependencyError(f"{path}: its --help is not that of stable-diffusion.cpp (name another program)")
    return Program(path, flags, hash_file(Path(path)))


def _find(name: str) -> str | None:
    path = Path(name).expanduser()
    if len(path.parts) > 1:
        return str(path.resolve()) if path.is_file() and os.access(path, os.X_OK) else None
    return shutil.which(name)


def _missing(program: str, name: str) -> OptionalDependencyMissingError:
    return OptionalDependencyMissingError(
        f"backend sdcpp: no program {program} at {name} (build it with scripts/build_sdcpp.sh, or name its path)"
    )
