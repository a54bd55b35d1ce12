"""Adapters: they alone are trained, the base below them never moves, and the reference is the base itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_flow.cli.main import main
from rlhf_flow.learner.batching import global_batches, read_examples
from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.fsdp import FSDP
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.learner.torch import Torch
from rlhf_flow.learner.training import Training
from rlhf_flow.protocols import Learner, RoundTables, TrainingRound
from rlhf_flow.specs import Model, Place
from rlhf_flow.types import PairLogps, Policy, Sides, TokenLogps
from rlhf_flow.weights.fingerprint import adapter_fingerprint, checkpoint_fingerprint, fingerprint
from rlhf_flow.weights.source import Adapter, InMemoryWeights, published
from tests.support import jobs, tiny
from tests.support.classroom import ADAMW, SGD, make_lesson, make_model, make_tables, start_of
from tests.support.ranks import Ranks

pytestmark = pytest.mark.slow

LORA = LoRA(rank=4, alpha=8.0)
QLORA = LoRA(rank=4, quantize="nf4")
SCALE = LORA.alpha / LORA.rank


@dataclass(frozen=True)
class World:
    model: Model
    start: Policy
    tables: RoundTables
    lesson: TrainingRound

    def spec(self, training: Training = ADAMW, lora: LoRA = LORA) -> Torch:
        return Torch(training=training, lora=lora)

    def open(self, training: Training = ADAMW, lora: LoRA = LORA) -> Learner:
        learner = self.spec(training, lora).open(self.model, Place())
        learner.start(self.start)
        return learner

    @property
    def responses(self) -> list[str]:
        return self.tables.responses.read(["response"])["response"].to_pylist()

    def logps(self, learner: Learner, policy: Policy) -> np.ndarray:
        return flat(learner.logps([self.tables.responses], self.responses, policy))

    def expected(self, lm: torch.nn.Module) -> np.ndarray:
        """What a model of transformers says of every token of every response, one by one."""
        found = []
        for row in self.tables.responses.read().to_pylist():
            tokens, first = torch.tensor([[*row["prompt_tokens"], *row["tokens"]]]), len(row["prompt_tokens"])
            with torch.no_grad():
                logps = lm(input_ids=tokens).logits[0, first - 1 : -1].float().log_softmax(-1)
            found.append(logps.gather(-1, tokens[0, first:, None])[:, 0].numpy())
        return np.concatenate(found)


def flat(table: pa.Table) -> np.ndarray:
    return np.concatenate([np.asarray(numbers.values) for numbers in table["logps"]])


def whole(model: Model) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = make_model(folder / "model")
    start, tables = start_of(model), make_tables(folder / "round", prompts=12)
    learner = Torch(lora=LORA).open(model, Place())
    return World(model, start, tables, make_lesson(folder, [tables], learner, start))


# -- what is trained ---------------------------------------------------------------------------------------------------


def test_gradients_and_moments_are_of_the_adapter_alone(world: World) -> None:
    learner = world.open()
    parameters = dict(learner.backend.lm.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    learner.update(world.lesson, 0, 3)
    moved = {name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in parameters if ".lora_" in name}
    assert len(moved) == 2 * 7 * 2  # two layers of seven matrices
    kept = {id(parameter) for parameter in learner.backend.optimizer.state}
    assert kept == {id(parameters[name]) for name in moved}


@pytest.mark.parametrize("targets", [[], ["q_proj", "down_proj"]])
def test_a_step_is_that_of_autograd_on_the_sum_by_hand(world: World, targets: list[str]) -> None:
    """In float64: log-probs from whole logits of W + (alpha / rank) B A, DPO, one step of gradient descent."""
    training = replace(SGD, clip=None)
    lora = replace(LORA, targets=targets, seed=3)
    learner = world.open(training, lora)
    learner.update(world.lesson, 0, 1)  # B is zero before: the second step is the first in which A moves
    tensors = learner.publish("policy", 1).weights.tensors.load()
    learner.update(world.lesson, 1, 2)
    found = learner.publish("policy", 1).weights.tensors.load()

    leaves = {name: tensor.double().requires_grad_() for name, tensor in tensors.items()}
    examples = read_examples(world.lesson)
    batches = global_batches(len(examples), batch=training.batch, epochs=1, seed=world.lesson.seed, round=1)
    batch = [examples[i] for i in batches[1]]
    lm, loss, weight = whole(world.model).double(), torch.zeros((), dtype=torch.float64), 0.0
    state = by_hand(lm, leaves)
    for example in batch:
        ours = [_token_logps(lm, state, row) for row in example.rows]
        theirs = [torch.tensor(each).double() for each in example.anchors["reference"]]
        of_pair = world.lesson.objective.loss(
            PairLogps(
                current=_sides(ours),
                anchors={"reference": _sides(theirs)},
                preference=torch.tensor([example.preference]),
                weight=torch.tensor([example.weight]),
            )
        )
        loss, weight = loss + of_pair.values[0] * example.weight, weight + example.weight
    (loss / weight).backward()
    assert len(tensors) == 2 * 2 * (len(targets) or 7)
    for name, leaf in leaves.items():
        stepped = leaf.detach() - training.optimizer.lr * leaf.grad
        assert leaf.grad.abs().max() > 0
        assert torch.allclose(found[name].double(), stepped, rtol=0, atol=2e-6), name


def by_hand(lm: torch.nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's weights with W + (alpha / rank) B A in place of W, as a function of the adapter's tensors."""
    state = dict(lm.state_dict())
    for name, down in tensors.items():
        if ".lora_A." in name:
            layer = name.removeprefix("base_model.model.").replace("lora_A.", "")
            state[layer] = state[layer] + SCALE * tensors[name.replace("lora_A", "lora_B")] @ down
    return state


