"""The claims that take a moment are checked here; `rlhf-flow verify` checks all, and one that fails is seen to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.cli.verify import Checked, as_json, chosen, markdown, table
from rlhf_flow.verify.claim import Claim, below
from rlhf_flow.verify.claims import CLAIMS

QUICK = [claim for claim in CLAIMS if claim.seconds <= 2 and not claim.id.startswith("L")]  # L: tests/objective


@pytest.mark.slow
@pytest.mark.parametrize("claim", [pytest.param(one, id=one.id) for one in QUICK])
def test_a_quick_claim_holds(claim: Claim) -> None:
    findings = list(claim.check(0))
    assert findings
    assert [one for one in findings if not one.holds] == []


def test_names_are_unique_and_every_claim_says_where_it_is_from() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.paper and claim.says for claim in CLAIMS)


def test_a_part_of_the_claims_can_be_chosen() -> None:
    assert [claim.id for claim in chosen(["V8"])] == ["V8a", "V8b", "V8c"]
    assert {claim.method for claim in chosen(["XPO"])} == {"XPO"}
    assert chosen([]) == CLAIMS
    with pytest.raises(ValueError, match=r"--only V99 matches no claim\. Try one of L1"):
        chosen(["V99"])


def broken(seed: int) -> list:
    return [below("something", 2.0, 1.0)]


def test_a_claim_that_fails_is_a_failure_everywhere() -> None:
    claim = Claim("X", "method", "says", "paper", broken)
    found = Checked("X", tuple(broken(0)), 0.0)
    assert not found.holds
    assert "**fails**" in markdown([claim], [found])
    assert json.loads(as_json([claim], [found], seed=0))["claims"][0]["holds"] is False
    assert table([claim], [found]).row_count == 1
    assert not Checked("X", (), 0.0).holds  # nothing found is nothing shown
    assert not Checked("X", (), 0.0, error="RuntimeError: no equilibrium").holds


@pytest.mark.slow
def test_the_command_checks_claims_side_by_side_and_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--only", "V12", "V13", "--jobs", "2", "--json", str(tmp_path / "found.json")]) == 0
    assert "3 of 3 claims hold" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [claim["id"] for claim in found["claims"]] == ["V12", "V12b", "V13"]
    assert all(claim["holds"] for claim in found["claims"])


def test_a_wrong_name_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--only", "V99"]) == 2
    assert "matches no claim" in capsys.readouterr().err
