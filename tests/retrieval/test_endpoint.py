"""The endpoint against a server on the loopback that misbehaves in each way."""

import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import InputError
from core.judging import Endpoint as Settings
from retrieval.endpoint import Endpoint, Form, Prompt, address_of, estimate
from retrieval.judges.language_model import FORM
from tests import loopback

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def settings(server=None, **more):
    values = {"model": "toy", "retries": 1, "attempts": 2, "timeout": 5.0, **more}
    if server is not None:
        values["base_url"] = server.url
    return Settings(**values)


def endpoint(server, tmp_path, **more):
    return Endpoint(settings(server, **more), tmp_path / "answers.sqlite")


def prompts(*names):
    return [Prompt("rate", json.dumps({"candidate": name})) for name in names]


def asked(server):
    return [material["candidate"] for material in server.materials()]


def test_an_answer_is_asked_for_once(tmp_path):
    server = loopback.Server(lambda m: loopback.rates(2, "abc".index(m["candidate"])))
    with server.running():
        own = endpoint(server, tmp_path, concurrency=1, input_price=1.0, output_price=10.0)
        assert own.ask(prompts("a", "c", "a", "b"), FORM) == [0, 2, 0, 1]
        assert asked(server) == ["a", "c", "b"]
        again = endpoint(server, tmp_path)
        assert again.ask(prompts("b", "a"), FORM) == [1, 0] and len(server.requests) == 3
        assert endpoint(server, tmp_path, model="other").ask(prompts("b"), FORM) == [1]
        assert len(server.requests) == 4, "another model is asked by itself"
    assert own.usage.described(own.settings) == (
        "3 requests, 0 answers were there, 300 tokens sent and 21 received, cost 0.0005"
    )
    assert again.usage.described(again.settings).startswith("0 requests, 2 answers were there")


def test_what_is_sent(tmp_path):
    server = loopback.Server()
    with server.running():
        endpoint(server, tmp_path, max_tokens=30).ask(prompts("a"), FORM)
        endpoint(server, tmp_path, structure="json_object").ask(prompts("a"), FORM)
        endpoint(server, tmp_path, structure="text").ask(prompts("a"), FORM)
    (headers, first), (_, second), (_, third) = server.requests
    assert first["messages"] == [
        {"role": "system", "content": "rate"},
        {"role": "user", "content": '{"candidate": "a"}'},
    ]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("toy", 0.0, 30)
    assert first["response_format"]["json_schema"]["schema"]["required"] == [
        "accuracy",
        "completeness",
    ]
    assert second["response_format"] == {"type": "json_object"}
    assert "response_format" not in third
    assert headers["authorization"] == "Bearer none", "a server without a key"


@pytest.mark.parametrize(
    "bad, fault",
    [
        (loopback.says("Sure! I rate it 2."), "it is not JSON"),
        (loopback.says('{"accuracy": 2, "comple'), "it is not JSON"),
        (loopback.says('{"accuracy": 2}'), "no object with the keys accuracy and completeness"),
        (loopback.says('{"accuracy": 3, "completeness": 0}'), "accuracy is not 0, 1 or 2"),
        (loopback.says('{"accuracy": true, "completeness": 0}'), "accuracy is not 0, 1 or 2"),
        (loopback.says("[2, 2]"), "no object with the keys"),
        (loopback.says(""), "the reply is empty"),
        (loopback.says('{"accuracy": 2,', finish="length"), "the reply is cut off"),
        (loopback.says(None, refusal="I cannot help"), "the model refuses: I cannot help"),
        (loopback.says("", finish="content_filter"), "filter held the reply back"),
        (loopback.fails(400, code="content_filter"), "the server's filter refuses the prompt"),
        (loopback.raw(b'{"id": "1", "choi'), "the server's reply is no chat completion"),
        (loopback.raw(b"[]"), "the server's reply is no chat completion"),
        (loopback.raw(b'{"choices": []}'), "the server's reply is no chat completion"),
        (loopback.raw(b'{"choices": [{}]}'), "the server's reply"),
    ],
)
def test_a_reply_that_is_none_is_asked_for_again_and_then_is_no_answer(tmp_path, bad, fault):
    server = loopback.Server()
    with server.running():
        own = endpoint(server, tmp_path, unanswered=1.0)
        server.script = [bad, loopback.rates(2, 1)]
        assert own.ask(prompts("a"), FORM) == [1] and len(server.requests) == 2
        server.script = [bad, bad]
        assert own.ask(prompts("b"), FORM) == [None]
        assert own.ask(prompts("b"), FORM) == [0], "no verdict is not kept: it is asked again"
        server.script = [bad, bad]
        with pytest.raises(
            InputError,
            match=r"1 of 1 prompts have no answer in 2 attempts, more than endpoint.unanswered=0 "
            rf"\(.*{re.escape(fault)}.*\); try another model, or endpoint.structure; "
            "0 answers of 1 are kept",
        ):
            endpoint(server, tmp_path, unanswered=0.0).ask(prompts("c"), FORM)


