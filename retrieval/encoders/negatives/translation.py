"""A language's queries and passages in another language, by a translation model (mhfn-2022, 3.2).

What comes out is a collection in MIRACL's format, whose ids are the language's own: passages in
files that are there whole or not at all, so that a translation that was stopped goes on.
"""

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from core import backbones, distributed
from core.artefacts import PassageStore
from core.batches import token_batches
from core.console import progress, say
from core.encoders import Encoder, ShareLanguages
from core.files import digest, finished_file
from core.passages import Passages, build_passages
from core.records import Document, Query
from core.runs import StoredRun, write_rankings
from core.steps import Plan, Step
from core.task import Task
from retrieval import bm25, retrievers
from retrieval.jvm import heap_bytes

SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।؟])\s*")
"""Between two sentences: models are trained on single ones."""

AT_ONCE = 512  # passages of a file
LONGEST = 512  # tokens of a sentence, where the tokenizer does not say how many the model takes
SECONDS = 0.3  # that two cores take for a passage of 90 words


class Translator:
    """Texts of one language to another, sentence by sentence, greedily or by beams.

    ``cut`` counts sentences that were longer than the model takes, of which it has the beginning.
    """

    def __init__(self, where: str, settings: ShareLanguages):
        from transformers import AutoModelForSeq2SeqLM

        self.tokenizer = backbones.load_tokenizer(where)
        model = backbones.load_whole_body(
            AutoModelForSeq2SeqLM, where, backbones.load_config(where, None)
        )
        self.model = model.to(distributed.device()).eval()
        most = getattr(model.config, "max_position_embeddings", LONGEST)
        self.longest = min(self.tokenizer.model_max_length, most)
        self.settings = settings
        self.cut = 0

    def translate(self, texts: Sequence[str]) -> list[str]:
        """As many texts, in the same order; an empty one stays so."""
        sentences: list[str] = []
        ends = []
        for text in texts:
            sentences += [part for part in SENTENCE.split(text) if part.strip()]
            ends.append(len(sentences))
        translated = self.sentences(sentences)
        starts = [0, *ends]
        return [" ".join(translated[start:end]) for start, end in zip(starts, ends, strict=False)]

    def sentences(self, sentences: Sequence[str]) -> list[str]:
        """Each one alone, those of like length at once."""
        if not sentences:
            return []
        rows = self.tokenizer(list(sentences), verbose=False)["input_ids"]
        self.cut += sum(len(row) > self.longest for row in rows)
        lengths = [min(len(row), self.longest) for row in rows]
        translated = [""] * len(sentences)
        for numbers in token_batches(lengths, self.settings.batch_tokens):
            made = self.batch([sentences[number] for number in numbers])
            for number, text in zip(numbers, made, strict=True):
                translated[number] = text
        return translated

    def batch(self, sentences: list[str]) -> list[str]:
        """Those that go through the model at once."""
        import torch

        tokens = self.tokenizer(
            sentences,
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        with torch.no_grad():
            made = self.model.generate(
                **tokens.to(self.model.device),
                num_beams=self.settings.beams,
                max_length=self.longest,
                do_sample=False,
            )
        return self.tokenizer.batch_decode(made, skip_special_tokens=True)


# ---- The steps


def add_translations(
    source: Task,
    steps: Plan,
    encoder: Encoder,
    languages: Sequence[str],
    runs: Mapping[tuple[str, str], Step],
) -> dict[tuple[str, str], Step]:
    """A step for each (language, other language), with its run of the translated queries.

    ``runs``: those that candidates come from, by (system, language). Raises InputError for a model
    that is not there.
    """
    found = {}
    for language in languages:
        for target in languages:
            if target != language:
                own = runs[encoder.from_run.system, language]
                found[language, target] = add_translation(
                    source, steps, encoder, language, target, own
                )
    return found


def add_translation(
    source: Task, steps: Plan, encoder: Encoder, language: str, target: str, own: Step
) -> Step:
    """The step of one translation. Encoders with equal settings share it."""
    settings = encoder.share_languages
    model = model_of(settings, language, target)
    k1, b = retrievers.bm25_parameters(source, target)
    pool = settings.pool
    recipe = {
        "weights": backbones.fingerprint(model, source.config.models),
        "beams": settings.beams,
        "pool": pool,
        "depth": encoder.from_run.depth,
        "analyser": bm25.analyser(target),
        "k1": k1,
        "b": b,
    }
    train = source.config.splits.train
    store = source.step(PassageStore(language))
    name = f"translation/{language}-{target}/{digest([own.name, recipe])[:12]}"
    if name in steps:
        return steps[name]
    heap = source.config.retrieval.bm25.heap
    queries = len(source.queries(language, train))
    passages = retrievers.expected(source, language)
    translated = passages if pool is None else min(passages, queries * pool)

    def build(folder: Path) -> None:
        translate(source, encoder, (language, target), own, folder)

    return steps.add(
        name,
        version=1,
        settings=recipe,
        inputs=[store, source.topics_input(language, train), own],
        build=build,
        resumes=True,
        seconds=translated * SECONDS,
        disk=translated * 1500,
        memory=2e9 + heap_bytes(heap),
    )


def model_of(settings: ShareLanguages, language: str, target: str) -> str:
    """The model of a pair of languages: its own one, or that of the general name."""
    own = settings.models.get(f"{language}-{target}")
    return own or settings.model.format(source=language, target=target)


# ---- The work


def translate(task: Task, encoder: Encoder, pair: tuple[str, str], own: Step, folder: Path) -> None:
    """Translates what is not there yet, and searches it: ``run.trec`` of the translated queries."""
    language, target = pair
    settings = encoder.share_languages
    queries = task.queries(language, task.config.splits.train)
    passages = task.passages(language)
    rows = pool_of(StoredRun(own.path / "run.trec"), passages, settings.pool)
    model = model_of(settings, language, target)
    translator = Translator(backbones.source(model, task.config.models), settings)
    topics = folder / "topics" / f"topics.{target}-{task.config.splits.train}.tsv"
    if not topics.exists():
        write_topics(translator, queries, topics)
    corpus = folder / "corpus"
    starts = range(0, len(rows), AT_ONCE)
    for start in progress(starts, len(starts), f"{language} to {target}", "file"):
        path = corpus / f"docs-{start}.jsonl.gz"
        if not path.exists():
            write_passages(translator, passages, rows[start : start + AT_ONCE], path)
            say(f"  {language} to {target}: {min(start + AT_ONCE, len(rows))} of {len(rows)}")
    if translator.cut:
        say(
            f"  note: {language} to {target}: {translator.cut} sentences were longer than "
            f"{translator.longest} tokens, and end there"
        )
    store = folder / "passages"
    store.mkdir(exist_ok=True)
    build_passages(documents_of(corpus, starts), store)
    write_run_of(task, encoder, target, translated_queries(topics), folder)


def pool_of(run: StoredRun, passages: Passages, pool: int | None) -> list[int]:
    """Rows of the passages that are translated: the best ``pool`` of each query, or all."""
    if pool is None:
        return list(range(len(passages)))
    docids: dict[str, None] = {}
    for qid in run:
        best = sorted(run[qid].items(), key=lambda item: -item[1])[:pool]
        docids |= dict.fromkeys(docid for docid, _ in best)
    return sorted(passages.rows(list(docids)).tolist())


def write_topics(translator: Translator, queries: Sequence[Query], path: Path) -> None:
    """The translated queries, a line each; one that came out empty stays as it was."""
    texts = [query.text for query in queries]
    with finished_file(path) as file:
        for query, text in zip(queries, translator.translate(texts), strict=True):
            file.write(f"{query.qid}\t{' '.join(text.split()) or query.text}\n")


def write_passages(
    translator: Translator, passages: Passages, rows: Sequence[int], path: Path
) -> None:
    """Some passages, translated; one that came out empty stays as it was."""
    documents = [passages.document(row) for row in rows]
    titles = translator.translate([document.title for document in documents])
    texts = translator.translate([document.text for document in documents])
    with finished_file(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as out:
        for document, title, text in zip(documents, titles, texts, strict=True):
            line = {"docid": document.docid, "title": title, "text": text or document.text}
            out.write(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n")


def documents_of(corpus: Path, starts: Iterable[int]) -> Iterator[Document]:
    """All of them, file by file."""
    for start in starts:
        with gzip.open(corpus / f"docs-{start}.jsonl.gz", "rt", encoding="utf-8") as file:
            for line in file:
                yield Document(**json.loads(line))


def translated_queries(topics: Path) -> list[Query]:
    """As ``write_topics`` left them."""
    queries = []
    for line in topics.read_text("utf-8").splitlines():
        qid, _, text = line.partition("\t")
        queries.append(Query(qid, text))
    return queries


def write_run_of(
    task: Task, encoder: Encoder, target: str, queries: Sequence[Query], folder: Path
) -> None:
    """BM25's best translated passages of each translated query, as in the other language."""
    settings = task.config.retrieval.bm25
    k1, b = retrievers.bm25_parameters(task, target)
    index = folder / "index"
    index.mkdir(exist_ok=True)
    bm25.build_index(target, Passages(folder / "passages"), index, settings.heap)
    searcher = bm25.open_searcher(target, index, k1, b, settings.heap)
    depth = encoder.from_run.depth
    found = bm25.search_each(searcher, target, queries, depth, settings.heap, settings.threads)
    write_rankings(folder / "run.trec", found, "bm25")
