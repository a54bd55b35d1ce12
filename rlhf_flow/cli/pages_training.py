"""The help pages of the commands that train on the answers of a data set: sft and train-reward."""

from __future__ import annotations

SFT = """\
rlhf-flow sft [key=value ...] [--multirun] [--cfg job] [--config-dir DIR]

Supervised fine-tuning: the loop of `rlhf-flow run` on the answers of a data set, with the loss on assistant turns only.
RUN/rounds/<last>/policy is a checkpoint for `rlhf-flow run model.path=`. The same command resumes a run.

Examples
  rlhf-flow sft model.path=my/model prompts.path=chats.jsonl
                                           rows with messages, conversations, prompt and completion, instruction, ...
  rlhf-flow sft model.path=my/model prompts.path=rows.jsonl prompts.columns.candidates.answer=solution
  rlhf-flow sft model.path=my/model prompts=mixture \\
      'prompts.sources=[{name: chat, path: chats.jsonl, weight: 3}, {name: code, path: code.jsonl}]'
  rlhf-flow sft model.path=my/base_model model.chat_template.file=chat.jinja prompts.path=chats.jsonl
  rlhf-flow run model.path=runs/sft/rounds/00004/policy prompts.path=prompts.jsonl scorer.path=my/reward_model

Keys
  prompts.columns.candidates.answer=chosen the column with the answer, of rows without a conversation
  prompts.columns.every_turn=true          train on every assistant turn; false: on the last one
  prompts.schema=auto                      the layout of rows is detected: messages, ShareGPT, Alpaca, ...
  prompts.columns.answer_tokens=2048       with prompts.too_long=drop: longer answers are dropped
  prompts.sources=[{name: a, path: FILE}]  with prompts=mixture: several data sets, each with its weight and rounds
  prompts.batch=512   rounds=4             answers per round, and rounds: together, the answers that are trained on
  prompts.held_out=0.05                    the share of the conversations for evaluation: eval/loss, eval/token_accuracy
  learner.training.batch=64                answers per optimizer step; the loss is the mean over their tokens
  learner.training.optimizer.lr=...        unless given, 1e-5 for 7 B weights and more for fewer; times 10 for LoRA
  evaluate.samples=8                       held-out prompts that the policy answers each round, with any engine but none
  stack=local                              one process, without Ray and DeepSpeed

All other keys are those of `rlhf-flow run --help`."""

TRAIN_REWARD = """\
rlhf-flow train-reward [key=value ...] [--multirun] [--cfg job] [--config-dir DIR]

Trains a scorer on recorded preferences: the loop of `rlhf-flow run` with a learner that trains a reward head, or the
letter that names the better answer. RUN/rounds/<last>/policy is a checkpoint for scorer=reward_model, scorer=gpm (of
reward=gpm) or scorer=preference_model (of reward=pairwise). It starts from a language model or from such a checkpoint;
the same command resumes it.

Examples
  rlhf-flow train-reward model.path=my/model prompts.path=preferences.jsonl
                                                              rows with the columns prompt, chosen and rejected
  rlhf-flow train-reward model.path=my/model prompts.path=preferences.jsonl scorer.preference=p
                                                              p: the probability that the first wins; null: unknown
  rlhf-flow train-reward reward=gpm learner.head.outputs=4 model.path=my/model prompts.path=preferences.jsonl
  rlhf-flow run experiment=sandbox scorer=reward_model scorer.path=runs/reward/rounds/00004/policy

Keys
  reward=bradley_terry|gpm|pairwise        the model to train on preferences
  reward=rating|rated_preference           train on the columns in scorer.ratings; the second also on scorer.strength
  prompts.columns.candidates={first: chosen, second: rejected}   the columns with the answers
  prompts.schema=auto                      the layout of rows is detected: UltraFeedback, HH, HelpSteer, ...
  prompts.batch=512   rounds=4             rows per round, and rounds: together, the rows that are trained on
  prompts.held_out=0.05                    the share of the rows for evaluation: eval/accuracy, eval/ece, ...
  prompts.held_out_path=FILE               or a file for evaluation, with the same columns
  learner.training.optimizer.lr=...        unless given, 5e-6 for 7 B weights and more for fewer; times 10 for LoRA
  stack=local                              one process, without Ray and DeepSpeed

All other keys are those of `rlhf-flow run --help`."""
