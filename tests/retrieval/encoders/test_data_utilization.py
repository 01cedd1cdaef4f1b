"""data-utilization-2025 all the way, with a little body."""

import json
from collections import Counter
from pathlib import Path

import little
import numpy as np
import pytest
from little import train, train_until, weights

from core import machine
from core.artefacts import RankedRun, TrainedEncoder
from core.config import merged
from core.encoders import METHODS
from core.errors import InputError
from core.runs import StoredRun
from core.settings import Config
from core.task import Task
from retrieval import retrievers, search, searching
from retrieval.encoders import encoders
from retrieval.encoders.negatives import __main__ as negatives
from retrieval.encoders.negatives.pools import Pools
from tests import loopback
from tests.ranking import small

ROOT = Path(__file__).parents[3]
CHAIN = ("1-from_ensemble", "2-judge", "3-generate")


@pytest.fixture(scope="module")
def judge_model(tmp_path_factory):
    return str(small.write(tmp_path_factory.mktemp("judge") / "model"))


@pytest.fixture
def task(tmp_path, little_body):
    """A function of encoders' settings: their task, planned."""
    little.write_collection(tmp_path / "little")
    below = {
        "backbone": str(little_body),
        "steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "evaluate_every": 2,
        "precision": "fp32",
        "deepspeed": str(ROOT / "configs" / "deepspeed" / "zero0.json"),
        "query_length": 12,
        "passage_length": 24,
        "dev": {"queries": 2, "passages": 20},
    }

    def make(sources=("dense",), work="work", retrieval=None, **methods) -> Task:
        own = {name: merged(below, settings) for name, settings in methods.items()}
        chosen = {
            "sources": list(sources),
            "dense": {"backbone": str(little_body), "max_length": 30},
            "encoders": own,
            **(retrieval or {}),
        }
        values = {
            "name": "test",
            "work": str(tmp_path / work),
            "collection": {"source": "disk", "path": str(tmp_path / "little")},
            "retrieval": chosen,
        }
        made = Task(Config.model_validate(values))
        search.plan(made)
        return made

    return make


def whole(judge_model, **more):
    """Two systems' vectors, a small cross-encoder, keywords."""
    settings = {
        "method": "data_utilization",
        "from_ensemble": {
            "systems": ["dense", "first"],
            "combine": "features",
            "size": 8,
            "reach": 9,
            "depth": 6,
        },
        "judge": {"cross_encoder": {"model": judge_model, "partial": 0.0, "full": 0.05}},
        "generate": {"number": 5, "depth": 20},
        "topics": {"count": 3},
        "draw": {"number": 2},
    }
    return merged(settings, more)


def chain_of(task, name):
    return encoders.chain_step(task, name)


def pools(task, name, language="en"):
    folder = chain_of(task, name).path
    return {link[2:]: dict(Pools(folder / link / f"{language}.parquet")) for link in CHAIN}


def test_all_the_way(task, judge_model, capsys):
    own = task(first={"method": "dpr"}, mine=whole(judge_model))
    train(own, "mine")
    found = pools(own, "mine")
    before, read, filled = found["from_ensemble"], found["judge"], found["generate"]
    assert len(before) == 12
    reasons = Counter(c.dropped for candidates in read.values() for c in candidates)
    assert {"", "relevant", "judged 2"} <= set(reasons) <= {"", "relevant", "judged 1", "judged 2"}
    for qid, candidates in filled.items():
        live = [c for c in candidates if not c.dropped]
        assert len(live) == 5, "N for each query"
        known = {c.docid for c in read[qid]}
        new = [c.docid for c in live if c.origin == "generate"]
        assert known.isdisjoint(new) and f"p{qid}#0" not in new
        assert len({c.docid for c in candidates}) == len(candidates)
    assert "mine: 3 topics of 24 positives" in capsys.readouterr().out


def test_a_stopped_training_goes_on_to_the_same_bytes(task, judge_model):
    settings = {"first": {"method": "dpr"}, "mine": whole(judge_model)}
    undisturbed = train(task(**settings), "mine")
    train_until(3, task(work="stopped", **settings), "mine")
    again = train(task(work="stopped", **settings), "mine")
    assert weights(again) == weights(undisturbed)


def test_the_plan_knows_what_reading_takes(task, judge_model):
    own = task(first={"method": "dpr"}, mine=whole(judge_model), plain={"method": "top_k"})
    assert chain_of(own, "plain").seconds == 5
    # 24 queries with six candidates each, at ten pairs a second on two cores
    expected = machine.model_seconds(24 * 6 * 0.1)
    assert chain_of(own, "mine").seconds == pytest.approx(5 + expected)


