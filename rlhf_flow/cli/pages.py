"""The texts of the help pages. `rlhf_flow.cli.help` adds the parts and keys, read from the classes themselves."""

from __future__ import annotations

from rlhf_flow.cli import pages_results, pages_training

PROGRAM = """\
rlhf-flow: online, iterative preference optimisation of language models.
In each round the current policy generates answers, a scorer rates or compares them, and the learner trains the policy
on the preferences; the next round starts from the new policy.

  rlhf-flow sandbox                     build the sandbox world: a small policy, its prompts and a reward model
  rlhf-flow run experiment=sandbox      run on it; nothing is downloaded
  rlhf-flow init [FILE]                 write a commented FILE with the keys of a first run: mine.yaml
  rlhf-flow run [FILE] [key=value ...]  run on your own model, prompts and scorer
  rlhf-flow resume RUN [key=value ...]  go on with the run in the folder RUN where it stopped
  rlhf-flow ls [KIND ...]               list algorithms, scorers, experiments, ... each with one line
  rlhf-flow new NAME                    write a package of your own: a reward function, an experiment, a test
  rlhf-flow doctor [key=value ...]      find what would stop that run, before it takes a GPU
  rlhf-flow plan [key=value ...]        estimate memory, steps, API calls, disk and time of that run
  rlhf-flow compare [key=value ...]     run several algorithms with the same number of judge queries
  rlhf-flow convert FROM TO             convert .bin, LoRA adapters and fp8 to a checkpoint that a run can start from
  rlhf-flow export WHAT RUN             export pairs, sft, labels or the model of a run, for TRL, vLLM and the Hub
  rlhf-flow merge TO MODEL=WEIGHT ...   merge checkpoints, or LoRA adapters exactly, with weights
  rlhf-flow chat MODEL [MODEL]          chat with a policy, or with two side by side, and label the better answer
  rlhf-flow eval RUN@all                win rates and ratings of policies; public benchmarks; accuracy of scorers
  rlhf-flow judgements                  list, prune or export cached judgements, which are paid for once
  rlhf-flow label RUN                   label answers in the browser, for a run with scorer=human
  rlhf-flow report RUN [RUN ...]        write the HTML report of a run, or of several side by side
  rlhf-flow serve [key=value ...]       serve a scorer over HTTP, for runs with scorer=remote
  rlhf-flow sft [key=value ...]         fine-tune a model on conversations, before a run
  rlhf-flow train-reward [key=value ..] train a reward or preference model on recorded preferences
  rlhf-flow verify                      check each algorithm against its paper, on games with exact solutions

  rlhf-flow completion bash|zsh|fish    completion of commands, options, keys and choices

  rlhf-flow COMMAND --help              the arguments of a command
  rlhf-flow --version

`python -m rlhf_flow` is the same program. Exit status: 0 done, 1 the run failed, 2 a mistake in the arguments,
130 interrupted, 143 terminated."""

COMPARE = """\
rlhf-flow compare --queries N [--recipes NAME ...] [--seeds N ...] [--lrs LR ...] [options] [FILE.yaml] [key=value ...]

Runs each algorithm (a recipe: algorithm=NAME) with each seed, under the keys of `rlhf-flow run`, and prints a table:
the median over the seeds, and the least and greatest. prompts.batch is set so that each run uses at most N judge
queries: answers that are rated, or pairs that are compared. Finished runs in --folder are not repeated. If the command
ends, its runs end too; the same command goes on.

Example
  rlhf-flow compare --recipes online_dpo xpo --seeds 0 1 2 --queries 4096 model.path=my/model prompts.path=p.jsonl \\
      scorer.path=my/reward_model

  --queries N         judge queries per run
  --recipes NAME ...  algorithms; default: all
  --seeds N ...       default: 1 2 3
  --lrs LR ...        the learning rate; of several, each algorithm uses the one that ends best with seed 0
  --metric KEY        the metric to sort and to tune by; default: eval/win_rate
  --lower             less of the metric is better
  --jobs N            runs at a time; default: 1
  --folder DIR        default: runs/compare; compared.csv and compared.json have a row for each run
  --world NAME        sandbox or cyclic: the comparisons of docs/reference/results.md, in the sandbox world; also makes
                      the pairs and the policy that some recipes read, whose queries count
  --config-dir DIR    as for `rlhf-flow run`"""

CONVERT = """\
rlhf-flow convert FROM TO [--trust-remote-code]

Reads the checkpoint in the folder FROM and writes one to TO that a run can start from: weights in .bin become
safetensors, a LoRA adapter (peft) is merged into its base, and fp8 or mxfp4 weights become bfloat16. FROM may be a run:
RUN is its best policy, RUN@3 that of round 3."""

