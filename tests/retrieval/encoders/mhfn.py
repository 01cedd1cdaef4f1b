"""Two steps with all parts of mHFN within a step, by as many processes as there are.

mhfn.py FOLDER FILE: the corpus is in the folder, the weights go to the file.
"""

import sys
from pathlib import Path

import alike
import little
import torch
from safetensors.torch import save_file

from core import distributed
from training import engine as deep


def weights(folder: Path, cached: bool) -> dict:
    settings = little.settings(
        folder / str(distributed.rank()),
        batches="by_language",
        in_batch=["interpolate", "queue", "false_negatives"],
        interpolate={"number": 3},
        queue={"size": 20, "by": "language"},
        false_negatives={"clusters": 3, "temperature": 2.0, "start": 0.0},
        gradient_caching=cached,
    )
    return alike.trained(little.learner(settings, folder))


if __name__ == "__main__":
    deep.start()
    torch.set_num_threads(1)
    found = weights(Path(sys.argv[1]), cached=False)
    if distributed.rank() == 0:
        save_file(found, sys.argv[2])
    deep.stop()
