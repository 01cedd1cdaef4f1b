"""A ranker's training: what it starts from, its data, its dev queries and its teacher's scores."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, pstdev

from core import backbones, distributed
from core.groups import read_groups
from core.records import TrainingPair
from core.settings import Ranker
from core.steps import Step
from core.task import Task
from data_aug import build as groups
from ranking.pairs import PairTokenizer
from ranking.rankers import (
    DevSample,
    load,
    origin,
    scores_of,
    task_of,
    tokenizer_of,
    training_languages,
)
from ranking.rerank import Scorer, score_pairs


class LoopDev(DevSample):
    """The sample that a training chooses its best weights by; see ``ranking.guards.Dev``."""

    def __init__(
        self, task: Task, ranker: Ranker, tokenize: PairTokenizer, batch_tokens: int, device: str
    ):
        super().__init__(task, ranker, ranker.dev_queries, ranker.dev_depth)
        self.ways = tokenize, batch_tokens, device

    def __call__(self, forward) -> tuple[float, float]:
        runs = self.rerank(Scorer(forward, *self.ways))
        return self.mean(runs), fmean(pstdev(block.values()) for block in self.blocks(runs))


def body_of(task: Task, name: str, steps) -> tuple:
    """(model, where its tokenizer is) that a training starts from."""
    r = task.config.ranking.trainings[name]
    if r.start:
        where = (
            steps[f"ranker/{r.start}"].path / "model"
            if r.start in task.config.ranking.trainings
            else Path(r.start)
        )
        return backbones.load_cross_encoder(str(where), r.layers, r.attention), where
    where = backbones.source(r.backbone, task.config.models)
    body = backbones.load_cross_encoder(where, r.layers, r.attention)
    if r.prune_vocabulary:
        where = steps[f"vocabulary/{r.backbone}"].path
        backbones.prune_embeddings(body, json.loads((where / "keep.json").read_text()))
    return body, where


def train(task: Task, name: str, steps, folder: Path) -> None:
    import torch

    from ranking import engine
    from ranking.data import TrainingData
    from ranking.model import CrossEncoder
    from ranking.train import Loop, Training

    engine.start()
    r, batch_tokens = task.config.ranking.trainings[name], task.config.ranking.rerank.batch_tokens
    source = task_of(task, r)
    torch.manual_seed(distributed.seed_of(r.seed, 0, "head"))
    body, where = body_of(task, name, steps)
    if r.gradient_checkpointing:
        body.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    training_languages(source, r)  # an unknown one is an error
    recipe = groups.plan(source)[f"groups/{r.recipe}"].path
    draws = [
        [p for p in read_groups(path) if not r.languages or p.language in r.languages]
        for path in sorted(recipe.glob("draw-*.parquet"), key=lambda p: int(p.stem[5:]))
    ]
    size = 1 if r.loss == "binary_cross_entropy" else r.group_size
    per_step = r.batch_size // size * r.accumulation * distributed.world_size()
    tokenize = tokenizer_of(task, name, where)
    dev = LoopDev(source, r, tokenize, batch_tokens, distributed.device())
    Loop(
        Training(
            name,
            r,
            CrossEncoder(body, r.dropouts),
            tokenize,
            TrainingData(draws, pair_texts(source), r.seed, per_step, size),
            dev if dev.chosen else None,
            r.teacher
            and teacher_scores(
                task,
                name,
                source,
                steps[f"ranker/{r.teacher}"],
                {p for draw in draws for p in draw},
            ),
            backbones.backbone(origin(task, name).backbone).half,
            task.config.ranking.other_world,
        ),
        folder,
    ).run()


def pair_texts(task: Task):
    """(query text, passage text) of a training pair."""
    queries = {
        (la, q.qid): q.text for la, s in reversed(task.pairs()) for q in task.queries(la, s)
    }  # train, which comes first, last: it stands
    stores = {la: task.passages(la) for la in task.languages}
    return lambda pair: (
        queries[pair.language, pair.qid],
        stores[pair.passage_language or pair.language].text(pair.docid),
    )


def teacher_scores(
    task: Task, name: str, source: Task, teacher: Step, pairs: Iterable[TrainingPair]
):
    """A function from a training pair to its teacher's logit; they are scored before the training begins."""
    teacher_name, found = task.config.ranking.trainings[name].teacher, {}
    scorer, by_language = load(task, teacher_name, teacher), {}
    text = pair_texts(source)
    for p in pairs:
        by_language.setdefault(p.language, {})[p.passage_language, p.qid, p.docid] = p
    for la, chosen in sorted(by_language.items()):
        ordered = [chosen[key] for key in sorted(chosen)]
        scores = score_pairs(
            scorer,
            scores_of(task, teacher, scorer),
            ordered,
            lambda part: tuple(map(list, zip(*map(text, part)))),
            f"{teacher_name} teaches {name}, {la}",
        )
        found |= {(la, *key): value for key, value in zip(sorted(chosen), scores.tolist())}
    return lambda pair: found[pair.language, pair.passage_language, pair.qid, pair.docid]
