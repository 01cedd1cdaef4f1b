"""The settings and their defaults, which are those of a real collection.

``core.config`` reads and checks them. The comment of a setting says what it means.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.encoders import Encoder
from core.errors import InputError
from core.parts import (
    Count,
    Depth,
    EachOnce,
    Folder,
    Language,
    Languages,
    Name,
    Names,
    NotNegative,
    Part,
    Positive,
    Rate,
    Share,
    Training,
    Whole,
)
from core.recipes import Recipe

DEFAULT_BLOCK = 200  # candidates that are reranked, where nothing else is said


class Atlas(Part):
    """How much of the embedded collection is made."""

    countries: Count = 250  # at most; by population
    cities: Whole = 0  # city passages a language, for benchmarks of size
    queries: Count = 150  # a language, over all splits


class CollectionPart(Part):
    """Where the passages, topics and judgments are."""

    source: Literal["atlas", "disk"] = "disk"
    path: Folder | None = None  # a folder in MIRACL's format
    # faults of the files that are reported, not raised
    allow: Annotated[list[Literal["unknown_passages", "empty_passages"]], EachOnce] = []
    atlas: Atlas = Atlas()


class Splits(Part):
    """The collection's three splits by their names there."""

    train: Name = "train"
    dev: Name = "dev"
    test: Name = "testA"  # evaluated and submitted


Saturation = Annotated[float, Field(ge=0, le=1000)]
"""BM25's k1."""


class BM25Parameters(Part):
    """A language's own; what is not set is as for all."""

    k1: Saturation | None = None
    b: Share | None = None


Prebuilt = str | dict[str, str] | None
"""Pyserini's index of each language by its name, in which LANG stands for the language.

Or names by language: others have an index that is made here. A name is that of
``retrieval.prebuilt``.
"""


class BM25(Part):
    """Lucene's BM25."""

    k1: Saturation = 0.9
    b: Share = 0.4
    per_language: dict[Language, BM25Parameters] = {}  # python -m retrieval.tune finds them
    heap: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[mMgG]$")] = "2g"  # of the JVM
    threads: Whole = 0  # of indexing and of search; 0: all cores
    prebuilt: Prebuilt = None


class Index(Part):
    """Of the vectors; ``exact`` searches them in blocks without one."""

    kind: Literal["exact", "flat", "sq", "ivf", "ivfpq", "hnsw"] = "exact"
    # of an inverted file; four times the root of the number of passages without it
    lists: Count | None = None
    probes: Count = 32  # lists looked into
    code_bytes: Count = 48  # of a product-quantised vector
    links: Count = 32  # of a node of the graph
    ef: Count = 256  # nodes kept while searching the graph; at least the depth is sensible


class Dense(Part):
    """The bi-encoder of the first stage, and how its vectors are searched."""

    backbone: str = "embedded"
    layers: Count | None = None  # the first n layers; all without it
    max_length: Count = 256
    batch_tokens: Count = 8192
    precision: Literal["half", "fp32", "bf16", "fp16"] = "fp32"  # half: as of a training
    # these four: what the backbone's entry or its sentence-transformers files say, without them
    pooling: Literal["mean", "cls"] | None = None
    normalise: bool | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    index: Index = Index()
    backend: Literal["torch", "openvino"] = "torch"  # the latter on a CPU, in fp32
    processes: Count | None = None  # that encode at once; one a GPU, or one, without it
    prebuilt: Prebuilt = None  # its vectors, flat, are searched; queries are encoded here

    @property
    def overrides(self) -> dict:
        """The settings that are given in place of the backbone's own."""
        own_ways = {"pooling", "normalise", "query_prefix", "passage_prefix"}
        return self.model_dump(include=own_ways, exclude_none=True)


class Hybrid(Part):
    """How the sources become one run."""

    preset: Literal["minmax", "miracl-baseline", "zscore", "rrf", "sparse-dense"] = "minmax"
    weights: dict[str, NotNegative] | Literal["tuned", "equal"] = "tuned"
    # weights a language too, shrunk to the global ones as if those were this many queries
    shrink: Positive | None = None


