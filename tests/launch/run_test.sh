#!/usr/bin/env bash
# The main job through the command line, on two ranks: prepare, train, stop, resume, lose a rank, resume on another layout,
# evaluate, generate, inspect.
#   run_test.sh CADRE MPIRUN
set -euo pipefail
umask 022  # what is private is the program's own doing
export CADRE_TEST_SECRET=correct-horse-$$
cadre=$1 mpirun=$2
work=$(mktemp -d)
. "$(dirname -- "${BASH_SOURCE[0]}")/expect.sh"
design=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../../docs" && pwd)/design.md
ranks=
trap 'kill $ranks 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

wait_for() {  # wait_for SECONDS COMMAND...: until it succeeds
  local tries=$((10 * $1))
  shift
  for _ in $(seq $tries); do "$@" && return; sleep 0.1; done
  fail "waited in vain for: $*"
}

# Two kinds of text by a rule, so that a tiny model can learn them.
mkdir -p text/sums text/letters
awk 'BEGIN { for (d = 0; d < 80; ++d) for (i = 0; i < 12; ++i)
  printf "%d plus %d is %d.\n", d % 9, i, d % 9 + i > ("text/sums/" d ".txt") }'
awk 'BEGIN { for (d = 0; d < 80; ++d) for (i = 0; i < 12; ++i)
  printf "%c comes before %c, says page %d.\n", 97 + i, 98 + i, d > ("text/letters/" d ".txt") }'
ends_with 0 "$cadre" prepare text -o data --tokenizer bytes --near-duplicates 0 --valid-fraction 0.2 --threads 1

cat >run.yaml <<'END'
seed: 1
out: run
threads: 1
data: {manifest: data/manifest.json, seq_len: 64}
model: {dim: 32, layers: 2, heads: 2, kv_heads: 1, ffn_width: 64, first_dense_layers: 1}
moe: {num_experts: 4, top_k: 2, width: 32}
mesh: {ep: 2}
optim: {name: adamw, lr: 1.0e-2}
schedule: {name: wsd, warmup: 5}
train: {steps: 30, global_batch: 8, micro_batch: 4}
eval: {every: 0, tokens_per_domain: 1000}
checkpoint: {every: 10, keep: 3}
log: {every: 1}
END
ends_with 0 "$cadre" launch -n 2 run.yaml
[ -d run/checkpoints/step-00000030 ] || fail "no checkpoint at the end"
says 'step 1/30 '

# Every key of a run file stands on the page about it.
sed -n '/^## The run file/,/^## Files of a run/p' "$design" >page
sed -n 's/^\(  \)\?\([a-z_]*\):.*/\2/p' run/config.resolved.yaml | sort -u >keys
[ "$(wc -l <keys)" -gt 60 ] || fail "found only $(wc -l <keys) keys"
while read -r key; do grep -q "\`$key\`" page || fail "docs/design.md lacks the key $key"; done <keys

python3 -c 'import json; i = json.load(open("run/checkpoints/step-00000030/index.json")); print(*i, *i["state"], sep="\n")' >keys
while read -r key; do grep -q "\`$key\`" "${design%/*}/formats.md" || fail "docs/formats.md lacks $key of the index"; done <keys

# A second process in the same folder waits for the first.
sed 's/^out: .*/out: shared/; s/ep: 2/ep: 1/; s/steps: 30/steps: 2/' run.yaml >shared.yaml
mkdir shared
flock shared/claim sh -c 'touch taken; while [ ! -e free ]; do sleep 0.05; done' &
wait_for 10 test -e taken
"$cadre" train shared.yaml >output 2>&1 &
ranks=$!
wait_for 60 grep -q 'another process trains in shared: waiting' output
[ ! -e shared/metrics.jsonl ] || fail "trained in a folder that is taken"
touch free
wait $ranks || fail "did not go on when the folder was free"
ranks=

# Ranks that were not given the same run end at once.
ends_with 2 "$mpirun" -np 1 "$cadre" train shared.yaml out=apart : -np 1 "$cadre" train shared.yaml out=apart train.steps=3
says 'shared.yaml: ranks were started with other settings'
[ ! -e apart ] || fail "ranks that differ began to train"

# A tokenizer that no checkpoint could be given is found before training, and a mistake in a run file with `init` by its line.
cp -r data lacking && rm lacking/tokenizer.*
ends_with 3 "$cadre" train shared.yaml out=lacking-run data.manifest=lacking/manifest.json
says 'cannot open lacking/tokenizer'
echo '{}' >lacking/tokenizer.bytes.json
ends_with 3 "$cadre" train shared.yaml out=lacking-run data.manifest=lacking/manifest.json
says 'lacking/tokenizer.bytes.json: SHA-256 .*, expected .* (manifest)'
[ ! -e lacking-run/metrics.jsonl ] || fail "trained without a tokenizer"
sed 's/^seed: 1/init: run/; s/steps: 30/stepz: 30/' run.yaml >typo.yaml
ends_with 2 "$cadre" plan typo.yaml
says "^cadre: typo.yaml:$(grep -n stepz typo.yaml | cut -d: -f1): train.stepz: unknown key"

# SIGUSR1 to the launcher: checkpoint, exit code 75; the same command goes on.
sed 's/^out: .*/out: long/; s/steps: 30/steps: 1000000/' run.yaml >long.yaml
"$cadre" launch -n 2 long.yaml >output 2>&1 &
ranks=$!
wait_for 60 grep -q '"step":3,' long/metrics.jsonl 2>/dev/null
kill -USR1 $ranks
code=0; wait $ranks || code=$?
[ $code = 75 ] || fail "exit code $code after SIGUSR1, expected 75"
stopped_at=$(ls long/checkpoints | tail -n 1)

