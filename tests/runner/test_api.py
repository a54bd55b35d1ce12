"""A run from Python, from a file, and with one word for the stack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import datasets
import pandas as pd
import pytest

import rlhf_flow
from rlhf_flow.cli.main import main
from rlhf_flow.config import compose as config
from rlhf_flow.config.overrides import from_mapping
from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.observe import Observer
from rlhf_flow.observe.settings import ObservedRun
from rlhf_flow.runner import prepare as build
from rlhf_flow.specs import Place
from rlhf_flow.system import optional_deps as needs
from rlhf_flow.types import Loss, Needs, PairLogps, RoundRecord
from tests.cli.test_main import LOCAL, Prepared
from tests.support import tiny

pytestmark = pytest.mark.slow

BARE = ("model.path=some/model", "prompts.path=prompts.jsonl", "scorer.path=some/judge")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that were run."""
    seen: list[RunConfig] = []
    monkeypatch.setattr(build, "prepare", lambda asked, choices: Prepared(asked, seen.append))
    return seen


# -- Python -----------------------------------------------------------------------------------------------------------

KEYS: dict[str, object] = {"model.path": "some/model", "prompts.path": "prompts.jsonl"}


def loud(prompt: object, answer: str, meta: object) -> float:
    return float(answer.isupper())


def test_a_run_is_configured_as_the_command_line_does_and_starts_nothing(runs: list[RunConfig]) -> None:
    typed = [*LOCAL, "algorithm=xpo", "rounds=2"]
    assert main(["run", *typed]) == 0
    mapping = dict(key.split("=") for key in typed)
    for one in (rlhf_flow.run(keys=typed), rlhf_flow.run(keys={**mapping, "rounds": 2})):
        assert one.config == runs[0]
    named = rlhf_flow.run("xpo", model="some/model", prompts="prompts.jsonl", reward="my/reward_model", rounds=2)
    assert (named.config.objective, named.config.rounds) == (runs[0].objective, 2)
    assert (part_name("scorer", named.config.scorer), named.config.scorer.path) == ("reward_model", "my/reward_model")
    assert len(runs) == 1


