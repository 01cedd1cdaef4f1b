"""The settings of bi-encoders that are trained here, and METHODS, the papers' methods by name.

A method is a row of choices over one loop: which pairs there are, which of them make a batch, which
documents are negatives, and what else is scored within a step. Each choice names an entry of a
table of ``retrieval.encoders``; what an entry can be told is a part of the entry's own name.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from core.judging import Endpoint, Judge
from core.parts import (
    Count,
    Depth,
    EachOnce,
    Languages,
    Names,
    NotNegative,
    Part,
    Positive,
    Share,
    Training,
)
from core.recipes import Bounds

CONTRIEVER: dict[str, Any] = {
    "pairs": "crop",
    "perturb": {"delete": 0.1},
    "temperature": 0.05,
    "pooling": "mean",
    "similarity": "dot",
    "learning_rate": 5e-5,
    "warmup": 0.04,
    "query_length": 256,
    "passage_length": 256,
}
MOCO: dict[str, Any] = {
    "in_batch": ["momentum", "queue"],
    "momentum": {"decay": 0.9995},
    "queue": {"size": 131072, "alone": True},
}
CONTRIEVER_TUNED: dict[str, Any] = {
    "pairs": "labelled",
    "temperature": 0.05,
    "learning_rate": 1e-5,
    "warmup": 0.05,
}

# data-utilization-2025, B.1 to B.3: one positive and seven negatives a query, of 40 candidates
UTILIZATION: dict[str, Any] = {
    "draw": {"number": 7},
    "batch_size": 24,
    "learning_rate": 2e-6,
}
TOP_K: dict[str, Any] = {
    **UTILIZATION,
    "negatives": ["from_run", "select"],
    "from_run": {"system": "dense", "depth": 40},
}

METHODS: dict[str, dict[str, Any]] = {
    # negative-sampling-2024, 3.3; Karpukhin et al. 2020
    "dpr": {"pairs": "labelled", "batches": "shuffled"},
    "dpr_bm25": {"pairs": "labelled", "batches": "shuffled", "negatives": ["from_run"]},
    # 3.3 there; Hofstätter et al. 2021
    "tas_q": {
        "batches": "clustered",
        "clustered": {"of": "queries", "teacher": "embedded", "fill": "drawn"},
    },
    "tas_p": {
        "batches": "clustered",
        "clustered": {"of": "passages", "teacher": "embedded", "fill": "drawn"},
    },
    # 3.3 and 4.4 there; Xiong et al. 2021
    "ance": {"batches": "shuffled", "negatives": ["refresh"], "refresh": {"every": 10}},
    # 3.3 there, equations 5 and 6; 4.4
    "ict_q": {"batches": "clustered", "clustered": {"of": "queries", "every": 10}},
    "ict_p": {"batches": "clustered", "clustered": {"of": "passages", "every": 10}},
    # contriever-2022, 3.1 and A.1 (steps: 500,000; batch_size: 2048)
    "contriever": {**CONTRIEVER, **MOCO},
    "contriever_in_batch": CONTRIEVER,
    "contriever_cloze": {
        **CONTRIEVER,
        **MOCO,
        "pairs": "cloze",
        "perturb": {},
        "passage_length": 288,  # what is left of a passage of 256 tokens, and what is around it
    },
    # 5.1 and B.1 there
    "mcontriever": {
        **CONTRIEVER,
        **MOCO,
        "momentum": {"decay": 0.999},
        "queue": {"size": 32768, "alone": True},
        "balance": "uniform",
    },
    # A.2 and B.2 there (steps: 20,000; batch_size: 1024): at first with random negatives, then
    # with those that an encoder of the first kind finds, the system of from_run
    "contriever_tuned": {**CONTRIEVER_TUNED, "draw": {"mined": 0.0}},
    "contriever_mined": {**CONTRIEVER_TUNED, "negatives": ["from_run"], "draw": {"mined": 0.1}},
    # mhfn-2022, 3 and 4.3 (steps: 2000; batch_size: 1024)
    "mhfn": {
        "batches": "by_language",
        "from_run": {"depth": 30},
        "negatives": ["from_run", "share_languages"],
        "draw": {"number": 2},  # the fewest that are interpolated
        "in_batch": ["interpolate", "queue", "false_negatives"],
        "queue": {"by": "language"},
        "learning_rate": 5e-5,
    },
    # data-utilization-2025, 3 (steps: 20 epochs)
    "data_utilization": {
        **UTILIZATION,
        "batches": "topics",
        "balance": "uniform",
        "negatives": ["from_ensemble", "judge", "generate"],
    },
    # its baselines, 4.1 and B.3; Abs is a threshold on cosines of the paper's encoder
    "top_k": {**TOP_K, "negatives": ["from_run"]},
    "top_k_shifted": {**TOP_K, "select": {"shift": 10}},
    "top_k_abs": {**TOP_K, "select": {"below": 0.6}},
    "top_k_margin_pos": {**TOP_K, "select": {"margin": 0.15}},
    "top_k_perc_pos": {**TOP_K, "select": {"share": 0.9}},
}
"""Settings that lie under what a configuration sets itself: ``method: dpr_bm25``."""


class Span(Part):
    """Which spans of a passage are drawn; each length is as likely as the others."""

    document: Count = 256  # tokens of a passage that a span is of: a window of a longer one
    shortest: Annotated[float, Field(gt=0, le=1)] = 0.05  # share of them
    longest: Annotated[float, Field(gt=0, le=1)] = 0.5

    @model_validator(mode="after")
    def in_order(self) -> "Span":
        """Raises ValueError for no length at all; pydantic puts the text behind "expected"."""
        if self.shortest > self.longest:
            raise ValueError(f"shortest at most longest; {self.shortest} > {self.longest}")
        return self


class Cloze(Span):
    """A span of a passage is the query, what is left of the passage the positive."""

    kept: Share = 0.1  # how often the span stays in the passage


class Perturb(Part):
    """What happens to each token of a view, with these probabilities; one thing at most."""

    delete: Share = 0.0
    mask: Share = 0.0
    replace: Share = 0.0  # by any token of the vocabulary

    @model_validator(mode="after")
    def at_most_all(self) -> "Perturb":
        """Raises ValueError for more than every token; pydantic puts the text behind "expected"."""
        if (total := self.delete + self.mask + self.replace) > 1:
            raise ValueError(f"delete, mask and replace together at most 1; they are {total:g}")
        return self


class FromRun(Part):
    """The best of a run are the candidates: of BM25, another source, or another encoder."""

    system: str = "bm25"
    depth: Count = 100  # best passages of a query that are looked at


class FromEnsemble(Part):
    """The best of several systems together are the candidates (data-utilization-2025, 3.3)."""

    systems: Annotated[Names, Field(min_length=1)] = ["bm25", "dense"]
    # features: each system's vectors brought to one size, normalised and put together, which needs
    # systems with vectors; otherwise a fusion of the runs, all with one weight
    combine: Literal["features", "minmax", "zscore", "rrf"] = "minmax"
    size: Count = 256  # of a system's part of the features
    reach: Depth = 100  # best passages of each system that are looked at
    depth: Depth = 40  # best of them together


class Generate(Part):
    """Queries with too few negatives: a new query is written for each, and searched."""

    number: Depth = 30  # negatives that a query is to have, and not more: N
    # who writes: keywords and similar (training queries) work offline
    by: Literal["keywords", "similar", "endpoint"] = "keywords"
    keywords: Count = 8  # of a new query
    neighbours: Count = 3  # training queries that stand in for a new one
    endpoint: Endpoint = Endpoint()
    depth: Depth = 100  # best passages of each system that are looked at
    judged: bool = False  # they are read by the chain's judge, too; not so in the paper

    @model_validator(mode="after")
    def nothing_void(self) -> "Generate":
        """Raises ValueError for settings of another writer; pydantic puts it behind "expected"."""
        of_writers = {"keywords": "keywords", "neighbours": "similar", "endpoint": "endpoint"}
        for name, writer in of_writers.items():
            if name in self.model_fields_set and self.by != writer:
                raise ValueError(f"no {name}, which is of by={writer}, where by={self.by}")
        return self

    @property
    def recipe_settings(self) -> dict[str, Any]:
        """What decides the candidates."""
        settings = self.model_dump(exclude={"endpoint"})
        if self.by == "endpoint":
            settings["endpoint"] = self.endpoint.recipe_settings
        return settings


class Refresh(Part):
    """The model in training searches the corpus for candidates, before the first step and again."""

    every: Count = 1
    unit: Literal["epochs", "steps"] = "epochs"
    depth: Count = 200  # best passages of a query that are looked at


class SelectNegatives(Bounds):
    """Which candidates stay, by rank and by score."""

    # the system whose scores the thresholds are on; the one that gave the candidates without it
    scores: str | None = None


class ShareLanguages(Part):
    """What is a hard negative in one language is one in the others, where queries are parallel."""

    # how it is known what is parallel; see ``retrieval.encoders.negatives.parallels``
    parallel: Literal["alignment", "same_ids", "translation", "neighbours"] = "neighbours"
    # of alignment: files of queries that ask, and of passages that say the same
    # (retrieval.encoders.parallel); retrieval.encoders.align makes the first
    queries: str | None = None
    passages: str | None = None
    # of neighbours: the least cosine of the dense source's vectors; what translations have depends
    # on the encoder, with the embedded one it is about .85
    threshold: float = 0.85
    # of translation: the model of {source} to {target}, and those of other names by "en-ja"
    model: str = "Helsinki-NLP/opus-mt-{source}-{target}"
    models: dict[str, str] = {}
    pool: Count | None = 100  # best passages of a query that are translated; null: all there are
    beams: Count = 1
    batch_tokens: Count = 4096


class Draw(Part):
    """Which of a query's candidates are its negatives in a step."""

    number: Count = 1  # a query
    order: Literal["random", "top"] = "random"  # drawn anew each epoch; or always the best
    # share of negatives that are candidates; the others are passages of the language at random
    mined: Share = 1.0


