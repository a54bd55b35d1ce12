"""Several runs on one page, and the command that writes pages and CSV."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_flow import report
from rlhf_flow.cli.main import main
from tests.report.conftest import answers, metrics
from tests.report.test_page import CONFIG, labels, told
from tests.report.test_report import Page

MakeRun = Callable[..., Path]


def side_by_side(*folders: Path) -> Page:
    return Page(report.write_comparison(folders).read_text(encoding="utf-8"))


def better(rows: list[dict[str, object]], by: float) -> list[dict[str, object]]:
    return [row | {"win": float(row["win"]) + by} for row in rows]  # type: ignore[arg-type]


@pytest.fixture
def pair(make_run: MakeRun) -> tuple[Path, Path]:
    """The second wins 0.1 more often on the same prompts."""
    lines = [metrics(round) for round in range(5)]
    first = make_run(lines, {4: answers(40, 4)}, name="first")
    second = make_run(lines[:4], {3: better(answers(40, 3), 0.1)}, name="second")
    scorer = CONFIG["scorer"] | {"path": "/other/judge", "api_key": "s3cr3t"}  # type: ignore[operator]
    told(first, CONFIG | {"learner": {"lr": 0.1}})
    told(second, CONFIG | {"learner": {"lr": 0.2, "eps": 1}, "scorer": scorer, "run_dir": "/tmp/elsewhere"})
    return first, second


def test_curves_of_both_runs_share_a_chart(pair: tuple[Path, Path]) -> None:
    page = side_by_side(*pair)
    assert (
        "Win rate: first 0.5 in round 0, then 0.892 in round 4; second 0.5 in round 0, then 0.853 in round 3"
        in labels(page)
    )
    colours = {value for _, name, value in page.attributes if name == "class" and value.startswith("run")}
    assert colours == {"run1", "run2"}
    assert "eval" not in {value for _, name, value in page.attributes if name == "class"}, "a colour is a run here"


def test_the_last_rounds_stand_in_a_table_with_their_intervals(pair: tuple[Path, Path]) -> None:
    words = side_by_side(*pair).words
    assert re.search(
        r"Win rate\s*0\.892 \(0\.852 to 0\.922\), round 4\s*0\.853 \(0\.813 to 0\.883\), round 3", words
    ), words


def test_the_difference_is_paired_over_the_prompts_that_both_answered(pair: tuple[Path, Path]) -> None:
    """Each prompt differs by 0.1: paired, the interval is narrow, however much the prompts differ."""
    words = side_by_side(*pair).words
    assert "second minus first: win rate +0.100 (95 % interval +0.051 to +0.148), over 40 prompts" in words
    assert "that both answered, after rounds 3 and 4; second wins more often" in words


def test_a_difference_that_is_noise_is_called_so(make_run: MakeRun) -> None:
    rows = answers(40, 1)
    other = [row | {"win": float(row["win"]) + (0.2 if at % 2 else -0.2)} for at, row in enumerate(rows)]  # type: ignore[arg-type]
    folders = [make_run([{}, {}], {1: one}, name=name) for one, name in ((rows, "a"), (other, "b"))]
    assert "not significant: the interval covers 0" in side_by_side(*folders).words


def test_runs_that_share_no_prompt_are_not_paired(make_run: MakeRun) -> None:
    rows = [row | {"prompt": f"{row['prompt']}!"} for row in answers(4, 1)]
    folders = [make_run([{}, {}], {1: one}, name=name) for one, name in ((answers(4, 1), "a"), (rows, "b"))]
    folders.append(make_run([{}], name="c"))
    words = side_by_side(*folders).words
    assert "b minus a: not available: the runs share no held-out prompt with a verdict" in words
    assert "c minus a: not available: a run has no evaluated round after its start" in words


def test_keys_that_differ_are_listed_and_nothing_private(pair: tuple[Path, Path]) -> None:
    html = report.write_comparison(pair).read_text(encoding="utf-8")
    table = html.partition('id="differences"')[2].partition("</section>")[0]
    rows = dict(re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', table))
    assert sorted(rows) == ["learner.eps", "learner.lr", "scorer.api_key", "scorer.path"]
    assert rows["learner.lr"] == "<td>0.1</td><td>0.2</td>"
    assert rows["learner.eps"] == "<td>—</td><td>1</td>"
    assert rows["scorer.path"] == "<td>…/reward</td><td>…/judge</td>"
    assert rows["scorer.api_key"] == "<td>—</td><td>[secret]</td>"
    assert "s3cr3t" not in html and "/other" not in html and "/home" not in html


def test_judges_and_starts_that_differ_are_said(pair: tuple[Path, Path]) -> None:
    words = side_by_side(*pair).words
    assert "different evaluation scorers" in words and "different starts" not in words
    told(pair[1], CONFIG | {"model": {"path": "another"}})
    words = side_by_side(*pair).words
    assert "different starts" in words and "different evaluation scorers" not in words


def test_losses_of_different_objectives_are_not_compared(pair: tuple[Path, Path]) -> None:
    caution = "different objectives: their losses and margins are not comparable"
    assert caution not in side_by_side(*pair).words
    told(pair[1], CONFIG | {"objective": {"_target_": "rlhf_flow.objective.ipo.IPO"}})
    assert caution in side_by_side(*pair).words


def test_the_table_begins_with_what_the_runs_asked(pair: tuple[Path, Path]) -> None:
    assert re.search(r"Queries of training\s*4,096\s*3,072\s*Win rate", side_by_side(*pair).words)


def test_runs_of_one_name_are_told_apart_and_foreign_names_are_text(make_run: MakeRun, tmp_path: Path) -> None:
    one = make_run([{}, {"eval/win_rate": 0.5}], name="x<b>&")
    two = tmp_path / "elsewhere" / one.name
    two.parent.mkdir()
    one.rename(two)
    page = side_by_side(make_run([{}, {"eval/win_rate": 0.6}], name="x<b>&"), two)
    assert "x<b>& (1)" in page.words and "x<b>& (2)" in page.words and "b" not in page.tags[:12]


@pytest.mark.parametrize("lines", [[], [{}], [{"eval/kl": float("nan")}]])
def test_any_run_can_stand_beside_another(make_run: MakeRun, good_run: Path, lines: list[dict[str, float]]) -> None:
    assert side_by_side(good_run, make_run(lines, name="bare")).words
    assert side_by_side(make_run(lines, name="other"), good_run).words


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_pages_and_csv(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(pair[0]), "--csv", str(tmp_path / "csv")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(pair[0] / "report.html") and str(tmp_path / "csv" / "win-rate.csv") in said
    assert main(["report", *map(str, pair)]) == 0
    assert capsys.readouterr().out.strip() == str(pair[0] / "compared.html")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{}", "--cvs", "x"], "unrecognized arguments: --cvs x. Try rlhf-flow report --help."),
        (["{}"] * 5, "a comparison takes 2 to 4 runs, got 5"),
        (["{}", "{}", "--csv", "x"], "--csv writes the charts of one run"),
        (["--csv", "x"], "Try rlhf-flow report --help."),
    ],
)
def test_a_mistake_in_the_command_is_one_paragraph(
    arguments: list[str], said: str, good_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(argument.format(good_run) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err
