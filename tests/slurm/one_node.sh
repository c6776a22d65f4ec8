#!/usr/bin/env bash
# A Slurm cluster of this one Debian machine, for tests: `one_node.sh start FOLDER`, `one_node.sh stop FOLDER`.
# Needs root. No database, no cgroups. Partitions: main, and timing, whose jobs have a node to themselves.
# Jobs that ended are listed in FOLDER/jobs.txt.
set -euo pipefail
action=$1 folder=$(realpath -m "$2")
host=$(hostname -s) conf=/etc/slurm/slurm.conf mark="# made by ColPort's tests"

stop() {
  for name in slurmctld slurmd; do
    pid=$(cat "$folder/$name.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = $name ] && kill "$pid" || true
    for _ in $(seq 50); do [ -e "/proc/${pid:-none}/exe" ] || break; sleep 0.1; done
  done
}

[ "$action" = stop ] && { stop; exit; }
if [ -e $conf ] && ! grep -qxF "$mark" $conf; then
  echo "$conf belongs to another cluster; nothing was changed." >&2
  exit 1
fi
if ! type -P slurmctld slurmd munged sbatch >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi
stop
mkdir -p "$folder" /etc/slurm
cat >$conf <<EOF
$mark
ClusterName=colport-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(env -u OMP_NUM_THREADS nproc) RealMemory=$(free -m | awk '/^Mem:/ {print int($2 * 0.95)}')
PartitionName=main Nodes=$host Default=YES
PartitionName=timing Nodes=$host OverSubscribe=EXCLUSIVE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/jobs.txt
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
EOF
if ! munge -n </dev/null 2>/dev/null | unmunge >/dev/null 2>&1; then
  install -d -o munge -g munge -m 755 /run/munge
  [ -s /etc/munge/munge.key ] || runuser -u munge -- mungekey --create
  runuser -u munge -- munged --force
fi
slurmctld && slurmd -N "$host"
for _ in $(seq 100); do
  [ "$(sinfo -h -p main -o %T 2>/dev/null)" = idle ] && { sinfo; exit; }
  sleep 0.2
done
tail "$folder/slurmctld.log" >&2
exit 1
