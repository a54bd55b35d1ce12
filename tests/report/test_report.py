"""The report: true to the folder, whole, harmless, and the same each time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlhf_flow import report
from rlhf_flow.metrics.intransitivity import advice
from rlhf_flow.system.visible_text import visible

MakeRun = Callable[..., Path]
Line = dict[str, float]

VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}
EVIL = (
    "<script>document.documentElement.dataset.ran = 'yes'</script></style></pre></div></title>"
    "<img src=x onerror=\"document.documentElement.dataset.ran='yes'\">\"'>&amp; {{ 7 * 7 }} {% if x %}"
)


class Page(HTMLParser):
    """What a browser would make of the page: fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return "".join(self.text)


def page_of(folder: Path) -> Page:
    return Page(report.write(folder).read_text(encoding="utf-8"))


def row(**changes: object) -> dict[str, object]:
    whole = {"prompt_id": "a", "prompt": "Say hello.", "start": "hi", "answer": "Hello!", "win": 0.75, "utility": 1.5}
    return whole | {"start_utility": 0.25, "length": 3, "truncated": False} | changes


def test_it_leads_with_the_last_win_rate_and_its_interval(good_run: Path) -> None:
    page = page_of(good_run)
    assert "0.892" in page.words
    assert "95 % interval 0.852 to 0.922, after round 4" in page.words
    assert "rounds: 4 of 4, finished" in page.words
    assert "rule: rlhf_flow.sandbox.gold.worth" in page.words


def test_every_curve_and_stack_is_there_and_says_what_it_shows(good_run: Path) -> None:
    page = page_of(good_run)
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    titles = [label.partition(":")[0].partition(",")[0] for label in labels]
    aspects = ["on_topic", "tone", "well_formed"]
    assert titles == [
        *["Win rate", "Evaluation scorer", "Training scorer (proxy)", "Over-optimisation"],
        *["KL from the start", "Length", "Cut at the limit", "Distinct answers", *aspects, "Questions"],
        *["Loss", "Margin", "Accuracy", "Reward of the samples", "Time", "Pairs", "Responses"],
    ]
    assert "Evaluation scorer: 0.41 in round 0, then 0.758 in round 4" in labels


def test_the_gap_and_the_styles_are_there_where_they_were_measured(make_run: MakeRun, good_run: Path) -> None:
    lines = [
        {"eval/win_rate": 0.5, "eval/gap": 0.27, "eval/style/formal": 0.25, "eval/style/polite": 0.75},
        {"eval/win_rate": 0.6, "eval/gap": 0.035, "eval/style/formal": 0.5, "eval/style/polite": 0.5},
    ]
    folder = make_run(lines, name="game")
    page = page_of(folder)
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    assert "Duality gap: 0.27 in round 0, then 0.035 in round 1" in labels
    assert "Styles, total: 1 in round 0, then 1 in round 1" in labels
    assert re.search(r"Styles.*formal.*polite.*round\s*0\s*1\s*formal\s*0\.25\s*0\.5\s", page.words, re.S)
    assert re.search(r"rate +gap", report.table(folder))
    words = page_of(good_run).words
    assert "Duality gap" not in words and "Styles" not in words
    assert "gap" not in report.table(good_run)


def test_it_says_who_judged_what(good_run: Path, make_run: MakeRun) -> None:
    words = page_of(good_run).words
    assert "mean over held-out answers, by rule: rlhf_flow.sandbox.gold.worth" in words
    assert "the same answers, by reward_model: models/reward" in words
    assert re.search(r"interval +judge +proxy +KL", report.table(good_run))
    one = make_run([{"eval/reward": 0.5}], name="one judge")
    (one / "config.yaml").write_text(
        "scorer: {_target_: rlhf_flow.scorer.functions.rule.Rule, function: my_lab.worth}\n"
    )
    words = page_of(one).words
    assert "mean over held-out answers, by rule: my_lab.worth, which training uses too" in words
    assert "proxy" not in words