def test_the_model_is_told_what_was_wrong(tmp_path):
    server = loopback.Server()
    with server.running():
        server.script = [loopback.says("two")]
        endpoint(server, tmp_path).ask(prompts("a"), FORM)
    _, (_, second) = server.requests
    assert [message["role"] for message in second["messages"]] == [
        "system", "user", "assistant", "user"
    ]  # fmt: skip
    assert second["messages"][2]["content"] == "two"
    assert "it is not JSON" in second["messages"][3]["content"]


def test_a_share_may_stay_without_an_answer(tmp_path, capsys):
    server = loopback.Server(
        lambda m: loopback.says("?") if m["candidate"] in ("a", "b") else loopback.rates(1, 1)
    )
    with server.running():
        found = endpoint(server, tmp_path, unanswered=0.5).ask(prompts("a", "b", "c", "d"), FORM)
        assert found == [None, None, 1, 1]
        assert "note: ask: 2 of 4 have no answer: it is not JSON" in capsys.readouterr().out
        few = endpoint(server, tmp_path, unanswered=0.05, concurrency=1)
        assert few.ask(prompts("a", "b"), FORM) == [None, None], "a few are no reason to stop"
        assert few.ask(prompts("a", "e"), FORM) == [None, 1]
        with pytest.raises(InputError, match="4 of 6 prompts have no answer in 2 attempts"):
            few.ask(prompts("b", "f"), FORM)
        many = endpoint(server, tmp_path, unanswered=0.05)
        names = [f"c{number}" for number in range(98)]
        assert many.ask(prompts("a", "b", *names), FORM)[:2] == [None, None]
        assert many.ask(prompts("a", "b", "a"), FORM) == [None, None, None], "4 of 103"


def test_429_waits_as_long_as_the_server_says(tmp_path):
    server = loopback.Server()
    with server.running():
        server.script = [loopback.fails(429, headers=[("Retry-After", "1.2")])]
        begun = time.monotonic()
        assert endpoint(server, tmp_path).ask(prompts("a"), FORM) == [0]
        assert 1.2 <= time.monotonic() - begun < 3 and len(server.requests) == 2


