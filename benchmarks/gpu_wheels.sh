#!/usr/bin/env bash
# Collect what a machine without network lacks that has CPython 3.12, JAX, Flax, PyTorch and timm:
#
#     benchmarks/gpu_wheels.sh [FOLDER]
#
# into FOLDER, by default "wheels"; PYTHON names an interpreter that has pip, by default python3.
#
# There, from the root of this repository:
#
#     python3 -m pip install --no-index --no-deps --target SITE FOLDER/*.whl
#     PYTHONPATH=SITE python3 -m benchmarks.gpu --minutes=25 --out=DIR
set -euo pipefail

folder="${1:-wheels}"
python="${PYTHON:-python3}"
most=$((60 * 1024 * 1024)) # bytes in all

# The package's own dependencies, open_clip, and what these need.
wheels=(
    array_record ftfy grain instant-clip-tokenizer==0.1.1 ml_collections open_clip_torch simplejpeg
    tensorboardX tensorflow-datasets
    dm-tree docstring-parser googleapis-common-protos immutabledict importlib_resources portpicker
    simple_parsing tensorflow-metadata termcolor toml wcwidth
)
# pip takes each platform by its exact name: that of a newer C library does not mean the older ones.
platforms=(--platform manylinux1_x86_64 --platform manylinux2010_x86_64 --platform manylinux2014_x86_64)
for minor in 5 12 17 24 26 27 28 31 34 35 39; do
    platforms+=(--platform "manylinux_2_${minor}_x86_64")
done

if compgen -G "$folder/*.whl" >/dev/null; then
    echo "gpu_wheels: $folder has wheels already, two versions of one would stop the install: name an empty folder" >&2
    exit 1
fi
mkdir -p "$folder"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp "${platforms[@]}" --dest "$folder" "${wheels[@]}"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder" promise==2.3 # has no wheel, is pure Python

size=$(du --bytes --summarize "$folder" | cut -f1)
found=("$folder"/*.whl)
echo "${#found[@]} wheels in $folder, $((size / 1024 / 1024)) MiB"
if ((size > most)); then
    echo "gpu_wheels: $((size / 1024 / 1024)) MiB, expected at most $((most / 1024 / 1024)): leave a package out" >&2
    exit 1
fi