def test_joined_features_are_the_mean_of_cosines(task, judge_model):
    ensemble = {"size": 99}  # more than the vectors have: nothing is lost
    own = task(first={"method": "dpr"}, mine=whole(judge_model, from_ensemble=ensemble))
    encoders.make(own, [chain_of(own, "mine")])
    folder = chain_of(own, "mine").path / "1-from_ensemble"
    (candidates,) = [found for qid, found in Pools(folder / "en.parquet") if qid == "3"]
    passages = own.passages("en")
    (query,) = [q for q in own.queries("en", "train") if q.qid == "3"]
    scores = {}
    for system in ("dense", "first"):
        made_from = searching.behind(own.step(RankedRun(system, "en", "train")), "en")
        (encoded,) = searching.encoder(own, made_from).encode_queries([query.text])
        stored = retrievers.vectors_of(made_from.vectors)
        for candidate in candidates:
            row = int(passages.rows([candidate.docid])[0])
            vector = stored[row].astype(np.float32)
            cosine = vector @ encoded / np.linalg.norm(vector) / np.linalg.norm(encoded)
            scores.setdefault(candidate.docid, []).append(float(cosine))
    for candidate in candidates:
        assert candidate.score == pytest.approx(np.mean(scores[candidate.docid]), abs=1e-4)
    assert candidates[0].score >= candidates[1].score


def test_a_run_is_searched_again(task):
    """By BM25, by vectors and by a FAISS index of them: the run's own passages and scores."""
    index = {"index": {"kind": "flat"}}
    for retrieval in ({}, {"dense": {"backbone": str(little_folder(task)), **index}}):
        sources = ["bm25", "dense"] if not retrieval else ["dense"]
        own = task(sources=sources, work=f"work{len(retrieval)}", retrieval=retrieval)
        steps = [own.step(RankedRun(source, "en", "train")) for source in sources]
        encoders.make(own, steps)
        for step in steps:
            queries = own.queries("en", "train")[:3]
            again = dict(searching.search(own, step, "en", queries, 4))
            stored = StoredRun(step.path / "run.trec")
            for query in queries:
                before = dict(list(stored[query.qid].items())[:4])
                assert again[query.qid] == pytest.approx(before, abs=1e-5), step.name


def little_folder(task):
    return task().config.retrieval.dense.backbone


# ---- A judge behind an endpoint


def answers(material):
    """The passages #1 are highly relevant, no others; and anything is about a thing."""
    if "summary" in material:
        return loopback.says('{"query": "thing"}')
    if "passage" in material:
        return loopback.says('{"summary": "a thing"}')
    return loopback.rates(2, 2 if "was not" in material["candidate"] else 0)


def endpoint(server):
    return {"base_url": server.url, "model": "toy", "retries": 0, "attempts": 1}


def test_what_was_judged_before_the_server_died_is_not_judged_again(task, judge_model):
    server = loopback.Server(answers)
    with server.running():
        mine = whole(
            judge_model,
            from_ensemble={"systems": ["dense"], "combine": "minmax"},
            generate={"by": "endpoint", "endpoint": endpoint(server), "number": 6},
        )
        mine["judge"] = {"by": "endpoint", "endpoint": endpoint(server)}
        own = task(mine=mine)
        server.script = [None] * 20 + [loopback.fails(500)] * 200
        with pytest.raises(InputError, match=r"no answer in 1 tries .*run again to go on from her"):
            encoders.make(own, [chain_of(own, "mine")])
        assert not chain_of(own, "mine").done, "no negatives without verdicts"
        answered = server.materials()[:20]
        server.script.clear()
        server.requests.clear()

        server.otherwise = answers
        encoders.make(own, [chain_of(own, "mine")])
    asked = [json.dumps(material) for material in server.materials()]
    assert len(asked) == len(set(asked)), "and nothing twice"
    assert not {json.dumps(material) for material in answered} & set(asked)
    found = pools(own, "mine")
    for candidates in found["judge"].values():
        for candidate in candidates:
            if candidate.dropped != "relevant":
                is_false = "#1" in candidate.docid
                assert candidate.dropped == ("judged 2" if is_false else "")
    recipe = json.dumps(chain_of(own, "mine").recipe)
    assert "127.0.0.1" not in recipe and '"judged by": "toy"' in recipe


