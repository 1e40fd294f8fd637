#!/bin/bash
# All that is to be known about runs on two GPUs of one host, in one call; each part's results are in OUT when it ends.
#
#     tests/bench/two_gpus.sh OUT [--bin DIR] [--peer PROGRAM] [--parts "tests steps routed faults save peer comm channels"]
#                             [--data CONFIG=MANIFEST]... [--init CONFIG=RUN]... [--limit S]
#
# OUT        a folder: two_gpus.json and logs.tar.gz with everything so far, both written again after each part
# --bin      where cadre and the test programs are (flat, or a build folder); default build/cuda, which is built first
# --peer     for tests/bench/peers/two_gpus.py; without it Cadre runs alone
# --data     text for a configuration of the part `routed`, which is left out without
# --init     the run whose weights it starts from; without, the part makes one
# --limit    seconds after which no further part is begun and what runs is ended
# Needs two GPUs that nothing else uses, Open MPI and python3. Ends with 1 when a test failed or a fault ended otherwise than it
# should. NCCL's environment is left as it is.
set -u
cd "$(dirname "$0")/../.."
out=$(realpath -m "${1:?usage: two_gpus.sh OUT [--bin DIR] [--peer PROGRAM] [--parts LIST] [--limit S]}")
shift
bin= peer= limit=100000 parts="tests steps routed faults save peer comm channels" data=() init=()
while [ $# -gt 0 ]; do
  case $1 in
    --bin) bin=$(realpath "$2") ;;
    --peer) peer=$(realpath "$2") ;;
    --parts) parts=$2 ;;
    --data) data+=("$2") ;;
    --init) init+=("$2") ;;
    --limit) limit=$2 ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift 2
done
work=$(mktemp -d)
results=$out out=$work/out
mkdir -p "$results" "$out"
pack() {
  if [ -e "$out/two_gpus.json" ]; then cp "$out/two_gpus.json" "$results/"; fi
  tar -czf "$work/logs.tar.gz" -C "$out" . && mv "$work/logs.tar.gz" "$results/"
}
trap 'pack; rm -rf "$work"' EXIT
trap 'exit 1' TERM INT
if [ -z "$bin" ]; then
  bin=$PWD/build/cuda
  cmake --preset cuda > "$out/build.log" && cmake --build --preset cuda --target cadre comm_nccl_test trainer_cuda_ranks_test device_cuda_test moe_cuda_test \
    >> "$out/build.log" || { tail -20 "$out/build.log"; exit 1; }