class Condition(Part):
    """Queries that trained encoders are compared on."""

    data: str | None = None  # a configuration whose collection it is; this one without it
    # of the queries: those that any of the encoders learns from, all others, or some by name
    languages: Literal["trained", "others"] | Languages = "trained"
    split: Literal["dev", "test"] = "test"
    # cross-lingual: the language whose passages all of them are asked of, and the file that says
    # which queries ask the same (retrieval.encoders.parallel)
    passages: Language | None = None
    parallel: str | None = None
    # encoders that are also fused with BM25, whose k1 and b and whose weight dev chooses
    hybrids: Names = []
    rows: Literal["languages", "systems"] = "languages"  # of its tables

    @model_validator(mode="after")
    def both_or_none(self) -> "Condition":
        """Raises ValueError for one of them alone; pydantic puts the text behind "expected"."""
        if (self.passages is None) != (self.parallel is None):
            raise ValueError("both passages and parallel, or neither")
        return self

    @model_validator(mode="after")
    def hybrids_of_their_own_language(self) -> "Condition":
        """Raises ValueError for hybrids of a cross-lingual one; as above."""
        if self.passages is not None and self.hybrids:
            raise ValueError("no hybrids with passages: BM25 is tuned on a language's own queries")
        return self


class Retrieval(Part):
    """The first stage: sources, each with a run, and their hybrid."""

    sources: Annotated[list[Literal["bm25", "dense", "run"]], Field(min_length=1), EachOnce] = [
        "bm25",
        "dense",
    ]
    bm25: BM25 = BM25()
    dense: Dense = Dense()
    run: str | None = None  # a folder of LANG-SPLIT.trec files for the source 'run'
    hybrid: Hybrid = Hybrid()
    depth: Depth = 1000  # stored
    encoders: dict[Name, Encoder] = {}  # bi-encoders that are trained; dense.backbone may name one
    # what ``retrieval.encoders --compare`` measures; in-distribution and zero-shot without any
    conditions: dict[Name, Condition] = {}
    # an encoder's training begun with another number of processes: refuse it, or go on from its
    # weights
    other_world: Literal["refuse", "weights"] = "refuse"

    @property
    def systems(self) -> list[str]:
        """The sources and the hybrid: whose runs the stage makes."""
        return [*self.sources, "hybrid"]


class Fgm(Part):
    """Adversarial steps: the embedding's output moved along its gradient (Miyato et al. 2017)."""

    epsilon: NotNegative = 1.0  # 0: no adversarial step
    norm: Literal["example", "batch"] = "example"
    start: Whole = 0  # steps without it at the beginning
    share: Share = 1.0  # of the steps after that, drawn at random


class Lora(Part):
    """Low-rank adapters on a frozen body (Hu et al. 2022), whose rate is ``learning_rate``.

    What is saved as the model has them merged into its weights.
    """

    rank: Count = 16
    alpha: Count = 32  # what an adapter adds is scaled by alpha / rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of what an adapter reads
    # linear layers by the end of their names, as query or attention.output.dense; all without it
    targets: Names = []


