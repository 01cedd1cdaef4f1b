from core.task import Task
from ensemble.run import scored_depth


def test_how_deep_each_system_scores(config):
    """Below its own depth a ranker's run, and below the block a fused one, has made-up scores."""
    task = Task(
        config(
            candidates=50,
            ranking={
                "rankers": {"deep": {}, "cascade": {"depth": 5, "after": "deep"}},
                "rerank": {"depth": 20},
            },
        )
    )
    depths = {
        system: scored_depth(task, system)
        for system in ("bm25", "dense", "hybrid", "deep", "cascade", "ensemble", "stacking")
    }
    assert depths == {
        "bm25": None,
        "dense": None,
        "hybrid": None,
        "deep": 20,
        "cascade": 5,
        "ensemble": 20,
        "stacking": 20,
    }
