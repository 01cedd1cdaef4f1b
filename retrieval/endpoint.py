"""A language model behind an endpoint that speaks OpenAI's protocol: prompts to checked answers.

An answer is kept on disk under the model and the prompt as soon as it is there, and never asked
for again. A reply that can't be read is asked for anew, with what was wrong with it; a prompt that
gets no answer at all has None. An endpoint that is out of order is an InputError, never an answer.
"""

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from core.answers import Answers, key
from core.console import progress, say
from core.errors import InputError
from core.judging import Endpoint as Settings

BASE_URL = "OPENAI_BASE_URL"
MODEL = "OPENAI_MODEL"
NO_KEY = "none"  # what a server that wants no key is sent
BYTES_A_TOKEN = 4  # of a text, for estimates
SPARED = 3  # prompts without an answer that are no reason to stop, where some may stay so
SHOWN = 200  # characters of what a server says, in an error


class Prompt(NamedTuple):
    """What is sent: the rules, and the material that they are for."""

    rules: str
    material: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """As the protocol has them."""
        return [
            {"role": "system", "content": self.rules},
            {"role": "user", "content": self.material},
        ]


class Form(NamedTuple):
    """What a reply must be."""

    name: str
    schema: dict[str, Any]  # of the JSON object
    read: Callable[[str], Any]  # text to answer; a ValueError says what is wrong with the text
    tokens: int  # of a reply, for estimates


class Address(NamedTuple):
    """Where the model is."""

    base_url: str
    model: str
    key: str


@dataclass
class Usage:
    """What answers cost, by the server's own counts; ``remembered``: prompts not asked again."""

    remembered: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: "Usage") -> None:
        """Sums up."""
        self.remembered += other.remembered
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens

    def cost(self, settings: Settings) -> float:
        """By the prices of the settings."""
        of_input = self.input_tokens * settings.input_price
        of_output = self.output_tokens * settings.output_price
        return (of_input + of_output) / 1e6

    def described(self, settings: Settings) -> str:
        """For a line."""
        text = (
            f"{self.requests} requests, {self.remembered} answers were there, "
            f"{self.input_tokens} tokens sent and {self.output_tokens} received"
        )
        if settings.input_price or settings.output_price:
            text += f", cost {self.cost(settings):.4f}"
        return text


@dataclass
class Asked:
    """What came of a prompt; ``fault``: why there is no answer."""

    answer: Any = None
    fault: str = ""
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Unreadable(Exception):
    """A reply without an answer; the text says why."""


# ---- Where it is


def model_of(settings: Settings) -> str:
    """The model's name. Raises InputError where neither settings nor environment have one."""
    model = settings.model or os.environ.get(MODEL)
    if not model:
        raise InputError(
            f"endpoint.model: is not set, and there is no {MODEL} in the environment; "
            "name the model as the server knows it"
        )
    return model


def address_of(settings: Settings) -> Address:
    """Raises InputError for what is missing, and for a base URL that holds a password."""
    base_url = settings.base_url or os.environ.get(BASE_URL)
    if not base_url:
        raise InputError(
            f"endpoint.base_url: is not set, and there is no {BASE_URL} in the environment; "
            "name the server, up to /v1"
        )
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("endpoint.base_url: expected http:// or https:// and a host, up to /v1")
    if parts.username or parts.password or parts.query:
        raise InputError(
            "endpoint.base_url: holds a user, a password or a query, which would stand in logs; "
            "give the key by endpoint.key_file or endpoint.key_variable"
        )
    return Address(base_url, model_of(settings), key_of(settings))


def key_of(settings: Settings) -> str:
    """The key of the file or the environment; NO_KEY where there is none."""
    if settings.key_file is None:
        return os.environ.get(settings.key_variable) or NO_KEY
    path = Path(settings.key_file)
    if not path.is_file():
        raise InputError(f"endpoint.key_file: {path}: no such file")
    lines = path.read_text("utf-8").splitlines()
    if not lines or not lines[0].strip():
        raise InputError(f"endpoint.key_file: {path}: its first line is empty, expected the key")
    return lines[0].strip()


# ---- Asking


