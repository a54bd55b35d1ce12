"""Conversations as tokens for scorers, tokenised while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from rlhf_flow.scorer.token_batches import Tokens, by_length
from rlhf_flow.types import Message, Prompt, Response

Asked: TypeAlias = tuple[Prompt, Response]
Output = TypeVar("Output")


@dataclass(frozen=True)
class Reader:
    """Renders conversations as tokens."""

    render: Callable[[Sequence[Message], str], str]  # messages and answer to text
    encode: Callable[[list[str]], list[list[int]]]  # texts to tokens
    longest: int  # tokens

    def views(self, asked: Iterable[Asked]) -> tuple[dict[str, Tokens], int]:
        """The tokens of prompt and response, by the response's id; and how many were truncated."""
        texts = {response.id: self._rendered(prompt, response) for prompt, response in asked}
        rows = dict(zip(texts, map(tuple, self.encode(list(texts.values()))), strict=True))
        truncated = sum(len(tokens) > self.longest for tokens in rows.values())
        return {id: cut_front(tokens, self.longest) for id, tokens in rows.items()}, truncated

    def outputs(
        self,
        asked: Sequence[Asked],
        run: Callable[[list[Tokens]], Iterable[Output]],
        *,
        characters: int | None = None,
    ) -> tuple[dict[str, Output], dict[str, int]]:
        """What `run` returns for each response, by its id; and the counts of a scorer.

        `run` gets groups of distinct rows, sorted by length, of texts with about so many characters (None: one group).
        A thread tokenises the next group meanwhile. The order of `asked` changes no group.
        """
        found: dict[Tokens, Output] = {}
        views: dict[str, Tokens] = {}
        truncated = 0
        with ThreadPoolExecutor(1) as thread:
            for group, cut in thread.map(self.views, groups(asked, characters)):
                new = by_length(set(group.values()) - found.keys())
                found |= zip(new, run(new), strict=True)
                views |= group
                truncated += cut
        counts = {"judge/queries": len(found), "judge/truncated": truncated}
        return {response.id: found[views[response.id]] for _, response in asked}, counts

    def _rendered(self, prompt: Prompt, response: Response) -> str:
        try:
            return self.render(prompt.messages, response.text)
        except ValueError as error:
            raise ValueError(f"response {response.id!r}: {error}") from error


def groups(asked: Iterable[Asked], characters: int | None) -> Iterator[list[Asked]]:
    """Conversations sorted by text length, in groups of at least so many characters; None: all in one."""

    def text(one: Asked) -> str:
        prompt, response = one
        return "\n".join([*(f"{message.role} {message.content}" for message in prompt.messages), response.text])

    texts = [(text(one), one) for one in asked]
    group: list[Asked] = []
    held = 0
    for written, one in sorted(texts, key=lambda each: (len(each[0]), each[0])):
        group.append(one)
        held += len(written)
        if characters is not None and held >= characters:
            yield group
            group, held = [], 0
    if group:
        yield group


def cut_front(tokens: Tokens, longest: int) -> Tokens:
    """The first token (BOS) and the last `longest - 1`: the answer is scored, so the prompt is truncated."""
    return tokens if len(tokens) <= longest else (tokens[0], *tokens[len(tokens) - longest + 1 :])
