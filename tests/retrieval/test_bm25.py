import math

import pytest

from core.passages import Passages, build_passages
from core.records import Document, Query
from retrieval import bm25, jvm

HEAP = "512m"
ENGLISH = [Document("1", "", "the quick brown foxes"), Document("2", "", "a fox and a fox and a fox"), Document("3", "Hens", "hens sleep")]


def indexed(language, documents, folder):
    store, index = folder / "store", folder / "index"
    store.mkdir()
    index.mkdir()
    build_passages(documents, store)
    bm25.build_index(language, Passages(store), index, HEAP)
    return bm25.open_searcher(language, index, 0.9, 0.4, HEAP)


def found(searcher, language, text, depth=10):
    return bm25.search(searcher, language, [Query("q", text)], depth, HEAP)["q"]


def test_scores_by_lucenes_formula(tmp_path):
    """Lucene: idf = ln(1 + (N - n + .5) / (n + .5)); tf / (tf + k1 (1 - b + b length / mean length)); lengths 1 to 39 are exact."""
    searcher = indexed("en", ENGLISH, tmp_path)
    lengths = {"1": 3, "2": 3, "3": 3}                   # analysed: quick brown fox; fox fox fox; hen hen sleep
    mean, idf = 3.0, math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = {d: idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * lengths[d] / mean)) for d, tf in (("1", 1), ("2", 3))}
    assert found(searcher, "en", "Fox") == pytest.approx(expected, abs=5e-5), "Anserini rounds scores to four decimals"
    assert list(found(searcher, "en", "hens")) == ["3"], "the title is indexed"
    assert found(searcher, "en", "zebra") == {} and found(searcher, "en", "fox", 1).keys() == {"2"}


@pytest.mark.parametrize("language, text, query", [
    ("th", "ไนโรบีเป็นเมืองหลวงของเคนยา", "เมืองหลวงของประเทศใด"), ("ar", "عاصمة كينيا هي نيروبي", "العاصمة"), ("ja", "ケニアの首都はナイロビです", "首都"),
    ("zh", "肯尼亚的首都是内罗毕", "首都"), ("fi", "Suurissa taloissa", "talossa"), ("hi", "केन्या की राजधानी", "राजधानी"),
    ("yo", "Olú-ìlú orílẹ̀-èdè Kenya", "kenya"), ("sw", "Mji mkuu wa KENYA", "kenya"), ("de", "Die Hauptstädte", "Hauptstadt"),
    ("xx", "some Words", "words")])
def test_each_languages_own_analyser(tmp_path, language, text, query):
    searcher = indexed(language, [Document("right", "", text), Document("other", "", "zzz 123")], tmp_path)
    assert list(found(searcher, language, query)) == ["right"]


def test_thai_is_given_as_words():
    assert bm25.prepare("th", "แมวกินปลา") == "แมว กิน ปลา"
    assert bm25.prepare("en", "As It Is") == "As It Is"


def test_many_queries_at_once_equal_one_by_one(tmp_path):
    searcher = indexed("en", ENGLISH, tmp_path)
    texts = ["fox", "hens sleep", "quick fox", "nothing"]
    together = bm25.search(searcher, "en", [Query(str(i), t) for i, t in enumerate(texts)], 10, HEAP, 2)
    assert [together[str(i)] for i in range(4)] == [found(searcher, "en", t) for t in texts]


def test_one_jvm_a_process():
    assert jvm.start(HEAP) is jvm.start(HEAP)
