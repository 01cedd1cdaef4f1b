"""BM25 on Lucene through Anserini (Pyserini's engine), with each language's own analyser."""
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from core.distributed import progress
from core.errors import InputError
from core.passages import Passages, document_text
from core.records import Query, Run
from retrieval import jvm

# Lucene's analyser of the language; "words": letters and digits between breaks, lower case, no stemming; "thai": segmented here.
ANALYSERS = {language: "lucene" for language in (
    "ar", "bn", "da", "de", "en", "es", "fa", "fi", "fr", "hi", "hu", "id", "it", "ja", "ko", "nl", "no", "pl", "pt", "ru", "sv", "te", "tr", "uk", "zh")}
ANALYSERS |= {"th": "thai", "sw": "words", "yo": "words"}


def analyser(language: str) -> str:
    return ANALYSERS.get(language, "words")


@cache
def thai_dictionary():
    from pythainlp.tokenize import Tokenizer

    return Tokenizer(engine="newmm")


def prepare(language: str, text: str) -> str:
    """What Lucene is given: Thai as its words between spaces, other text as it is."""
    if analyser(language) != "thai":
        return text
    return " ".join(word for word in (w.strip().lower() for w in thai_dictionary().word_tokenize(text)) if word)


def index_arguments(language: str) -> list[str]:
    return {"lucene": ["-language", language], "words": ["-language", "en", "-stemmer", "none", "-keepStopwords"], "thai": ["-pretokenized"]}[analyser(language)]


def build_index(language: str, passages: Passages, folder: Path, heap: str) -> None:
    """A Lucene index of title + newline + text, in one segment so that the same passages give the same scores and ties."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    with (source / "passages.jsonl").open("w", encoding="utf-8") as file:
        for document in progress(passages.documents(), len(passages), f"BM25 {language}", "passage"):
            file.write(json.dumps({"id": document.docid, "contents": prepare(language, document_text(document))}) + "\n")
    autoclass = jvm.start(heap)
    autoclass("io.anserini.index.IndexCollection").main([
        "-collection", "JsonCollection", "-input", str(source), "-index", str(folder / "index"), "-generator", "DefaultLuceneDocumentGenerator",
        "-threads", "1", "-optimize", "-quiet", *index_arguments(language)])
    (source / "passages.jsonl").unlink()
    source.rmdir()
    indexed = autoclass("io.anserini.index.IndexReaderUtils").getReader(str(folder / "index")).numDocs()
    if indexed != len(passages):
        raise InputError(f"BM25 {language}: Lucene indexed {indexed} of {len(passages)} passages")


def open_searcher(language: str, folder: Path, k1: float, b: float, heap: str):
    autoclass = jvm.start(heap)
    searcher = autoclass("io.anserini.search.SimpleSearcher")(str(folder / "index"))
    searcher.set_bm25(float(k1), float(b))
    kind = analyser(language)
    if kind == "lucene":
        searcher.set_language(language)
    elif kind == "words":
        words = autoclass("io.anserini.analysis.DefaultEnglishAnalyzer")
        searcher.set_analyzer(words.newNonStemmingInstance(autoclass("org.apache.lucene.analysis.CharArraySet").EMPTY_SET))
    else:
        searcher.set_analyzer(autoclass("org.apache.lucene.analysis.core.WhitespaceAnalyzer")())
    return searcher


def search(searcher, language: str, queries: Sequence[Query], depth: int, heap: str, threads: int = 0) -> Run:
    """All queries of a language on all cores (``threads``: 0). A query that matches no term has an empty ranking.

    Anserini rounds scores to four decimals, and its own order among ties decides who is within ``depth``.
    """
    lists = jvm.start(heap)("java.util.ArrayList")
    texts, qids = lists(), lists()
    for query in queries:
        texts.add(prepare(language, query.text))
        qids.add(query.qid)
    hits = searcher.batch_search(texts, qids, depth, threads or os.cpu_count())
    return {q.qid: {hit.docid: float(hit.score) for hit in hits.get(q.qid) or ()} for q in queries}