def test_keys_have_precedence(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("stack: cpu\nrounds: 7\n")
    made = rlhf_flow.run(rounds=2, keys=[*BARE, str(tmp_path / "mine.yaml")]).config
    assert (part_name("cluster", made.cluster), made.rounds) == ("ray", 7)


def test_a_function_is_the_scorer_by_its_name_if_a_module_has_it() -> None:
    made = rlhf_flow.run(reward=tiny.shorter, keys=KEYS).config
    assert (part_name("scorer", made.scorer), made.scorer.function) == ("rule", "tests.support.tiny.shorter")


def test_a_function_of_a_notebook_a_lambda_and_a_key_are_functions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def inner(prompt: object, answer: str, meta: object) -> float:
        return 0.0

    monkeypatch.setattr(loud, "__module__", "__main__")
    for given, name in ((inner, "inner"), (lambda prompt, answer, meta: 0.0, "function"), (loud, "loud")):
        scorer = rlhf_flow.run(reward=given, keys=KEYS).config.scorer
        assert (scorer.function, scorer.open(Place()).judgement.function) == (f"notebook.{name}", given)
    judged = {"scorer@evaluate.scorer": "rule", "evaluate.scorer.function": lambda prompt, answer, meta: 1.0}
    both = rlhf_flow.run(reward=lambda prompt, answer, meta: 0.0, keys=KEYS | judged).config
    assert (both.scorer.function, both.evaluate.scorer.function) == ("notebook.function", "notebook.function2")


def test_the_identity_of_a_lambda_is_its_code() -> None:
    def identity(function: Callable[..., float]) -> str:
        return rlhf_flow.run(reward=function, keys=KEYS).config.scorer.fingerprint()

    first = identity(lambda prompt, answer, meta: float(answer in {"a", "b"}))
    # elsewhere in the file, with a comment
    assert identity(lambda prompt, answer, meta: float(answer in {"a", "b"})) == first
    assert identity(lambda prompt, answer, meta: float(answer in {"a", "c"})) != first


def test_a_function_of_another_process_is_asked_for() -> None:
    with pytest.raises(
        ValueError, match=r"notebook.gone was defined in a notebook.*reward=gone\), or keys=\{key: gone\}"
    ):
        config.compose(*BARE[:2], "stack=local", "scorer=rule", "scorer.function=notebook.gone").scorer.check()


@pytest.mark.parametrize("kind", ["texts", "mappings", "data set", "data frame"])
def test_prompts_are_rows_in_the_folder_of_the_run(kind: str, tmp_path: Path) -> None:
    texts = [f"What is {number}?" for number in range(8)]
    columns = {"prompt": texts, "answer": [str(number) for number in range(8)]}
    mappings = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    given = {
        "texts": texts,
        "mappings": iter(mappings),
        "data set": datasets.Dataset.from_dict(columns),
        "data frame": pd.DataFrame(columns),
    }[kind]
    made = rlhf_flow.run(model="m", prompts=given, reward=tiny.shorter, run_dir=tmp_path / "run").config.prompts
    rows = [json.loads(line) for line in Path(made.path).read_text().splitlines()]
    assert rows == ([{"prompt": text} for text in texts] if kind == "texts" else mappings)
    assert Path(made.path).is_relative_to(tmp_path / "run")
    assert (made.held_out, made.batch) == (2, 6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"train": ["a"]}, r"got a mapping of train. Fix: one of its values"),
        ([3], r"row 1 is 3. Fix: a text, or a mapping"),
        ([], r"there are no rows"),
        ([{"prompt": "a", "when": object()}], r"not JSON serializable. Fix: rows of texts"),
    ],
)
def test_prompts_that_are_none_are_refused(given: Iterable[object], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        rlhf_flow.run(model="m", prompts=given, reward=tiny.shorter, run_dir=tmp_path)


def test_a_mapping_in_place_of_an_algorithm_is_answered_with_the_call() -> None:
    with pytest.raises(ValueError, match=r"Fix: rlhf_flow.run\(keys=\['rounds=2'\]\)"):
        rlhf_flow.run(["rounds=2"])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Squared:
    """A loss of the user's."""

    margin: float = 1.0

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))

    def at(self, round: int) -> Squared:
        return self

    def loss(self, pairs: PairLogps) -> Loss:
        gap = pairs.current.first.sum - pairs.current.second.sum
        return Loss((gap - self.margin) ** 2, {"gap": gap.detach()})