def _token_logps(lm: torch.nn.Module, state: dict[str, Tensor], row: object) -> Tensor:
    tokens, first = torch.tensor([[*row.prompt.tolist(), *row.tokens.tolist()]]), len(row.prompt)
    logits = functional_call(lm, state, kwargs={"input_ids": tokens}).logits[0, first - 1 : -1]
    return logits.log_softmax(-1).gather(-1, tokens[0, first:, None])[:, 0]


def _sides(logps: list[Tensor]) -> Sides:
    return Sides(*(TokenLogps(each[None], torch.ones(1, len(each), dtype=torch.bool)) for each in logps))


def test_it_learns_the_preferences(world: World) -> None:
    learner = world.open(replace(ADAMW, epochs=8))
    metrics = [learner.update(world.lesson, step, step + 1) for step in range(learner.steps(world.lesson))]
    assert metrics[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.05


# -- policies ----------------------------------------------------------------------------------------------------------


def test_a_policy_is_an_adapter_and_its_base(world: World) -> None:
    learner = world.open()
    assert learner.publish("policy", 0).sha256 == world.start.sha256  # B is zero
    learner.update(world.lesson, 0, 2)
    policy = learner.publish("policy", 1)
    weights = policy.weights
    assert isinstance(weights, Adapter)
    assert weights.base_sha256 == world.start.sha256 == checkpoint_fingerprint(Path(world.model.path))
    tensors = weights.tensors.load()
    assert policy.sha256 == adapter_fingerprint(world.start.sha256, fingerprint(tensors), scale=SCALE)
    assert policy.sha256 != adapter_fingerprint("another base", fingerprint(tensors), scale=SCALE)
    assert policy.sha256 != adapter_fingerprint(world.start.sha256, fingerprint(tensors), scale=1.0)
    merged = whole(world.model)
    merged.load_state_dict(weights.load())
    assert world.logps(learner, policy) == pytest.approx(world.expected(merged), abs=1e-4)


def test_the_log_probs_of_the_reference_are_the_bases_own_whatever_the_adapter(world: World) -> None:
    learner = world.open(replace(ADAMW, optimizer=replace(ADAMW.optimizer, lr=0.05)))
    before = world.logps(learner, world.start)
    learner.update(world.lesson, 0, 3)
    moved = learner.publish("policy", 1)
    assert np.abs(world.logps(learner, moved) - before).max() > 0.1
    after = world.logps(learner, world.start)
    assert np.abs(after - before).max() <= 1e-6
    assert after == pytest.approx(world.expected(whole(world.model)), abs=1e-4)
    assert all(p.requires_grad == (".lora_" in name) for name, p in learner.backend.lm.named_parameters())
    assert learner.publish("policy", 1) == moved


def test_the_log_probs_of_another_adapter_leave_everything_as_it_was(world: World) -> None:
    learner, plain = world.open(), world.open()
    other = world.open(SGD, replace(LORA, seed=9))
    other.update(world.lesson, 0, 2)
    theirs = other.publish("other", 1)
    for each in (learner, plain):
        each.update(world.lesson, 0, 2)
    assert world.logps(learner, theirs).tolist() == world.logps(other, theirs).tolist()
    assert jobs.learn(learner, world.lesson, 2, 3) == jobs.learn(plain, world.lesson, 2, 3)


def test_what_is_no_adapter_for_this_model_is_refused(world: World, tmp_path: Path) -> None:
    learner = world.open()
    foreign = replace(world.start, sha256="x", weights=InMemoryWeights(world.start.weights.load()))
    with pytest.raises(ValueError, match=r"has weights of its own.*learner\.lora\.rank=0"):
        learner.start(foreign)
    learner.update(world.lesson, 0, 1)
    policy = learner.publish("policy", 1)
    elsewhere = replace(policy, sha256="y", weights=replace(policy.weights, base_sha256="f" * 64))
    with pytest.raises(ValueError, match=r"is an adapter for the weights ffffffffffff…"):
        learner.start(elsewhere)
    with pytest.raises(ValueError, match=r"rank 4 and alpha 8, but learner\.lora has rank=2"):
        world.open(lora=LoRA(rank=2, alpha=8.0)).start(policy)
    with pytest.raises(ValueError, match=r"mean of the products B A is not the product of the means"):
        learner.average("ema", 1, [(policy, 0.5), (world.start, 0.5)])
    assert [spec.can_average for spec in (Torch(), Torch(lora=LORA), DeepSpeed(lora=LORA))] == [True, False, False]


def test_in_bfloat16_the_policy_is_what_engines_get(world: World) -> None:
    rounded = replace(world, model=replace(world.model, dtype="bfloat16"))
    learner = rounded.open()
    learner.update(world.lesson, 0, 2)
    policy = learner.publish("policy", 1)
    assert {tensor.dtype for tensor in policy.weights.tensors.load().values()} == {torch.bfloat16}
    fresh = rounded.open()
    assert world.logps(fresh, policy).tolist() == world.logps(learner, policy).tolist()
    base = whole(world.model)
    base.load_state_dict({name: tensor.bfloat16() for name, tensor in base.state_dict().items()})
    assert world.logps(learner, world.start) == pytest.approx(world.expected(base), abs=1e-4)


# -- disk --------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_an_adapter_that_peft_reads(world: World, tmp_path: Path) -> None:
    learner = world.open(lora=replace(LORA, targets=["q_proj", "up_proj"]))
    learner.update(world.lesson, 0, 3)
    policy = learner.publish("policy", 1)
    learner.save_policy(tmp_path)
    assert not [path for path in tmp_path.glob("*.safetensors") if path.name != "adapter_model.safetensors"]
    theirs = PeftModel.from_pretrained(whole(world.model), tmp_path).eval()
    assert world.expected(theirs) == pytest.approx(world.logps(learner, policy), abs=1e-4)
    at_once = AutoModelForCausalLM.from_pretrained(tmp_path)  # base and adapter, by the base's name in the settings
    assert world.expected(at_once) == pytest.approx(world.logps(learner, policy), abs=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "w1"

    again = published(tmp_path, world.start)
    assert isinstance(again, Adapter)
    assert adapter_fingerprint(again.base_sha256, fingerprint(again.tensors.load()), scale=again.scale) == policy.sha256
    with pytest.raises(ValueError, match=r"an adapter for the weights .*set model\.path"):
        published(tmp_path, replace(world.start, sha256="f" * 64))
    assert published(Path(world.model.path), world.start) == world.start.weights


def test_who_loads_what_was_saved_goes_on_bit_for_bit(world: World, tmp_path: Path) -> None:
    arguments = (world.model, world.start, world.lesson, 1, 3, tmp_path)
    through = jobs.train_and_save(Place(), world.spec(), *arguments)
    resumed = jobs.load_and_train(Place(), world.spec(), world.model, world.lesson, 1, 3, tmp_path)
    assert resumed == through
    with pytest.raises(ValueError, match=r"holds the state of an adapter .* trains all weights of a model"):
        Torch(training=ADAMW).open(world.model, Place()).load_state(tmp_path)
    index = json.loads((tmp_path / "state.json").read_text())
    assert index["base"] == world.start.sha256
    (tmp_path / "state.json").write_text(json.dumps({**index, "base": "f" * 64}))
    with pytest.raises(
        ValueError, match=r"an adapter for the weights ffffffffffff….*set learner\.lora and model\.path"
    ):
        world.open().load_state(tmp_path)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "rule"), [("rank", -1, ">= 0"), ("alpha", 0.0, "> 0"), ("seed", -1, ">= 0")]
)
def test_impossible_settings_are_refused(field: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"learner\.lora\.{field} must be {rule}, got {value}"):
        LoRA(**{field: value})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (lambda: LoRA(rank=4, quantize="int3"), "quantize must be nf4 or null"),
        (lambda: LoRA(quantize="nf4"), r"needs an adapter to train\. Fix: learner\.lora\.rank=16"),
        (lambda: FSDP(lora=QLORA), r"learner=fsdp, which cannot shard 4-bit weights\. Fix: learner=deepspeed"),
        (lambda: DeepSpeed(zero_stage=3, lora=QLORA), r"cannot shard 4-bit weights\. Fix: learner\.zero_stage=2"),
        (
            lambda: Torch(lora=QLORA).open(Model("nowhere"), Place()),
            r"nf4 needs a GPU.*Fix: learner\.lora\.quantize=null",
        ),
        (lambda: Torch(lora=QLORA).check(), "pip install 'rlhf-flow\\[qlora\\]'"),
    ],
)
def test_a_base_in_four_bits_is_refused_where_it_cannot_be(spec: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec()


def test_a_reward_model_and_an_adapter_do_not_go_together() -> None:
    for spec in (Torch, DeepSpeed):
        with pytest.raises(ValueError, match=r"learner\.lora\.rank must be 0 with learner\.head\.outputs=1, got 4"):
            spec(head=Head(outputs=1), lora=LORA)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "self_attn", "nothing"])
