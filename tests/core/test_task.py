import pytest

from core.errors import InputError
from core.task import Task


def test_splits_and_surprise(config):
    task = Task(config())
    assert not task.surprise("en") and task.surprise("de") and task.splits("de") == ["dev", "testA"]
    assert task.pairs("train") == [("en", "train"), ("sw", "train")]


def test_a_limit_is_a_fixed_sample(config, folder):
    (folder / "en" / "topics" / "topics.en-dev.tsv").write_text(
        "".join(f"{i}\tquery {i}\n" for i in range(50))
    )
    sample = Task(config(limit=10)).queries("en", "dev")
    assert len(sample) == 10 and sample == Task(config(limit={"dev": 10})).queries("en", "dev")
    assert [int(q.qid) for q in sample] == sorted(int(q.qid) for q in sample)
    assert sample != Task(config(limit=10, seed=1)).queries("en", "dev")
    assert len(Task(config(limit={"train": 1})).queries("en", "dev")) == 50


def test_inputs_follow_the_content(config, folder):
    task, path = Task(config()), folder / "en" / "topics" / "topics.en-dev.tsv"
    before = (task.topics_input("en", "dev"), task.corpus_input("en"))
    path.write_text("3\tanother question\n")
    assert (
        Task(config()).topics_input("en", "dev") != before[0]
        and Task(config()).corpus_input("en") == before[1]
    )


def test_a_language_without_topics(config, folder):
    for path in (folder / "de" / "topics").iterdir():
        path.rename(path.with_name(path.name.replace("dev", "other").replace("testA", "more")))
    with pytest.raises(InputError, match="de has no topics for any of train, dev, testA"):
        Task(config()).pairs()
    with pytest.raises(InputError, match="no topics for language xx"):
        assert Task(config(languages=["xx"])).languages


def test_parameters_of_a_language_that_is_not_there(config):
    per_language = {"en": {"k1": 1.0}, "fr": {"k1": 1.0}}
    with_a_stranger = config(retrieval={"bm25": {"per_language": per_language}})
    message = (
        r"^retrieval.bm25.per_language: .*: no topics for language fr; "
        "topics are there for de, en, sw$"
    )
    with pytest.raises(InputError, match=message):
        assert Task(with_a_stranger).collection
    one_in_use = config(languages=["sw"], retrieval={"bm25": {"per_language": {"en": {}}}})
    assert Task(one_in_use).languages == ["sw"], "one that is not in use is no fault"


def test_what_is_computed_once_a_task(config):
    from core.task import once

    calls = []

    @once
    def doubled(task, number):
        calls.append(number)
        return 2 * number

    first, second = Task(config()), Task(config())
    assert [doubled(first, 2), doubled(first, 2), doubled(first, 3)] == [4, 4, 6]
    assert doubled(second, 2) == 4 and calls == [2, 3, 2], "each task keeps its own"
    with pytest.raises(TypeError, match="doubled: give number by place"):
        doubled(first, number=2)
