"""The keys that all prompt sources share, and how their rows become the prompts of each round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.prompts.bad_rows import ACTIONS, BadRowError, BadRows
from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.prompts.layout import AUTO, CHOICES, lay_out
from rlhf_flow.prompts.limits import Limits
from rlhf_flow.prompts.overlap import screened
from rlhf_flow.prompts.pairwise import Compare, Comparing, row_of
from rlhf_flow.prompts.parse import Columns, Question, Row, Rows, question
from rlhf_flow.prompts.tokenize import TOO_LONG, Rendering
from rlhf_flow.prompts.turns import each_turn
from rlhf_flow.seeds import derive
from rlhf_flow.storage.data_origin import origin
from rlhf_flow.system.errors import ConfigError
from rlhf_flow.tokenization.chat_template import FORMATS
from rlhf_flow.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """The fields that all sources share. Every row is checked when the source is opened, before any worker starts."""

    schema: str = AUTO  # layout of the data set: auto detects it, columns takes prompts.columns, or one by name
    columns: Columns = field(default_factory=Columns)
    format: str = "chat"  # chat (the tokenizer's template) | plain (BOS and the text)
    system: str | None = None  # put before every chat that has no system message of its own
    max_tokens: int = 1024  # of the whole prompt, template included
    too_long: str = "refuse"  # refuse | cut (shorten the last user message) | drop; both are counted
    empty: str = "refuse"  # refuse | drop: rows without a prompt, or without an answer that is named; counted
    malformed: str = "refuse"  # refuse | drop: rows that cannot be read; counted
    batch: int = 64  # prompts a round
    held_out: float = 0.05  # a share (< 1) or a number of prompts, by hash of the id; unused with held-out data
    compare: Compare | None = None  # two prompts of each row: its two answers as a question, in both orders
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        share = self.held_out
        for key, rule, ok in (
            ("schema", f"one of {', '.join(CHOICES)}", self.schema in CHOICES),
            ("format", f"one of {', '.join(FORMATS)}", self.format in FORMATS),
            ("system", "left empty with prompts.format=plain", self.system is None or self.format == "chat"),
            ("max_tokens", ">= 1", self.max_tokens >= 1),
            ("too_long", f"one of {', '.join(TOO_LONG)}", self.too_long in TOO_LONG),
            ("empty", f"one of {', '.join(ACTIONS)}", self.empty in ACTIONS),
            ("malformed", f"one of {', '.join(ACTIONS)}", self.malformed in ACTIONS),
            ("batch", ">= 1", self.batch >= 1),
            ("held_out", "a share in [0, 1) or a whole number", 0 <= share < 1 or share % 1 == 0 <= share),
        ):
            if not ok:
                raise ValueError(f"prompts.{key} must be {rule}, got {vars(self)[key]!r}")

    def rows(self) -> Rows:
        """The rows of the data set, as they are stored. Raises ValueError if it cannot be read."""
        raise NotImplementedError

    def held_out_rows(self) -> Rows | None:
        """The rows for evaluation, or None to hold out a share of `rows`."""
        raise NotImplementedError

    def files(self) -> Sequence[Path]:
        """The local files that were read."""
        return ()

    def open(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> PromptSet:
        """Read, check and tokenise everything.

        Raises ValueError, with place, problem and fix, if the data cannot be read, or if a row cannot be a prompt and
        is not to be dropped.
        """
        read = self.read(tokenizer)
        counts = read.counts
        training, held_out = self.separated(screened(read.training, self.limits, counts), read.held_out)
        counts.update(training=len(training), held_out=len(held_out))
        if self.batch > len(training):
            raise _too_few(self.batch, len(training), counted(counts))
        return PromptSet(
            tuple(training), tuple(held_out), size=self.batch, seed=seed, counts=dict(counts),
            summary=summary(read.read_as, counts, read.left_out), origin=origin(self.files()),
        )  # fmt: skip

    def pool(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> PromptSet:
        """All rows for training, in an order of each round; `batch` and `held_out` are unused. Raises as `open`."""
        rows = replace(self, batch=1, held_out=0).open(tokenizer, seed)
        return replace(rows, size=len(rows.training))

    def read(self, tokenizer: PreTrainedTokenizerBase) -> ReadRows:
        """All rows as prompts, before a share of them is held out. Raises ValueError as `open`."""
        rows, held_out_rows = self.rows(), self.held_out_rows()
        reader = _Reader(self, tokenizer)
        training = reader.prompts(rows, self.columns)
        held_out = None
        if held_out_rows is not None:
            present = _present(self.columns, held_out_rows, self.schema)
            held_out = reader.prompts(held_out_rows, present, prefix="held-out-row")
        reader.bad.check()
        return ReadRows(training, held_out, reader.counts, reader.read_as, list(reader.left_out))

    def separated(
        self, prompts: Sequence[Prompt], held_out: Sequence[Prompt] | None
    ) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
        """Training and held out. Raises ValueError if they overlap, or if none of a number can be held out."""
        if held_out is not None:
            _refuse_overlap(prompts, held_out)
            return prompts, held_out
        kept = _held_out_ids(prompts, self.held_out)
        if not kept and self.held_out >= 1 and prompts:
            least = min(Counter(prompt.messages for prompt in prompts).values())
            more = f"prompts.held_out={least} or more, " if least < len(prompts) else ""
            raise ValueError(
                f"prompts.held_out={self.held_out:g}: no prompt can be held out, because equal prompts stay on one "
                f"side, and each text occurs {least} times or more. Fix: {more}prompts.held_out=0 for a run without "
                "evaluation, or prompts.held_out_path=FILE with other prompts."
            )
        training = [one for one in prompts if row_of(one.id) not in kept]
        return training, [one for one in prompts if row_of(one.id) in kept]


@dataclass(frozen=True)
class ReadRows:
    """The rows of a data set as prompts."""

    training: list[Prompt]  # and those of which a share is to be held out, if `held_out` is None
    held_out: list[Prompt] | None
    counts: Counter[str]
    read_as: list[str]  # how the columns were read
    left_out: list[str]  # columns with values that are not JSON


def counted(counts: Mapping[str, int]) -> list[str]:
    """`23 training`, `1 held out`: the counts that are not 0."""
    return [f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if number]


def _too_few(batch: int, training: int, counts: Sequence[str]) -> ConfigError:
    problem = f"prompts.batch={batch}: {training} prompts are left for training ({', '.join(counts) or 'no rows'})"
    if not training:
        return ConfigError(problem, "use more prompts, or a lower prompts.held_out")
    key = f"prompts.batch={training}"
    return ConfigError(problem, f"{key}, or use more prompts", (key,))


def summary(read_as: Sequence[str], counts: Mapping[str, int], left_out: Sequence[str]) -> str:
    """One line for the console: `read as orca (question → prompt); 23 training, 1 held out`."""
    shown = [f"{text} ({', '.join(left_out)})" if text.endswith(" meta left out") else text for text in counted(counts)]
    nothing = [] if counts["held_out"] else ["nothing held out, so no round is evaluated"]
    return "; ".join([*read_as, ", ".join([*shown, *nothing])])


class _Reader:
    """Turns rows into prompts, and counts the rows by outcome."""

    def __init__(self, spec: PromptSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        self._spec = spec
        self.counts = Counter(dict.fromkeys(("too_long_cut", "too_long_dropped", "repeated"), 0))
        self.bad = BadRows({"empty": spec.empty == "drop", "malformed": spec.malformed == "drop"}, self.counts)
        self._special = [token for token in tokenizer.all_special_tokens if token]
        rendering = Rendering(
            tokenizer, spec.format, spec.system, spec.max_tokens, spec.too_long,
            revisions=spec.columns.revisions, answer_tokens=spec.columns.answer_tokens,
        )  # fmt: skip
        self._maker = rendering if spec.compare is None else Comparing(rendering, spec.compare)
        self.left_out: Counter[str] = Counter()  # column -> rows whose value is not JSON
        self.read_as: list[str] = []

    def prompts(self, rows: Rows, columns: Columns, *, prefix: str = "row") -> list[Prompt]:
        laid_out = lay_out(rows, self._spec.schema, columns, system=self._spec.format == "chat")
        self.counts["rows"] += len(laid_out.rows) + laid_out.undecided
        if laid_out.undecided:
            self.counts["undecided_dropped"] += laid_out.undecided
        if laid_out.summary and laid_out.summary not in self.read_as:
            self.read_as.append(laid_out.summary)
        seen: set[tuple[Message, ...]] = set()
        ids: dict[str, str] = {}
        prompts: list[Prompt] = []
        for row in laid_out.rows:
            try:
                if isinstance(row, BadRowError):
                    raise row
                one = question(row, laid_out.columns, prefix=prefix)
                _take_id(one, ids)
                turns = each_turn(one) if columns.every_turn and one.candidates else [one]
                made = [prompt for turn in turns for prompt in self._maker.prompts(turn, self.counts)]
            except BadRowError as fault:
                self.bad.add(fault)
                continue
            self.bad.good()
            self.left_out.update(one.left_out)
            self.counts["meta_left_out"] += len(one.left_out)
            if made:
                self._count_messages(made[0].messages, seen)
            prompts += made
        return prompts

    def _count_messages(self, messages: tuple[Message, ...], seen: set[tuple[Message, ...]]) -> None:
        self.counts["repeated"] += messages in seen  # the same messages under another id
        special = any(token in message.content for message in messages for token in self._special)
        self.counts["special_tokens_in_text"] += special
        seen.add(messages)


def _take_id(one: Question, ids: dict[str, str]) -> None:
    """Raises BadRowError if another row has the id."""
    if one.id in ids:
        raise BadRowError(
            one.place,
            f"expected an id of its own, found {one.id!r}, which is already the id of {ids[one.id]}",
            "give every row its own id, or leave prompts.columns.id empty to number the rows",
        )
    ids[one.id] = one.place


def _present(columns: Columns, rows: Rows, schema: str) -> Columns:
    """The columns, with only those candidates that every row has: evaluation needs none."""
    with suppress(BadRowError):  # rows without answers are laid out without them
        rows = lay_out(rows, schema, columns, system=False).rows
    values = [row.values for row in rows if isinstance(row, Row)]
    candidates = {name: column for name, column in columns.candidates.items() if all(column in one for one in values)}
    return replace(columns, candidates=candidates)


def _held_out_ids(prompts: Sequence[Prompt], wanted: float) -> set[str]:
    """The ids of the rows that are held out: a function of the ids, not of the seed or the order of the file.

    `wanted`: a share below 1, or a number. Prompts with equal messages stay on one side, decided by their least id. So
    do conversations of which any turns have equal messages: these begin with the same first turn.
    """
    first: dict[str, tuple[Message, ...]] = {}  # row -> messages of its first prompt
    for prompt in prompts:
        first.setdefault(row_of(prompt.id), prompt.messages)
    groups: dict[tuple[Message, ...], set[str]] = {}
    for row, messages in first.items():
        groups.setdefault(messages, set()).add(row)
    by_hash = sorted((derive("held out", min(ids)), sorted(ids)) for ids in groups.values())
    if wanted < 1:
        return {id for place, ids in by_hash if place < wanted * 2**62 for id in ids}
    kept: set[str] = set()
    for _, ids in by_hash:
        if len(kept) + len(ids) <= wanted:
            kept.update(ids)
    return kept


def _refuse_overlap(training: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    ids = {prompt.id for prompt in training}
    messages = {prompt.messages: prompt.id for prompt in training}
    for prompt in held_out:
        if prompt.id in ids or prompt.messages in messages:
            same = "id" if prompt.id in ids else f"text as training prompt {messages[prompt.messages]!r}"
            raise ValueError(
                f"held-out prompt {prompt.id!r} is also trained on: it has the same {same}. Fix: remove it from one of "
                "the two, or let prompts.held_out take a share of the training prompts."
            )
