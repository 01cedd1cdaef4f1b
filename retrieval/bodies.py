"""What turns texts into vectors: bodies of transformers, and sentence-transformers models.

A model with a ``modules.json`` is a sentence-transformers model: its own modules are used, with its
prompts and its length, on token batches of ours. Where its way from text to tokens is not the plain
one (chat templates, static embeddings, routers), it encodes by itself, in batches of one size.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core import backbones, hub
from core.batches import token_batches
from core.compiled import compiled, converted
from core.distributed import device
from core.errors import InputError
from core.text import json_value, whole_text

if TYPE_CHECKING:
    import torch

Task = Literal["query", "passage"]

MODULE_LIST = "modules.json"
SETTINGS = "config_sentence_transformers.json"
OWN_PACKAGE = "sentence_transformers."  # modules of other packages would be code of the model's
PASSAGE_PROMPTS = ("document", "passage", "corpus")  # names in use, the first that is set counts

# modules that need no more of a text than the last hidden states of its tokens
TAIL_MODULES = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")


def torch_hidden(model: Any) -> "Callable[[dict], torch.Tensor]":
    """The body as it is."""
    return lambda inputs: model(**inputs).last_hidden_state


def openvino_hidden(model: Any) -> "Callable[[dict], torch.Tensor]":
    """The body compiled for a CPU, in fp32."""
    return compiled(converted(model.float().cpu(), ["input_ids", "attention_mask"]))


# what runs a body: a function from padded inputs to the last hidden states [texts, tokens, hidden]
BACKENDS: dict[str, Callable[[Any], Callable]] = {
    "torch": torch_hidden,
    "openvino": openvino_hidden,
}


class TokenBody:
    """Tokens in batches of about equal length, through a body and what pools its hidden states.

    ``prefixes`` and ``max_lengths`` (tokens): of queries and of passages.
    """

    tokenizer: Any
    batch_tokens: int
    device: "torch.device | str"
    dimension: int
    hidden: Callable[[dict], "torch.Tensor"]
    prefixes: dict[Task, str]
    max_lengths: dict[Task, int]
    input_names: tuple[str, ...] = ("input_ids",)

    def encode(self, texts: Sequence[str], task: Task) -> np.ndarray:
        """Vectors in fp32 [texts, dimension]."""
        prefixed = [self.prefixes[task] + text for text in texts]
        tokens = self.tokenizer(prefixed, truncation=True, max_length=self.max_lengths[task])
        lengths = [len(ids) for ids in tokens["input_ids"]]
        vectors = np.empty((len(lengths), self.dimension), np.float32)
        for rows in token_batches(lengths, self.batch_tokens):
            batch = []
            for row in rows:
                batch.append({name: tokens[name][row] for name in self.input_names})
            vectors[rows] = self.forward(batch, task)
        return vectors

    def forward(self, batch: list[dict[str, list[int]]], task: Task) -> np.ndarray:
        """Vectors of one batch of tokenised texts."""
        import torch

        inputs = backbones.pad(self.tokenizer, batch, self.device)
        with torch.inference_mode():
            hidden = self.hidden(inputs).float()
            return self.pooled(hidden, inputs["attention_mask"], task).cpu().numpy()

    def pooled(self, hidden: "torch.Tensor", mask: "torch.Tensor", task: Task) -> "torch.Tensor":
        """Vectors [texts, dimension] of hidden states [texts, tokens, hidden], both in fp32."""
        raise NotImplementedError


class PlainBody(TokenBody):
    """A body of transformers, used as BACKBONES says; ``overrides`` come before that."""

    def __init__(
        self,
        name: str,
        where: str,
        layers: int | None,
        max_length: int,
        batch_tokens: int,
        precision: str,
        overrides: dict,
        backend: str,
    ):
        self.entry = replace(backbones.backbone(name), **overrides)
        self.tokenizer = backbones.load_tokenizer(where)
        self.batch_tokens = batch_tokens
        self.device = device() if backend == "torch" else "cpu"
        model = backbones.load_encoder(where, layers)
        model = model.to(self.device, backbones.dtype(precision))
        self.dimension = model.config.hidden_size
        self.hidden = BACKENDS[backend](model)
        self.prefixes = {"query": self.entry.query_prefix, "passage": self.entry.passage_prefix}
        longest = min(max_length, self.entry.max_length, self.tokenizer.model_max_length)
        self.max_lengths = {"query": longest, "passage": longest}

    def pooled(self, hidden: "torch.Tensor", mask: "torch.Tensor", task: Task) -> "torch.Tensor":
        """As the backbone's entry says."""
        return pool(hidden, mask, self.entry.pooling, self.entry.normalise)


