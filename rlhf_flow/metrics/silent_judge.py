"""A scorer that gives almost no verdicts stops the run."""

from __future__ import annotations

from collections.abc import Mapping

FEW, MANY = 8, 16  # questions


class SilentJudgeError(RuntimeError):
    """A scorer gave almost no verdicts. Its last chunk is not committed, so the next start asks again."""


def check_silence(counts: Mapping[str, float], limit: float | None, *, slot: str) -> None:
    """Raise SilentJudgeError if a scorer gives verdicts on less than `limit` of its questions.

    Questions beyond a cap of its budget do not count, since the user set it. To exclude chance it takes `FEW` questions
    without a single verdict, or `MANY`.
    """
    asked = counts.get("judge/asked", 0) - counts.get("judge/capped", 0)
    verdicts = counts.get("judge/verdicts", 0)
    enough = FEW if verdicts == 0 else MANY
    if limit is None or asked < enough or verdicts >= limit * asked:
        return
    remedies = {
        "cut": f"raise {slot}.max_tokens (a thinking model needs thousands, or {slot}.thinking=false)",
        "empty": f"raise {slot}.max_tokens, or look at the endpoint's replies",
        "unclear": f"set {slot}.structured=auto, or a {slot}.template that asks for the verdict alone",
        "failed": f"look at {slot}.endpoint",
        "inconsistent": f"set {slot}.inconsistent=average, or use another judge",
    }
    causes = {name: counts.get(f"judge/{name}", 0) for name in remedies}
    shown = ", ".join(f"{number:g} {name}" for name, number in causes.items() if number) or "no cause is known"
    worst = max(causes, key=lambda name: causes[name])
    remedy = f"Fix: {remedies[worst]}. " if causes[worst] else ""
    raise SilentJudgeError(
        f"alarms.silent_judge={limit:g}: {slot} gave {verdicts:g} verdicts on {asked:g} questions ({shown}). {remedy}"
        "Until the run has a verdict, a resumed run may change these keys; alarms.silent_judge=null continues without "
        "verdicts."
    )
