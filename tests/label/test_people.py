"""The page for everybody: keyboards, phones, browsers that keep nothing, proxies, formulas, guidelines and history."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_flow.label.view import first_left
from rlhf_flow.scorer.human.annotations import Annotations
from tests.support.browser import Browser, Tab
from tests.support.labelling import READY, RESTING, Server, ask, joined, question, questions, text, verdicts

pytest.importorskip("fastapi")
pytestmark = pytest.mark.browser

LONG = "\n\n".join(f"Paragraph {k} of a long answer." for k in range(60))
REFUSED = """
for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("refused", "SecurityError"); } });
"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"


def tell(labels: Path, guidelines: str) -> None:
    annotations = Annotations(labels)
    annotations.tell(guidelines)
    annotations.close()


def said(labels: Path) -> list[tuple[str, str]]:
    """Verdicts and comments, the latest first."""
    annotations = Annotations(labels)
    found = [(one.verdict, one.comment) for one in annotations.labels()]
    annotations.close()
    return found


def chosen(tab: Tab) -> str:
    return str(tab.run("document.body.dataset.chosen ?? 'nothing'"))


@pytest.mark.parametrize(
    ("layout", "keys"),
    [
        ("AZERTY", [("&", "Digit1"), ("é", "Digit2"), ("=", "Equal"), ("b", "KeyB"), ("s", "KeyS")]),
        ("Cyrillic", [("1", "Digit1"), ("2", "Digit2"), ("0", "Digit0"), ("и", "KeyB"), ("ы", "KeyS")]),
        ("Dvorak", [("1", "Digit1"), ("2", "Numpad2"), ("=", "BracketRight"), ("b", "KeyN"), ("s", "Semicolon")]),
        ("Arabic", [("١", "Digit1"), ("٢", "Digit2"), ("٠", "Digit0"), ("لا", "KeyB"), ("س", "KeyS")]),
    ],
)
def test_keys_work_on_the_keyboards_of_the_world(
    browser: Browser, labels: Path, server: Server, layout: str, keys: list[tuple[str, str]]
) -> None:
    asked = questions(5)
    ask(labels, asked, needed=2)
    ann = joined(browser, server, "Ann")
    for number, (key, code) in enumerate(keys):
        ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question {number}?')")
        ann.press(key, code)
    ann.until(RESTING)
    first = [first_left(one.key, "Ann") for one in asked[:2]]
    expected = ["first" if first[0] else "second", "second" if first[1] else "first", "tie", "bad", "skip"]
    assert [one["Ann"] for one in verdicts(labels, asked)] == expected


def test_keys_that_mean_something_else_label_nothing(browser: Browser, labels: Path, server: Server) -> None:
    """Another letter at the place of one of ours, shortcuts of the browser, and what is typed into the comment."""
    ask(labels, questions(1))
    ann = joined(browser, server, "Ann")
    ann.until(READY)
    for key, code, modifiers in (("o", "KeyS", 0), ("!", "Digit1", 8), (";", "KeyS", 0), ("1", "Digit1", 2),
                                 ("s", "KeyS", 4), ("2", "Digit2", 1)):  # fmt: skip
        ann.press(key, code, modifiers)
    ann.press("c", "KeyC")
    for key in "12sub":
        ann.press(key)
    assert ann.run("document.querySelector('#comment').value") == "12sub"
    assert (chosen(ann), said(labels)) == ("nothing", [])
    ann.press("Escape", "Escape")
    ann.press("b", "KeyB")
    ann.until(RESTING)
    assert said(labels) == [("bad", "12sub")]


@pytest.mark.parametrize("refusal", [REFUSED, FULL], ids=["refused", "full"])
def test_a_browser_that_keeps_nothing_labels_all_the_same(
    browser: Browser, labels: Path, server: Server, refusal: str
) -> None:
    asked = questions(3)
    ask(labels, asked)
    tab = browser.tab()
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=refusal)
    tab.call("Emulation.setDocumentCookieDisabled", disabled=True)
    tab.open(server.url)
    tab.until("!document.querySelector('#join').hidden")
    tab.type("#name", "Ann")
    tab.click("#join button")
    tab.until(READY)
    tab.press("=")
    tab.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 1?')")
    tab.reload()
    tab.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 1?')")
    tab.press("=")
    tab.until("document.querySelector('#ask').innerText.includes('Question 2?')")
    assert verdicts(labels, asked) == [{"Ann": "tie"}, {"Ann": "tie"}, {}]
    assert tab.complaints() == []


def test_a_proxy_may_serve_it_under_a_path(browser: Browser, labels: Path, server: Server) -> None:
    ask(labels, questions(1))
    tab = browser.tab()
    tab.open(f"{server.url}/labels/of/mine/")
    tab.until("!document.querySelector('#join').hidden")
    tab.type("#name", "Ann")
    tab.click("#join button")
    tab.until(READY)
    tab.press("=")
    tab.until(RESTING)
    assert said(labels) == [("tie", "")] and tab.complaints() == []


