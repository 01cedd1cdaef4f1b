"""Clusters and a search by the model in training, by as many processes as there are.

divided.py FOLDER, where the corpus is. Each process prints a line of what it has in the end.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import little
import torch

from core import distributed
from core.records import Query
from retrieval.encoders.batches import clusters, kmeans
from retrieval.encoders.negatives.refresh import Search
from training import engine

DEPTH = 20
# Blocks that two processes do not share evenly, and clusters that are learned from a sample
SMALL = [(clusters, "AT_ONCE", 7), (kmeans, "LEARNED_FROM", 4)]


def found(folder: Path) -> dict:
    settings = little.settings(
        folder / str(distributed.rank()),
        batches="clustered",
        clustered={"clusters": 5},
        negatives=["refresh"],
        refresh={"depth": DEPTH},
    )
    learner = little.learner(settings, folder)
    learner.order.begin(0, learner.encode)

    queries = [Query(str(number), f"{little.word(number, 0)}?") for number in range(5)]
    mining = SimpleNamespace(
        relevant=lambda language: {query.qid: {f"d{3 * int(query.qid)}"} for query in queries},
        task=SimpleNamespace(
            config=SimpleNamespace(splits=SimpleNamespace(train="train")),
            queries=lambda language, split: queries,
        ),
    )
    search = Search(learner.material, mining, "en")
    search.run(learner.encode)
    rankings = {qid: {d: round(s, 4) for d, s in scores.items()} for qid, scores in search.found()}
    return {"assigned": learner.order.assigned.tolist(), "rankings": rankings}


if __name__ == "__main__":
    engine.start()
    torch.set_num_threads(1)
    for module, name, value in SMALL:
        setattr(module, name, value)
    line = f"{distributed.rank()} {json.dumps(found(Path(sys.argv[1])))}\n"
    sys.stdout.write(line)  # at once: print may write the end of a line by itself
    sys.stdout.flush()
    engine.stop()