def test_what_was_warned_of_at_a_start_is_said_once(make_run: MakeRun) -> None:
    folder = make_run([{"eval/reward": 0.5}])
    starts = [{"warnings": ["a <b> draw"]}, {"warnings": ["a <b> draw", "another"]}, {}]
    (folder / "manifest.json").write_text(json.dumps({"starts": starts}), encoding="utf-8")
    html = report.write(folder).read_text(encoding="utf-8")
    shown = html.partition('<section class="warning"')[2].partition("</section>")[0]
    assert re.findall("<li>(.*)</li>", shown) == ["a &lt;b&gt; draw", "another"]


# -- when it goes wrong -----------------------------------------------------------------------------------------------


def test_both_judges_their_gap_and_what_answers_became_are_shown(fooled_run: Path, good_run: Path) -> None:
    page = page_of(fooled_run)
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    for label in (
        "Win rate by the training scorer: 0.5 in round 0, then 0.922 in round 4",
        "Proxy gap: 0 in round 0, then 0.375 in round 4",
        "Win rate at equal length: 0.5 in round 0, then 0.58 in round 4",
        "Length drift: 1 in round 0, then 1.84 in round 4",
        "Top-10 entropy: 1.8 in round 0, then 1.33 in round 4",
        "Top-10 mass: 0.9 in round 0, then 0.947 in round 4",
    ):
        assert label in labels
    assert page.words.count("(0.325 to 0.425)") == 1, "the gap has its interval"
    assert re.search(r"Win rate at equal length.*0\.580", page.words, re.S)
    good = page_of(good_run).words
    for absent in ("Proxy gap", "equal length", "Length drift", "Top-10", "alarm"):
        assert absent not in good


def test_an_alarm_is_said_once_with_its_rounds(fooled_run: Path) -> None:
    html = report.write(fooled_run).read_text(encoding="utf-8")
    shown = html.partition('<section class="warning"')[2].partition("</section>")[0]
    assert re.findall("<li>(.*)</li>", shown) == [
        "alarm proxy_gap in round 2, 3, 4: the win rate by the scorer of training exceeds that by the evaluation "
        "scorer by 0.375 ± 0.050",
        "alarm length_drift in round 4: answers are 1.84 times as long as the start&#39;s",
    ]
    table = report.table(fooled_run).splitlines()
    assert table[0].endswith("alarms")
    assert [line.split()[-1] for line in table[4:7]] == ["proxy_gap", "proxy_gap", "length_drift"]


def test_a_reward_model_leads_with_its_accuracy(make_run: MakeRun) -> None:
    line = {"eval/accuracy": 0.7, "eval/accuracy_low": 0.62, "eval/accuracy_high": 0.77, "eval/log_loss": 0.6}
    folder = make_run([{"eval/accuracy": 0.5}, line], name="rewards", finished=True)
    page = page_of(folder)
    assert re.search(r"Held-out accuracy\s*0\.700\s*95 % interval 0\.620 to 0\.770, after round 1", page.words)
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    assert "Held-out accuracy: 0.5 in round 0, then 0.7 in round 1" in labels
    assert "Held-out log loss: 0.6 in round 1" in labels
    assert "Win rate against the start" not in page.words
    assert re.search(r"held-out accuracy +95 % interval\n", report.table(folder))
    assert re.search(r"0\.700 +0\.620–0\.770", report.table(folder))


def test_cycles_have_a_section_where_they_were_measured(make_run: MakeRun, good_run: Path) -> None:
    first = {"intransitivity/triads": 40.0, "intransitivity/cyclic_triads": 0.2, "intransitivity/hodge_residual": 0.4}
    last = first | {"intransitivity/cyclic_triads": 0.5, "intransitivity/cyclic_triads_low": 0.375}
    last |= {"intransitivity/cyclic_triads_high": 0.625, "intransitivity/gpm_gain": 0.1}
    page = page_of(make_run([{}, first, last, {"train/loss": 0.5}], name="round"))
    labels = [value for _, name, value in page.attributes if name == "aria-label"]
    assert "Cyclic triads: 0.2 in round 1, then 0.5 in round 2" in labels
    assert "Hodge residual: 0.4 in round 1, then 0.4 in round 2" in labels
    assert "Gain of two numbers: 0.1 in round 2" in labels
    assert "(0.375 to 0.625)" in page.words
    assert page.words.count(advice(last)) == 1
    assert advice(first) not in page.words
    assert "Transitivity" not in page_of(good_run).words


