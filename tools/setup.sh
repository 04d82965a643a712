# Sourced by demo.sh and test.sh: a virtual environment in .venv with this project, made once and reused while pyproject.toml stays as it is.
# Usage: . tools/setup.sh EXTRAS      (e.g. plots  or  dev,export)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=$1 stamp=.venv/installed-$1
if [ ! -x .venv/bin/python ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lightning_fwd needs Python 3.11 or newer; python3 is $(python3 --version)" >&2; exit 1; }
    echo "making .venv"; python3 -m venv .venv
fi
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing lightning_fwd[$extras] into .venv (once; some minutes)"
    # torch first and by itself: an open range would pull a CUDA build of several GB
    .venv/bin/pip install -q --disable-pip-version-check 'torch>=2.13,<2.14'
    .venv/bin/pip install -q --disable-pip-version-check -e ".[$extras]"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
