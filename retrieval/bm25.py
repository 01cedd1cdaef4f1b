"""BM25 on Lucene through Anserini (Pyserini's engine), with each language's own analyser."""

import json
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from core import machine
from core.console import progress, say
from core.errors import InputError
from core.passages import Passages, document_text
from core.processes import Team
from core.records import Query, Ranking, Run
from retrieval import jvm, prebuilt

# Those with an analyser in Lucene.
LUCENE = "ar bn da de en es fa fi fr hi hu id it ja ko nl no pl pt ru sv te tr uk zh".split()

# Lucene's analyser of the language; "words": letters and digits between breaks, lower case, no
# stemming; "thai": segmented here; "bigrams": two signs in a row, for scripts that write no spaces
# between words. A language that is not here has "words".
ANALYSERS = {language: "lucene" for language in LUCENE} | {
    "th": "thai",
    "sw": "words",
    "yo": "words",
    "km": "bigrams",
    "lo": "bigrams",
    "my": "bigrams",
    "bo": "bigrams",
}

INDEX_ARGUMENTS = {
    "lucene": ["-language", "LANGUAGE"],
    "words": ["-language", "en", "-stemmer", "none", "-keepStopwords"],
    "thai": ["-pretokenized"],
    "bigrams": ["-pretokenized"],
}

# Of a query; Lucene's own limit of 1024 would end the search of a whole batch.
MAX_TERMS = 2**20

HIT_BYTES = 270  # of heap, measured
PIECE = 50_000  # passages of a file that Lucene is given
BATCH = 256  # queries that Java searches at a time, if a quarter of the heap holds their hits


def analyser(language: str) -> str:
    """A key of INDEX_ARGUMENTS."""
    return ANALYSERS.get(language, "words")


@cache
def thai_dictionary() -> Any:
    """PyThaiNLP's word segmenter."""
    from pythainlp.tokenize import Tokenizer

    return Tokenizer(engine="newmm")


def prepare(language: str, text: str) -> str:
    """What Lucene is given: words or bigrams between spaces where they are made here.

    Other text as it is.
    """
    kind = analyser(language)
    if kind == "thai":
        stripped = [word.strip().lower() for word in thai_dictionary().word_tokenize(text)]
        return " ".join(word for word in stripped if word)
    if kind == "bigrams":
        return " ".join(bigrams(text))
    return text


def bigrams(text: str) -> Iterator[str]:
    """Two signs in a row of each stretch of letters, marks and digits; a sign alone as it is."""
    signs = []
    for sign in text.lower():
        is_kept = unicodedata.category(sign)[0] in "LMN"
        signs.append(sign if is_kept else " ")
    for word in "".join(signs).split():
        for start in range(max(1, len(word) - 1)):
            yield word[start : start + 2]


def build_index(
    language: str, passages: Passages, folder: Path, heap: str, threads: int = 0
) -> None:
    """A Lucene index of title + newline + text, made by all cores (``threads``: 0).

    In one segment; Anserini breaks ties by docid, so the same passages give the same runs, however
    many threads there were. Raises InputError if Lucene leaves passages out or its heap is too
    small.
    """
    threads = threads or machine.cores()
    source = folder / "source"
    source.mkdir(exist_ok=True)
    write_source(language, passages, source, threads)

    autoclass = jvm.start(heap)
    arguments = [
        *("-collection", "JsonCollection"),
        *("-input", str(source)),
        *("-index", str(folder / "index")),
        *("-generator", "DefaultLuceneDocumentGenerator"),
        *("-threads", str(threads)),
        *("-memoryBuffer", str(buffer_megabytes(heap))),
        "-optimize",
        "-quiet",
    ]
    for argument in INDEX_ARGUMENTS[analyser(language)]:
        arguments.append(language if argument == "LANGUAGE" else argument)
    with jvm.heap_errors(f"to index {language}"):
        autoclass("io.anserini.index.IndexCollection").main(arguments)
    shutil.rmtree(source)

    reader = autoclass("io.anserini.index.IndexReaderUtils").getReader(str(folder / "index"))
    indexed = reader.numDocs()
    if indexed != len(passages):
        raise InputError(f"BM25 {language}: Lucene indexed {indexed} of {len(passages)} passages")


def write_source(language: str, passages: Passages, folder: Path, processes: int) -> None:
    """The passages as Anserini reads them, in files of PIECE: each is one thread's work there.

    As many are written at once as ``processes``.
    """
    pieces: dict[str, tuple] = {}
    for start in range(0, len(passages), PIECE):
        rows = range(start, min(start + PIECE, len(passages)))
        path = folder / f"passages-{start}.jsonl"
        pieces[str(path)] = (language, passages.folder, rows, path)
    with progress(None, len(passages), f"BM25 {language}", "passage") as bar:
        if len(pieces) == 1 or processes == 1:
            for piece in pieces.values():
                bar.update(write_piece(*piece))
            return
        team = Team(min(processes, len(pieces)))
        for count in team.each(write_piece, pieces):
            bar.update(count)
        team.close()