class Ranker(Training):
    """A cross-encoder: what it is made of, what it learns from, and which passages it scores."""

    # a finished cross-encoder, a folder or a hub id, that scores as it is: nothing is trained, and
    # max_length is the model's own where it is not set
    model: str | None = None
    backbone: str = "embedded"
    layers: Count | None = None
    prune_vocabulary: bool = False
    freeze_embeddings: bool = False
    # of the body only the last n layers are trained, all below is frozen; all without it. The head
    # is trained in any case, also with adapters. A step of FGM still goes down to the embeddings
    train_layers: Count | None = None
    lora: Lora | None = None  # adapters are trained in place of the body; {} for its defaults
    recipe: str = "default"
    languages: Languages = []  # of the training pairs; all without it
    query_length: Count = 64
    max_length: Annotated[int, Field(ge=16)] = 256
    head_learning_rate: Rate | None = None
    dropouts: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)] = [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
    ]
    # of the body's own layers while training; as in the checkpoint without it
    body_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    positive_weight: Positive = 1.0  # of pairs with label >= .5 in the loss
    fgm: Fgm = Fgm()
    dev_queries: Count = 20  # a language, for choosing the best checkpoint
    dev_depth: Count = 20
    # a step of ranking.chain or a ranker whose weights it starts from, instead of a backbone
    start: str | None = None
    # a configuration whose collection and groups it is trained on; this one without it
    data: str | None = None
    loss: Literal[
        "binary_cross_entropy",
        "listwise_softmax",
        "pairwise_logistic",
        "lambda_loss",
        "list_mle",
        "margin_mse",
        "kl_divergence",
    ] = "binary_cross_entropy"
    # passages of a query that any loss but binary_cross_entropy sees together
    group_size: Annotated[int, Field(ge=2)] = 8
    # whose scores margin_mse and kl_divergence follow: another ranker, a system of the first stage
    # such as hybrid, or a folder of runs LANG-SPLIT.trec of the training queries
    teacher: str | None = None
    # what those scores are multiplied by: a hybrid's lie in [0, 1], logits are some ten apart
    teacher_scale: Positive = 1.0
    temperature: Positive = 1.0  # of kl_divergence
    # the hybrid's scores, times this, are added to the logits in training and in scoring: it learns
    # what the first stage lacks. auto: the weight that fits the training groups best
    first_stage: Positive | Literal["auto"] | None = None
    gradient_checkpointing: bool = False
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    depth: Depth | None = None  # candidates that it scores; ranking.rerank.depth without it
    after: str | None = None  # the ranker whose best it scores, instead of the hybrid's: a cascade
    round: Whole = 0  # of pseudo-labels: its recipe learns from the systems of the round before

    @property
    def recipe_settings(self) -> dict:
        """What decides the weights.

        Settings younger than the first trainings count where they are set, so that those
        trainings stand.
        """
        young = {
            "model",
            "start",
            "data",
            "loss",
            "group_size",
            "teacher",
            "teacher_scale",
            "temperature",
            "first_stage",
            "average",
            "gradient_checkpointing",
            "attention",
            "body_dropout",
            "train_layers",
            "lora",
        }
        other = {"deepspeed", "tensorboard", "depth", "after", "round", "fgm"}
        return {
            **self.model_dump(exclude=young | other),
            **self.model_dump(include=young, exclude_defaults=True),
            "fgm": {
                **self.fgm.model_dump(include={"epsilon", "norm"}),
                **self.fgm.model_dump(include={"start", "share"}, exclude_defaults=True),
            },
        }


class Rerank(Part):
    """How the rankers score."""

    # of the block that the ensemble fuses; a ranker may score fewer. Without it Config.block
    depth: Depth | None = None
    batch_tokens: Count = 16384
    # the last two on a CPU; openvino in fp32, or bf16 for a ranker with that precision
    backend: Literal["torch", "openvino", "int8"] = "torch"
    dev_queries: Count = 50  # a language, by which int8 and what a cascade loses are judged
    tolerance: Positive = 0.002  # of nDCG@10 on them, within which int8 is taken


class Ranking(Part):
    """The second stage: cross-encoders by name."""

    chain: dict[Name, Ranker] = {}  # trainings that others start from: they score nothing
    rankers: Annotated[dict[Name, Ranker], Field(min_length=1)] = {"base": Ranker()}
    # a training begun with another number of processes: refuse it, or go on from its weights
    other_world: Literal["refuse", "weights"] = "refuse"
    rerank: Rerank = Rerank()

    @property
    def trainings(self) -> dict[str, Ranker]:
        """All cross-encoders: the steps of the chain, and the rankers, with given ones."""
        return self.chain | self.rankers

    @property
    def trained(self) -> dict[str, Ranker]:
        """Those of them that are trained here: all but given models."""
        return {name: r for name, r in self.trainings.items() if r.model is None}


class Folds(Part):
    """How judged queries are parted for cross-validation."""

    count: Annotated[int, Field(ge=2)] = 5
    # share of trigrams in common from which two queries are near-duplicates, in one fold together
    duplicates: Share = 0.8
    by_article: bool = False  # also those with a relevant passage of one article in one fold
    file: str | None = None  # a given one: LANGUAGE QID FOLD, separated by tabs


