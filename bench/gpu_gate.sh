#!/usr/bin/env bash
# Everything that needs a GPU, in under 9 minutes on a machine that has one, python3 with torch and pytest, nvcc, cmake
# and ninja, and no network: builds the operators there, runs all tests and the bench against its peers, and looks at
# the kernels with compute-sanitizer and ncu where these work.
#
#   bench/gpu_gate.sh                the whole gate; logs, results and summary.txt in $OUT (bench/results/gate)
#   bench/gpu_gate.sh --dry-run      prints what each stage would run
#   bench/gpu_gate.sh --stage NAME   one stage, on the terminal
#
# Environment: OUT, PYTHON (python3), ARCHS (9.0; as TORCH_CUDA_ARCH_LIST), SECONDS_IN_ALL (530).
# Exit status: 0 if no stage failed, 1 if one did, 2 wrong usage. A stage that cannot run says why and does not fail.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
GATE=bench/gpu_gate.sh
OUT=$(realpath -m "${OUT:-bench/results/gate}")
PYTHON=${PYTHON:-python3}
ARCHS=${ARCHS:-9.0}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-530}
DRY=${DRY:-}
export OUT PYTHON ARCHS DRY
SKIPPED=77
LARGEST_LOG=8000000

STAGES=(device build tests memcheck racecheck bench ncu)
# Most seconds of a stage, and how many it leaves in any case to those after it. The three in the middle run at the
# same time: none of them measures anything.
declare -A LIMIT=([device]=40 [build]=200 [tests]=260 [memcheck]=260 [racecheck]=260 [bench]=210 [ncu]=80)
declare -A LEAVE=([device]=480 [build]=310 [tests]=180 [memcheck]=180 [racecheck]=180 [bench]=60 [ncu]=0)

run() {
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ $DRY ]] || "$@"
}

skip() {
  echo "SKIPPED: $*"
  exit $SKIPPED
}

need() {
  [[ $DRY ]] || command -v "$1" >/dev/null || skip "no $1 on this machine"
}

scratch() {
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
}

stage_device() {
  run nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem --format=csv
  run nvcc --version
  run "$PYTHON" -c 'import sys, torch
print(f"python {sys.version.split()[0]}, torch {torch.__version__}, CUDA {torch.version.cuda}")
sys.exit(not torch.cuda.is_available() and "torch sees no GPU")'
}

stage_build() {
  scratch
  # From nothing: ptxas speaks only of what it compiles.
  run rm -rf build/ops
  run env FORCE_CUDA=1 "TORCH_CUDA_ARCH_LIST=$ARCHS" CMAKE_ARGS=-DCMAKE_CUDA_FLAGS=-Xptxas=-v \
    "$PYTHON" setup.py build_ext --inplace 2>&1 | tee "$WORK/ptxas.log"
  [[ ${PIPESTATUS[0]} == 0 ]] || exit 1
  run "$PYTHON" -m ipr.ops || exit 1
  run "$PYTHON" -m bench.gate spills "$WORK/ptxas.log"
}

stage_tests() {
  scratch
  local options=(-q -ra --durations=10 -p no:cacheprovider -o faulthandler_timeout=120 "--junitxml=$WORK/junit.xml")
  # ipr is not installed here: PYTHONPATH has it for programs that tests start elsewhere.
  # No plugins but ours: some warn, and warnings are errors. A file stays on one worker, as its fixtures are costly.
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then options+=(-p xdist -n auto --dist loadfile); fi
  local left_out
  left_out=$("$PYTHON" -m bench.gate tests) || exit 1
  while IFS= read -r argument; do options+=("$argument"); done <<<"$left_out"
  # Stopped early by an interrupt (which a shell's background jobs ignore), pytest still says what has failed.
  run timeout --signal=INT "$((${STAGE_SECONDS:-LIMIT[tests]} - 20))" env --default-signal=INT \
    "PYTHONPATH=$PWD" OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$PYTHON" -m pytest "${options[@]}"
  local status=$?
  run "$PYTHON" -m bench.gate on-cuda "$WORK/junit.xml" || status=1
  return $status
}

# compute-sanitizer with one of its tools, after it has shown on a planted fault that it works here.
sanitize() {
  local tool=$1
  need compute-sanitizer
  need nvcc
  scratch
  cat >"$WORK/planted.cu" <<'CUDA'
#include <cstdio>
namespace ipr {
__global__ void planted_memcheck(int* out) { out[threadIdx.x + (1 << 20)] = 1; }
__global__ void planted_racecheck(int* out) {
  __shared__ int shared[256];
  shared[threadIdx.x] = out[threadIdx.x];
  out[threadIdx.x] = shared[255 - threadIdx.x];
}
}  // namespace ipr
int main() {
  int* out;
  if (cudaMalloc(&out, 256 * sizeof(int)) || cudaMemset(out, 0, 256 * sizeof(int))) return 1;
  ipr::PLANTED<<<1, 256>>>(out);
  std::printf("%s\n", cudaGetErrorString(cudaDeviceSynchronize()));
}
CUDA
  # Only our kernels, by a part of their mangled names: torch's are slow to watch.
  local watch=(compute-sanitizer --tool "$tool" --kernel-name kns=3ipr --target-processes all --error-exitcode 9)
  [[ $tool == memcheck ]] && watch+=(--report-api-errors no)  # torch probes with calls that may fail
  run nvcc -arch=native "-DPLANTED=planted_$tool" -o "$WORK/planted" "$WORK/planted.cu" ||
    skip "nvcc does not compile a planted fault"
  run "${watch[@]}" "$WORK/planted" 2>&1 | tee "$WORK/planted.log"
  if [[ ! $DRY && ${PIPESTATUS[0]} != 9 ]]; then
    skip "$tool does not find a planted fault here: $(grep '=====' "$WORK/planted.log" | tail -n 1)"
  fi
  # Without torch's cache of memory every tensor is an allocation of its own, whose ends the tool knows.
  run env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${watch[@]}" "$PYTHON" -m bench.exercise small --device cuda
}

