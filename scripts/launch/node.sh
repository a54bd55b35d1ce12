#!/usr/bin/env bash
# Run one node of a Ray cluster on this machine, in the foreground, until a signal arrives or Ray ends by itself:
#
#   node.sh [--leashed] head|worker ADDRESS PORT
#
# ADDRESS and PORT are those of the head. Both launchers start their nodes with this script. SIGTERM, SIGINT and SIGHUP
# end the node. With --leashed, the end of stdin also ends it, and the first line of stdin is a shell command that sets
# the environment. When the script returns, Ray's processes and its temporary folder are gone. Environment: see
# launch.sh.
set -uo pipefail
set -m # Ray gets its own process group and default signal handling

leashed=
[ "$1" = --leashed ] && { leashed=yes; shift; }
role=$1 address=$2 port=$3
[ -z "$leashed" ] || { IFS= read -r exports && eval "$exports"; } || exit 2

# An engine has all its GPUs on one node, so other nodes do not need to reach the ports of vLLM.
export TOKENIZERS_PARALLELISM=false VLLM_HOST_IP=127.0.0.1

# CPUs are logical, as in a cluster that rlhf-flow starts itself: its workers share the cores of their node. Ray chooses
# free ports, because another job may have a node on this machine. GPUs are those in CUDA_VISIBLE_DEVICES, or all.
cpus=$(nproc)
folder=$(mktemp -d "${LAUNCH_TMP:-/tmp}/ray-XXXXXX") || exit 2 # short: a socket's path has at most 107 bytes
start=(
    "$LAUNCH_PYTHON" -m ray.scripts.scripts start --block --disable-usage-stats --log-style=record
    --temp-dir="$folder" --num-cpus="${LAUNCH_CPUS:-$((cpus > 64 ? cpus : 64))}"
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0
    ${LAUNCH_OBJECT_STORE_MIB:+--object-store-memory="$((LAUNCH_OBJECT_STORE_MIB << 20))"}
)
if [ "$role" = head ]; then
    start+=(--head --node-ip-address="$address" --port="$port" --include-dashboard=false)
    start+=(--ray-client-server-port="$LAUNCH_CLIENT_PORT")
else
    start+=(--address="$address:$port")
fi

ray='' line='' told='' status=0
trap 'told=yes' TERM INT HUP

# Ray ends its processes at SIGTERM, unless the head is gone: then it waits for the head, and after 15 seconds its
# process group is killed.
end() {
    local tenths=150
    trap '' TERM INT HUP
    [ -z "$line" ] || { kill "$line" && wait "$line"; } 2> /dev/null
    if [ -n "$ray" ]; then
        kill -TERM "$ray" 2> /dev/null
        while kill -0 "$ray" 2> /dev/null && ((tenths-- > 0)); do sleep 0.1; done
        { kill -KILL -- "-$ray"; wait "$ray"; } 2> /dev/null
    fi
    rm -rf "$folder"
}
trap end EXIT

if [ "$role" = worker ]; then # Ray gives up if the head does not listen yet
    until (exec 3<> "/dev/tcp/$address/$port") 2> /dev/null || ((SECONDS >= ${LAUNCH_WAIT_SECONDS:-300})); do
        [ -z "$told" ] || exit 143
        sleep 0.3
    done
fi
"${start[@]}" < /dev/null > "$folder/start.log" 2>&1 &
ray=$!
if [ -n "$leashed" ]; then
    cat <&0 > /dev/null &
    line=$!
fi
[ -n "$told" ] || wait -n "$ray" ${line:+"$line"} || status=$?
if [ -z "$told" ] && ! kill -0 "$ray" 2> /dev/null; then
    tail -n 40 "$folder/start.log" >&2
    echo "node.sh: Ray ended by itself on $(hostname), status $status" >&2
fi
exit "$status"