class Stacking(Part):
    """LambdaMART over the scores of members and sources.

    The number of trees is chosen within the training folds.
    """

    trees: Count = 300  # at most
    learning_rate: Rate = 0.03
    leaves: Annotated[int, Field(ge=2)] = 4
    min_leaf: Count = 80  # rows of a leaf
    # a folder MEMBER/LANG-train.trec of out-of-fold scores to train on, in place of dev
    out_of_fold: str | None = None


class Ensemble(Part):
    """How the members' scores on the reranked block become one."""

    normalise: Literal["none", "minmax", "zscore", "rank", "rrf", "sigmoid", "softmax"] = "minmax"
    missing: Literal["zero", "minimum"] = "zero"
    fusion: Literal["weighted_sum", "combmnz", "combanz", "rrf", "isr", "borda", "geometric"] = (
        "weighted_sum"
    )
    weights: Literal["uniform", "score", "paper", "greedy", "coordinate"] | dict[str, Share] = (
        "paper"
    )
    # weights a language too, shrunk to the global ones as if those were this many queries
    shrink: Positive | None = None
    runs: dict[Name, str] = {}  # more members: NAME: a folder of LANG-SPLIT.trec files
    stacking: Stacking | None = Stacking()  # null: none


class Submission(Part):
    """The file that is handed in."""

    system: str = "ensemble"  # what is handed in
    profile: Literal["miracl", "trec", "csv"] = "miracl"
    depth: Annotated[int, Field(ge=1, le=1000)] = 100
    tag: Name = "continuum"


class Ray(Part):
    """Where ``engine: ray`` finds its machines, and what an actor takes of one."""

    # HOST:PORT of a cluster's head, or auto: the cluster that this machine is part of. Without it
    # one of this machine alone, which ends with the command
    address: str | None = None
    num_cpus: Count = 1  # cores of an actor, and its threads
    # GPUs of an actor, or a part of one; without it one where the cluster has any, otherwise none
    num_gpus: Share | None = None


class Config(Part):
    """A whole configuration."""

    name: Name
    work: str = "work"
    jobs: Count = 1  # steps of the retrieval stage at once, where memory allows
    # who encodes and scores: this process, or actors on a Ray cluster (requirements-ray.txt)
    engine: Literal["local", "ray"] = "local"
    ray: Ray = Ray()
    seed: Whole = 0
    languages: Languages = []  # all of the collection without it
    round: Whole | None = None  # rankers of this round and those before; of all without it
    # queries a language, of every split or by the split's name: a sample fixed by the seed. A split
    # that is named counts over a number for all in an earlier layer, which the others keep
    limit: Count | dict[str, Count] | None = None
    collection: CollectionPart = CollectionPart()
    splits: Splits = Splits()
    retrieval: Retrieval = Retrieval()
    data_aug: dict[Name, Recipe] = {"default": Recipe()}
    folds: Folds = Folds()
    candidates: Depth = 200  # of the hybrid, handed to the rankers
    ranking: Ranking = Ranking()
    ensemble: Ensemble = Ensemble()
    submission: Submission = Submission()

    @property
    def block(self) -> int:
        """How many candidates of a query are reranked and fused.

        Without ``ranking.rerank.depth`` 200, or all where they are fewer. Raises InputError for a
        depth of more than the candidates.
        """
        depth = self.ranking.rerank.depth
        if depth is None:
            return min(DEFAULT_BLOCK, self.candidates)
        if depth > self.candidates:
            raise InputError(
                f"ranking.rerank.depth: found {depth}, but the rankers are handed "
                f"candidates={self.candidates} passages a query; raise candidates, lower "
                "ranking.rerank.depth, or set it to null: then it follows the candidates"
            )
        return depth

    @property
    def collection_name(self) -> str:
        """The name of its folder; it names the outputs' folder, too."""
        if self.collection.source == "atlas":
            return "atlas"
        assert self.collection.path is not None, "core.config refuses a disk without a path"
        return Path(self.collection.path).name

    @property
    def home(self) -> Path:
        """The collection's folder; ``shared/`` in it holds the outputs."""
        return Path(self.work) / self.collection_name

    @property
    def folder(self) -> Path:
        """This configuration's results, report, submission and lock."""
        return self.home / self.name

    @property
    def models(self) -> Path:
        """Where converted models are, for all collections."""
        return Path(self.work) / "models"
