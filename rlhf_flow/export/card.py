"""The cards of exported models and data sets. They show only the last part of local paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhf_flow import __version__
from rlhf_flow.config.compose import CONFIGS
from rlhf_flow.export.provenance import algorithm_of
from rlhf_flow.observe.sparkline import sparkline
from rlhf_flow.report.facts import header
from rlhf_flow.report.run_folder import Run, read

MODEL = """---
{front}
---

# {title}

The policy of round {round} of {training} by rlhf_flow.

## Training

| | |
|---|---|
{facts}

## Curves

| held out, and training | start | round {round} | by round, to {last} |
|---|--:|--:|---|
{curves}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="{dtype}"{trust})
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
```

`vllm serve FOLDER --dtype {dtype}{serve}` serves it with its own chat template. `FOLDER` is the folder of this file, or
its name on the Hub.

## Cite

{cite}
"""
DATA = """---
tags:
- rlhf_flow
- trl
- preference
configs:
- config_name: {kind}
  data_files: {file}
---

# {title}

{about}

| | |
|---|---|
{facts}

## Cite

{cite}
"""
ABOUT = {
    "pairs": "The pairs that the run trained on: `prompt`, `chosen` and `rejected` are conversations.",
    "sft": "The best complete answer to each prompt: `prompt` and `completion` are conversations.",
    "labels": "Single answers: `label` is whether the answer wins against the average answer to its prompt.",
}
TRAINING = {"likelihood": "a supervised fine-tuning"}  # evaluate.by -> what the run is
METRICS = (  # key, name, form
    ("eval/win_rate", "win rate against the start", ".3f"),
    ("eval/reward", "evaluation scorer", ".3f"),
    ("eval/proxy", "training scorer", ".3f"),
    ("eval/kl", "KL to the start, nats", ".2f"),
    ("eval/loss", "held-out loss, nats", ".3f"),
    ("eval/token_accuracy", "held-out token accuracy", ".1%"),
    ("eval/length", "tokens of an answer", ".1f"),
    ("eval/truncated", "answers cut", ".1%"),
    ("train/loss", "training loss", ".4f"),
    ("train/accuracy", "training accuracy", ".1%"),
)
SOFTWARE = f"""```bibtex
@software{{rlhf_flow,
  title = {{rlhf\\_flow: online iterative RLHF}},
  version = {{{__version__}}}
}}
```"""
HUB = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name


def model_card(run: Run, round: int, *, dtype: str) -> str:
    """The card of a round's policy: data, algorithm, judge, metrics by round, use, and what to cite."""
    facts = dict(header(run))
    base = facts.get("Model", "")
    trust = bool(_value(run, "model.trust_remote_code"))
    algorithm = algorithm_of(run)
    front = ["library_name: transformers", "pipeline_tag: text-generation"]
    front += [f"base_model: {base}"] if HUB.fullmatch(base) else []
    front += ["tags:", "- rlhf_flow", *([f"- {algorithm}"] if algorithm else [])]
    return MODEL.format(
        front="\n".join(front),
        title=f"{base.rpartition('/')[2]}, {algorithm}",
        round=round,
        training=TRAINING.get(str(_value(run, "evaluate.by")), "an online preference optimisation"),
        last=run.done,
        facts=_table(run),
        curves="\n".join(_curves(run, round)),
        dtype=dtype,
        trust=", trust_remote_code=True" if trust else "",
        serve=" --trust-remote-code" if trust else "",
        cite=_cite(algorithm),
    )


def data_card(kind: str, run: Path, file: str) -> str:
    """The card of a data set of one file."""
    found = read(run)
    title, cite = f"{found.name}: {kind}", _cite(algorithm_of(found))
    return DATA.format(kind=kind, file=file, title=title, about=ABOUT[kind], facts=_table(found), cite=cite)


def _table(run: Run) -> str:
    """Rows of what was trained on what, with which judge, and the keys that matter."""
    facts = dict(header(run))
    prompts = _value(run, "prompts.path") or _value(run, "prompts.paths")
    counts = run.starts[-1].get("prompts") if run.starts else None
    training = f" ({counts['training']} for training)" if isinstance(counts, dict) and "training" in counts else ""
    rows = {
        "base model": facts.get("Model"),
        "algorithm": facts.get("Algorithm"),
        "prompts": f"{run.private.value('prompts.path', prompts)}{training}" if prompts else None,
        "prompts a round": _value(run, "prompts.batch"),
        "judge": facts.get("Training scorer") if facts.get("Training scorer") != "the same" else None,
        "judge of the evaluation": facts.get("Evaluation scorer"),
        "beta": _value(run, "objective.beta"),
        "learning rate": _value(run, "learner.training.optimizer.lr"),
        "LoRA rank": _value(run, "learner.lora.rank") or None,
        "seed": facts.get("Seed"),
        "versions": facts.get("Versions"),
        "code": facts.get("Code"),
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value not in (None, ""))


def _value(run: Run, key: str) -> object:
    """A value of the configuration; None if there is none."""
    found: object = run.config
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _curves(run: Run, round: int) -> Iterator[str]:
    """Rows of the table: each metric at the start, at the exported round, and by round."""
    for key, name, form in METRICS:
        series = run.series(key)
        if len(series) > 1:
            start, here = (_with_interval(run.metrics[at], key, form) for at in (0, round))
            yield f"| {name} | {start} | {here} | {sparkline([*series.values()], len(series))} |"


def _with_interval(metrics: Mapping[str, float], key: str, form: str) -> str:
    """`0.712 [0.660, 0.764]`; without the interval if it was not measured, empty without the value."""
    value, *ends = (format(metrics[end], form) if end in metrics else "" for end in (key, f"{key}_low", f"{key}_high"))
    return f"{value} [{ends[0]}, {ends[1]}]" if value and all(ends) else value


def _cite(algorithm: str) -> str:
    """The paper that the recipe names, if it is a recipe of this package, and the software."""
    recipe = CONFIGS / "algorithm" / f"{algorithm}.yaml"
    comments = [line for line in recipe.read_text().splitlines() if line.startswith("#")] if recipe.is_file() else []
    papers = dict.fromkeys(re.findall(r"arXiv:\d{4}\.\d{4,5}", " ".join(comments)))
    named = [f"- {algorithm}: [{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})" for paper in papers]
    return "\n".join([*named, *([""] if named else []), SOFTWARE])
