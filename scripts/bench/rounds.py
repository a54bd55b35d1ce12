"""Rounds per second from end to end, beside TRL's OnlineDPOTrainer on the same machine in the same minutes.

    python scripts/bench/rounds.py                                          # W5 and W5v, in float32 and bfloat16
    python scripts/bench/rounds.py --workloads W6 --model FOLDER --prompts FILE.jsonl

The sides alternate (A B C A B C ...), each in a process of its own with all cores. A side's figure is the median over
its timed rounds of all alternations, with the range of the alternations' medians. TRL always draws two answers per
prompt, so the ratio compares answers per second. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peer import ours, theirs
from peer.workload import W6, WORKLOADS, Workload, build

from rlhf_flow.system import machine

PEER = "TRL"
LR = 1e-6


@dataclass
class Side:
    """The timed rounds of one side: seconds by stage, one list per alternation."""

    name: str
    answers: int  # per round
    runs: list[list[dict[str, float]]] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Answers per second, of each alternation."""
        return [self.answers / statistics.median(one["round"] for one in run) for run in self.runs]

    @property
    def rate(self) -> float:
        return self.answers / statistics.median(one["round"] for run in self.runs for one in run)

    def stages(self) -> dict[str, float]:
        """The median seconds of each stage of at least a hundredth of the round."""
        every = [one for run in self.runs for one in run]
        medians = {name: statistics.median(one[name] for one in every) for name in every[0]}
        return {name: value for name, value in medians.items() if value >= medians["round"] / 100}


def measure(workload: Workload, dtype: str, asked: argparse.Namespace, folder: Path, trl: Path) -> list[Side]:
    """Each side of a workload, the peer first."""
    model, prompts = (asked.model, asked.prompts) if workload is W6 else build(workload, folder)
    sides = [
        Side(PEER, 2 * workload.prompts),
        *(Side(name, workload.answers * workload.prompts) for name in asked.stacks),
    ]
    for turn in range(asked.repeats):
        seconds, settings = theirs.rounds(
            trl, workload, model, prompts, dtype=dtype, timed=asked.rounds, lr=LR, threads=machine.cores()
        )
        if turn == 0:
            print(
                f"{PEER} {theirs.TRL}: {', '.join(f'{name}={value}' for name, value in settings.items())}", flush=True
            )
        sides[0].runs.append([{"round": one} for one in seconds])
        for side in sides[1:]:
            run = folder / f"{side.name}-{turn}".replace(" ", "-")
            named = {"dtype": dtype, "timed": asked.rounds, "lr": LR, "checkpoints": asked.checkpoints}
            side.runs.append(ours.rounds(side.name, workload, model, prompts, run, **named))
    return sides


def table(workload: Workload, dtype: str, sides: Sequence[Side]) -> str:
    peer = sides[0]
    lines = [
        f"{workload.name} {dtype}: {workload.about}",
        f"{'':18}{'answers/s':>10}  {'range':15}{'ratio':>7}  s per round",
    ]
    for side in sides:
        low, high = min(side.rates), max(side.rates)
        stages = ", ".join(f"{name} {value:.2f}" for name, value in side.stages().items())
        lines.append(
            f"{side.name:18}{side.rate:10.1f}  {f'{low:.1f} to {high:.1f}':15}{side.rate / peer.rate:7.2f}  {stages}"
        )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["W5", "W5v"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--stacks", nargs="+", choices=ours.STACKS, default=list(ours.STACKS))
    parser.add_argument("--model", type=Path, help="of W6: the folder of a chat model")
    parser.add_argument("--prompts", type=Path, help="of W6: a JSONL file with a column `prompt`")
    parser.add_argument("--repeats", type=int, default=3, help="alternations (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each alternation (default: %(default)s)")
    parser.add_argument("--checkpoints", action="store_true", help="write one each round; the peer writes none")
    parser.add_argument("--peers", type=Path, default=Path("build/peers"), help="where TRL is installed")


def measure_all(asked: argparse.Namespace) -> list[dict[str, object]]:
    """Print a table for each workload and dtype; return their rows. Raises ValueError for W6 without its files."""
    if W6.name in asked.workloads and not (asked.model and asked.prompts):
        raise ValueError("W6 needs --model and --prompts")
    trl, results = theirs.installed(asked.peers.resolve()), list[dict[str, object]]()
    for name in asked.workloads:
        for dtype in asked.dtypes:
            with tempfile.TemporaryDirectory() as folder:
                sides = measure(WORKLOADS[name], dtype, asked, Path(folder), trl)
            print(f"\n{table(WORKLOADS[name], dtype, sides)}", flush=True)
            results += [{"workload": name, "dtype": dtype, "side": side.name, "runs": side.runs} for side in sides]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    measure_all(parser.parse_args())


if __name__ == "__main__":
    main()
