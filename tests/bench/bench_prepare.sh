#!/usr/bin/env bash
# Speed of `cadre prepare` beside SentencePiece's own command-line encoder, same model, same text, in one run:
#   tests/bench/bench_prepare.sh CADRE_BINARY FOLDER_OF_JSONL [ROUNDS]
# Whole runs are timed (reading, deduplication, tokens, shards, fsync), the best of ROUNDS (default 3). The goals: on one
# thread at least 0.9 of spm_encode's speed, and from 1 to 2 threads at least 0.9 of the speed-up that two spm_encode
# processes reach. Exits with 1 when one is missed. Needs an idle machine.
set -euo pipefail
cadre=$(realpath "$1") corpus=$(realpath "$2") rounds=${3:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 - "$corpus" "$work/text" <<'PY'
import json, pathlib, sys
with open(sys.argv[2], "w", encoding="utf-8") as out:
    for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.jsonl")):
        for line in open(path, encoding="utf-8"):
            out.write(json.loads(line)["text"] + "\n")
PY
echo "text: $(stat -c %s "$work/text") bytes; $(nproc) cores; load $(cut -d' ' -f1 /proc/loadavg)"
"$cadre" prepare "$corpus" -o "$work/first" > /dev/null
model=$work/first/tokenizer.model

seconds() {  # seconds COMMAND...: wall time
  local start end
  start=$(date +%s%N)
  "$@"
  end=$(date +%s%N)
  awk -v ns=$((end - start)) 'BEGIN { printf "%.3f", ns / 1e9 }'
}
best() {  # best COMMAND...: the smallest of the rounds
  for ((i = 0; i < rounds; ++i)); do seconds "$@"; echo; done | sort -n | head -1
}
spm() { spm_encode --model="$model" --output_format=id --input="$work/text" --output="$work/ids$1" 2> /dev/null; }
spm_twice() { spm 1 & spm 2 & wait; }
prepare() {
  "$cadre" prepare "$corpus" -o "$work/out" --force --tokenizer "$model" --threads "$1" > "$work/log$1"
}

s1=$(best spm 1) s2=$(best spm_twice) c1=$(best prepare 1) c2=$(best prepare 2)
grep '^seconds:' "$work/log1" | sed 's/^seconds:/last run, 1 thread: /'
grep '^seconds:' "$work/log2" | sed 's/^seconds:/last run, 2 threads:/'
awk -v s1="$s1" -v s2="$s2" -v c1="$c1" -v c2="$c2" 'BEGIN {
  speed = s1 / c1; spm = 2 * s1 / s2; own = c1 / c2
  printf "spm_encode     1 process %.3f s   2 processes, each the whole text %.3f s   speed-up %.2f\n", s1, s2, spm
  printf "cadre prepare  1 thread  %.3f s   2 threads %.3f s                          speed-up %.2f\n", c1, c2, own
  printf "speed on one thread: %.2f of spm_encode (goal 0.90)\n", speed
  printf "speed-up on two:     %.2f of spm_encode (goal 0.90)\n", own / spm
  exit !(speed >= 0.9 && own / spm >= 0.9)
}'
