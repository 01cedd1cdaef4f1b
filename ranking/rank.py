"""The ranking stage: vocabularies, cross-encoders, reranked runs.

    python -m ranking.rank CONFIG [key=value …]          one process
    torchrun --nproc-per-node N -m ranking.rank CONFIG   N processes (or DeepSpeed's launcher)
"""
import json
from functools import cache
from pathlib import Path
from statistics import fmean

from core import backbones, distributed
from core.config import from_arguments
from core.distributed import generator
from core.errors import InputError, exit_with_message
from core.evaluate import score
from core.groups import read_groups
from core.passages import document_text
from core.runs import top_k, write_run
from core.settings import Config, Ranker
from core.store import Plan, run_steps, say
from core.task import Task
from data_aug import build as groups
from ranking.pairs import PairTokenizer
from ranking.rerank import candidate_pairs, rerank, reranked, score_pairs
from retrieval import search

TOKEN_LAYERS = 24000    # tokens x layers a second that two cores score; training takes three times as long


@cache
def plan(task: Task) -> Plan:
    steps, retrieval, c = Plan("ranking", task.config.home), search.plan(task), task.config
    loaded = cache(lambda name: load_ranker(steps[f"ranker/{name}"].path, c.ranking.rankers[name]))     # once for all its runs
    for name, r in c.ranking.rankers.items():
        if name in (*search.systems(task), "ensemble", "ensemble-rankers"):
            raise InputError(f"ranking.rankers: a ranker cannot be named {name!r}, that is another system's name")
        body = {"weights": backbones.fingerprint(r.backbone, c.models)}
        inputs = [groups.plan(task)[f"groups/{r.recipe}"], task.file_input("deepspeed", Path(r.deepspeed)), *(x for la in dev_languages(task, r) for x in (
            retrieval[f"hybrid/{la}-{c.splits.dev}"], task.qrels_input(la, c.splits.dev)))]
        if r.prune_vocabulary:
            inputs.append(add_vocabulary(task, steps, r.backbone, body))
        pair = (r.layers or 12) * r.max_length * 0.8 / TOKEN_LAYERS     # seconds
        seconds = r.steps * r.batch_size * r.accumulation * pair * 3 * (2 if r.fgm.epsilon else 1)
        trained = steps.add(f"ranker/{name}", 1, {**r.model_dump(exclude={"deepspeed"}), **body}, inputs,
                            lambda folder, n=name, r=r: train(task, n, r, folder), resumes=True, seconds=seconds, disk=5e8, memory=3e9)
        for la, split in task.pairs(c.splits.dev, c.splits.test):
            hybrid = retrieval[f"hybrid/{la}-{split}"]
            pairs = len(task.queries(la, split)) * depth(task)
            steps.add(f"{name}/{la}-{split}", 1, {"depth": depth(task)}, [trained, hybrid],
                      lambda folder, n=name, la=la, split=split: build_run(task, loaded(n), n, la, split, folder), resumes=True,
                      seconds=pairs * pair)
    return steps


def depth(task: Task) -> int:
    return min(task.config.ranking.rerank.depth, task.config.candidates)


def training_languages(task: Task, ranker: Ranker) -> list[str]:
    known = [la for la, _ in task.pairs(task.config.splits.train)]
    wrong = [la for la in ranker.languages if la not in known]
    if wrong:
        raise InputError(f"a ranker's languages: {', '.join(wrong)} have no training topics; those with are {', '.join(known)}")
    return ranker.languages or known


def dev_languages(task: Task, ranker: Ranker) -> list[str]:
    with_dev = [la for la, _ in task.pairs(task.config.splits.dev)]
    return [la for la in training_languages(task, ranker) if la in with_dev]


def add_vocabulary(task: Task, steps: Plan, backbone: str, body: dict):
    """The pieces that all passages and queries in use need, once for all rankers of a backbone."""
    retrieval = search.plan(task)
    inputs = [*(retrieval[f"passages/{la}"] for la in task.languages), *(task.topics_input(la, s) for la, s in task.pairs())]
    return steps.get(f"vocabulary/{backbone}") or steps.add(
        f"vocabulary/{backbone}", 1, body, inputs, lambda folder: build_vocabulary(task, backbone, folder), seconds=20)


def build_vocabulary(task: Task, backbone: str, folder: Path) -> None:
    where = backbones.source(backbone, task.config.models)
    tokenizer = backbones.load_tokenizer(where)
    texts = [q.text for la, s in task.pairs() for q in task.queries(la, s)]

    def stream():
        yield from texts
        for la in task.languages:
            yield from map(document_text, search.passages(task, la).documents())

    keep = backbones.used_pieces(tokenizer, stream())
    if distributed.rank() == 0:
        backbones.prune_tokenizer(Path(where), keep, folder)
        (folder / "keep.json").write_text(json.dumps(keep))
    say(f"  vocabulary: {len(keep)} of {len(tokenizer)} pieces are in use")


def tokenizer_of(where: str | Path, ranker: Ranker) -> PairTokenizer:
    return PairTokenizer(backbones.load_tokenizer(str(where)), ranker.query_length, ranker.max_length, ranker.prune_vocabulary)


