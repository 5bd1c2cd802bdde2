#!/usr/bin/env bash
# Run the tests with the lowest or the newest versions that setup.py allows, in an environment of
# their own: tests/versions.sh lowest|newest [arguments of pytest]. DIR=... keeps the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
lowest) resolution=lowest-direct ;;
newest) resolution=highest ;;
*) echo "tests/versions.sh: expected lowest or newest, then arguments of pytest" >&2 && exit 2 ;;
esac
env="${DIR:-$(mktemp -d)}"
python -m venv "$env" && "$env/bin/pip" install -q uv
# Only the versions that setup.py names are lowest: what these need in turn has bounds of its own.
"$env/bin/uv" pip install -q --python="$env/bin/python" --resolution="$resolution" -e ".[test]"
"$env/bin/python" -m pytest "${@:2}"
