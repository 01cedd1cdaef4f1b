"""BM25 on Lucene through Anserini (Pyserini's engine), with each language's own analyser."""

import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from core.console import progress, say
from core.errors import InputError
from core.passages import Passages, document_text
from core.records import Query, Run
from retrieval import jvm

# Lucene's analyser of the language; "words": letters and digits between breaks, lower case, no stemming; "thai": segmented here;
# "bigrams": two signs in a row, for scripts that write no spaces between words. A language that is not here has "words".
ANALYSERS = {
    language: "lucene"
    for language in (
        "ar",
        "bn",
        "da",
        "de",
        "en",
        "es",
        "fa",
        "fi",
        "fr",
        "hi",
        "hu",
        "id",
        "it",
        "ja",
        "ko",
        "nl",
        "no",
        "pl",
        "pt",
        "ru",
        "sv",
        "te",
        "tr",
        "uk",
        "zh",
    )
}
ANALYSERS |= {
    "th": "thai",
    "sw": "words",
    "yo": "words",
    "km": "bigrams",
    "lo": "bigrams",
    "my": "bigrams",
    "bo": "bigrams",
}

MAX_TERMS = 2**20  # of a query; Lucene's own limit of 1024 would end the search of a whole batch


def analyser(language: str) -> str:
    return ANALYSERS.get(language, "words")


@cache
def thai_dictionary():
    from pythainlp.tokenize import Tokenizer

    return Tokenizer(engine="newmm")


def prepare(language: str, text: str) -> str:
    """What Lucene is given: words or bigrams between spaces where they are made here, other text as it is."""
    if analyser(language) == "thai":
        return " ".join(
            word
            for word in (w.strip().lower() for w in thai_dictionary().word_tokenize(text))
            if word
        )
    return " ".join(bigrams(text)) if analyser(language) == "bigrams" else text


def bigrams(text: str) -> Iterator[str]:
    """Two signs in a row of each stretch of letters, marks and digits; a sign alone stands for itself."""
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    for word in kept.split():
        yield from (word[i : i + 2] for i in range(max(1, len(word) - 1)))


def index_arguments(language: str) -> list[str]:
    made_here = ["-pretokenized"]
    return {
        "lucene": ["-language", language],
        "words": ["-language", "en", "-stemmer", "none", "-keepStopwords"],
        "thai": made_here,
        "bigrams": made_here,
    }[analyser(language)]


def build_index(language: str, passages: Passages, folder: Path, heap: str) -> None:
    """A Lucene index of title + newline + text, in one segment so that the same passages give the same scores and ties."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    with (source / "passages.jsonl").open("w", encoding="utf-8") as file:
        for document in progress(
            passages.documents(), len(passages), f"BM25 {language}", "passage"
        ):
            file.write(
                json.dumps(
                    {"id": document.docid, "contents": prepare(language, document_text(document))}
                )
                + "\n"
            )
    autoclass = jvm.start(heap)
    autoclass("io.anserini.index.IndexCollection").main(
        [
            "-collection",
            "JsonCollection",
            "-input",
            str(source),
            "-index",
            str(folder / "index"),
            "-generator",
            "DefaultLuceneDocumentGenerator",
            "-threads",
            "1",
            "-optimize",
            "-quiet",
            *index_arguments(language),
        ]
    )
    (source / "passages.jsonl").unlink()
    source.rmdir()
    indexed = (
        autoclass("io.anserini.index.IndexReaderUtils").getReader(str(folder / "index")).numDocs()
    )
    if indexed != len(passages):
        raise InputError(f"BM25 {language}: Lucene indexed {indexed} of {len(passages)} passages")


def lucene_analyser(language: str, heap: str):
    """The Java analyser of queries, which is that of the index."""
    autoclass = jvm.start(heap)
    kind, english = analyser(language), autoclass("io.anserini.analysis.DefaultEnglishAnalyzer")
    if language == "en":  # Anserini's own, not in its map of languages
        return english.newDefaultInstance()
    if kind == "lucene":
        return autoclass("io.anserini.analysis.AnalyzerMap").getLanguageSpecificAnalyzer(language)
    if kind == "words":
        return english.newNonStemmingInstance(
            autoclass("org.apache.lucene.analysis.CharArraySet").EMPTY_SET
        )
    return autoclass("org.apache.lucene.analysis.core.WhitespaceAnalyzer")()


def tokens(language: str, text: str, heap: str) -> list[str]:
    """The terms that a text is indexed and sought by."""
    found = jvm.start(heap)("io.anserini.analysis.AnalyzerUtils").analyze(
        lucene_analyser(language, heap), prepare(language, text)
    )
    return [found.get(i) for i in range(found.size())]


def open_searcher(language: str, folder: Path, k1: float, b: float, heap: str):
    jvm.start(heap)("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(MAX_TERMS)
    searcher = jvm.start(heap)("io.anserini.search.SimpleSearcher")(str(folder / "index"))
    searcher.set_bm25(float(k1), float(b))
    if analyser(language) == "lucene":
        searcher.set_language(language)
    else:
        searcher.set_analyzer(lucene_analyser(language, heap))
    return searcher


def search(
    searcher, language: str, queries: Sequence[Query], depth: int, heap: str, threads: int = 0
) -> Run:
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


def check_matches(run: Run, language: str, split: str) -> None:
    """Says which queries match no term of the index: one or two are odd words, many are a wrong analyser."""
    empty = [q for q, scores in run.items() if not scores]
    if empty:
        advice = "; is the collection in this language?" if len(empty) > len(run) / 10 else ""
        say(
            f"  warning: BM25 {language}-{split}: {len(empty)} of {len(run)} queries match no term, first {', '.join(empty[:5])} (analyser: {analyser(language)}){advice}"
        )
