#!/usr/bin/env bash
# The quickstart's claim: after MINUTES of training, held-out bits per byte are at most FACTOR of BASELINE's in every domain.
#   learns_test.sh ROOT MINUTES unigram|bigram FACTOR
set -euo pipefail
root=$1 minutes=$2 baseline=$3 factor=$4
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"$root/launch/quickstart" --minutes "$minutes" --out "$out"
"$root/build/release/launch/cadre" eval "$out/train-1" --baselines --json >"$out/eval.json"
python3 - "$out/eval.json" "$baseline" "$factor" <<'PYTHON'
import json, sys
domains, baseline, factor = json.load(open(sys.argv[1]))["domains"], sys.argv[2], float(sys.argv[3])
wrong = [d["name"] for d in domains if d["bits_per_byte"] > factor * d[baseline + "_bits_per_byte"]]
if len(domains) < 6 or wrong:
    sys.exit(f"learns_test: {len(domains)} domains; above {factor} x {baseline}: {wrong}")
PYTHON
