"""Rankers that add to the first stage: the hybrid's score, times a weight, and their own logit.

With a head that knows nothing such a ranker orders passages as the hybrid does, and it learns what
the hybrid lacks. The weight stands in the model's ``config.json``, where ``ranking.rankers.load``
finds it; other programs pass it over and give the logit alone.
"""

from typing import TYPE_CHECKING

from core.console import say
from core.errors import InputError
from core.settings import Ranker
from core.steps import Files, Step
from core.task import Task
from ranking.data import Pools, TrainingData
from ranking.distinct import DistinctPairs
from ranking.rankers import task_of
from ranking.run_scores import Runs, scores_in_runs

if TYPE_CHECKING:
    import numpy

SYSTEM = "hybrid"
FITTED_ON = 5000  # groups, evenly among all
LOWEST, HIGHEST = 1e-3, 100.0  # weights of scores with a standard deviation of 1


def runs_of(task: Task, ranker: Ranker) -> Runs:
    """The hybrid's rankings of the queries that a ranker learns from."""
    return Runs(task_of(task, ranker), ranker, SYSTEM, role="first_stage")


def run_inputs(task: Task, ranker: Ranker) -> list[Step | Files]:
    """The steps of these rankings; none where the ranker does not add to them."""
    if ranker.first_stage is None:
        return []
    return runs_of(task, ranker).inputs()


def weighted(task: Task, name: str, data: TrainingData) -> "tuple[float, list[numpy.ndarray]]":
    """The weight, and by row of each draw what is added to a pair's logit: float32."""
    ranker = task.config.ranking.trainings[name]
    distinct = DistinctPairs(data)
    found = scores_in_runs(runs_of(task, ranker), name, distinct)
    by_row = distinct.by_row(found.scores)
    weight = ranker.first_stage
    if weight == "auto":
        weight = fitted_weight(data, by_row[0], name)
    assert isinstance(weight, float)
    say(f"  {name} adds to {weight:.4g} times the {SYSTEM}'s scores: {found}")
    return weight, [weight * scores for scores in by_row]


def fitted_weight(data: TrainingData, scores: "numpy.ndarray", name: str) -> float:
    """The weight with which the scores alone have the least listwise softmax loss.

    Over the first draw's groups, whole; ``scores`` by its rows. The loss is convex in the weight.
    Raises InputError where scores only mislead: then the best weight is none.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    margins = margins_of(data, scores)
    unit = float(np.std(margins[np.isfinite(margins)]))
    if unit == 0:
        raise InputError(
            f"ranking: {name}: first_stage=auto: all passages of its training queries have one "
            f"score by the {SYSTEM}, which tells nothing; take the setting away"
        )

    def loss(weight: float) -> float:
        return float(np.mean(logsumexp(weight / unit * margins, axis=1)))

    best = minimize_scalar(loss, bounds=(0.0, HIGHEST), method="bounded").x
    if best < LOWEST:
        raise InputError(
            f"ranking: {name}: first_stage=auto: the {SYSTEM}'s scores put other passages above "
            "the relevant ones of the training groups, so that no weight above 0 helps; set a "
            "number, or take the setting away"
        )
    return float(best) / unit


def margins_of(data: TrainingData, scores: "numpy.ndarray") -> "numpy.ndarray":
    """[groups, passages]: how far a group's passages are above its relevant one, 0 for itself.

    -inf where a group has fewer passages.
    """
    import numpy as np

    pools = Pools(data.draws[0], data.rows[0])
    rows = []  # of each group's scores
    for number in np.linspace(0, len(pools) - 1, min(FITTED_ON, len(pools)), dtype=int):
        first, others = pools[int(number)]
        rows.append(np.concatenate([[0.0], scores[others] - scores[first]]))
    margins = np.full((len(rows), max(map(len, rows))), -np.inf)
    for number, row in enumerate(rows):
        margins[number, : len(row)] = row
    return margins
