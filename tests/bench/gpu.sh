#!/bin/bash
# Builds the GPU tests and benchmarks, runs them on this machine's GPU and writes one JSON.
#
#     tests/bench/gpu.sh OUT.json [--no-build] [--data MANIFEST] [--llmc TRAIN_GPT2CU] [--configs ...]
#
# Needs nvcc and a GPU; with PyTorch and transformers in `python3` the peers run beside Cadre, else only Cadre's own
# figures are taken. --data and what follows it go to tests/bench/peers/train_step.py. Nothing else may use the GPU.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(realpath -m "${1:?usage: gpu.sh OUT.json [--no-build] [options of train_step.py compare]}")
shift
build=build/cuda
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
if [ "${1:-}" = --no-build ]; then
  shift
else
  cmake --preset cuda
  cmake --build --preset cuda --target cadre tests_cuda
fi

failed=0
for test in device/cuda/device_cuda_test moe/cuda/moe_cuda_test optim/optim_cuda_test trainer/trainer_cuda_test; do
  name=$(basename "$test")
  echo "== $name"
  "$build/tests/$test" --gtest_brief=1 --gtest_output="json:$parts/test-$name.json" || failed=1
done
for bench in bench_kernels bench_attention; do
  echo "== $bench"
  "$build/tests/bench/$bench" | tee "$parts/$bench.txt"
done
peers=yes
python3 -c "import torch, transformers, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null || peers=
if [ -n "$peers" ]; then
  echo "== layers and grouped products"
  python3 tests/bench/peers/moe_layer.py "$build/tests/bench/bench_moe" | tee "$parts/moe_layer.txt"
  echo "== whole steps, in turns"
  python3 tests/bench/peers/train_step.py compare "$build/launch/cadre" "$parts/steps.json" \
    --commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$@"
else
  echo "== whole steps, without peers: python3 has no PyTorch with a GPU"
  for config in configs/bench-{dense124m,dense355m,mixtral-mini,olmoe4}.yaml; do
    "$build/launch/cadre" bench "$config" --json | tee "$parts/step-$(basename "$config" .yaml).json"
  done
fi

python3 - "$parts" "$out" <<'PYTHON'
import json, pathlib, subprocess, sys
parts, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit", "--format=csv,noheader"]
git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
result = {"gpu": subprocess.run(query, capture_output=True, text=True).stdout.strip(), "commit": git, "tests": {}, "figures": {}}
for file in sorted(parts.iterdir()):
    text = file.read_text()
    if file.name.startswith("test-"):
        report = json.loads(text)
        result["tests"][file.stem[5:]] = {key: report[key] for key in ("tests", "failures", "errors", "time")}
    elif file.suffix == ".json":
        result["figures"][file.stem] = json.loads(text)
    else:
        result["figures"][file.stem] = [json.loads(line) if line.startswith("{") else line for line in text.splitlines()]
out.write_text(json.dumps(result, indent=1) + "\n")
print("wrote", out)
PYTHON
exit $failed
