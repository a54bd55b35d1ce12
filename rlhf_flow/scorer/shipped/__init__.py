"""Ready-made functions for `scorer=rule` and `scorer=rules`: `rlhf_flow.scorer.shipped.<name>`.

Each takes its own arguments by name, and raises ValueError for an invalid one at the first response.
"""

from rlhf_flow.scorer.shipped.gold import exact_answer, numeric_answer
from rlhf_flow.scorer.shipped.shape import in_format, length, occurrences, valid_json

__all__ = ["exact_answer", "in_format", "length", "numeric_answer", "occurrences", "valid_json"]
