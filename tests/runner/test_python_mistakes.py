"""Mistakes from Python: the paragraphs of the command line, before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import rlhf_flow as rf
from rlhf_flow.cli.main import main
from rlhf_flow.objective import PARTS
from rlhf_flow.observe import Observer
from rlhf_flow.scorer.functions.defined import code_hash, named
from rlhf_flow.scorer.functions.rule import Rule
from tests.support import tiny

pytestmark = pytest.mark.slow

OTHERS = {"model": "my/model", "prompts": "p.jsonl", "reward": tiny.shorter}
TYPED = ["stack=local", "model.path=my/model", "prompts.path=p.jsonl"]


@pytest.mark.parametrize(
    ("given", "typed", "told"),
    [
        (
            {**OTHERS, "algorithm": "online_dop"},
            [*TYPED, "algorithm=online_dop"],
            "algorithm=online_dop is not a known algorithm. Did you mean algorithm=online_dpo? Try one of",
        ),
        (
            {"model": "my/model", "prompts": "p.jsonl"},
            TYPED,
            "scorer.path must be given. Fix: scorer.path=..., or reward=... of rlhf_flow.run.",
        ),
        (
            {**OTHERS, "keys": {"answers.m": 3}},
            [*TYPED, "answers.m=3"],
            "there is no key 'answers.m': answers has no 'm'. Did you mean answers.max_tokens or answers.min_p?",
        ),
        (
            {**OTHERS, "rounds": "three"},
            [*TYPED, "rounds=three"],
            "rounds=three: expected a whole number. Fix: rounds=4.",
        ),
        ({**OTHERS, "rounds": 2.5}, [*TYPED, "rounds=2.5"], "rounds=2.5: expected a whole number. Fix: rounds=4."),
        (
            {**OTHERS, "keys": "rounds"},
            [*TYPED, "rounds"],
            "cannot read 'rounds': it must be key=value. Try key=value.",
        ),
        ({**OTHERS, "stack": 3}, [*TYPED[1:], "stack=3"], "a part is chosen by its name, and int is not one."),
        (
            {**OTHERS, "config_dir": "/nowhere"},
            [*TYPED, "--config-dir", "/nowhere"],
            "--config-dir=/nowhere: no such folder. Fix: name the folder of your experiment/.",
        ),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_mistake_in_keys_is_told_as_on_the_command_line(
    given: dict[str, Any], typed: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError) as raised:
        rf.run(**given)
    assert str(raised.value).startswith(told)
    assert raised.value.__suppress_context__ or type(raised.value.__context__) is ValueError or "folder" in told
    assert main(["run", *typed]) == 2
    assert capsys.readouterr().err == f"rlhf-flow: {raised.value}\n"


def test_keys_may_be_one_argument_and_numbers_of_numpy() -> None:
    import numpy as np

    assert rf.run(**OTHERS, keys="rounds=3").config.rounds == 3
    assert rf.run(**OTHERS, keys={"rounds": np.int64(3)}).config.rounds == 3


class Seen(Observer):
    def __init__(self) -> None:
        return


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"observe": "wandb"}, r"observe='wandb': expected a class or an instance, not its name. Fix: keys={'observe'"),
        ({"observe": 3}, r"observe=3: it has no method stage. Fix: derive it from rlhf_flow.observe.Observer"),
        ({"observe": Seen}, r"observe=Seen has the parameters .*Fix: take \(run\), or give an instance"),
        ({"model": object()}, r"model=<object object.*>: expected a path. Fix: model=\"my/model\""),
        ({"run_dir": 3}, r"run_dir=3: expected a path"),
        ({"prompts": 5}, r"prompts=5: expected a file or rows. Fix: prompts=\['a text'"),
        ({"reward": 5}, r"reward=5: expected a function \(prompt, answer, meta\)"),
        ({"keys": 3}, r"keys=3: expected keys. Fix: keys={'answers.n': 4}"),
        ({"keys": [3]}, r"keys=\[3\]: expected keys"),
        ({"keys": {3: 4}}, r"keys={3: ...}: expected the name of a key"),
        ({"keys": {"model.path": object()}}, r"model.path: <object object.*> cannot be the value of a key"),
        ({"keys": {"evaluate.scorer.function": Seen}}, r"evaluate.scorer.function=<class.*: expected a function"),
        ({"objective": "ipo"}, r"objective='ipo': expected an instance of a class, not a name. Fix: Mine\(\)"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_a_value_of_another_type_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rf.run(**{**OTHERS, **given})


@pytest.mark.parametrize(
    ("called", "told"),
    [
        (partial(rf.verify, PARTS["dpo"]), r"objective=DPO: expected an instance. Fix: DPO\(\)"),
        (partial(rf.verify, "dpo"), r"objective='dpo': expected an instance of a class, not a name"),
        (partial(rf.verify, 3), r"objective=3: expected an instance of a dataclass"),
        (partial(rf.verify, PARTS["dpo"](), 3), r"formula=3: expected a function"),
        (partial(rf.resume, 3), r"folder=3: expected a path"),
        (partial(rf.resume, "nowhere"), r"nowhere holds no run"),
    ],
    ids=range(6),
)
def test_so_are_those_of_verify_and_resume(called: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        called()


# -- rewards ----------------------------------------------------------------------------------------------------------


class Scaled:
    """A reward that is an object."""

    def __init__(self, by: float = 1.0) -> None:
        self.by = by

    def __call__(self, prompt: object, answer: str, meta: object) -> float:
        return self.by * len(answer)

    def worth(self, prompt: object, answer: str, meta: object) -> float:
        return -self.by * len(answer)


def weighed(prompt: object, answer: str, meta: object, by: float) -> float:
    return by * len(answer)


def test_whatever_can_be_called_is_a_reward() -> None:
    def reward(given: object) -> Rule:
        return rf.run(**{**OTHERS, "reward": given}).config.scorer

    for made, name in (
        (lambda: partial(weighed, by=2.0), "notebook.weighed"),
        (lambda: Scaled(), "notebook.Scaled"),
        (lambda: Scaled().worth, "notebook.worth"),
    ):
        scorer = reward(made())
        assert scorer.function == name
        scorer.check()
        first = scorer.fingerprint()
        assert first == reward(made()).fingerprint()


@pytest.mark.parametrize("made", [lambda by: partial(weighed, by=by), Scaled, lambda by: Scaled(by).worth])
def test_what_a_reward_was_made_with_is_part_of_its_identity(made: Callable[[float], Callable[..., float]]) -> None:
    assert code_hash(made(2.0)) == code_hash(made(2.0)) != code_hash(made(3.0))
    worn = Scaled(2.0)
    worn.calls = 7  # type: ignore[attr-defined]  # what it counts is no part of it
    assert code_hash(worn) == code_hash(Scaled(2.0))


def test_the_name_of_a_function_is_a_reward_and_a_folder_a_reward_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = rf.run(**{**OTHERS, "reward": "tests.support.tiny.shorter"}).config.scorer
    assert scorer.function == "tests.support.tiny.shorter"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v1.final").mkdir()
    assert rf.run(**{**OTHERS, "reward": "v1.final"}).config.scorer.path == "v1.final"
    assert rf.run(**{**OTHERS, "reward": "my/model"}).config.scorer.path == "my/model"


def test_partial_functions_and_objects_of_a_module_are_identified_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "from functools import partial\nfrom {here} import Scaled, weighed\npart = partial(weighed, by={by})\n"
    hashes = set()
    for by in (1, 2):
        file = tmp_path / f"rewards_by_{by}.py"
        file.write_text(text.format(here=__name__, by=by) + f"thing = Scaled({by})\n")
        for name in ("part", "thing"):
            rule = Rule(f"{file.stem}.{name}")
            rule.check()
            hashes.add(rule.fingerprint())
        del sys.modules[file.stem]
    assert len(hashes) == 2


def test_a_class_is_no_reward() -> None:
    with pytest.raises(ValueError, match=r"expected a function .*Fix: an instance of the class"):
        named(Scaled, {})
