"""One step of TRL's trainers on exported data, `python scripts/proofs/trl_step.py DATA --model FOLDER`.

The trainer follows from the columns: DPOTrainer reads chosen and rejected, KTOTrainer reads label, SFTTrainer the rest.
TRL is not a dependency: pip install trl.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset  # type: ignore[import-untyped]  # it has no types
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=4, help="of the one batch")
    options = parser.parse_args()
    kind = {".parquet": "parquet", ".jsonl": "json"}[options.data.suffix]
    data = load_dataset(kind, data_files=str(options.data), split="train")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(data.select(range(min(options.rows, len(data)))), options.model, folder)
        trainer.train()
        for record in trainer.state.log_history:
            print(record)


def trainer_of(data: Dataset, model: str, folder: str) -> Any:  # noqa: ANN401  # TRL is not installed here
    import trl

    name = "DPO" if "chosen" in data.column_names else "KTO" if "label" in data.column_names else "SFT"
    settings = {
        "output_dir": folder,
        "max_steps": 1,
        "per_device_train_batch_size": len(data),
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
    }
    print(f"{name}Trainer of TRL {trl.__version__}: {len(data)} rows of {', '.join(data.column_names)}")
    return getattr(trl, f"{name}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=getattr(trl, f"{name}Config")(**settings),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(model),
    )


if __name__ == "__main__":
    main()
