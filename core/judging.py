"""The settings of judges of passages, and of the endpoint that some of them ask."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from core.parts import Count, NotNegative, Part, Positive, Share


class Endpoint(Part):
    """A language model behind an endpoint that speaks OpenAI's protocol.

    A key is never a setting: it stands in a variable of the environment, or in a file.
    """

    base_url: str | None = None  # up to /v1; OPENAI_BASE_URL of the environment without it
    model: str | None = None  # OPENAI_MODEL of the environment without it
    key_variable: str = "OPENAI_API_KEY"  # of the environment; many servers want no key
    key_file: str | None = None  # its first line is the key, in place of the variable
    # how the server is told to answer in JSON; text: by the prompt alone
    structure: Literal["json_schema", "json_object", "text"] = "json_schema"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Count = 400  # of a reply
    longest: Count = 6000  # characters of a passage that are sent
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 8  # requests at a time
    timeout: Positive = 60.0  # seconds of a request
    # of a request that fails (429, 5xx, no connection, too late), each after a longer wait or the
    # one that the server names; then it is an error
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    attempts: Annotated[int, Field(ge=1, le=100)] = (
        3  # at an answer that can be read; after them there is none
    )
    # share of prompts that may stay without an answer, a few in any case; more is an error
    unanswered: Share = 0.05
    # per million tokens, in any currency, for the costs that are said
    input_price: NotNegative = 0.0
    output_price: NotNegative = 0.0

    @property
    def recipe_settings(self) -> dict:
        """What decides the answers; not where the model is or how fast it is asked."""
        of_answers = {"model", "structure", "temperature", "max_tokens", "longest", "attempts"}
        return self.model_dump(include=of_answers)


class CrossEncoderJudge(Part):
    """A cross-encoder whose scores two thresholds turn into grades.

    With the judge's ``reference`` they are on the candidate's score less the relevant passage's,
    so that they mean the same for easy and hard queries; otherwise on the score itself.
    """

    model: str = "embedded-ranker"  # or a folder or a hub id of a cross-encoder with one label
    partial: float = -3.0  # from here on a candidate is partially relevant: 1
    full: float = -1.0  # from here on highly relevant: 2
    max_length: Count | None = None  # pieces of a pair; what the model says of itself without it
    batch_tokens: Count = 8192

    @model_validator(mode="after")
    def in_order(self) -> "CrossEncoderJudge":
        """Raises ValueError for no room between them; pydantic puts the text behind "expected"."""
        if self.partial > self.full:
            raise ValueError(f"partial at most full; {self.partial:g} > {self.full:g}")
        return self

    @property
    def recipe_settings(self) -> dict:
        """What decides the grades."""
        return self.model_dump(exclude={"batch_tokens"})


class Judge(Part):
    """Who reads candidates, and which of them stay negatives (data-utilization-2025, 3.3)."""

    by: Literal["cross_encoder", "endpoint"] = "cross_encoder"
    reference: bool = True  # the judge sees a relevant passage, too (its Table 5)
    stays: Literal[0, 1] = 0  # the highest grade of a negative
    cross_encoder: CrossEncoderJudge = CrossEncoderJudge()
    endpoint: Endpoint = Endpoint()

    @model_validator(mode="after")
    def nothing_void(self) -> "Judge":
        """Raises ValueError for settings of the other judge; pydantic puts it behind "expected"."""
        other = "endpoint" if self.by == "cross_encoder" else "cross_encoder"
        if other in self.model_fields_set:
            raise ValueError(f"no settings of {other}, as the judge is by={self.by}")
        return self

    @property
    def recipe_settings(self) -> dict[str, Any]:
        """What decides the grades, and what they come to."""
        chosen = getattr(self, self.by)
        return {
            **self.model_dump(include={"by", "reference", "stays"}),
            self.by: chosen.recipe_settings,
        }
