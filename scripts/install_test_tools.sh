#!/usr/bin/env bash
# Installs what some tests compare avbatch with and pip does not have: exiftool, systemd-analyze and a browser, from the system's
# packages. Where there is no apt-get, no root or no network it says so and those tests skip: it never fails.
#   scripts/install_test_tools.sh
# KubeRay's own definitions of its objects are in no package, so nothing downloads them unasked. This does, from
# KubeRay's repository, and checks their digests; without them manifests are checked by schemas of this repository:
#   scripts/install_test_tools.sh --kuberay-crds [FOLDER]     by default .venv/share/kuberay-crds
set -u
cd "$(dirname "$0")/.." || exit 0

install() { # a program, and the package that has it
  if command -v "$1" >/dev/null; then return; fi
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    local get=(apt-get install -y -qq --no-install-recommends "$2")
    { "${get[@]}" || { apt-get update -qq && "${get[@]}"; }; } >/dev/null 2>&1
  fi
  command -v "$1" >/dev/null || echo "no $1: its tests will skip (apt-get install $2)" >&2
}
install exiftool libimage-exiftool-perl
install systemd-analyze systemd
install chromium chromium

[ "${1:-}" = --kuberay-crds ] || exit 0

# Apache-2.0, of the release v1.7.0; not part of this repository.
crds=${2:-.venv/share/kuberay-crds}
source=https://raw.githubusercontent.com/ray-project/kuberay/v1.7.0/ray-operator/config/crd/bases
mkdir -p "$crds"
while read -r sum file; do
  if echo "$sum  $crds/$file" | sha256sum --check --status 2>/dev/null; then continue; fi
  if curl -fsSL --max-time 60 "$source/$file" -o "$crds/$file.part" 2>/dev/null &&
    echo "$sum  $crds/$file.part" | sha256sum --check --status; then
    mv "$crds/$file.part" "$crds/$file"
  else
    rm -f "$crds/$file.part"
    echo "no $file of KubeRay: manifests are checked without it" >&2
  fi
done <<'SUMS'
01a5cf3b17c1769fda44af7e82debcd98722f0c27b9ab84d084681c6649121f5 ray.io_rayjobs.yaml
31c2c753bba01f7e8e89cb8e8c504131b58ee42090ca536d87f5ac27605a568e ray.io_raycronjobs.yaml
SUMS
exit 0