def test_on_a_phone_there_is_no_verdict_before_answer_2_was_seen(
    browser: Browser, labels: Path, server: Server
) -> None:
    ask(labels, [question(LONG, LONG + " And more.")])
    tab = browser.tab()
    tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    tab.open(server.url)
    tab.type("#name", "Ann")
    tab.click("#join button")
    tab.until("document.body.dataset.seen === 'false'")
    tab.run("new Promise((resolve) => setTimeout(resolve, 400))")
    for key in "12=b":
        tab.press(key)
    for choice in ("right", "left", "tie", "bad"):
        tab.run(f"document.querySelector('[data-choice={choice}]').click()")
    assert (chosen(tab), said(labels)) == ("nothing", [])
    assert not tab.run("document.querySelector('#skip').hasAttribute('aria-disabled')"), "a skip needs no reading"
    tab.run("document.querySelector('#right').scrollIntoView()")
    tab.until(READY)
    tab.press("2")
    tab.until(RESTING)
    assert len(said(labels)) == 1


def test_skips_come_back_to_whoever_skipped(browser: Browser, labels: Path, server: Server) -> None:
    asked = questions(2)
    ask(labels, asked)
    ann = joined(browser, server, "Ann")
    for number in range(2):
        ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question {number}?')")
        ann.press("s")
    ann.until("document.querySelector('#again').innerText.includes('(2)')")
    bob = joined(browser, server, "Bob")
    bob.until(READY)
    ann.click("#again")
    ann.until(READY)
    assert text(ann) != text(bob)


def test_formulas_are_shown_as_they_were_written_and_so_is_everything_by_a_switch(
    browser: Browser, labels: Path, server: Server
) -> None:
    answer = "So $x_1*y_2*z$ and \\(a_b\\) with `__init__` and __init__.\n\n\\[\n\\frac{1}{2}\n\\]\n\n**Bold**"
    ask(labels, [question(answer, "[1]: https://example.org")])
    ann = joined(browser, server, "Ann")
    ann.until(READY)
    shown = text(ann)
    for part in ("$x_1*y_2*z$", "\\(a_b\\)", "with __init__ and __init__.", "\\frac{1}{2}", "[1]: https://example.org"):
        assert part in shown
    assert "**Bold**" not in shown
    ann.press("r")
    assert answer in ann.run("[...document.querySelectorAll('.answers .text')].map((one) => one.textContent).join(' ')")
    ann.click("#raw")
    assert ann.run("document.querySelectorAll('.answers strong').length") == 1


def test_guidelines_are_open_at_first_and_stay_as_they_were_left(
    browser: Browser, labels: Path, server: Server
) -> None:
    tell(labels, "# Rules\n\nBe **kind**. <img src=x onerror=\"document.title='ran'\">")
    ask(labels, questions(1))
    ann = joined(browser, server, "Ann")
    ann.until("!document.querySelector('#guidelines').hidden")
    assert ann.run("document.querySelector('#guidelines h1').innerText") == "Rules"
    assert ann.run("document.querySelectorAll('#guidelines img').length") == 0
    ann.press("g")
    assert ann.run("document.querySelector('#guidelines').hidden")
    ann.reload()
    ann.until(READY)
    ann.until("!document.querySelector('#guide').hidden")
    assert ann.run("document.querySelector('#guidelines').hidden"), "they were read"
    ann.click("#guide")
    assert not ann.run("document.querySelector('#guidelines').hidden")
    assert ann.run("document.title") == "Which answer is better?"


def test_a_label_is_changed_from_the_history(browser: Browser, labels: Path, server: Server) -> None:
    """Also under a hostile name and with a hostile comment."""
    name, comment = "<img src=x onerror=document.title='ran'>", "<script>document.title='ran'</script>"
    asked = questions(2)
    ask(labels, asked)
    ann = joined(browser, server, name)
    ann.until(READY)
    ann.type("#comment", comment)
    ann.click("[data-choice=bad]")
    ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 1?')")
    ann.press("h")
    ann.until("document.querySelector('#history').open && !!document.querySelector('#labels button')")
    assert comment in ann.run("document.querySelector('#labels').innerText")
    ann.press("1")
    ann.click("#labels button")
    ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 0?')")
    assert "Both are bad" in ann.run("document.querySelector('#editing').innerText")
    assert ann.run("document.querySelector('#comment').value") == comment
    ann.click("[data-choice=tie]")
    ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 1?')")
    assert said(labels) == [("tie", comment)]
    assert ann.run("document.title") == "Which answer is better?" and ann.complaints() == []


def test_another_browser_cannot_label_under_a_name_that_is_taken(
    browser: Browser, labels: Path, server: Server
) -> None:
    ask(labels, questions(2), needed=2)
    ann = joined(browser, server, "Ann")
    ann.press("=")
    ann.until(f"{READY} && document.querySelector('#ask').innerText.includes('Question 1?')")
    other = browser.tab()
    other.open(server.url)
    other.type("#name", "Ann")
    other.click("#join button")
    other.until("document.querySelector('#alert').innerText.includes('Take another name')")
    other.run("document.querySelector('#name').value = ''")
    other.type("#name", "Ann from home")
    other.click("#join button")
    other.until(READY)
    assert "Question 0?" in text(other)
