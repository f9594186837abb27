#!/usr/bin/env bash
# Install what a host needs into <project>/.venv: the pinned packages, and the kernel compiler ttnn names. Run it again
# after an update; it does nothing where nothing changed. Needs Python 3.12 with venv, curl and xz.
set -euo pipefail
usage="usage: install.sh
Installs the pinned packages and ttnn's kernel compiler into .venv of this project. It takes no arguments."
case ${1:-} in
  '') ;;
  -h | --help) echo "$usage"; exit ;;
  *) echo "install.sh: no such argument: $1; it takes none" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."

# The same three steps as `make`, without the packages that only tests need.
stamp=.venv/installed
if ! cmp -s requirements.txt "$stamp"; then
  python3.12 -m venv .venv
  .venv/bin/pip install --quiet --require-hashes -r requirements-uv.txt
  .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --compile-bytecode -r requirements.txt
  cp requirements.txt "$stamp"
fi

# ttnn's wheel lacks sfpi, but names its version and checksum, and looks for it in its own directory runtime/sfpi.
ttnn=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("ttnn").submodule_search_locations[0])')
sfpi_version='' sfpi_repo=''
# shellcheck disable=SC1091
source "$ttnn/tt_metal/sfpi-version"
compiler=$ttnn/runtime/sfpi/compiler/bin/riscv-tt-elf-g++
if [[ ! -x $compiler && ! -x /opt/tenstorrent/sfpi/compiler/bin/riscv-tt-elf-g++ ]]; then
  arch=$(uname -m)
  hash=sfpi_${arch}_debian_txz_hash
  archive=$(mktemp -d)/sfpi.txz
  trap 'rm -rf "$(dirname "$archive")"' EXIT
  curl -fsSL --retry 3 -o "$archive" "$sfpi_repo/releases/download/$sfpi_version/sfpi_${sfpi_version}_${arch}_debian.txz"
  echo "${!hash}  $archive" | sha256sum --check --quiet
  mkdir -p "$ttnn/runtime"
  tar -xJf "$archive" -C "$ttnn/runtime"
fi
echo "installed in $PWD/.venv"