class Endpoint:
    """A model with what it has answered before, in the file ``answers``.

    Raises InputError as ``address_of`` does.
    """

    def __init__(self, settings: Settings, answers: Path):
        import openai

        self.settings = settings
        self.address = address_of(settings)
        self.answers = Answers(answers)
        self.usage = Usage()
        self.prompts = 0  # so far
        self.failed = 0  # of them, those without an answer
        self.client = openai.OpenAI(
            base_url=self.address.base_url,
            api_key=self.address.key,
            timeout=settings.timeout,
            max_retries=settings.retries,  # with growing waits, or those that Retry-After names
        )
        weakref.finalize(self, self.client.close)

    def ask(self, prompts: Sequence[Prompt], form: Form, what: str = "ask") -> list[Any]:
        """The answer to each prompt, None where there is none; equal prompts are asked once.

        Raises InputError where the endpoint fails or refuses, and where more than the share
        ``unanswered`` of all prompts so far get no answer. What was answered before that is kept.
        """
        self.prompts += len(prompts)
        keys = [answer_key(self.settings, self.address.model, prompt, form) for prompt in prompts]
        found = {name: kept["answer"] for name, kept in self.answers.get(keys).items()}
        missing = {}
        for name, prompt in zip(keys, prompts, strict=True):
            if name not in found:
                missing[name] = prompt
        self.usage.remembered += len(found)
        if missing:
            found |= self.ask_missing(missing, form, what)
        return [found.get(name) for name in keys]

    def ask_missing(self, missing: Mapping[str, Prompt], form: Form, what: str) -> dict[str, Any]:
        """Key -> answer of those that get one; ``concurrency`` requests at a time."""
        found: dict[str, Any] = {}
        faults: list[str] = []
        pool = ThreadPoolExecutor(self.settings.concurrency)
        waiting = {pool.submit(self.asked, prompt, form): name for name, prompt in missing.items()}
        try:
            with progress(None, len(missing), what, "answer") as bar:
                for future in as_completed(waiting):
                    asked = future.result()
                    self.take(waiting[future], asked, found)
                    bar.update(1)
                    if asked.fault:
                        faults.append(asked.fault)
                        self.refuse_too_many(asked.fault)
        except InputError as error:
            for future in waiting:
                future.cancel()
            pool.shutdown(wait=True)
            self.take_rest(waiting, found)
            raise InputError(
                f"{error}; {len(found)} answers of {len(missing)} are kept, "
                "run again to go on from here"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if faults:
            say(f"  note: {what}: {len(faults)} of {len(missing)} have no answer: {faults[0]}")
        return found

    def take(self, name: str, asked: Asked, found: dict[str, Any]) -> None:
        """Counts what was asked, and keeps an answer."""
        self.usage.requests += asked.requests
        self.usage.input_tokens += asked.input_tokens
        self.usage.output_tokens += asked.output_tokens
        if asked.fault or name in found:
            return
        tokens = {"input_tokens": asked.input_tokens, "output_tokens": asked.output_tokens}
        self.answers.put({name: {"answer": asked.answer, **tokens}})
        found[name] = asked.answer

    def take_rest(self, waiting: Mapping[Future, str], found: dict[str, Any]) -> None:
        """Keeps the answers of requests that were under way when another one failed."""
        for future, name in waiting.items():
            if name in found or future.cancelled() or future.exception() is not None:
                continue
            self.take(name, future.result(), found)

    def asked(self, prompt: Prompt, form: Form) -> Asked:
        """One prompt, up to ``attempts`` times, each after a reply that can't be read."""
        asked = Asked()
        messages = prompt.messages
        for _ in range(self.settings.attempts):
            asked.requests += 1
            text = None  # of the model, if it is to be told what was wrong with it
            try:
                reply = self.request(messages, form)
                count_tokens(reply, asked)
                text = text_of(reply)
                asked.answer = form.read(text)
                asked.fault = ""
                return asked
            except (Unreadable, ValueError) as error:
                asked.fault = self.clean(str(error))
            messages = prompt.messages
            if text is not None:
                messages = [*messages, *correction(text, asked.fault)]
        return asked

    def request(self, messages: list[dict[str, str]], form: Form) -> Any:
        """The server's reply. Raises Unreadable for one that is none, and InputError for an outage.

        An outage has lasted for all of the client's own retries, or is a refusal of any request.
        """
        import openai

        try:
            return self.client.chat.completions.create(
                model=self.address.model,
                messages=messages,  # type: ignore[arg-type]
                temperature=self.settings.temperature,
                max_tokens=self.settings.max_tokens,
                **structure_of(self.settings, form),
            )
        except openai.BadRequestError as error:
            if error.code == "content_filter":
                raise Unreadable("the server's filter refuses the prompt") from None
            raise InputError(self.refused(error)) from None
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as e:
            tries = self.settings.retries + 1
            raise InputError(
                f"endpoint {self.address.base_url}: no answer in {tries} tries "
                f"({self.why(e)}); is the server there? See endpoint.retries and endpoint.timeout"
            ) from None
        except openai.APIStatusError as error:
            raise InputError(self.refused(error)) from None
        except (openai.OpenAIError, ValueError):  # a body that is no JSON, or of another kind
            raise Unreadable("the server's reply is no chat completion") from None

    # ---- What is said

    def refused(self, error: Any) -> str:
        """Of a request that the server does not take."""
        return (
            f"endpoint {self.address.base_url}: refuses the request for the model "
            f"{self.address.model} ({self.why(error)}); look at endpoint.model, the key, "
            "endpoint.structure and endpoint.longest"
        )

    def why(self, error: Any) -> str:
        """The kind of an error, and the beginning of what was said with it."""
        said = " ".join(str(error).split())
        return f"{type(error).__name__}: {self.clean(said)[:SHOWN]}"

    def refuse_too_many(self, fault: str) -> None:
        """Counts a prompt without an answer. Raises InputError where there are too many of them."""
        self.failed += 1
        share = self.settings.unanswered
        may_fail = max(SPARED, share * self.prompts) if share else 0
        if self.failed > may_fail:
            raise InputError(
                f"endpoint {self.address.base_url}: {self.failed} of {self.prompts} prompts have "
                f"no answer in {self.settings.attempts} attempts, more than endpoint.unanswered="
                f"{share:g} ({fault}); try another model, or endpoint.structure"
            )

    def clean(self, text: str) -> str:
        """A text without the key, whoever put it there."""
        if self.address.key == NO_KEY:
            return text
        return text.replace(self.address.key, "[key]")


def answer_key(settings: Settings, model: str, prompt: Prompt, form: Form) -> str:
    """What an answer is kept under."""
    asked_how = settings.model_dump(include={"structure", "temperature", "max_tokens"})
    return key({"model": model, "prompt": prompt.messages, "form": form.schema, **asked_how})


def structure_of(settings: Settings, form: Form) -> dict[str, Any]:
    """The request's part that asks for JSON."""
    if settings.structure == "text":
        return {}
    if settings.structure == "json_object":
        return {"response_format": {"type": "json_object"}}
    described = {"name": form.name, "strict": True, "schema": form.schema}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def correction(text: str, fault: str) -> list[dict[str, str]]:
    """What follows a reply that can't be read."""
    asked = f"This reply cannot be used: {fault}. Reply with the JSON object alone."
    return [{"role": "assistant", "content": text}, {"role": "user", "content": asked}]


def text_of(reply: Any) -> str:
    """The model's text. Raises Unreadable for a reply that has none, or not all of it."""
    choices = getattr(reply, "choices", None)
    if not choices:
        raise Unreadable("the server's reply is no chat completion")
    choice = choices[0]
    message = choice.message
    if message is None:
        raise Unreadable("the server's reply has no message")
    if getattr(message, "refusal", None):
        raise Unreadable(f"the model refuses: {message.refusal[:SHOWN]}")
    if choice.finish_reason == "content_filter":
        raise Unreadable("the server's filter held the reply back")
    text = message.content
    if not isinstance(text, str) or not text.strip():
        raise Unreadable("the reply is empty")
    if choice.finish_reason == "length":
        raise Unreadable("the reply is cut off; see endpoint.max_tokens")
    return text


def count_tokens(reply: Any, asked: Asked) -> None:
    """Adds what the server counted; some count nothing."""
    usage = getattr(reply, "usage", None)
    asked.input_tokens += getattr(usage, "prompt_tokens", None) or 0
    asked.output_tokens += getattr(usage, "completion_tokens", None) or 0


# ---- Without asking


def remembered(
    settings: Settings, answers: Path, prompts: Sequence[Prompt], form: Form
) -> list[Any]:
    """The answers that are there, None where there is none; no server needs to be there."""
    keys = [answer_key(settings, model_of(settings), prompt, form) for prompt in prompts]
    known = Answers(answers).get(keys) if answers.is_file() else {}
    return [known[name]["answer"] if name in known else None for name in keys]


def estimate(settings: Settings, answers: Path, prompts: Sequence[Prompt], form: Form) -> Usage:
    """What asking would cost: nothing is sent, and no server needs to be there.

    Tokens are guessed by the bytes of the texts.
    """
    model = settings.model or os.environ.get(MODEL) or ""
    keys = [answer_key(settings, model, prompt, form) for prompt in prompts]
    known = Answers(answers).get(keys) if answers.is_file() else {}
    usage = Usage(remembered=len(known))
    for name, prompt in dict(zip(keys, prompts, strict=True)).items():
        if name in known:
            continue
        usage.requests += 1
        size = len(prompt.rules.encode("utf-8")) + len(prompt.material.encode("utf-8"))
        usage.input_tokens += size // BYTES_A_TOKEN
        usage.output_tokens += form.tokens
    return usage
