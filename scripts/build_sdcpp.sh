#!/usr/bin/env bash
# Builds stable-diffusion.cpp once, from the source that its Python package vendors, for any machine with AVX2:
# sd-cli, sd-server, the library that both use, and a wheel of the Python package around that same library.
#
#   scripts/build_sdcpp.sh             build what is missing; print the folder of the programs
#   scripts/build_sdcpp.sh --install   then install the wheel into the environment of PYTHON
#
# All of it lies in ${XDG_CACHE_HOME:-~/.cache}/avbatch/sdcpp-<version>, where the tests look; removing the folder
# undoes it. Takes 6 CPU minutes, a second run none. PYTHON is .venv/bin/python, else python3; AVBATCH_BUILD_JOBS says
# how many compilers run at once (2). Needs a C++ compiler; cmake and ninja are fetched where they are missing.
#
# `pip install "abstractvision_batch[sdcpp]"` builds the package alone, for this CPU only: its pixels may differ by a level.
set -euo pipefail

package=stable-diffusion-cpp-python
version=0.4.7
sha256=998d1957260dd5ae4e18a8acc0c14b0a8757aaa9f96515197b6d5bbf46df9282
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${XDG_CACHE_HOME:-$HOME/.cache}/avbatch/sdcpp-$version"
programs="$folder/bin"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ -x "$root/.venv/bin/python" ] && PYTHON="$root/.venv/bin/python"
fi
pip=("$PYTHON" -m pip --quiet --disable-pip-version-check)

download() {
  archive="$folder/stable_diffusion_cpp_python-$version.tar.gz"
  [ -f "$archive" ] || "${pip[@]}" download --no-deps --no-binary :all: --dest "$folder" "$package==$version" >&2
  "$PYTHON" - "$archive" "$sha256" <<'PYTHON_CODE'
import hashlib, pathlib, sys

archive, expected = pathlib.Path(sys.argv[1]), sys.argv[2]
found = hashlib.sha256(archive.read_bytes()).hexdigest()
if found != expected:
    archive.unlink()
    sys.exit(f"{archive}: sha256 is {found}, not {expected} (removed it; run again)")
PYTHON_CODE
  rm -rf "$folder/source"
  mkdir -p "$folder/source"
  tar -xzf "$archive" -C "$folder/source" --strip-components=1
}

require_compiler() {
  command -v c++ >/dev/null || command -v g++ >/dev/null && return
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq >&2 && apt-get install -y -qq g++ >&2 && return
  fi
  echo "no C++ compiler (install g++ or clang, then run this again)" >&2
  exit 1
}

compile() {
  require_compiler
  if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
    [ -x "$folder/tools/bin/ninja" ] || "$PYTHON" -m venv "$folder/tools"
    "$folder/tools/bin/python" -m pip --quiet --disable-pip-version-check install "cmake>=3.21,<5" ninja >&2
    PATH="$folder/tools/bin:$PATH"
  fi
  flags=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF)  # native would tie what is cached here to this CPU
  case "$(uname -m)" in
    x86_64 | amd64) flags+=(-DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON) ;;
  esac
  cmake -S "$folder/source/vendor/stable-diffusion.cpp" -B "$folder/build" -G Ninja "${flags[@]}" \
    -DSD_BUILD_SHARED_LIBS=ON -DSD_BUILD_EXAMPLES=ON -DSD_SERVER_BUILD_FRONTEND=OFF \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON "-DCMAKE_INSTALL_RPATH=\$ORIGIN;@loader_path" \
    >"$folder/configure.log" 2>&1 || { tail -n 30 "$folder/configure.log" >&2; exit 1; }
  cmake --build "$folder/build" -j "${AVBATCH_BUILD_JOBS:-2}" --target sd-cli sd-server >"$folder/build.log" 2>&1 ||
    { grep -E "error|FAILED" "$folder/build.log" >&2 || tail -n 30 "$folder/build.log" >&2; exit 1; }
  mkdir -p "$programs"
  for file in "$folder"/build/bin/libstable-diffusion.* "$folder"/build/bin/sd-cli "$folder"/build/bin/sd-server; do
    cp "$file" "$programs/.new"
    mv "$programs/.new" "$programs/$(basename "$file")"  # appears whole; sd-server last, so it says that all is there
  done
}

package_wheel() {
  mkdir -p "$folder/source/stable_diffusion_cpp/lib"
  cp "$programs"/libstable-diffusion.* "$folder/source/stable_diffusion_cpp/lib/"
  rm -f "$folder/source/.gitignore"  # it would keep the library out of the wheel
  CMAKE_ARGS=-DSTABLE_DIFFUSION_BUILD=OFF "${pip[@]}" wheel --no-deps --no-cache-dir \
    --wheel-dir "$folder" "$folder/source" >&2
}

mkdir -p "$folder"
exec 9>"$folder/.lock"  # two builds at once would write the same files
if command -v flock >/dev/null; then flock 9; fi
if [ ! -x "$programs/sd-server" ]; then
  download
  compile
fi
tag="$("$PYTHON" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"
if ! ls "$folder"/*-"$tag"-*.whl >/dev/null 2>&1; then
  download
  package_wheel
fi
rm -rf "$folder/build" "$folder/source"
if [ "${1:-}" = --install ]; then
  "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('stable_diffusion_cpp') is None)" ||
    "${pip[@]}" install -c "$root/constraints.txt" "$folder"/*-"$tag"-*.whl >&2
fi
echo "$programs"
