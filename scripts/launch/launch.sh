# Shared by slurm.sbatch and ssh.sh, which source it. The head of the Ray cluster and rlhf-flow run on this machine, and
# the launcher starts the workers. If there is no other machine, rlhf-flow starts Ray itself, on loopback. Needs bash
# 4.4 or newer.
#
# Environment, all optional:
#   LAUNCH_PYTHON            Python at the same path on every machine; default: .venv/bin/python of the repository
#   LAUNCH_ADDRESS           address of this machine, as the others reach it; default: detected
#   LAUNCH_WAIT_SECONDS      time for all nodes to join; default: 300
#   LAUNCH_STOP_SECONDS      time that rlhf-flow has to stop after a signal; default: 120
#   LAUNCH_OBJECT_STORE_MIB  Ray's object store of each node; default: Ray's choice
#   LAUNCH_CPUS              logical CPUs of each node, one for each worker; default: the number of CPUs, at least 64
#   LAUNCH_TMP               a folder with a short path on each machine's own disk; default: /tmp
# GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME set the network of the learner's ranks, if hostnames resolve to another one.
#
# shellcheck shell=bash
set -m # background processes get their own process group and do not ignore SIGINT

root=$(cd "${here:?}/../.." && pwd)
export LAUNCH_PYTHON=${LAUNCH_PYTHON:-$root/.venv/bin/python}
export LAUNCH_WAIT_SECONDS=${LAUNCH_WAIT_SECONDS:-300}
nodes=() # process ids: the head, and the processes that hold the workers
declare -A leashes=() # process id -> file descriptor; closing it ends the node
driver='' watch='' patience='' pipes='' signal=''

# launch COUNT COMMAND...: start a cluster of COUNT nodes, run rlhf-flow COMMAND... on it, and return its exit status.
# The launcher defines `workers`, which starts the workers in the background and adds their process ids to `nodes`.
launch() {
    local count=$1 name
    shift
    for name in INT TERM HUP USR1; do
        # shellcheck disable=SC2064 # expands the name now
        trap "signal=$name; interrupt" "$name"
    done
    trap tear_down EXIT
    unset RAY_ADDRESS # the calling shell may have one of another cluster
    if ((count > 1)); then
        cluster "$count" || return
    fi
    [ -z "$signal" ] || return 130
    "$LAUNCH_PYTHON" -m rlhf_flow "$@" < /dev/null &
    driver=$!
    outlast "$driver"
}

cluster() {
    if [[ $LAUNCH_PYTHON == *" "* ]]; then # Ray (2.60) starts a server of the head through a shell that splits its path
        echo "launch: LAUNCH_PYTHON must be a path without a space, got $LAUNCH_PYTHON. Move the installation." >&2
        return 2
    fi
    secure
    read -r LAUNCH_PORT LAUNCH_CLIENT_PORT < <(free_ports)
    export LAUNCH_CLIENT_PORT RAY_ADDRESS=$LAUNCH_ADDRESS:$LAUNCH_PORT
    pipes=$(mktemp -d)
    leash : bash "$here/node.sh" --leashed head "$LAUNCH_ADDRESS" "$LAUNCH_PORT"
    workers
    "$LAUNCH_PYTHON" "$here/joined.py" "$1" "$LAUNCH_WAIT_SECONDS" < /dev/null &
    watch=$!
    wait -n "$watch" "${nodes[@]}"
    [ -z "$signal" ] || return 130
    if kill -0 "$watch" 2> /dev/null; then
        echo "launch: a node ended before all had joined; its output is above" >&2
        return 1
    fi
    wait "$watch"
}

# leash LINE COMMAND...: start a node in the background. Its stdin has LINE and is closed when this shell ends for any
# reason.
leash() {
    local line=$1 end pipe=$pipes/${#nodes[@]}
    shift
    mkfifo "$pipe"
    { for end in "${leashes[@]}"; do exec {end}>&-; done; "$@" < "$pipe"; } & # without the other nodes' ends
    nodes+=($!)
    exec {end}> "$pipe"
    leashes[$!]=$end
    (printf '%s\n' "$line" >&"$end") # in a subshell: SIGPIPE if the command has already failed
}

# A client that reaches a Ray cluster can run any code in it, so the cluster requires a token that only this job has
# (Ray 2.52 and newer). Network traffic is not encrypted.
secure() {
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
}

free_ports() {
    "$LAUNCH_PYTHON" -c '
import socket
held = [socket.create_server(("", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in held))'
}

# Send SIGINT to rlhf-flow, so that it stops cleanly. Kill it if it still runs after LAUNCH_STOP_SECONDS.
interrupt() {
    [ -n "$driver" ] || return 0
    kill -INT "$driver" 2> /dev/null
    [ -n "$patience" ] || { (sleep "${LAUNCH_STOP_SECONDS:-120}" && kill -KILL "$driver") 2> /dev/null & patience=$!; }
}

# Return the exit status of a process. `wait` also returns if this shell gets a signal, with a status above 128. The
# process itself may also end with such a status.
outlast() {
    local status=0 again
    while kill -0 "$1" 2> /dev/null; do
        wait "$1"
        status=$?
    done
    if ((status > 128)); then
        wait "$1" 2> /dev/null
        again=$?
        ((again == 127)) || status=$again
    fi
    return "$status"
}

# Stop the head last, because a node without its head waits for it.
tear_down() {
    trap '' INT TERM HUP USR1
    stop "$driver" "$watch" "$patience"
    stop "${nodes[@]:1}"
    stop "${nodes[@]:0:1}"
    nodes=()
    [ -z "$pipes" ] || rm -rf "$pipes"
}

# End processes and wait up to 40 seconds for them. node.sh kills Ray within this time. A killed ssh would not wait.
stop() {
    local pid end tenths=400
    for pid in "$@"; do
        end=${leashes[${pid:-none}]:-}
        if [ -n "$end" ]; then
            exec {end}>&-
            unset "leashes[$pid]"
        elif [ -n "$pid" ]; then
            kill -TERM -- "-$pid" 2> /dev/null
        fi
    done
    for pid in "$@"; do
        while [ -n "$pid" ] && kill -0 "$pid" 2> /dev/null && ((tenths-- > 0)); do sleep 0.1; done
        [ -z "$pid" ] || { kill -KILL -- "-$pid" && wait "$pid"; } 2> /dev/null
    done
    return 0
}
