#!/usr/bin/env bash
# Installs exiftool, with which some tests read what avbatch wrote into its files. Where there is no apt-get, no root or
# no network it says so and the tests skip: it never fails.
set -u

if command -v exiftool >/dev/null; then exit 0; fi
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  install=(apt-get install -y -qq --no-install-recommends libimage-exiftool-perl)
  { "${install[@]}" || { apt-get update -qq && "${install[@]}"; }; } >/dev/null 2>&1
fi
command -v exiftool >/dev/null || echo "no exiftool: its tests will skip (apt-get install libimage-exiftool-perl)" >&2
exit 0