class Clustered(Part):
    """Batches of examples that k-means finds alike."""

    of: Literal["queries", "passages"] = "passages"
    # k; without it one a batch that the examples fill, 8192 at most
    clusters: Count | None = None
    # whose vectors: another encoder's, a backbone's or those of a folder with a model; the model's
    # in training without it
    teacher: str | None = None
    every: Count | None = None  # epochs that clusters stand; without it all
    # packed: each example once an epoch, small clusters together; drawn: a cluster for each batch
    fill: Literal["packed", "drawn"] = "packed"


class Topics(Part):
    """Batches of one language and of many topics (data-utilization-2025, 3.5)."""

    count: Annotated[int, Field(ge=2)] = 12  # topics, by k-means over the positives
    # what tells them apart: vectors of another encoder, a backbone or a folder with a model; the
    # model's in training without it. Or the labels' probabilities by fastText's models, files
    teacher: str | None = None
    models: Names = []
    one_language: bool = True  # of a batch; otherwise any (its Table 7)
    # weights in the loss: alpha of the language's share and beta of the topic's
    alpha: NotNegative = 0.45
    beta: NotNegative = 0.4
    # 1: in proportion to the shares; -1: to their inverse; 0: alpha + beta for all
    power: Annotated[float, Field(ge=-4, le=4)] = 1.0

    @model_validator(mode="after")
    def one_way(self) -> "Topics":
        """Raises ValueError for both ways at once; pydantic puts the text behind "expected"."""
        if self.models and self.teacher is not None:
            raise ValueError("a teacher or models of fastText, not both")
        if not self.alpha + self.beta:
            raise ValueError("alpha or beta above 0; with neither nothing would be learned")
        return self


