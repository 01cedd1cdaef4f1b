import math
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import InputError
from core.passages import Passages, build_passages
from core.records import Document, Query
from retrieval import bm25, jvm

HEAP = "512m"
ENGLISH = [
    Document("1", "", "the quick brown foxes"),
    Document("2", "", "a fox and a fox and a fox"),
    Document("3", "Hens", "hens sleep"),
]


GOLDEN = {  # the 18 languages of MIRACL, one without spaces and one unknown: text, terms
    "ar": ("عواصم الدول الكبيرة في أفريقيا", "عواصم دول كبير افريقيا"),
    "bn": ("বাংলাদেশের রাজধানীগুলি কোথায়", "বাংলাদেস রাজধানি কোথায়"),
    "de": ("Die Hauptstädte der größten Länder", "hauptstadt grosst land"),
    "en": ("What are the capitals of the largest countries?", "what capit largest countri"),
    "es": ("¿Cuáles son las capitales de los países?", "cual capital pais"),
    "fa": ("پایتخت\u200cهای کشورهای بزرگ کجاست", "پايتخت كشورهاي بزرگ"),
    "fi": ("Suurimpien maiden pääkaupungit", "suurimp maide pääkaupung"),
    "fr": ("Quelles sont les capitales de l'Afrique ?", "capital afriqu"),
    "hi": ("देशों की राजधानियाँ कहाँ हैं", "देश राजधान कह"),
    "id": ("Apakah ibukota negara-negara terbesar", "ibukota negara negara besar"),
    "ja": ("アフリカの国々の首都はどこですか", "アフリカ 国々 首都 どこ"),
    "ko": (
        "아프리카 나라들의 수도는 어디입니까",
        "아프 프리 리카 나라 라들 들의 수도 도는 어디 디입 입니 니까",
    ),
    "ru": ("Столицы крупнейших стран Африки", "столиц крупн стран африк"),
    "sw": ("Miji mikuu ya nchi kubwa", "miji mikuu ya nchi kubwa"),
    "te": ("దేశాల రాజధానులు ఎక్కడ", "దెశాల రాజధాను ఎక్కడ"),
    "th": ("เมืองหลวงของประเทศไทยอยู่ที่ไหน", "เมืองหลวง ของ ประเทศ ไทย อยู่ ที่ไหน"),
    "yo": ("Kí ni olú-ìlú orílẹ̀-èdè náà", "kí ni olú ìlú orílẹ̀ èdè náà"),
    "zh": ("非洲国家的首都在哪里", "非洲 洲国 国家 家的 的首 首都 都在 在哪 哪里"),
    "lo": ("ເມືອງຫຼວງຂອງ ລາວ 1", "ເມ ມື ືອ ອງ ງຫ ຫຼ ຼວ ວງ ງຂ ຂອ ອງ ລາ າວ 1"),
    "xx": ("Some Words of 2 kinds", "some words of 2 kinds"),
}


@pytest.mark.parametrize("language", GOLDEN)
def test_terms_of_each_language(language):
    text, terms = GOLDEN[language]
    assert " ".join(bm25.tokens(language, text, HEAP)) == terms


def indexed(language, documents, folder, threads=0):
    store, index = folder / "store", folder / "index"
    store.mkdir()
    index.mkdir()
    build_passages(documents, store)
    bm25.build_index(language, Passages(store), index, HEAP, threads)
    return bm25.open_searcher(language, index, 0.9, 0.4, HEAP)


def found(searcher, language, text, depth=10):
    return bm25.search(searcher, language, [Query("q", text)], depth, HEAP)["q"]


def test_scores_by_lucenes_formula(tmp_path):
    """Lucene: idf = ln(1 + (N - n + .5) / (n + .5)); tf / (tf + k1 (1 - b + b length / mean)).

    Lengths from 1 to 39 are exact.
    """
    searcher = indexed("en", ENGLISH, tmp_path)
    lengths = {"1": 3, "2": 3, "3": 3}  # analysed: quick brown fox; fox fox fox; hen hen sleep
    mean, idf = 3.0, math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = {
        d: idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * lengths[d] / mean))
        for d, tf in (("1", 1), ("2", 3))
    }
    assert found(searcher, "en", "Fox") == pytest.approx(expected, abs=5e-5), (
        "Anserini rounds scores to four decimals"
    )
    assert list(found(searcher, "en", "hens")) == ["3"], "the title is indexed"
    assert found(searcher, "en", "zebra") == {} and found(searcher, "en", "fox", 1).keys() == {"2"}


