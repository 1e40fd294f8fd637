#!/bin/bash
# gpu.sh on a packed folder of programs that only pretend, so that all of its ways are walked without a GPU.
#     gpu_script_test.sh SOURCE_FOLDER
set -uo pipefail
source=$1
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
mkdir -p "$top"/{bin,fake,tests/bench/peers}
cp "$source/tests/bench/gpu.sh" "$top/tests/bench/"
echo 1234567 >"$top/bin/commit"
real=$(command -v python3)

program() { # NAME: body from stdin
  { echo '#!/bin/bash'; cat; } >"$1"
  chmod +x "$1"
}
for test in device_cuda_test moe_cuda_test optim_cuda_test trainer_cuda_test; do
  program "$top/bin/$test" <<'EOF'
echo "[ RUN      ] A.B"
if [ "${0##*/}" = trainer_cuda_test ] && [ -n "${FAIL:-}" ]; then echo "[  FAILED  ] A.B"; exit 1; fi
if [ "${0##*/}" = moe_cuda_test ] && [ -n "${HANG:-}" ]; then sleep 60; fi
for arg; do case $arg in --gtest_output=json:*) echo '{"tests":1,"failures":0,"errors":0,"time":"1s"}' >"${arg#*json:}" ;; esac; done
[ "${CADRE_TEST_CASES:-}" != short ] || echo "========= ERROR SUMMARY: 0 errors"
EOF
done
for bench in bench_kernels bench_attention bench_moe bench_wgrads cadre; do
  program "$top/bin/$bench" <<<'echo "{\"program\": \"${0##*/}\"}"; echo "{not json"; echo "$*"'
done
program "$top/fake/nvidia-smi" <<<'echo "Pretended GPU, 1.0"'
program "$top/fake/compute-sanitizer" <<'EOF'
while [[ $1 == --* ]]; do [ "$1" = --error-exitcode ] || [ "$1" = --tool ] && shift; shift; done
exec "$@"
EOF
program "$top/fake/python3" <<EOF
case "\$1 \${2:-}" in
  "-c import torch"*) exit \${NO_PEERS:-0} ;;
  *train_step.py*) [ -z "\${SLOW:-}" ] || sleep 20; echo '{"configs": {}}' >"\$4"; echo "a table \$*" ;;
  *moe_layer.py*) echo '{"shape": "olmoe"}'; echo "\$*" ;;
  *) exec $real "\$@" ;;
esac
EOF
export PATH=$top/fake:$PATH

failures=0
# expect WHAT CODE PYTHON ARGUMENTS...: the script's code, and a condition on the JSON `r`.
expect() {
  local what=$1 code=$2 condition=$3 found=0
  shift 3
  rm -rf "$top/out"
  mkdir "$top/out"
  bash "$top/tests/bench/gpu.sh" "$top/out/r.json" --no-build "$@" >"$top/said" 2>&1 || found=$?
  if [ $found != "$code" ] || ! "$real" -c "import json; r = json.load(open('$top/out/r.json')); assert $condition, r"; then
    echo "FAILED: $what (code $found)"
    cat "$top/said"
    failures=1
  fi
}

expect "all parts run" 0 "r['gpu'].startswith('Pretended') and r['commit'] == '1234567' and len(r['tests']) == 5 and \
  r['figures']['steps-mixtral-mini'] == {'configs': {}} and r['figures']['attention'][0] == {'program': 'bench_attention'} and \
  '--llmc L' in r['figures']['turns-olmoe4'][0] and {'steps-trained-olmoe4', 'steps-trained-mixtral-mini'} <= set(r['figures']) and not [p for p in r['parts'].values() if p['code']]" \
  -- --llmc L --data D mixtral-mini=M --rounds 3
expect "logs come too" 0 "'memcheck' in r['parts']" --parts memcheck,racecheck
tar -tzf "$top/out/r.tar.gz" | grep memcheck.txt >"$top/said" || { echo "FAILED: no log in the archive"; failures=1; }
expect "text for one vocabulary trains what it fits" 0 "list(r['parts']) == ['train-olmoe4', 'export-olmoe4', 'turns-trained-olmoe4']" --parts trained -- --rounds 2 --data D --llmc L
expect "parts are chosen, and without data nothing is trained" 0 "list(r['parts']) == ['kernels']" --parts kernels,trained
FAIL=1 expect "a failed test is named, and the rest runs" 1 \
  "r['tests']['trainer_cuda_test']['failed'] == ['A.B'] and r['parts']['attention']['code'] == 0" --parts tests,attention
HANG=1 expect "a test that hangs is stopped" 1 "r['parts']['test-moe_cuda_test']['code'] == 'stopped' and r['tests']['moe_cuda_test']['cut']" \
  --parts tests --seconds 6
SLOW=1 expect "what has no time is left out" 1 "r['parts']['kernels']['code'] == 'left-out'" --parts steps,kernels --seconds 7 --configs olmoe4
NO_PEERS=1 expect "without peers Cadre runs alone" 0 "'step-dense124m' in r['parts'] and 'layers' in r['parts']" --parts steps,layers,trained
bash "$top/tests/bench/gpu.sh" "$top/out/x.json" --parts nothing >"$top/said" 2>&1 && { echo "FAILED: an unknown part"; failures=1; }
grep -q 'no part nothing' "$top/said" || { echo "FAILED: an unknown part is not named"; failures=1; }
exit $failures
