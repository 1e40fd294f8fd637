#!/bin/bash
# Runs the GPU tests, the benchmarks and the peers on this machine's GPU and writes what they say into one JSON.
#
#     tests/bench/gpu.sh OUT.json [options] [-- options of train_step.py compare: --data, --llmc, --rounds, ...]
#     tests/bench/gpu.sh pack FOLDER     builds, and puts all that a machine without a compiler needs into FOLDER
#
#   --parts A,B,...   these, in this order; else all, the most important first:
#                     tests steps attention memcheck racecheck layers kernels trained wgrads
#   --seconds N       ends after that time: parts are cut short or left out (3600)
#   --configs G,...   groups of configurations for the steps, + joins what is on the GPU together
#   --trace FILE      a routing trace for the layers (docs/formats.md)
#   --lengths FILE    lengths of documents for the attention
#   --no-build        takes build/cuda, or bin where `pack` made it, as it is
#
# Every part has a time limit. When it ends, OUT.json and OUT.tar.gz (all logs) are written again, so that what was measured
# stays when the machine goes away. With PyTorch and transformers in `python3` the peers run beside Cadre. Nothing else may
# use the GPU.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
programs=(launch/cadre tests/device/cuda/device_cuda_test tests/moe/cuda/moe_cuda_test tests/optim/optim_cuda_test
  tests/trainer/trainer_cuda_test tests/bench/bench_kernels tests/bench/bench_attention tests/bench/bench_moe
  tests/bench/bench_wgrads)
all=tests,steps,attention,memcheck,racecheck,layers,kernels,trained,wgrads

usage() { sed -n '4,15s/^# \{0,1\}//p' "$0"; exit 2; }

build() {
  cmake --preset cuda && cmake --build --preset cuda --target cadre tests_cuda
}

pack() {
  build || exit
  mkdir -p "$1"/bin "$1"/tests/bench && cp -r configs "$1" && cp -r tests/bench/gpu.sh tests/bench/peers "$1"/tests/bench || exit
  for path in "${programs[@]}"; do
    strip -o "$1/bin/$(basename "$path")" "build/cuda/$path" || exit
  done
  git rev-parse --short HEAD >"$1"/bin/commit
  du -sh "$1"
}

[ $# -ge 1 ] || usage
if [ "$1" = pack ]; then
  [ $# = 2 ] || usage
  pack "$2"
  exit
fi
out=$(realpath -m "$1")
shift
parts=$all seconds=3600 configs=dense355m+dense124m,mixtral-mini,olmoe4 trace='' lengths='' make=yes
while [ $# -gt 0 ]; do
  case $1 in
    --no-build) make=; shift; continue ;;
    --) shift; break ;;
    --parts | --seconds | --configs | --trace | --lengths) [ $# -ge 2 ] || usage ;;
    *) echo "gpu.sh: unknown option $1" >&2; usage ;;
  esac
  declare "${1#--}=$2"
  shift 2
done
for part in ${parts//,/ }; do
  case ,$all, in *,$part,*) ;; *) echo "gpu.sh: no part $part, only ${all//,/ }" >&2; exit 2 ;; esac
done
[ -z "$make" ] || build || exit

logs=${out%.json}.logs
rm -rf "$logs"
mkdir -p "$logs" || exit
commit=$(cat bin/commit 2>/dev/null || git rev-parse --short HEAD 2>/dev/null || echo unknown)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PYTHONUNBUFFERED=1

# The path of a program: of a build here, or packed.
program() {
  local path
  for path in "${programs[@]}"; do
    [ "$(basename "$path")" = "$1" ] || continue
    if [ -e bin/commit ]; then echo "bin/$1"; else echo "build/cuda/$path"; fi
  done
}

