"""Augmentations together.

What stands in a conflict, caps, unlabelled queries, and that no judgment but train's is read.
"""

import json
import shutil
from collections import Counter

import pytest

from core.building import run_steps
from core.errors import InputError
from core.groups import read_groups
from core.recipes import Recipe
from core.records import TrainingPair
from core.task import Task
from data_aug import build
from data_aug.augment import Mix, capped, note_scored, round_folder
from retrieval import search
from tests import loopback


def pair(docid, label=0.0, origin="judged", language="en", qid="1"):
    return TrainingPair(language, qid, docid, label, origin, 0, "", "")


def test_of_two_labels_the_earlier_stands():
    mix = Mix(None, None, 0, "en")
    mix.add([pair("a", 1.0), pair("b", 0.0)])
    mix.add(
        [
            pair("a", 0.7, "q2q2d"),
            pair("b", 0.0, "pseudo_label"),
            pair("a", 0.7, "q2q2d")._replace(passage_language="sw"),
        ]
    )
    assert [(p.docid, p.label, p.passage_language) for p in mix.pairs.values()] == [
        ("a", 1.0, ""),
        ("b", 0.0, ""),
        ("a", 0.7, "sw"),
    ]
    assert mix.counts == {"conflicts": 1, "duplicates": 1}


def test_caps():
    pairs = [
        pair(f"d{i}", origin=("judged", "q2q2d")[i % 2], language=("en", "sw")[i // 10])
        for i in range(20)
    ]
    keys = [(p.language, p.qid, p.origin) for p in pairs]
    assert capped(keys, {}, 0, 0) == list(range(20))
    for caps, left in (
        ({"q2q2d": 3}, 13),
        ({"sw": 2}, 12),
        ({"sw q2q2d": 1}, 16),
        ({"sw": 2, "judged": 4}, None),
    ):
        rows = capped(keys, caps, 0, 0)
        assert left is None or len(rows) == left
        assert rows == sorted(rows) == capped(keys, caps, 0, 0), "in order, the same each time"
    another_draw = capped(keys, {"q2q2d": 3}, 0, 1)
    assert capped(keys, {"q2q2d": 3}, 0, 0) != another_draw, "another choice"
    keys = [("en", str(q), "judged") for _ in range(4) for q in range(5)]
    kept = Counter(keys[row][1] for row in capped(keys, {"judged": 10}, 0, 0))
    assert sorted(kept.values()) == [2, 4, 4], "queries keep their pairs, but for the last one"


RECIPES = {
    "plain": Recipe(negatives=1),
    "q2q2d": Recipe(negatives=0, q2q2d={"threshold": 0.0, "neighbours": 1, "languages": "any"}),
    "pseudo": Recipe(
        negatives=0, pseudo_label={"teacher": "FOLDER", "share": 1.0, "calibrate": "minmax"}
    ),
    "both": Recipe(
        negatives=1,
        corpus_negatives=1,
        filters={"same_article": True},
        q2q2d={"threshold": 0.0, "split": "dev"},
        pseudo_label={"teacher": "FOLDER", "split": "dev", "share": 1.0},
    ),
}


@pytest.fixture
def task(config, folder, tmp_path, models, embedded_folder):
    """The small collection with a run of every split, which is the pseudo-labels' teacher, too."""
    runs = tmp_path / "runs"
    runs.mkdir()
    from core.collection import Collection

    found = Collection(folder)
    for (la, split), _ in found.topics.items():
        docs = ["a#0", "b#0"] + ([] if la == "de" else ["c#0"])
        (runs / f"{la}-{split}.trec").write_text(
            "".join(
                f"{q.qid} Q0 {d} 0 {i} x\n"
                for q in found.queries(la, split)
                for i, d in enumerate(docs)
            )
        )

    def make(name, work="work", **more):
        recipe = RECIPES[name]
        if recipe.pseudo_label:
            recipe = recipe.model_copy(
                update={
                    "pseudo_label": recipe.pseudo_label.model_copy(update={"teacher": str(runs)})
                }
            )
        (tmp_path / work).mkdir(exist_ok=True)
        if not (tmp_path / work / "models").exists():
            (tmp_path / work / "models").symlink_to(models)
        return Task(
            config(
                retrieval={"sources": ["run"], "run": str(runs), "hybrid": {"weights": "equal"}},
                data_aug={"default": recipe},
                work=str(tmp_path / work),
                **more,
            )
        )

    return make


def made(task):
    run_steps([*search.plan(task).values(), *build.plan(task).values()], task.config.folder)
    return build.plan(task)["groups/default"].path


def test_q2q2d_from_any_language(task):
    path = made(task("q2q2d"))
    pairs = [p for p in read_groups(path / "draw-0.parquet") if p.origin == "q2q2d"]
    assert {(p.language, p.qid) for p in pairs} == {("en", "4"), ("sw", "3"), ("de", "2")}, (
        "one neighbour for each testA query, surprise ones as well"
    )
    assert {p.passage_language for p in pairs if p.language == "de"} <= {"en", "sw"} and all(
        0 <= p.label <= 0.9 for p in pairs
    )
    assert all("similarity" in p.reason for p in pairs)
    counts = json.loads((path / "counts.json").read_text())
    assert counts["transductive"] == ["testA"] and counts["counts"]["de q2q2d positive"] == 1
    sample = json.loads((path / "sample.json").read_text())
    assert {s["origin"] for s in sample} == {"judged", "q2q2d"} and all(
        s["query"] and s["passage"] for s in sample
    )


def test_pseudo_labels_of_a_folder(task):
    pairs = [
        p
        for p in read_groups(made(task("pseudo")) / "draw-0.parquet")
        if p.origin == "pseudo_label"
    ]
    assert [(p.docid, round(p.label, 3)) for p in pairs if p.language == "sw"] == [
        ("c#0", 0.9),
        ("b#0", 0.45),
        ("a#0", 0.0),
    ]
    assert {p.language for p in pairs} == {"en", "sw", "de"} and {
        p.qid for p in pairs if p.language == "de"
    } == {"2"}


def test_negatives_that_a_judge_has_read(task):
    """The groups' negatives are judged once, and what an outage leaves is never a group."""
    server = loopback.Server(
        lambda m: loopback.rates(2, 2 if m["candidate"].startswith("Oslo") else 0)
    )
    found = task("plain")

    def judged(address, name="toy"):
        endpoint = {"base_url": address, "model": name, "retries": 0}
        filters = {"judge": {"by": "endpoint", "endpoint": endpoint}}
        recipe = Recipe(negatives=2, judged_negatives=0, filters=filters)
        return Task(found.config.model_copy(update={"data_aug": {"default": recipe}}))

    with server.running():
        address = server.url
        path = made(judged(address))
        asked = len(server.requests)
    pairs = read_groups(path / "draw-0.parquet")
    negatives = {(p.language, p.qid, p.docid) for p in pairs if p.origin == "top_negatives"}
    assert negatives == {("en", "1", "c#0"), ("en", "2", "a#0"), ("sw", "1", "c#0")}
    counts = json.loads((path / "counts.json").read_text())["counts"]
    assert counts["en judged 2"] == 2 and counts["sw judged 2"] == 1 and asked == 6
    recipe = json.dumps(build.plan(judged(address))["groups/default"].recipe)
    assert "127.0.0.1" not in recipe and '"judged by": "toy"' in recipe
    elsewhere = build.plan(judged("http://elsewhere/v1"))["groups/default"]
    assert elsewhere.path == path, "where the model is makes no other groups"
    with pytest.raises(InputError, match="no answer in 1 tries"):
        made(judged(address, "another"))
    assert not build.plan(judged(address, "another"))["groups/default"].done


def test_a_dry_run_tells_what_judging_would_cost(task, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    endpoint = {"model": "toy", "input_price": 10.0}
    filters = {"judge": {"by": "endpoint", "endpoint": endpoint}}
    recipe = Recipe(negatives=1, judged_negatives=0, draws=2, filters=filters)
    found = task("plain")
    config = found.config.model_copy(update={"data_aug": {"default": recipe}})
    with pytest.raises(InputError, match=r"hybrid/en-train is not made; run ./retrieval/run.sh fi"):
        build.dry_run(config)
    run_steps(search.plan(Task(config)).values(), config.folder)
    capsys.readouterr()
    build.dry_run(config)  # there is no server at all
    out = capsys.readouterr().out
    # three training queries, each with one of its two unjudged candidates in each of two draws
    count = int(out.split("at least ")[1].split()[0])
    assert 3 <= count <= 6 and "0 answers were there" in out and "cost 0.0" in out
    with pytest.raises(InputError, match="no recipe of data_aug that is in use has filters.judge"):
        build.dry_run(found.config)


def test_only_what_a_teacher_scored_teaches(task, tmp_path, capsys):
    """A ranker of depth 2: a (9) and b (1) are scored, c (0) keeps the order of the hybrid below.

    By minmax over all three, b would get .9 * 1 / 9 = .1 and c a label that nobody gave.
    """
    split, teacher = "testA", tmp_path / "teacher"
    found = task("pseudo")
    shutil.copytree(tmp_path / "runs", teacher)
    (teacher / f"en-{split}.trec").write_text(
        "4 Q0 a#0 1 9.0 t\n4 Q0 b#0 2 1.0 t\n4 Q0 c#0 3 0.0 t\n"
    )

    def of_it():
        recipe = found.config.data_aug["default"]
        pseudo = recipe.pseudo_label.model_copy(update={"teacher": str(teacher)})
        recipe = recipe.model_copy(update={"pseudo_label": pseudo})
        again = Task(found.config.model_copy(update={"data_aug": {"default": recipe}}))
        path = made(again)
        pairs = read_groups(path / "draw-0.parquet")
        labels = {
            p.docid: round(p.label, 3)
            for p in pairs
            if (p.origin, p.language) == ("pseudo_label", "en")
        }
        return path, labels

    given, labels = of_it()
    assert labels == {"a#0": 0.9, "b#0": 0.1, "c#0": 0.0}, "a given folder has scored all"
    note_scored(teacher, None)
    assert of_it() == (given, labels), "as one that says so"
    capsys.readouterr()
    note_scored(teacher, 2)
    of_ranker, labels = of_it()
    assert labels == {"a#0": 0.9, "b#0": 0.0} and of_ranker != given
    assert (
        f"note: data_aug.default.pseudo_label.depth is 20, but its teacher {teacher} scored 2 "
        "passages a query; only those teach" in capsys.readouterr().out
    )


def test_a_filter_asks_no_score_that_nobody_gave(task, tmp_path):
    """Query en 1: a is relevant and lies below the teacher's depth, so nothing is above it."""
    teacher = shutil.copytree(tmp_path / "runs", tmp_path / "teacher")
    (teacher / "en-train.trec").write_text(
        "1 Q0 c#0 1 9.0 t\n1 Q0 d#0 2 8.0 t\n1 Q0 a#0 3 7.0 t\n2 Q0 c#0 1 1.0 t\n"
    )
    recipe = Recipe(negatives=5, filters={"teacher": str(teacher)})
    found = Task(task("plain").config.model_copy(update={"data_aug": {"default": recipe}}))

    def negatives(task):
        pairs = read_groups(made(task) / "draw-0.parquet")
        return {p.docid for p in pairs if (p.language, p.qid, p.label) == ("en", "1", 0.0)}

    assert negatives(found) == {"b#0"}, "judged; c is above the relevant a"
    note_scored(teacher, 2)
    assert negatives(Task(found.config)) == {"b#0", "c#0"}


def test_rounds_of_an_older_version_have_no_note(task, config):
    found = task("plain")
    recipe = Recipe(pseudo_label={"teacher": "deep"})
    ranking = {"rankers": {"deep": {}, "next": {"recipe": "default", "round": 1}}}
    made = config(
        retrieval=found.config.retrieval.model_dump(),
        data_aug={"plain": {}, "default": recipe.model_dump()},
        ranking={"rankers": {"deep": {"recipe": "plain"}, "next": ranking["rankers"]["next"]}},
    )
    folder = round_folder(made, 0) / "deep"
    folder.mkdir(parents=True)
    for language in ("de", "en", "sw"):
        (folder / f"{language}-testA.trec").write_text("")
    with pytest.raises(InputError, match="scored.json: no such file; the round's runs were left"):
        build.plan(Task(made))
    note_scored(folder, 10)
    step = build.plan(Task(made))["groups/default"]
    assert step.version == 3 and step.settings["scored"] == 10


def test_a_training_reads_texts_of_every_split(task):
    from ranking.trainings import PairTexts

    found = task("q2q2d")
    pairs = [p for p in read_groups(made(found) / "draw-0.parquet") if p.language == "de"]
    text = PairTexts(found)(pairs[0])
    assert text[0] == "Hauptstadt von Norwegen" and text[1]


def test_a_recipe_that_asks_for_nothing_new_is_the_same_output(task):
    step = build.plan(task("plain"))["groups/default"]
    assert step.recipe["settings"] == {
        "judged_negatives": None,
        "negatives": 1,
        "draws": 1,
        "candidates": 200,
        "seed": 0,
        "methods": ["judged", "top_negatives"],
    }


@pytest.mark.parametrize("name", ["q2q2d", "both"])
def test_poisoned_judgments_of_other_splits_change_nothing(task, folder, name):
    before = made(task(name)) / "draw-0.parquet"
    content = before.read_bytes()
    for path in [*folder.glob("*/qrels/*testA.tsv"), *folder.glob("*/qrels/*dev.tsv")]:
        rows = [line.split() for line in path.read_text().splitlines()]
        path.write_text("".join(f"{q} Q0 {d} {1 - int(gain)}\n" for q, _, d, gain in rows))
    assert (made(task(name, work="poisoned")) / "draw-0.parquet").read_bytes() == content


@pytest.mark.parametrize(
    "recipe, message",
    [
        (
            {"select": {"scores": "dense"}},
            "data_aug.default.select.scores: found 'dense', expected one of run, hybrid",
        ),
        (
            {"caps": {"en guesses": 3}},
            "data_aug.default.caps: found 'en guesses', expected an origin (judged, q2q2d",
        ),
        (
            {"caps": {"judged en": 3}},
            "data_aug.default.caps: found 'judged en', expected an origin (judged, q2q2d",
        ),
        (
            {"caps": {"en q2q2d": 3}},
            "data_aug.default.caps: found 'en q2q2d', but this recipe makes no such pairs; it "
            "makes judged, top_negatives",
        ),
        (
            {"negatives": 0, "select": {"draw": "top"}},
            "data_aug.default.select: chooses negatives among the candidates, but negatives is 0",
        ),
        (
            {"negatives": 0, "filters": {"same_article": True}},
            "data_aug.default.filters: leave negatives out, but negatives and corpus_negatives",
        ),
        (
            {"pseudo_label": {"teacher": ".", "threshold": 0.7}},
            "data_aug.default.pseudo_label.threshold: found 0.7, but it is of hard labels",
        ),
        (
            {"q2q2d": {"split": "train"}},
            "its unlabelled queries are of the split 'train', expected one of dev, testA, "
            "with topics, and not train",
        ),
        (
            {"q2q2d": {"split": "testB"}},
            "its unlabelled queries are of the split 'testB', expected one of dev, testA",
        ),
        (
            {"pseudo_label": {"teacher": "deep"}},
            "data_aug.default.pseudo_label.teacher: 'deep' is no folder, so it is a system of the "
            "round before: give the rankers of this recipe round: 1 or more",
        ),
    ],
)
def test_recipes_that_make_no_sense(task, recipe, message):
    found = task("plain")
    broken = Task(found.config.model_copy(update={"data_aug": {"default": Recipe(**recipe)}}))
    with pytest.raises(InputError) as error:
        build.plan(broken)
    assert message in str(error.value)


def test_ids_that_two_splits_share(task, folder):
    (folder / "sw" / "topics" / "topics.sw-testA.tsv").write_text("1\tmji mkuu wa Norway\n")
    with pytest.raises(
        InputError,
        match="data_aug.default: sw: testA and train share query ids, 1, first 1; "
        "a pair names its query by its id",
    ):
        build.plan(task("q2q2d"))


def test_a_round_that_was_not_run(task):
    found = task("pseudo")
    recipe = found.config.data_aug["default"]
    later = found.config.model_copy(
        update={
            "data_aug": {
                "default": recipe.model_copy(
                    update={
                        "pseudo_label": recipe.pseudo_label.model_copy(update={"teacher": "base"})
                    }
                )
            },
            "ranking": found.config.ranking.model_copy(
                update={
                    "rankers": {
                        "base": found.config.ranking.rankers["base"].model_copy(update={"round": 1})
                    }
                }
            ),
        }
    )
    with pytest.raises(
        InputError,
        match="rounds/0/base/de-testA.trec: no such file; pseudo-labels of round 1 come from the "
        "systems of round 0: run ./run_all.sh",
    ):
        build.plan(Task(later))


@pytest.mark.parametrize(
    "split, settings",
    [
        ("testA", lambda teacher: {"negatives": 0, "pseudo_label": {"teacher": teacher}}),
        ("train", lambda teacher: {"negatives": 1, "filters": {"teacher": teacher}}),
    ],
)
def test_a_teacher_of_another_collection(task, tmp_path, split, settings):
    found = task("plain")
    teacher = shutil.copytree(tmp_path / "runs", tmp_path / "teacher")
    (teacher / f"en-{split}.trec").write_text("stranger Q0 a#0 0 1 x\n")
    recipe = Recipe(**settings(str(teacher)))
    with pytest.raises(
        InputError,
        match=f"teacher/en-{split}.trec: queries without a topic in en-{split}: 1, first "
        "stranger; is it a run of this collection, language and split",
    ):
        made(Task(found.config.model_copy(update={"data_aug": {"default": recipe}})))


def test_a_teacher_without_a_run(task, tmp_path):
    found = task("plain")
    recipe = Recipe(filters={"teacher": str(tmp_path)})
    with pytest.raises(
        InputError,
        match="en-train.trec: no such file; a teacher's runs are LANG-SPLIT.trec for each language",
    ):
        build.plan(Task(found.config.model_copy(update={"data_aug": {"default": recipe}})))
