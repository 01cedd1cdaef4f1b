"""Collections with hardly any judged dev queries, from passages to the report."""

import pytest

from core.errors import InputError
from data_aug import build
from ensemble import run as ensemble_stage
from ranking import rank
from retrieval import search
from tests.ranking import small


@pytest.fixture
def run(config, tmp_path):
    """All stages, with BM25 and a finished cross-encoder."""
    model = small.write(tmp_path / "model")

    def run():
        made = config(
            retrieval={"sources": ["bm25"], "depth": 5},
            candidates=5,
            ranking={"rankers": {"given": {"model": str(model), "query_length": 8}}},
        )
        for stage in (search, build, rank, ensemble_stage):
            stage.run(made)
        return made

    return run


def test_two_judged_dev_queries(run, capsys):
    """Nothing was left to learn from where one of them was held out."""
    made = run()
    assert (
        "estimates: none of stacking: the judged dev queries are in 2 folds, not 3"
        in capsys.readouterr().out
    )
    assert (made.folder / "report" / "index.html").is_file()


def test_empty_dev_judgments(run, folder):
    (folder / "en" / "qrels" / "qrels.en-dev.tsv").write_text("")
    with pytest.raises(InputError, match="qrels.en-dev.tsv: no judgments, expected lines of query"):
        run()


def test_judgments_of_no_query_in_use(config, folder):
    from core.task import Task

    (folder / "en" / "topics" / "topics.en-dev.tsv").write_text("8\twhere\n9\twhat\n")
    with pytest.raises(InputError, match="none of the 2 queries of en-dev in use is judged; raise"):
        Task(config()).judgments("en", "dev")
