#!/usr/bin/env bash
# All that needs a CUDA GPU, the most telling first: builds the kernels for it, runs the GPU tests, a race check, and the
# benchmarks' GPU tables. Each step leaves its output in a file of the given folder and is skipped once that says it passed,
# so the same command goes on after an interruption.
#
#   benchmarks/gpu.sh OUT [PYTHON]
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT [PYTHON]} python=${2:-python3}
mkdir -p "$out"

step() {
    local name=$1
    shift
    grep -qs '^exit 0$' "$out/$name.txt" && { echo "$name: done before"; return; }
    echo "$name: $*"
    "$@" > "$out/$name.txt" 2>&1
    echo "exit $?" >> "$out/$name.txt"
    tail -n 2 "$out/$name.txt"
}

step build env FORCE_CUDA=1 MIXAUG_CUDA_ARCH=native "$python" setup.py -q build_ext --inplace
step info "$python" -m mixaug info
step tests "$python" -m pytest -q -m gpu tests
command -v compute-sanitizer > /dev/null && step races compute-sanitizer --tool racecheck --error-exitcode 9 \
    "$python" -m pytest -q -m gpu tests/mixaug_ext/test_ipmix_cuda.py tests/mixaug_ext/test_capped_relu_cuda.py -k "equal"
command -v compute-sanitizer > /dev/null && step memory compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$python" -m pytest -q -m gpu tests/mixaug_ext/test_composite.py tests/mixaug_ext/test_ipmix_cuda.py tests/mixaug_ext/test_capped_relu_cuda.py \
    -k "equal"
step bench_mixcut "$python" benchmarks/bench_mixcut.py --device cuda --only speed
step bench_drelu "$python" benchmarks/bench_drelu.py --device cuda
step bench_ipmix "$python" benchmarks/bench_ipmix.py --device cuda
step bench_training "$python" benchmarks/bench_training.py --device cuda
step bench_attacks "$python" benchmarks/bench_attacks.py --device cuda
step bench_adautomix "$python" benchmarks/bench_adautomix.py --device cuda
step bench_report "$python" benchmarks/bench_report.py --device cuda