@pytest.mark.parametrize(
    "language, text, query",
    [
        ("th", "ไนโรบีเป็นเมืองหลวงของเคนยา", "เมืองหลวงของประเทศใด"),
        ("ar", "عاصمة كينيا هي نيروبي", "العاصمة"),
        ("ja", "ケニアの首都はナイロビです", "首都"),
        ("zh", "肯尼亚的首都是内罗毕", "首都"),
        ("fi", "Suurissa taloissa", "talossa"),
        ("hi", "केन्या की राजधानी", "राजधानी"),
        ("yo", "Olú-ìlú orílẹ̀-èdè Kenya", "kenya"),
        ("sw", "Mji mkuu wa KENYA", "kenya"),
        ("de", "Die Hauptstädte", "Hauptstadt"),
        ("xx", "some Words", "words"),
        ("lo", "ເມືອງຫຼວງຂອງລາວ", "ເມືອງຫຼວງ"),
    ],
)
def test_each_languages_own_analyser(tmp_path, language, text, query):
    searcher = indexed(
        language, [Document("right", "", text), Document("other", "", "zzz 123")], tmp_path
    )
    assert list(found(searcher, language, query)) == ["right"]


def test_thai_is_given_as_words():
    assert bm25.prepare("th", "แมวกินปลา") == "แมว กิน ปลา"
    assert bm25.prepare("en", "As It Is") == "As It Is"


def test_several_threads_give_the_runs_of_one(tmp_path, monkeypatch):
    """Forty passages of four scores: who is within the depth is decided among ties."""
    monkeypatch.setattr(bm25, "PIECE", 9)
    documents = [Document(f"d{i}", "", "fox " + "hen " * (i % 4)) for i in range(40)]
    runs = []
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        searcher = indexed("en", documents, folder, threads)
        runs.append(found(searcher, "en", "fox", 15))
        assert not (folder / "index" / "source").exists()
    assert list(runs[0].items()) == list(runs[1].items()) and len(runs[0]) == 15


def test_what_lucene_gathers_is_a_quarter_of_the_heap():
    assert [bm25.buffer_megabytes(heap) for heap in ("2g", "512m", "40m")] == [512, 128, 16]


def test_many_queries_at_once_equal_one_by_one(tmp_path):
    searcher = indexed("en", ENGLISH, tmp_path)
    texts = ["fox", "hens sleep", "quick fox", "nothing"]
    together = bm25.search(
        searcher, "en", [Query(str(i), t) for i, t in enumerate(texts)], 10, HEAP, 2
    )
    assert [together[str(i)] for i in range(4)] == [found(searcher, "en", t) for t in texts]


def test_batches_give_what_one_search_gives(tmp_path, monkeypatch):
    searcher = indexed("en", ENGLISH, tmp_path)
    queries = [Query(str(i), text) for i, text in enumerate(["fox", "hens", "zebra", "sleep"] * 3)]
    whole = bm25.search(searcher, "en", queries, 10, HEAP)
    monkeypatch.setattr(bm25, "BATCH", 5)
    asked = []

    class Counting:
        def batch_search(self, texts, *others):
            asked.append(texts.size())
            return searcher.batch_search(texts, *others)

    rankings = bm25.search_each(Counting(), "en", queries, 10, HEAP)
    assert next(rankings) == ("0", whole["0"]) and asked == [5], "written as they come"
    assert dict(rankings) == {q: scores for q, scores in whole.items() if q != "0"}
    assert asked == [5, 5, 2]


def test_java_gets_as_many_queries_as_a_quarter_of_its_heap_holds():
    """270 bytes a hit: of 512 MB, a quarter are 134,217,728 bytes, 497 queries at depth 1000."""
    assert bm25.batch_size(1000, "512m") == 256, "never more than that"
    assert bm25.batch_size(2000, "512m") == 248
    assert bm25.batch_size(1000, "10m") == 9 and bm25.batch_size(10**9, "10m") == 1