def test_buckets_are_counted_once(good_run: Path) -> None:
    labels = [value for _, name, value in page_of(good_run).attributes if name == "aria-label"]
    assert "Responses, total: 1,027 in round 1, then 1,036 in round 4" in labels  # without responses/sampled, their sum


def test_answers_stand_side_by_side(make_run: MakeRun) -> None:
    rows = {1: [row(start="the old one", answer="the new one", win=0.25, truncated=True)]}
    page = page_of(make_run([{}, {"eval/win_rate": 0.5}], rows))
    assert re.search(
        r"Say hello\..*Before utility 0\.250.*the old one.*After utility 1\.500.*the new one", page.words, re.S
    )
    assert "beats the start with 0.25 · cut at the limit" in page.words
    assert "worse than before" in page.words


def test_the_page_is_whole_and_needs_no_network(good_run: Path) -> None:
    html = report.write(good_run).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name in ("src", "xlink:href") or name.startswith("on")]
    links = [value for _, name, value in page.attributes if name == "href"]
    assert links and all(link.startswith(("#", "data:text/csv;")) for link in links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert '<meta charset="utf-8">' in html
    assert "width=device-width" in html
    assert "prefers-color-scheme: dark" in html


def test_the_same_folder_gives_the_same_bytes(good_run: Path) -> None:
    first = report.write(good_run).read_bytes()
    assert report.write(good_run).read_bytes() == first
    assert [path.name for path in good_run.iterdir() if "report" in path.name] == ["report.html"]


@pytest.mark.parametrize(
    "evil", [EVIL, "a\x00b\x1b[31mc\x07\x9b", "\u202egnp.exe\u2066", "שלום <b>", "<!-- ", "]]>", "</svg>"]
)
def test_what_others_wrote_is_text(make_run: MakeRun, evil: str) -> None:
    line = {f"eval/aspect/{evil}": 0.5, f"pairs/{evil}": 3, f"seconds/{evil}": 1.0, "eval/win_rate": 0.6}
    rows = {1: [row(prompt=evil, start=evil, answer=evil, prompt_id=evil)]}
    folder = make_run([{}, line], rows, name="x<b>&'\"")
    (folder / "config.yaml").write_text(f"# {evil!r}\nrounds: 2\nscorer: {json.dumps(evil)}\n", encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"starts": [{evil: evil}]}), encoding="utf-8")
    html = report.write(folder).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img", "b>"} & set(page.tags)
    assert page.tags.count("style") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "49" not in page.words
    assert page.words.count(visible(evil)) >= 6, "it is shown, wherever it stood"
    assert visible(evil)[:4] in report.samples(folder)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", report.samples(folder) + report.table(folder))


def test_what_was_not_measured_is_a_dash_and_never_zero(make_run: MakeRun) -> None:
    folder = make_run([{"eval/win_rate": 0.5}, {"train/loss": 0.7}, {"eval/win_rate": 0.7, "train/loss": 0.6}])
    table = [line.split() for line in report.table(folder).splitlines()]
    assert table[0] == ["round", "win", "rate", "loss"]
    assert table[2:] == [["0", "0.500", "—"], ["1", "—", "0.7000"], ["2", "0.700", "0.6000"]]
    page = page_of(folder)
    assert "KL" not in page.words
    assert "proxy" not in page.words
    assert "0.000" not in page.words


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{}],
        [{"eval/reward": 0.4}],
        [{"eval/reward": 0.4}, {"train/loss": 0.69}],
        [{"eval/reward": 0.0}, {"eval/reward": 0.0}],
        [{"eval/kl": float("nan"), "eval/reward": 1e300}, {"eval/kl": float("nan"), "eval/reward": -1e300}],
        [{"eval/kl": 1e-12, "pairs/used": 0}, {"eval/kl": float("inf"), "pairs/used": 0}],
        [{"eval/win_rate": 0.5, "eval/win_rate_low": 0.5, "eval/win_rate_high": float("nan")}],
        [{"seconds/learn": 1.0, "seconds/round": 0.5, "pairs/used": float("nan")}],
        [{"eval/length": float(round % 7), "pairs/used": round} for round in range(300)],
        [{f"pairs/{name}": 10 for name in "abcdefghijkl"}],
    ],
)
def test_any_run_makes_a_sane_page(make_run: MakeRun, lines: list[Line]) -> None:
    folder = make_run(lines)
    page = page_of(folder)
    numbers = [value for _, name, value in page.attributes if name in ("d", "x", "y", "x1", "y1", "cx", "cy", "height")]
    assert not [value for value in numbers if "nan" in value.lower() or "inf" in value.lower()]
    assert not [value for _, name, value in page.attributes if name in ("width", "height") and value.startswith("-")]
    assert "No round after the start was evaluated yet" in page.words
    assert report.table(folder)
    assert "no answers" in report.samples(folder)


