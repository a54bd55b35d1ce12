"""The file that `rlhf-flow init` writes: the keys of a first run with their meanings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from rlhf_flow.cli.help import meaning_of

HEAD = """\
# A run of rlhf_flow. Start or resume it: rlhf-flow run {path}
# Check it first: rlhf-flow doctor {path}. Estimate memory and time: rlhf-flow plan {path}
# Keys on the command line override this file: rlhf-flow run {path} rounds=8. All keys: rlhf-flow run --help=all
"""
KEYS: tuple[tuple[str, object, str], ...] = (  # key, value, and a comment in place of its meaning
    ("run_dir", "runs/mine", ""),
    ("stack", "local", "local: one process, with the base package; cpu or gpu: vLLM, DeepSpeed and Ray"),
    ("model.path", "my/model", ""),
    ("prompts.path", "prompts.jsonl", "JSON lines with a column `prompt`"),
    ("scorer", "reward_model", "scores the answers; rlhf-flow run scorer --help lists all scorers"),
    ("scorer.path", "my/reward_model", ""),
    ("algorithm", "online_dpo", "rlhf-flow run algorithm --help lists all algorithms"),
    ("rounds", 4, ""),
    ("prompts.batch", 64, ""),
    ("prompts.held_out", 0.05, ""),
    ("answers.n", 8, ""),
    ("answers.max_tokens", 512, ""),
    ("answers.stop", None, ""),
    ("learner.training.batch", 16, "pairs per optimizer step: four steps a round for 64 prompts"),
    ("learner.training.optimizer.lr", None, ""),
    ("learner.training.tokens_per_batch", None, ""),
)
FUNCTION = """\
# Or your own function (prompt, answer, meta) -> float, in place of scorer and scorer.path
# scorer: rule
# scorer.function: my_lab.rewards.short_and_polite
"""


def main(arguments: Sequence[str]) -> int:
    """Write the named file. Raises ValueError if it exists, cannot be written, or several are named."""
    if len(arguments) > 1:
        raise ValueError("init writes one file. Fix: rlhf-flow init mine.yaml.")
    path = Path(arguments[0] if arguments else "mine.yaml")
    write(path)
    print(f"{path}: set your model, prompts and scorer in it, then: rlhf-flow run {path}")
    return 0


def write(path: Path) -> None:
    """Raises ValueError if the file exists or cannot be written."""
    lines = [HEAD.format(path=path)]
    for key, value, comment in KEYS:
        lines += [f"# {line}" for line in wrap(comment or meaning_of(key), 110)]
        lines.append(f"{key}: {'null' if value is None else value}\n")
        if key == "scorer.path":
            lines.append(FUNCTION)
    try:
        with path.open("x") as file:
            file.write("\n".join(lines))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}. Fix: rlhf-flow init another.yaml.") from error
