"""`rlhf-flow plan`: estimate what a run needs before it starts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rlhf_flow.capacity.estimate import Planned, plan
from rlhf_flow.capacity.fit import Room, room
from rlhf_flow.capacity.process_memory import Memory, size_of, size_text
from rlhf_flow.cli.arguments import Arguments, folder
from rlhf_flow.config import compose
from rlhf_flow.config.overrides import with_keys
from rlhf_flow.config.schema import RunConfig


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 if everything fits, else 1. Raises ValueError, or an error of Hydra, for a mistake."""
    parser = Arguments("rlhf-flow plan")
    parser.add_argument("--like", type=Path)
    options = add_arguments(parser).parse_intermixed_args(list(arguments))
    config = composed(options)
    planned = plan(config, room_of(options, config), like=options.like)
    if options.json:
        problems = [str(problem) for problem in planned.problems]
        print(json.dumps(asdict(planned) | {"problems": problems, "fits": not problems}, indent=1))
    else:
        print("\n".join([*page(planned), *_fitting(options, planned)]))
    return 1 if planned.problems else 0


def add_arguments(parser: Arguments) -> Arguments:
    """Add the arguments that `plan` and `doctor` share; `pages` describes them."""
    parser.add_argument("--memory")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir", "-cd", action="append", default=[], type=folder)
    parser.add_argument("--config-name", "-cn", default="run")
    parser.add_argument("overrides", nargs="*")
    return parser


def _fitting(options: argparse.Namespace, planned: Planned) -> Iterator[str]:
    """The keys with which everything fits, if the problems name some and an estimate with them has no problem."""
    keys = [key for problem in planned.problems for key in vars(problem).get("keys", ())]
    if keys:
        changed = argparse.Namespace(**vars(options) | {"overrides": with_keys(options.overrides, keys)})
        config = composed(changed)
        if not plan(config, room_of(changed, config)).problems:
            yield f"It fits with: {' '.join(dict.fromkeys(keys))}"


def composed(options: argparse.Namespace) -> RunConfig:
    return compose.compose(*options.overrides, name=options.config_name, folders=options.config_dir)


def room_of(options: argparse.Namespace, config: RunConfig) -> Room:
    memory = None if options.memory is None else size_of(options.memory)
    return room(memory, options.gpus, nodes=config.cluster.nodes)


def page(planned: Planned) -> Iterator[str]:
    """The lines of the report."""
    shape, work, room, disk = planned.shape, planned.work, planned.room, planned.disk
    batches = f" (up to {work.pages} batches)" if work.pages > 1 else ""
    rounds = work.rounds
    yield (
        f"model      {shape.parameters / 1e6:,.1f} M parameters: {shape.layers} layers of width {shape.width}, "
        f"vocabulary {shape.vocabulary}"
    )
    yield (
        f"round      {work.prompts} prompts{batches} x {work.answers} answers, {work.drawn} of them generated: at most "
        f"{work.tokens_drawn:,} tokens"
    )
    yield (
        f"           at most {work.pairs_learned} pairs in {planned.steps} optimizer steps; the last step has "
        f"{planned.last_batch} pairs"
    )
    yield f"           longest sequence: {work.positions} tokens, of which the prompt {work.longest_prompt}"
    yield (
        f"run        {rounds} rounds: {rounds * work.prompts * work.pages:,} prompts, at most "
        f"{rounds * work.tokens_drawn:,} tokens and {rounds * planned.steps:,} optimizer steps"
    )
    for one in planned.calls:
        cost = f", cost at most {one.cost:,.2f}" if one.cost else ""
        yield (
            f"calls      {one.slot}: at most {one.round:,} per round and {one.run:,} in total, about "
            f"{one.tokens_in:,} tokens in and {one.tokens_out:,} out{cost}"
        )
    yield f"compute    {_compute(planned)}"
    yield f"threads    {', '.join(f'{role} {number}' for role, number in planned.threads.items())}"
    yield ""
    yield from _memory(planned)
    yield ""
    yield (
        f"disk       {size_text(disk.round)} per round (policy {size_text(disk.policy)}, learner "
        f"{size_text(disk.learner)}, rows {size_text(disk.rows)}), at most {size_text(disk.most)}, "
        f"{size_text(disk.end)} after the run"
    )
    if (seconds := planned.seconds) is not None:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.stages.items())
        yield (
            f"time       {seconds.round:,.0f} s per round, {seconds.total:,.0f} s in total, as in {seconds.run} "
            f"({stages})"
        )
    else:
        yield "time       unknown; --like RUN estimates it from a finished run"
    gpus = f"{room.gpus} GPUs of {size_text(room.gpu)}, " if room.gpus else ""
    yield f"available  {gpus}host {size_text(room.host)}"
    yield from (f"note       {note}" for note in planned.notes)
    yield from (f"PROBLEM    {problem}" for problem in planned.problems)
    if not planned.problems:
        yield "It fits."


def _compute(planned: Planned) -> str:
    update = f"at most {planned.compute.update / 1e12:,.3g} TFLOP per optimizer step"
    measured = planned.compute.measured
    if planned.seconds is None:
        return f"{update}; --like RUN says how fast a run computed its steps"
    if measured is None:
        return update
    used = "" if measured.utilisation is None else f", {measured.utilisation:.1%} of the peak here (MFU)"
    return f"{update}; the steps of {planned.seconds.run} made {measured.flops / 1e12:,.3g} TFLOP/s{used}"


def _memory(planned: Planned) -> Iterator[str]:
    """Memory by role. All numbers are for sequences of the greatest length."""
    yield f"{'memory':25} {'peak of each':>12}  phase: parts (an estimate, if all sequences have the greatest length)"
    for one in planned.memories:
        yield f"{'':11}{_role(one):14} {size_text(one.bytes):>12}  {one.peak.name}: {_items(one)}"
    yield f"{'':11}{'libraries':14} {size_text(planned.libraries):>12}  of all processes, on the host"
    if planned.object_store:
        per_node = "" if planned.each is None else ", on each node"
        yield f"{'':11}{'object store':14} {size_text(planned.object_store):>12}  policies of a round{per_node}"
    yield f"{'':11}{'host':14} {size_text(planned.host):>12}  total"
    if (each := planned.each) is not None:
        gpus = f"{each.gpus} GPUs and " if each.gpus else ""
        yield f"nodes      {each.nodes}: each {gpus}{size_text(each.host)} of host memory, if processes spread evenly"


def _role(one: Memory) -> str:
    return f"{one.role}{f' x{one.processes}' if one.processes > 1 else ''}" + (" GPU" if one.where == "GPU" else "")


def _items(one: Memory) -> str:
    items = {**one.peak.items, f"margin of {one.margin:.0%}": one.bytes - one.peak.bytes}
    return ", ".join(f"{name} {size_text(bytes)}" for name, bytes in items.items() if bytes)