def train(task: Task, name: str, ranker: Ranker, folder: Path) -> None:
    import torch

    from ranking import engine
    from ranking.data import TrainingData
    from ranking.model import CrossEncoder
    from ranking.train import Loop, Training

    engine.start()
    torch.manual_seed(distributed.seed_of(ranker.seed, 0, "head"))
    where = backbones.source(ranker.backbone, task.config.models)
    body = backbones.load_cross_encoder(where, ranker.layers)
    if ranker.prune_vocabulary:
        where = plan(task)[f"vocabulary/{ranker.backbone}"].path
        backbones.prune_embeddings(body, json.loads((where / "keep.json").read_text()))
    wanted = set(training_languages(task, ranker))
    recipe = groups.plan(task)[f"groups/{ranker.recipe}"].path
    draws = [[p for p in read_groups(path) if p.language in wanted] for path in sorted(recipe.glob("draw-*.parquet"), key=lambda p: int(p.stem[5:]))]
    per_step = ranker.batch_size * ranker.accumulation * distributed.world_size()
    tokenize = tokenizer_of(where, ranker)
    training = Training(name, ranker, CrossEncoder(body, ranker.dropouts), tokenize, TrainingData(draws, pair_texts(task), ranker.seed, per_step),
                        dev_scorer(task, ranker, tokenize))
    state = Loop(training, folder).run()
    say(f"  {name}: best dev nDCG@10 {state['best']:.4f} at step {state['best_step']}")


def pair_texts(task: Task):
    """(query text, passage text) of a training pair."""
    queries = {(la, q.qid): q.text for la, s in task.pairs(task.config.splits.train) for q in task.queries(la, s)}
    stores = {la: search.passages(task, la) for la in task.languages}
    return lambda pair: (queries[pair.language, pair.qid], stores[pair.language].text(pair.docid))


def dev_scorer(task: Task, ranker: Ranker, tokenize: PairTokenizer):
    """A function from ``forward`` to mean nDCG@10 on a sample of dev queries, candidates reranked to ``dev_depth``; None without dev."""
    split, chosen = task.config.splits.dev, {}
    for la in dev_languages(task, ranker):
        qrels = task.judgments(la, split)
        qids = sorted(qrels)
        sample = [qids[i] for i in sorted(generator(ranker.seed, 0, "dev", la).permutation(len(qids))[:ranker.dev_queries])]
        run = search.run_of(search.plan(task)[f"hybrid/{la}-{split}"])
        chosen[la] = ({q: run.get(q, {}) for q in sample}, {q: qrels[q] for q in sample})

    def dev_score(forward) -> float:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        found = []
        for la, (run, qrels) in chosen.items():
            pairs = candidate_pairs(run, ranker.dev_depth)
            scores = score_pairs(forward, tokenize, *texts_of(task, la, split)(pairs), task.config.ranking.rerank.batch_tokens, device)
            found.append(score(reranked(run, pairs, scores), qrels))
        return fmean(found)

    return dev_score if chosen else None


def texts_of(task: Task, language: str, split: str):
    queries = {q.qid: q.text for q in task.queries(language, split)}
    store = search.passages(task, language)
    return lambda pairs: ([queries[q] for q, _ in pairs], [store.text(d) for _, d in pairs])


def load_ranker(folder: Path, ranker: Ranker):
    """(forward, tokenizer, device) of a trained ranker, in eval mode; plain transformers, no DeepSpeed."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from ranking.engine import precision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision(ranker.precision)]
    model = backbones.loading(folder / "model", lambda: AutoModelForSequenceClassification.from_pretrained(
        folder / "model", dtype=dtype, use_safetensors=True)).to(device).eval()
    return (lambda inputs: model(**inputs).logits[:, 0]), tokenizer_of(folder / "model", ranker), device


def build_run(task: Task, ranker: tuple, name: str, language: str, split: str, folder: Path) -> None:
    c, (forward, tokenize, device) = task.config, ranker
    run = {qid: top_k(scores, c.candidates) for qid, scores in search.run_of(search.plan(task)[f"hybrid/{language}-{split}"]).items()}
    pairs = candidate_pairs(run, depth(task))
    scores = rerank(forward, tokenize, pairs, texts_of(task, language, split), c.ranking.rerank.batch_tokens, device, folder, f"{name} {language}-{split}")
    if distributed.rank() == 0:
        write_run(folder / "run.trec", reranked(run, pairs, scores), name)
        for part in folder.glob("chunk-*.npy"):
            part.unlink()


def report(task: Task) -> None:
    for name in task.config.ranking.rankers:
        state = json.loads((plan(task)[f"ranker/{name}"].path / "training.json").read_text())
        say(f"{name}: dev nDCG@10 " + ", ".join(f"{found:.4f} at {step}" for step, found in state["history"] if found is not None))


def run(config: Config) -> None:
    task = Task(config)
    if distributed.world_size() > 1:
        from ranking import engine

        engine.start()
    run_steps(plan(task).values(), config.folder)
    if distributed.rank() == 0:
        report(task)


def main() -> None:
    run(from_arguments("groups and candidates to reranked runs")[0])


if __name__ == "__main__":
    exit_with_message(main)
