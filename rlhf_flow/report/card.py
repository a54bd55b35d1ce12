"""The cards of a run's models and data sets, for readers of the Hub. They show only the last part of local paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhf_flow import __version__
from rlhf_flow.metrics.alarms import raised
from rlhf_flow.observe.sparkline import sparkline
from rlhf_flow.report.citation import cite, sentence
from rlhf_flow.report.facts import algorithm_of, header, judges
from rlhf_flow.report.format import supported
from rlhf_flow.report.run_folder import Run, read
from rlhf_flow.report.tasks import of_card
from rlhf_flow.system.hub import is_hub_name

MODEL = """---
{front}
---

# {title}

{about}

## Use

```python
{load}
chat = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0], skip_special_tokens=True))
```

{serve}{place}

## Training

| | |
|---|---|
{facts}

## Results

{results}

## Intended use and limits

{limits}

## Cite

{cite}
"""
LOCAL = "…/"  # `Private.path` puts it before the last part of a local path
PLACE = "FOLDER"
WHERE = f"\n\n`{PLACE}` is the folder that holds this file."
WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER", dtype="{dtype}"{trust})
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})"""
ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}", dtype="{dtype}"{trust})
model = PeftModel.from_pretrained(base, "FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})"""
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
PREFERENCES = """preference optimisation. In each round there are new prompts, with answers to them; a judge says which
answers are better, and the model is trained to prefer these."""
TERMS = "(The policy is the model, the reference its starting model, a scorer the judge.)"
IMITATION = "supervised fine-tuning: the model is trained to give the answers of a data set."
BASIS = "On prompts that were held out from training. In brackets: 95 % intervals over these prompts."
SHARED = "The judge of the results is the one that training optimised, so they overstate what another judge would find."
METRICS = (  # key, name, form
    ("eval/win_rate", "win rate against the starting model (0.5: no better, no worse)", ".3f"),
    ("eval/reward", "mean score by the evaluation judge", ".3f"),
    ("eval/proxy", "mean score by the training judge", ".3f"),
    ("eval/kl", "KL divergence from the starting model, nats an answer", ".2f"),
    ("eval/loss", "held-out loss, nats a token", ".3f"),
    ("eval/token_accuracy", "held-out tokens predicted", ".1%"),
    ("eval/length", "tokens of an answer", ".1f"),
    ("eval/truncated", "answers cut at the token limit", ".1%"),
)


def model_card(run: Run, round: int, *, dtype: str | None = None, is_average: bool = False) -> str:
    """The card of a round's policy: use, data, algorithm, judge, results by round, limits, and what to cite.

    `dtype`: of an exported checkpoint, which has no adapter; None: the checkpoint is the run's own. `is_average`: it
    averages the policies of the rounds up to this one.
    """
    base, algorithm, adapter = _base(run), algorithm_of(run), dtype is None and bool(_value(run, "learner.lora.rank"))
    trust = bool(_value(run, "model.trust_remote_code"))
    stored = dtype or str(_value(run, "model.dtype"))
    name, on_hub, data = base.removeprefix(LOCAL), is_hub_name(base), _hub_data(run)
    front = [f"library_name: {'peft' if adapter else 'transformers'}", "pipeline_tag: text-generation"]
    front += [f"base_model: {base}", f"base_model_relation: {'adapter' if adapter else 'finetune'}"] if on_hub else []
    front += ["datasets:", *(f"- {one}" for one in data)] if data else []
    front += ["tags:", "- rlhf_flow", *([f"- {algorithm}"] if algorithm else [])]
    options = ", trust_remote_code=True" if trust else ""
    load = (ADAPTER if adapter else WHOLE).format(dtype=stored, trust=options, base=base if on_hub else "BASE")
    command = f"vllm serve {PLACE} --dtype {stored}{' --trust-remote-code' if trust else ''}"
    serve = "" if adapter else f"`{command}` serves it with its own chat template."
    return MODEL.format(
        front="\n".join(front),
        title=", ".join(filter(None, (name.rpartition("/")[2], algorithm))),
        about=_about(run, round, base=base, adapter=adapter, is_average=is_average),
        load=load,
        serve=serve or f"`BASE` is the starting model, {name}." * (not on_hub),
        place=WHERE,
        facts=_table(run),
        results=_results(run, round, is_average=is_average) + ("" if is_average else of_card(run, round)),
        limits="\n".join(f"- {line}" for line in _limits(run, round)),
        cite=cite(algorithm, _version(run)),
    )


def in_repository(card: str, repo: str) -> str:
    """A model card for the Hub, on which the model is loaded by the name of its repository."""
    return card.replace(WHERE, "").replace(PLACE, repo)


def data_card(kind: str, run: Path, file: str) -> str:
    """The card of a data set of one file."""
    found = read(run)
    papers = cite(algorithm_of(found), _version(found))
    title = f"{found.name}: {kind}"
    return DATA.format(kind=kind, file=file, title=title, about=ABOUT[kind], facts=_table(found), cite=papers)


# -- training ---------------------------------------------------------------------------------------------------------


def _about(run: Run, round: int, *, base: str, adapter: bool, is_average: bool) -> str:
    if round == 0:
        return f"{_start(base)} as it is: the start of a run of rlhf_flow, before any training."
    kind = f"A LoRA adapter for {_start(base)}," if adapter else _start(base)
    which = f"the average over rounds 1 to {round}" if is_average else f"round {round}"
    how = IMITATION if _value(run, "evaluate.by") == "likelihood" else PREFERENCES
    algorithm = algorithm_of(run)
    does = f"\n\nThe algorithm is `{algorithm}`. {sentence(algorithm)}. {TERMS}" if sentence(algorithm) else ""
    return f"{kind} after {which} of {how}{does}\n\nTrained with rlhf_flow {_version(run)}."


def _version(run: Run) -> str:
    """Of rlhf_flow, in the run's last start; of the present one if it recorded none."""
    versions = run.starts[-1].get("versions") if run.starts else None
    return str(versions.get("rlhf-flow", __version__)) if isinstance(versions, Mapping) else __version__


def _table(run: Run) -> str:
    """Rows of what was trained on what, with which judge, and the keys that matter."""
    facts, asked = dict(header(run)), judges(run)
    rows = {
        "starting model": _start(_base(run)),
        "algorithm": facts.get("Algorithm"),
        "prompts": _prompts(run),
        "prompts a round": _value(run, "prompts.batch"),
        "training judge": asked.evaluation if asked.shared else asked.training,
        "evaluation judge": "the training judge" if asked.shared else asked.evaluation,
        "beta": _value(run, "objective.beta"),
        "learning rate": _value(run, "learner.training.optimizer.lr"),
        "LoRA rank": _value(run, "learner.lora.rank") or None,
        "seed": facts.get("Seed"),
        "versions": facts.get("Versions"),
        "code": facts.get("Code"),
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value not in (None, ""))


def _base(run: Run) -> str:
    """The name of a model that the run took from the Hub; of a local one `…/` and the last part of its path."""
    resolved = run.starts[-1].get("model") if run.starts else None  # of a hub name: a folder in the cache of the Hub
    path = resolved or _value(run, "model.path")
    return run.private.path(str(path)) if path else ""


def _prompts(run: Run) -> str | None:
    """Names of the data, and numbers of prompts."""
    paths = _value(run, "prompts.path") or _value(run, "prompts.paths") or _value(run, "prompts.sources") or []
    each = paths if isinstance(paths, list) else [paths]
    named = [str(one.get("path") if isinstance(one, Mapping) else one) for one in each]
    names = [
        _link(path, "datasets/") if path in _hub_data(run) else run.private.path(path).rpartition("/")[2]
        for path in named
    ]
    counts = run.starts[-1].get("prompts") if run.starts else None
    held = f" ({counts['training']} for training)" if isinstance(counts, Mapping) and "training" in counts else ""
    return ", ".join(names) + held if names else None


def _hub_data(run: Run) -> list[str]:
    """The data sets of the Hub that the prompts are from; those of a mixture that have a split."""
    sources = _value(run, "prompts.sources")
    found = [one.get("path") for one in sources if one.get("split")] if isinstance(sources, list) else []
    if ".huggingface." in str(_value(run, "prompts._target_")):
        found.append(_value(run, "prompts.path"))
    return [path for path in map(str, found) if is_hub_name(path) and not Path(path).exists()]


def _start(base: str) -> str:
    return _link(base) if is_hub_name(base) else f"`{base.removeprefix(LOCAL)}` (a local checkpoint)"


def _link(name: str, kind: str = "") -> str:
    return f"[{name}](https://huggingface.co/{kind}{name})"


def _value(run: Run, key: str) -> object:
    """A value of the configuration; None if there is none."""
    found: object = run.config
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


# -- results ----------------------------------------------------------------------------------------------------------


def _results(run: Run, round: int, *, is_average: bool) -> str:
    """The table of metrics on held-out prompts; in its place a sentence, if no round up to this one was evaluated."""
    keys = {key for key, _, _ in METRICS}
    evaluated = [past for past, metrics in run.metrics.items() if 0 < past <= round and keys & metrics.keys()]
    rows = list(_curves(run, evaluated[-1])) if evaluated else []
    if not rows:
        return "No evaluation of this model was known when this card was written."
    shown, last = evaluated[-1], run.done
    later = f" No evaluation of round {round} was known when this card was written." if shown < round else ""
    later += f" The table is about the policy of round {shown}, not about the average." if is_average else ""
    return "\n".join(
        [
            BASIS,
            f"The last column draws rounds 0 (the starting model) to {last}.{later}",
            "",
            f"| metric | starting model | round {shown} | rounds 0 to {last} |",
            "|---|--:|--:|---|",
            *rows,
        ]
    )


def _curves(run: Run, round: int) -> Iterator[str]:
    """Rows of the table: each metric at the start, at this round, and by round."""
    for key, name, form in METRICS:
        series = run.series(key)
        if len(series) > 1:
            start, here = (_with_interval(run.metrics.get(at, {}), key, form) for at in (0, round))
            yield f"| {name} | {start} | {here} | {sparkline([*series.values()], len(series))} |"


def _with_interval(metrics: Mapping[str, float], key: str, form: str) -> str:
    """`0.71 [0.66, 0.76]`; without the interval if it was not measured, empty without the value."""
    form = supported(form, metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))
    value, *ends = (format(metrics[end], form) if end in metrics else "" for end in (key, f"{key}_low", f"{key}_high"))
    return f"{value} [{ends[0]}, {ends[1]}]" if value and all(ends) else value


def _limits(run: Run, round: int) -> Iterator[str]:
    yield "For research, and for the uses that the starting model allows. Its licence and that of the data apply."
    if judges(run).shared:
        yield SHARED
    elif judges(run).evaluation:
        yield "Training optimised one judge, and another one judged the results. The model may have the biases of both."
    metrics = run.metrics.get(round, {})
    low, high = (metrics.get(f"eval/win_rate_{end}") for end in ("low", "high"))
    if round and low is not None and high is not None and low <= 0.5 <= high:
        ends = ", ".join(format(end, supported(".3f", low, high)) for end in (low, high))
        yield f"The interval of the win rate, [{ends}], holds 0.5: no gain is shown."
    for alarm in raised(metrics):
        yield f"An alarm in round {round}: {alarm.reason.partition(';')[0]}."
    yield "The records of training, from which this card is made, hold no test of safety, of facts or of other tasks."
