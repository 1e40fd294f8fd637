#!/usr/bin/env bash
# What the command line answers before and instead of any work: exit codes, hints, and one message for a mistake of all ranks.
#   command_line_test.sh CADRE MPIRUN
set -euo pipefail
cadre=$1 mpirun=$2
work=$(mktemp -d)
. "$(dirname -- "${BASH_SOURCE[0]}")/expect.sh"
trap 'rm -rf "$work"' EXIT

ends_with 0 "$cadre" --version
says '^cadre [0-9]'
ends_with 0 "$cadre" --help
verbs="prepare train launch plan eval generate inspect bench report top objective import export"
for verb in $verbs; do says "^  $verb "; done
for verb in $verbs; do ends_with 0 "$cadre" "$verb" --help; done

ends_with 2 "$cadre"
ends_with 2 "$cadre" trian
says "unknown verb 'trian', did you mean 'train'?"
ends_with 2 "$cadre" train --bogus
ends_with 2 "$cadre" train "$work/none.yaml"
says '^cadre: '

# Mistakes in options are one line each: what was found, what was expected.
one_line() { [ "$(wc -l <"$output")" = 1 ] || fail "expected one line"; }
refused() {  # refused LINE COMMAND...
  local line=$1
  shift
  ends_with 2 "$cadre" "$@"
  one_line
  says "^cadre: $line"
}
refused 'run is required. See `cadre train --help`' train
refused ".*--steps: found '-1', expected an integer of at least 1" plan run.yaml --steps -1
refused ".*--temperature: found 'nan', expected a number from 0 to 100" generate run --temperature nan
refused ".*--seed: found '-1'" generate run --seed -1
refused '.*--limit requires --tasks' eval run --limit 3
echo 'audit: {out: there}' >"$work/run.yaml"
refused '.*run.yaml: no section `study`, which `cadre study` reads; it has `audit`, for `cadre audit`$' study "$work/run.yaml"
refused '.*run.yaml:1: audit.base: is missing' audit "$work/run.yaml"
refused '.*run.yaml is none of: shard' inspect "$work/run.yaml"

# A plan is of a run that can be trained.
cat >"$work/alone.yaml" <<'END'
data: {seq_len: 64}
tasks: {name: sorting}
rollout:
  group: 1
model: {dim: 8, layers: 1, heads: 1, kv_heads: 1, ffn_width: 8}
END
refused '.*alone.yaml:4: rollout.group: advantages are relative' plan "$work/alone.yaml"

# A name that no file system takes is answered in one line too.
ends_with 3 "$cadre" inspect "$(printf 'n%.0s' {1..300})"
says '^cadre: n*: File name too long$'

# A GPU is asked for where none can be used: one line, whatever is missing.
cat >"$work/gpu.yaml" <<'END'
device: cuda
data: {seq_len: 8}
model: {vocab: 16, dim: 8, layers: 1, heads: 2, kv_heads: 1, ffn_width: 8}
train: {steps: 1, global_batch: 1, micro_batch: 1}
END
if ! nvidia-smi -L 2>/dev/null | grep '^GPU' >/dev/null; then
  ends_with 2 "$cadre" bench "$work/gpu.yaml"
  [ "$(wc -l <"$work/output")" = 1 ] || fail "expected one line"
  says '^cadre: .*set device: cpu$'
fi

# One rank of three, alone.
ends_with 0 "$cadre" bench "$work/gpu.yaml" device=cpu train.global_batch=3 --imitate 3
says '; 3 ranks of '
says '^2 ranks are imitated'
ends_with 2 "$cadre" bench "$work/gpu.yaml" device=cpu --imitate 3 --save "$work/saved"
says '^cadre: --save needs all ranks.*leave out --imitate$'
ends_with 2 "$cadre" bench "$work/gpu.yaml" --imitate 1
ends_with 2 "$cadre" bench "$work/gpu.yaml" device=cpu --wire-gb-s 100
says '^cadre: --wire-gb-s is of imitated ranks; add --imitate N$'
ends_with 2 "$cadre" bench "$work/gpu.yaml" device=cpu train.global_batch=3 --imitate 3 --wire-gb-s 100
says '^cadre: .*gpu.yaml: only what goes between GPUs'

# Two answers to one prompt, at W = 1: VESPO is REINFORCE. NaN may stand where nothing counts.
echo 'name: vespo' >"$work/vespo.yaml"
batch() { echo '{"sequences": [{"group": 0, "reward": 1, "mask": [0, 1], "logp": [NaN, '"$1"'], "logp_old": [0, '"$2"']},
  {"group": 0, "reward": 0, "mask": [1], "logp": [-2], "logp_old": [-2]}]}' >"$work/batch.json"; }
batch -1 -1
ends_with 0 "$cadre" objective --config "$work/vespo.yaml" "$work/batch.json" advantage=mean
says '"grad":\[\[0.0,-0.25\],\[0.25\]\]'
says '"loss":-0.25'
says '"log_w":\[0.0,0.0\]'
# An answer that cannot be written is not given as one that was; a stream that is not there is nobody's business.
code=0
"$cadre" objective --config "$work/vespo.yaml" "$work/batch.json" >/dev/full 2>"$output" || code=$?
[ $code = 1 ] || fail "exit code $code, expected 1"
says '^cadre: cannot write the standard output: No space left on device$'
"$cadre" objective --config "$work/vespo.yaml" "$work/batch.json" >&- 2>"$output" || fail "expected exit code 0"
# A limit on the size of files is an error like a full disk.
echo 'Some text.' >"$work/some.txt"
code=0
(ulimit -f 0; "$cadre" prepare "$work/some.txt" -o "$work/limited" --tokenizer bytes 2>&1) | cat >"$output" || code=$?
[ $code = 3 ] || fail "exit code $code, expected 3"
says '^cadre: cannot write .*File too large$'
# Bad input is one line that names the place.
for bad in '0.5 -1' 'NaN -1' '-1 Infinity' '-1 "a"'; do
  batch $bad
  ends_with 3 "$cadre" objective --config "$work/vespo.yaml" "$work/batch.json"
  [ "$(wc -l <"$work/output")" = 1 ] || fail "expected one line"
  says '^cadre: .*batch.json: sequences\[0\].logp'
done
sed 's/, "logp_old": [^]]*\]//g' "$work/batch.json" >"$work/without.json"
ends_with 3 "$cadre" objective --config "$work/vespo.yaml" "$work/without.json"
says '^cadre: .*without.json: .*logp_old'

# The launcher inside the job gets what the one outside was told.
cat >"$work/job.yaml" <<'END'
out: job
data: {manifest: none, seq_len: 8}
model: {dim: 16, layers: 1, heads: 1, kv_heads: 1, ffn_width: 16}
optim: {name: adamw, lr: 1.0e-3}
train: {steps: 1, global_batch: 1, micro_batch: 1}
END
ends_with 0 "$cadre" launch --slurm --dry-run -n 2 --backoff 7 --straggler-factor 3 --straggler-steps 9 --elastic 1:2 "$work/job.yaml"
for option in '--backoff 7' '--straggler-factor 3' '--straggler-steps 9' '--elastic 1:2'; do says " $option "; done

# All ranks find the same mistake; the user reads it once, and mpirun returns its code.
ends_with 2 "$mpirun" -np 3 "$cadre" train "$work/none.yaml"
[ "$(grep -c '^cadre: ' "$work/output")" = 1 ] || fail "expected one line for one mistake"
says '^cadre: rank 0 of 3: '
echo "command_line_test: passed"