def write_piece(language: str, store: Path, rows: range, path: Path) -> int:
    """Some passages to a file of JSON lines; how many."""
    passages = Passages(store)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            document = passages.document(row)
            contents = prepare(language, document_text(document))
            file.write(json.dumps({"id": document.docid, "contents": contents}) + "\n")
    return len(rows)


def buffer_megabytes(heap: str) -> int:
    """What Lucene may gather before it writes: Anserini's own 4 GB are more than most heaps."""
    return max(16, jvm.heap_bytes(heap) // 4 // 2**20)


def lucene_analyser(language: str, heap: str) -> Any:
    """The Java analyser of queries, which is that of the index."""
    autoclass = jvm.start(heap)
    kind = analyser(language)
    english = autoclass("io.anserini.analysis.DefaultEnglishAnalyzer")
    if language == "en":  # Anserini's own, not in its map of languages
        return english.newDefaultInstance()
    if kind == "lucene":
        return autoclass("io.anserini.analysis.AnalyzerMap").getLanguageSpecificAnalyzer(language)
    if kind == "words":
        no_stopwords = autoclass("org.apache.lucene.analysis.CharArraySet").EMPTY_SET
        return english.newNonStemmingInstance(no_stopwords)
    return autoclass("org.apache.lucene.analysis.core.WhitespaceAnalyzer")()


def tokens(language: str, text: str, heap: str) -> list[str]:
    """The terms that a text is indexed and sought by."""
    utilities = jvm.start(heap)("io.anserini.analysis.AnalyzerUtils")
    terms = utilities.analyze(lucene_analyser(language, heap), prepare(language, text))
    return [terms.get(place) for place in range(terms.size())]


def take_prebuilt(name: str, language: str, passages: Passages, folder: Path, heap: str) -> None:
    """Takes Pyserini's index of a name in place of one that ``build_index`` makes.

    Raises InputError for one of another collection.
    """
    place = prebuilt.take("TF", prebuilt.SPARSE, name, folder, heap)
    utilities = jvm.start(heap)("io.anserini.index.IndexReaderUtils")
    reader = utilities.getReader(str(place))
    prebuilt.check_lucene(reader, utilities, name, passages, language)
    reader.close()


def open_searcher(language: str, folder: Path, k1: float, b: float, heap: str) -> Any:
    """Anserini's searcher of the index that ``build_index`` made in ``folder``.

    Of one that was taken with the analyser that Anserini has for the language: made by the same.
    """
    autoclass = jvm.start(heap)
    autoclass("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(MAX_TERMS)
    searcher = autoclass("io.anserini.search.SimpleSearcher")(str(prebuilt.link_of(folder)))
    searcher.set_bm25(float(k1), float(b))
    if analyser(language) == "lucene" or prebuilt.is_taken(folder):
        searcher.set_language(language)
    else:
        searcher.set_analyzer(lucene_analyser(language, heap))
    return searcher


def search(
    searcher: Any, language: str, queries: Sequence[Query], depth: int, heap: str, threads: int = 0
) -> Run:
    """``search_each`` as a run, whole in memory."""
    return dict(search_each(searcher, language, queries, depth, heap, threads))


def search_each(
    searcher: Any, language: str, queries: Sequence[Query], depth: int, heap: str, threads: int = 0
) -> Iterator[Ranking]:
    """(query id, docid -> score) for each query, on all cores (``threads``: 0).

    A query that matches no term has an empty ranking. Java gets some queries at a time, since it
    holds all hits of a batch. Anserini rounds scores to four decimals, and its own order among
    ties decides who is within ``depth``. Raises InputError for a heap that is too small.
    """
    lists = jvm.start(heap)("java.util.ArrayList")
    size = batch_size(depth, heap)
    starts: Iterable[int] = range(0, len(queries), size)
    if len(queries) > size:
        starts = progress(starts, what=f"BM25 {language}", unit="batch")
    what = f"to search {language} at a depth of {depth}"
    for start in starts:
        batch = queries[start : start + size]
        texts, qids = lists(), lists()
        for query in batch:
            texts.add(prepare(language, query.text))
            qids.add(query.qid)
        with jvm.heap_errors(what):
            hits = searcher.batch_search(texts, qids, depth, threads or machine.cores())
        for query in batch:
            ranking = hits.get(query.qid)
            if ranking is None:  # the thread that searched it died
                raise jvm.heap_is_full(what)
            yield query.qid, {hit.docid: float(hit.score) for hit in ranking}


def batch_size(depth: int, heap: str) -> int:
    """Queries whose hits take at most a quarter of the heap, but no more than BATCH."""
    return max(1, min(BATCH, jvm.heap_bytes(heap) // 4 // (HIT_BYTES * depth)))


def check_matches(empty: Sequence[str], count: int, language: str, split: str) -> None:
    """Says which of ``count`` queries match no term: a few are odd words, many a wrong analyser."""
    if not empty:
        return
    advice = "; is the collection in this language?" if len(empty) > count / 10 else ""
    say(
        f"  warning: BM25 {language}-{split}: {len(empty)} of {count} queries match no term, "
        f"first {', '.join(empty[:5])} (analyser: {analyser(language)}){advice}"
    )
