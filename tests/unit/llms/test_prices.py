"""What answers cost: a wrong figure would be believed, and a guess is a wrong figure."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from genai_prices import Usage as Listed
from genai_prices import calc_price

from airflow_distil.conversation import Answer, Usage
from airflow_distil.llms import OpenAILLM, prices
from airflow_distil.llms.prices import cost_of, price_of

MILLION = 1_000_000


def llm(model="gpt-4o-mini", base_url=None, **options):
    return OpenAILLM(model, base_url=base_url, api_key="sk-any", **options)


def listed(model, url="https://api.openai.com/v1", **usage):
    """What the library itself charges, in dollars."""
    return float(calc_price(Listed(**usage), model, provider_api_url=url).total_price)


class TestProvider:
    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:8000/v1",
            "http://localhost:11434/v1",
            "http://vllm/v1",
            "http://10.0.0.7:8000/v1",
            "https://llm.internal.example/v1",
            "https://example.com/api.openai.com/v1",
        ],
    )
    def test_is_known_by_its_url_alone(self, url):
        """A server on this machine that calls its model gpt-4o was billed at OpenAI's prices."""
        assert price_of(llm("gpt-4o", url), "gpt-4o") is None
        assert cost_of(llm("gpt-4o", url), Answer(model="gpt-4o", usage=Usage(10, 2))) is None

    @pytest.mark.parametrize("url", [None, "https://api.openai.com/v1", "https://API.OpenAI.com/v1/"])
    def test_openai_is_where_the_client_goes_by_itself(self, url):
        """Without a base URL, or with a capital letter in it, the commonest endpoint of all had no price."""
        assert cost_of(llm(base_url=url), Answer(usage=Usage(MILLION, MILLION))) == pytest.approx(
            listed("gpt-4o-mini", input_tokens=MILLION, output_tokens=MILLION)
        )

    def test_a_model_that_it_does_not_list_has_no_price(self):
        """A made-up name was priced as the nearest real one."""
        assert price_of(llm("nobody-ever-sold-this"), "nor-this") is None

    def test_no_llm_without_an_endpoint_has_a_list_price(self):
        """A model in this process has no provider."""

        class Own:
            model, parameters, input_price, output_price = "gpt-4o", {}, None, None

        assert price_of(Own()) is None

    def test_a_server_near_by_does_not_load_the_list(self):
        """Half a second and 20 MB for each run on a local model, which is on no list."""
        code = (
            "import sys; from airflow_distil.llms import OpenAILLM; from airflow_distil.llms.prices import price_of;"
            "price_of(OpenAILLM('gpt-4o', base_url='http://10.0.0.7/v1'));"
            "price_of(OpenAILLM('gpt-4o', base_url='https://api.openai.com/v1', input_price=1, output_price=1, api_key='k'));"
            "sys.exit('genai_prices' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_nothing_is_fetched(self, monkeypatch):
        """A worker without a way out hung at the first answer."""
        prices._price.cache_clear()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it went to the network"))
        monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it went to the network"))
        assert price_of(llm()) is not None


class TestModel:
    def test_the_reported_name_wins(self):
        """An alias has today's price; the dated version that answered has its own."""
        asked, reported = price_of(llm("gpt-4o")), price_of(llm("gpt-4o"), "gpt-4o-2024-05-13")
        assert (asked.input, reported.input) == (
            pytest.approx(listed("gpt-4o", input_tokens=MILLION) / MILLION),
            pytest.approx(listed("gpt-4o-2024-05-13", input_tokens=MILLION) / MILLION),
        )
        assert asked != reported

    def test_the_asked_one_does_where_the_reported_one_is_not_listed(self):
        """Some providers report a path of theirs instead of a name."""
        assert price_of(llm("gpt-4o"), "snapshots/7f3a") == price_of(llm("gpt-4o"))

    def test_a_deployment_of_azure_is_not_what_it_is_called(self):
        """A deployment "gpt-4o" may run anything; the model that it reports decides, or if that is not listed, nothing."""
        azure = llm("gpt-4o", "https://my.openai.azure.com", backend="azure", api_version="2024-10-21")
        assert price_of(azure, "gpt-4o-mini-2024-07-18").input == pytest.approx(0.15e-6)
        assert price_of(azure, "gpt-unheard-of") is None
        assert price_of(azure) is not None  # an estimate, before it has said what it is


class TestConnection:
    def test_its_prices_win(self):
        """A discount that was negotiated did not show in the bill."""
        assert cost_of(llm(input_price=1.0, output_price=2.0), Answer(usage=Usage(MILLION, MILLION, 500_000))) == 3.0

    def test_one_of_them_leaves_the_other_to_the_list(self):
        """To correct one price, both had to be known."""
        base = price_of(llm())
        assert price_of(llm(input_price=1.0)).output == base.output
        assert price_of(llm(output_price=1.0)).input == base.input
        assert price_of(llm(output_price=1.0)).output == 1e-6

    def test_one_of_them_without_a_list_is_not_enough(self):
        """Half a price is no price, unless there is nothing of the other half."""
        half = llm("own", "http://127.0.0.1:8000/v1", input_price=1.0)
        assert cost_of(half, Answer(usage=Usage(MILLION, 1))) is None
        assert cost_of(half, Answer(usage=Usage(MILLION, 0))) == 1.0

    def test_free_is_a_price(self):
        """A local server whose prices are set to 0 costs nothing, which is not unknown."""
        assert (
            cost_of(llm("own", "http://127.0.0.1:8000/v1", input_price=0.0, output_price=0.0), Answer(usage=Usage(5, 5))) == 0
        )


class TestTokens:
    @pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o", "gpt-5", "gpt-5.6-luna", "text-embedding-3-small"])
    @pytest.mark.parametrize("usage", [(1000, 0, 0, 0), (1000, 0, 400, 0), (1000, 0, 1000, 0), (3000, 0, 500, 700)])
    def test_cost_what_the_library_charges(self, model, usage):
        """Cached input was charged in full, or twice, or at a price of nothing where the model has none of its own."""
        tokens_in, _, cached, written = usage
        tokens_out = 0 if "embedding" in model else 70
        ours = cost_of(llm(model), Answer(usage=Usage(tokens_in, tokens_out, cached, written)))
        details = {"cache_read_tokens": cached, "cache_write_tokens": written}
        assert ours == pytest.approx(listed(model, input_tokens=tokens_in, output_tokens=tokens_out, **details))

    def test_a_long_call_has_the_price_of_long_calls(self):
        """Beyond 200,000 tokens all tokens of a call cost more, and of `n` answers each has but a share of them."""
        url, model = "https://generativelanguage.googleapis.com/v1beta/openai/", "gemini-2.5-pro"
        gemini = llm(model, url)
        for tokens in (200_000, 200_001, 300_000):
            assert cost_of(gemini, Answer(usage=Usage(tokens, 500))) == pytest.approx(
                listed(model, url, input_tokens=tokens, output_tokens=500)
            )
        shared = [cost_of(gemini, Answer(usage=Usage(150_000, 250)), sharing=2) for _ in range(2)]
        assert sum(shared) == pytest.approx(listed(model, url, input_tokens=300_000, output_tokens=500))

    def test_a_price_per_call_is_shared_too(self):
        """A search model charges for each call; its answers must add up to that."""
        url, model = "https://api.perplexity.ai", "sonar"
        sonar = llm(model, url)
        assert price_of(sonar).call > 0
        shared = [cost_of(sonar, Answer(usage=Usage(10, 10)), sharing=4) for _ in range(4)]
        assert sum(shared) == pytest.approx(listed(model, url, input_tokens=40, output_tokens=40))

    def test_the_service_tier_that_is_asked_for_has_its_own_price(self):
        """Flex costs half, priority twice; the bill said neither."""
        flex = llm("gpt-5", generation_kwargs={"service_tier": "flex"})
        assert price_of(flex).input == pytest.approx(price_of(llm("gpt-5")).input / 2)

    @pytest.mark.parametrize("usage", [Usage(), Usage(5), Usage(None, 5)])
    def test_uncounted_cost_nothing_that_is_known(self, usage):
        """An endpoint without `usage` is not free."""
        assert cost_of(llm(), Answer(usage=usage)) is None

    def test_more_cached_than_there_is_does_not_pay_back(self):
        """A server that counts wrongly made a negative bill."""
        assert cost_of(llm(), Answer(usage=Usage(10, 0, 10**9, 10**9))) >= 0


def test_a_run_looks_a_price_up_once(monkeypatch):
    """A look-up takes 50 microseconds, as much as all else that is done for a row."""
    prices._price.cache_clear()
    monkeypatch.setattr(prices.time, "time", lambda: 1e9)
    for _ in range(100):
        cost_of(llm(), Answer(model="gpt-4o-mini-2024-07-18", usage=Usage(1, 1)))
    assert prices._price.cache_info().misses == 1


def test_prices_of_the_night_are_looked_up_when_it_is_night(monkeypatch):
    """A run that began by day was billed by day's prices until the morning."""
    now = [1e9]
    monkeypatch.setattr(prices.time, "time", lambda: now[0])
    prices._price.cache_clear()
    price_of(llm())
    now[0] += prices.LOOKED_UP_EVERY
    price_of(llm())
    assert prices._price.cache_info().misses == 2
