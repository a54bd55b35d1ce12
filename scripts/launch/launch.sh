# What slurm.sbatch and ssh.sh have in common; they source this. The head of the Ray cluster and rlhf-flow run on this
# machine, the launcher brings the workers. Where there is no other machine, rlhf-flow starts Ray itself, on loopback.
# Needs bash 4.4 or newer.
#
# Environment, all optional:
#   LAUNCH_PYTHON            of the installation, at the same path on every machine; .venv/bin/python of the repository
#   LAUNCH_ADDRESS           of this machine, as the others reach it; found out if not given
#   LAUNCH_WAIT_SECONDS      for all nodes to join, 300
#   LAUNCH_STOP_SECONDS      that rlhf-flow has to stop after a signal, 120
#   LAUNCH_OBJECT_STORE_MIB  of each node; Ray's own choice
#   LAUNCH_CPUS              of each node, for Ray to hand out: each worker takes one; as many as there are, at least 64
#   LAUNCH_TMP               a folder on each machine's own disk with a short path, /tmp
# GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the network of the learner's ranks, if hostnames lead to another one.
#
# shellcheck shell=bash
set -m # what is started here has its own process group, and does not ignore SIGINT as background processes do otherwise

root=$(cd "${here:?}/../.." && pwd)
export LAUNCH_PYTHON=${LAUNCH_PYTHON:-$root/.venv/bin/python}
export LAUNCH_WAIT_SECONDS=${LAUNCH_WAIT_SECONDS:-300}
nodes=() # process ids: the head, and what holds the workers
declare -A leashes=() # process id -> the file descriptor whose end it waits for
driver='' watch='' patience='' pipes='' signal=''

# launch COUNT COMMAND...: a cluster of COUNT nodes, and rlhf-flow COMMAND... on it; returns its status.
# The launcher defines `workers`, which starts them in the background and adds their process ids to `nodes`.
launch() {
    local count=$1 name
    shift
    for name in INT TERM HUP USR1; do
        # shellcheck disable=SC2064 # the name as it is now
        trap "signal=$name; interrupt" "$name"
    done
    trap tear_down EXIT
    unset RAY_ADDRESS # of another cluster, from the shell that this was started in
    if ((count > 1)); then
        cluster "$count" || return
    fi
    [ -z "$signal" ] || return 130
    "$LAUNCH_PYTHON" -m rlhf_flow "$@" < /dev/null &
    driver=$!
    outlast "$driver"
}

cluster() {
    if [[ $LAUNCH_PYTHON == *" "* ]]; then # Ray (2.60) starts a server of the head's by a shell that splits its path
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
        echo "launch: a node ended before all had joined; what it said is above" >&2
        return 1
    fi
    wait "$watch"
}

# leash LINE COMMAND...: a node in the background, whose stdin has LINE and ends when this shell does, however it does.
leash() {
    local line=$1 end pipe=$pipes/${#nodes[@]}
    shift
    mkfifo "$pipe"
    { for end in "${leashes[@]}"; do exec {end}>&-; done; "$@" < "$pipe"; } & # it must not hold the others' ends
    nodes+=($!)
    exec {end}> "$pipe"
    leashes[$!]=$end
    (printf '%s\n' "$line" >&"$end") # in a shell of its own: SIGPIPE where the command has failed already
}

# Whoever reaches a Ray cluster can run anything in it: nobody but this job knows the token (Ray 2.52 and newer). What
# goes over the network is not encrypted.
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

# Ctrl-C for rlhf-flow, which stops cleanly; an end for one that does not.
interrupt() {
    [ -n "$driver" ] || return 0
    kill -INT "$driver" 2> /dev/null
    [ -n "$patience" ] || { (sleep "${LAUNCH_STOP_SECONDS:-120}" && kill -KILL "$driver") 2> /dev/null & patience=$!; }
}

# The status of a process. `wait` alone also returns at a signal; a status above 128 may be its own all the same.
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

# The head last: a node whose head is gone waits for it.
tear_down() {
    trap '' INT TERM HUP USR1
    stop "$driver" "$watch" "$patience"
    stop "${nodes[@]:1}"
    stop "${nodes[@]:0:1}"
    nodes=()
    [ -z "$pipes" ] || rm -rf "$pipes"
}

# End processes and wait for them: 40 seconds, in which node.sh has ended Ray by force. A killed ssh would not wait.
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
