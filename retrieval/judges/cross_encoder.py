"""A finished cross-encoder as a judge: two thresholds on its scores are the grades.

Works offline: the embedded ranker is the default. With a reference, the thresholds are on the
candidate's score less that of the passage known to be relevant. Scores are kept as they come.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import backbones, cross_encoders, distributed
from core.answers import Answers, key
from core.batches import token_batches
from core.console import progress
from core.embedded_ranker import LENGTHS
from core.errors import InputError
from core.judging import CrossEncoderJudge
from retrieval.judges.questions import Question

AT_ONCE = 2048  # pairs whose tokens are in memory, sorted by length, and kept together
LONGEST = 512  # pieces of a pair where neither settings nor model say anything

Pair = tuple[str, str]
"""Texts of a query and a passage."""


class CrossEncoder:
    """See ``retrieval.judges``. The model is loaded when the first score is missing.

    Raises InputError as ``core.cross_encoders.load`` does, and for a score that is not finite.
    """

    def __init__(self, settings: CrossEncoderJudge, reference: bool, models: Path, answers: Path):
        self.settings = settings
        self.reference = reference
        self.models = models
        self.answers = Answers(answers)
        self.model: Any = None

    def grades(self, questions: Sequence[Question]) -> list[int | None]:
        """By the thresholds."""
        candidates = [(question.query, question.candidate) for question in questions]
        references = [(question.query, question.reference) for question in questions]
        pairs = [*candidates, *references] if self.reference else candidates
        scores = self.scores(pairs)
        found: list[int | None] = []
        for candidate, reference in zip(candidates, references, strict=True):
            score = scores[candidate]
            if self.reference:
                score -= scores[reference]
            found.append(grade(score, self.settings))
        return found

    def scores(self, pairs: Sequence[Pair]) -> dict[Pair, float]:
        """The logit of each pair; equal pairs are scored once, and none a second time."""
        keys = {pair: key(pair) for pair in dict.fromkeys(pairs)}
        known = self.answers.get(list(keys.values()))
        missing = [pair for pair, name in keys.items() if name not in known]
        with progress(None, len(missing), "judge", "pair") as bar:
            for start in range(0, len(missing), AT_ONCE):
                part = missing[start : start + AT_ONCE]
                logits = self.logits(part)
                answers = {}
                for pair, logit in zip(part, logits.tolist(), strict=True):
                    answers[keys[pair]] = logit
                self.answers.put(answers)
                known |= answers
                bar.update(len(part))
        return {pair: known[name] for pair, name in keys.items()}

    def logits(self, pairs: Sequence[Pair]) -> np.ndarray:
        """fp32 [pairs], of the model."""
        import torch

        if self.model is None:
            self.load()
        queries = [query for query, _ in pairs]
        passages = [passage for _, passage in pairs]
        rows = self.tokenizer(
            queries,
            passages,
            truncation="longest_first",  # only a query that fills half of a pair is cut
            max_length=self.max_length,
            return_attention_mask=False,
        )
        lengths = [len(ids) for ids in rows["input_ids"]]
        logits = np.empty(len(pairs), np.float32)
        device = distributed.device()
        with torch.inference_mode():
            for places in token_batches(lengths, self.settings.batch_tokens):
                batch = [{name: rows[name][place] for name in rows} for place in places]
                inputs = backbones.pad(self.tokenizer, batch, device)
                logits[places] = self.model(**inputs).logits[:, 0].float().cpu().numpy()
        is_wrong = ~np.isfinite(logits)
        if is_wrong.any():
            query, passage = pairs[int(np.argmax(is_wrong))]
            raise InputError(
                f"judge {self.settings.model}: the score of the query {query[:60]!r} and the "
                f"passage {passage[:60]!r} is not finite; name another model"
            )
        return logits

    def load(self) -> None:
        """Model and tokenizer, in fp32."""
        where = backbones.source(self.settings.model, self.models)
        self.model = cross_encoders.load(where).float().to(distributed.device())
        self.tokenizer = backbones.load_tokenizer(where)
        own = getattr(self.model.config, LENGTHS, {}).get("max_length")
        longest = min(self.tokenizer.model_max_length, LONGEST)
        self.max_length = self.settings.max_length or own or longest

    def described(self) -> str:
        """Nothing: it costs time alone."""
        return ""


def grade(score: float, settings: CrossEncoderJudge) -> int:
    """2 from ``full`` on, 1 from ``partial`` on, otherwise 0."""
    if score >= settings.full:
        return 2
    return 1 if score >= settings.partial else 0