class Queue(Part):
    """Passages of steps before as further negatives, without gradient; the oldest go first."""

    size: Count = 20000  # vectors that it holds, of each language where there is one a language
    by: Literal["all", "language"] = "all"
    # the passages of the batch are no negatives of each other then (MoCo)
    alone: bool = False


class Momentum(Part):
    """Passages are encoded by another encoder, which follows the one in training slowly."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999  # what a step leaves of its weights: m


class Interpolate(Part):
    """Further negatives of a query: mixtures of its vector and those of two of its negatives."""

    number: Count = 1  # a query; it has none where it has fewer than two negatives of its own


class FalseNegatives(Part):
    """Passages that k-means finds like a query's positive are no negatives of the query."""

    # share of the steps from which they are positives, too; before it they are neither
    start: Share = 0.2
    temperature: Positive = 100.0  # tau_0; of step n a label's temperature is tau_0 / n
    # schedule: the temperature is that of the shares alone, so that labels become surer by and by;
    # equation: that of shares and noise, under which the label is the same whatever it is
    labels: Literal["schedule", "equation"] = "schedule"
    # similarities less what all passages have in common: those of encoders whose cosines are all
    # high, as E5's, differ by little, and any label is as likely without it
    centred: bool = False
    clusters: Annotated[int, Field(ge=2)] | None = None  # K; by the gap statistic without it
    most: Annotated[int, Field(ge=2)] = 10  # that the gap statistic tries
    references: Annotated[int, Field(ge=2)] = 5  # data sets without clusters that it compares with
    sample: Annotated[int, Field(ge=16)] = 640  # passages of a batch that it looks at
    mined: bool = False  # whether a query's own negatives may turn out as false ones, too


