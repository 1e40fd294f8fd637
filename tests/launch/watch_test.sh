#!/usr/bin/env bash
# What watches a run, on a real one: private files, `cadre top`, the event files read back by TensorBoard itself, the report
# looked at in Chromium on a light and a dark screen. What is not installed is left out and named.
#   watch_test.sh CADRE [PYTHON-WITH-TENSORBOARD]
set -euo pipefail
cadre=$1 python=${2:-python3}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
fail() { echo "watch_test: $*" >&2; exit 1; }

mkdir -p text/sums text/letters
awk 'BEGIN { for (d = 0; d < 40; ++d) for (i = 0; i < 12; ++i) printf "%d plus %d is %d.\n", d % 9, i, d % 9 + i > ("text/sums/" d ".txt") }'
awk 'BEGIN { for (d = 0; d < 40; ++d) for (i = 0; i < 12; ++i) printf "%c before %c, page %d.\n", 97 + i, 98 + i, d > ("text/letters/" d ".txt") }'
"$cadre" prepare text -o data --tokenizer bytes --near-duplicates 0 --valid-fraction 0.2 --threads 1 >output 2>&1 || fail "$(cat output)"
cat >run.yaml <<'END'
out: run
threads: 1
data: {manifest: data/manifest.json, seq_len: 32}
model: {dim: 32, layers: 3, heads: 2, kv_heads: 1, ffn_width: 64, first_dense_layers: 1}
moe: {num_experts: 8, top_k: 2, width: 16}
train: {steps: 60, global_batch: 4, micro_batch: 4}
eval: {every: 20, tokens_per_domain: 500}
checkpoint: {every: 20}
log: {every: 1}
END
"$cadre" train run.yaml train.steps=30 >output 2>&1 || fail "$(cat output)"
"$cadre" train run.yaml >output 2>&1 || fail "$(cat output)"

open_files=$(find run -perm /077)
[ -z "$open_files" ] || fail "others may read: $open_files"
"$cadre" top run --once | grep 'step 60 of 60' >/dev/null || fail "top does not show the last step"
"$cadre" report run -o report.html >output || fail "$(cat output)"
[ "$(stat -c %a report.html)" = 600 ] || fail "others may read the report"

if "$python" -c 'import tensorboard' 2>/dev/null; then
  "$python" "$here/read_events.py" run || fail "TensorBoard reads something else"
else
  echo "watch_test: left out: no Python with TensorBoard"
fi

chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -n "$chromium" ] && [ -z "${CADRE_NO_BROWSER:-}" ]; then
  for scheme in 0 1; do  # dark, light
    HOME=$work timeout 100 "$chromium" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
      --blink-settings=preferredColorScheme=$scheme --window-size=1200,3000 --screenshot="$work/$scheme.png" \
      "file://$work/report.html" >output 2>&1 || fail "Chromium: $(tail -n 3 output)"
  done
  python3 "$here/check_screenshots.py" "$work/1.png" "$work/0.png" || fail "the report does not look as it should"
else
  echo "watch_test: left out: no Chromium"
fi
echo "watch_test: passed"