def test_targets_are_linear_layers_other_than_the_output(world: World, target: str) -> None:
    with pytest.raises(ValueError, match=rf"got '{target}'\. This model has down_proj, gate_proj, k_proj"):
        world.open(lora=replace(LORA, targets=["q_proj", target]))


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_flow.system.optional_deps.find_spec", lambda name: None)
    Torch().check()
    with pytest.raises(ValueError, match=r"pip install 'rlhf-flow\[lora\]'.*learner\.lora\.rank=0"):
        Torch(lora=LORA).check()


# -- DeepSpeed ---------------------------------------------------------------------------------------------------------


@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.soak) for stage in (1, 2)), 3, "fsdp"])
def test_ranks_train_the_same_adapter(world: World, two: Ranks, stage: int | str, tmp_path: Path) -> None:
    plain = jobs.train(Place(), world.spec(SGD), world.model, world.start, world.lesson, 3)
    training = replace(SGD, micro_batch=2)
    spec: DeepSpeed | FSDP = FSDP(ranks=2, training=training, lora=LORA)
    if isinstance(stage, int):
        spec = DeepSpeed(ranks=2, zero_stage=stage, training=training, lora=LORA)
    first, second = two.run(jobs.train, spec, world.model, world.start, world.lesson, 3)
    assert first.policy == second.policy
    ours, theirs = (each.policy.weights.tensors.load() for each in (first, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6) for name in theirs)

    adaptive = replace(spec, training=replace(ADAMW, micro_batch=2))
    through = two.run(jobs.train_and_save, adaptive, world.model, world.start, world.lesson, 1, 3, tmp_path)[0]
    resumed = two.run(jobs.load_and_train, adaptive, world.model, world.lesson, 1, 3, tmp_path)[0]
    assert resumed.policy == through.policy
    assert resumed.losses == through.losses


