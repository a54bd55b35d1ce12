"""From a configuration to a run.

`prepare` checks everything that can be checked before a worker starts; `Prepared.run` opens the workers and runs the
loop.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import yaml

from rlhf_flow import loop, report
from rlhf_flow.capacity.cluster_needs import sized
from rlhf_flow.capacity.workload import steps_of, work_of
from rlhf_flow.cluster.ray_persistent import OpenClusters
from rlhf_flow.config import compatibility, data_checks, renamed
from rlhf_flow.config.choices import UNKNOWN, Choices
from rlhf_flow.config.compose import as_yaml, flat
from rlhf_flow.config.first_start import with_precision
from rlhf_flow.config.identity import asking, identity
from rlhf_flow.config.learning_rate import parameters_of, rated, stands_still, trains
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.config.threads import overlap, threaded
from rlhf_flow.engine.none import NoEngine
from rlhf_flow.metrics.alarms import raise_if_stopped
from rlhf_flow.observe.events import Events
from rlhf_flow.observe.settings import Observer
from rlhf_flow.observe.user_class import Opener
from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.protocols import PromptSource, Scorer
from rlhf_flow.report.card import model_card
from rlhf_flow.report.run_folder import read
from rlhf_flow.runner.manifest import manifest
from rlhf_flow.runner.workers import Workers, anchor_policies, with_probe
from rlhf_flow.specs import Cluster, Model
from rlhf_flow.stages.close_round import prune_checkpoints
from rlhf_flow.stages.context import Agreement, CheckpointPolicy, Evaluation, GivenPairs, Likelihood, RunContext
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.system import machine
from rlhf_flow.system.errors import reason
from rlhf_flow.system.hub import check_model
from rlhf_flow.system.optional_deps import check_all
from rlhf_flow.system.output import kept_in, tell
from rlhf_flow.tokenization.chat_template import chat_tokens, dated, today
from rlhf_flow.types import Policy, RoundRecord
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.source import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RefusedError(Exception):
    """A worker rejects its configuration as it opens."""


@dataclass(frozen=True)
class Prepared:
    """A run that is checked and whose folder is locked. Nothing has been computed."""

    config: RunConfig
    model: Model
    start: Policy
    prompts: PromptSource
    given: PromptSource | None
    ledger: Ledger
    observers: Sequence[Opener] = ()  # besides those of `config.observe`

    def run(self, clusters: OpenClusters | None = None) -> list[RoundRecord]:
        """Run every round that has no record yet, write the report and print where it is; return all records.

        `clusters`: of a multirun, which keeps a persistent cluster for its next run.

        Raises AlarmError after that if an alarm stopped the run.
        """
        with self._user_output() as out:
            ran = [record.round for record in self.rounds(clusters, out)]
        self.config.observe.conclude(
            self.ledger.root / report.PAGE,
            table=lambda: report.table(self.ledger.root),
            samples=lambda: report.samples(self.ledger.root, self.config.observe.samples),
            on_screen=bool(ran),
        )
        raise_if_stopped(self.ledger.records[-1], self.config.alarms)
        return list(self.ledger.records)

    def rounds(self, clusters: OpenClusters | None = None, out: TextIO | None = None) -> Iterator[RoundRecord]:
        """Run every round that has no record yet, yield each record once it is committed, and write the report last.

        Closing the iterator stops the run: its workers end, and its folder is unlocked.

        `clusters`: as for `run`. `out`: of the console; by default stdout.
        """
        rounds = self.config.rounds
        try:
            done = len(self.ledger.records) - 1
            if done < rounds or not self.ledger.has(done, "policy"):
                with (
                    contextlib.closing(OpenClusters()) as own,
                    (clusters or own).cluster(sized(self.config, Path(self.model.path))) as cluster,
                ):
                    yield from self._rounds(cluster, out)
            else:
                if done > rounds:
                    tell(f"{self.ledger.root} has {done} rounds, and rounds={rounds} adds none")
                prune_checkpoints(self.ledger, self.config.timeline, self._checkpoints(), rounds=rounds)
            report.write(self.ledger.root)
        finally:
            self.ledger.close()

    @property
    def log(self) -> Path:
        """The output of libraries, and the traceback of a failure."""
        return self.ledger.root / "log.txt"

    def _user_output(self) -> contextlib.AbstractContextManager[TextIO]:
        """The stream of the console; all other output goes to the log, if there is one."""
        return kept_in(self.log) if self.config.observe.log else contextlib.nullcontext(sys.stdout)

    def _rounds(self, cluster: Cluster, out: TextIO | None) -> Iterator[RoundRecord]:
        config = self.config
        with contextlib.ExitStack() as opened:
            observers = config.observe.open(self.ledger.root, self.ledger.records, flat(config), out, self.observers)
            observers.append(Events(self.ledger.root / "events.jsonl", lambda: cluster.deaths))
            for observer in observers:
                opened.callback(observer.close)
            if config.observe.shown != "quiet":
                tell(f"prompts: {self.prompts.summary}")
            data = data_checks.warnings(self.prompts, self.model.tokenizer())
            for line in [*compatibility.warnings(config), *data, *self._warnings()]:
                tell(f"warning: {line}")
            yield from loop.rounds(self._context(cluster, observers))

    def _warnings(self) -> list[str]:
        """A warning if all steps together can hardly move the policy."""
        if not trains(self.config):
            return []
        steps, _ = steps_of(self.config, work_of(self.config, self.prompts))
        still = stands_still(self.config, parameters_of(Path(self.model.path)), steps * self.config.rounds)
        return [] if still is None else [still]

    def _context(self, cluster: Cluster, observers: Sequence[Observer]) -> RunContext:
        """Opens the workers. Raises RefusedError if one rejects its configuration."""
        config = self.config
        longest = data_checks.longest_sequence(config, self.model, self.prompts)
        trains_policy = not compatibility.outputs(config)
        generates = trains_policy and not isinstance(config.engine, NoEngine)
        try:
            workers = Workers.open(config, self.model, cluster, self.ledger, longest=longest)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        return RunContext(
            seed=config.seed,
            rounds=config.rounds,
            prompts_per_commit=config.checkpoint.prompts_per_commit,
            start=with_probe(self.start, workers.learner, self.prompts) if generates else self.start,
            trust_remote_code=self.model.trust_remote_code,
            prompts=self.prompts,
            sampler=config.sampler,
            engine=workers.engine,
            scorer=workers.scorer,
            selector=config.selector,
            objective=config.objective,
            replay=config.replay,
            schedule=config.timeline,
            learner=workers.learner,
            evaluation=self._evaluation(workers.evaluation_scorer),
            checkpoints=self._checkpoints(),
            ledger=self.ledger,
            observers=observers,
            intransitive=config.scorer.intransitive,
            min_pairs=config.resampling.min_pairs,
            max_batches=config.resampling.max_batches,
            reward_updates=workers.reward_updates,
            alarms=config.alarms,
            lag=config.lag,
            disaggregated=config.cluster.disaggregated,
            scores_while_sampling=overlap(config, machine.cores(), gpus=cluster.gpus),
            off_policy=config.off_policy,
            anchors=config.anchors,
            anchor_policies=anchor_policies(config),
            given=self._given(),
            render=partial(chat_tokens, self.model.tokenizer(), reply=True) if generates else None,
            model_card=self._card if trains_policy else None,
        )

    def _card(self, round: int) -> str:
        """The model card of a round's policy, of what the run's folder holds now."""
        return model_card(read(self.ledger.root), round)

    def _evaluation(self, scorer: Scorer) -> Evaluation | Agreement | Likelihood:
        evaluate = self.config.evaluate
        if evaluate.by == "agreement":
            return Agreement(scorer, every=evaluate.every)
        if evaluate.by == "likelihood":
            samples = evaluate.samples if self.config.held_out_samples else 0
            return Likelihood(draw=evaluate.draw, every=evaluate.every, samples=samples)
        return Evaluation(scorer, draw=evaluate.draw, every=evaluate.every, asks_proxy=evaluate.proxy)

    def _given(self) -> GivenPairs | None:
        about = self.config.given
        return None if self.given is None else GivenPairs(self.given, about.share, about.chosen, about.rejected)

    def _checkpoints(self) -> CheckpointPolicy:
        checkpoint = self.config.checkpoint
        return CheckpointPolicy(every=checkpoint.every, steps=checkpoint.steps, keep=checkpoint.keep)


def prepare(config: RunConfig, choices: Choices = UNKNOWN) -> Prepared:
    """Check a configuration, its model and its data, and lock the run's folder. Raises ValueError for any mistake.

    `choices`: the names that the configuration was composed from, for the manifest.
    """
    compatibility.check(config)
    config = dated(config, _first_day(Path(config.run_dir)))
    data_checks.check_refresh(config)
    slots = {
        "scorer": config.scorer,
        "evaluate.scorer": config.evaluate.scorer,
        "refresh.scorer": config.refresh.scorer,
    }
    scorers = {slot: spec for slot, spec in slots.items() if spec is not None}
    check_all(*(spec.check for spec in (config.engine, config.learner, config.observe, *scorers.values())))
    model = on_disk(config.model)
    weights = Path(model.path)
    data_checks.check_start(config, model)
    anchor_policies(config)  # raises ValueError if one is missing
    start = Policy(
        name="policy",
        round=0,
        sha256=checkpoint_fingerprint(weights),
        weights=Checkpoint(weights, model.trust_remote_code),
    )
    config = threaded(rated(with_precision(config), parameters_of(weights)), machine.cores())
    tokenizer = model.tokenizer()
    prompts = config.prompts.open(tokenizer, seed=config.seed)
    given = _given_pairs(config, tokenizer)
    data_checks.check(config, model, prompts, tokenizer)
    data_checks.check_given(config, given)
    keys = {
        **identity(config),
        "start.sha256": start.sha256,
        "prompts.sha256": prompts.sha256,
        "learner.sha256": config.learner.fingerprint(),
        **{f"{slot}.sha256": spec.fingerprint() for slot, spec in scorers.items()},
    }
    ledger = Ledger.open(
        Path(config.run_dir),
        config=as_yaml(config),
        identity=keys,
        until_verdicts=asking(keys),
        renamed=renamed.identity,
        manifest=manifest(config, model, prompts, keys, choices),
        rounds=config.rounds,
    )
    return Prepared(config=config, model=model, start=start, prompts=prompts, given=given, ledger=ledger)


def on_disk(model: Model) -> Model:
    """The model as a local folder. A hub name is downloaded, at its revision, before any worker starts."""
    folder = Path(model.path)
    if not folder.is_dir():
        check_model("model.path", model.path)
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(model.path, revision=model.revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as failure:
            raise ValueError(
                f"model.path={model.path}: no such folder here, and downloading it from the hub failed: "
                f"{reason(failure)}. Fix: name the folder of a Hugging Face checkpoint, or check the name, the "
                "revision and the network."
            ) from failure
    return replace(model, path=str(folder.resolve()))


def _first_day(run_dir: Path) -> str:
    """The date that chat templates write: that of the run's first start."""
    written = run_dir / "config.yaml"
    about = yaml.safe_load(written.read_text()) if written.is_file() else {}
    return about.get("model", {}).get("chat_template", {}).get("date") or today()


def _given_pairs(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> PromptSet | None:
    """All rows of `given.prompts`, of which each round takes as many as it needs."""
    if config.given.prompts is None:
        return None
    try:
        rows: PromptSet = config.given.prompts.pool(tokenizer, seed=config.seed)
    except ValueError as error:
        raise ValueError(f"given.prompts: {error}") from error
    return rows
