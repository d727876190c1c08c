"""What a server tells over HTTP, where it tells it oddly."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from quark_eagle.serving import http_facts
from quark_eagle.serving.http_facts import facts_over_http

PAGE = "vllm:spec_decode_num_accepted_tokens_per_pos_total"


@pytest.mark.parametrize(
    ("labels", "k"),
    [(['position="0"', 'position="1"'], 2), (['engine="0"'], None), (['position="0"', 'engine="0"'], None), ([], None)],
)
def test_k_is_the_number_of_positions_where_all_have_one(
    labels: list[str], k: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "".join(f"{PAGE}{{{label}}} 1\n" for label in labels)
    monkeypatch.setattr(http_facts, "ask", lambda url, path: SimpleNamespace(text=page))
    monkeypatch.setattr(http_facts, "ask_json", lambda url, path, seconds=0.0: {})
    assert facts_over_http("http://there").num_speculative_tokens == k
