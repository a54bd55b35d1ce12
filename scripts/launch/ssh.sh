#!/usr/bin/env bash
# Run rlhf-flow on several machines over ssh. On the first machine:
#
#   scripts/launch/ssh.sh HOSTS run run_dir=/shared/runs/mine model.path=... prompts.path=... scorer.path=... \
#     cluster.nodes=2 cluster.engines=7 learner.ranks=8 learner.zero_stage=3 learner.training.precision=bfloat16 \
#     model.dtype=bfloat16 scorer.dtype=bfloat16 # 16 GPUs
#
# HOSTS is a file with the ssh names of the other machines, one per line; # starts a comment. ssh must work without a
# password. The repository and run_dir are at the same path on all machines, and run_dir is on a shared file system.
# Ctrl-C stops the run cleanly, and the same command resumes it. A machine that loses the connection ends its node.
# Other settings are environment variables: see launch.sh. Variables named LAUNCH_*, RLHF_FLOW_*, RAY_*, HF_*, NCCL_*,
# GLOO_*, VLLM_* and those that LAUNCH_FORWARD lists ("WANDB_MODE MY_KEY") are passed on through stdin, so `ps` does not
# show them.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -ge 2 ] && [ -r "$1" ] || { echo "usage: ssh.sh HOSTS ARGUMENTS_OF_RLHF_FLOW...; HOSTS is a file" >&2; exit 2; }
# shellcheck source=scripts/launch/launch.sh
. "$here/launch.sh"
mapfile -t hosts < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$1")
shift

remote() { # HOST COMMAND...: run the command on the host, with each word quoted
    local host=$1
    shift
    ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 -T "$host" "exec $(printf '%q ' "$@")"
}

environment() { # print one `export` line
    local name
    printf 'export'
    while IFS= read -r name; do
        case $name in
            LAUNCH_* | RLHF_FLOW_* | RAY_* | HF_* | NCCL_* | GLOO_* | VLLM_*) ;;
            *) [[ " ${LAUNCH_FORWARD:-} " = *" $name "* ]] || continue ;;
        esac
        printf ' %s=%q' "$name" "${!name}"
    done < <(compgen -e)
}

workers() {
    local host
    for host in "${hosts[@]}"; do
        leash "$(environment)" remote "$host" bash "$here/node.sh" --leashed worker "$LAUNCH_ADDRESS" "$LAUNCH_PORT"
    done
}

if ((${#hosts[@]} > 0)); then # SSH_CONNECTION of the remote shell begins with this machine's address
    LAUNCH_ADDRESS=${LAUNCH_ADDRESS:-$(remote "${hosts[0]}" bash -c 'echo "${SSH_CONNECTION%% *}"' < /dev/null)}
    [ -n "$LAUNCH_ADDRESS" ] || { echo "ssh.sh: cannot reach ${hosts[0]} without a password" >&2; exit 1; }
fi
launch "$((${#hosts[@]} + 1))" "$@"
