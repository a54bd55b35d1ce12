"""TensorBoard: the metrics of every round, under `<run_dir>/tensorboard`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.observe.settings import flat
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass
class TensorBoard:
    """Each start writes one event file from the ledger, with the whole run, and deletes those of earlier starts.

    A killed start may or may not have logged its last round.
    """

    writer: SummaryWriter

    @classmethod
    def open(cls, run_dir: Path, records: Sequence[RoundRecord]) -> TensorBoard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "observe.tensorboard=true needs the package tensorboard, which is not installed. "
                "Run `pip install tensorboard`, or set observe.tensorboard=false."
            ) from error
        folder = run_dir / "tensorboard"
        earlier = sorted(folder.glob("events.out.tfevents.*"))
        observer = cls(writer=SummaryWriter(str(folder)))
        for record in records:
            observer.round(record)
        observer.writer.flush()
        for path in earlier:
            path.unlink()
        return observer

    def stage(self, round: int, name: str, done: int, total: int, unit: str, detail: str = "") -> None:
        pass

    def round(self, record: RoundRecord) -> None:
        for key, value in flat(record).items():
            self.writer.add_scalar(key, value, global_step=record.round)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
