#!/usr/bin/env bash
# The pages of all rooms and the API reference as a searchable site: build/docs/index.html. A warning is an error.
# Installs what it needs into .venv. Arguments go to sphinx-build: tools/docs.sh -E reads everything anew.
set -euo pipefail
. "$(dirname "$0")/setup.sh" docs,export
sphinx-build -b html -c tools/docs -d build/doctrees -W --keep-going -q "$@" . build/docs
echo "build/docs/index.html"