def test_a_measure_that_is_no_number_is_said(make_run: MakeRun) -> None:
    folder = make_run([{"eval/kl": 0.5}, {"eval/kl": float("nan")}, {"eval/kl": 0.75}])
    page = page_of(folder)
    assert "eval/kl is not finite in round 1" in page.words
    paths = [value for tag, name, value in page.attributes if (tag, name) == ("path", "d")]
    assert [path.count("M") for path in paths] == [2], "the curve is broken where the number is"
    assert "NaN" in report.table(folder)


def test_a_round_that_is_not_closed_yet_is_not_shown(make_run: MakeRun) -> None:
    folder = make_run([{}, {"eval/win_rate": 0.6}], {1: [row(answer="closed")], 2: [row(answer="still open")]})
    page = page_of(folder)
    assert "closed" in page.words
    assert "still open" not in page.words
    assert "rounds: 1 of 4, not finished" in page.words


def test_the_judge_did_not_say(make_run: MakeRun) -> None:
    page = page_of(make_run([{}, {"eval/reward": 0.5}], {1: [row(win=None), row(win=float("nan"), prompt_id="b")]}))
    assert "beats the start with —" in page.words
    assert "beats the start with NaN" in page.words
    assert "worse than before" not in page.words


def test_long_answers_are_cut_and_say_so(make_run: MakeRun) -> None:
    folder = make_run([{}, {}], {1: [row(answer="x" * 5000)]})
    assert "(1,000 more characters)" in page_of(folder).words
    assert "(4,400 more characters)" in report.samples(folder)


def test_samples_are_those_that_changed_most(make_run: MakeRun) -> None:
    rows = [row(prompt_id=str(index), prompt=f"prompt {index:02d}", utility=0.25) for index in range(21)]
    rows[4]["utility"], rows[17]["utility"], rows[9]["win"] = -9.0, 4.0, 0.01
    rows[2] |= {"utility": 99.0, "start": "same", "answer": "same"}
    text = report.samples(make_run([{}, {}], {1: rows}), n=3)
    assert re.findall(r"prompt \d\d", text) == ["prompt 04", "prompt 17", "prompt 09"]
    assert "of the start and of round 1: 3 of 21, those that changed most" in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", '{"round": 0}\n{"round": 1, "ev', "metrics.jsonl, line 2"),
        ("metrics.jsonl", '{"round": 0}\n[1]\n', "metrics.jsonl, line 2"),
        ("metrics.jsonl", '{"round": 0}\n{"round": 0}\n', "round 0 is there twice"),
        ("config.yaml", "a: [", "config.yaml is no YAML"),
        ("manifest.json", "{", "manifest.json is no JSON"),
        ("rounds/00001/evaluation/compared.parquet", "PAR1", "compared.parquet is no table of answers"),
    ],
)
def test_a_damaged_file_is_named(make_run: MakeRun, name: str, text: str, message: str) -> None:
    folder = make_run([{}, {}], {1: [row()]})
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        report.write(folder)
    assert not (folder / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        report.write(tmp_path)
    with pytest.raises(ValueError, match="holds no run"):
        report.table(tmp_path / "nowhere")