DOCTOR = """\
rlhf-flow doctor [key=value ...] [--load] [--config-dir DIR] [--memory SIZE] [--gpus N] [--json]

Takes the arguments of `rlhf-flow run` and starts nothing. Checks packages, GPUs, limits, network, disks, checkpoints,
and chat templates and special tokens of policy and scorers. Prints a line for each check, with the fix.

  --load         also load the models, publish the policy as the learner would, and compare log-probs of transformers
                 and of the run's engine
  --memory SIZE  memory of each GPU, or of the host if there is none: 80GiB; default: this machine
  --gpus N       number of GPUs; default: this machine
  --json         print the findings as JSON
Exit status: 0 no problem, 1 a problem, 2 a mistake in the arguments."""

PLAN = """\
rlhf-flow plan [key=value ...] [--config-dir DIR] [--memory SIZE] [--gpus N] [--like RUN] [--json]

Takes the arguments of `rlhf-flow run`, reads config.json, tokenizer and prompts, and loads no weights. Memory is an
estimate for sequences of the greatest length; learner memory on the host includes a margin of 30 %.
cluster.nodes=4 cluster.address=auto also prints the share of each of four nodes; no cluster is joined.

  --memory SIZE  memory of each GPU, or of the host if there is none: 80GiB; default: this machine
  --gpus N       number of GPUs; default: this machine
  --like RUN     estimate the time from a finished run, and print the FLOP/s of its optimizer steps
  --json         print the estimate as JSON
Exit status: 0 it fits, 1 something does not fit, 2 a mistake in the arguments."""

LABEL = """\
rlhf-flow label RUN [--host HOST] [--port N] [--token-env NAME] [--name NAME ...] [--release ANNOTATOR ...]
rlhf-flow label RUN [--import FILE] [--export FILE]

Shows the questions of a run with scorer=human in the browser, until it is interrupted. Several people can label at
once; each label is on disk before the next question is shown. RUN is the run's folder, or its scorer.folder.

  --host 127.0.0.1  the address to listen on. Other machines need another address and a token. The server speaks plain
                    HTTP: put a TLS proxy before it, or use a tunnel (ssh -L 8765:127.0.0.1:8765)
  --port 8765       0: any free port, which the first line on stdout names
  --token-env NAME  the environment variable with the token that annotators must enter; required unless the host is
                    this machine
  --name NAME       a further host name of the server, such as that of its proxy; requests for other names are refused.
                    A proxy may add a path: https://labels.example/mine/
  --release ANNOTATOR
                    let another browser use this annotator's name, which otherwise belongs to the first browser
  --import FILE     import labels from an export of Argilla or Label Studio (JSON), or from rows of prompt, chosen,
                    rejected and annotator, and exit; RUN need not exist yet
  --export FILE     export the labels as such rows, one per verdict, which rlhf-flow train-reward reads, and exit

scorer.guidelines=FILE.md (or a text) is shown next to the questions."""

INIT = """\
rlhf-flow init [FILE]

Writes FILE (default mine.yaml) with the keys of a first run and their meanings; `rlhf-flow run FILE` runs it. Keys on
the command line override it. An existing file is not changed."""

RESUME = """\
rlhf-flow resume RUN [key=value ...]

Goes on with the run in the folder RUN (its run_dir), as it was last started and from the folder in which it was
started. Committed work is not repeated. Keys that do not determine the result may change: rounds=12, cluster.engines=2.

Exit status: as of `rlhf-flow run`."""

LS = """\
rlhf-flow ls [KIND ...] [--config-dir DIR]

Lists what a key may choose, each with one line: `rlhf-flow ls algorithms scorers`. Without KIND it lists the kinds:
algorithm, experiment, stack, reward, and each group of parts. `rlhf-flow run KIND=NAME --help` describes one.

  --config-dir DIR  also list the files in DIR"""

NEW = """\
rlhf-flow new NAME

Writes the Python package NAME (a folder): a reward function, prompts, an experiment that runs on the sandbox policy,
and a test that passes. It prints the commands that test and run it. An existing folder is not changed."""

COMPLETION = """\
rlhf-flow completion bash|zsh|fish

Prints the script with which a shell completes commands, options, groups, keys and choices.

  bash  in ~/.bashrc:                  eval "$(rlhf-flow completion bash)"
  zsh   in ~/.zshrc, after compinit:   eval "$(rlhf-flow completion zsh)"
        or as a file on the fpath:     rlhf-flow completion zsh > ~/.zfunc/_rlhf-flow
  fish  in ~/.config/fish/config.fish: rlhf-flow completion fish | source"""

JUDGEMENTS = """\
rlhf-flow judgements [list | prune | export] [--cache FILE] [--older-than DAYS] [--source TEXT]

Judgements are cached in an SQLite file, so that no run pays for one twice. `list` prints their number, source and age,
and the spend of each account; `prune` deletes some; `export` writes them to stdout, one JSON object per line.

  --cache FILE      default: ${RLHF_FLOW_HOME}/judgements.sqlite, as of scorer.budget.cache
  --older-than DAYS only older judgements; those of version 0.1 have no date and count as old
  --source TEXT     only judgements whose source, as in `list`, contains this text; '' matches all"""

