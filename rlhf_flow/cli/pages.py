"""The texts of the help pages. What `rlhf_flow.cli.help` reads from the parts themselves is not repeated here."""

from __future__ import annotations

PROGRAM = """\
rlhf-flow: online, iterative preference optimisation of language models.
In each round the current policy answers prompts, a judge says which answers are better, and the learner fits the
policy to those preferences; the next round starts from the new policy.

  rlhf-flow sandbox                     build the embedded world: a small policy, its prompts and a reward model
  rlhf-flow run experiment=sandbox      run on it: nothing is downloaded
  rlhf-flow convert FROM TO             .bin, adapters and fp8 to a checkpoint that a run can start from
  rlhf-flow init [FILE]                 write a commented FILE of the keys of a first run: mine.yaml
  rlhf-flow run [FILE] [key=value ...]  run on your own model, prompts and judge
  rlhf-flow doctor [key=value ...]      look for what would stop that run, before it takes a GPU
  rlhf-flow plan [key=value ...]        memory, steps, judge calls, disk and time of that run, before it starts
  rlhf-flow judgements                  list, prune or export what judges said, which is paid for once
  rlhf-flow label RUN                   label answers in the browser, for a run with scorer=human
  rlhf-flow report RUN [RUN ...]        write the report of the run in the folder RUN again, or of several side by side
  rlhf-flow serve [key=value ...]       serve any judge over HTTP, for runs with scorer=remote
  rlhf-flow train-reward [key=value ..] train a judge on recorded preferences, by the same loop
  rlhf-flow verify                      check every algorithm against its paper, on games with exact solutions

  rlhf-flow completion bash             completion of commands, keys and choices: eval "$(rlhf-flow completion bash)"

  rlhf-flow COMMAND --help              what a command takes
  rlhf-flow --version

`python -m rlhf_flow` is the same program. Exit status: 0 done, 1 the run failed, 2 a mistake in what was asked,
130 interrupted."""

DOCTOR = """\
rlhf-flow doctor [key=value ...] [--load] [--config-dir DIR] [--memory SIZE] [--gpus N] [--json]

Takes what `rlhf-flow run` takes, and starts nothing: packages, GPUs, limits, network, disks, checkpoints, and the
templates and special tokens of policy and judges side by side. A line each, with the way out. --load also loads them,
publishes the policy as a learner would, and compares log-probs of transformers and the run's engine.
Exit status: 0 no problem, 1 a problem, 2 a mistake in what was asked."""

PLAN = """\
rlhf-flow plan [key=value ...] [--config-dir DIR] [--memory 80GiB] [--gpus N] [--like RUN] [--json]

Takes what `rlhf-flow run` takes, reads config.json, tokenizer and prompts, and no weights. --memory is that of each
GPU, or of a host without any; --like takes the seconds from a run that is done. cluster.nodes=4 cluster.address=auto
also tells what each of four nodes gives; no cluster is joined.
Exit status: 0 it fits, 1 something does not, 2 a mistake in what was asked."""

REPORT = """\
rlhf-flow report RUN [RUN ...] [--csv FOLDER]

Reads the folder of a run, finished or not, and writes RUN/report.html: one file that opens without a network. Of two to
four runs it writes compared.html into the first folder: their curves side by side, the last rounds with intervals,
paired over the held-out prompts that they share, and the keys in which their configurations differ.

  --csv FOLDER      write the numbers of each chart of one run into FOLDER as well, one CSV file a chart"""

