#!/usr/bin/env bash
# The small study of stale samples (configs/study-staleness-cpu.yaml) as a user would make it: stopped in the middle, gone on with,
# looked at. What is claimed holds whatever the models learn. Then a prompt curriculum from pass rates, from the study's model, and
# an asynchronous run that loses a rank.
#   study_test.sh CADRE CONFIGS
set -euo pipefail
cadre=$1 configs=$2
work=$(mktemp -d)
. "$(dirname -- "${BASH_SOURCE[0]}")/expect.sh"
ranks=
trap 'kill $ranks 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

study=("$cadre" study "$configs/study-staleness-cpu.yaml" study.out=study study.keep_checkpoints=true)
ends_with 0 "${study[@]}" --list
says '^10 runs below study/runs$'
ends_with 0 "$cadre" plan "$configs/vespo-sorting.yaml" 'init=""' train.steps=6
says '^6 updates of 256 samples; 2 rounds of sampling, each of 128 prompts with 8 samples for 4 updates$'
says '^sorting-1  .* 1024$'
[ ! -e runs ] || fail "a plan wrote something"

# A stop in a round of 64 updates, with one run left.
stopped=study/runs/vespo,mini_batches=64
"${study[@]}" >output 2>&1 &
ranks=$!
while ! grep -q '"step":20,' $stopped/metrics.jsonl 2>/dev/null; do
  kill -0 $ranks 2>/dev/null || fail "the study ended before it was stopped"
  sleep 0.2
done
kill -USR1 $ranks
code=0; wait $ranks || code=$?
ranks=
[ $code = 75 ] || fail "exit code $code after a request to stop, expected 75"
says 'the same command goes on'
[ ! -e $stopped/result.json ] || fail "the run was over before it was stopped: nothing is tested"

# Two processes go on, one with the run that was stopped and one with the next.
ends_with 0 "${study[@]}" --jobs 2
says "^\[job [12]\] .*resumed from .*$stopped/checkpoints"
for run in 9 10; do says "^\[job [12]\] .*run $run of 10"; done
says_not 'run 8 of 10'
says '10 of 10 runs are over, 0 of them failed'
[ "$(grep -c '10 runs are over' output)" = 1 ] || fail "each process printed the results"
[ -e study/log.rank0-2 ] || fail "the processes had one log"

# Once more does nothing; a run that is made again alone and without a stop has the same bits.
marks() { (cd study && find runs -name result.json -exec stat -c '%n %y' {} + | sort; sha256sum results.json results.md); }
marks >before
ends_with 0 "${study[@]}"
says_not 'run [0-9]* of 10'
marks >after
cmp -s before after || fail "the study was over and something was made again: $(diff before after)"
mv $stopped first
ends_with 0 "${study[@]}"
says 'run 9 of 10'
cmp -s first/result.json $stopped/result.json || fail "a run gave other numbers when it was repeated"

python3 - "$stopped" first <<'PYTHON'
import json, math, sys

def lines(folder, kind):
    return [l for l in map(json.loads, open(folder + "/metrics.jsonl")) if l["kind"] == kind]

def numbers(value):  # all of a JSON value, null for what is not finite
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if value is None or isinstance(value, (int, float)) else []

losses = [[(l["loss"], l["grad_norm"]) for l in lines(folder, "train")] for folder in sys.argv[1:]]
assert losses[0] == losses[1] and len(losses[0]) == 128, "the repeated run's curve is another one"

results = json.load(open("study/results.json"))
runs = {r["name"]: r for r in results["runs"]}
stale = {f"{o},mini_batches={n}": n for o in ("grpo", "vespo") for n in (4, 64)}
stale["vespo-replay,mini_batches=64"] = 64
assert results["runs_planned"] == len(runs) == 10 and all(r["status"] == "done" for r in runs.values())
assert {c["name"] for c in results["cells"]} == set(stale), results["cells"]
table, page = open("study/results.md").read(), open("study/report.html").read()
for name, n in stale.items():
    run, folder = runs[name], "study/runs/" + name
    assert run["steps"] == 128 and 0 <= run["value"] <= run["best"] <= 1, run
    assert 1 / 32 <= run["ess"] <= 1 + 1e-9, run
    assert run["collapse_step"] is None or 0 < run["collapse_step"] <= 128, run
    assert name in page and [l for l in table.splitlines() if l.startswith(f"| {name} |") and f"{run['best']:.4f}" in l], name
    train = lines(folder, "train")
    assert len(train) == 128 and None not in numbers(train), name
    # Ages are 0 to N - 1 in turn: every sample is trained on once, in the round that drew it.
    assert [l["staleness_mean"] for l in train] == [step % n for step in range(128)], name
    first = [l["log_w_first_max_abs"] for l in train if "log_w_first_max_abs" in l]
    assert len(first) == 128 / n and max(first) < 0.01, (name, first)
    assert max(l["log_w_max_abs"] for l in train[::n]) < 1e-4, "old log-probabilities are the trainer's own"
    assert all(l["sequences"] == 32 and math.isclose(sum(l["staleness"].values()), 1) for l in train), name
    assert [l["step"] for l in lines(folder, "eval")] == list(range(0, 129, 16)), name
