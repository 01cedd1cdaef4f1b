"""One ranker: what it starts from, its data, its dev queries, its training, and the trained model as a scorer."""

from pathlib import Path
from statistics import fmean

from core import backbones
from core.config import data_config
from core.distributed import generator
from core.errors import InputError
from core.evaluate import score
from core.files import digest, file_digest
from core.records import Run
from core.settings import Ranker
from core.steps import Step
from core.store import kept_beside
from core.task import Task, once
from ranking.pairs import PairTokenizer
from ranking.rerank import Scorer, Texts, candidate_pairs, reranked
from ranking.scores import Scores

TAUGHT = ("margin_mse", "kl_divergence")  # losses that follow a teacher's scores


@once
def data_task(task: Task, path: str) -> Task:
    return Task(data_config(path, task.config))


def task_of(task: Task, ranker: Ranker) -> Task:
    """Whose collection and groups a ranker is trained on."""
    found = data_task(task, ranker.data) if ranker.data else task
    if ranker.recipe not in found.config.data_aug:
        raise InputError(
            f"{ranker.data}: data_aug has no recipe {ranker.recipe!r}, which a ranker asks for; it has {', '.join(found.config.data_aug)}"
        )
    return found


def origin(task: Task, name: str, seen: tuple = ()) -> Ranker:
    """The first training of a ranker's chain: its backbone, and whether its vocabulary is pruned, hold for all."""
    known, r = task.config.ranking.trainings, task.config.ranking.trainings[name]
    if name in seen:
        raise InputError(
            f"ranking: {' starts from '.join([*seen[seen.index(name) :], name])}; a chain has a beginning"
        )
    if r.start is None or r.start not in known:
        if r.start and not Path(r.start).is_dir():
            raise InputError(
                f"ranking: {name} starts from {r.start!r}, expected one of {', '.join(n for n in known if n != name)}, or a folder with a cross-encoder"
            )
        return r
    return origin(task, r.start, (*seen, name))


def check(task: Task, name: str) -> None:
    """Settings of a ranker that contradict each other or name nothing."""
    r, where, first = task.config.ranking.trainings[name], f"ranking: {name}", origin(task, name)
    if r.start and "backbone" in r.model_fields_set and r.backbone != first.backbone:
        raise InputError(
            f"{where} has start={r.start} and backbone={r.backbone}; a start brings its own backbone, take the setting away"
        )
    if (r.loss in TAUGHT) != (r.teacher is not None):
        raise InputError(
            f"{where}: loss={r.loss} "
            + (
                "needs a teacher (teacher=NAME of a ranker)"
                if r.loss in TAUGHT
                else f"has no use for teacher={r.teacher}; {' and '.join(TAUGHT)} have"
            )
        )
    others = [n for n in task.config.ranking.trainings if n != name]
    for key, value, known in (
        ("teacher", r.teacher, others),
        ("after", r.after, [n for n in task.config.ranking.rankers if n != name]),
    ):
        if value is not None and value not in known:
            raise InputError(
                f"{where}: {key}: found {value!r}, expected one of {', '.join(known) or 'nothing: there is no other ranker'}"
            )
    if r.loss != "binary_cross_entropy" and r.batch_size % r.group_size:
        raise InputError(
            f"{where}: batch_size {r.batch_size} is not a multiple of group_size {r.group_size}, and loss={r.loss} sees whole groups"
        )
    block = task.config.ranking.rerank.depth
    if (r.depth or 0) > block:
        raise InputError(
            f"{where}: depth {r.depth} is below the block that the ensemble fuses; raise ranking.rerank.depth, now {block}"
        )


def depth(task: Task) -> int:
    """Of the block of candidates that is reranked and fused."""
    return min(task.config.ranking.rerank.depth, task.config.candidates)


def own_depth(task: Task, ranker: Ranker) -> int:
    return min(ranker.depth or depth(task), depth(task))


def training_languages(task: Task, ranker: Ranker) -> list[str]:
    """Of a ranker's pairs: those with training topics, and with Q2Q2D and pseudo-labels those with unlabelled queries."""
    train = [la for la, _ in task.pairs(task.config.splits.train)]
    targets = (
        task.config.data_aug[ranker.recipe].targets if ranker.recipe in task.config.data_aug else []
    )
    known = [
        *train,
        *(la for la, _ in (task.pairs(*targets) if targets else []) if la not in train),
    ]
    wrong = [la for la in ranker.languages if la not in known]
    if wrong:
        raise InputError(
            f"a ranker's languages: {', '.join(wrong)} have no training topics; those with are {', '.join(train)}"
        )
    return ranker.languages or train


