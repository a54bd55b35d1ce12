"""`rlhf-flow sft`: from a base model and a file of conversations to a policy that `run` starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_flow import loop
from rlhf_flow.cli.main import main
from tests.support import tiny
from tests.support.tokenizer import CHAT_WITH_BOS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a base model is published: without a chat template."""
    folder = tiny.policy(tmp_path_factory.mktemp("base") / "model")
    (folder / "chat_template.jinja").unlink()
    (folder.parent / "template.jinja").write_text(CHAT_WITH_BOS)
    return folder


def asked(base: Path, folder: Path, **keys: object) -> list[str]:
    def row(at: int) -> dict[str, object]:
        turns = [("user", f"Tell me about {at} cats."), ("assistant", f"They are {at}.")]
        turns += [("user", "And dogs?"), ("assistant", "No dogs.")]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    (folder / "chats.jsonl").write_text("".join(json.dumps(row(at)) + "\n" for at in range(40)))
    texts = [json.dumps({"prompt": f"Say {at}.", "completion": f"{at}!"}) for at in range(20)]
    (folder / "texts.jsonl").write_text("\n".join(texts))
    chats, texts_path = (f"path: {folder / name}.jsonl" for name in ("chats", "texts"))
    values: dict[str, object] = {
        "stack": "local",
        "model.path": base,
        "model.chat_template.file": base.parent / "template.jinja",
        "prompts": "mixture",
        "prompts.sources": f"[{{name: chats, weight: 3, {chats}}}, {{name: texts, {texts_path}, from_round: 2}}]",
        "prompts.batch": 16,
        "prompts.held_out": 12,
        "learner.training.batch": 4,
        "learner.training.optimizer.lr": 3e-3,
        "answers.max_tokens": 8,
        "evaluate.samples": 3,
        "rounds": 2,
        "run_dir": folder / "sft",
    }
    return [f"{key}={value}" for key, value in (values | keys).items()]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> bytes:
    return (run / "rounds/00002/policy/model.safetensors").read_bytes()


def test_it_lowers_the_held_out_loss_resumes_and_a_run_starts_from_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sft", *asked(base, tmp_path)]) == 0
    run = tmp_path / "sft"
    start, first, last = metrics(run)
    assert last["eval/loss"] < first["eval/loss"] < start["eval/loss"]
    assert last["eval/loss_low"] < last["eval/loss"] < last["eval/loss_high"]
    assert last["eval/token_accuracy"] > start["eval/token_accuracy"]
    assert (first["source/chats/prompts"], last["source/chats/prompts"], last["source/texts/pairs"]) == (16, 12, 4)
    assert {"eval/loss/chats", "eval/loss/texts"} <= last.keys() and "source/chats/reward" not in last
    samples = pq.read_table(run / "rounds/00002/evaluation/compared.parquet").to_pylist()
    assert len(samples) == 3 and all(len(each["answer"]) for each in samples)
    assert "changed most" in (printed := capsys.readouterr().out) and "from round 2: 12 chats, 4 texts" in printed
    assert "Sources of the prompts" in (run / "report.html").read_text()

    # its policies are exported and compared like those of a run
    assert main(["export", "model", f"{run}@last", "--out", str(tmp_path / "exported")]) == 0
    compared = ["eval", f"{run}@0", f"{run}@2", "--out", str(tmp_path / "eval")]
    assert main(compared) == 2
    assert "scorer=none: it gives no verdicts. Fix: scorer=NAME" in capsys.readouterr().err
    assert main([*compared, "scorer=rule", "scorer.function=tests.support.tiny.shorter"]) == 0
    printed = capsys.readouterr().out
    assert "@0 against " in printed
    assert all(f"{run}@{round}: answering" in printed for round in (0, 2))  # the recorded ones are of the data set

    # the loss is that of transformers on the same tokens
    policy = run / "rounds/00002/policy"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    assert tokenizer.chat_template == CHAT_WITH_BOS
    total, tokens = 0.0, 0
    for row in pq.read_table(run / "rounds/00002/evaluation/answers.parquet").to_pylist():
        context, answer = row["prompt_tokens"], row["tokens"]
        ids = model.dummy_inputs["input_ids"].new_tensor([[*context, *answer]])
        labels = ids.clone()
        labels[0, : len(context)] = -100
        total += model(ids, labels=labels).loss.item() * len(answer)
        tokens += len(answer)
    assert last["eval/tokens"] == tokens
    assert last["eval/loss"] == pytest.approx(total / tokens, abs=1e-4)

    # other commands take its policies
    assert main(["export", "model", str(run), "--dtype", "float32"]) == 0
    exported = AutoModelForCausalLM.from_pretrained(run / "export/model")
    assert all((exported.state_dict()[name] == value).all() for name, value in model.state_dict().items())
    card = (run / "export/model/README.md").read_text()
    assert "round 2 of supervised fine-tuning" in card and "held-out loss" in card and "judge" not in card

    # interrupted in the second round, it ends in the same bytes
    close = loop.close_round

    def interrupted(context: object, round: int, *rest: object, **keys: object) -> None:
        if round == 2:
            raise RuntimeError("lost power")
        close(context, round, *rest, **keys)

    again = asked(base, tmp_path, run_dir=tmp_path / "again")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "close_round", interrupted)
        assert main(["sft", *again]) == 1
    assert main(["sft", *again]) == 0
    assert weights(tmp_path / "again") == weights(run)

    began = tiny.overrides(policy, tiny.prompts(tmp_path / "prompts.jsonl"), tmp_path / "run")
    assert main(["run", *began]) == 0
    assert metrics(tmp_path / "run")[1]["pairs/used"] > 0


def test_a_model_without_a_template_is_told_the_key(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, problem in (
        ("null", "Fix: model.chat_template.file=FILE with a Jinja template"),
        ("nowhere.jinja", "model.chat_template.file=nowhere.jinja: "),
    ):
        assert main(["sft", *asked(base, tmp_path, **{"model.chat_template.file": file})]) == 2
        assert problem in capsys.readouterr().err