LABEL = """\
rlhf-flow label RUN [--host HOST] [--port N] [--token-env NAME] [--name NAME ...] [--release ANNOTATOR ...]
rlhf-flow label RUN [--import FILE] [--export FILE]

Shows the questions of a run with scorer=human in the browser, until it is interrupted. Several people may label at
once; every label is on disk before the next question comes. RUN is the run's folder, or its scorer.folder.

  --host 127.0.0.1  where it listens. For other machines use another, with a token; it speaks plain HTTP: put TLS
                    before it, or tunnel (ssh -L 8765:127.0.0.1:8765)
  --port 8765       0 is any that is free, and the first line on stdout says which
  --token-env NAME  the environment variable with the token that annotators must know; any host but this machine
                    needs one
  --name NAME       a further name by which browsers call it, such as that of the proxy before it; all others are
                    refused. A proxy may put it under a path: https://labels.example/mine/
  --release ANNOTATOR
                    let another browser label under this name: a name belongs to the first one that does
  --import FILE     take labels from an export of Argilla or Label Studio (JSON), or rows of prompt, chosen, rejected
                    and annotator; RUN may not be there yet. Shows nothing
  --export FILE     write the labels as such rows, a verdict each, which rlhf-flow train-reward reads

scorer.guidelines=FILE.md (or a text) is shown beside the questions."""

INIT = """\
rlhf-flow init [FILE]

Writes FILE (mine.yaml), in which each key of a first run stands with what it means; `rlhf-flow run FILE` runs it. Keys
on the command line have the last word. A file that is there is left alone."""

COMPLETION = """\
rlhf-flow completion bash

Prints what bash needs to complete commands, keys and choices. Put this into ~/.bashrc:
  eval "$(rlhf-flow completion bash)"
zsh does the same after: autoload -U bashcompinit && bashcompinit"""

JUDGEMENTS = """\
rlhf-flow judgements [list | prune | export] [--cache FILE] [--older-than DAYS] [--source TEXT]

What judges said is kept in an SQLite file, so that no run pays for it twice. list tells how many judgements it holds,
of whom and since when, and what each account spent; prune removes some; export writes them to stdout, a JSON object a
line.

  --cache FILE      default: ${RLHF_FLOW_HOME}/judgements.sqlite, as of scorer.budget.cache
  --older-than DAYS only judgements that were kept before; those of version 0.1 have no date and count as old
  --source TEXT     only judgements with this text in their source, as list shows it; '' is all"""

SANDBOX = """\
rlhf-flow sandbox

Builds the embedded world that `rlhf-flow run experiment=sandbox` uses: a corpus from a seeded grammar, a tokenizer, a
small policy trained on the corpus, and a reward model trained on noisy preferences. Built once; about two minutes."""

SERVE = """\
rlhf-flow serve [scorer=name] [scorer.key=value ...] [key=value ...] [--cfg job] [--config-dir DIR]

Serves a scorer over HTTP until it is interrupted, for any number of runs with scorer=remote, on other machines too.

Examples
  export JUDGE_TOKEN=$(openssl rand -hex 16)                  a token that clients show; both sides have the variable
  rlhf-flow serve scorer.path=my/reward_model device=cuda token_env=JUDGE_TOKEN
  rlhf-flow run experiment=sandbox scorer=remote 'scorer.urls=[http://127.0.0.1:8000]' scorer.token_env=JUDGE_TOKEN
  rlhf-flow serve scorer.path=my/reward_model host=0.0.0.0 token_env=JUDGE_TOKEN 'names=[judge.example]'

Keys
  host=127.0.0.1   port=8000     where it listens; port=0 is any that is free, and the first line on stdout says which
  token_env=null                 the environment variable with the token that clients must show. What it listens on is
                                 plain HTTP: put TLS before it
  token=required                 none: without a token, on this machine only; whatever runs here may ask then
  names=[]                       further names by which clients call it; all others are refused (400)
  max_body_mib=64                a larger request is refused (413)
  body_seconds=60                a request that takes longer to come is refused (408)
  max_waiting=64                 requests; those beyond are sent away for the moment (503)
  batch_wait_ms=0                a request waits so long for others, to be scored with them. Faster for a model under
                                 many small requests; but scores then differ by rounding with the company
  max_batch=4096                 answers that are scored together at most
  device=cpu   threads=1         of a scorer that is a model

POST /score takes and gives the JSON of rlhf_flow/scorer/remote/schema.py. GET /health says what is served.

Scorers, and their keys with the defaults"""