def pool(
    hidden: "torch.Tensor", mask: "torch.Tensor", pooling: str, normalise: bool
) -> "torch.Tensor":
    """Vectors [texts, hidden] of hidden states [texts, tokens, hidden].

    ``pooling``: ``cls``, the first token's state, or ``mean``, over all tokens.
    """
    import torch

    if pooling == "cls":
        vectors = hidden[:, 0]
    else:
        is_token = mask.unsqueeze(-1)
        vectors = (hidden * is_token).sum(1) / is_token.sum(1)
    return torch.nn.functional.normalize(vectors, dim=1) if normalise else vectors


class ModularBody(TokenBody):
    """A sentence-transformers model whose first module is a plain text Transformer.

    Vectors are those of its own ``encode`` to about 1e-6 in fp32. ``normalise``: to length 1 after
    all modules, whatever they are.
    """

    def __init__(
        self,
        model: Any,
        max_length: int,
        batch_tokens: int,
        precision: str,
        backend: str,
        prefixes: dict[Task, str],
        normalise: bool,
    ):
        import torch

        transformer, *self.tail = model
        self.tokenizer = transformer.tokenizer
        self.batch_tokens = batch_tokens
        self.device = device() if backend == "torch" else "cpu"
        body = transformer.model.to(self.device, backbones.dtype(precision)).eval()
        self.hidden = BACKENDS[backend](body)
        for module in self.tail:  # in fp32 whatever the body's format is, as pooling is elsewhere
            module.to(self.device, torch.float32).eval()
        self.dimension = model.get_embedding_dimension()
        self.prefixes = prefixes
        self.normalise = normalise
        longest = min(max_length, self.tokenizer.model_max_length)
        self.max_lengths = {
            "query": min(longest, transformer.query_length or longest),
            "passage": min(longest, transformer.document_length or longest),
        }
        if "token_type_ids" in self.tokenizer.model_input_names and backend == "torch":
            self.input_names = ("input_ids", "token_type_ids")

    def pooled(self, hidden: "torch.Tensor", mask: "torch.Tensor", task: Task) -> "torch.Tensor":
        """What the modules after the Transformer make of its hidden states."""
        import torch

        features: dict[str, Any] = {"token_embeddings": hidden, "attention_mask": mask}
        if self.prefixes[task]:
            features["prompt_length"] = self.prompt_length(self.prefixes[task])
        for module in self.tail:
            features = module(features)
        vectors = features["sentence_embedding"][:, : self.dimension]
        return torch.nn.functional.normalize(vectors, dim=1) if self.normalise else vectors

    def prompt_length(self, prompt: str) -> int:
        """Tokens of a prompt without a closing special one, for poolings that leave them out."""
        ids = self.tokenizer(prompt)["input_ids"]
        is_closed = bool(ids) and ids[-1] in self.tokenizer.all_special_ids
        return len(ids) - is_closed


