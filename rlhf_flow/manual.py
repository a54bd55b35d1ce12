"""The help pages. `run --help` lists every part there is, read from the parts themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from textwrap import shorten

WIDTH = 118
NAME = 22  # characters of a name and the space behind it

PROGRAM = """\
rlhf-flow: online, iterative preference optimisation of language models.
In each round the current policy answers prompts, a judge says which answers are better, and the learner fits the
policy to those preferences; the next round starts from the new policy.

  rlhf-flow sandbox                     build the embedded world: a small policy, its prompts and a reward model
  rlhf-flow run experiment=sandbox      run on it: nothing is downloaded
  rlhf-flow run [key=value ...]         run on your own model, prompts and judge
  rlhf-flow doctor [key=value ...]      look for what would stop that run, before it takes a GPU
  rlhf-flow plan [key=value ...]        memory, steps, judge calls, disk and time of that run, before it starts
  rlhf-flow convert FROM TO             .bin, adapters and fp8 to a checkpoint that a run can start from
  rlhf-flow judgements                  list, prune or export what judges said, which is paid for once
  rlhf-flow label RUN                   label answers in the browser, for a run with scorer=human
  rlhf-flow report RUN [RUN ...]        write the report of the run in the folder RUN again, or of several side by side
  rlhf-flow serve [key=value ...]       serve any judge over HTTP, for runs with scorer=remote
  rlhf-flow train-reward [key=value ..] train a judge on recorded preferences, by the same loop
  rlhf-flow verify                      check every algorithm against its paper, on games with exact solutions

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

POST /score takes and gives JSON: what is in it stands in rlhf_flow/scorer/wire.py. GET /health says what is served.

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
  learner=torch cluster=local              one process: without Ray and DeepSpeed

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
rlhf-flow run [key=value ...] [--multirun] [--cfg job] [--config-dir DIR]

Runs rounds of preference optimisation, or goes on with a run: the same command again redoes nothing that is committed.

Examples
  rlhf-flow run experiment=sandbox                            the embedded world, nothing downloaded
  rlhf-flow run experiment=sandbox rounds=2 seed=7 run_dir=runs/second
  rlhf-flow run experiment=sandbox cluster=local engine=huggingface learner=torch
                                                              one process: without Ray, vLLM and DeepSpeed
  rlhf-flow run experiment=sandbox prompts=jsonl prompts.path=prompts.jsonl rounds=2
                                                              its policy and judges, your prompts
  rlhf-flow run model.path=my/model prompts.path=prompts.jsonl scorer.path=my/reward_model
  rlhf-flow run experiment=sandbox --multirun seed=1,2,3      one run after another, each in a folder of its own
  rlhf-flow run experiment=sandbox --cfg job                  print the configuration and do nothing

Keys
  run_dir=FOLDER   where the run writes, and what it resumes       rounds=N   how many rounds        seed=N
  group=name       choose a part (below)                           part.key=value   set one of its values
  scorer@evaluate.scorer=name   the judge of evaluation, where it is not the scorer of training

Options
  --cfg job        print the composed configuration; with --resolve, its references too
  --multirun, -m   run every combination of comma-separated values
  --config-dir D   look for files in D as well: D/objective/mine.yaml with `_target_: my_lab.Mine` and its fields is
                   objective=mine (PYTHONPATH says where my_lab is)
  --hydra-help     what else Hydra can do
"""


def program() -> str:
    return PROGRAM


def run(arguments: Sequence[str]) -> str:
    """The page of `rlhf-flow run`, with the files in a `--config-dir` among the arguments."""
    from rlhf_flow.config import CONFIGS, parts
    from rlhf_flow.schema import GROUPS, RunConfig
    from rlhf_flow.specs import Model

    folders = [CONFIGS, *_config_dirs(arguments)]
    lines = [RUN, "What to run"]
    for group in ("algorithm", "experiment"):
        lines += [f"  {group}=", *_files(folders, group)]
    lines += ["", "Parts, and their keys with the defaults"]
    for group, sentence in GROUPS.items():
        lines.append(f"  {group}=  {sentence}")
        for name, part in parts(group).items():
            lines += _choice(group, name, part)
        lines += _files(folders, group)
    sections: dict[str, type] = {}
    for group in GROUPS:
        for part in parts(group).values():
            sections |= _sections(f"{group}.", part)
    sections |= {"model": Model} | _sections("", RunConfig)
    own = [field for field in fields(RunConfig) if field.name not in sections and field.name not in GROUPS]
    lines += ["", "The rest", *_wrapped(_key("", field) for field in own)]
    told: set[type] = set()  # what is in several places is told once
    for key, part in sections.items():
        if part not in told:
            told.add(part)
            lines += _choice(key, key, part)
    return "\n".join(lines)


def train_reward() -> str:
    return TRAIN_REWARD


def serve() -> str:
    """The page of `rlhf-flow serve`."""
    from rlhf_flow.config import parts

    lines = [SERVE]
    for name, part in parts("scorer").items():
        lines += _choice("scorer", name, part)
    return "\n".join(lines)


def _choice(group: str, name: str, part: type) -> Iterator[str]:
    shown = f"{name:<{NAME - 1}} "
    yield f"    {shown}{_short(inspect.getdoc(part) or '', WIDTH - len(shown) - 4)}"
    yield from _wrapped(_key(f"{group}.", field) for field in fields(part))


def _wrapped(keys: Iterable[str]) -> Iterator[str]:
    line = ""
    for key in keys:
        if line and len(line) + len(key) > WIDTH - 22:
            yield f"{'':20}{line}"
            line = ""
        line = f"{line}  {key}" if line else key
    if line:
        yield f"{'':20}{line}"


def _sections(prefix: str, part: type) -> dict[str, type]:
    """What is inside of a part that has keys of its own, however deep: by its full key."""
    found: dict[str, type] = {}
    for field in fields(part):
        if (inner := _inside(field)) is not None:
            found[prefix + field.name] = inner
            found |= _sections(f"{prefix}{field.name}.", inner)
    return found


def _inside(field: Field[object]) -> type | None:
    """The class of a key that has keys of its own."""
    made: object = field.default_factory
    return made if isinstance(made, type) and is_dataclass(made) else None


def _key(prefix: str, field: Field[object]) -> str:
    if isinstance(field.default, str) and "\n" in field.default:  # a page has no room for a page
        return f"{prefix}{field.name}"
    if field.default is not MISSING:
        return f"{prefix}{field.name}={'null' if field.default is None else field.default}"
    if _inside(field) is not None:
        return f"{prefix}{field.name}.*"
    return f"{prefix}{field.name}{'=...' if field.default_factory is MISSING else ''}"


def _files(folders: Sequence[Path], group: str) -> Iterator[str]:
    """The choices that are files; the first comment of a file says what it is."""
    for file in sorted(file for folder in folders for file in (folder / group).glob("*.yaml")):
        comments = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
        about = [comment for comment in comments if not comment.startswith("@package")]
        yield f"    {file.stem:<{NAME}}{_short(about[0] if about else '', WIDTH - NAME - 4)}"


def _config_dirs(arguments: Sequence[str]) -> Iterator[Path]:
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag in ("--config-dir", "-cd"):
            yield Path(value)
        elif flag.startswith("--config-dir="):
            yield Path(flag.partition("=")[2])


def _short(text: str, width: int) -> str:
    return shorten(text.split("\n\n")[0], width, placeholder=" ...")
