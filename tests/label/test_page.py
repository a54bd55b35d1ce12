"""The page in a real browser: whatever people do, no label is lost and none is doubled. Skipped without Chromium."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rlhf_flow.label.view import first_left
from rlhf_flow.scorer.human.annotations import FILE
from tests.support.browser import Browser, Tab
from tests.support.labelling import READY, RESTING, Server, ask, joined, labelling, question, questions, text, verdicts

pytest.importorskip("fastapi")
pytestmark = pytest.mark.browser

CHOSEN = "document.body.dataset.chosen ?? 'nothing'"  # of the pair that is shown
PLANTED = """\
# Heading <script>document.documentElement.dataset.ran = "yes"</script>
<img src=x onerror="document.documentElement.dataset.ran = 'yes'"> <b>bold</b> **strong**
[press](javascript:document.documentElement.dataset.ran='yes') [web](https://example.org) ![i](https://example.org/i.png)

| a | b |
|:--|--:|
| 1 | 2 |
"""


def prefer_first(tab: Tab) -> None:
    """Say by the keyboard that the answer which says "first" is better, wherever it stands; wait for what is next."""
    tab.until(READY)
    before = text(tab)
    tab.press("1" if "first" in tab.run("document.querySelector('#left').innerText") else "2")
    tab.until(f"{RESTING} || {READY} && document.querySelector('#ask').innerText !== {before!r}")


def rows(labels: Path) -> int:
    """Every label that was ever written, with those that were undone."""
    return int(sqlite3.connect(labels / FILE).execute("SELECT count(*) FROM labels").fetchone()[0])


def test_two_people_at_once_label_every_pair_once(browser: Browser, labels: Path, server: Server) -> None:
    asked = questions(6)
    ask(labels, asked)
    ann, bob = joined(browser, server, "Ann"), joined(browser, server, "Bob")
    assert text(ann) != text(bob), "one verdict is enough: nobody reads what another one reads"
    while not (ann.run(RESTING) and bob.run(RESTING)):
        for tab in (ann, bob):
            if tab.run(READY):
                prefer_first(tab)
    said = verdicts(labels, asked)
    assert [list(one.values()) for one in said] == [["first"]] * 6
    assert {name for one in said for name in one} == {"Ann", "Bob"}
    ann.until("document.querySelector('#rest').innerText.includes('All pairs are labelled')")
    assert ann.complaints() == bob.complaints() == []


def test_when_both_must_say_each_sees_every_pair_and_the_page_shows_whether_they_agree(
    browser: Browser, labels: Path, server: Server
) -> None:
    asked = questions(4)
    ask(labels, asked, needed=2)
    ann, bob = joined(browser, server, "Ann"), joined(browser, server, "Bob")
    for _ in asked:
        prefer_first(ann)
    assert "for other people" in ann.run("document.querySelector('#rest').innerText")
    for _ in asked[1:]:
        prefer_first(bob)
    bob.click("[data-choice=tie]")
    bob.until(RESTING)
    assert verdicts(labels, asked) == [*([{"Ann": "first", "Bob": "first"}] * 3), {"Ann": "first", "Bob": "tie"}]
    assert "Agreement 75 % on 4 pairs" in bob.run("document.querySelector('#agreement').innerText")


def test_the_side_of_an_answer_is_drawn_and_buttons_mean_what_they_say(
    browser: Browser, labels: Path, server: Server
) -> None:
    asked = questions(8)
    ask(labels, asked)
    ann, left = joined(browser, server, "Ann"), []
    for _ in asked:
        ann.until(READY)
        left.append("first" in ann.run("document.querySelector('#left').innerText"))
        before = text(ann)
        ann.click("[data-choice=left]")
        ann.until(f"{RESTING} || {READY} && document.querySelector('#ask').innerText !== {before!r}")
    assert left == [first_left(one.key, "Ann") for one in asked]
    assert [one["Ann"] for one in verdicts(labels, asked)] == ["first" if first else "second" for first in left]


def test_reload_and_the_back_button_lose_and_double_nothing(browser: Browser, labels: Path, server: Server) -> None:
    asked = questions(4)
    ask(labels, asked)
    ann = joined(browser, server, "Ann")
    prefer_first(ann)
    before = text(ann)
    ann.reload()
    ann.until(READY)
    assert text(ann) == before
    prefer_first(ann)
    before = text(ann)
    ann.open("about:blank")
    ann.back()
    ann.until(READY)
    assert text(ann) == before
    prefer_first(ann)
    prefer_first(ann)
    assert [list(one.values()) for one in verdicts(labels, asked)] == [["first"]] * 4
    assert rows(labels) == 4


def test_a_double_click_is_one_label_however_fast_the_next_pair_is_there(
    browser: Browser, labels: Path, server: Server
) -> None:
    asked = questions(3)
    ask(labels, asked)
    ann = joined(browser, server, "Ann")
    ann.until(READY)
    ann.click("[data-choice=tie]", 1, 2)
    ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 1')")
    ann.click("[data-choice=tie]", 2)  # the second click of the two, when the next pair is there
    assert ann.run(CHOSEN) == "nothing"
    assert verdicts(labels, asked) == [{"Ann": "tie"}, {}, {}]
    ann.run(  # a key that is pressed before anybody can have seen the pair that has just come
        "new MutationObserver(() =>"
        " document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '=', bubbles: true})))"
        ".observe(document.querySelector('#left'), {childList: true}) ?? true"
    )
    ann.press("=")
    ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 2')")
    assert ann.run(CHOSEN) == "nothing"
    assert verdicts(labels, asked) == [{"Ann": "tie"}, {"Ann": "tie"}, {}]
    assert rows(labels) == 2


def test_undo_brings_the_pair_back_and_skip_leaves_it(browser: Browser, labels: Path, server: Server) -> None:
    asked = questions(2)
    ask(labels, asked, needed=2)
    ann = joined(browser, server, "Ann")
    before = text(ann)
    prefer_first(ann)
    ann.press("u")
    ann.until(f"{READY} && document.querySelector('#ask').innerText === {before!r}")
    assert verdicts(labels, asked) == [{}, {}]
    ann.press("s")
    ann.until(f"{READY} && document.querySelector('#ask').innerText !== {before!r}")
    prefer_first(ann)
    assert verdicts(labels, asked) == [{"Ann": "skip"}, {"Ann": "first"}]
    ann.click("#undo")
    ann.until(READY)
    assert verdicts(labels, asked) == [{"Ann": "skip"}, {}]


def test_a_label_that_finds_no_server_is_kept_and_sent_when_it_is_back(browser: Browser, tmp_path: Path) -> None:
    labels, asked = tmp_path / "labels", questions(3)
    ask(labels, asked)
    with labelling(labels.parent) as first:
        ann = joined(browser, first, "Ann")
        prefer_first(ann)
        before = text(ann)
        first.kill()
        ann.press("=")
        ann.until("document.querySelector('#alert').innerText.includes('Your label is kept here')")
        ann.press("=")
        ann.press("u")
        assert verdicts(labels, asked) == [{"Ann": "first"}, {}, {}]
    with labelling(labels.parent, port=first.port):
        ann.until(f"{READY} && document.querySelector('#ask').innerText !== {before!r}")
        assert ann.run("document.querySelector('#alert').hidden")
        assert verdicts(labels, asked) == [{"Ann": "first"}, {"Ann": "tie"}, {}]
        prefer_first(ann)
        assert rows(labels) == 3


def test_a_page_that_was_closed_with_a_label_unsent_sends_it_when_it_is_opened_again(
    browser: Browser, tmp_path: Path
) -> None:
    labels, asked = tmp_path / "labels", questions(2)
    ask(labels, asked)
    with labelling(labels.parent) as first:
        ann = joined(browser, first, "Ann")
        first.kill()
        ann.press("s")
        ann.until("document.querySelector('#alert').innerText.includes('Your label is kept here')")
        ann.open("about:blank")
    with labelling(labels.parent, port=first.port) as second:
        ann.open(second.url)
        ann.until(READY)
        assert verdicts(labels, asked) == [{"Ann": "skip"}, {}]


def test_a_label_that_can_never_be_written_is_told_and_the_page_goes_on(
    browser: Browser, labels: Path, server: Server
) -> None:
    asked = questions(2)
    ask(labels, asked)
    ann = joined(browser, server, "Ann")
    with sqlite3.connect(labels / FILE) as file:
        file.execute("DELETE FROM questions WHERE key = ?", [asked[0].key])
    ann.press("=")
    ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 1')")
    assert "refused a label" in ann.run("document.querySelector('#alert').innerText")


def test_the_page_waits_for_questions_and_shows_them_by_itself(browser: Browser, labels: Path, server: Server) -> None:
    ann = joined(browser, server, "Ann")
    assert "waits for the next round" in ann.run("document.querySelector('#rest').innerText")
    ask(labels, questions(1))
    ann.until(READY)
    assert "Question 0?" in text(ann)


def test_what_an_answer_plants_is_shown_and_not_run(browser: Browser, labels: Path, server: Server) -> None:
    ask(labels, [question(PLANTED, "", asked=PLANTED)])
    ann = joined(browser, server, "Ann")
    assert '<script>document.documentElement.dataset.ran = "yes"</script>' in text(ann)
    assert "[press](javascript:" in text(ann)
    found = "[...document.querySelectorAll('.text {}')].map((one) => one.getAttribute('href') ?? one.textContent)"
    assert ann.run(found.format("a")) == ["https://example.org", "https://example.org/i.png"] * 2
    assert ann.run(found.format("strong")) == ["strong"] * 2
    assert ann.run(found.format("td")) == ["1", "2"] * 2
    assert ann.run("document.querySelectorAll('.text script, .text img, .text b, .text [style]').length") == 0
    assert ann.run("document.documentElement.dataset.ran ?? 'no'") == "no"
    assert ann.complaints() == []
    ann.run("document.querySelector('.text').insertAdjacentHTML('beforeend', '<img src=x onerror=\"ran = 1\">')")
    ann.until("true")
    assert any("Content Security Policy" in line for line in ann.complaints()), "and nothing that got in would run"