stage_memcheck() { sanitize memcheck; }
stage_racecheck() { sanitize racecheck; }

stage_bench() {
  local status=0
  run "$PYTHON" -m bench.warp_patch --device cuda --rounds 15 --json "$OUT/warp_patch_cuda.json" || status=1
  # A case that has been started takes up to half a minute: most of it is torch.compile.
  local enough=$((${STAGE_SECONDS:-LIMIT[bench]} - 90 - SECONDS))
  run "$PYTHON" -m bench.softmax_integral --device cuda --rounds 15 --seconds "$enough" \
    --json "$OUT/softmax_integral_cuda.json" || status=1
  # Its table alone: there may be eight files.
  run "$PYTHON" -m bench.train_step --device cuda --cases resnet50 --rounds 5 --seconds 30 || status=1
  return $status
}

stage_ncu() {
  need ncu
  scratch
  local metrics=gpu__time_duration.sum,dram__bytes.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed
  # The card's clocks stay as they are.
  run ncu --clock-control none --metrics "$metrics" --kernel-name-base demangled --kernel-name regex:ipr \
    --page raw --csv --print-units base --log-file "$WORK/ncu.csv" "$PYTHON" -m bench.exercise large --device cuda
  local status=$? reason
  if [[ ! $DRY ]]; then
    cat "$WORK/ncu.csv"
    reason=$(grep '==ERROR==' "$WORK/ncu.csv" | grep -v 'application returned' | head -n 1)
    [[ -z $reason ]] || skip "$reason"
    ((status == 0)) || exit 1
  fi
  run "$PYTHON" -m bench.gate ncu "$WORK/ncu.csv"
}

# One stage in its own process, into its log; the outcome in $STATE/NAME as "outcome|seconds|reason".
carry_out() {
  local name=$1 log="$OUT/$1.log" start=$SECONDS limit=${LIMIT[$1]} left=$((SECONDS_IN_ALL - LEAVE[$1] - SECONDS))
  local outcome=FAIL reason='' status
  ((left < limit)) && limit=$left
  if ((limit < 5)); then
    echo "FAIL|0|no time left" >"$STATE/$name"
    return
  fi
  STAGE_SECONDS=$limit timeout -k 5 "$limit" bash "$GATE" --stage "$name" >"$log" 2>&1
  status=$?
  case $status in
    0) outcome=PASS ;;
    "$SKIPPED") outcome=skipped reason=$(sed -n 's/^SKIPPED: //p' "$log" | tail -n 1) ;;
    124 | 137) reason="stopped after $limit s" ;;
    *) reason="exit status $status: $(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c1-150)" ;;
  esac
  echo "$outcome|$((SECONDS - start))|$reason" >"$STATE/$name"
  if (($(stat -c %s "$log") > LARGEST_LOG)); then
    tail -c "$LARGEST_LOG" "$log" >"$log.end" && mv "$log.end" "$log"
  fi
  printf '%-10s %-8s %4s s  %s\n' "$name" "$outcome" "$((SECONDS - start))" "$reason"
}

summarise() {
  local failed=0 name outcome seconds reason
  printf '%-10s %-8s %6s  %s\n' stage outcome seconds ''
  for name in "${STAGES[@]}"; do
    IFS='|' read -r outcome seconds reason <"$STATE/$name"
    printf '%-10s %-8s %6s  %s\n' "$name" "$outcome" "$seconds" "$reason"
    [[ $outcome == FAIL ]] && failed=1
  done
  printf '%d seconds in all\n' "$SECONDS"
  return $failed
}

gate() {
  mkdir -p "$OUT" || exit 2
  STATE=$(mktemp -d)
  trap 'rm -rf "$STATE"' EXIT
  carry_out device
  carry_out build
  local name
  for name in tests memcheck racecheck; do carry_out "$name" & done
  wait
  # At most eight files: one for both of the sanitizer's tools, and the device's few lines stand in the summary.
  cat "$OUT/memcheck.log" "$OUT/racecheck.log" >"$OUT/sanitizer.log" && rm "$OUT/memcheck.log" "$OUT/racecheck.log"
  carry_out bench
  carry_out ncu
  { cat "$OUT/device.log" && rm "$OUT/device.log" && summarise; } >"$OUT/summary.txt"
  local failed=$?
  [[ -f $OUT/tests.log ]] && grep -E '^(FAILED|ERROR) ' "$OUT/tests.log" | cut -c1-200 | head -n 20
  [[ -f $OUT/bench.log ]] && sed -n '/ patches  /,/^$/p; /^ours: /,$p' "$OUT/bench.log"
  [[ -f $OUT/ncu.log ]] && sed -n '/^kernel  /,$p' "$OUT/ncu.log"
  cat "$OUT/summary.txt"
  return $failed
}

case "${1:-}" in
  '') gate ;;
  --dry-run)
    DRY=1
    for name in "${STAGES[@]}"; do
      echo "== $name, at most ${LIMIT[$name]} s"
      ("stage_$name")
    done
    ;;
  --stage)
    [[ -n ${2:-} && -n ${LIMIT[${2:-}]:-} ]] || { echo "stages: ${STAGES[*]}" >&2 && exit 2; }
    "stage_$2"
    ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$GATE" >&2
    exit 2
    ;;
esac
