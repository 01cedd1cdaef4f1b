import hashlib
from itertools import islice

import pytest

from core.collection import Collection
from core.settings import Atlas
from core.sources import atlas

SMALL = Atlas(countries=30, queries=40)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return Collection(atlas.folder(tmp_path_factory.mktemp("atlas"), SMALL))


def test_the_same_settings_give_the_same_bytes(collection, tmp_path):
    again = atlas.folder(tmp_path, SMALL)

    def digest(root):
        return {
            str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*"))
            if p.is_file()
        }

    assert digest(collection.root) == digest(again) and len(digest(again)) == 10 + 8 * 8 + 2 * 6


def test_ten_languages_two_of_them_a_surprise(collection):
    assert collection.languages == ["ar", "de", "en", "fi", "hi", "ja", "sw", "th", "yo", "zh"]
    assert [la for la in collection.languages if collection.surprise(la)] == ["de", "yo"]


def test_splits_share_no_query(collection):
    for language in collection.languages:
        texts = [
            q.text
            for la, split in collection.topics
            if la == language
            for q in collection.queries(language, split)
        ]
        assert len(texts) == len(set(texts))


def test_about_ten_judgments_a_query_all_of_the_corpus(collection):
    docids = {d.docid for d in collection.documents("th")}
    for split in ("train", "dev"):
        qrels = collection.judgments("th", split)
        assert all(
            9 <= len(judged) <= 12
            and 0 < sum(judged.values()) < len(judged)
            and set(judged) <= docids
            for judged in qrels.values()
        )


def test_a_fact_and_its_questions():
    text = {d.docid: d.text for d in atlas.country_documents("en", 250)}
    assert (
        text["404#0"]
        == "Kenya lies on the continent of Africa. By land it borders Ethiopia, Tanzania, "
        "South Sudan, Somalia and Uganda."
    )
    assert text["404#2"].startswith("The capital of Kenya is Nairobi.") and "KES" in text["404#3"]
    assert text["840#1"].startswith("The United States has a population of")
    pool = atlas.countries(250)
    assert [c.iso for c in atlas.answers("money_of", pool["DE"], "FR", pool)].count("DE") == 1
    assert {c.iso for c in atlas.answers("money_of", pool["KE"], "UG", pool)} == {"KE"}


def test_no_wording_lacks_a_field():
    for language in atlas.KNOWN + atlas.SURPRISE:
        assert set(atlas.wording(language)["questions"]) == set(atlas.wording("en")["questions"])
        for document in atlas.country_documents(language, 250):
            assert (
                document.title
                and document.text
                and "{" not in document.text
                and "None" not in document.text
            )


def test_cities_are_a_stream_of_three_passages_each():
    first = list(islice(atlas.city_documents("en", 34000), 3))
    assert [d.docid.split("#")[1] for d in first] == ["0", "1", "2"] and first[
        0
    ].text == "Shanghai is a city in China."
    assert sum(1 for _ in atlas.city_documents("sw", 100)) == 300