@pytest.mark.parametrize(
    "trouble, said",
    [
        (loopback.fails(429, "slow down", [("Retry-After", "0.05")]), "RateLimitError: .*slow"),
        (loopback.fails(503, "overloaded", [("Retry-After", "0.05")]), "InternalServerError"),
        (loopback.breaks_off, "APIConnectionError"),
        (loopback.sleeps(1.0, loopback.rates(0, 0)), "APITimeoutError"),
    ],
)
def test_an_outage_is_an_error_and_never_an_answer(tmp_path, trouble, said):
    server = loopback.Server()
    with server.running():
        server.script = [trouble]
        assert endpoint(server, tmp_path, timeout=0.3).ask(prompts("a"), FORM) == [0]
        server.script = [trouble, trouble]
        with pytest.raises(
            InputError,
            match=rf"127.0.0.1:\d+/v1: no answer in 2 tries \({said}.*\); is the server there.*; "
            "0 answers of 1 are kept, run again to go on from here",
        ):
            endpoint(server, tmp_path, timeout=0.3).ask(prompts("b"), FORM)
        assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refused_request_is_not_tried_again(tmp_path, status):
    server = loopback.Server(lambda m: loopback.fails(status, "not like this"))
    with server.running():
        with pytest.raises(
            InputError, match="refuses the request for the model toy .*not like this.*the key"
        ):
            endpoint(server, tmp_path).ask(prompts("a"), FORM)
        assert len(server.requests) == 1


def test_a_server_that_dies_and_comes_back(tmp_path):
    """What was judged before it died is not judged again."""
    names = [str(number) for number in range(30)]
    server = loopback.Server()
    with server.running():
        port = server.http.server_port
        dead = [loopback.fails(500, headers=[("Retry-After", "0.01")])] * 50
        server.script = [loopback.rates(1, 2)] * 12 + dead
        with pytest.raises(InputError, match="12 answers of 30 are kept, run again to go on"):
            endpoint(server, tmp_path, concurrency=3).ask(prompts(*names), FORM)
    with pytest.raises(InputError, match="APIConnectionError.*0 answers of 18 are kept"):
        endpoint(server, tmp_path).ask(prompts(*names), FORM)  # nobody listens
    done = set(asked(server)[:12])
    server.requests.clear()
    server.script.clear()
    with server.running(port):
        found = endpoint(server, tmp_path).ask(prompts(*names), FORM)
    assert len(asked(server)) == 18 and done.isdisjoint(asked(server))
    assert [found[names.index(name)] for name in done] == [1] * 12 and sum(found) == 12


def test_a_killed_run_has_kept_what_it_was_told(tmp_path):
    server = loopback.Server(
        lambda m: loopback.rates(1, 1) if m["candidate"] < "4" else loopback.sleeps(9, loopback.raw)
    )
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from core.judging import Endpoint as Settings\n"
        "from retrieval.endpoint import Endpoint, Prompt\n"
        "from retrieval.judges.language_model import FORM\n"
        "own = Endpoint(Settings(model='toy', base_url=sys.argv[1], concurrency=1, timeout=60),\n"
        "               Path(sys.argv[2]))\n"
        "own.ask([Prompt('rate', json.dumps({'candidate': c})) for c in '01234'], FORM)\n"
    )
    with server.running():
        answers = str(tmp_path / "answers.sqlite")
        root = Path(__file__).parents[2]
        killed = subprocess.Popen([sys.executable, "-c", code, server.url, answers], cwd=root)
        while len(server.requests) < 5:
            assert killed.poll() is None
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        server.requests.clear()
        assert endpoint(server, tmp_path).ask(prompts(*"0123"), FORM) == [1] * 4
    assert server.requests == []


def test_concurrency_is_bounded(tmp_path):
    server = loopback.Server(lambda m: loopback.sleeps(0.05, loopback.rates(0, 0)))
    with server.running():
        names = [str(number) for number in range(20)]
        endpoint(server, tmp_path, concurrency=3).ask(prompts(*names), FORM)
    assert 2 <= server.most_at_once <= 3


# ---- The key


