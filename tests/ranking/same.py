"""Trains the tiny model at every ZeRO stage and number format, and adapters of it at two stages.

Prints a line of JSON each: losses and a sum of the final weights, which are averages over steps,
each counted by its place.

    python same.py                         one process, two micro-batches of four pairs a step
    torchrun --nproc-per-node 2 same.py    two processes, half of each: the same global batch
"""

import json
import os
import tempfile
from pathlib import Path

import tiny
import torch
from safetensors.torch import load_file

from core import distributed
from core.parts import Average
from core.settings import Fgm, Lora
from training import engine


def by_place(weights: torch.Tensor) -> float:
    """Sum of the absolute values, the last one counted twice."""
    flat = weights.double().abs().flatten()
    return float(flat @ torch.linspace(1, 2, len(flat), dtype=torch.float64))


if __name__ == "__main__":
    torch.set_num_threads(1)
    engine.start()
    for kind, stages in {"fp32": (0, 1, 2, 3), "bf16": (0, 1, 2, 3), "lora": (0, 3)}.items():
        for stage in stages:
            with tempfile.TemporaryDirectory(prefix=f"same-{os.environ['MASTER_PORT']}-") as found:
                shared = [found]
                torch.distributed.broadcast_object_list(shared)  # one folder for all
                folder = Path(shared[0])
                s = tiny.settings(
                    folder,
                    stage,
                    precision="bf16" if kind == "bf16" else "fp32",
                    lora=Lora(rank=2) if kind == "lora" else None,
                    dropouts=[0.0],
                    fgm=Fgm(epsilon=0.5),
                    learning_rate=1e-3,
                    average=Average(decay=0.6),
                )
                tiny.loop(s, folder, dropout=0.0).run()
                distributed.barrier()
                if distributed.rank() == 0:
                    losses = [
                        [e["clean"], e["adversarial"]]
                        for e in map(
                            json.loads, (folder / "training.jsonl").read_text().splitlines()
                        )
                    ]
                    weights = load_file(folder / "model" / "model.safetensors")
                    print(
                        json.dumps(
                            {
                                "of": f"{kind} {stage}",
                                "losses": losses,
                                "weights": sum(map(by_place, weights.values())),
                            }
                        ),
                        flush=True,
                    )
                distributed.barrier()
