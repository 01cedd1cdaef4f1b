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


def test_rankers_alone_score_as_deep_as_the_deepest(config, tmp_path):
    """What no ranker scores has made-up scores in their ensemble, however large the block is."""
    values = {
        "candidates": 50,
        "ranking": {"rankers": {"a": {"depth": 2}, "b": {"depth": 3}}, "rerank": {"depth": 20}},
    }
    alone = Task(config(**values))
    assert scored_depth(alone, "ensemble-rankers") == 3
    assert scored_depth(alone, "ensemble") == 20
    beside = Task(config(**values, ensemble={"runs": {"given": str(tmp_path)}}))
    assert scored_depth(beside, "ensemble-rankers") == 20
