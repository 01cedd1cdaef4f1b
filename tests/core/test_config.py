from pathlib import Path

import pytest

from core.config import data_config, from_arguments, load_config, merged_layers
from core.errors import InputError
from core.parts import Part
from core.settings import Config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("collection: {source: atlas}\nretrieval: {depth: 50}\n")
    return path


def test_layers_and_arguments(file, tmp_path):
    above = tmp_path / "above.yaml"
    above.write_text(
        "extends: mine.yaml\nretrieval: {bm25: {k1: 1.2}}\nlanguages: [no, en]\n"
        "ranking: {rankers: {a: {learning_rate: 1e-5}}}\n"
    )
    config = load_config(above, ["retrieval.bm25.b=0.5", "limit=3"])
    assert config.name == "above" and config.retrieval.depth == 50
    assert (config.retrieval.bm25.k1, config.retrieval.bm25.b, config.limit) == (1.2, 0.5, 3)
    assert config.languages == ["no", "en"], "no is Norwegian, not false"
    assert config.ranking.rankers["a"].learning_rate == 1e-5


@pytest.mark.parametrize(
    "argument, message",
    [
        (
            "retreival.depth=5",
            r"argument 'retreival.depth=5': unknown key retreival; did you mean retrieval\? "
            "Known here: candidates",
        ),
        (
            "ranking.rankers.a.warmpu=1",
            r"unknown key ranking.rankers.a.warmpu; did you mean ranking.rankers.a.warmup\?",
        ),
        ("retrieval.depth=0", "retrieval.depth: found 0, expected greater than or equal to 1"),
        ("retrieval.depth=deep", "retrieval.depth: found 'deep', expected a valid integer"),
        (
            "ensemble.stacking.treess=3",
            r"unknown key ensemble.stacking.treess; did you mean ensemble.stacking.trees\?",
        ),
        (
            "retrieval.hybrid.preset=best",
            "retrieval.hybrid.preset: found 'best', expected 'minmax', 'miracl-baseline', "
            "'zscore', 'rrf' or 'sparse-dense'",
        ),
        (
            "ranking.rankers.a.average={decay: 0.9, last: 3}",
            "ranking.rankers.a.average: found {'decay': 0.9, 'last': 3}, expected one of decay "
            "and last, and null or nothing for the other",
        ),
        (
            "ranking.rankers.a.average={}",
            "ranking.rankers.a.average: found {}, expected one of decay and last",
        ),
        (
            "ranking.rankers.a.average={decay: 1.0}",
            "ranking.rankers.a.average.decay: found 1.0, expected less than 1",
        ),
        ("retrieval.bm25.heap=lots", "retrieval.bm25.heap: found 'lots', expected"),
        ("seed", "argument 'seed': expected key=value, for example seed=1"),
        ("name=[", "argument 'name=\\[': not valid YAML"),
        (
            "ranking.rankers.a.recipe=fancy",
            r"ranking.rankers.a.recipe: found 'fancy', expected one of \['default'\]",
        ),
        ("collection.source=disk", "collection.path is not set; name a folder in MIRACL's format"),
        (
            "collection.path=DIR",
            "argument 'collection.path=DIR': collection.path: found 'DIR', but collection.source "
            "is atlas, the embedded collection; set collection.source=disk, or ",
        ),
        (
            "limit={trian: 3, dev: 1}",
            r"argument 'limit={trian: 3, dev: 1}': limit.trian: no configured split; "
            r"did you mean limit.train\? Known here: train, dev, testA",
        ),
        ("limit.testB=3", r"limit.testB: no configured split; did you mean limit.testA\?"),
        (
            "splits.dev=testA",
            "splits: found train=train, dev=testA, test=testA, expected three different splits",
        ),
        (
            "languages=[en, th, en]",
            r"argument 'languages=\[en, th, en\]': languages: found \['en', 'th', 'en'\], "
            "expected each name once; more than once: en",
        ),
        ("retrieval.sources=[bm25, bm25]", "sources: found .* expected each name once; .*: bm25"),
        ("ranking.rankers.a.languages=[en, en]", "languages: found .* expected each name once"),
        (
            "retrieval.run=DIR",
            r"retrieval.run: found 'DIR', but retrieval.sources is \[bm25, dense\]; add",
        ),
        (
            "retrieval.hybrid={preset: miracl-baseline, weights: equal}",
            "retrieval.hybrid.weights: found 'equal', but the preset miracl-baseline brings",
        ),
        (
            "candidates=51",
            "argument 'candidates=51': candidates: found 51, expected at most retrieval.depth, 50",
        ),
        ("languages=[en, 3]", r"argument 'languages=\[en, 3\]': languages.1: found 3, expected a"),
    ],
)
def test_errors_name_the_key(file, argument, message):
    with pytest.raises(InputError, match=message):
        load_config(file, [argument])