class Seen(Observer):
    """What an observer is told."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.stages: set[str] = set()
        self.ends = 0

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        self.stages.add(name)

    def round(self, record: RoundRecord) -> None:
        self.rounds.append(record.round)

    def close(self) -> None:
        self.ends += 1


class Opened(Seen):
    """Is opened at each start, as on the command line."""

    opened: ClassVar[list[Opened]] = []

    def __init__(self, run: ObservedRun) -> None:
        super().__init__()
        self.before = len(run.records)
        self.opened.append(self)


def test_an_objective_is_an_instance_and_an_observer_is_one_or_a_class(tmp_path: Path) -> None:
    typed = tiny.overrides(tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "p.jsonl"), tmp_path / "run")
    seen, keys = Seen(), [*typed, "observe.console=none"]
    run = rlhf_flow.run("online_dpo", objective=Squared(margin=2.0), observe=seen, keys=keys).finish()
    assert (seen.rounds, seen.ends, "learn" in seen.stages) == ([0, 1], 1, True)
    assert "train/gap" in run.metrics.columns
    again = rlhf_flow.resume(run.folder, observe=Opened, rounds=2)
    assert again.config.objective == Squared(margin=2.0)
    assert [record.round for record in again] == [2]
    assert [(one.before, one.rounds, one.ends) for one in Opened.opened] == [(2, [2], 1)]


def test_an_objective_that_a_resume_cannot_make_and_classes_are_refused() -> None:
    @dataclass(frozen=True)
    class Hidden(Squared):
        pass

    for given, told in (
        (Hidden(), "inside of a function or a class"),
        (Squared, r"objective=Squared: expected an instance. Fix: Squared\(\)"),
    ):
        with pytest.raises(ValueError, match=told):
            rlhf_flow.run(objective=given, keys=KEYS | {"scorer.path": "judge"})  # type: ignore[arg-type]
    named = rlhf_flow.run(objective=Squared(), keys=KEYS | {"scorer.path": "judge", "objective": "ipo"})
    assert part_name("objective", named.config.objective) == "ipo"  # keys have precedence


# -- a file -----------------------------------------------------------------------------------------------------------


def test_the_file_that_init_writes_is_run(
    runs: list[RunConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    assert main(["init", str(file)]) == 0
    text = file.read_text()
    assert "rlhf-flow run" in text and text.count("#") > 15
    assert main(["run", str(file), "rounds=8", "answers.n=4"]) == 0
    assert (runs[0].rounds, runs[0].run_dir, runs[0].sampler.draws[0].n) == (8, "runs/mine", 4)
    assert part_name("engine", runs[0].engine) == "huggingface"
    capsys.readouterr()
    assert main(["init", str(file)]) == 2
    assert "Fix: rlhf-flow init another.yaml" in capsys.readouterr().err
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n", "holds no keys"),
        ("a: [\n", "is not valid YAML"),
        (None, "cannot be read"),
        ("roundz: 3\n", "no key 'roundz'"),
    ],
)
def test_a_file_that_cannot_be_run_is_a_mistake(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yml"
    if text is not None:
        file.write_text(text)
    assert main(["run", str(file), *LOCAL]) == 2
    assert told in capsys.readouterr().err


def test_values_of_a_file_are_read_as_they_are_written() -> None:
    keys = {"model": {"path": "a=b, (c)'d"}, "answers.stop": ["\n", "it's"], "seed": 3, "scorer": None, "lag": 0}
    made = config.compose(*LOCAL, *from_mapping(keys))
    assert (made.model.path, made.sampler.draws[0].stop, made.seed) == ("a=b, (c)'d", ["\n", "it's"], 3)


# -- a stack ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stack", "told"),
    [
        ("local", ("local", "huggingface", "torch")),
        ("cpu", ("ray", "vllm", "deepspeed")),
        ("gpu", ("ray", "vllm", "deepspeed")),
    ],
)
def test_a_stack_is_three_choices(stack: str, told: tuple[str, ...]) -> None:
    made = config.compose(*BARE, f"stack={stack}")
    assert tuple(part_name(group, getattr(made, group)) for group in ("cluster", "engine", "learner")) == told
    assert stack != "gpu" or made.cluster.layout == "colocated"
    assert part_name("learner", config.compose(*BARE, f"stack={stack}", "learner=torch").learner) == "torch"


def test_a_stack_fits_an_experiment_and_the_training_of_a_judge(
    runs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_flow.sandbox.world import locate

    monkeypatch.setenv("RLHF_FLOW_HOME", str(tmp_path))
    locate().root.mkdir()
    locate().facts.write_text("{}")
    made = config.compose("experiment=sandbox", "stack=local")
    assert (part_name("learner", made.learner), made.learner.training.optimizer.lr) == ("torch", 2e-4)
    assert {draw.max_tokens for draw in [*made.sampler.drawn.values(), made.evaluate.draw]} == {64}
    assert main(["train-reward", "stack=local", "model.path=m", "prompts.path=p"]) == 0
    assert part_name("engine", runs[0].engine) == "none"


def test_all_that_is_not_installed_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"ray \(cluster=ray\), vllm \(.*deepspeed \(.*Fix: stack=local"):
        config.compose(*BARE)
    config.compose(*BARE, "stack=local")


# -- what was chosen --------------------------------------------------------------------------------------------------


def test_a_printed_configuration_names_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *LOCAL, "scorer@evaluate.scorer=rule", "evaluate.scorer.function=a.b", "--cfg", "job"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("# algorithm=online_dpo\n")
    assert "schedule: {} # schedule=fixed\n" in page
    assert "replay: # replay=window\n" in page
    assert "  scorer: # scorer@evaluate.scorer=rule\n" in page