class WholeModel:
    """Any other sentence-transformers model: its own way from texts to vectors."""

    def __init__(
        self,
        model: Any,
        max_length: int,
        batch_tokens: int,
        precision: str,
        prefixes: dict[Task, str],
        normalise: bool,
    ):
        self.model = model.to(device(), backbones.dtype(precision)).eval()
        if isinstance(model.max_seq_length, int):
            max_length = min(max_length, model.max_seq_length)
            model.max_seq_length = max_length
        self.batch_size = max(1, batch_tokens // max_length)
        self.dimension = model.get_embedding_dimension()
        self.prefixes = prefixes
        self.normalise = normalise

    def encode(self, texts: Sequence[str], task: Task) -> np.ndarray:
        """Vectors in fp32 [texts, dimension]."""
        encode = self.model.encode_query if task == "query" else self.model.encode_document
        vectors = encode(
            list(texts),
            prompt=self.prefixes[task],
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        vectors = vectors.float().cpu().numpy()
        if self.normalise:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def load_body(
    name: str,
    models: Path,
    layers: int | None,
    max_length: int,
    batch_tokens: int,
    precision: str,
    overrides: dict,
    backend: str,
) -> "PlainBody | ModularBody | WholeModel":
    """The body of a backbone by its name.

    ``overrides``: of pooling, normalise, query_prefix and passage_prefix, those that are set.
    Raises InputError where the model cannot be loaded or cannot do what is asked.
    """
    where = backbones.source(name, models)
    modules = None if backbones.is_listed(name) else modules_of(where)
    if modules is None:
        return PlainBody(
            name, where, layers, max_length, batch_tokens, precision, overrides, backend
        )
    model = load_modules(where, modules, layers)
    replace_pooling(model, overrides.get("pooling"), where)
    normalise = overrides.get("normalise")
    if normalise is False:
        remove_normalisation(model)
    prefixes = prompts_of(model, overrides)
    if takes_plain_tokens(model):
        return ModularBody(
            model, max_length, batch_tokens, precision, backend, prefixes, bool(normalise)
        )
    if backend != "torch":
        raise InputError(
            f"retrieval.dense.backend: found {backend}, expected torch for {where}: "
            f"its first module {type(model[0]).__name__} makes its vectors by itself"
        )
    return WholeModel(model, max_length, batch_tokens, precision, prefixes, bool(normalise))


def modules_of(where: str) -> list[dict[str, str]] | None:
    """What ``modules.json`` lists (``type`` and ``path``, the subfolder); None for other models.

    Raises InputError for a module that is not of sentence-transformers itself, and for models
    that give no dense vectors.
    """
    modules = read_json(where, MODULE_LIST)
    if modules is None:
        return None
    is_list = isinstance(modules, list) and len(modules) > 0
    if not is_list or not all(is_module(module) for module in modules):
        raise InputError(
            f"backbone {where}: {MODULE_LIST}: expected a list of modules with type and path; "
            "fetch the model again"
        )
    for module in modules:
        if not module["type"].startswith(OWN_PACKAGE):
            raise InputError(
                f"backbone {where}: has the module {module['type']}, which is code of the model's "
                "own and is not run; expected modules of sentence-transformers"
            )
    settings = read_json(where, SETTINGS) or {}
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise InputError(
            f"backbone {where}: is a {kind}, expected a SentenceTransformer: "
            "a dense encoder gives one vector a text"
        )
    return modules


def read_json(where: str, name: str) -> Any:
    """The content of a model's JSON file; None where it has none. Raises InputError for others."""
    file = backbones.model_file(where, name)
    if file is None:
        return None
    try:
        return json_value(file, 1, whole_text(file), "JSON; fetch the model again")
    except InputError as error:
        raise InputError(f"backbone {where}: {name}: {error}") from None


def is_module(value: object) -> bool:
    """Whether it names a module's class and subfolder, as ``modules.json`` does."""
    return isinstance(value, dict) and {"type", "path"} <= value.keys()


def load_modules(where: str, modules: list[dict[str, str]], layers: int | None) -> Any:
    """A SentenceTransformer in fp32 on the CPU, with the first ``layers`` of its Transformer."""
    import torch

    first = modules[0]
    config_kwargs = {}
    model_kwargs: dict[str, Any] = {"dtype": torch.float32}
    has_transformer = first["type"].endswith(".Transformer")
    if layers is not None and not has_transformer:
        raise InputError(
            f"backbone {where}: layers: found {layers}, expected none: "
            f"its first module is {first['type']}, not a Transformer"
        )
    if layers is not None:
        config = backbones.load_config(where, layers, first["path"])
        config_kwargs["num_hidden_layers"] = config.num_hidden_layers
    for module in modules:  # also of Dense and others: pickles are looked through before they load
        weights = backbones.weights_of(where, module["path"])
        if module is first and has_transformer:
            model_kwargs |= weights

    place, revision = hub.pretrained(where)

    def load() -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            place,
            device="cpu",
            trust_remote_code=False,
            model_kwargs=model_kwargs,
            config_kwargs=config_kwargs,
            **revision,
        )

    model = backbones.loading(where, load)
    if has_transformer:
        check_body(model[0].model, where, first["path"], model_kwargs)
    return model


def check_body(body: Any, where: str, subfolder: str, model_kwargs: dict[str, Any]) -> None:
    """Raises InputError for parts of the body that the checkpoint lacks.

    sentence-transformers does not say what was missing, so the names are read once more, without
    the weights.
    """
    place, revision = hub.pretrained(where)

    def load() -> Any:
        return type(body).from_pretrained(
            place,
            subfolder=subfolder,
            config=body.config,
            output_loading_info=True,
            trust_remote_code=False,
            device_map="meta",
            **revision,
            **model_kwargs,
        )

    _, report = backbones.loading(where, load)
    backbones.refuse_missing(body, report["missing_keys"], where)


def takes_plain_tokens(model: Any) -> bool:
    """Whether token ids and an attention mask are all that a SentenceTransformer needs of a text.

    Not so with chat templates, queries filled up to a length, settings of its own for tokenising,
    and modules after the Transformer that read other things than hidden states.
    """
    from sentence_transformers.base.modules import Transformer

    first, *tail = model
    if not isinstance(first, Transformer) or first.tokenizer is None:
        return False
    text = first.modality_config.get("text", {})
    return (
        text.get("method") == "forward"
        and text.get("method_output_name") == "last_hidden_state"
        and first.module_output_name == "token_embeddings"
        and "message" not in first.modality_config
        and not first.processing_kwargs
        and first.query_expansion is None
        and all(type(module).__name__ in TAIL_MODULES for module in tail)
    )


def replace_pooling(model: Any, mode: str | None, where: str) -> None:
    """Puts ``retrieval.dense.pooling`` in place of a SentenceTransformer's own, if it is set.

    Raises InputError where the model has no pooling, or several side by side.
    """
    if mode is None:
        return
    from sentence_transformers.sentence_transformer.modules import Pooling

    poolings = [module for module in model if isinstance(module, Pooling)]
    if len(poolings) != 1 or not isinstance(poolings[0].pooling_mode, str):
        raise InputError(
            f"retrieval.dense.pooling: found {mode}, expected none for {where}: "
            "it has no single pooling that this could stand for"
        )
    poolings[0].pooling_mode = mode


def remove_normalisation(model: Any) -> None:
    """Takes the last module away if it makes vectors of length 1."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    if isinstance(model[-1], Normalize):
        del model[-1]


def prompts_of(model: Any, overrides: dict) -> dict[Task, str]:
    """What stands before queries and before passages: as set, or as the model says."""
    passage_prompt = ""
    for name in PASSAGE_PROMPTS:
        passage_prompt = passage_prompt or model.prompts.get(name) or ""
    return {
        "query": overrides.get("query_prefix", model.prompts.get("query") or ""),
        "passage": overrides.get("passage_prefix", passage_prompt),
    }