def test_the_file_of_a_wrong_key_is_named(tmp_path):
    (tmp_path / "below.yaml").write_text("collection: {source: atlas}\nseeed: 3\n")
    (tmp_path / "above.yaml").write_text("extends: below.yaml\nseed: 1\n")
    with pytest.raises(InputError, match=r"below.yaml: unknown key seeed; did you mean seed\?"):
        load_config(tmp_path / "above.yaml")


def test_files_that_are_wrong(tmp_path, file):
    with pytest.raises(
        InputError, match="mime.yaml: no such configuration; did you mean .*mine.yaml"
    ):
        load_config(tmp_path / "mime.yaml")
    file.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(InputError, match="found key 'seed' a second time"):
        load_config(file)
    file.write_text("extends: mine.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        load_config(file)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.yaml")))
def test_the_configurations_of_the_house_are_valid(name):
    assert load_config(ROOT / "configs" / f"{name}.yaml").name == name


def test_a_part_that_can_be_left_out(tmp_path):
    (tmp_path / "c.yaml").write_text("collection: {source: atlas}\n")
    assert load_config(tmp_path / "c.yaml", ["ensemble.stacking=null"]).ensemble.stacking is None
    assert (
        load_config(tmp_path / "c.yaml", ["ensemble.stacking.trees=5"]).ensemble.stacking.trees == 5
    )


NAMES = """
collection: {source: atlas}
limit: {dev: 3, testA: 4}
retrieval: {bm25: {per_language: {en: {k1: 1.0}, th: {b: 0.5}}}, hybrid: {weights: {bm25: 1.0}}}
data_aug: {default: {caps: {judged: 9, en: 8}}, more: {negatives: 3}}
ranking:
  chain: {pre: {steps: 1}, unused: {}}
  rankers: {a: {steps: 5, start: pre}, b: {seed: 1}}
ensemble: {runs: {friend: DIR, other: DIR}, weights: {a: 0.5, b: 0.5}}
"""


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.yaml"
    path.write_text(NAMES)
    return path


def test_null_takes_a_name_away(names, tmp_path):
    above = tmp_path / "above.yaml"
    above.write_text(
        "extends: names.yaml\nranking: {rankers: {b: null}, chain: {unused: null}}\n"
        "ensemble: {weights: {b: null}}\n"
    )
    arguments = ["data_aug.more=null", "ensemble.runs.other=null", "limit.testA=null"]
    arguments += ["retrieval.bm25.per_language.th=null", "data_aug.default.caps.judged=null"]
    config = load_config(above, arguments)
    assert list(config.ranking.rankers) == ["a"] and config.ranking.rankers["a"].steps == 5
    assert list(config.ranking.chain) == ["pre"]
    assert list(config.data_aug) == ["default"] and config.data_aug["default"].caps == {"en": 8}
    assert config.ensemble.runs == {"friend": "DIR"} and config.ensemble.weights == {"a": 0.5}
    assert config.limit == {"dev": 3}
    assert list(config.retrieval.bm25.per_language) == ["en"]


