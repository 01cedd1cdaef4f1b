"""The pipeline through run_all.sh itself: every stage real, everything small."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = """
collection: {source: atlas, atlas: {countries: 8, queries: 24}}
languages: [en, th, de]
limit: 6
retrieval:
  bm25: {heap: 512m}
  dense: {layers: 2, max_length: 48, precision: half}
  hybrid: {preset: zscore}
data_aug: {default: {judged_negatives: 3, negatives: 2}}
ranking:
  rankers:
    one: &tiny
      layers: 1
      prune_vocabulary: true
      steps: 2
      batch_size: 4
      max_length: 48
      query_length: 16
      learning_rate: 1e-4
      evaluate_every: 1
      dev_queries: 2
      dev_depth: 3
    two: {<<: *tiny, loss: listwise_softmax, group_size: 4, freeze_embeddings: true}
  rerank: {depth: 5}
"""


def run_all(*arguments, ok=True):
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    done = subprocess.run(
        ["./run_all.sh", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode == 0) == ok, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if ok else done.stderr


@pytest.fixture(scope="module")
def work(models, embedded_folder):
    path = models.parent
    (path / "tiny.yaml").write_text(CONFIG + f"work: {path}\n")
    return path


@pytest.fixture(scope="module")
def first(work):
    assert (
        "to make" in run_all(work / "tiny.yaml", "--plan")
        and not (work / "atlas" / "shared").exists()
    )
    return run_all(work / "tiny.yaml")


def test_results_and_table(first, work):
    folder = work / "atlas" / "tiny"
    results = json.loads((folder / "results.json").read_text())
    assert set(results) == {"dev", "testA"}
    assert list(results["testA"]) == sorted(
        ["bm25", "dense", "hybrid", "one", "two", "ensemble", "ensemble-rankers", "stacking"]
    )
    for by_language in results["testA"].values():
        assert set(by_language) == {"de", "en", "th", "known", "surprise"}
        assert set(by_language["de"]) == {"nDCG@10", "R@100", "R@200", "RR@100", "AP"}
        assert by_language["known"]["nDCG@10"] == pytest.approx(
            (by_language["en"]["nDCG@10"] + by_language["th"]["nDCG@10"]) / 2
        )
    assert "atlas, testA" in first and str(folder / "submission.zip") in first
    assert f"{results['testA']['bm25']['th']['nDCG@10']:.4f}" in first


def test_figures_are_those_of_trec_eval_on_the_runs(first, work):
    import pytrec_eval

    from core.collection import read_qrels

    run = {}
    for line in (
        (work / "atlas" / "tiny" / "runs" / "ensemble" / "th-testA.trec").read_text().splitlines()
    ):
        qid, _, docid, rank, _, _ = line.split()
        run.setdefault(qid, {})[docid] = -float(rank)
    (qrels,) = (work / "atlas" / "collection").glob("*/th/qrels/qrels.th-testA.tsv")
    chosen = {q: judged for q, judged in read_qrels(qrels).items() if q in run}
    found = pytrec_eval.RelevanceEvaluator(chosen, {"ndcg_cut_10"}).evaluate(run)
    results = json.loads((work / "atlas" / "tiny" / "results.json").read_text())
    assert results["testA"]["ensemble"]["th"]["nDCG@10"] == pytest.approx(
        sum(v["ndcg_cut_10"] for v in found.values()) / 5
    )


def test_submission(first, work):
    with zipfile.ZipFile(work / "atlas" / "tiny" / "submission.zip") as archive:
        assert archive.namelist() == [
            "surprise/de-testA.trec",
            "known/en-testA.trec",
            "known/th-testA.trec",
            "manifest.json",
        ]
        manifest = json.loads(archive.read("manifest.json"))
    assert (
        manifest["split"] == "testA"
        and "hybrid" in manifest["ensemble"]["weights"]
        and set(manifest["checkpoints"]) == {"one", "two"}
    )
    assert set(manifest["runs"]) == {"de", "en", "th"} and len(manifest["code"]) == 16


def test_report(first, work):
    html = (work / "atlas" / "tiny" / "report" / "index.html").read_text()
    assert (
        "Where it is lost" in html
        and html.count("<figure>") >= 7
        and "http" not in html
        and "<script" not in html
    )
    results = json.loads((work / "atlas" / "tiny" / "results.json").read_text())
    assert f"{results['testA']['ensemble']['known']['nDCG@10']:.4f}" in html and "ใ" in html


def test_stacking_model_and_estimates(first, work):
    (model,) = (work / "atlas" / "shared" / "ensemble").glob("stacking-model-*")
    assert (model / "model.txt").read_text().startswith("tree\n") and json.loads(
        (model / "stacking.json").read_text()
    )["members"] == ["one", "two", "hybrid", "bm25", "dense"]
    (estimates,) = (work / "atlas" / "shared" / "ensemble").glob("estimates-*/estimates.json")
    found = json.loads(estimates.read_text())
    assert [row["method"] for row in found] == [
        "best single",
        "uniform",
        "score",
        "paper",
        "greedy",
        "coordinate",
        "coordinate, by language",
        "stacking",
    ]
    assert "ways of fusing on dev" in first and f"{found[3]['nested']:.4f}" in first


def test_compare_ledger_and_another_profile(first, work):
    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    folder = work / "atlas" / "tiny"
    results = json.loads((folder / "results.json").read_text())
    out = command("ensemble.compare", folder / "runs" / "bm25", folder, "--queries", "2")
    mean = sum(results["testA"]["ensemble"][la]["nDCG@10"] for la in ("de", "en", "th")) / 3
    assert f"{mean:.4f}" in out and "over 3 languages, 15 queries" in out
    assert "tiny" in command("ensemble.ledger", work / "tiny.yaml")
    out = command(
        "ensemble.submit",
        work / "tiny.yaml",
        "submission.profile=csv",
        "submission.system=stacking",
        "name=other",
    )
    with zipfile.ZipFile(out.splitlines()[-1]) as archive:
        assert archive.read("th-testA.csv").decode().startswith("query_id,passage_ids\n")
    assert "valid" in command(
        "ensemble.submit", work / "tiny.yaml", "--check", folder / "submission.zip"
    )


def test_a_given_member_and_stacking_on_out_of_fold_scores(first, work):
    """A friend's run becomes a member, and the stacked model learns from train scores.

    The hybrid's own stand here for out-of-fold ones.
    """
    friend, scores = work / "friend", work / "oof"
    shutil.copytree(work / "atlas" / "tiny" / "runs" / "bm25", friend, dirs_exist_ok=True)
    for member in ("one", "two", "friend"):
        (scores / member).mkdir(parents=True, exist_ok=True)
        for run in (work / "atlas" / "shared" / "retrieval").glob("hybrid-*-train-*/run.trec"):
            shutil.copy(run, scores / member / f"{run.parent.name.split('-')[1]}-train.trec")
    (friend / "en-dev.trec").write_text(
        "".join(
            line
            for line in (friend / "en-dev.trec").read_text().splitlines(keepends=True)
            if int(line.split()[3]) < 4
        )
    )
    out = run_all(
        work / "tiny.yaml",
        "--from",
        "ensemble",
        f"ensemble.runs={{friend: {friend}}}",
        f"ensemble.stacking.out_of_fold={scores}",
        "name=oof",
    )
    assert "train queries" in out and "note: friend en-dev: lacks" in out
    assert (work / "atlas" / "oof" / "runs" / "stacking" / "th-testA.trec").is_file()
    weights = [
        json.loads(p.read_text())["weights"]
        for p in (work / "atlas" / "shared" / "ensemble").glob("ensemble-weights-*/weights.json")
    ]
    assert {"one", "two", "friend", "hybrid"} in [set(w) for w in weights]


def test_a_round_of_pseudo_labels(first, work):
    """``later`` starts from ``one`` and learns from its scores on unlabelled test queries.

    It learns from similar training queries as well.
    """
    config = work / "rounds.yaml"
    config.write_text(
        CONFIG.replace(
            "    two: {<<: *tiny, loss: listwise_softmax, group_size: 4, freeze_embeddings: true}",
            "    later: {<<: *tiny, start: one, recipe: more, round: 1}",
        ).replace(
            "data_aug: {",
            "data_aug: {more: {negatives: 1, q2q2d: {threshold: 0.5, languages: any}, "
            "pseudo_label: {teacher: one}}, ",
        )
        + f"work: {work}\n"
    )
    assert "and then round 1: what its pseudo-labels come from is made in round 0" in run_all(
        config, "--plan"
    )
    out = run_all(config)
    assert "transductive: unlabelled testA queries" in out and "one → later: dev nDCG@10" in out
    assert (
        "transductive, trained on unlabelled testA queries: "
        "later, ensemble-rankers, ensemble, stacking" in out
    )
    folder = work / "atlas" / "rounds"
    assert (folder / "rounds" / "0" / "one" / "de-testA.trec").is_file() and not (
        folder / "rounds" / "0" / "later"
    ).exists()
    assert json.loads((folder / "transductive.json").read_text())["splits"] == ["testA"]
    html = (folder / "report" / "index.html").read_text()
    assert (
        "Transductive, trained on unlabelled testA queries: later" in html
        and "pseudo_label" in html
        and "A sample of pairs" in html
    )
    assert "all done" in run_all(config, "--plan")


def test_run_again_everything_is_done(first, work):
    before = {p: p.stat().st_mtime_ns for p in (work / "atlas" / "shared").rglob("recipe.json")}
    run_all(work / "tiny.yaml")
    assert {
        p: p.stat().st_mtime_ns for p in (work / "atlas" / "shared").rglob("recipe.json")
    } == before
    assert "all done" in run_all(work / "tiny.yaml", "--plan")


def test_one_setting_changed_reruns_what_depends_on_it(first, work):
    plan = run_all(work / "tiny.yaml", "ensemble.weights=uniform", "--plan")
    assert (
        "weights: paper -> uniform" in plan
        and "ranking\n  vocabulary               done (1)\n  ranker/one               done (1)"
        in plan
    )
    before = (work / "atlas" / "tiny" / "runs" / "hybrid" / "th-dev.trec").read_bytes()
    out = run_all(work / "tiny.yaml", "ensemble.weights=uniform", "--from", "ensemble")
    assert "[ensemble] ensemble-weights" in out and "[ranking]" not in out
    assert (work / "atlas" / "tiny" / "runs" / "hybrid" / "th-dev.trec").read_bytes() == before


def test_forced_stages_give_the_same_bytes(first, work):
    submission = work / "atlas" / "tiny" / "submission.zip"
    run_all(work / "tiny.yaml")
    before = submission.read_bytes()
    assert "forgot" in run_all(work / "tiny.yaml", "--force", "data_aug", "--until", "data_aug")
    assert "of ranking" not in run_all(work / "tiny.yaml") and submission.read_bytes() == before


def test_what_a_user_sees_of_mistakes(first, work):
    assert "did you mean seed?" in run_all(work / "tiny.yaml", "sead=3", ok=False)
    assert "--from: found 'rank', expected one of retrieval data_aug ranking ensemble" in run_all(
        "--from", "rank", ok=False
    )
    assert "--until data_aug comes before --from ensemble" in run_all(
        "--from", "ensemble", "--until", "data_aug", ok=False
    )
    assert "--plan changes nothing, so it goes with no --force ranking" in run_all(
        "--plan", "--force", "ranking", ok=False
    )
    assert "unknown backbone 'e6'" in run_all(
        work / "tiny.yaml", "retrieval.dense.backbone=e6", ok=False
    )
    assert "Traceback" not in run_all(work / "tiny.yaml", "languages=[xx]", ok=False)
    changed = run_all(
        work / "tiny.yaml",
        "name=other",
        "ensemble.weights=uniform",
        "ranking.rankers.one.steps=3",
        "--from",
        "ensemble",
        ok=False,
    )
    assert "is not made; run ./ranking/run.sh with the same configuration first" in changed


def test_two_processes_train_and_give_the_same_scores(first, work):
    """The first ranker's scores by two equal those by one; and a ranker trains at ZeRO 2."""
    config, folder = work / "tiny.yaml", work / "atlas" / "tiny"
    one = {p.name: p.read_text() for p in (folder / "runs" / "one").glob("*.trec")}
    for path in [
        *(work / "atlas" / "shared" / "ranking").glob("one-*"),
        *(work / "atlas" / "shared" / "scores").glob("ranker-one-*"),
    ]:
        shutil.rmtree(path)
    more = [
        "ranking.rankers.two.seed=7",
        "ranking.rankers.two.batch_size=8",
        "ranking.rankers.two.deepspeed=configs/deepspeed/zero2.json",
        "name=two",
    ]
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    done = subprocess.run(
        ["ranking/run.sh", str(config), *more],
        cwd=ROOT,
        env={**environment, "PROCESSES": "2"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    again = {
        p.parent.name.removeprefix("one-")[:-17] + ".trec": p.read_text()
        for p in (work / "atlas" / "shared" / "ranking").glob("one-*/run.trec")
    }
    assert again.keys() == one.keys()
    for name, text in one.items():
        scores = [[float(line.split()[4]) for line in t.splitlines()] for t in (text, again[name])]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert "two: step 2 of 2" in done.stdout