def dev_languages(task: Task, ranker: Ranker) -> list[str]:
    """Of the dev queries that a ranker is chosen by: none that has no training topics."""
    with_dev = [la for la, _ in task.pairs(task.config.splits.dev)]
    return [
        la for la in training_languages(task, ranker) if la in with_dev and not task.surprise(la)
    ]


def at_home(ranker: Ranker) -> Ranker:
    """As its dev queries are chosen from this configuration's collection: the languages of a ranker trained on another do not hold here."""
    return ranker.model_copy(update={"languages": [], "data": None}) if ranker.data else ranker


def texts_of(task: Task, language: str, split: str) -> Texts:
    queries = {q.qid: q.text for q in task.queries(language, split)}
    store = task.passages(language)
    return lambda pairs: ([queries[q] for q, _ in pairs], [store.text(d) for _, d in pairs])


class DevSample:
    """A sample of dev queries, ``count`` a language, and their candidates to ``depth``."""

    def __init__(self, task: Task, ranker: Ranker, count: int, depth: int):
        self.task, self.split, self.depth, self.chosen = task, task.config.splits.dev, depth, {}
        for la in dev_languages(task, ranker):
            qrels = task.judgments(la, self.split)
            qids = sorted(qrels)
            sample = [
                qids[i]
                for i in sorted(generator(ranker.seed, 0, "dev", la).permutation(len(qids))[:count])
            ]
            run = task.run("hybrid", la, self.split)
            self.chosen[la] = ({q: run.get(q, {}) for q in sample}, {q: qrels[q] for q in sample})
        self.first_stage = (
            self.mean({la: run for la, (run, _) in self.chosen.items()}) if self.chosen else 0.0
        )

    def mean(self, runs: dict[str, Run]) -> float:
        """nDCG@10, a mean over languages."""
        return fmean(score(runs[la], qrels) for la, (_, qrels) in self.chosen.items())

    def rerank(self, scorer: Scorer) -> dict[str, Run]:
        found = {}
        for la, (run, _) in self.chosen.items():
            pairs = candidate_pairs(run, self.depth)
            found[la] = reranked(run, pairs, scorer(*texts_of(self.task, la, self.split)(pairs)))
        return found

    def blocks(self, runs: dict[str, Run]) -> list[dict[str, float]]:
        """The scores of each query's reranked candidates."""
        return [
            {d: found[q][d] for _, d in candidate_pairs({q: candidates}, self.depth)}
            for la, found in runs.items()
            for q, candidates in self.chosen[la][0].items()
            if candidates
        ]


def tokenizer_of(task: Task, name: str, where: str | Path) -> PairTokenizer:
    r = task.config.ranking.trainings[name]
    return PairTokenizer(
        backbones.load_tokenizer(str(where)),
        r.query_length,
        r.max_length,
        origin(task, name).prune_vocabulary,
    )


def load(
    task: Task,
    name: str,
    trained: Step,
    backend: str = "torch",
    where: Path | None = None,
    number_format: str | None = None,
) -> Scorer:
    """A trained ranker, in the ``number_format`` of its training if no other is given; ``where``: the folder that the ``backend`` made of it."""
    from ranking import backends
    from ranking.engine import precision

    number_format = number_format or precision(
        task.config.ranking.trainings[name].precision,
        backbones.backbone(origin(task, name).backbone).half,
    )
    model = trained.path / "model"
    forward, device, made = backends.BACKENDS[backend](where or model, number_format)
    tokenize = tokenizer_of(task, name, model)
    files = [
        file_digest(p, task.config.home / "digests")
        for p in sorted({*model.glob("*.safetensors"), model / "config.json"})
    ]
    identity = digest(
        [files, tokenize.identity, tokenize.query_length, tokenize.max_length, made, device]
    )
    return Scorer(forward, tokenize, task.config.ranking.rerank.batch_tokens, device, identity)


@once
def scores_of(task: Task, trained: Step, scorer: Scorer) -> Scores:
    """A ranker's score store, opened once for all its runs; it lies beside the outputs and goes with them."""
    return Scores(kept_beside(trained.path) / scorer.identity)


def transductive(task: Task, name: str) -> bool:
    """Whether a ranker, or one that it starts from or learns from, was trained on unlabelled queries of a split that is evaluated."""
    r, known = task.config.ranking.trainings[name], task.config.ranking.trainings
    own = r.data is None and task.config.data_aug[r.recipe].targets
    return bool(own) or any(
        transductive(task, other) for other in (r.start, r.teacher) if other in known
    )


def note_chain(task: Task, name: str) -> str:
    """``pre → name`` as far as there is a chain."""
    names, known = [name], task.config.ranking.trainings
    while (start := known[names[0]].start) in known:
        names.insert(0, start)
    return " → ".join(names)