@pytest.mark.parametrize("where", ["variable", "file"])
def test_the_key_is_sent_and_seen_nowhere(tmp_path, monkeypatch, capsys, caplog, where):
    caplog.set_level(logging.DEBUG)
    more = {}
    if where == "variable":
        monkeypatch.setenv("MY_KEY", KEY)
        more["key_variable"] = "MY_KEY"
    else:
        (tmp_path / "key").write_text(KEY + "\n")
        more["key_file"] = str(tmp_path / "key")
    server = loopback.Server()
    leaky = loopback.fails(401, f"Incorrect API key provided: {KEY}")
    with server.running():
        own = endpoint(server, tmp_path, unanswered=1.0, **more)
        own.ask(prompts("a"), FORM)
        assert server.requests[0][0]["authorization"] == f"Bearer {KEY}"
        server.script = [leaky]
        with pytest.raises(InputError) as error:
            own.ask(prompts("b"), FORM)
        server.script = [loopback.says(f"your key is {KEY}")] * 2
        own.ask(prompts("c"), FORM)
        server.script = [loopback.says(None, refusal=f"no, {KEY}")] * 2
        own.ask(prompts("d"), FORM)
    assert "[key]" in str(error.value) and KEY not in str(error.value)
    assert error.value.__cause__ is None and error.value.__suppress_context__
    out = capsys.readouterr()
    assert "no, [key]" in out.out and KEY not in out.out + out.err + caplog.text
    assert KEY not in own.settings.model_dump_json() + repr(own.settings)
    for path in tmp_path.iterdir():
        assert path.name == "key" or KEY.encode() not in path.read_bytes(), path


def test_where_the_model_is(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="endpoint.base_url: is not set, and there is no OPENAI"):
        address_of(settings())
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert address_of(settings()) == ("http://here:1/v1", "toy", "k")
    with pytest.raises(InputError, match="endpoint.model: is not set, and there is no OPENAI_MOD"):
        address_of(settings(model=None))
    monkeypatch.setenv("OPENAI_MODEL", "its own")
    assert address_of(settings(model=None)).model == "its own"
    for url in ("http://me:pass@here/v1", "http://here/v1?key=pass"):
        with pytest.raises(InputError, match="holds a user, a password or a query") as error:
            address_of(settings(base_url=url))
        assert "pass@" not in str(error.value) and "key=pass" not in str(error.value)
    with pytest.raises(InputError, match="expected http:// or https:// and a host"):
        address_of(settings(base_url="here:1/v1"))
    with pytest.raises(InputError, match="key_file: .*nowhere: no such file"):
        address_of(settings(key_file=str(tmp_path / "nowhere")))
    (tmp_path / "key").write_text("\nsecond\n")
    with pytest.raises(InputError, match="first line is empty, expected the key"):
        address_of(settings(key_file=str(tmp_path / "key")))


# ---- Estimates


def test_an_estimate_sends_nothing(tmp_path):
    server = loopback.Server()
    with server.running():
        endpoint(server, tmp_path).ask(prompts("a"), FORM)
        known = tmp_path / "answers.sqlite"
        own = settings(input_price=1.0, output_price=100.0)
        found = estimate(own, known, prompts("a", "b", "b", "c"), FORM)
        assert len(server.requests) == 1
    # "rate" and {"candidate": "b"} are 4 + 18 bytes, 5 tokens
    assert (found.remembered, found.requests, found.input_tokens) == (1, 2, 10)
    assert found.output_tokens == 40 and found.cost(own) == pytest.approx(0.00401)
    nowhere = tmp_path / "nothing.sqlite"
    assert estimate(own, nowhere, prompts("a"), FORM).requests == 1 and not nowhere.exists()


def the_word(text):
    try:
        return json.loads(text)["word"]
    except KeyError:
        raise ValueError("it has no word") from None


def test_a_form_of_ones_own(tmp_path):
    form = Form("word", {"type": "object"}, the_word, 3)
    server = loopback.Server(lambda m: loopback.says('{"word": "ja"}'))
    with server.running():
        assert endpoint(server, tmp_path).ask(prompts("a"), form) == ["ja"]
        server.script = [loopback.says("{}")] * 2
        assert endpoint(server, tmp_path).ask(prompts("b"), form) == [None]
