#!/usr/bin/env bash
# Compile the training step of every paper config for one H100, to machine code, on a machine that
# has no GPU: an environment with the CUDA packages (4.6 GB) in DIR, .cuda by default, and a table in
# DIR/compiled.md. Ends with code 1 if one does not compile or does not fit. CARDS=h100:1,h100:8 and
# the like name other GPUs (python -m rsclip_jax.aot --help).
set -euo pipefail
cd "$(dirname "$0")/.."
env="${1:-.cuda}"
python -m venv "$env"
"$env/bin/pip" install -q -e ".[cuda]"
"$env/bin/python" -m benchmarks.gpu_table --rows=papers --cards="${CARDS:-h100:1}" --finish --table="$env/compiled"
