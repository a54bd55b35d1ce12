"""`rlhf-flow eval`: compare policies, export their answers, read judgements, and evaluate scorers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlhf_flow.cli.arguments import Arguments, is_key
from rlhf_flow.evaluation import harness, preferences, record, tables
from rlhf_flow.evaluation.answers import answers
from rlhf_flow.evaluation.benchmarks import FORMATS, export
from rlhf_flow.evaluation.contestants import contestants
from rlhf_flow.evaluation.judge import check, name_of
from rlhf_flow.evaluation.judgements import READERS, read_judgements
from rlhf_flow.evaluation.matrix import Matrix, matrix
from rlhf_flow.evaluation.questions import dialogues
from rlhf_flow.evaluation.settings import settings
from rlhf_flow.report import overoptimization
from rlhf_flow.report import tasks as task_table
from rlhf_flow.report.format import with_ends
from rlhf_flow.report.run_folder import read
from rlhf_flow.storage.run_policies import split


def main(arguments: Sequence[str]) -> int:
    """Raises ValueError, or an error of Hydra, for a mistake."""
    options = _parser().parse_intermixed_args(list(arguments))
    keys = [word for word in options.words if is_key(word)]
    words = [word for word in options.words if not is_key(word)]
    run = next((found[0] for word in words if (found := split(word))), None)
    if options.out is None:
        options.out = Path("runs/eval") if run is None else run / "eval"
    if keys and (options.judgements or options.curve):
        raise ValueError(f"{keys[0]}: --import and --curve read files and use no keys. Fix: leave it out.")
    if options.judgements:
        _import(options)
    elif options.pairs:
        _judge_pairs(keys, run, options)
    elif not words:
        raise ValueError("eval needs policies: RUN, RUN@ROUND, RUN@all or a checkpoint. Try rlhf-flow eval --help.")
    elif options.curve:
        _curve(run, options)
    elif options.tasks:
        _tasks(words, keys, run, options)
    else:
        _answer(words, keys, run, options)
    return 0


def _answer(words: Sequence[str], keys: Sequence[str], run: Path | None, options: argparse.Namespace) -> None:
    """Compare the policies, or export their answers."""
    if run is None and options.prompts is None:
        absent = [
            word for word in words if not Path(word).exists() and not Path(word.rpartition("@")[0] or word).exists()
        ]
        folders = f", and there is no folder {' or '.join(absent)}" if absent else ""
        raise ValueError(
            f"--prompts is missing: none of the policies is of a run with prompts{folders}. "
            "Fix: name the folder of a run, or --prompts FILE."
        )
    config = settings(run, keys, out=options.out, prompts=options.prompts)
    named = contestants(words, config.model)
    if options.export:
        for name, answered in dialogues(named, config, prompts=options.prompts, out=options.out).items():
            print(export(options.export, name, answered, options.out))
        return
    if len(named) < 2:
        raise ValueError(f"{words[0]}: a comparison needs two policies. Fix: name another one, or {words[0]}@all.")
    check(config)  # before any answer
    given = answers(named, config, prompts=options.prompts, out=options.out)
    _show(matrix(given, config, out=options.out), options.out)


def _import(options: argparse.Namespace) -> None:
    form, *files = options.judgements
    if form not in READERS or not files:
        raise ValueError(f"--import {form}: expected a format and files. Fix: --import {'|'.join(READERS)} FILE ...")
    for compared in read_judgements(form, [Path(file) for file in files]):
        _show(compared, options.out)


def _show(compared: Matrix, out: Path) -> None:
    paths = record.keep_matrix(out, compared)
    print(f"\nby {compared.by}\n\n{tables.comparison(compared)}\n")
    print("\n".join(map(str, paths)))


def _judge_pairs(keys: Sequence[str], run: Path | None, options: argparse.Namespace) -> None:
    config = settings(run, keys, out=options.out, prompts=options.pairs)
    if config.evaluate.by == "agreement" and not any(key.startswith("scorer=") for key in keys):
        raise ValueError(
            f"{run}: the scorer of this run holds the labels of its answers. Fix: name what it trained, as in "
            f"scorer=reward_model scorer.path={run}/rounds/00001/policy."
        )
    found = preferences.accuracies(options.pairs, config, out=options.out)
    path = record.keep(options.out, "preferences", f"{name_of(config)} on {options.pairs}", found)
    rows = [[name, with_ends(row, "accuracy"), f"{row['rows']:.0f}"] for name, row in found.items()]
    print("\n".join(["", f"by {name_of(config)}", "", *tables.table(["subset", "accuracy", "rows"], rows), ""]))
    print(path)


def _tasks(words: Sequence[str], keys: Sequence[str], run: Path | None, options: argparse.Namespace) -> None:
    harness.check()
    model = settings(run, keys, out=options.out).model
    tasks = harness.Tasks(
        tuple(options.tasks.split(",")), options.tasks_dir, options.shots, options.limit, options.chat
    )
    results = {}
    for one in contestants(words, model):
        results[one.name] = harness.run(one, tasks)
        path = record.keep(options.out, "tasks", one.name, results[one.name])
    print("\n".join(["", *tables.table(["task", "metric", *results], task_table.rows(results)), "", str(path)]))


def _curve(run: Path | None, options: argparse.Namespace) -> None:
    if run is None:
        raise ValueError("--curve reads the metrics of a run. Fix: rlhf-flow eval RUN --curve.")
    rows = overoptimization.rows(read(run))
    path = record.keep(options.out, "overoptimization", str(run), rows)
    columns = [key for key in (*overoptimization.GOLD, *overoptimization.PROXY) if any(key in row for row in rows)]
    cells = [
        [f"{row['round']:.0f}", f"{row['sqrt_kl']:.3f}", *(with_ends(row, key) for key in columns)] for row in rows
    ]
    print("\n".join(tables.table(["round", "sqrt(KL)", *columns], cells)))
    passed = overoptimization.passed_its_best(rows)
    print("\n".join([*([f"over-optimisation: {passed}"] if passed else []), str(path)]))


def _parser() -> argparse.ArgumentParser:
    parser = Arguments("rlhf-flow eval")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--export", choices=FORMATS)
    parser.add_argument("--import", dest="judgements", nargs="+", default=[])
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--tasks")
    parser.add_argument("--tasks-dir", type=Path)
    parser.add_argument("--shots", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--chat", action="store_true")
    return parser