fi
program() { find "$bin" -name "$1" -type f -perm -u+x | head -1; }
cadre=$(program cadre)
[ -x "$cadre" ] || { echo "no program cadre in $bin" >&2; exit 2; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OPENBLAS_NUM_THREADS=1
export CUDA_MODULE_LOADING=EAGER GTEST_COLOR=no
ranks="mpirun -np 2 --bind-to none"
failed=0

note() {  # KEY JSON: a figure of two_gpus.json
  python3 - "$out/two_gpus.json" "$1" "$2" <<'PYTHON'
import json, pathlib, sys
file, key, value = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
all_of_it = json.loads(file.read_text()) if file.exists() else {}
all_of_it[key] = value
file.write_text(json.dumps(all_of_it, indent=1) + "\n")
PYTHON
}
wrong() { echo "WRONG: $1"; failed=1; }
timeout() {  # SECONDS COMMAND...: no longer than --limit either; mpirun ends its ranks when it is asked to end
  local most=$1 left=$((limit - SECONDS))
  shift
  [ $left -gt "$most" ] || most=$left
  [ "$most" -ge 5 ] || { echo "no time for: $*"; return 124; }
  command timeout -k 10 "$most" "$@"
}

part_tests() {
  local name rc
  for name in "comm_nccl_test 2" "trainer_cuda_ranks_test 2" "device_cuda_test 1" "moe_cuda_test 1"; do
    set -- $name
    local filter=*
    [ "$1" = device_cuda_test ] && filter='*Snapshot*'
    [ "$1" = moe_cuda_test ] && filter='*Peer*'
    timeout 150 mpirun -np "$2" --bind-to none "$(program "$1")" --gtest_filter="$filter" > "$out/$1.log" 2>&1
    rc=$?
    grep -aE "FAILED|PASSED|SKIPPED|Failure|against" "$out/$1.log" | sort | uniq -c | head -20
    note "test $1" "{\"rc\": $rc, \"passed\": $(grep -acE '^\[ +OK' "$out/$1.log")}"
    [ $rc = 0 ] || wrong "$1 ended with $rc"
  done
}

bench() {  # NAME COMMAND..., with most=SECONDS before it where 90 are too few
  local name=$1 line
  shift
  timeout "${most:-90}" "$@" > "$out/$name.log" 2>&1
  line=$(grep -a '^{' "$out/$name.log" | tail -1)
  if [ -n "$line" ]; then
    note "$name" "$line"
    python3 -c "
import json, sys
r = json.loads(sys.argv[2])
print(f\"{sys.argv[1]}: {r['step_ms_median']:.2f} ms, {r['tokens_per_s'] / r['ranks']:.0f} tokens/s a GPU, {100 * r['exposed_communication']:.2f}% exposed \"
      f\"({r['step_ms_without_communication']:.2f} ms without), {r['gpu_gib']:.1f} GiB, loss {r['loss']:.4f}\")" "$name" "$line"
  else
    wrong "$name: no result"; tail -5 "$out/$name.log"
  fi
}
# CONFIG NAME KEY=VALUE...: all layouts. The fastest state of a GPU is not its first: a run of one comes before and after those of two.
layouts() {
  local run="$cadre bench configs/bench-$1.yaml --json" name=$2
  shift 2
  bench "$name-1" $run "$@"
  bench "$name-dp2" $ranks $run "$@" train.global_batch=16
  # Streams that share a hardware queue would hold each other up where one waits for a peer.
  bench "$name-dp2-queues" env CUDA_DEVICE_MAX_CONNECTIONS=32 $ranks $run "$@" train.global_batch=16
  bench "$name-dp2-nccl" env CADRE_PEER_MEMORY=0 $ranks $run "$@" train.global_batch=16
  bench "$name-ep2" $ranks $run "$@" train.global_batch=16 mesh.ep=2
  bench "$name-ep2-nccl" env CADRE_PEER_MEMORY=0 $ranks $run "$@" train.global_batch=16 mesh.ep=2
  bench "$name-ep2-gather" $ranks $run "$@" train.global_batch=16 mesh.ep=2 moe.dispatch=gather
  bench "$name-ep2-experts" $ranks $run "$@" train.global_batch=16 mesh.ep=2 moe.shares=experts
  bench "$name-ep2-peer" $ranks $run "$@" train.global_batch=16 mesh.ep=2 moe.dispatch=peer
  # docs/cuda.md, "On trial"
  bench "$name-dp2-nccl-trial" env CADRE_TRIAL=1 CADRE_PEER_MEMORY=0 $ranks $run "$@" train.global_batch=16
  bench "$name-1-again" $run "$@"
}
part_steps() {
  local c
  for c in olmoe4 mixtral-mini; do layouts $c $c train.steps=10; done
  scaling
}

# The same on text, from weights that 150 steps of it have made: routers of the first steps may leave most experts without tokens, and
# then ranks wait for each other. In memory, since checkpoints of this size take disks longer than the measurement.
part_routed() {
  local pair given c text run
  for pair in "${data[@]}"; do
    c=${pair%%=*} run=$(mktemp -d -p /dev/shm)
    text="data.manifest=${pair#*=} data.mask_documents=false"
    for given in "${init[@]}"; do
      if [ "${given%%=*}" = "$c" ]; then ln -s "$(realpath "${given#*=}")" "$run/run"; fi
    done
    if [ -e "$run/run" ] || timeout 150 "$cadre" train configs/bench-$c.yaml out="$run/run" $text train.steps=150 schedule.warmup=20 checkpoint.every=150 \
      eval.every=0 eval.tokens_per_domain=200 > "$out/$c-train.log" 2>&1; then
      layouts $c $c-routed init="$run/run" $text train.steps=20
    else
      wrong "$c-train"; tail -5 "$out/$c-train.log"
    fi
    rm -rf "$run"
  done
  scaling
}

scaling() {
  python3 - "$out/two_gpus.json" <<'PYTHON'
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
found = json.loads(file.read_text())
table = {}
for config in ("olmoe4", "mixtral-mini", "olmoe4-routed", "mixtral-mini-routed"):
    one = max((found[k]["tokens_per_s"] for k in (f"{config}-1", f"{config}-1-again") if k in found), default=None)
    for layout in ("dp2", "dp2-queues", "dp2-nccl", "ep2", "ep2-nccl", "ep2-gather", "ep2-experts", "ep2-peer", "dp2-nccl-trial"):
        two = found.get(f"{config}-{layout}")
        if one and two:
            table[f"{config}-{layout}"] = {"of_one_gpu": round(two["tokens_per_s"] / 2 / one, 4), "exposed": round(two["exposed_communication"], 4)}
found["scaling"] = table
file.write_text(json.dumps(found, indent=1) + "\n")
print(json.dumps(table, indent=1))
PYTHON
}

# How many multiprocessors NCCL's kernels may hold: fewer slow the GEMMs less and the collectives more.
part_channels() {
  local n
  for n in 4 8 16 32; do
    bench "olmoe4-dp2-ctas$n" env NCCL_MAX_CTAS=$n CADRE_PEER_MEMORY=0 $ranks "$cadre" bench configs/bench-olmoe4.yaml train.steps=8 train.global_batch=16 --json
  done
}

part_comm() {
  timeout 90 $ranks "$cadre" bench comm --max-bytes 268435456 --repeats 10 > "$out/bench_comm.txt" 2>&1 || wrong "bench comm"
  tail -90 "$out/bench_comm.txt"
}

# Two checkpoints of 12 bytes a parameter: of half the layers, since disks of rented machines are slow.
part_save() {
  most=240 bench olmoe4-save-dp2 $ranks "$cadre" bench configs/bench-olmoe4.yaml model.layers=2 train.steps=10 train.global_batch=16 --save "$work/save" --json
  rm -rf "$work/save"
  python3 -c "
import json, sys
r = json.load(open(sys.argv[1])).get('olmoe4-save-dp2', {})
print('checkpoint:', {k: r[k] for k in r if 'save' in k})" "$out/two_gpus.json"
}

part_peer() {
  timeout 900 python3 tests/bench/peers/two_gpus.py "$cadre" "$out/peer.json" ${peer:+--peer "$peer"} --rounds 1 | tail -20
  [ -e "$out/peer.json" ] && note peer "$(cat "$out/peer.json")"
}

# A small run on the project's own texts.
tiny() {
  if [ ! -e "$work/data/manifest.json" ]; then
    mkdir -p "$work/text/docs"
    local page
    for page in docs/*.md; do cp "$page" "$work/text/docs/$(basename "$page" .md).txt"; done
    "$cadre" prepare "$work/text" --out "$work/data" --tokenizer bytes --valid-fraction 0 > "$out/prepare.log" 2>&1 || wrong "prepare"
  fi
  cat > "$work/tiny.yaml" <<YAML
seed: 1
out: $work/$1
device: cuda
data: {manifest: $work/data/manifest.json, seq_len: 512}
model: {dim: 512, layers: 4, heads: 8, kv_heads: 4, ffn_width: 1024, first_dense_layers: 1}
moe: {num_experts: 8, top_k: 2, width: 512, dispatch: ${dispatch:-auto}, router: {name: softmax_topk, normalize: true}, balance: {name: previous_batch, coef: 0.01}}
mesh: {ep: 2, timeout_s: 5}
optim: {name: adamw, lr: 1.0e-3}
schedule: {name: constant}
train: {steps: $2, global_batch: 16, micro_batch: 8}
eval: {every: 0}
checkpoint: {every: $3, keep: 3}
log: {every: 1}
YAML
}
newest() { basename "$(ls -d "$work/$1"/checkpoints/step-* | tail -1)"; }
# The hash of the newest checkpoint's tensors: its rank files.
weights() { (cd "$work/$1/checkpoints/$(newest "$1")" && basename "$PWD" && sha256sum rank-*.bin) | sha256sum | cut -c1-16; }
# NAME SIGNAL CODES: rank 1 gets the signal in the middle of a run, which has to end soon with one of the codes.
fault() {
  tiny "$1" 100000 50
  command timeout -k 10 60 $ranks "$cadre" train "$work/tiny.yaml" > "$out/fault-$1.log" 2>&1 &
  local pid=$! mpi victim start code seconds
  for _ in $(seq 120); do ls "$work/$1/checkpoints" 2> /dev/null | grep -q step- && break; sleep 0.25; done
  sleep 1.37
  mpi=$(pgrep -P $pid | head -1); victim=$(pgrep -P "$mpi" | tail -1)
  start=$(date +%s.%N)
  kill -"$2" "$victim"; wait $pid; code=$?
  seconds=$(python3 -c "import time; print(round(time.time() - $start, 2))")
  kill -CONT "$victim" 2> /dev/null
  echo "$1: exit code $code after $seconds s"
  grep -aE "^cadre:|rank" "$out/fault-$1.log" | grep -v "^step" | tail -6
  cp "$work/$1"/post-mortem-*.txt "$out/" 2> /dev/null
  local dump; dump=$(grep -acE "^#" "$out/fault-$1.log")
  note "fault $1" "{\"exit_code\": $code, \"seconds\": $seconds, \"lines_of_flight_recorder\": $dump}"
  [[ $code =~ ^($3)$ ]] || wrong "$1 ended with $code, expected $3"
  [ "$2" != STOP ] || grep -qa "did not come\|not done within" "$out/fault-$1.log" || wrong "$1: no line names the collective"
  [ "$(python3 -c "print(int($seconds < 20))")" = 1 ] || wrong "$1 took $seconds s"
}
part_faults() {
  fault stall STOP '5|137'
  CADRE_PEER_MEMORY=0 fault stall-nccl STOP '5|137'
  dispatch=peer fault stall-peer STOP '5|137'
  dispatch=peer fault kill-peer KILL '5|137'
  fault kill KILL '5|137'
  # On from the last checkpoint of the killed run, against a run that nothing happened to.
  local steps; steps=$(newest kill); steps=$((10#${steps#step-} + 60))
  tiny kill $steps 50
  timeout 60 $ranks "$cadre" train "$work/tiny.yaml" > "$out/restart.log" 2>&1 || wrong "restart"
  tiny straight $steps 50
  timeout 60 $ranks "$cadre" train "$work/tiny.yaml" > "$out/straight.log" 2>&1 || wrong "straight run"
  local a b
  a=$(weights kill); b=$(weights straight)
  note "restart equals straight run" "$([ "$a" = "$b" ] && echo true || echo false)"
  echo "weights after the restart $a, without a fault $b"
  [ "$a" = "$b" ] || wrong "the restarted run has other weights"
}

note machine "\"$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tr '\n' ';')\""
note commit "\"$(git rev-parse --short HEAD 2> /dev/null || echo unknown)\""
for part in $parts; do
  [ $SECONDS -lt "$limit" ] || { echo "== no time for $part"; continue; }
  echo "== $part ($SECONDS s)"
  "part_$part"
  pack
done
echo "== end ($SECONDS s), failed: $failed"
exit $failed
