#!/usr/bin/env bash
# Regenerate the Python stubs under gen/ from protos/ (or into the folder given as $1).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gen}
python=${PYTHON:-.venv/bin/python}
bin=$(dirname "$python")
mkdir -p "$out"
rm -rf "${out:?}/vinf"
"$python" -m grpc_tools.protoc -I protos \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  protos/vinf/v1/*.proto protos/vinf/engine/v1/*.proto
find "$out/vinf" -type d | while read -r folder; do
  echo '"""Generated from protos/ by scripts/generate_stubs.sh; never edited."""' > "$folder/__init__.py"
done
touch "$out/vinf/py.typed"