# One rank is killed: the others end within 30 s, and not as if all were well.
"$mpirun" -np 2 "$cadre" train "$work/long.yaml" >output 2>&1 &
ranks=$!
wait_for 60 grep -q 'resumed from .*'"$stopped_at" output
sleep 1
victim=$(pgrep -P $ranks -f "$work/long.yaml" | tail -n 1)
kill -KILL "$victim"
start=$SECONDS code=0
wait $ranks || code=$?
[ $code != 0 ] || fail "exit code 0 though a rank was killed"
[ $((SECONDS - start)) -le 30 ] || fail "took $((SECONDS - start)) s to end after a rank was killed"
pgrep -f "$work/long.yaml" >/dev/null && fail "a rank is left over"
ranks=

# A shell's marks in a user's words are words. A rank that is lost leaves a post-mortem.
odd='out=odd;touch owned $(touch owned) `touch owned`&|>owned'
"$cadre" launch -n 2 --backoff 0.1 long.yaml "$odd" train.steps=400 checkpoint.every=5 >output 2>&1 &
ranks=$!
wait_for 60 grep -q '"step":9,' "${odd#out=}/metrics.jsonl" 2>/dev/null
pkill -KILL -f -n "^$cadre train long.yaml out=odd" || fail "no rank of the odd folder"
wait_for 60 grep -q 'resumed from' output
kill -USR1 $ranks
wait $ranks || true
ranks=
[ ! -e owned ] || fail "a word of the command line was run by a shell"
ls "${odd#out=}"/post-mortem-*.txt >/dev/null || fail "no post-mortem"

# Another layout goes on from the checkpoint.
last=$(ls long/checkpoints | tail -n 1 | sed 's/step-0*//')
ends_with 0 "$cadre" train long.yaml mesh.ep=1 train.steps=$((last + 2))
says "resumed from .* at step $last"
ends_with 2 "$cadre" train long.yaml mesh.ep=1 model.dim=64
says 'model.dim'
# Two ranks that share each sequence go on where one rank stopped, and one goes on from theirs; evaluation of that checkpoint
# is one rank's.
ends_with 0 "$cadre" launch -n 2 long.yaml mesh.cp=2 train.steps=$((last + 4))
says "resumed from .* at step $((last + 2))"
says '2 ranks share each sequence, 32 tokens a rank'
cp -r long copy
ends_with 0 "$cadre" eval copy --json
ends_with 0 "$cadre" train long.yaml mesh.ep=1 train.steps=$((last + 5))
ends_with 2 "$cadre" launch -n 2 long.yaml mesh.cp=2 data.seq_len=33
says 'data.seq_len is 33 and mesh.cp 2'

ends_with 0 "$cadre" eval run --baselines
says '^sums '
ends_with 0 "$cadre" eval run --json
says '"bits_per_byte"'

# A task, on one rank and on two.
for i in 1 2 3 4 5 6; do echo '{"q": "'$i' plus 1 is", "n": "'$((i + 1))'"}'; done >sums.jsonl
cat >sums.yaml <<'END'
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: q
doc_to_choice: ["2.", "3.", "4.", "5.", "6.", "7."]
doc_to_target: "{{n}}."
num_fewshot: 1
END
ends_with 0 "$cadre" eval run --tasks sums.yaml --output one.json
says '^sums .* acc_norm '
ends_with 0 "$mpirun" -np 2 "$cadre" eval run --tasks sums.yaml --output two.json
cmp -s one.json two.json || fail "two ranks gave another result than one"
sed -i 's/doc_to_text/doc_to_txt/' sums.yaml
ends_with 2 "$cadre" eval run --tasks sums.yaml
says "line 6: doc_to_txt is not supported; did you mean 'doc_to_text'"
echo '[{"role": "user", "content": "Hello"}]' >chat.json
ends_with 3 "$cadre" generate run --chat chat.json
says 'no special tokens for conversations'

ends_with 0 "$cadre" generate run --prompt "3 plus" --tokens 30 --seed 5 --top-k 20 --top-p 0.9
cp output first
ends_with 0 "$cadre" generate run --prompt "3 plus" --tokens 30 --seed 5 --top-k 20 --top-p 0.9
cmp -s first output || fail "the same seed gave another text"
for what in run run/checkpoints/step-00000030 data/manifest.json data/train-00000.h5; do
  ends_with 0 "$cadre" inspect $what --json
  says '^{"kind":'
done

# Only the owner reads what a run leaves, and the environment is in none of it.
ends_with 0 "$cadre" report run long -o report.html
open=$(find run long odd* report.html \( -type d ! -perm 700 -o -type f ! -perm 600 \) | head -n 3)
[ -z "$open" ] || fail "open to others: $open"
told=$(grep -rla -- "$CADRE_TEST_SECRET" run long odd* report.html output || true)
[ -z "$told" ] || fail "a variable of the environment is in $told"

# A damaged newest checkpoint: the one before is used, and the log says so.
truncate -s 100 run/checkpoints/step-00000030/rank-00001.bin
ends_with 0 "$cadre" eval run
says 'damaged and passed over'
says '^step 20;'
echo "run_test: passed"
