#!/usr/bin/env bash
# Compare with the real open_clip and transformers, in an environment of their own: DIR, .parity by default.
set -euo pipefail
cd "$(dirname "$0")/.."
env="${1:-.parity}"
python -m venv "$env"
"$env/bin/pip" install -q -e ".[test,torch]" open_clip_torch transformers
"$env/bin/python" -m pytest tests/test_torch_parity.py -n 0
