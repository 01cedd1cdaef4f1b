import pytest

from core.config import load_config
from core.errors import InputError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("collection: {source: atlas}\nretrieval: {depth: 50}\n")
    return path


def test_layers_and_arguments(file, tmp_path):
    above = tmp_path / "above.yaml"
    above.write_text(
        "extends: mine.yaml\nretrieval: {bm25: {k1: 1.2}}\nlanguages: [no, en]\nranking: {rankers: {a: {learning_rate: 1e-5}}}\n"
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
            r"argument 'retreival.depth=5': unknown key retreival; did you mean retrieval\? Known here: candidates",
        ),
        (
            "ranking.rankers.a.warmpu=1",
            r"unknown key ranking.rankers.a.warmpu; did you mean ranking.rankers.a.warmup\?",
        ),
        ("retrieval.depth=0", "retrieval.depth: found 0, expected greater than or equal to 1"),
        ("retrieval.depth=deep", "retrieval.depth: found 'deep', expected a valid integer"),
        (
            "ensemble.stacking.treess=3",
            "unknown key ensemble.stacking.treess; did you mean ensemble.stacking.trees?",
        ),
        (
            "retrieval.hybrid.preset=best",
            "retrieval.hybrid.preset: found 'best', expected 'minmax', 'miracl-baseline', 'zscore', 'rrf' or 'sparse-dense'",
        ),
        ("retrieval.bm25.heap=lots", "retrieval.bm25.heap: found 'lots', expected"),
        ("seed", "argument 'seed': expected key=value, for example seed=1"),
        ("name=[", "argument 'name=\\[': not valid YAML"),
        (
            "ranking.rankers.a.recipe=fancy",
            r"ranking.rankers.a.recipe: found 'fancy', expected one of \['default'\]",
        ),
        ("collection.source=disk", "collection.path is not set; name a folder in MIRACL's format"),
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


@pytest.mark.parametrize("name", ["demo", "minimiracl"])
def test_the_configurations_of_the_house_are_valid(name):
    from pathlib import Path

    assert load_config(Path(__file__).parents[2] / "configs" / f"{name}.yaml").name == name


def test_a_part_that_can_be_left_out(tmp_path):
    (tmp_path / "c.yaml").write_text("collection: {source: atlas}\n")
    assert load_config(tmp_path / "c.yaml", ["ensemble.stacking=null"]).ensemble.stacking is None
    assert (
        load_config(tmp_path / "c.yaml", ["ensemble.stacking.trees=5"]).ensemble.stacking.trees == 5
    )
