#!/usr/bin/env bash
# All tests but the slow ones. Installs what it needs: Python packages into .venv, the Arm cross-compiler and emulator by apt where it may.
# Arguments go to pytest: tools/test.sh tests/methods -k pepita ; tools/test.sh -m slow
set -euo pipefail
extras=dev,export,npu
[ "$(uname)" = Linux ] || extras=dev  # tosa-tools, which the exporter's int8 part needs, has wheels for Linux only: the exporter's tests are skipped
cd "$(dirname "$0")/.."
apt=
if [[ $extras == *export* ]] && { ! command -v arm-none-eabi-g++ >/dev/null || ! command -v qemu-system-arm >/dev/null || ! command -v cppcheck >/dev/null; }; then
    packages="gcc g++ make gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-newlib qemu-system-arm cppcheck cmake libxml2-utils"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then  # beside the Python packages: both mostly wait for the network
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null; } &
        apt=$!
    else
        echo "board tests need: apt-get install $packages" >&2
    fi
fi
. tools/setup.sh "$extras"
ruff check .
ruff format --check .
mypy
[ -z "$apt" ] || wait "$apt"
exec python -m pytest -n "${TEST_JOBS:-2}" --dist loadfile --no-loadscope-reorder "$@"
