"""Tell what a run would take, before it takes it: `rlhf-flow plan`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf_flow.capacity.estimate import Planned, plan
from rlhf_flow.capacity.fit import room
from rlhf_flow.capacity.process_memory import Memory, size_of, told
from rlhf_flow.config import compose as configuration


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 where all fits, else 1. Raises ValueError, or what Hydra raises, for a mistake."""
    parser = argparse.ArgumentParser(prog="rlhf-flow plan", description=__doc__, allow_abbrev=False)
    parser.add_argument("--memory", metavar="SIZE", help="of each GPU, or of a host without any: 80GiB; else as here")
    parser.add_argument("--gpus", type=int, metavar="N", help="how many there will be; else as here")
    parser.add_argument("--like", type=Path, metavar="RUN", help="a run whose rounds tell how long these will take")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.add_argument("--config-dir", "-cd", action="append", default=[], help="where to look for files as well")
    parser.add_argument("--config-name", "-cn", default="run", help="run, or train-reward")
    parser.add_argument("overrides", nargs="*", help="those of `rlhf-flow run`")
    asked = parser.parse_intermixed_args(list(arguments))
    config = configuration.compose(*asked.overrides, name=asked.config_name, folders=asked.config_dir)
    there = room(None if asked.memory is None else size_of(asked.memory), asked.gpus)
    planned = plan(config, there, like=asked.like)
    if asked.json:
        print(json.dumps(asdict(planned) | {"fits": not planned.problems}, indent=1))
    else:
        print("\n".join(page(planned)))
    return 1 if planned.problems else 0


def page(planned: Planned) -> Iterator[str]:
    shape, work, there = planned.shape, planned.work, planned.room
    pages = f" (up to {work.pages} pages)" if work.pages > 1 else ""
    rounds, asked = work.rounds, work.prompts * work.pages
    yield (
        f"model      {shape.parameters / 1e6:,.1f} M weights: {shape.layers} layers of {shape.width}, "
        f"vocabulary {shape.vocabulary}"
    )
    yield (
        f"a round    {work.prompts} prompts{pages} x {work.answers} answers, {work.drawn} of them drawn: at most "
        f"{work.tokens_drawn:,} tokens"
    )
    yield (
        f"           at most {work.pairs_learned} pairs, {planned.steps} optimizer steps; the last of "
        f"{planned.last_batch} pairs, with {planned.idle} places empty"
    )
    yield f"           longest sequence {work.positions} tokens, {work.longest_prompt} of them the prompt"
    yield (
        f"the run    {rounds} rounds: {rounds * asked:,} prompts, at most {rounds * work.tokens_drawn:,} tokens and "
        f"{rounds * planned.steps:,} steps"
    )
    for one in planned.calls:
        cost = f", at most {one.cost:,.2f}" if one.cost else ""
        yield (
            f"calls      {one.slot}: {one.round:,} a round, {one.run:,} in all, about {one.tokens_in:,} tokens in and "
            f"{one.tokens_out:,} out{cost}"
        )
    yield ""
    yield from _memory(planned)
    yield ""
    disk = planned.disk
    yield (
        f"disk       {told(disk.round)} a round (policy {told(disk.policy)}, learner {told(disk.learner)}, rows "
        f"{told(disk.rows)}), at most {told(disk.most)} at once, {told(disk.end)} in the end"
    )
    if planned.seconds is not None:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in planned.seconds.stages.items())
        yield (
            f"time       {planned.seconds.round:,.0f} s a round, {planned.seconds.total:,.0f} s in all, as "
            f"{planned.seconds.run} went ({stages})"
        )
    else:
        yield "time       unknown: --like RUN takes it from a run that is done"
    has = f"{there.gpus} GPUs of {told(there.gpu)}, " if there.gpus else ""
    yield f"room       {has}host {told(there.host)}"
    yield from (f"note       {note}" for note in planned.notes)
    yield from (f"PROBLEM    {problem}" for problem in planned.problems)
    if not planned.problems:
        yield "It fits."


def _memory(planned: Planned) -> Iterator[str]:
    yield f"{'memory':11}{'':14} {'peak of each':>12}  of what, in which phase"
    for one in planned.memories:
        yield f"{'':11}{_who(one):14} {told(one.bytes):>12}  {one.peak.name}: {_items(one)}"
    yield f"{'':11}{'libraries':14} {told(planned.libraries):>12}  of all processes, on the host"
    if planned.object_store:
        where = "" if planned.each is None else ", once on each node"
        yield f"{'':11}{'object store':14} {told(planned.object_store):>12}  policies that a round names{where}"
    yield f"{'':11}{'host':14} {told(planned.host):>12}  all of it together"
    if (each := planned.each) is not None:
        gpus = f"{each.gpus} GPUs and " if each.gpus else ""
        yield f"nodes      {each.nodes}: of each {gpus}{told(each.host)} of the host, where processes divide evenly"


def _who(one: Memory) -> str:
    return f"{one.role}{f' x{one.processes}' if one.processes > 1 else ''}" + (" GPU" if one.where == "GPU" else "")


def _items(one: Memory) -> str:
    items = {**one.peak.items, "kept by the allocator": one.bytes - one.peak.bytes}
    return ", ".join(f"{name} {told(bytes)}" for name, bytes in items.items() if bytes)