class EncoderDev(Part):
    """What a training is measured by: dev queries against a sample of their language's passages."""

    queries: Count = 50  # a language
    passages: Count = 1000  # a language: those judged for the queries, others drawn at random


class Encoder(Training):
    """A bi-encoder: what it starts from, how texts become vectors, and what it learns from."""

    method: (
        Literal[
            "dpr",
            "dpr_bm25",
            "tas_q",
            "tas_p",
            "ance",
            "ict_q",
            "ict_p",
            "contriever",
            "contriever_in_batch",
            "contriever_cloze",
            "mcontriever",
            "contriever_tuned",
            "contriever_mined",
            "mhfn",
            "data_utilization",
            "top_k",
            "top_k_shifted",
            "top_k_abs",
            "top_k_margin_pos",
            "top_k_perc_pos",
        ]
        | None
    ) = None
    backbone: str = "embedded"
    layers: Count | None = None
    # of the backbone its architecture and tokenizer alone: the weights are drawn anew
    random_weights: bool = False
    # another encoder or a folder of sentence-transformers, instead of a backbone
    start: str | None = None
    # a configuration whose collection it is trained on; this one without it
    data: str | None = None
    # of the pairs; all with training topics without it, and all where no label is asked for
    languages: Languages = []
    # of the relevant passages that training queries have beyond one each: the share that it is not
    # told of, to measure what finds false negatives (retrieval.encoders.hidden)
    hidden: Share = 0.0
    # one body for queries and passages, or two that begin alike
    towers: Literal["shared", "separate"] | None = None  # as it starts, otherwise shared
    # these four: what the backbone's entry or the start's files say, without them
    pooling: Literal["mean", "cls"] | None = None
    similarity: Literal["dot", "cosine"] | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    temperature: Positive | None = None  # 1 for dot products and 0.05 for cosines without it
    query_length: Annotated[int, Field(ge=8)] = 64  # tokens, prefix and special ones included
    passage_length: Annotated[int, Field(ge=8)] = 256
    freeze_embeddings: bool = False
    # of the body's own layers while training; as in the checkpoint without it
    body_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    gradient_checkpointing: bool = False
    # vectors first, without their graphs, and gradients text by text: for batches of thousands
    gradient_caching: bool = False
    # tokens that go through the body at once; without it 16384 on a GPU and 1024 on a CPU,
    # where nothing is gained by more and padding is lost
    batch_tokens: Count | None = None
    # entries of the four tables
    pairs: Literal["labelled", "crop", "cloze"] = "labelled"
    batches: Literal["shuffled", "by_language", "clustered", "topics"] = "shuffled"
    balance: Literal["natural", "uniform"] = "natural"  # languages as they are, or all alike
    negatives: Annotated[
        list[
            Literal[
                "from_run",
                "from_ensemble",
                "refresh",
                "select",
                "share_languages",
                "judge",
                "generate",
            ]
        ],
        EachOnce,
    ] = []
    in_batch: Annotated[
        list[Literal["momentum", "interpolate", "queue", "false_negatives"]], EachOnce
    ] = []
    # parts of their entries
    crop: Span = Span()
    cloze: Cloze = Cloze()
    perturb: Perturb = Perturb()  # of the views of crop and cloze
    clustered: Clustered = Clustered()
    topics: Topics = Topics()
    from_run: FromRun = FromRun()
    from_ensemble: FromEnsemble = FromEnsemble()
    refresh: Refresh = Refresh()
    select: SelectNegatives = SelectNegatives()
    share_languages: ShareLanguages = ShareLanguages()
    judge: Judge = Judge()
    generate: Generate = Generate()
    draw: Draw = Draw()
    momentum: Momentum = Momentum()
    interpolate: Interpolate = Interpolate()
    queue: Queue = Queue()
    false_negatives: FalseNegatives = FalseNegatives()
    dev: EncoderDev = EncoderDev()

    @model_validator(mode="before")
    @classmethod
    def over_its_method(cls, values: Any) -> Any:
        """What is set lies over the method's row; a part of an entry does so key by key."""
        if not isinstance(values, dict):
            return values
        row = METHODS.get(str(values.get("method")), {})
        whole = {**row, **values}
        for name, below in row.items():
            if isinstance(below, dict) and isinstance(values.get(name), dict):
                whole[name] = {**below, **values[name]}
        tables = [whole.get(table) for table in ("pairs", "batches", "negatives", "in_batch")]
        for name in row:
            is_part_of_row = name in LINK_PARTS and name not in values
            if is_part_of_row and not any(name in (entries or []) for entries in tables):
                del whole[name]  # of an entry that was taken out of the row
        return whole

    @property
    def chosen(self) -> list[str]:
        """The entries of the tables that it uses, whose parts count."""
        entries: list[str] = [self.pairs, self.batches, *self.negatives, *self.in_batch]
        if self.unlabelled:
            entries.append("perturb")
        if self.draws:
            entries.append("draw")
        return entries

    @property
    def unlabelled(self) -> bool:
        """Whether its examples are made of passages alone."""
        return self.pairs in ("crop", "cloze")

    @property
    def draws(self) -> bool:
        """Whether queries have negatives of their own beside those of the batch."""
        return bool(self.negatives) or self.draw.mined == 0

    @property
    def refreshes(self) -> bool:
        """Whether candidates are searched again and again while it is trained."""
        return "refresh" in self.negatives

    @property
    def teacher(self) -> str | None:
        """The other model whose vectors its batches come from; None: there is none."""
        if self.batches == "topics":
            return self.topics.teacher
        return self.clustered.teacher if self.batches == "clustered" else None

    @property
    def void(self) -> list[str]:
        """Parts that are set although their entries are not chosen."""
        parts = [name for name in ENTRY_PARTS if name in self.model_fields_set]
        return [name for name in parts if name not in self.chosen]

    @property
    def recipe_settings(self) -> dict:
        """What decides the weights: of the entries' parts those in use.

        A setting that is added later belongs to ``young``: it counts where it is set, so that
        encoders trained before it stand.
        """
        young = {"random_weights", "hidden"}
        # How the work is done, not what comes out; a method is what its row says
        other = {"method", "deepspeed", "tensorboard", "batch_tokens", "gradient_caching"}
        unused = {name for name in ENTRY_PARTS if name not in self.chosen}
        of_links = {name: self.link_settings(name) for name in ("judge", "generate")}
        return {
            **self.model_dump(exclude=young | other | unused | set(of_links)),
            **self.model_dump(include=young, exclude_defaults=True),
            **{name: own for name, own in of_links.items() if name in self.chosen},
        }

    def link_settings(self, name: str) -> dict[str, Any]:
        """What decides the candidates that a link of the chain leaves."""
        part = getattr(self, name)
        return getattr(part, "recipe_settings", None) or part.model_dump()


ENTRY_PARTS = (
    "crop",
    "cloze",
    "perturb",
    "clustered",
    "topics",
    "from_run",
    "from_ensemble",
    "refresh",
    "select",
    "share_languages",
    "judge",
    "generate",
    "draw",
    "momentum",
    "interpolate",
    "queue",
    "false_negatives",
)
"""The settings that belong to an entry of a table, by the entry's name."""

LINK_PARTS = [name for name in ENTRY_PARTS if name not in ("crop", "cloze", "perturb", "draw")]
"""Those of them whose entries can be taken out of a method's row one by one."""
