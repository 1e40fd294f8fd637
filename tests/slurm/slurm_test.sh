#!/usr/bin/env bash
# A run's life under a real Slurm of two nodes: submit, 2 and 4 ranks, the signal before the time limit, requeue, resume, loss of
# a node, cancel; then the commands that docs/operations.md gives to newcomers.
#   slurm_test.sh CADRE DOCS-OPERATIONS.MD CONFIGS-FOLDER
set -euo pipefail
cadre=$1 page=$2 configs=$3
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
skip() { echo "slurm_test: skipped: $*"; exit 77; }
for program in slurmctld slurmd munged sbatch srun; do
  command -v $program >/dev/null || skip "$program is not installed (slurm-wlm, munge)"
done
[ "$(id -u)" = 0 ] || skip "a Slurm of our own needs root"
getent passwd munge >/dev/null || skip "there is no user munge"

work=$(mktemp -d /tmp/cs.XXXXXX)  # short: sockets lie inside
chmod 755 "$work"
trap '"$here/cluster.sh" stop "$work/slurm"; rm -rf "$work"' EXIT
cd "$work"
fail() {
  echo "slurm_test: $*" >&2
  tail -n 25 "$work"/*/slurm-*.log >&2 || true
  scontrol show job >&2 || true
  exit 1
}
wait_for() {  # wait_for SECONDS COMMAND...: until it succeeds
  local tries=$((5 * $1))
  shift
  for _ in $(seq $tries); do "$@" 2>/dev/null && return; sleep 0.2; done
  fail "waited in vain for: $*"
}
state() { scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p'; }
in_state() { [ "$(state "$1")" = "$2" ]; }
in_log() { grep -q -- "$2" "$1"/slurm-*.log; }
reached() { [ "$(grep -o '"step":[0-9]*' "$1/metrics.jsonl" | tail -n 1 | cut -d: -f2)" -ge "$2" ]; }
# Slurm holds a requeued job back for two minutes; a few seconds do for the nodes to clean up after its last step.
at_once() { sleep 3; scontrol update "jobid=$1" StartTime=now; }

mkdir -p text
awk 'BEGIN { for (d = 0; d < 80; ++d) for (i = 0; i < 12; ++i) printf "%d plus %d is %d.\n", d % 9, i, d % 9 + i > ("text/" d ".txt") }'
"$cadre" prepare text -o data --tokenizer bytes --near-duplicates 0 --threads 1 >prepare.log 2>&1 || fail "$(cat prepare.log)"
cat >run.yaml <<'END'
seed: 1
out: short
threads: 1
data: {manifest: data/manifest.json, seq_len: 32}
model: {dim: 32, layers: 2, heads: 2, kv_heads: 1, ffn_width: 64, first_dense_layers: 1}
moe: {num_experts: 4, top_k: 2, width: 32}
mesh: {ep: 2}
train: {steps: 30, global_batch: 8, micro_batch: 2}
eval: {every: 0}
checkpoint: {every: 10, keep: 3}
log: {every: 1}
END

"$here/cluster.sh" start "$work/slurm" 2 4 2
export SLURM_CONF=$work/slurm/slurm.conf
# Pretended nodes share a host: shared memory between ranks would mistake them for neighbours.
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_rmaps_base_oversubscribe=1
launch() { "$cadre" launch --slurm --nodes 2 --partition main --starter srun "$@"; }

launch -n 2 --time 5 --dry-run run.yaml >script
for line in '--nodes=2' '--ntasks-per-node=1' '--cpus-per-task=4' '--partition=main' '--time=5' '--requeue'; do
  grep -q "^#SBATCH $line" script || fail "no $line in the script"
done

echo "slurm_test: GPUs"
launch -n 4 --dry-run run.yaml device=cuda | grep '^#SBATCH --gpus-per-node=2' >/dev/null || fail "no GPU for each rank in the script"
# Each rank sees its job's GPUs of its node and can take the one of its number.
seen=$(srun --nodes=2 --ntasks-per-node=2 --gpus-per-node=2 sh -c 'echo "$SLURM_LOCALID of $CUDA_VISIBLE_DEVICES"' | sort)
[ "$seen" = "$(printf '%s of 0,1\n' 0 0 1 1)" ] || fail "the ranks see other GPUs: $seen"

echo "slurm_test: 2 and 4 ranks"
for ranks in 2 4; do
  job=$(launch -n $ranks run.yaml out=short$ranks)
  wait_for 60 in_state "$job" COMPLETED
  in_log short$ranks "$ranks ranks, expert degree 2" || fail "not $ranks ranks"
  [ -d short$ranks/checkpoints/step-00000030 ] || fail "no checkpoint of $ranks ranks"
done

echo "slurm_test: the time limit, requeue, resume"
job=$(launch -n 2 --time 1 --notice 40 run.yaml out=long train.steps=1000000 checkpoint.every=25)
wait_for 60 in_log long 'stopped with a checkpoint; queued again'
wait_for 20 in_state "$job" PENDING
first=$(ls long/checkpoints | tail -n 1)
scontrol update "jobid=$job" TimeLimit=10
at_once "$job"
wait_for 40 in_log long "resumed from .*$first"

echo "slurm_test: loss of a node"
last=$(sed 's/step-0*//' <<<"$first")
wait_for 40 reached long $((last + 30))
scontrol update nodename=n2 state=down reason=test
wait_for 20 in_state "$job" PENDING
scontrol update nodename=n2 state=resume 2>/dev/null || true  # it may have come back by itself
at_once "$job"
wait_for 60 in_log long 'start 2, on'
wait_for 40 in_state "$job" RUNNING

echo "slurm_test: cancel"
wait_for 40 reached long $((last + 60))
scancel "$job"
wait_for 20 in_state "$job" CANCELLED
nobody_left() { ! pgrep -f "$cadre train .*out=long" >/dev/null; }
wait_for 20 nobody_left

# Commands 3 to 5 of the page's first block, with less text and a smaller model.
echo "slurm_test: the page's commands"
page_command() { sed -n '/^## From a fresh cluster account/,/^## /p' "$page" | sed "s,^build/release/launch/cadre,$cadre," | grep "^$cadre $1 "; }
ln -s "$configs" configs
mkdir my-texts
for file in "$(dirname "$page")"/*.md; do cp "$file" "my-texts/$(basename "$file" .md).txt"; done
eval "$(page_command prepare | sed 's/--vocab-size [0-9]*/--vocab-size 512/')" >prepare.log 2>&1 || fail "$(cat prepare.log)"
job=$(eval "$(page_command launch) model.dim=32 model.ffn_width=64 moe.width=32 data.seq_len=32 train.max_minutes=0 train.steps=100000 log.every=1")
wait_for 60 reached runs/mine 3
in_log runs/mine '4 ranks, expert degree 2' || fail "not 4 ranks"
[ "$(scontrol show job "$job" | grep -c 'NumNodes=2')" = 1 ] || fail "not 2 nodes"
top=$(timeout 60 bash -c "$(page_command top) --once")
grep -q 'step' <<<"$top" || fail "cadre top says: $top"
scancel --batch --signal=USR1 "$job"  # as Slurm does before the time limit
wait_for 60 in_log runs/mine 'stopped with a checkpoint; queued again'
wait_for 20 in_state "$job" PENDING
at_once "$job"
wait_for 60 in_log runs/mine 'resumed from'
scancel "$job"
wait_for 20 in_state "$job" CANCELLED
echo "slurm_test: passed in $SECONDS s"
