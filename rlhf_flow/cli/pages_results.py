"""The help pages of the commands that read a run: eval, report, export, merge and chat."""

from __future__ import annotations

EVAL = """\
rlhf-flow eval POLICY POLICY ... [key=value ...] [--prompts FILE]
rlhf-flow eval POLICY ... --export FORMAT [--prompts QUESTIONS] [key=value ...]
rlhf-flow eval --import FORMAT FILE ...
rlhf-flow eval POLICY ... --tasks NAME[,NAME] [--shots N] [--limit N] [--chat] [--tasks-dir DIR]
rlhf-flow eval [RUN] --pairs FILE [key=value ...]
rlhf-flow eval RUN --curve

A POLICY is RUN (its best policy), RUN@3 (round 3; 0 is the start), RUN@last, RUN@average, RUN@all (every round), the
folder of a checkpoint, or a model on the hub. The policies answer the same prompts with the same decoding, by default
the held-out prompts of the first run, whose recorded answers are used again. The first form prints the win rate of
every policy against every other one, and Bradley-Terry ratings, with intervals of 95 %.

Keys: scorer=, engine=, cluster=, stack=, prompts.*, evaluate.*, answers.* and seed, as for `rlhf-flow run`. Without
them, those of the first run: its evaluation scorer judges.

Example
  rlhf-flow eval runs/mine@0 runs/mine scorer=judge scorer.endpoint.model=my-judge

  --prompts FILE    prompts to answer, instead of the held-out ones
  --export FORMAT   write the answers for alpaca_eval, mt_bench or arena_hard; --prompts takes their files of questions
  --import FORMAT FILE ...
                    read the judgements that these benchmarks wrote, and print the same tables
  --tasks NAME,...  tasks of lm-evaluation-harness (pip install 'rlhf-flow[lm-eval]'), with these of its options:
  --shots N         examples before each question; default: those of the task
  --limit N         rows of each task; default: all
  --chat            write the questions in the chat template
  --tasks-dir DIR   a folder with task files of yours
  --pairs FILE      accuracy of the scorer by subset, with columns prompt, chosen, rejected and subset, as RewardBench
  --curve           win rate and reward of each round against sqrt(KL), by the evaluation scorer and that of training
  --out DIR         where eval.json, eval.parquet, answers and judgements are kept; default: RUN/eval, or runs/eval"""

REPORT = """\
rlhf-flow report RUN [RUN ...] [--csv FOLDER]

Reads the folder of a run, finished or not, and writes RUN/report.html: one file that needs no network. For two to four
runs it writes compared.html to the first folder: their curves side by side, the last rounds with confidence intervals,
paired over shared held-out prompts, and the keys in which their configurations differ.

RUN-multirun, the folder of a sweep, stands for its runs: a table of all, named by their swept values, the best first,
and compared.html with the best four.

  --csv FOLDER      also write the numbers of each chart to FOLDER, one CSV file per chart (one run only)"""

EXPORT = """\
rlhf-flow export pairs|sft|labels RUN [--rounds 1-3,5] [--out FILE] [--push OWNER/NAME [--private] [--dry-run]]
rlhf-flow export model RUN[@ROUND] [--dtype TYPE] [--out FOLDER] [--push OWNER/NAME [--private] [--dry-run]]

Writes the data of a run in the formats of TRL, or one of its policies. RUN is the run's folder, finished or not.

  pairs   what the rounds trained on: prompt, chosen, rejected (conversations), for DPOTrainer and RewardTrainer
  sft     the best complete answer to each prompt: prompt, completion, for SFTTrainer
  labels  every answer, with label: whether it wins against the average answer to its prompt; for KTOTrainer
  model   weights in safetensors, adapters merged, tokenizer, chat template and a model card; prints the command with
          which vLLM serves it

Rows end with columns of provenance: run, round, algorithm, judge, scores, sources, and the hashes of policies. Held-out
prompts are not exported.

  RUN@ROUND     the policy of this round (0 is the start); RUN@last, RUN@average; RUN alone: of the best evaluated
                round, which may be the start, or of the last one if none was evaluated
  --rounds      rounds and ranges; default: all
  --out         default: RUN/export/pairs.parquet and its like, RUN/export/model; .jsonl writes JSON lines
  --dtype TYPE  bfloat16 (default), float16 or float32
  --push        upload to this repository of the Hugging Face Hub, which is created if it is absent; a folder that an
                earlier export wrote of the same policy, as with --dry-run, is uploaded as it is
  --private     create a private one
  --dry-run     write the files, print what would be uploaded, and send nothing"""

MERGE = """\
rlhf-flow merge TO MODEL[=WEIGHT] MODEL[=WEIGHT] ...

Writes to TO the weighted sum of models: LoRA adapters of one base, or full checkpoints of one architecture. MODEL is a
folder, RUN or RUN@ROUND; the weight is 1 unless given, and may be any number.

  adapters     the update of the base is the sum of their updates times their weights, exactly: ranks are concatenated
  checkpoints  every tensor is the sum of theirs, in float32, rounded once to the dtype of the first one; whole numbers,
               config and tokenizer are the first one's. Weights that sum to 1 give an average.

Example
  rlhf-flow merge runs/both runs/code=0.5 runs/prose=0.5
  rlhf-flow convert runs/both runs/whole           merges an adapter into its base"""

CHAT = """\
rlhf-flow chat MODEL [MODEL] [--labels FILE] [--system TEXT] [--max-tokens N] [--temperature T] [--seed N]

Chats in the terminal. MODEL is the folder of a checkpoint or adapter, a name on the Hugging Face Hub that is cached
here, or a run: RUN (its best policy), RUN@ROUND, RUN@last, RUN@average. Two models answer side by side; a key labels
the better answer, which the conversation goes on with:

  1  the left one    2  the right one    =  a tie    Enter  no label

A label is a row of prompt, chosen, rejected and annotator; a tie is two rows, one in each order. `rlhf-flow
train-reward` reads the file, and so does the next run with the keys that are printed at the end.

  --labels FILE    where labels are appended; default: RUN/chat.jsonl of the first run, else chat.jsonl
  --system TEXT    a system message
  --max-tokens N   of an answer; default: 512
  --temperature T  default: 1, as in a run; 0: the likeliest token
  --seed N         default: 0

/new begins a new conversation, /quit or the end of the input ends the chat."""

OF = {"eval": EVAL, "report": REPORT, "export": EXPORT, "merge": MERGE, "chat": CHAT}
