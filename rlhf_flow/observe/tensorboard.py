"""TensorBoard: metrics and samples of every round, under `<run_dir>/tensorboard`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.observe.samples import COLUMNS_OF_CHANGES, rows_of
from rlhf_flow.observe.settings import ObservedRun, Observer, flat
from rlhf_flow.types import RoundRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass
class TensorBoard(Observer):
    """Each start writes one event file from the ledger, with the whole run, and deletes those of earlier starts.

    A killed start may or may not have logged its last round.
    """

    run: ObservedRun
    writer: SummaryWriter

    @classmethod
    def open(cls, run: ObservedRun) -> TensorBoard:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / "tensorboard"
        earlier = sorted(folder.glob("events.out.tfevents.*"))
        observer = cls(run, SummaryWriter(str(folder)))
        for record in run.records:
            observer.round(record)
        observer.writer.flush()
        for path in earlier:
            path.unlink()
        return observer

    def round(self, record: RoundRecord) -> None:
        for key, value in flat(record).items():
            self.writer.add_scalar(key, value, global_step=record.round)
        if rows := rows_of(self.run.changes(record.round)):
            self.writer.add_text("samples", _markdown([COLUMNS_OF_CHANGES, *rows]), global_step=record.round)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def _markdown(rows: Sequence[Sequence[object]]) -> str:
    lines = ["|".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in row) for row in rows]
    return "\n".join(f"|{line}|" for line in [lines[0], "|".join("-" for _ in rows[0]), *lines[1:]])
