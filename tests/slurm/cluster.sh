#!/usr/bin/env bash
# A Slurm of this test alone: munged, slurmctld and one slurmd a node, all on this host, started by hand as root and kept in
# one folder with ports of its own. No systemd, no cgroups, no accounting.
#   cluster.sh start FOLDER NODES CPUS-PER-NODE GPUS-PER-NODE     then export SLURM_CONF=FOLDER/slurm.conf; the GPUs are pretended
#   cluster.sh stop FOLDER
set -euo pipefail
verb=$1 folder=$2
fail() { echo "cluster: $*" >&2; exit 1; }

# remember NAME PID: for stop, which signals a process only while it still has that name.
remember() { echo "$1 $2" >>"$folder/processes"; }

write_config() {
  local nodes=$1 cpus=$2 gpus=$3 host port
  host=$(hostname -s) port=$((20000 + ($$ * 7) % 12000))
  cat >"$folder/slurm.conf" <<END
ClusterName=cadretest
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
TmpFS=$folder/tmp-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd-%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
KillWait=5
ReturnToService=2
MinJobAge=3600
END
  # Slurm wants a device for each GPU and takes the number at the end of its name.
  for i in $(seq 0 $((gpus - 1))); do mknod "$folder/gpu$i" c 1 3; done
  echo "Name=gpu File=$folder/gpu[0-$((gpus - 1))]" >"$folder/gres.conf"
  for i in $(seq "$nodes"); do
    echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus Gres=gpu:$gpus State=UNKNOWN" >>"$folder/slurm.conf"
  done
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$folder/slurm.conf"
}

start() {
  local nodes=$1 cpus=$2 gpus=$3
  mkdir -p "$folder"/{munge,state,log}
  chmod 755 "$folder" "$folder/munge"
  : >"$folder/processes"
  write_config "$nodes" "$cpus" "$gpus"
  export SLURM_CONF=$folder/slurm.conf
  (umask 077 && head -c 64 /dev/urandom >"$folder/munge/key")
  chown -R munge: "$folder/munge"
  setsid setpriv --reuid munge --regid munge --clear-groups munged -F --socket "$folder/munge/socket" \
    --key-file "$folder/munge/key" --log-file "$folder/munge/log" --pid-file "$folder/munge/pid" --seed-file "$folder/munge/seed" \
    </dev/null >"$folder/log/munged" 2>&1 &
  remember munged $!
  for _ in $(seq 100); do [ -S "$folder/munge/socket" ] && break; sleep 0.1; done
  setsid slurmctld -D -c </dev/null >"$folder/log/slurmctld.out" 2>&1 &
  remember slurmctld $!
  for i in $(seq "$nodes"); do
    mkdir -p "$folder/spool-n$i" "$folder/tmp-n$i"
    setsid slurmd -D -N "n$i" </dev/null >"$folder/log/slurmd-n$i.out" 2>&1 &
    remember slurmd $!
  done
  for _ in $(seq 300); do
    [ "$(sinfo -h -N -o %T 2>/dev/null | grep -c '^idle')" = "$nodes" ] && return
    sleep 0.1
  done
  tail -n 5 "$folder"/log/* >&2
  fail "Slurm did not become ready"
}

stop() {
  export SLURM_CONF=$folder/slurm.conf
  [ -e "$folder/processes" ] || return 0
  timeout 10 scancel --user=root 2>/dev/null || true
  for _ in $(seq 50); do [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break; sleep 0.2; done
  tac "$folder/processes" | while read -r name pid; do
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ] || continue
    kill -TERM "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  rm -f "$folder/processes"
}

case $verb in
  start) start "$3" "$4" "$5" ;;
  stop) stop ;;
  *) fail "unknown verb $verb" ;;
esac
