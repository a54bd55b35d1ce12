"""Functions for `scorer=rule` and `scorer=rules` that need not be written: `rlhf_flow.scorer.shipped.<name>`.

Each takes its own arguments by name; a value that makes no sense is a ValueError at the first answer.
"""

from rlhf_flow.scorer.shipped.gold import exact_answer, numeric_answer
from rlhf_flow.scorer.shipped.shape import in_format, length, occurrences, valid_json

__all__ = ["exact_answer", "in_format", "length", "numeric_answer", "occurrences", "valid_json"]