# ---- Alone, and what it would cost


def test_the_negatives_alone(task, judge_model, capsys):
    own = task(first={"method": "dpr"}, mine=whole(judge_model))
    negatives.run(own.config)
    out = capsys.readouterr().out
    assert "### mine: from_ensemble, judge, generate" in out and "| | avg | en | sw |" in out
    assert not own.step(TrainedEncoder("mine")).done and chain_of(own, "mine").done
    figures = json.loads((own.config.folder / "negatives.json").read_text())
    of_english = figures["mine"]["en"]
    assert of_english["negatives a query"] == 5.0
    shares = of_english["from retrieval"] + of_english["from new queries"]
    assert shares == pytest.approx(1.0) and 0 < of_english["eliminated by the judge"] < 1
    with pytest.raises(InputError, match="none of retrieval.encoders has negatives that are made"):
        negatives.run(task(work="other", first={"method": "dpr"}).config)


def test_a_dry_run_asks_nothing_and_counts_what_would_be_asked(task, judge_model, capsys):
    server = loopback.Server(answers)
    with server.running():
        prices = {**endpoint(server), "input_price": 1.0, "output_price": 2.0}
        mine = whole(
            judge_model,
            from_ensemble={"systems": ["dense"], "combine": "minmax"},
            generate={"by": "endpoint", "endpoint": prices},
        )
        mine["judge"] = {"by": "endpoint", "endpoint": prices}
        own = task(mine=mine)
        negatives.run(own.config, is_dry=True)
        out = capsys.readouterr().out
        assert server.requests == []
        assert "the first prompt:\n    You compare passages" in out and "known passage" in out
        (line,) = [
            line
            for line in out.splitlines()
            if line.startswith("  mine: judge: ") and "requ" in line
        ]
        count = int(line.split("judge: ")[1].split()[0])
        encoders.make(own, [chain_of(own, "mine")])
        judged = [m for m in server.materials() if "candidate" in m]
        assert count == len(judged) > 0, "what it said is what was asked"
        # all 24 positives might be summed up, and a query be written from each
        assert "mine: generate: 48 requests, 0 answers are there" in out
        capsys.readouterr()
        asked = len(server.requests)
        negatives.run(own.config, is_dry=True)
        assert f"mine: judge: 0 requests, {count} answers are there" in capsys.readouterr().out
        assert len(server.requests) == asked
    with pytest.raises(InputError, match="no encoder's judge or generate is by=endpoint"):
        negatives.run(task(first={"method": "dpr"}, mine=whole(judge_model)).config, is_dry=True)


# ---- Settings


@pytest.mark.parametrize(
    "more, message",
    [
        (
            {"from_ensemble": {"systems": ["run"], "combine": "features"}},
            "mine.from_ensemble: combine=features joins vectors, but run has none",
        ),
        (
            {"from_ensemble": {"systems": ["run"], "combine": "rrf"}},
            "run was given as runs, so the new queries of generate can't be searched in it",
        ),
        (
            {"negatives": ["from_run", "judge", "generate"], "from_ensemble": None},
            "generate searches with the systems of from_ensemble, but the chain begins with from_r",
        ),
        (
            {
                "negatives": ["from_ensemble", "generate"],
                "generate": {"judged": True},
                "judge": None,
            },
            "generate.judged: new candidates are to be read, but judge is not among negatives",
        ),
        (
            {"from_ensemble": {"systems": ["deep"]}},
            "mines from the runs of 'deep', expected one of dense, run",
        ),
        ({"topics": {"models": ["nowhere.bin"]}}, "nowhere.bin: no such file"),
    ],
)
def test_settings_that_contradict_each_other(task, judge_model, tmp_path, more, message):
    (tmp_path / "runs").mkdir()
    for language in ("en", "sw"):
        for split in ("train", "dev"):
            (tmp_path / "runs" / f"{language}-{split}.trec").write_text("")
    mine = whole(judge_model, from_ensemble={"systems": ["dense"]})
    mine = {name: value for name, value in merged(mine, more).items() if value is not None}
    with pytest.raises(InputError, match=message):
        task(sources=["dense", "run"], retrieval={"run": str(tmp_path / "runs")}, mine=mine)


def test_methods_of_the_paper():
    names = ["data_utilization", "top_k", "top_k_shifted", "top_k_abs", "top_k_margin_pos"]
    assert {*names, "top_k_perc_pos"} <= set(METHODS)
