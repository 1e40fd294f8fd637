#!/usr/bin/env bash
# `cadre launch --hosts` over real ssh: two hosts with a name and a network of their own on this machine (network namespaces and an
# sshd), a run over both, and the loss of one.
#   hosts_test.sh CADRE
set -euo pipefail
cadre=$1
skip() { echo "hosts_test: skipped: $*"; exit 77; }
for program in ip unshare ssh ssh-keygen mpirun; do command -v $program >/dev/null || skip "$program is not installed"; done
sshd=$(command -v sshd || true)
[ -n "$sshd" ] || skip "sshd is not installed (openssh-server)"
[ "$(id -u)" = 0 ] || skip "hosts of our own need root"

id=$$
near=cadre-a-$id far=cadre-b-$id  # network namespaces
work=$(mktemp -d)
ip netns add "$near" 2>/dev/null || { rm -rf "$work"; skip "no network namespaces here"; }
launcher=
clean() {
  [ -z "$launcher" ] || kill -KILL "$launcher" 2>/dev/null || true
  for space in "$near" "$far"; do
    ip netns pids "$space" 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
    ip netns del "$space" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap clean EXIT
fail() { echo "hosts_test: $*" >&2; tail -n 30 "$work"/output "$work"/sshd.log >&2 || true; exit 1; }
wait_for() {  # wait_for SECONDS COMMAND...: until it succeeds
  local tries=$((10 * $1))
  shift
  for _ in $(seq $tries); do "$@" 2>/dev/null && return; sleep 0.1; done
  fail "waited in vain for: $*"
}

ip netns add "$far"
ip -n "$near" link add va$id type veth peer name vb$id netns "$far"
for end in "$near va$id 10.213.77.1" "$far vb$id 10.213.77.2"; do
  read -r space device address <<<"$end"
  ip -n "$space" addr add "$address/24" dev "$device"
  ip -n "$space" link set "$device" up
  ip -n "$space" link set lo up
done
# on NAMESPACE HOST-NAME COMMAND...
on() { local space=$1 name=$2; shift 2; ip netns exec "$space" unshare --uts sh -c 'hostname "$0"; exec "$@"' "$name" "$@"; }

mkdir -p /run/sshd "$work/bin"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
cat >"$work/sshd_config" <<END
ListenAddress 10.213.77.2
HostKey $work/key
AuthorizedKeysFile $work/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PidFile none
END
cat >"$work/ssh_config" <<END
Host node-b
  HostName 10.213.77.2
  User root
  IdentityFile $work/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile $work/known
  LogLevel ERROR
END
printf '#!/bin/sh\nexec %s -F %s "$@"\n' "$(command -v ssh)" "$work/ssh_config" >"$work/bin/ssh"
chmod 700 "$work/bin/ssh"
on "$far" node-b "$sshd" -D -e -f "$work/sshd_config" 2>"$work/sshd.log" &
export PATH=$work/bin:$PATH
wait_for 20 on "$near" node-a ssh -o BatchMode=yes node-b true

cd "$work"
mkdir text
awk 'BEGIN { for (d = 0; d < 60; ++d) for (i = 0; i < 12; ++i) printf "%d plus %d is %d.\n", d % 9, i, d % 9 + i > ("text/" d ".txt") }'
"$cadre" prepare text -o data --tokenizer bytes --near-duplicates 0 --threads 1 >output 2>&1 || fail "cadre prepare"
cat >run.yaml <<'END'
seed: 1
out: run
threads: 1
data: {manifest: data/manifest.json, seq_len: 32}
model: {dim: 32, layers: 2, heads: 2, kv_heads: 1, ffn_width: 64, first_dense_layers: 1}
moe: {num_experts: 4, top_k: 2, width: 32}
train: {steps: 1000000, global_batch: 8, micro_batch: 2}
eval: {every: 0}
checkpoint: {every: 10, keep: 3}
log: {every: 1}
END
printf 'node-a slots=1\nnode-b slots=1\n' >hosts
reached() { [ "$(grep -o '"step":[0-9]*' run/metrics.jsonl | tail -n 1 | cut -d: -f2)" -ge "$1" ]; }

echo "hosts_test: a run over two hosts"
on "$near" node-a "$cadre" launch --hosts hosts --elastic 1:2 --backoff 0.2 run.yaml >output 2>&1 &
launcher=$!
wait_for 60 reached 30
grep -q '^2 ranks over the slots of node-a (1), node-b (1)' output || fail "it does not say where the ranks are"
for pair in "0 node-a" "1 node-b"; do
  read -r rank host <<<"$pair"
  grep -qa "$host" "run/ranks/rank-0000$rank.box" || fail "rank $rank is not on $host"
done
ip netns pids "$far" | xargs -r ps -o args= -p | grep "$cadre train" >/dev/null || fail "no rank in the other host's network"

echo "hosts_test: the loss of one"
ip netns pids "$far" | xargs -r kill -KILL
wait_for 60 grep -q '^1 ranks over the slots of node-a (1)' output
resumed=$(sed -n 's/.*resumed from .* at step \([0-9]*\).*/\1/p' output | tail -n 1)
wait_for 60 grep -q 'resumed from .* at step' output
wait_for 60 grep -q "1 ranks, expert degree 1" output
resumed=$(sed -n 's/.*resumed from .* at step \([0-9]*\).*/\1/p' output | tail -n 1)
wait_for 60 reached $((resumed + 20))
pkill -USR1 -P "$launcher" 2>/dev/null || kill -USR1 "$launcher"
code=0
wait "$launcher" || code=$?
launcher=
[ $code = 75 ] || fail "exit code $code after the request to stop, expected 75"
echo "hosts_test: passed in $SECONDS s"
