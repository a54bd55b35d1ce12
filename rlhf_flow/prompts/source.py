"""What every kind of prompt file can be told, and how its rows become rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.prompts.bad_rows import WHAT_TO_DO, BadRowError, BadRows
from rlhf_flow.prompts.epochs import Dealt
from rlhf_flow.prompts.facts import Facts
from rlhf_flow.prompts.layout import AUTO, CHOICES, lay_out
from rlhf_flow.prompts.limits import Limits
from rlhf_flow.prompts.pairwise import Compare, Comparing, row_of
from rlhf_flow.prompts.parse import Columns, Question, Row, question
from rlhf_flow.prompts.tokenize import TOO_LONG, Rendering
from rlhf_flow.seeds import derive
from rlhf_flow.storage.data_origin import origin
from rlhf_flow.tokenization.chat_template import FORMATS
from rlhf_flow.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """The fields that all sources share. Every row is checked when the source is opened, before any worker starts."""

    schema: str = AUTO  # how the data set is laid out: auto finds out, columns takes prompts.columns, or one by name
    columns: Columns = field(default_factory=Columns)
    format: str = "chat"  # chat: the tokenizer's template; plain: BOS and the text
    system: str | None = None  # put before every chat that has no system message of its own
    max_tokens: int = 1024  # of the whole prompt, template included
    too_long: str = "refuse"  # refuse | cut (shorten the last user message) | drop; both are counted
    empty: str = "refuse"  # refuse | drop: rows without a prompt, or without an answer that is named; counted
    malformed: str = "refuse"  # refuse | drop: rows that cannot be read; counted
    batch: int = 64  # prompts a round
    held_out: float = 0.05  # a share (< 1) or a number, by hash of the id; no part where they are given apart
    compare: Compare | None = None  # two prompts of each row: its two answers as a question, in both orders
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("schema", f"one of {', '.join(CHOICES)}", self.schema in CHOICES),
            ("format", f"one of {', '.join(FORMATS)}", self.format in FORMATS),
            ("system", "left empty with prompts.format=plain", self.system is None or self.format == "chat"),
            ("max_tokens", ">= 1", self.max_tokens >= 1),
            ("too_long", f"one of {', '.join(TOO_LONG)}", self.too_long in TOO_LONG),
            ("empty", f"one of {', '.join(WHAT_TO_DO)}", self.empty in WHAT_TO_DO),
            ("malformed", f"one of {', '.join(WHAT_TO_DO)}", self.malformed in WHAT_TO_DO),
            ("batch", ">= 1", self.batch >= 1),
            ("held_out", "a share in [0, 1) or a whole number", 0 <= self.held_out < 1 or self.held_out % 1 == 0),
        ):
            if not ok:
                raise ValueError(f"prompts.{key} must be {rule}, got {vars(self)[key]!r}")
        if self.held_out < 0:
            raise ValueError(f"prompts.held_out must be >= 0, got {self.held_out}")

    def deal(
        self,
        rows: Sequence[Row | BadRowError],
        apart: Sequence[Row | BadRowError] | None,
        *,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        files: Sequence[Path] = (),
    ) -> Dealt:
        """Rows to rounds; `apart` are rows for evaluation from elsewhere, None to take a share of `rows` instead.

        Raises ValueError, with places and way out, if any row cannot be a prompt and is not to be dropped.
        """
        facts = Facts()
        rendering = Rendering(
            tokenizer, self.format, system=self.system, max_tokens=self.max_tokens, too_long=self.too_long
        )
        bad = BadRows({"empty": self.empty == "drop", "malformed": self.malformed == "drop"}, facts.counts)
        training = self._prompts(rows, self.columns, rendering, facts, bad)
        kept: list[Prompt] = []
        if apart is not None:
            kept = self._prompts(
                apart, _present(self.columns, apart, self.schema), rendering, facts, bad, prefix="held-out-row"
            )
        bad.check()
        if apart is None:
            training, kept = self._sides(training, facts)
        else:
            _refuse_overlap(training, kept)
        counts = facts.counts
        counts.update(training=len(training), held_out=len(kept))
        if self.batch > len(training):
            raise ValueError(
                f"prompts.batch must be <= {len(training)}, the number of prompts left for training "
                f"({', '.join(f'{name} {count}' for name, count in counts.items())}), got {self.batch}. "
                "Fix: lower prompts.batch or prompts.held_out, or bring more prompts."
            )
        return Dealt(
            tuple(training),
            tuple(kept),
            size=self.batch,
            seed=seed,
            counts=dict(counts),
            summary=facts.summary(),
            origin=origin(files),
        )

    def _prompts(
        self,
        rows: Sequence[Row | BadRowError],
        columns: Columns,
        rendering: Rendering,
        facts: Facts,
        bad: BadRows,
        *,
        prefix: str = "row",
    ) -> list[Prompt]:
        laid_out = lay_out(rows, self.schema, columns, system=self.format == "chat")
        facts.add(laid_out)
        special = [token for token in rendering.tokenizer.all_special_tokens if token]
        maker = rendering if self.compare is None else Comparing(rendering, self.compare)
        seen: set[tuple[Message, ...]] = set()
        ids: dict[str, str] = {}
        prompts = []
        for row in laid_out.rows:
            try:
                if isinstance(row, BadRowError):
                    raise row
                one = question(row, laid_out.columns, prefix=prefix)
                _take_id(one, ids)
                made = maker.prompts(one, facts.counts)
            except BadRowError as fault:
                bad.add(fault)
                continue
            bad.good()
            facts.left_out.update(one.left_out)
            facts.counts["meta_left_out"] += len(one.left_out)
            if not made:
                continue
            messages = made[0].messages
            facts.counts["repeated"] += messages in seen  # the same messages under another id
            facts.counts["special_tokens_in_text"] += any(
                token in message.content for message in messages for token in special
            )
            seen.add(messages)
            prompts += made
        return prompts

    def _sides(self, prompts: Sequence[Prompt], facts: Facts) -> tuple[list[Prompt], list[Prompt]]:
        """Training and held out. Raises ValueError if a number is to be held out and none can be."""
        kept_ids = _share(prompts, self.held_out)
        if not kept_ids and self.held_out >= 1 and prompts:
            least = min(Counter(prompt.messages for prompt in prompts).values())
            more = f"prompts.held_out={least} or more, " if least < len(prompts) else ""
            raise ValueError(
                f"prompts.held_out={self.held_out:g}: no prompt can be held out, because equal prompts stay on one "
                f"side, and each text is there {least} times or more. Fix: {more}prompts.held_out=0 for a run without "
                "evaluation, or prompts.held_out_path=FILE with other prompts."
            )
        facts.nothing_held_out = not kept_ids
        training = [one for one in prompts if row_of(one.id) not in kept_ids]
        return training, [one for one in prompts if row_of(one.id) in kept_ids]


def _take_id(one: Question, ids: dict[str, str]) -> None:
    """Raises BadRowError if another row has the id."""
    if one.id in ids:
        raise BadRowError(
            one.place,
            f"expected an id of its own, found {one.id!r}, which is already the id of {ids[one.id]}",
            "give every row its own id, or leave prompts.columns.id empty to number the rows",
        )
    ids[one.id] = one.place


def _present(columns: Columns, apart: Sequence[Row | BadRowError], schema: str) -> Columns:
    """The columns, with those candidates that every row has: a policy is evaluated without any."""
    with suppress(BadRowError):  # rows without answers are laid out without them
        apart = lay_out(apart, schema, columns, system=False).rows
    rows = [row for row in apart if isinstance(row, Row)]
    there = {name: column for name, column in columns.candidates.items() if all(column in row.values for row in rows)}
    return replace(columns, candidates=there)


def _share(prompts: Sequence[Prompt], wanted: float) -> set[str]:
    """The rows that are held out, by their ids: a function of the ids, not of the seed or of the order of the file.

    Prompts with the same messages stay together, on the side where the least of their ids falls.
    """
    groups: dict[tuple[Message, ...], set[str]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.messages, set()).add(row_of(prompt.id))
    by_hash = sorted((derive("held out", min(ids)), sorted(ids)) for ids in groups.values())
    if wanted < 1:
        return {id for place, ids in by_hash if place < wanted * 2**62 for id in ids}
    kept: set[str] = set()
    for _, ids in by_hash:
        if len(kept) + len(ids) <= wanted:
            kept.update(ids)
    return kept


def _refuse_overlap(training: Sequence[Prompt], kept: Sequence[Prompt]) -> None:
    ids = {prompt.id for prompt in training}
    messages = {prompt.messages: prompt.id for prompt in training}
    for prompt in kept:
        if prompt.id in ids or prompt.messages in messages:
            same = "id" if prompt.id in ids else f"text as training prompt {messages[prompt.messages]!r}"
            raise ValueError(
                f"held-out prompt {prompt.id!r} is also trained on: it has the same {same}. "
                "Remove it from one of the two, or let prompts.held_out take a share of the training prompts."
            )
