"""What a scorer around another one takes from it."""

from __future__ import annotations

from typing import Any, ClassVar

from rlhf_flow.protocols import Scorer
from rlhf_flow.specs import Place


class Around:
    """The properties of a scorer that are those of its `base`; a subclass is a dataclass with that field."""

    base: Any
    gives_probabilities: ClassVar[bool] = True  # if the base does

    @property
    def loads_model(self) -> bool:
        return bool(self.base.loads_model)

    def fingerprint(self) -> str:
        """That of the base; the fields are hashed separately."""
        return str(self.base.fingerprint())

    def check(self) -> None:
        """Raise ValueError if the base's check does."""
        self.base.check()

    def open(self, place: Place) -> Scorer:
        """Open the base, wrapped."""
        return self.wrap(self.base.open(place))

    def wrap(self, scorer: Scorer) -> Scorer:
        """The scorer, given the opened `base`."""
        raise NotImplementedError