def test_a_limit_of_one_split_leaves_the_others_theirs(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("collection: {source: atlas}\nlimit: 10\n")
    above = tmp_path / "above.yaml"
    above.write_text("extends: base.yaml\nsplits: {test: testB}\nlimit: {dev: 3}\n")
    assert load_config(above).limit == {"train": 10, "dev": 3, "testB": 10}
    assert load_config(base, ["limit.dev=3"]).limit == {"train": 10, "dev": 3, "testA": 10}
    assert load_config(base, ["limit.dev=3", "limit.train=null"]).limit == {"dev": 3, "testA": 10}
    assert load_config(above, ["limit=5"]).limit == 5
    assert load_config(base, ["limit=null", "limit.dev=3"]).limit == {"dev": 3}


def test_a_name_may_come_back_as_another(names):
    config = load_config(names, ["ranking.rankers.a=null", "ranking.rankers.a.seed=7"])
    assert (
        config.ranking.rankers["a"]
        == Config(name="x", ranking={"rankers": {"a": {"seed": 7}}}).ranking.rankers["a"]
    ), "nothing of the one that was taken away: neither steps nor start"


def test_a_name_that_is_not_there_cannot_be_taken_away(names):
    message = (
        r"argument 'ensemble.runs.freind=null': ensemble.runs.freind: found null, which takes away "
        r"what an earlier layer put there, but there is none; did you mean ensemble.runs.friend\? "
        "Known here: friend, other"
    )
    with pytest.raises(InputError, match=message):
        load_config(names, ["ensemble.runs.freind=null"])
    with pytest.raises(InputError, match="data_aug.more: found null.* Known here: default$"):
        load_config(names, ["data_aug.more=null", "data_aug.more=null"])
    with pytest.raises(
        InputError, match=r"data_aug.default.caps.th: .* there is none\. Known here:"
    ):
        load_config(names, ["data_aug.default.caps.th=null"])


def test_defaults_are_names_too(file):
    config = load_config(file, ["data_aug.mine.negatives=3", "ranking.rankers.base.recipe=mine"])
    assert list(config.data_aug) == ["mine"], "a dictionary that is given stands for the default's"
    arguments = ["data_aug.default=null", "data_aug.mine.negatives=3"]
    config = load_config(file, [*arguments, "ranking.rankers.base.recipe=mine"])
    assert list(config.data_aug) == ["mine"]
    with pytest.raises(InputError, match="data_aug.deflaut: .*did you mean data_aug.default"):
        load_config(file, ["data_aug.deflaut=null"])


def test_what_refers_to_a_name_that_was_taken_away(names):
    with pytest.raises(InputError, match=r"chain.pre.recipe: found 'default', .* \['more'\]"):
        load_config(names, ["data_aug.default=null"])
    with pytest.raises(InputError, match="ranking.rankers: found {}, expected at least 1 in it"):
        load_config(names, ["ranking.rankers.a=null", "ranking.rankers.b=null"])


def test_null_stays_a_value_where_there_are_no_names(names):
    class Holder(Part):
        free: dict = {}
        stacking: Part | None = Part()

    layers = [("one", {"free": {"a": 1}}), ("two", {"free": {"a": None}, "stacking": None})]
    assert merged_layers(Holder, layers) == {"free": {"a": None}, "stacking": None}
    assert load_config(names, ["ensemble.stacking=null", "limit=null"]).limit is None


def test_an_error_names_the_layer_that_holds_the_list(tmp_path):
    (tmp_path / "below.yaml").write_text("collection: {source: atlas}\nlanguages: [1]\n")
    with pytest.raises(InputError, match="below.yaml: languages.0: found 1, expected a valid str"):
        load_config(tmp_path / "below.yaml", ["seed=1"])


@pytest.mark.parametrize(
    "words, seed, others",
    [
        (["seed=3", "--score", "ID=0.7"], 3, ("ID=0.7", False)),
        (["--score", "ID=0.7", "seed=3"], 3, ("ID=0.7", False)),
        (["--score=ID=0.7", "--flag", "seed=3"], 3, ("ID=0.7", True)),
    ],
)
def test_an_options_value_is_no_setting(file, monkeypatch, words, seed, others):
    def add(parser):
        parser.add_argument("--score")
        parser.add_argument("--flag", action="store_true")

    monkeypatch.setattr("sys.argv", ["command", str(file), *words])
    config, options = from_arguments("a command", add)
    assert (config.seed, (options.score, options.flag)) == (seed, others)


def test_a_cluster_that_nothing_is_sent_to(file):
    with pytest.raises(
        InputError,
        match=r"argument 'ray.address=head:6379': ray.address: found 'head:6379', but engine is "
        r"local; set engine=ray, or ray.address=null",
    ):
        load_config(file, ["ray.address=head:6379"])
    config = load_config(file, ["ray.address=head:6379", "engine=ray", "ray.num_gpus=0.5"])
    assert (config.engine, config.ray.num_cpus, config.ray.num_gpus) == ("ray", 1, 0.5)


def test_data_of_a_chain_is_made_on_the_same_machines(file):
    config = load_config(file, ["engine=ray", "ray={address: 'head:6379', num_cpus: 4}"])
    data = data_config(str(file), config)
    assert (data.engine, data.ray, data.work) == ("ray", config.ray, config.work)
    assert data_config(str(file), load_config(file)).engine == "local"


def test_a_key_that_was_given_as_a_setting_is_not_shown(tmp_path):
    """There is no such setting; the error must not put it into a log."""
    path = tmp_path / "c.yaml"
    path.write_text("retrieval: {encoders: {mine: {}}}\ncollection: {source: atlas}\n")
    place = "retrieval.encoders.mine.judge.endpoint"
    for value in ("sk-secret", "[sk-secret", "{a: sk-secret}"):
        with pytest.raises(InputError, match="unknown key .*key; did you mean .*key_file") as error:
            load_config(path, [f"{place}.key={value}"])
        assert "secret" not in str(error.value)
    path.write_text(
        "retrieval: {encoders: {mine: {judge: {by: endpoint, endpoint: {key: sk-secret}}}}}\n"
        "collection: {source: atlas}\n"
    )
    with pytest.raises(InputError, match="unknown key") as error:
        load_config(path)
    assert "secret" not in str(error.value)
