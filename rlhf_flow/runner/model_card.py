"""The model card of a published policy: how it was trained, and how to load it.

It shows only the last part of local paths, so that a shared card reveals nothing about the machine.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.learner.lora import LoRA

CARD = """---
{front}
---

# {title}

Round {round} of an online preference optimisation by rlhf_flow.

| | |
|---|---|
{rows}

## Use

```python
{load}
```

`vllm serve FOLDER{serve}` serves it. `FOLDER` is the folder that holds this file.
"""
WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})"""
ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("BASE"{trust})
model = PeftModel.from_pretrained(base, "FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})"""


def model_card(config: RunConfig, round: int, win_rates: dict[int, float]) -> str:
    """The card of a round's policy. `win_rates`: against the start, by round, as far as known."""
    base = public(config.model.path)
    objective = part_name("objective", config.objective)
    lora = vars(config.learner).get("lora", LoRA()).rank
    trust = ", trust_remote_code=True" if config.model.trust_remote_code else ""
    about = {
        "base model": base,
        "trained": f"a LoRA adapter of rank {lora}" if lora else "all weights",
        "objective": objective,
        "answers by": part_name("sampler", config.sampler),
        "judge": _with_source(part_name("scorer", config.scorer), config.scorer),
        "prompts": _with_source(part_name("prompts", config.prompts), config.prompts),
        "seed": config.seed,
        "stored as": config.model.dtype,
    }
    if known := [past for past in sorted(win_rates) if past <= round]:
        about[f"win rate against the base model, round {known[-1]}"] = f"{win_rates[known[-1]]:.3f}"
    front = [f"library_name: {'peft' if lora else 'transformers'}", "pipeline_tag: text-generation"]
    front += [f"base_model: {base}"] if "/" in base else []
    front += ["tags:", "- rlhf_flow", f"- {objective}"]
    return CARD.format(
        front="\n".join(front),
        title=f"{base.rpartition('/')[2]}, {objective}",
        round=round,
        rows="\n".join(f"| {key} | {value} |" for key, value in about.items()),
        load=(ADAPTER if lora else WHOLE).format(trust=trust),
        serve=" --trust-remote-code" if trust else "",
    )


def public(path: str) -> str:
    """A hub name as it is; the last part of a local path."""
    on_hub = path.count("/") == 1 and not path.startswith((".", "~", "/")) and not Path(path).exists()
    return path if on_hub else Path(path).name


def _with_source(name: str, part: object) -> str:
    """The name of a part, and of the checkpoint or data that it reads."""
    source = vars(part).get("path") or vars(part).get("function")
    return f"{name} ({public(str(source))})" if source else name
