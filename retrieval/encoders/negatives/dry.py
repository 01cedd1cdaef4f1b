"""What language models would be asked for negatives, and what that would cost: nothing is asked.

Tokens are guessed by the texts' bytes. What is asked about replies that are not there yet, such as
a query that is to be written from a summary, is guessed by a typical reply.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.console import say
from core.encoders import Encoder
from core.errors import InputError
from core.task import Task
from retrieval import judges, search
from retrieval.encoders import encoders
from retrieval.encoders.negatives import NEGATIVES
from retrieval.encoders.negatives.generate import count
from retrieval.encoders.negatives.judge import in_blocks, questions_of
from retrieval.encoders.negatives.mining import Link, Mining, mine
from retrieval.encoders.negatives.writers import ASK, QUERY, SUMMARY, positives, summary_prompt
from retrieval.endpoint import Prompt, Usage, estimate
from retrieval.judges.language_model import would_cost


def dry_run(task: Task, names: Sequence[str]) -> None:
    """One line an encoder, link and language; ends with all together.

    Makes the runs that chains read, and runs links before the first language model's. A judge that
    is a cross-encoder costs time alone, and judges. Raises InputError where nothing would be asked.
    """
    total, cost = Usage(), 0.0
    asked: set[str] = set()
    for name in names:
        encoder = task.config.retrieval.encoders[name]
        if not asks(encoder):
            continue
        mining = encoders.mining_of(task, search.plan(task), name, ())
        encoders.make(task, list(mining.runs.values()))
        with tempfile.TemporaryDirectory() as folder:
            for link, usage in of_chain(replace(mining, folders=[]), Path(folder)):
                own_cost = usage.cost(getattr(encoder, link).endpoint)
                say(f"  {name}: {link}: {described(usage, own_cost)}")
                total.add(usage)
                cost += own_cost
                asked.add(name)
    if not asked:
        raise InputError(
            "--dry-run: no encoder's judge or generate is by=endpoint, so nothing would be asked"
        )
    say(f"all together, without what two encoders ask alike: at most {described(total, cost)}")


def asks(encoder: Encoder) -> bool:
    """Whether a chain asks a language model for anything."""
    by_judge = "judge" in encoder.negatives and encoder.judge.by == "endpoint"
    by_writer = "generate" in encoder.negatives and encoder.generate.by == "endpoint"
    return by_judge or by_writer


def of_chain(mining: Mining, folder: Path) -> list[tuple[str, Usage]]:
    """(link, what it would cost), of the links that ask; ``folder``: for the links before them."""
    encoder = mining.settings
    chain: dict[str, Link] = {}
    for link in encoder.negatives:
        if link == "judge" and encoder.judge.by == "endpoint":
            break
        if link == "generate":
            break
        chain[link] = NEGATIVES[link]
    mine(mining, chain, folder)
    found = []
    is_judged = "judge" in encoder.negatives and "judge" not in chain
    if is_judged:
        found.append(("judge", of_judge(mining)))
    if "generate" in encoder.negatives and encoder.generate.by == "endpoint":
        found.append(("generate", of_writer(mining, is_judged)))
    return found


def of_judge(mining: Mining) -> Usage:
    """Of all candidates that are there, every one of which is read; shows one prompt."""
    settings = mining.settings.judge
    total = Usage()
    for language in mining.languages:
        before = mining.before(language)
        assert before is not None, "a chain begins with a source"
        for pools in in_blocks(mining, language, before):
            questions = list(questions_of(mining, language, pools).values())
            answers = mining.answers / judges.ENDPOINT
            usage, first = would_cost(settings.endpoint, settings.reference, answers, questions)
            if first is not None and not total.requests + total.remembered:
                say(f"  {mining.name}: judge: the first prompt:\n{shown(first)}")
            total.add(usage)
    return total


def of_writer(mining: Mining, before_judging: bool) -> Usage:
    """Of queries with too few candidates; ``before_judging``: of all, as any may lose too many."""
    settings = mining.settings.generate
    total = Usage()
    for language in mining.languages:
        before = mining.before(language)
        assert before is not None, "a chain begins with a source"
        short = []
        for qid in mining.relevant(language):
            if before_judging or count(before.of(qid)) < settings.number:
                short.append(qid)
        longest = settings.endpoint.longest
        prompts = []
        for query, passage in positives(mining, language, short).values():
            prompts.append(summary_prompt(query, passage[:longest]))
        answers = mining.answers / judges.ENDPOINT
        summaries = estimate(settings.endpoint, answers, prompts, SUMMARY)
        total.add(summaries)
        # the summaries are not there yet, so all their queries are to be asked for
        total.requests += summaries.requests
        total.input_tokens += summaries.requests * (len(ASK) // 4 + SUMMARY.tokens)
        total.output_tokens += summaries.requests * QUERY.tokens
    return total


def shown(prompt: Prompt) -> str:
    """What would be sent, indented."""
    lines = f"{prompt.rules}\n\n{prompt.material}".splitlines()
    return "\n".join(f"    {line}" for line in lines)


def described(usage: Usage, cost: float) -> str:
    """For a line."""
    return (
        f"{usage.requests} requests, {usage.remembered} answers are there, about "
        f"{usage.input_tokens} tokens sent and {usage.output_tokens} received, cost {cost:.4f}"
    )
