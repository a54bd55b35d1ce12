"""What the page of a run says at its top, of its judges, of what broke; and what it must not say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from rlhf_flow import report
from rlhf_flow.storage.store import STAGES
from tests.report.conftest import metrics, watched
from tests.report.test_report import EVIL, Page, page_of, row

MakeRun = Callable[..., Path]

START = {
    "started": "2026-01-02T03:04:05+00:00",
    "round": 0,
    "cores": 16,
    "memory_gib": 125.5,
    "gpus": ["NVIDIA H100", "NVIDIA H100"],
    "machine": "Linux-6.1",
    "python": "3.11.9",
    "versions": {"rlhf-flow": "0.9", "torch": "2.13.0", "vllm": "0.32.0", "transformers": "5.0.0"},
    "git": "0123456789abcdef",
    "choices": {"algorithm": "xpo"},
    "seed": 7,
}
CONFIG = {
    "rounds": 4,
    "seed": 7,
    "run_dir": "/home/jane doe/runs/it",
    "model": {"path": "/home/jane doe/.cache/huggingface/hub/models--Qwen--Qwen3-4B/snapshots/abc", "revision": None},
    "objective": {"_target_": "rlhf_flow.objective.xpo.XPO"},
    "scorer": {"_target_": "rlhf_flow.scorer.models.reward_model.RewardModel", "path": "/data/models/reward"},
    "evaluate": {"scorer": None},
}


def told(folder: Path, config: object = None, starts: object = None) -> Path:
    """The run with another configuration, and other starts."""
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    if starts is not None:
        (folder / "manifest.json").write_text(json.dumps({"starts": starts}), encoding="utf-8")
    return folder


def labels(page: Page) -> list[str]:
    return [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]


def charts(folder: Path) -> dict[str, str]:
    """Title of each chart -> its HTML."""
    html = report.write(folder).read_text(encoding="utf-8")
    figures = re.findall(r"<figure>(.*?)</figure>", html, re.S)
    return {re.search(r"<b>(.*?)</b>", one)[1]: one for one in figures}  # type: ignore[index]


# -- the header -------------------------------------------------------------------------------------------------------


def test_the_header_says_what_ran_on_what_and_when(make_run: MakeRun) -> None:
    words = page_of(told(make_run([metrics(round) for round in range(3)]), CONFIG, [START])).words
    for fact in (
        r"Started\s*2026-01-02 03:04 UTC\s",
        r"Time in rounds\s*1 min 11 s",
        r"Machine\s*16 cores, 126 GiB memory, 2 × NVIDIA H100",
        r"Versions\s*torch 2\.13\.0, vllm 0\.32\.0, transformers 5\.0\.0",
        r"Code\s*rlhf-flow 0\.9, commit 0123456789ab\s",
        r"Model\s*Qwen/Qwen3-4B\s",
        r"Algorithm\s*xpo \(XPO\)",
        r"Evaluation scorer\s*reward_model: …/reward",
        r"Training scorer\s*the same",
        r"Seed\s*7",
    ):
        assert re.search(fact, words), fact


@pytest.mark.parametrize("starts", [[], [{}], [{"versions": None, "gpus": "?", "cores": "many", "started": None}]])
def test_an_older_run_opens_without_what_it_did_not_record(make_run: MakeRun, starts: list[object]) -> None:
    folder = told(make_run([{"eval/win_rate": 0.5}, {"eval/win_rate": 0.6}]), {"rounds": 2}, starts)
    words = page_of(folder).words
    assert "0.600" in words
    assert "Machine" not in words and "Started" not in words and "None" not in words


def test_answers_of_an_older_run_have_fewer_columns(make_run: MakeRun) -> None:
    rows = {1: [{"prompt_id": "a", "prompt": "Say hello.", "start": "hi", "answer": "Hello!"}]}
    folder = make_run([{}, {"eval/win_rate": 0.6}], rows)
    assert "beats the start with —" in page_of(folder).words
    assert "Hello!" in report.samples(folder)


SECRETS = ("sk-abcdefghijk1mnopqrstuv", "s3cr3t", "hunter2", "topsecret", "hf_abcdefghijklmnopqrstuv")


def test_no_absolute_path_and_no_secret_is_on_the_page(make_run: MakeRun) -> None:
    scorer = {
        "_target_": "rlhf_flow.scorer.llm.judge.Judge",
        "endpoint": {
            "base_url": "https://jane:hunter2@api.test/v1?api-key=topsecret",
            "model": "big",
            "api_key": "s3cr3t",
        },
        "request": {"user": "jane doe", "extra_headers": {"X-Org": "s3cr3t"}, "max_tokens": 12},
        "path": "~/models/judge",
        "budget": {"cache": "C:\\Users\\jane doe\\cache.sqlite"},
    }
    start = START | {
        "command": ["/home/jane doe/.venv/bin/rlhf-flow", "run", "scorer.endpoint.api_key=s3cr3t", "run_dir=/mnt/x/y"],
        "model": "/home/jane doe/model",
        "warnings": [
            "what is in /home/jane doe/runs/it/rounds and /home/jane doe/other/x, "
            "/home2/y, file:///srv/a/b; token=hf_abcdefghijklmnopqrstuv"
        ],
        "may_change": {"scorer.request.user": "jane doe", "x": SECRETS[0], "max_tokens": 512, "pad_token": "<pad>"},
    }
    folder = told(make_run([{}, {"eval/win_rate": 0.6}]), CONFIG | {"scorer": scorer}, [start])
    death = {"round": 1, "event": "death", "message": "the process of engine 0 died: see /tmp/ray/session/logs/w.err"}
    (folder / "events.jsonl").write_text(json.dumps(death) + "\n", encoding="utf-8")
    html = unquote(report.write(folder).read_text(encoding="utf-8"))
    for private in (*SECRETS, "jane", "/home", "/tmp/", "/mnt/", "/srv/", "/data/", "C:\\", "~/", str(folder.parent)):
        assert private not in html, private
    for kept in (
        "api.test/v1",
        "…/judge",
        "…/it/rounds",
        "…/w.err",
        "max_tokens",
        "512",
        "&lt;pad&gt;",
        "…/cache.sqlite",
    ):
        assert kept in html, kept


def test_what_others_named_is_text_in_the_header_and_the_list_of_what_broke(make_run: MakeRun) -> None:
    start = dict.fromkeys(("started", "machine", "python", "git"), EVIL) | {"versions": {"torch": EVIL}}
    start |= {"gpus": [EVIL], "choices": {"algorithm": EVIL}, "warnings": [EVIL], "round": 1}
    config = {"model": {"path": EVIL, "revision": EVIL}, "seed": EVIL, "objective": {"_target_": EVIL}, EVIL: EVIL}
    folder = told(make_run([{}, {"eval/win_rate": 0.6, f"alarm/{EVIL}": 1.0}]), config, [start, start])
    death = {"round": 1, "event": "death", "message": EVIL}
    (folder / "events.jsonl").write_text(json.dumps(death) + "\n", encoding="utf-8")
    for html in (report.write(folder), report.write_comparison([folder, folder])):
        page = Page(html.read_text(encoding="utf-8"))
        assert not {"script", "img"} & set(page.tags)
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]
        assert page.tags.count("style") == 1


# -- judges -----------------------------------------------------------------------------------------------------------


def test_the_page_says_if_the_win_rate_is_by_the_reward_trained_on(
    make_run: MakeRun, good_run: Path, tmp_path: Path
) -> None:
    said = "The win rate is by the scorer that training optimises"
    lines = [{"eval/win_rate": 0.5}, {"eval/win_rate": 1.0, "eval/reward": 3.0}]
    shared = page_of(told(make_run(lines, name="shared"), CONFIG)).words
    assert f"{said} (reward_model: …/reward)" in shared and "evaluate.scorer=" in shared
    assert said in report.table(tmp_path / "shared") and said not in report.table(good_run)
    own = CONFIG | {"evaluate": {"scorer": CONFIG["scorer"] | {"batch_tokens": 9}}}  # type: ignore[operator]
    assert said in page_of(told(make_run(lines, name="copy"), own)).words
    other = CONFIG | {"evaluate": {"scorer": {"_target_": "a.b.C", "function": "gold"}, "proxy": False}}
    words = page_of(told(make_run(lines, name="other"), other)).words
    assert said not in words and "which training uses too" not in words
    assert said not in page_of(good_run).words


def test_what_judges_were_asked_and_what_it_cost_has_a_section(make_run: MakeRun, good_run: Path) -> None:
    counts = {"asked": 100, "queries": 80, "cached": 20, "abstained": 12, "unclear": 5, "cut": 4, "inconsistent": 30}
    line = {f"judge/{name}": float(value) for name, value in counts.items()}
    line |= {"judge/calls": 160.0, "judge/tokens": 64000.0, "judge/cost_micro": 1_250_000.0}
    line |= {"eval/judge/calls": 40.0, "eval/judge/asked": 40.0, "eval/judge/abstained": 1.0}
    line |= {"eval/judges_agree": 0.75, "eval/judges_agree_low": 0.6, "eval/judges_agree_high": 0.85}
    page = page_of(make_run([{}, line, line], name="judged"))
    shown = labels(page)
    for label in (
        "Calls: training scorer 160 in round 1, then 160 in round 2; evaluation scorer 40 in round 1",
        "Money: 1.25 in round 1, then 1.25 in round 2",
        "Tokens of the judge: 64,000 in round 1",
        "Abstentions: training scorer 0.12 in round 1",
        "Inconsistency: 0.3 in round 1",
        "Cache hits: 0.2 in round 1",
        "No verdict, total: 12 in round 1",
        "Agreement of the scorers: 0.75 in round 1",
    ):
        assert any(one.startswith(label) for one in shown), label
    assert "320 calls, 128,000 tokens, 2.50 in the unit of the prices, 200 questions, 24 of them without" in page.words
    causes = re.search(r"by cause.*?unclear\s*55\s.*?cut\s*44\s.*?other causes\s*33", page.words, re.S)
    assert causes
    assert not [label for label in labels(page_of(good_run)) if label.startswith(("Calls", "Money", "Abst"))]


def test_a_round_that_asked_nothing_has_no_shares(make_run: MakeRun) -> None:
    line = {"judge/asked": 0.0, "judge/abstained": 0.0, "judge/queries": 0.0, "judge/cached": 0.0, "judge/calls": 0.0}
    page = page_of(make_run([{}, line], name="idle"))
    assert not [label for label in labels(page) if label.startswith(("Abstentions", "Cache", "Calls"))]


# -- charts -----------------------------------------------------------------------------------------------------------


def test_a_colour_stands_for_one_part_of_the_system(fooled_run: Path) -> None:
    """Each chart of one measure has the colour of the part that it comes from, and that is told in the key."""
    seen = {title: {*re.findall(r'<g class="(\w+)"><path', one)} for title, one in charts(fooled_run).items()}
    for title, colour in {
        "Win rate": "eval", "Evaluation scorer": "eval", "Win rate by the training scorer": "train",
        "Proxy gap": "train", "Reward of the samples": "train", "KL from the start": "policy", "Length": "policy",
        "Loss": "learner", "Accuracy": "learner",
    }.items():  # fmt: skip
        assert seen[title] <= {colour} and charts(fooled_run)[title].count(f'"{colour}"'), title
    words = page_of(fooled_run).words
    assert all(name in words for name in ("evaluation scorer", "training scorer", "answers of the policy"))


def test_a_bucket_has_the_same_colour_in_every_chart(make_run: MakeRun) -> None:
    line = {"pairs/used": 5.0, "pairs/tie": 2.0, "responses/used": 9.0, "responses/tie": 1.0, "responses/odd": 1.0}
    found = charts(make_run([{}, line]))
    pairs, responses = (
        dict(re.findall(r'<i class="([\w ]+)"></i>(\w+)', found[name])) for name in ("Pairs", "Responses")
    )
    both = {name: colour for colour, name in pairs.items()}, {name: colour for colour, name in responses.items()}
    assert both[0]["used"] == both[1]["used"] == "learner t1"
    assert both[0]["tie"] == both[1]["tie"] != "learner t1"


def test_every_stage_that_a_round_can_have_is_in_the_chart_of_time(make_run: MakeRun) -> None:
    line = {f"seconds/{stage}": 2.0 for stage in STAGES} | {"seconds/round": 25.0}
    found = charts(make_run([{}, line]))["Time"]
    shown = re.findall(r'<i class="([\w ]+)"></i>([\w ]+)', found)
    assert [name for _, name in shown] == [*STAGES, "between stages"]
    assert len({colour for colour, _ in shown}) == len(shown), "every stage has its own"


def test_a_rate_near_one_is_drawn_near_one_and_a_widened_axis_says_so(make_run: MakeRun) -> None:
    found = charts(make_run([{"eval/distinct": 0.998}, {"eval/distinct": 1.0}]))["Distinct answers"]
    heights = [float(y) for y in re.findall(r'class="hit" cx="[^"]+" cy="([^"]+)"', found)]
    assert abs(heights[0] - heights[1]) < 5
    assert "the axis has its minimum range" in found


def test_what_cannot_be_told_from_noise_is_said(make_run: MakeRun, good_run: Path) -> None:
    line = {"eval/win_rate": 0.52, "eval/win_rate_low": 0.46, "eval/win_rate_high": 0.58}
    folder = make_run([{"eval/win_rate": 0.5, "eval/win_rate_low": 0.5, "eval/win_rate_high": 0.5}, line], name="noise")
    words = page_of(folder).words
    assert "not significant: the interval covers 0.5" in words
    assert "round 1 does not differ significantly from 0.5: 95 % interval 0.460 to 0.580" in words
    assert "signific" not in page_of(good_run).words


def test_rounds_that_broke_are_marked_on_every_chart(make_run: MakeRun) -> None:
    lines = [watched(round) for round in range(5)]
    lines[3]["eval/kl"] = float("nan")
    folder = told(make_run(lines, name="broke"), CONFIG, [START, START | {"round": 2}, START | {"round": 9}])
    (folder / "events.jsonl").write_text('{"round": 1, "event": "death", "message": "engine 0 died: <killed>"}\n')
    found = charts(folder)
    assert all(one.count('class="event"') == 4 for one in found.values()), {
        k: v.count("event") for k, v in found.items()
    }
    words = page_of(folder).words
    for said in (
        "round 1 a worker died: engine 0 died: <killed>",
        "round 2 the run was started again; alarm proxy_gap",
        "not finite: eval/kl",
        "a problem in this round",
    ):
        assert said in words, said


def test_nothing_is_marked_if_nothing_broke(good_run: Path) -> None:
    page = page_of(good_run)
    assert not [value for _, name, value in page.attributes if (name, value) == ("class", "event")]
    assert "a problem in" not in page.words


def test_the_contents_lead_to_every_section(fooled_run: Path) -> None:
    page = page_of(fooled_run)
    links = [value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")]
    targets = [value for _, name, value in page.attributes if name == "id"]
    assert links == targets and len(set(links)) == len(links) >= 6


def test_every_chart_can_be_read_without_seeing_it(good_run: Path) -> None:
    for title, one in charts(good_run).items():
        assert re.search(rf'role="img" aria-label="{re.escape(title)}', one), title
        assert "<summary>Numbers" in one and "<table>" in one, title


def test_hostile_answers_stay_text_in_every_group(make_run: MakeRun) -> None:
    evil = "</div><script>alert(1)</script>"
    rows = {round: [row(start=evil, answer=f"{evil}{round}", prompt=evil, win=0.1)] for round in (1, 2)}
    folder = make_run([{}, {}, {"eval/win_rate": 0.1}], rows)
    page = page_of(folder)
    assert "script" not in page.tags
    assert page.words.count(f"{evil}2") == 3 and page.words.count(f"{evil}1") == 1
    assert f"{evil}2" in report.samples(folder).replace("\n", "")


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_every_chart_has_its_numbers_as_csv(make_run: MakeRun, tmp_path: Path) -> None:
    line = {"eval/win_rate": 1 / 3, "eval/win_rate_low": 0.25, "eval/win_rate_high": 0.5, "pairs/=cmd()": 3.0}
    folder = make_run([{"eval/win_rate": 0.5}, line | {"eval/aspect/win rate": 0.5}], name="numbers")
    page = page_of(folder)
    links = [
        unquote(value.partition(",")[2]) for _, name, value in page.attributes if name == "href" and value[0] != "#"
    ]
    assert len(links) == len(labels(page))
    assert "round,win rate,low,high\n0,0.5,,\n1,0.3333333333333333,0.25,0.5\n" in links
    assert "round,'=cmd()\n1,3\n" in links, "a spreadsheet must not run it"
    written = report.write_csv(folder, tmp_path / "csv")
    assert sorted(path.name for path in written) == ["pairs.csv", "win-rate-2.csv", "win-rate.csv"]
    assert sorted(path.read_text() for path in written) == sorted(links)