def in_another_process(code):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=240
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("heap, queries", [("40m", 300)])
def test_many_queries_need_no_large_heap(tmp_path, heap, queries):
    """300 queries of 1000 hits are 81 MB of Java's objects; handed over at once they spin in 40."""
    documents = [Document(f"d{i}", "", f"fox word {i}") for i in range(1500)]
    indexed("en", documents, tmp_path)
    code = f"""
from pathlib import Path
from core.records import Query
from retrieval import bm25
searcher = bm25.open_searcher("en", Path({str(tmp_path / "index")!r}), 0.9, 0.4, {heap!r})
asked = [Query(str(i), "fox word") for i in range({queries})]
print(sum(len(scores) for _, scores in bm25.search_each(searcher, "en", asked, 1000, {heap!r})))
"""
    assert in_another_process(code).splitlines()[-1] == "300000"


def test_a_full_heap_names_the_setting():
    """Java's own error, asked for by a list longer than any heap; and a thread that died of it."""

    class Full:
        def batch_search(self, *_):
            return jvm.start(HEAP)("java.util.ArrayList")(2**31 - 1)

    class Died:
        def batch_search(self, *_):
            return jvm.start(HEAP)("java.util.HashMap")()

    for searcher in (Full(), Died()):
        with pytest.raises(InputError) as error:
            bm25.search(searcher, "en", [Query("1", "fox")], 10, HEAP)
        message = str(error.value)
        assert message.startswith("retrieval.bm25.heap: found ") and (
            "Java had no memory left to search en at a depth of 10; set, for example, "
            "retrieval.bm25.heap=" in message
        )


def test_one_jvm_a_process():
    assert jvm.start(HEAP) is jvm.start(HEAP)


def test_a_heap_that_cannot_be_had_is_an_error():
    code = """
from retrieval import jvm
runtime = jvm.start("100m")("java.lang.Runtime")
print(runtime.getRuntime().maxMemory() // 2**20)
jvm.start("90m")
try:
    jvm.start("300m")
except Exception as error:
    print(type(error).__name__, error)
"""
    before, error = in_another_process(code).splitlines()[-2:]
    assert 80 <= int(before) <= 110
    assert error == (
        "InputError retrieval.bm25.heap: found 300m, but this process's Java machine runs with "
        "100m already and cannot grow; give the configuration that this process works on first "
        "retrieval.bm25.heap=300m, too"
    )


def test_the_largest_heap_of_all_configurations_is_taken():
    code = """
from core.settings import Config
from retrieval import jvm, search
def config(heap, sources=("bm25",)):
    retrieval = {"sources": list(sources), "bm25": {"heap": heap}}
    return Config.model_validate({"name": "x", "retrieval": retrieval})
search.reserve_heaps([config("64m"), config("300m"), config("9g", ["dense"])])
jvm.start("64m")
jvm.start("300m")
print(jvm.start("64m")("java.lang.Runtime").getRuntime().maxMemory() // 2**20)
"""
    heap = int(in_another_process(code).splitlines()[-1])
    assert 250 <= heap <= 310, "that of the configuration that comes second"


def test_queries_that_match_no_term_are_named(capsys):
    bm25.check_matches(["2", "3"], 3, "en", "dev")
    assert (
        "warning: BM25 en-dev: 2 of 3 queries match no term, first 2, 3 (analyser: lucene); "
        "is the collection in this language?" in capsys.readouterr().out
    )
    bm25.check_matches(["x"], 21, "th", "dev")
    assert capsys.readouterr().out.endswith("first x (analyser: thai)\n")
    bm25.check_matches([], 1, "en", "dev")
    assert capsys.readouterr().out == ""


def test_texts_of_odd_shapes(tmp_path):
    """100,000 words, control characters, marks of direction, a query of 10,000 words: all found."""
    words = " ".join(f"w{i}" for i in range(100_000))
    searcher = indexed(
        "en",
        [
            Document("long", "", words),
            Document("control", "\u200f", "bell\x07 tab\t null\0 end"),
            Document("right", "", "\u202eabc\u202c שלום"),
            Document("short", "", "w5 w9999"),
        ],
        tmp_path,
    )
    assert list(found(searcher, "en", "w5")) == ["short", "long"] and list(
        found(searcher, "en", "w99999")
    ) == ["long"]
    assert list(found(searcher, "en", "bell")) == list(found(searcher, "en", "null")) == ["control"]
    assert (
        list(found(searcher, "en", "שלום")) == ["right"] and found(searcher, "en", "abc") == {}
    ), "a mark of direction is part of its word, as in Lucene"
    many = bm25.search(
        searcher,
        "en",
        [Query("many", " ".join(f"w{i}" for i in range(10_000))), Query("one", "bell")],
        10,
        HEAP,
    )
    assert list(many["many"])[:1] == ["long"] and list(many["one"]) == ["control"]