@pytest.mark.deepspeed
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ranks_read_the_reference_with_the_adapter_off(
    world: World, two: Ranks, stage: int, precision: str, tmp_path: Path
) -> None:
    training = replace(ADAMW, optimizer=replace(ADAMW.optimizer, lr=0.05))
    moved = jobs.train(Place(), world.spec(training), world.model, world.start, world.lesson, 3).policy
    spec = DeepSpeed(ranks=2, zero_stage=stage, training=replace(ADAMW, precision=precision), lora=LORA)
    arguments = (world.model, moved, world.start, [world.tables.responses], world.responses, world.lesson)
    scored = two.run(jobs.score, spec, *arguments)[0]
    assert scored.before == scored.after == moved.sha256
    assert scored.start.equals(scored.again)
    exact = 1e-4 if precision == "float32" else 0.3
    assert flat(scored.other) == pytest.approx(world.expected(whole(world.model)), abs=exact)
    merged = whole(world.model)
    merged.load_state_dict(moved.weights.load())
    assert flat(scored.start) == pytest.approx(world.expected(merged), abs=exact)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("small")
    return tiny.policy(folder / "model"), tiny.prompts(folder / "prompts.jsonl")


def explored(folder: Path, small: tuple[Path, Path], *, rounds: int) -> None:
    """A run of XPO with an adapter, whose rate is high enough to be far from the base after a round."""
    keys = {
        "algorithm": "xpo",
        "learner": "lora",
        "learner.lora.rank": 4,
        "learner.training.batch": 4,
        "learner.training.optimizer.lr": 0.02,
        "observe.console": False,
        "rounds": rounds,
    }
    asked = [each for each in tiny.overrides(*small, folder, **keys) if not each.startswith("sampler.draws.0")]
    assert main(["run", *asked]) == 0


