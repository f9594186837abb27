#!/usr/bin/env bash
# Start Ray on this host: `start-node.sh head`, or `start-node.sh worker <head's address>`. Further arguments go to
# `ray start`. Security, ports and sizes of a node are set here and nowhere else, for `ray up` and systemd alike.
set -euo pipefail

usage="usage: start-node.sh head | start-node.sh worker <head's address>  [further arguments of ray start]"
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  echo "$usage"
  exit
fi
fail() { echo "start-node.sh: $1" >&2; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd)
export PATH="$project/.venv/bin:$PATH" PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}" RAY_USAGE_STATS_ENABLED=0
export PYTHONUTF8=1  # names of files are the same on every host, whatever its locale
[[ $project$PWD != *[[:space:]]* ]] || fail "a space in the path $project, or $PWD: Ray starts no workers there; move it"
command -v ray >/dev/null || fail "no ray in $project/.venv; run cluster/install.sh"

# Ray ends workers that are idle for a second where there are more of them than cores, only to start them again; a decode
# task may have to wait minutes for a slow device.
export RAY_idle_worker_killing_time_threshold_ms=600000

# What was asked of a host that is lost is given up after 30 s instead of up to five minutes, and asked of another. All hosts
# must agree on the first: who looks more often than others allow is cut off.
export RAY_grpc_client_keepalive_time_ms=10000 RAY_grpc_client_keepalive_timeout_ms=20000

# A Ray cluster runs whatever reaches its ports, so nothing starts without the token that all hosts share.
export RAY_AUTH_MODE=token
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [[ -z ${RAY_AUTH_TOKEN:-} ]]; then
  [[ -s $token ]] || fail "no token in $token; make one with 'ray get-auth-token --generate' and copy it to every host"
  [[ $(stat -Lc %a "$token") == ?00 ]] || fail "others may read $token; chmod 600 $token"
fi

# Ray lets every account of the host write to its directory, whose sockets and logs are a cluster's; this one keeps others out.
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp/ray-$(id -u)}
[[ $RAY_TMPDIR != *[[:space:]]* ]] || fail "a space in $RAY_TMPDIR: Ray starts no workers there; set RAY_TMPDIR to another directory"
mkdir -p -m 700 "$RAY_TMPDIR" || fail "cannot make $RAY_TMPDIR; set RAY_TMPDIR to another directory"
[[ -O $RAY_TMPDIR && ! -L $RAY_TMPDIR && $(stat -c %a "$RAY_TMPDIR") == ?00 ]] ||
  fail "others may write to $RAY_TMPDIR; chmod 700 it, or set RAY_TMPDIR to a directory that is this account's alone"

# Ray counts every name in /dev/tenstorrent, also the directory by-id that the driver's udev rule makes there.
boards=()
for name in /dev/tenstorrent/*; do
  [[ ${name##*/} =~ ^[0-9]+$ ]] && boards+=("${name##*/}")
done
if [[ -d /dev/tenstorrent && -z ${TT_VISIBLE_DEVICES+set} ]]; then
  TT_VISIBLE_DEVICES=$(IFS=,; echo "${boards[*]-}")
  export TT_VISIBLE_DEVICES
fi
if (( ${#boards[@]} )) && ! grep -qE ' hugetlbfs .*pagesize=(1024M|1G)' /proc/mounts; then
  echo "start-node.sh: warning: no huge pages of 1 GiB; python -m cluster.preflight tells whether boards need them here" >&2
fi

# Cores, and the size of the object store, which decoded images wait in. What Ray could not run with is told by itself.
ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)"  # Ray holds a connection to every worker of the cluster
usable=$(python3 -I -S "$(dirname "$(readlink -f "$0")")/../jobs/running/machine.py") || fail "this host does not let Ray run"
read -r cpus store <<< "$usable"

# The address that the others reach this host by: Ray's own search wants a default route, and takes 127.0.0.1 without one.
towards() {
  local target
  target=$(getent ahostsv4 "$1" | awk 'NR == 1 {print $1}') || true
  ip -o route get "$target" 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p' || true
}

# Fixed ports, so that a firewall can name them; workers take Ray's usual range.
options=(
  --node-manager-port=6380 --object-manager-port=6381 --dashboard-agent-grpc-port=6382 --runtime-env-agent-port=6383
  --dashboard-agent-listen-port=52365 --metrics-export-port=8080 --min-worker-port=10002 --max-worker-port=19999
  --num-cpus="$cpus" --object-store-memory="$store" --disable-usage-stats --temp-dir="$RAY_TMPDIR/ray"
)
case ${1:-} in
  head)
    # A lost host is noticed in 3 s instead of half a minute.
    export RAY_health_check_initial_delay_ms=2000 RAY_health_check_period_ms=1000
    export RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3
    # Ray's newer launcher sets hosts up one after the other, and waits 15 minutes for one that is off. The older one sets
    # all up at once.
    export RAY_enable_autoscaler_v2=0
    # Reach the dashboard through `ray dashboard` or an SSH tunnel; another --dashboard-host may follow on the command line.
    options+=(--head --port=6379 --dashboard-host=127.0.0.1 --dashboard-port=8265)
    own=$(towards 8.8.8.8)
    [[ -n $own ]] || own=$(hostname -I | cut -d ' ' -f 1)
    shift ;;
  worker)
    [[ -n ${2:-} && $2 != -* ]] || fail "$usage"
    options+=(--address="$2:6379")
    own=$(towards "$2")
    shift 2 ;;
  *)
    fail "$usage" ;;
esac
[[ -z $own ]] || options+=(--node-ip-address="$own")
exec ray start "${options[@]}" "$@"
