"""Secrets are planted in every place that takes one; then everything that a run and the servers leave is searched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.scorer.remote import schema as wire
from tests.scorer.conftest import rollouts
from tests.support import tiny
from tests.support.labelling import ask, client, labelling, question
from tests.support.served import WAIT, serving
from tests.support.stub_endpoint import Said, Stub, says

pytestmark = pytest.mark.slow


def secret(place: str) -> str:
    """One that is told apart, and that no pattern of a well-known service finds."""
    return f"plant-{place}-0a9f"


ENVIRONMENT = {
    "JUDGE_KEY": secret("api-key-env"),
    "GATEWAY_PASSWORD": secret("request"),
    "QUERY_TOKEN": secret("second-request"),
    "HF_TOKEN": secret("hub"),
    "WANDB_API_KEY": secret("wandb").replace("-", "0").ljust(40, "0"),
    "SERVER": secret("serve"),  # a name that says nothing: it is known because token_env names it
    "PEOPLE": secret("label"),
    "AWS_SECRET_ACCESS_KEY": secret("cloud"),
    "HTTPS_PROXY": f"http://user:{secret('proxy')}@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
PLANTED = [
    *(value for name, value in ENVIRONMENT.items() if "plant" in value and name != "HTTPS_PROXY"),
    secret("proxy"),
]
COMMAND = [sys.executable, "-m", "rlhf_flow"]


def letter(question: str) -> str:
    """Of the answer whose text comes first in the dictionary: the same answer in both orders."""
    _, first, second = question.split("##")
    return "A" if first < second else "B"


def echo(environment: Mapping[str, str]) -> str:
    """What an endpoint can repeat: the secrets of the run that asks it, which has none of a server."""
    known = [value for name, value in environment.items() if "plant" in value and name not in ("SERVER", "PEOPLE")]
    return " ".join(known)


def found(*places: Path | str) -> list[tuple[str, str]]:
    """Which secrets stand in files, in their names, or in texts."""
    texts: dict[str, bytes] = {}
    for place in places:
        if isinstance(place, str):
            texts["what was said"] = texts.get("what was said", b"") + place.encode()
        else:
            files = [path for path in place.rglob("*") if path.is_file() and path.name != "judges.py"]
            texts |= {str(path): path.read_bytes() + str(path).encode() for path in files}
    assert texts
    wanted = [form for one in PLANTED for form in (one, urllib.parse.quote(one, safe=""))]
    return [(where, one) for where, text in texts.items() for one in wanted if one.encode() in text]


@pytest.mark.slow
def test_no_secret_reaches_anything_that_a_run_leaves(tmp_path: Path) -> None:
    """Folder, report, metrics, offline W&B, TensorBoard, cache and output; also if the endpoint repeats them all."""
    pytest.importorskip("wandb")
    model, asked = tiny.policy(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    (tmp_path / "template.txt").write_text("{conversation}##{first}##{second}")
    environment = {**os.environ, **ENVIRONMENT, "RLHF_FLOW_HOME": str(tmp_path / "home")}
    left = [tmp_path / "run", tmp_path / "home"]
    with Stub(lambda question, before: says(f"{echo(environment)}\nVerdict: {letter(question)}")) as stub:
        arguments = tiny.overrides(
            model, asked, tmp_path / "run", scorer="judge", **{
                "scorer.model": "m",
                "scorer.template": tmp_path / "template.txt",
                "scorer.endpoint.base_url": stub.url,
                "scorer.endpoint.api_key_env": "JUDGE_KEY",
                "+scorer.request.headers.Authorization": "Bearer ${oc.env:GATEWAY_PASSWORD}",
                "+scorer.request.signature": "${oc.env:QUERY_TOKEN}",
                "scorer.endpoint.retries": 0,
                "observe.wandb.mode": "offline",
                "observe.tensorboard": "true",
            }
        )  # fmt: skip
        run = [*COMMAND, "run", *arguments]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 0, done.stderr[-3000:]
        assert {request["signature"] for request in stub.requests} == {secret("second-request")}
        assert stub.keys == {f"Bearer {secret('api-key-env')}"}
        assert found(*left, done.stdout, done.stderr) == []
        config = (tmp_path / "run" / "config.yaml").read_text()
        assert "Bearer [secret:GATEWAY_PASSWORD]" in config and "[secret:QUERY_TOKEN]" in config

        environment |= {"GATEWAY_PASSWORD": secret("another-request"), "JUDGE_KEY": secret("another-key")}
        PLANTED.extend([secret("another-request"), secret("another-key")])
        stub.behaviour = lambda question, before: Said(json.dumps({"error": {"message": echo(environment)}}), 401)
        again = subprocess.run([*run, "rounds=2"], env=environment, capture_output=True, text=True, timeout=WAIT)
        assert again.returncode == 1 and "status 401" in again.stderr, "the same run, which goes on with another key"
        assert found(*left, again.stdout, again.stderr) == []


@pytest.mark.slow
def test_no_secret_reaches_what_the_servers_say(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    ask(folder, [question("a", "b")])
    said = ""
    with serving(
        "scorer=rule", "scorer.function=judges.worth", "token_env=SERVER", folder=tmp_path, **ENVIRONMENT
    ) as one:
        headers = {"Authorization": f"Bearer {ENVIRONMENT['SERVER']}", "Content-Type": "application/json"}
        with httpx.Client(base_url=one.url(), headers=headers, timeout=WAIT, trust_env=False) as known:
            for body in (
                wire.from_rollouts(rollouts([f"break {' '.join(PLANTED)}"])),
                b"{",
                f'{{"{PLANTED[0]}": 1}}'.encode(),
            ):
                answer = known.post("/score", content=body)
                assert answer.status_code in (422, 500)
            said += known.post("/score", content=b"{", headers={"Authorization": "Bearer x"}).text
        said += one.line("error ")
        one.process.terminate()
        one.process.wait(WAIT)
        while not one.said.empty():
            said += one.said.get()
    with labelling(tmp_path, "--token-env", "PEOPLE", **ENVIRONMENT) as server:
        with client(server, Authorization=f"Bearer {ENVIRONMENT['PEOPLE']}") as page:
            said += page.post("/state", json={"annotator": "Ann"}).text + page.get("/").text
        with client(server, Authorization="Bearer wrong") as page:
            said += page.post("/state", json={"annotator": "Ann"}).text
    assert found(folder, said) == []


@pytest.mark.parametrize(
    ("arguments", "way"),
    [
        (["scorer.endpoint.base_url=http://me:{}@127.0.0.1:9/v1"], "scorer.endpoint.api_key_env=JUDGE_KEY"),
        (["scorer.endpoint.base_url='http://127.0.0.1:9/v1?api_key={}'"], "scorer.endpoint.api_key_env=JUDGE_KEY"),
        (["+scorer.request.api_key={}"], "'scorer.request.api_key=${oc.env:JUDGE_KEY}'"),
        (["+scorer.request.headers.Authorization='Bearer {}'"], "${oc.env:JUDGE_KEY}"),
        (["+scorer.request.x-api-key={}"], "${oc.env:JUDGE_KEY}"),
        (["scorer.endpoint.api_key_env={}"], "scorer.endpoint.api_key_env=JUDGE_KEY"),
        (["scorer=remote", "scorer.urls=['http://me:{}@127.0.0.1:9']"], "scorer.token_env"),
        (["scorer=remote", "scorer.urls=['http://127.0.0.1:9']", "scorer.token_env={}"], "SCORER_TOKEN"),
        (["prompts.path='s3://me:{}@bucket/rows.jsonl'"], "prompts.path=${oc.env:JUDGE_KEY}"),
        (["+scorer.request.api_key={}", "+scorer.request.n=="], "${oc.env:JUDGE_KEY}"),  # which Hydra cannot read
        (["scorer.password={}"], "${oc.env:JUDGE_KEY}"),
    ],
)
def test_a_secret_in_the_command_is_refused_and_not_shown(
    arguments: list[str], way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = secret("command")
    given = [one.format(planted) for one in arguments]
    judge = [] if "scorer=remote" in given else ["scorer=judge", "scorer.model=m"]
    folder = tmp_path / "run"
    assert main(["run", "model.path=m", "prompts.path=p.jsonl", f"run_dir={folder}", *judge, *given]) == 2
    captured = capsys.readouterr()
    assert planted not in captured.out + captured.err
    assert way in captured.err
    assert not folder.exists()


def test_a_printed_configuration_has_no_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PASSWORD", secret("request"))
    judge = ["model.path=m", "prompts.path=p", "scorer=judge", "scorer.model=m"]
    assert main(["run", *judge, "+scorer.request.x=${oc.env:GATEWAY_PASSWORD}", "--cfg", "job", "--resolve"]) == 0
    printed = capsys.readouterr().out
    assert "[secret:GATEWAY_PASSWORD]" in printed and secret("request") not in printed
    assert main(["run", *judge, f"+scorer.request.api_key={secret('literal')}", "--cfg", "job"]) == 2
    told = capsys.readouterr()
    assert secret("literal") not in told.out + told.err


def test_a_secret_in_a_sweep_is_refused_before_hydra_writes_it_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = [f"run_dir={tmp_path / 'run'}", "--multirun", "seed=1,2"]
    nested = f"+scorer.request={{headers: {{Authorization: {secret('sweep')}}}}}"
    assert main(["run", "model.path=m", "prompts.path=p", "scorer=judge", "scorer.model=m", *sweep, nested]) == 2
    told = capsys.readouterr()
    assert "scorer.request.headers.Authorization: a secret must not stand" in told.err
    assert secret("sweep") not in told.out + told.err and not list(tmp_path.iterdir())


def test_nor_does_a_secret_in_a_file_of_ones_own_stay_in_what_hydra_writes_of_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = secret("file")
    (tmp_path / "own/experiment").mkdir(parents=True)
    own = f"# @package _global_\nscorer: {{request: {{headers: {{Authorization: {planted}}}}}}}\n"
    (tmp_path / "own/experiment/mine.yaml").write_text(own)
    sweep = [f"run_dir={tmp_path / 'runs/one'}", "--multirun", "seed=1,2", "--config-dir", str(tmp_path / "own")]
    judge = ["model.path=m", "prompts.path=p", "scorer=judge", "scorer.model=m", "experiment=mine"]
    assert main(["run", *judge, *sweep]) == 2
    told = capsys.readouterr()
    assert "a secret must not stand" in told.err and planted not in told.out + told.err
    written = [path.read_text() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert written and not any(planted in text for text in written)