TRAIN_REWARD = """\
rlhf-flow train-reward [key=value ...] [--multirun] [--cfg job] [--config-dir DIR]

Trains a judge on answers that were compared: the loop of `rlhf-flow run`, whose learner reads a response as the outputs
of a head, or a comparison as the letter that names the better answer. RUN/rounds/<last>/policy is a checkpoint for
scorer=reward_model, scorer=gpm (of reward=gpm) or scorer=preference_model (of reward=pairwise). It starts from a
language model or from such a checkpoint, and the same command again goes on.

Examples
  rlhf-flow train-reward model.path=my/model prompts.path=preferences.jsonl
                                                              rows with the columns prompt, chosen and rejected
  rlhf-flow train-reward model.path=my/model prompts.path=preferences.jsonl scorer.preference=p
                                                              p: how likely the first is to win; null: not known
  rlhf-flow train-reward reward=gpm learner.head.outputs=4 model.path=my/model prompts.path=preferences.jsonl
  rlhf-flow run experiment=sandbox scorer=reward_model scorer.path=runs/reward/rounds/00004/policy

Keys
  reward=bradley_terry|gpm|pairwise        what is learned from preferences
  reward=rating|rated_preference           or from the columns in scorer.ratings; and, at once, that in scorer.strength
  prompts.columns.candidates={first: chosen, second: rejected}   the columns with the answers
  prompts.schema=auto                      how rows are laid out is recognised: UltraFeedback, HH, HelpSteer, ...
  prompts.batch=512   rounds=4             rows a round, and rounds: together, what is learned from
  prompts.held_out=0.05                    the share of the rows that evaluation uses: eval/accuracy, eval/ece, ...
  prompts.held_out_path=FILE               or these rows, with the same columns
  stack=local                              one process: without Ray and DeepSpeed

Every other key is one of `rlhf-flow run --help`."""

VERIFY = """\
rlhf-flow verify [--only CLAIM ...] [--seed N] [--jobs N] [--json FILE] [--markdown]

Checks what the papers claim of their algorithms on games with exact solutions: the same loop, objectives, selectors,
schedules and memory as in a run, with policies that are tables. Prints each claim with what was measured and the
threshold it had to keep; exit status 1 where one fails. Some minutes on two cores.

  --only V8 XPO     the claims whose id or method begins so
  --seed N          of everything that is drawn (default 0)
  --jobs N          claims that are checked side by side (default: one a core)
  --json FILE       also write what was found to FILE
  --markdown        print the table as Markdown"""

RUN = """\
rlhf-flow run [FILE.yaml] [key=value ...] [--multirun] [--cfg job] [--config-dir DIR] [--help[=all]]

Runs rounds of preference optimisation, or goes on with a run: the same command again redoes nothing that is committed.

Examples
  rlhf-flow run experiment=sandbox                            the embedded world, nothing downloaded
  rlhf-flow run experiment=sandbox rounds=2 seed=7 run_dir=runs/second
  rlhf-flow run experiment=sandbox stack=local                one process: without Ray, vLLM and DeepSpeed
  rlhf-flow run experiment=sandbox prompts=jsonl prompts.path=prompts.jsonl rounds=2
                                                              its policy and judges, your prompts
  rlhf-flow run model.path=my/model prompts.path=prompts.jsonl scorer.path=my/reward_model
  rlhf-flow run experiment=sandbox --multirun seed=1,2,3      one run after another, each in a folder of its own
  rlhf-flow run experiment=sandbox --cfg job                  print the configuration and do nothing

Options
  --help=all       every part and every key
  --cfg job        print the composed configuration; with --resolve, its references too
  --multirun, -m   run every combination of comma-separated values
  --config-dir D   look for files in D as well: D/objective/mine.yaml with `_target_: my_lab.Mine` and its fields is
                   objective=mine (PYTHONPATH says where my_lab is)
  --hydra-help     what else Hydra can do
"""

OF = {  # the commands whose page is only a text
    "doctor": DOCTOR,
    "init": INIT,
    "judgements": JUDGEMENTS,
    "plan": PLAN,
    "sandbox": SANDBOX,
    "train-reward": TRAIN_REWARD,
    "verify": VERIFY,
}
