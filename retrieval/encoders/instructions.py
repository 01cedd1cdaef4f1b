"""An instruction set for a language model that is to sum up passages in many languages.

data-utilization-2025, 3.4: fine-tuned with it, a model writes the summaries of ``generate``. The
paper translates instructions of the Alpaca set; here each language has an instruction of its own,
and the examples are the training queries with a relevant passage.

python -m retrieval.encoders.instructions CONFIG --to FOLDER [--encoder NAME] [key=value …]

Writes LANG.jsonl, a line an example: ``instruction``, ``input`` and ``output``, as trainers of the
Alpaca kind read it. The outputs are the passages' own sentences that are most like the query; or
with ``--encoder`` the summaries that a language model has given for that encoder's negatives.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from core.artefacts import PassageStore
from core.config import from_arguments
from core.console import say
from core.encoders import Encoder
from core.errors import InputError, exit_with_message
from core.files import finished_file
from core.settings import Config
from core.task import Task
from retrieval import judges, search
from retrieval.encoders import encoders
from retrieval.encoders.negatives.mining import Mining
from retrieval.encoders.negatives.writers import SUMMARY, positives, summary, summary_prompt
from retrieval.endpoint import remembered

INSTRUCTIONS = {
    "ar": "لخّص في جملة أو جملتين ما يقوله النص عن السؤال.",
    "bn": "প্রশ্নটি সম্পর্কে অনুচ্ছেদটি কী বলে তা এক বা দুই বাক্যে সংক্ষেপে লেখো।",
    "de": "Fasse in ein oder zwei Sätzen zusammen, was der Text zu der Frage sagt.",
    "en": "Sum up in one or two sentences what the passage says about the question.",
    "es": "Resume en una o dos frases lo que el texto dice sobre la pregunta.",
    "fa": "آنچه متن دربارهٔ پرسش می‌گوید در یک یا دو جمله خلاصه کن.",
    "fi": "Tiivistä yhteen tai kahteen lauseeseen, mitä teksti sanoo kysymyksestä.",
    "fr": "Résume en une ou deux phrases ce que le texte dit à propos de la question.",
    "hi": "पाठ प्रश्न के बारे में क्या कहता है, इसे एक या दो वाक्यों में संक्षेप में लिखो।",
    "id": "Ringkaslah dalam satu atau dua kalimat apa yang dikatakan teks tentang pertanyaan itu.",
    "ja": "質問について本文が述べていることを一、二文で要約してください。",
    "ko": "질문에 대해 본문이 말하는 바를 한두 문장으로 요약하세요.",
    "ru": "Изложи в одном-двух предложениях, что текст говорит по вопросу.",
    "sw": "Eleza kwa sentensi moja au mbili kile ambacho maandishi yanasema kuhusu swali.",
    "te": "ప్రశ్న గురించి పాఠ్యం ఏమి చెబుతుందో ఒకటి రెండు వాక్యాల్లో రాయండి.",
    "th": "สรุปสิ่งที่ข้อความกล่าวถึงเกี่ยวกับคำถามในหนึ่งหรือสองประโยค",
    "yo": "Sọ ní gbólóhùn kan tàbí méjì ohun tí àyọkà náà sọ nípa ìbéèrè náà.",
    "zh": "用一两句话概括文章中与问题有关的内容。",
}
"""By language; any other has the English one, which is said."""


def run(config: Config, folder: Path, name: str | None = None) -> dict[str, int]:
    """Language -> examples that were written.

    Raises InputError for an encoder whose summaries no language model writes, and where there are
    no training topics, or no summaries yet.
    """
    task = Task(config)
    search.plan(task)
    settings = Encoder() if name is None else encoder_of(config, name)
    train = task.config.splits.train
    languages = [language for language, _ in task.pairs(train)]
    if not languages:
        raise InputError(f"{task.collection.root}: no language has {train} topics to learn from")
    encoders.make(task, [task.step(PassageStore(language)) for language in languages])
    mining = Mining(name or "instructions", settings, task, languages)
    counts = {}
    for language in languages:
        if language not in INSTRUCTIONS:
            say(f"  note: {language} has no instruction of its own, and gets the English one")
        outputs = own_sentences(mining, language)
        if name is not None:
            outputs = summaries(mining, language)
        counts[language] = write(folder / f"{language}.jsonl", language, outputs)
    if not sum(counts.values()):
        raise InputError(
            f"--encoder {name}: no language model has written summaries for its negatives yet; "
            "make them first: python -m retrieval.encoders.negatives with this configuration"
        )
    written = ", ".join(f"{count} of {language}" for language, count in counts.items())
    say(f"{folder}: examples to sum up: {written}")
    return counts


def encoder_of(config: Config, name: str) -> Encoder:
    """Whose summaries are asked for."""
    known = config.retrieval.encoders
    writing = [
        other
        for other, own in known.items()
        if "generate" in own.negatives and own.generate.by == "endpoint"
    ]
    if name not in writing:
        raise InputError(
            f"--encoder: found {name!r}, expected one whose generate is by=endpoint: "
            f"{', '.join(writing) or 'there is none'}"
        )
    return known[name]


Example = tuple[str, str, str]
"""A query, a passage that is relevant to it, and what that says about it."""


def own_sentences(mining: Mining, language: str) -> Iterator[Example]:
    """Of all training queries, the passage's own words."""
    for query, passage in positives(mining, language, list(mining.relevant(language))).values():
        yield query, passage, summary(query, passage)


def summaries(mining: Mining, language: str) -> Iterator[Example]:
    """Of those for which a language model has given a summary."""
    settings = mining.settings.generate.endpoint
    material = list(positives(mining, language, list(mining.relevant(language))).values())
    prompts = [summary_prompt(query, passage[: settings.longest]) for query, passage in material]
    answers = remembered(settings, mining.answers / judges.ENDPOINT, prompts, SUMMARY)
    for (query, passage), answer in zip(material, answers, strict=True):
        if answer is not None:
            yield query, passage, answer


def write(path: Path, language: str, examples: Iterator[Example]) -> int:
    """A line of JSON an example; how many there are."""
    instruction = INSTRUCTIONS.get(language, INSTRUCTIONS["en"])
    count = 0
    with finished_file(path) as file:
        for query, passage, output in examples:
            line = {"instruction": instruction, "input": f"{query}\n\n{passage}", "output": output}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def main() -> None:
    """The command line."""
    config, options = from_arguments("an instruction set of summaries", add_options)
    run(config, options.to, options.encoder)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Beside the configuration."""
    parser.add_argument("--to", type=Path, required=True, help="the folder that is written to")
    parser.add_argument("--encoder", help="whose summaries by a language model are taken")


if __name__ == "__main__":
    exit_with_message(main)
