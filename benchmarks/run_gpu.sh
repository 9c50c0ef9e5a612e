#!/usr/bin/env bash
# All that needs a GPU, in one go: tests, sanitizer, benchmarks; most valuable first, each under its own time limit.
#
#     benchmarks/run_gpu.sh [FOLDER]
#
# FOLDER (default: benchmarks/results/gpu) gets a log a part as it goes. Wheels of missing packages may lie in .whl/:
# they are installed aside, without a network. The exit code is the number of parts that failed.
set -u
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=${PYTHONPATH:-}:$PWD

if compgen -G ".whl/*.whl" >/dev/null; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" \
        .whl/*.whl || exit 1
    export PYTHONPATH=$site:$PYTHONPATH
fi

failed=0
part() { # name, seconds, command...
    local name=$1 seconds=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1
    local code=$?
    tail -n 5 "$out/$name.log"
    echo "$name: exit code $code" | tee -a "$out/summary.log"
    [ $code -eq 0 ] || failed=$((failed + 1))
}

part machine 30 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem --format=csv
part tests 240 python3 -m pytest -m gpu -q -p no:cacheprovider
part basis 120 python3 benchmarks/basis.py
part lattice 120 python3 benchmarks/lattice.py
part bloch 240 python3 benchmarks/bloch_gpu.py
for tool in memcheck racecheck synccheck initcheck; do
    part "sanitizer-$tool-basis" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        python3 -m pytest -m gpu -q -x -p no:cacheprovider -k "matches_the_reference" --hypothesis-seed=0 \
        tests/features
    # Blocks of every shape; the pattern of one launch is enough for the tools, which slow it down a hundred times.
    part "sanitizer-$tool-bloch" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        python3 -m pytest -m gpu -q -x -p no:cacheprovider -k "borders_of_blocks or more_beams_than_threads or beams_are_those or fills_the_table" \
        tests/diffraction/test_gpu_propagation.py tests/diffraction/test_gpu_beams.py tests/diffraction/test_gpu_potential.py
    part "sanitizer-$tool-lattice" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        python3 -m pytest -m gpu -q -x -p no:cacheprovider -k "no_patterns_and or every_kind_of_pattern" \
        tests/kernels/test_lattice_index.py
done
cp benchmarks/results/*-gpu.json "$out" 2>/dev/null
exit $failed
