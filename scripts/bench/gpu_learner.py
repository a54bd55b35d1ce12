"""Measure speed, utilisation and memory of the learner on one GPU, and compare the memory with `rlhf-flow plan`.

    python scripts/bench/gpu_learner.py                  the largest of 8b, 3b and 1b that fits here, within 10 minutes
    python scripts/bench/gpu_learner.py --size 1b --offload none
    python scripts/bench/gpu_learner.py --device cpu --size tiny     the whole script, without a GPU
    for step in padded packed shared fused compiled; do              before and after each of four things
        python scripts/bench/gpu_learner.py --size 1b --learner torch --until $step; done

Nothing is downloaded. A random Llama trains on random pairs with online DPO, in bfloat16 with gradient checkpointing,
by default under ZeRO-3 with optimizer and weights offloaded to the host. The script uses rlhf_flow's own learner: it
opens and starts it, computes the anchor's log-probs, runs optimizer steps and publishes. Each step is timed separately,
after a warm-up step. `--until` leaves out what makes the learner fast: packing, shared prompts, the fused output layer.
`compiled` adds torch.compile, which ZeRO-3 refuses: take --learner torch, fsdp or zero2.

Tokens are counted without padding, a prompt with each of its answers. Utilisation is the model FLOPs that `rlhf-flow
plan` counts (a prompt once for all its answers, neither padding nor recomputation), divided by the seconds and by the
peak FLOP/s of the GPU. So both are of the same work whatever --until says. A forward pass for the anchor takes a third
of a step. The prediction is that of `rlhf-flow plan`, which is about --until fused; for the host, the memory of the
process before it opened the learner is added. The prediction holds for any round, but in the first round there are no
moments before the first step. "Taken from the machine" counts all processes, so run the script on an idle machine.
Progress goes to stderr, and the page for the README to stdout.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpu.machine import Machine
from gpu.models import LEARNERS, OFFLOAD, SIZES, Asked, Size, random_pairs, write_weights, written
from gpu.page import Speed, peaks, phases
from gpu.planned import Planned, planned, way_out
from gpu.steps import DEFAULT, STEPS, learner_until

from rlhf_flow.capacity.flops import of_step


def main() -> int:
    options = parsed()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU that torch can use here. Try --device cpu --size tiny.", file=sys.stderr)
        return 2
    machine = Machine(options.device)
    asked = Asked(
        options.batch,
        options.micro_batch,
        options.prompt,
        options.answer,
        options.repeats,
        offload=options.offload,
        learner=options.learner,
        step=options.until,
        tokens=options.tokens,
        recompute=options.recompute,
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        left, disk = machine.left(), shutil.disk_usage(folder).free
        try:
            wanted = sizes(options).items()
            plans = [planned(name, size, folder / name, asked, on_gpu=machine.gpu) for name, size in wanted]
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        fitting = [each for each in plans if not each.lacks(left, disk)]
        chosen = plans[0] if options.size else next(iter(fitting), plans[-1])
        # If host memory runs out, the kernel kills the process without a message. A GPU raises an error, so too little
        # GPU memory by plan is only a reason to refuse if no size was requested: the plan may be wrong.
        if any("the GPU" not in lack for lack in chosen.lacks(left, disk)) or not (options.size or fitting):
            print(". ".join([*chosen.lacks(left, disk), way_out(fitting)]), file=sys.stderr)
            return 2
        try:
            print("\n".join(measured(chosen, asked, machine, folder, options)))
        except RuntimeError as error:
            if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
                raise
            smaller = [each for each in fitting if each.shape.parameters < chosen.shape.parameters]
            print(f"{chosen.name} ran out of memory: {error}\n{way_out(smaller)}", file=sys.stderr)
            return 1
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", choices=SIZES, help="default: the largest that fits, by plan; tiny without a GPU")
    for name in ("layers", "hidden", "heads", "vocab"):
        parser.add_argument(f"--{name}", type=positive, help="overrides that of --size (--size then defaults to 1b)")
    parser.add_argument("--learner", default="zero3", choices=LEARNERS, help="default: %(default)s")
    parser.add_argument("--offload", choices=OFFLOAD, help="what to offload (default: all with zero3, else none)")
    steps = "; ".join(f"{name}: {does}" for name, does in STEPS.items())
    parser.add_argument("--until", default=DEFAULT, choices=STEPS, help=f"{steps} (default: %(default)s)")
    parser.add_argument(
        "--recompute", default="full", choices=("off", "selective", "full"), help="default: %(default)s"
    )
    parser.add_argument("--batch", type=positive, default=32, help="pairs per step (default: %(default)s)")
    parser.add_argument("--micro-batch", type=positive, help="most pairs per pass (default: as many as --tokens allow)")
    parser.add_argument("--tokens", type=positive, help="per pass (default: that of the learner on this device)")
    parser.add_argument("--prompt", type=positive, default=256, help="tokens per prompt (default: %(default)s)")
    parser.add_argument(
        "--answer",
        type=positive,
        default=512,
        help="tokens of the longest; the shortest has half (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=positive, default=5, help="maximum timings of each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=7, help="start no timing after this (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="default: %(default)s")
    parser.add_argument("--peak-tflops", type=float, help="of the device, dense bfloat16 (default: from a table)")
    parser.add_argument("--folder", type=Path, help="with room for the weights (default: the temporary folder)")
    options = parser.parse_args()
    if options.device == "cpu":
        options.size = options.size or "tiny"
    options.offload = options.offload or ("all" if options.learner == "zero3" else "none")
    if options.offload != "none" and not options.learner.startswith("zero"):
        parser.error(f"--offload={options.offload} needs --learner=zero2 or zero3, got --learner={options.learner}")
    return options


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def sizes(options: argparse.Namespace) -> dict[str, Size]:
    """The requested size first, then the others, the largest first; on a GPU `tiny` only if requested."""
    changes = {"layers": options.layers, "hidden": options.hidden, "heads": options.heads, "vocabulary": options.vocab}
    others = {name: size for name, size in SIZES.items() if name != "tiny" or options.device == "cpu"}
    if any(changes.values()):
        options.size = options.size or "1b"
        return {"yours": SIZES[options.size].changed(**changes), **others}
    return {options.size: SIZES[options.size], **others} if options.size else others


# -- measurement ------------------------------------------------------------------------------------------------------


def measured(
    chosen: Planned, asked: Asked, machine: Machine, folder: Path, options: argparse.Namespace
) -> Iterator[str]:
    """Measure, and yield the lines of the page."""
    start = time.perf_counter()
    write_weights(folder / chosen.name, machine.device)
    if machine.gpu:
        import torch

        torch.cuda.empty_cache()
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if asked.learner.startswith("zero"):
        import deepspeed  # noqa: F401  # before `libraries` is read

    libraries = machine.resident()
    until = start + 60 * options.minutes
    with learner_until(asked.step):
        anchors, steps = learns(chosen, asked, machine, folder, threads=options.threads, until=until)
    tokens = chosen.config.learner.training.on(machine.device).tokens_per_batch
    peak = machine.peak_flops() if options.peak_tflops is None else 1e12 * options.peak_tflops
    yield ""
    yield (
        f"Online DPO of a random Llama of {chosen.shape.parameters / 1e9:.3g} B weights ({chosen.name}), bfloat16, "
        f"{asked.learner}, offload: {asked.offload}, recomputed: {asked.recompute}; until {asked.step}: "
        f"{STEPS[asked.step]}; {asked.batch} pairs a step, {tokens:,} tokens a pass, prompts of {asked.prompt} tokens, "
        f"answers of {(asked.answer + 1) // 2} to {asked.answer}."
    )
    yield from machine.describe()
    yield ""
    yield from ["| measured | median | range |", "|---|--:|--:|"]
    yield from steps.lines("`update`", peak)
    yield from anchors.lines("`logps` of the anchor", peak)
    for name, words in (("open", "`open`"), ("start", "`start`: weights of a file"), ("publish", "`publish`")):
        yield f"| {words}, s | {machine.found[name].seconds:.1f} | once |"
    yield ""
    yield from peaks(chosen, machine, libraries)
    yield ""
    yield from phases(chosen, machine, libraries)


def learns(
    chosen: Planned, asked: Asked, machine: Machine, folder: Path, *, threads: int, until: float
) -> tuple[Speed, Speed]:
    """Time the forward passes of the anchor and the optimizer steps."""
    from rlhf_flow.protocols import TrainingRound
    from rlhf_flow.specs import Place
    from rlhf_flow.types import Policy
    from rlhf_flow.weights.source import Checkpoint

    config, shape = chosen.config, chosen.shape
    tables, groups = random_pairs(folder, chosen.size, asked)
    tokens = sum(group.prompt + answer + 1 for group in groups for answer in group.answers)
    flops = of_step(shape, groups)
    policy = Policy("policy", 0, "the start", Checkpoint(Path(config.model.path)))
    with machine.phase("open"):
        learner = config.learner.open(config.model, Place(device=machine.device, threads=threads))
    try:
        with machine.phase("start"):
            learner.start(policy)
        wanted = tables.responses.read(["response"])["response"].to_pylist()
        logps = learner.logps([tables.responses], wanted, policy)

        def anchor() -> None:
            with machine.phase("anchors"):
                learner.logps([tables.responses], wanted, policy)

        anchors = Speed(tokens, flops / 3, repeated(anchor, machine, "anchors", asked.repeats, until))
        lesson = TrainingRound(
            round=1,
            rounds=1,
            seed=0,
            tables=(tables,),
            anchors=written(logps, folder / "anchors.parquet"),
            roles=dict.fromkeys(config.objective.needs.anchors, policy.sha256),
            objective=config.objective,
        )
        steps = iter(range(1 + asked.repeats))

        def step() -> None:
            number = next(steps)
            with machine.phase("learn"):
                learner.update(lesson, number, number + 1)

        step()
        updates = Speed(tokens, flops, repeated(step, machine, "learn", asked.repeats, until))
        with machine.phase("publish"):
            learner.publish("policy", 1)
    finally:
        learner.close()
    return anchors, updates


def repeated(call: Callable[[], None], machine: Machine, phase: str, repeats: int, until: float) -> list[float]:
    """The seconds of each call; there is at least one."""
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or time.perf_counter() + seconds[-1] < until):
        call()
        seconds.append(machine.found[phase].seconds)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