# limited NAME SECONDS COMMAND...: at most that long, and no longer than the whole has; its output goes to a log.
limited() {
  local name=$1 limit=$2 start=$SECONDS code=0 left=$((seconds - SECONDS))
  shift 2
  if ((left < limit)); then limit=$left; fi
  if ((limit < 5)); then
    echo "$name left-out 0 0" >>"$logs/parts"
    echo "== $name: left out, no time"
    return 1
  fi
  timeout -k 5 "$limit" "$@" >"$logs/$name.txt" 2>&1 || code=$?
  echo "$name $code $((SECONDS - start)) $limit" >>"$logs/parts"
  if [ $code = 124 ] || [ $code = 137 ]; then
    echo "== $name: stopped after $limit s"
  else
    echo "== $name: code $code, $((SECONDS - start)) s"
  fi
  return $code
}

collect() {
  python3 - "$logs" "$out" "$commit" <<'PYTHON'
import json, pathlib, subprocess, sys
logs, out, commit = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"]
try:
    gpu = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
except (OSError, subprocess.TimeoutExpired):
    gpu = ""
result = {"gpu": gpu, "commit": commit, "parts": {}, "tests": {}, "figures": {}}
def load(text):
    try:
        return json.loads(text)
    except ValueError:  # a line that only looks like JSON, a file that was cut
        return text
for line in (logs / "parts").read_text().splitlines():
    name, code, seconds, limit = line.split()
    state = {"124": "stopped", "137": "stopped"}.get(code, code if code == "left-out" else int(code))
    result["parts"][name] = {"code": state, "seconds": int(seconds), "limit": int(limit)}
for file in sorted(logs.glob("*.json")):
    report = load(file.read_text())
    if file.name.startswith("test-") and isinstance(report, dict):
        result["tests"][file.stem[5:]] = {key: report.get(key) for key in ("tests", "failures", "errors", "time")}
    else:
        result["figures"][file.stem] = report
for file in sorted(logs.glob("*.txt")):
    lines = file.read_text(errors="replace").splitlines()
    if file.name.startswith("test-"):
        failed = [line.split("]", 1)[1].strip() for line in lines if line.startswith("[  FAILED  ]")]
        result["tests"].setdefault(file.stem[5:], {"tests": sum(line.startswith("[ RUN") for line in lines), "cut": True})["failed"] = failed
    else:
        result["figures"].setdefault(file.stem, [load(line) if line.startswith("{") else line for line in lines[-200:]])
beside = out.with_suffix(".part")
beside.write_text(json.dumps(result, indent=1) + "\n")
beside.replace(out)
PYTHON
  tar -czf "${out%.json}.tar.gz" -C "$logs" .
}

# Tests judge no times, so they run together; but those that fill or measure the GPU's memory run alone, behind the others.
part_tests() {
  local test pids=() alone='CudaStep.TooLittleMemory*:CudaStep.TakesWhatWasPlanned'
  for test in device_cuda_test moe_cuda_test optim_cuda_test trainer_cuda_test; do
    limited "test-$test" 240 "$(program $test)" "--gtest_filter=-$alone" --gtest_output="json:$logs/test-$test.json" &
    pids+=($!)
  done
  local code=0
  for pid in "${pids[@]}"; do wait "$pid" || code=1; done
  limited test-memory 90 "$(program trainer_cuda_test)" "--gtest_filter=$alone" --gtest_output="json:$logs/test-memory.json" || code=1
  grep -h '^\[  FAILED  \]' "$logs"/test-*.txt | sort -u | head -40
  return $code
}

