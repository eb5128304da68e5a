#!/bin/sh
# Measure rlkl (`rlkl bench work=gpu`) on a machine with a GPU and torch, where nothing can be installed.
#
#   scripts/bench_gpu.sh wheels DIR          with a network: collect what that machine lacks in DIR
#   scripts/bench_gpu.sh run DIR [KEY=VALUE ...]    there: measure, for example with output=gpu
#
# torch, NumPy, TensorBoard, joblib, rich, threadpoolctl and PyYAML must be there. PYTHON is that
# machine's version of Python for the first form, 3.12 by default, and its command for the second.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
wheels=$2
case $1 in
wheels)
    # antlr4-python3-runtime comes as source; the others must not be built here.
    python3 -m pip wheel -q --no-deps -c "$root/constraints.txt" -w "$wheels" antlr4-python3-runtime
    python3 -m pip download -q --no-deps -c "$root/constraints.txt" -d "$wheels" \
        --only-binary=:all: --python-version "${PYTHON:-3.12}" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        hydra-core hydra-joblib-launcher omegaconf gymnasium farama-notifications cloudpickle \
        ale-py mujoco absl-py etils glfw PyOpenGL
    ;;
run)
    shift 2
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "${PYTHON:-python3}" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    PYTHONPATH="$root:$site" "${PYTHON:-python3}" -m rlkl bench work=gpu "$@"
    ;;
*)
    echo "expected: scripts/bench_gpu.sh wheels DIR, or scripts/bench_gpu.sh run DIR" >&2
    exit 2
    ;;
esac