@pytest.mark.slow
def test_xpo_samples_its_reference_from_the_base(small: tuple[Path, Path], tmp_path: Path) -> None:
    explored(tmp_path / "run", small, rounds=3)
    base = AutoModelForCausalLM.from_pretrained(small[0]).eval()
    start = checkpoint_fingerprint(small[0])
    rows = [row for path in (tmp_path / "run/rounds/00003/responses").rglob("*.parquet") for row in read(path)]
    assert {row["source"] for row in rows} == {"policy", "reference"}
    for row in rows:
        assert (row["policy"] == start) == (row["source"] == "reference")
        off = np.abs(np.array(row["logps"]) - _row_logps(base, row)).max()
        assert off < 1e-4 if row["source"] == "reference" else off > 1e-2
    anchors = [row for path in (tmp_path / "run/rounds/00003/anchors").rglob("*.parquet") for row in read(path)]
    of = {row["response"]: row for row in rows}
    assert {row["policy"] for row in anchors} == {start}
    for row in anchors:
        assert row["logps"] == pytest.approx(_row_logps(base, of[row["response"]]), abs=1e-4)


def read(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def _row_logps(lm: torch.nn.Module, row: dict) -> np.ndarray:
    tokens, first = torch.tensor([[*row["prompt_tokens"], *row["tokens"]]]), len(row["prompt_tokens"])
    with torch.no_grad():
        logps = lm(input_ids=tokens).logits[0, first - 1 : -1].log_softmax(-1)
    return logps.gather(-1, tokens[0, first:, None])[:, 0].numpy()


@pytest.mark.soak
@pytest.mark.slow
def test_a_run_in_two_starts_is_the_run_in_one(small: tuple[Path, Path], tmp_path: Path) -> None:
    explored(tmp_path / "one", small, rounds=3)
    for rounds in (1, 3):
        explored(tmp_path / "two", small, rounds=rounds)
    one, two = (json.loads((tmp_path / name / "final.json").read_text())["sha256"] for name in ("one", "two"))
    assert one == two
    files = [
        (tmp_path / name / "rounds/00003/policy/adapter_model.safetensors").read_bytes() for name in ("one", "two")
    ]
    assert files[0] == files[1]
