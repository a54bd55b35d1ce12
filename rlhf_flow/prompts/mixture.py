"""Several data sets, each with its share of every round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.prompts.huggingface import HuggingFace
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.overlap import screened
from rlhf_flow.prompts.parse import Columns
from rlhf_flow.prompts.source import PromptSpec, ReadRows, summary
from rlhf_flow.seeds import derive
from rlhf_flow.storage.data_origin import origin
from rlhf_flow.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sizes: TypeAlias = Callable[[Mapping[str, float], Mapping[str, int]], dict[str, int]]  # weights, rows -> of a round
OF_A_DATA_SET = ("config", "revision", "held_out_split", "first", "streaming")  # keys of prompts=huggingface
OF_FILES = ("held_out_path",)
SOURCE = "mixture"  # in `Prompt.meta`: the name of the prompt's source


@dataclass(frozen=True)
class MixedSource:
    """A data set of a mixture. All other keys of its rows are those of the mixture."""

    name: str  # in ids, in the record and in the report
    path: str  # a file, a folder or a pattern as of prompts=jsonl; with `split`, as of prompts=huggingface
    weight: float = 1.0  # its share of a round, relative to the other sources of the round
    from_round: int = 1  # the first round that uses it
    to_round: int | None = None  # the last one; null: the last of the run
    held_out_path: str | None = None  # file with its prompts for evaluation
    schema: str | None = None  # layout of its rows; null: prompts.schema
    columns: dict[str, Any] = field(default_factory=dict)  # keys of prompts.columns with other values: {prompt: text}
    system: str | None = None  # put before its chats that have no system message; null: prompts.system
    split: str | None = None  # of a Hugging Face data set; null: files
    config: str | None = None  # the subset of a Hugging Face data set
    revision: str | None = None  # of a data set on the hub
    held_out_split: str | None = None  # its split with the prompts for evaluation
    first: int | None = None  # rows of each split that are taken; null: all
    streaming: bool = False  # read rows without a copy on disk; for a large data set of which `first` takes a part

    def __post_init__(self) -> None:
        if "/" in self.name or not self.name:
            raise ValueError(
                f"prompts.sources: a name must not be empty or hold '/', got {self.name!r}. Fix: name=chat."
            )
        if not self.weight > 0:
            raise ValueError(
                f"prompts.sources, {self.name}: weight must be > 0, got {self.weight}. Fix: leave the source out."
            )
        if not 1 <= self.from_round <= (self.from_round if self.to_round is None else self.to_round):
            raise ValueError(
                f"prompts.sources, {self.name}: no round is from {self.from_round} to {self.to_round}. "
                "Fix: from_round >= 1, and to_round >= from_round."
            )
        known = [each.name for each in fields(Columns)]
        if unknown := self.columns.keys() - known:
            raise ValueError(
                f"prompts.sources, {self.name}: no column {min(unknown)!r}. Fix: one of {', '.join(known)}."
            )
        foreign = OF_A_DATA_SET if self.split is None else OF_FILES
        if wrong := [each.name for each in fields(self) if each.name in foreign and self._sets(each)]:
            where, fix = (
                ("Hugging Face data sets", "split=train") if self.split is None else ("files", "held_out_split=test")
            )
            raise ValueError(f"prompts.sources, {self.name}: {wrong[0]} is a key of {where}. Fix: {fix}.")

    def _sets(self, key: Field[Any]) -> bool:
        return vars(self)[key.name] is not key.default

    def in_round(self, round: int) -> bool:
        return self.from_round <= round and (self.to_round is None or round <= self.to_round)


@dataclass(frozen=True, kw_only=True)
class Mixture(PromptSpec):
    """Prompts of several data sets. Each has a fixed number of a round's prompts, its share rounded.

    Each data set has epochs of its own, so a small one with a large weight is repeated more often. A round in which a
    data set begins or ends begins an epoch of all. Rules find the name of the source as `mixture` in the prompt's meta,
    in place of a column of this name.
    """

    sources: list[MixedSource] = field(default_factory=list)  # [{name: chat, path: chat.jsonl, weight: 2}, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"prompts.sources must name data sets, each by its own name, got {', '.join(names) or 'none'}. "
                "Fix: 'prompts.sources=[{name: chat, path: chat.jsonl}]'."
            )
        for first in self.changes():
            if not self.weights(first):
                raise ValueError(
                    f"prompts.sources: round {first} has no source. Fix: from_round=1 or no to_round for one of "
                    f"{', '.join(names)}."
                )

    def changes(self) -> list[int]:
        """The rounds in which the sources change, from the first on."""
        begins = {source.from_round for source in self.sources}
        ends = {source.to_round + 1 for source in self.sources if source.to_round is not None}
        return sorted({1} | begins | ends)

    def weights(self, round: int) -> dict[str, float]:
        """The sources of a round, with their weights."""
        return {source.name: source.weight for source in self.sources if source.in_round(round)}

    def specs(self) -> dict[str, Jsonl | HuggingFace]:
        """The data set of each source."""
        return {source.name: self._spec(source) for source in self.sources}

    def files(self) -> Sequence[Path]:
        return [file for spec in self.specs().values() for file in spec.files()]

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> MixedPrompts:
        """As `PromptSpec.open`. A share is held out of all sources together, so that equal prompts stay on one side.

        With a file of held-out prompts of any source, nothing else is held out.
        """
        return self._opened(tokenizer, seed, lambda weights, rows: shares(weights, self.batch))

    def pool(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> MixedPrompts:
        """As `PromptSpec.pool`, but with as many rows of each source as its share of a round allows."""
        return replace(self, held_out=0)._opened(tokenizer, seed, largest_shares)

    def _opened(self, tokenizer: PreTrainedTokenizerBase, seed: int, sizes: Sizes) -> MixedPrompts:
        read = {name: _of_source(name, self._read(name, spec, tokenizer)) for name, spec in self.specs().items()}
        files = [each.held_out for each in read.values() if each.held_out is not None]
        counts = sum((each.counts for each in read.values()), Counter[str]())
        training, held_out = self.separated(
            screened([prompt for each in read.values() for prompt in each.training], self.limits, counts),
            [prompt for each in files for prompt in each] if files else None,
        )
        counts.update(training=len(training), held_out=len(held_out))
        phases = {first: self._sets(training, first, seed, sizes) for first in self.changes()}
        read_as = [f"{name}: {how}" for name, each in read.items() for how in each.read_as]
        left_out = sorted({column for each in read.values() for column in each.left_out})
        shown = "; ".join([summary(read_as, counts, left_out), *(_shown(first, phases[first]) for first in phases)])
        for side, prompts in (("training", training), ("held_out", held_out)):
            counts.update(f"{side}/{source_of(prompt)}" for prompt in prompts)
        return MixedPrompts(
            tuple(training), tuple(held_out), size=sum(each.size for each in phases[1].values()), seed=seed,
            counts=dict(counts), phases=phases, summary=shown, origin=origin(self.files()),
        )  # fmt: skip

    def _sets(self, training: Sequence[Prompt], first: int, seed: int, sizes: Sizes) -> dict[str, PromptSet]:
        """The training prompts of each source of round `first`, in rounds of its share."""
        weights = self.weights(first)
        of = {name: tuple(prompt for prompt in training if source_of(prompt) == name) for name in weights}
        sets = {}
        for name, size in sizes(weights, {name: len(own) for name, own in of.items()}).items():
            own = of[name]
            if size > len(own):
                raise ValueError(
                    f"prompts.sources, {name}: {len(own)} prompts for training, and its share of a round is {size}. "
                    "Fix: lower prompts.batch or its weight, or use more prompts."
                )
            sets[name] = PromptSet(own, (), size=size, seed=derive("source", seed, name, first), counts={})
        return sets

    def _spec(self, source: MixedSource) -> Jsonl | HuggingFace:
        shared = {each.name: getattr(self, each.name) for each in fields(PromptSpec)}
        shared |= {
            "schema": source.schema or self.schema,
            "columns": replace(self.columns, **source.columns),
            "system": self.system if source.system is None else source.system,
        }
        if source.split is None:
            return Jsonl(path=source.path, held_out_path=source.held_out_path, **shared)
        return HuggingFace(
            path=source.path, split=source.split, **{key: vars(source)[key] for key in OF_A_DATA_SET}, **shared
        )

    def _read(self, name: str, spec: PromptSpec, tokenizer: PreTrainedTokenizerBase) -> ReadRows:
        try:
            return spec.read(tokenizer)
        except ValueError as error:
            raise ValueError(f"prompts.sources, {name}: {error}") from error


@dataclass(frozen=True)
class MixedPrompts(PromptSet):
    """The prompts of several sources in memory."""

    # the first round of each phase -> the training prompts of its sources
    phases: Mapping[int, Mapping[str, PromptSet]] = field(default_factory=dict)

    def batch(self, round: int, page: int = 0) -> tuple[Prompt, ...]:
        """The prompts of a round: of each source its share, shuffled together."""
        if round < 1:
            raise ValueError(f"rounds are counted from 1, got {round}")
        first = max(each for each in self.phases if each <= round)
        prompts = [prompt for each in self.phases[first].values() for prompt in each.batch(round - first + 1, page)]
        order = np.random.default_rng(derive("mixture", self.seed, round, page)).permutation(len(prompts))
        return tuple(prompts[at] for at in order)

    @property
    def sha256(self) -> str:
        """The identity of the data and of the shares."""
        text = "; ".join(_shown(first, sets) for first, sets in self.phases.items())
        return sha256(f"{super().sha256} {text}".encode()).hexdigest()


def _shown(first: int, sets: Mapping[str, PromptSet]) -> str:
    sizes = ", ".join(f"{each.size} {name}" for name, each in sets.items())
    return f"from round {first}: {sizes}"


def shares(weights: Mapping[str, float], batch: int) -> dict[str, int]:
    """The prompts of a round by source: weight / sum of weights of `batch`, rounded by the largest remainders.

    Raises ValueError if a source would have none.
    """
    sizes = _rounded(weights, batch)
    if none := [name for name, size in sizes.items() if size == 0]:
        least = sum(weights.values()) / min(weights.values())
        raise ValueError(
            f"prompts.batch={batch}: of prompts.sources, {none[0]} has a weight of {weights[none[0]]:g}, less than one "
            f"prompt a round. Fix: prompts.batch={int(least) + 1} or more, or a larger weight."
        )
    return sizes


def largest_shares(weights: Mapping[str, float], rows: Mapping[str, int]) -> dict[str, int]:
    """The shares of the largest batch for which each source has enough rows. Raises ValueError if a share is 0."""
    scarce = min(weights, key=lambda name: rows[name] / weights[name])
    batch = int(rows[scarce] * sum(weights.values()) / weights[scarce])
    sizes = _rounded(weights, batch)
    if none := [name for name, size in sizes.items() if size == 0]:
        raise ValueError(
            f"prompts.sources: {scarce} has {rows[scarce]} rows, so a round has at most {batch} of all sources, and "
            f"the weight of {none[0]} gives it none. Fix: more rows of {scarce}, or other weights."
        )
    return sizes


def _rounded(weights: Mapping[str, float], batch: int) -> dict[str, int]:
    """The shares by largest remainders; they add up to `batch`."""
    exact = {name: batch * weight / sum(weights.values()) for name, weight in weights.items()}
    sizes = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: sizes[name] - exact[name])
    for name in by_remainder[: batch - sum(sizes.values())]:
        sizes[name] += 1
    return sizes


def source_of(prompt: Prompt) -> str | None:
    """The name of the source in a mixture; None without one."""
    name = prompt.meta.get(SOURCE)
    return name if isinstance(name, str) else None


def _of_source(name: str, read: ReadRows) -> ReadRows:
    """With the name of the source in ids and meta."""

    def named(prompts: Sequence[Prompt]) -> list[Prompt]:
        return [replace(one, id=f"{name}/{one.id}", meta={**one.meta, SOURCE: name}) for one in prompts]

    return replace(
        read, training=named(read.training), held_out=None if read.held_out is None else named(read.held_out)
    )