part_steps() {
  local code=0 group
  if [ -z "$peers" ]; then
    for group in ${configs//[,+]/ }; do
      limited "step-$group" 120 "$(program cadre)" bench "configs/bench-$group.yaml" --json || code=1
      collect
    done
    return $code
  fi
  for group in ${configs//,/ }; do
    mkdir -p "$logs/peers-$group"
    limited "turns-$group" 210 python3 tests/bench/peers/train_step.py compare "$(program cadre)" "$logs/steps-$group.json" \
      --commit "$commit" --configs "$group" --logs "$logs/peers-$group" "${step_options[@]}" || code=1
    find "$logs/peers-$group" -name '*.batches' -delete
    cat "$logs/turns-$group.txt"
    collect
  done
  return $code
}

part_attention() {
  limited attention 90 "$(program bench_attention)" ${lengths:+"$lengths"}
}

# The dense kernels, in short cases: the tools make kernels a thousand times slower. And a case of as many heads as
# attention's backward pass in one kernel wants.
sanitize() {
  CADRE_TEST_CASES=short limited "$1" "$2" compute-sanitizer --tool "$1" --error-exitcode 9 "$(program device_cuda_test)" \
    --gtest_filter='Entries/*:CudaOwn*:CudaPortable*'
  local code=$?
  CADRE_TEST_CASES=48x261 limited "$1-attention" "$2" compute-sanitizer --tool "$1" --error-exitcode 9 "$(program device_cuda_test)" \
    --gtest_filter='CudaOwn*' || code=1
  grep -hE 'ERROR SUMMARY|RACECHECK SUMMARY' "$logs/$1.txt" "$logs/$1-attention.txt"
  return $code
}
part_memcheck() { sanitize memcheck 150; }
part_racecheck() { sanitize racecheck 240; }

part_layers() {
  if [ -z "$peers" ]; then
    limited layers 60 "$(program bench_moe)" layer 16384 2048 1024 64 8
  else
    limited layers 210 python3 tests/bench/peers/moe_layer.py "$(program bench_moe)" ${trace:+--trace "$trace"}
  fi
}

part_kernels() {
  limited kernels 90 "$(program bench_kernels)"
}

# The manifest that train_step.py takes for a configuration: its own, else the one that is named alone.
data_of() {
  local i word='' found=''
  for ((i = 0; i < ${#step_options[@]}; ++i)); do
    case ${step_options[i]} in
      --*) word=${step_options[i]} ;;
      "$1="*) [ $word != --data ] || { echo "${step_options[i]#*=}"; return; } ;;
      *=*) ;;
      *) [ "$word" != --data ] || found=${step_options[i]} ;;
    esac
  done
  [ "$1" = mixtral-mini ] || echo "$found"
}

# Experts from weights that 150 steps on --data have made, so that the router has chosen: their export is what the peers read.
part_trained() {
  local run=$logs/run cadre config data code=0
  cadre=$(program cadre)
  for config in olmoe4 mixtral-mini; do
    data=$(data_of $config)
    if [ -z "$peers" ] || [ -z "$data" ]; then
      echo "== trained $config: left out, it needs the peers and --data"
      continue
    fi
    limited "train-$config" 100 "$cadre" train configs/bench-$config.yaml "out=$run" "data.manifest=$data" data.mask_documents=false \
      train.steps=150 schedule.warmup=20 checkpoint.every=150 &&
      limited "export-$config" 60 "$cadre" export "$run" "$logs/hf" --dtype bfloat16 &&
      limited "turns-trained-$config" 210 python3 tests/bench/peers/train_step.py compare "$cadre" "$logs/steps-trained-$config.json" \
        --commit "$commit" --configs $config --logs "$run" --init "$config=$run" --weights "$config=$logs/hf" "${step_options[@]}" || code=1
    rm -rf "$run" "$logs/hf"
    collect
  done
  return $code
}

# Weight gradients in one launch beside cuBLASLt's.
part_wgrads() { limited wgrads 60 "$(program bench_wgrads)"; }

step_options=("$@")
peers=yes
python3 -c "import torch, transformers, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null || peers=
[ -n "$peers" ] || echo "== no peers: python3 has no PyTorch with a GPU and transformers"
failed=0
: >"$logs/parts"
for part in ${parts//,/ }; do
  "part_$part" || failed=1
  collect
done
echo "== $SECONDS s: wrote $out and ${out%.json}.tar.gz"
exit $failed
