"""Trains the tiny model at every ZeRO stage and number format.

Prints a line of JSON each: losses and a sum of the final weights.

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
from core.settings import Fgm
from training import engine

if __name__ == "__main__":
    torch.set_num_threads(1)
    engine.start()
    for precision in ("fp32", "bf16"):
        for stage in (0, 1, 2, 3):
            with tempfile.TemporaryDirectory(prefix=f"same-{os.environ['MASTER_PORT']}-") as found:
                shared = [found]
                torch.distributed.broadcast_object_list(shared)  # one folder for all
                folder = Path(shared[0])
                s = tiny.settings(
                    folder,
                    stage,
                    precision=precision,
                    dropouts=[0.0],
                    fgm=Fgm(epsilon=0.5),
                    learning_rate=1e-3,
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
                                "of": f"{precision} {stage}",
                                "losses": losses,
                                "weights": float(
                                    sum(w.double().abs().sum() for w in weights.values())
                                ),
                            }
                        ),
                        flush=True,
                    )
                distributed.barrier()
