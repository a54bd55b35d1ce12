"""Mutants that are equivalent to the original, each with a proof. They are not counted.

An entry that is no longer a mutant is an error: the code has changed, and the proof may not apply.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mutation.operators import Mutant


@dataclass(frozen=True)
class Equivalent:
    path: str
    before: str  # the line, without indentation and comment
    after: str
    proof: str

    @property
    def diff(self) -> str:
        return f"- {self.before}\n+ {self.after}"


STREAM = "Each round has a stream of random numbers of its own, whichever it is."
CERTAIN = "The certain verdicts are replaced in the result."
ROUNDS = "The names, the roles and whether there is a weight are those of every round."
SQUARE = "There is a verdict for each two responses: the array is [B, N, N]."

EQUIVALENTS: tuple[Equivalent, ...] = (
    Equivalent(
        "rlhf_flow/objective/bradley_terry.py",
        "if first.shape[-1] != 1:",
        "if second.shape[-1] != 1:",
        "The learner reads both sides with one head.",
    ),
    Equivalent(
        "rlhf_flow/objective/general_preference.py",
        "if first.shape[-1] % 2:",
        "if second.shape[-1] % 2:",
        "The learner reads both sides with one head.",
    ),
    Equivalent(
        "rlhf_flow/objective/mnpo.py",
        "given = len(self.weights), all(weight > 0 for weight in self.weights), abs(sum(self.weights) - 1) < 1e-6",
        "given = len(self.weights), all(weight > 0 for weight in self.weights), abs(sum(self.weights) - 1) <= 1e-6",
        "The difference of a double near 1 to 1 is a multiple of 2^-53, and 1e-6 is none.",
    ),
    Equivalent(
        "rlhf_flow/objective/kto.py",
        "weight = weight * (groups.sum(above.abs()) > 0)[groups.group]",
        "weight = weight * (groups.mean(above.abs()) > 0)[groups.group]",
        "The mean weighs by masses, which are above 0: it is 0 where the sum is.",
    ),
    Equivalent(
        "rlhf_flow/selector/label.py",
        'one_first = coin(one, other) < wins if kind == "sampled" else wins > 0.5',
        'one_first = coin(one, other) < wins if kind == "sampled" else wins >= 0.5',
        "If wins is 0.5, it is a tie, and the function has already returned.",
    ),
    Equivalent(
        "rlhf_flow/selector/length_penalty.py",
        "odds = np.log(np.where(certain, 1, wins)) - np.log(np.where(certain, 1, lost))",
        "odds = np.log(np.where(certain, 2, wins)) - np.log(np.where(certain, 1, lost))",
        CERTAIN,
    ),
    Equivalent(
        "rlhf_flow/selector/length_penalty.py",
        "odds = np.log(np.where(certain, 1, wins)) - np.log(np.where(certain, 1, lost))",
        "odds = np.log(np.where(certain, 1, wins)) - np.log(np.where(certain, 2, lost))",
        CERTAIN,
    ),
    Equivalent(
        "rlhf_flow/selector/length_penalty.py",
        "missed = abs(scored.utility * known.sum(-1) - total)",
        "missed = abs(scored.utility * known.sum(-2) - total)",
        "A verdict is known in both orders or in none.",
    ),
    Equivalent(
        "rlhf_flow/selector/margin.py",
        "high, low = (i, j) if worth[i] >= worth[j] else (j, i)",
        "high, low = (i, j) if worth[i] > worth[j] else (j, i)",
        "Sides of equal worth are refused in either order, with a bucket that has none: the difference, 0 or (of "
        "infinities) NaN, is not >= a margin, both of which are > 0, and a floor is held against the same worth.",
    ),
    Equivalent(
        "rlhf_flow/selector/margin.py",
        "return Choice(high, low, wins=1.0)",
        "return Choice(high, low, wins=2.0)",
        "The label is hard, or the selector is refused; a hard label only depends on wins > 0.5.",
    ),
    Equivalent(
        "rlhf_flow/selector/pairing.py",
        "if _RANK[name] < _RANK[buckets[id]]:",
        "if _RANK[name] <= _RANK[buckets[id]]:",
        "No two buckets have the same rank, so at equal ranks the bucket is replaced by itself.",
    ),
    Equivalent(
        "rlhf_flow/selector/rejection.py",
        'derive("rejection", rollouts.round, rollouts.prompts[b].id, rollouts.responses[b][0].seed)',
        'derive("rejection", rollouts.round + 1, rollouts.prompts[b].id, rollouts.responses[b][0].seed)',
        STREAM,
    ),
    Equivalent(
        "rlhf_flow/selector/rejection.py",
        'derive("rejection", rollouts.round, rollouts.prompts[b].id, rollouts.responses[b][0].seed)',
        'derive("rejection", rollouts.round - 1, rollouts.prompts[b].id, rollouts.responses[b][0].seed)',
        STREAM,
    ),
    Equivalent(
        "rlhf_flow/selector/rejection.py",
        "if len(accepted) < self.accept and random.random() < chance:",
        "if len(accepted) < self.accept and random.random() <= chance:",
        "A uniform number is equal to a chance with probability 2^-53.",
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        "asked = [self._begun(prompt, round=round, seed=seed) for prompt in prompts]",
        "asked = [self._begun(prompt, round=round + 1, seed=seed) for prompt in prompts]",
        STREAM,
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        "asked = [self._begun(prompt, round=round, seed=seed) for prompt in prompts]",
        "asked = [self._begun(prompt, round=round - 1, seed=seed) for prompt in prompts]",
        STREAM,
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        'cut = np.random.default_rng(derive(seed, round, prompt.id, self.name, "cut")).integers(len(tokens))',
        'cut = np.random.default_rng(derive(seed, round + 1, prompt.id, self.name, "cut")).integers(len(tokens))',
        STREAM,
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        'cut = np.random.default_rng(derive(seed, round, prompt.id, self.name, "cut")).integers(len(tokens))',
        'cut = np.random.default_rng(derive(seed, round - 1, prompt.id, self.name, "cut")).integers(len(tokens))',
        STREAM,
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        "return {source.name: source.source for source in self.at(1)}",
        "return {source.name: source.source for source in self.at(2)}",
        ROUNDS,
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        "return frozenset().union(*(source.roles for source in self.at(1)))",
        "return frozenset().union(*(source.roles for source in self.at(2)))",
        ROUNDS,
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        "return any(source.weight is not None for source in self.at(1))",
        "return any(source.weight is not None for source in self.at(2))",
        ROUNDS,
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        "Rollouts.gathered(prompts, source.stream(engine, prompts, policies, round=round, seed=seed), round)",
        "Rollouts.gathered(prompts, source.stream(engine, prompts, policies, round=round, seed=seed), round + 1)",
        "Of these rollouts only the responses are read.",
    ),
    Equivalent(
        "rlhf_flow/sampler/source.py",
        "Rollouts.gathered(prompts, source.stream(engine, prompts, policies, round=round, seed=seed), round)",
        "Rollouts.gathered(prompts, source.stream(engine, prompts, policies, round=round, seed=seed), round - 1)",
        "Of these rollouts only the responses are read.",
    ),
    Equivalent(
        "rlhf_flow/selector/worth.py",
        "itself = np.arange(wins.shape[1])",
        "itself = np.arange(wins.shape[2])",
        SQUARE,
    ),
    Equivalent(
        "rlhf_flow/selector/worth.py",
        "itself = np.arange(odds.shape[1])",
        "itself = np.arange(odds.shape[2])",
        SQUARE,
    ),
    Equivalent(
        "rlhf_flow/selector/worth.py",
        "total = np.maximum(mass.sum(-1, keepdims=True), 1e-300)",
        "total = np.maximum(mass.sum(-1, keepdims=True), 2e-300)",
        "It divides zeros where no response has a utility, and does nothing elsewhere.",
    ),
    Equivalent(
        "rlhf_flow/selector/tournament.py",
        "if total & (total - 1):",
        "if total & (total - 2):",
        "Here total is at least 2. An odd one shares bit 0 with total - 2, and is no power of two; of an even one, "
        "2 m, it is 2 (m & (m - 1)), which is 0 if and only if m, and so 2 m, is a power of two.",
    ),
)


def stale(known: Iterable[Equivalent], found: Iterable[Mutant]) -> list[Equivalent]:
    """The entries that do not match exactly one mutant."""
    keys = [(mutant.path, mutant.before, mutant.after) for mutant in found]
    return [entry for entry in known if keys.count((entry.path, entry.before, entry.after)) != 1]


def proof(known: Iterable[Equivalent], mutant: Mutant) -> str | None:
    """The proof that a mutant is equivalent; None if there is none."""
    key = mutant.path, mutant.before, mutant.after
    return next((entry.proof for entry in known if (entry.path, entry.before, entry.after) == key), None)
