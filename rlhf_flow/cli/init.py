"""The file that `rlhf-flow init` writes: the keys of a first run, each with what it means."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

from rlhf_flow.cli.help import meaning_of

HEAD = """\
# A run of rlhf_flow. Start it, or go on with it: rlhf-flow run {path}
# What would stop it: rlhf-flow doctor {path}. What it takes: rlhf-flow plan {path}
# Keys on the command line have the last word: rlhf-flow run {path} rounds=8. All keys: rlhf-flow run --help=all
"""
KEYS: tuple[tuple[str, object, str], ...] = (  # key, value, and what to say of it beside its meaning
    ("run_dir", "runs/mine", ""),
    ("stack", "local", "local: one process, with the base package; cpu or gpu: vLLM, DeepSpeed and Ray"),
    ("model.path", "my/model", ""),
    ("prompts.path", "prompts.jsonl", "JSON lines with a column `prompt`"),
    ("scorer", "reward_model", "what an answer is worth; rlhf-flow run scorer --help tells of all"),
    ("scorer.path", "my/reward_model", ""),
    ("algorithm", "online_dpo", "rlhf-flow run algorithm --help tells of all"),
    ("rounds", 4, ""),
    ("prompts.batch", 64, ""),
    ("prompts.held_out", 0.05, ""),
    ("answers.n", 8, ""),
    ("answers.max_tokens", 512, ""),
    ("answers.stop", None, ""),
    ("learner.training.optimizer.lr", None, ""),
    ("learner.training.micro_batch", 8, ""),
)
FUNCTION = """\
# Or a function of your own, (prompt, answer, meta) -> float: in place of scorer and scorer.path
# scorer: rule
# scorer.function: my_lab.rewards.short_and_polite
"""


def write(path: Path) -> None:
    """Raises ValueError if there is a file of that name, or it cannot be written."""
    lines = [HEAD.format(path=path)]
    for key, value, said in KEYS:
        lines += [f"# {line}" for line in wrap(said or meaning_of(key), 110)]
        lines.append(f"{key}: {'null' if value is None else value}\n")
        if key == "scorer.path":
            lines.append(FUNCTION)
    try:
        with path.open("x") as file:
            file.write("\n".join(lines))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}. Fix: rlhf-flow init another.yaml.") from error