SANDBOX = """\
rlhf-flow sandbox

Builds the sandbox world of `rlhf-flow run experiment=sandbox`, once: a corpus from a seeded grammar, a tokenizer, a
small policy trained on the corpus, and a reward model trained on noisy preferences. Takes about two minutes."""

SERVE = """\
rlhf-flow serve [scorer=name] [scorer.key=value ...] [key=value ...] [--cfg job] [--config-dir DIR]

Serves a scorer over HTTP until it is interrupted, for any number of runs with scorer=remote on any machine.

Examples
  export JUDGE_TOKEN=$(openssl rand -hex 16)                  a token for the clients; both sides need the variable
  rlhf-flow serve scorer.path=my/reward_model device=cuda token_env=JUDGE_TOKEN
  rlhf-flow run experiment=sandbox scorer=remote 'scorer.urls=[http://127.0.0.1:8000]' scorer.token_env=JUDGE_TOKEN
  rlhf-flow serve scorer.path=my/reward_model host=0.0.0.0 token_env=JUDGE_TOKEN 'names=[judge.example]'

Keys
  host=127.0.0.1   port=8000     the address to listen on; port=0: any free port, which the first line on stdout names
  token_env=null                 the environment variable with the token that clients must send. The server speaks plain
                                 HTTP: put a TLS proxy before it
  token=required                 none: no token, on this machine only; any local process may then send requests
  names=[]                       further host names of the server; requests for other names are refused (400)
  max_body_mib=64                larger requests are refused (413)
  body_seconds=60                requests whose body takes longer to arrive are refused (408)
  max_waiting=64                 requests in the queue; others are refused for the moment (503)
  batch_wait_ms=0                how long a request waits for others to share its batch. More is faster for a model and
                                 many small requests, but scores then vary in rounding with the batch
  max_batch=4096                 answers per batch, at most
  device=cpu   threads=1         of a scorer that loads a model

POST /score takes and returns the JSON of rlhf_flow/scorer/remote/schema.py. GET /health describes the scorer.
"""

VERIFY = """\
rlhf-flow verify [--only CLAIM ...] [--seed N] [--jobs N] [--json FILE] [--markdown]

Checks what the papers claim of their algorithms on games with exact solutions. It uses the loop, objectives, selectors,
schedules and replay of a run, with tables as policies. Prints each claim with the measured value and its threshold.
Takes some minutes on two cores. Exit status 1 if a claim fails.

  --only V8 XPO     only claims whose id or method starts with one of these
  --seed N          default: 0
  --jobs N          claims to check at a time; default: one per core
  --json FILE       also write the results to FILE
  --markdown        print the table as Markdown"""

RUN = """\
rlhf-flow run [FILE.yaml] [key=value ...] [--multirun] [--cfg job] [--config-dir DIR] [--help[=all]]

Runs rounds of preference optimisation. The same command, or `rlhf-flow resume RUN`, resumes an interrupted run;
committed work is not repeated.
"""

RUN_EXAMPLES = """\

Examples
  rlhf-flow run experiment=sandbox                            the sandbox world; nothing is downloaded
  rlhf-flow run experiment=sandbox rounds=2 seed=7 run_dir=runs/second
  rlhf-flow run experiment=sandbox stack=local                one process, without Ray, vLLM and DeepSpeed
  rlhf-flow run experiment=sandbox prompts=jsonl prompts.path=prompts.jsonl rounds=2
                                                              the world's policy and scorer, your prompts
  rlhf-flow run model.path=my/model prompts.path=prompts.jsonl scorer.path=my/reward_model
  rlhf-flow run experiment=sandbox --multirun seed=1,2,3      three runs in turn, each in its own folder

Options
  --help=all       every part and every key
  --quiet, -q      print warnings and errors only
  --json           print one JSON object a line: start, stage, round, warning, message, end
  --cfg job        print the composed configuration and exit; with --resolve, resolve its references too
  --multirun, -m   run every combination of comma-separated values
  --config-dir D   also search D for files: D/objective/mine.yaml with `_target_: my_lab.Mine` and its fields is
                   objective=mine (my_lab must be on PYTHONPATH or in this folder)
  --hydra-help     the options of Hydra
"""

OF = {  # the pages of commands, without the parts and keys
    "run": RUN + RUN_EXAMPLES,
    "serve": SERVE,
    "compare": COMPARE,
    "completion": COMPLETION,
    "convert": CONVERT,
    "doctor": DOCTOR,
    "init": INIT,
    "judgements": JUDGEMENTS,
    "label": LABEL,
    "ls": LS,
    "new": NEW,
    "plan": PLAN,
    "resume": RESUME,
    "sandbox": SANDBOX,
    "sft": pages_training.SFT,
    "train-reward": pages_training.TRAIN_REWARD,
    "verify": VERIFY,
    **pages_results.OF,
}
WITH_KEYS = (
    "run",
    "serve",
    "sft",
    "train-reward",
    "plan",
    "doctor",
)  # their help also describes parts and keys
NEED_ARGUMENTS = ("completion", "label", "new", "resume", *pages_results.OF)