assert "collapse step" in table and "ESS" in table and "How long the reward lasts" in page and "<svg" in page
# Chosen by the sweep's better run, which stands in the table of what came before.
for objective in ("grpo", "vespo"):
    swept = {lr: runs[f"sweep,{objective},lr={lr}"]["value"] for lr in ("1.0e-4", "3.0e-4")}
    best = max(swept, key=swept.get)  # the first of equals
    settings = open(f"study/runs/{objective},mini_batches=64/config.resolved.yaml").read()
    assert f"lr: {best}" in settings, (swept, settings)
PYTHON

# Prompts in the order of how often the model passes them.
ends_with 0 "$cadre" report study/runs/vespo,mini_batches=64 -o report.html
grep -q 'Reward by level' report.html || fail "the report has no reward by level"
python3 - >lists.jsonl <<'PYTHON'
import json, random
random.seed(3)
for i in range(60):
    numbers = [random.randrange(10) for _ in range(3 + 2 * (i % 2))]
    text = " ".join(map(str, numbers))
    print(json.dumps({"prompt": f"Sort in rising order: {text}.", "answer": " ".join(map(str, sorted(numbers))), "level": 1 + i % 2}))
PYTHON
sft=study/runs/sft
ends_with 0 "$cadre" prepare --kind prompts --tokenizer $sft/tokenizer/tokenizer.bytes.json --valid-fraction 0.1 lists.jsonl -o prompts
ends_with 0 "$cadre" score $sft --manifest prompts/manifest.json --kind pass_rate --samples 4 --max-tokens 14 --reward exact_match --name passes
curriculum=("$configs/vespo-pass-rate.yaml" init=$sft data.manifest=prompts/manifest.json threads=1 train.steps=4 train.global_batch=16 eval.every=0 checkpoint.every=0)
ends_with 0 "$cadre" plan "${curriculum[@]}"
says '^4 updates of 16 samples; 1 rounds of sampling, each of 8 prompts with 8 samples for 4 updates$'
ends_with 0 "$cadre" train "${curriculum[@]}" out=passes
[ "$(grep -c '"reward_mean"' passes/metrics.jsonl)" = 4 ] || fail "expected 4 updates"

# What it samples, with all that training has to know.
ends_with 0 "$cadre" rollout "${curriculum[@]}" out=passes rollout.routing_replay=true --prompts 3 -o samples.jsonl
says '^3 prompts, 24 samples'
python3 - <<'PYTHON'
import json
lines = [json.loads(l) for l in open("samples.jsonl")]
assert len(lines) == 24 and len({(l["group"], l["sample"]) for l in lines}) == 24
for l in lines:
    assert len(l["tokens"]) == len(l["logp"]) == len(l["version"]) <= 14 and all(p <= 0 for p in l["logp"]), l
    assert set(l["version"]) == {4} and l["reward"] in (0, 1) and l["level"] in (1, 2), l
    assert l["finish"] in ("stop", "length") and l["sampling"] == {"temperature": 1, "top_k": 0, "top_p": 1}, l
    assert len(l["routing"]) % (len(l["prompt_tokens"]) + len(l["tokens"]) - 1) == 0 < len(l["routing"]), l
PYTHON

# One rank trains, one samples; the one that samples is killed, and the launcher goes on from the checkpoint.
asynchronous=("${curriculum[@]}" out=asynchronous train.steps=400 checkpoint.every=3 rollout.samplers=1 rollout.staleness=2 rollout.mini_batches=1 objective.behaviour=rollout)
"$cadre" launch -n 2 --backoff 0.1 "${asynchronous[@]}" >output 2>&1 &
ranks=$!
while ! { grep -q '"step":8,' asynchronous/metrics.jsonl && ls -d asynchronous/checkpoints/step-*; } >/dev/null 2>&1; do
  kill -0 $ranks 2>/dev/null || fail "the asynchronous run ended early"
  sleep 0.1
done
pkill -KILL -n -f "^$cadre train .*out=asynchronous" || fail "no rank to kill"
while ! grep -q 'resumed from' output; do
  kill -0 $ranks 2>/dev/null || fail "the asynchronous run was not started again"
  sleep 0.1
done
sleep 1
kill -USR1 $ranks
code=0; wait $ranks || code=$?
ranks=
[ $code = 75 ] || [ $code = 0 ] || fail "exit code $code after a request to stop"
python3 - <<'PYTHON'
import json
train = [l for l in map(json.loads, open("asynchronous/metrics.jsonl")) if l["kind"] == "train"]
assert [l["step"] for l in train] == list(range(1, len(train) + 1)) and len(train) >= 8, [l["step"] for l in train]
assert all(int(age) <= 2 for l in train for age in l["staleness"]) and all(l["sequences"] == 16 for l in train)
PYTHON
echo "study_test: passed"
