from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from quark_eagle.documents.parity import ParityReport
from quark_eagle.errors import TraceMismatchError, UsageError
from quark_eagle.parity.acceptance import walk
from quark_eagle.parity.compare import Comparison
from quark_eagle.parity.contexts import show_contexts
from quark_eagle.parity.divergence import (
    Divergence,
    head_states,
    kl_divergence,
    log_probabilities,
    probabilities_of,
    same_vocabulary,
)
from quark_eagle.parity.measured_with import require_measured
from quark_eagle.parity.replay import DEAD, replay
from tests.tiny import write_tensors, write_tiny_draft

Pair = tuple[Path, Path]


def damaged(draft: Path, directory: Path, noise: float = 0.3) -> Path:
    """The same draft with a noisy output projection: it loses some proposals and keeps its vocabulary."""
    from safetensors.torch import load_file

    shutil.copytree(draft, directory)
    tensors = load_file(draft / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    head = tensors["lm_head.weight"]
    tensors["lm_head.weight"] = head + (noise * torch.randn(head.shape, generator=generator) * head.std()).to(head)
    write_tensors(directory, tensors)
    return directory


@pytest.fixture(scope="module")
def comparison(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    other = damaged(pair[0], tmp_path_factory.mktemp("damaged") / "draft", noise=0.5)
    return Comparison.open(pair[0], other, pair[1])


@pytest.fixture(scope="module")
def measured(comparison: Comparison) -> ParityReport:
    return comparison.run()


def test_a_place_is_where_the_baseline_was_accepted_and_the_candidate_was_not(
    comparison: Comparison, measured: ParityReport
) -> None:
    found = show_contexts(comparison, measured.prompts)
    places = [(prompt, place) for prompt in found.prompts for place in prompt.places]
    assert places, "the damaged draft loses nothing: the test shows nothing"
    for prompt, place in places:
        traced = next(one for one in comparison.trace if one.info.id == prompt.id)
        arms = [replay(draft, traced, 3) for draft in comparison.drafts]
        start, at = place.answer_token - place.position - 1, traced.info.prompt_length + place.answer_token
        assert int(arms[0].matched[start]) > place.position == int(arms[1].matched[start])
        assert start in {s for s, _ in walk(arms[0].matched, 3)}
        assert place.baseline_token_id == int(traced.token_ids[at]) != place.candidate_token_id
        assert list(place.context_token_ids) == traced.token_ids[max(0, at - 32) : at].tolist()
        states = [
            head_states(draft, traced, torch.tensor([start]), torch.tensor([place.position]))
            for draft in comparison.drafts
        ]
        ((before, _),) = log_probabilities(comparison.drafts, (states[0], states[1]))
        given = probabilities_of(comparison.drafts[0], before, torch.tensor([place.baseline_token_id]))
        assert [place.baseline_probability] == pytest.approx(given)


def test_every_lost_round_is_counted_though_only_the_first_places_are_shown(
    comparison: Comparison, measured: ParityReport
) -> None:
    for prompt, traced in zip(show_contexts(comparison, measured.prompts).prompts, comparison.trace, strict=True):
        first, second = (replay(draft, traced, 3).accepted.tolist() for draft in comparison.drafts)
        rounds = walk(first, 3)
        assert prompt.num_drafts == len(rounds)
        assert prompt.num_drafts_lost == sum(min(second[start], 3) < length for start, length in rounds)
        assert prompt.num_drafts_gained == sum(min(second[start], 3) > length for start, length in rounds)
        assert len(prompt.places) == min(3, prompt.num_drafts_lost)


def test_head_states_at_every_live_step_propose_what_replay_proposed(comparison: Comparison) -> None:
    draft, k = comparison.drafts[0], 4
    longest = 0
    for traced in comparison.trace:
        proposals = replay(draft, traced, k).proposals
        assert proposals is not None
        starts, steps = (proposals != DEAD).nonzero(as_tuple=True)
        longest = max(longest, int(steps.max()))
        states = head_states(draft, traced, starts, steps)
        assert torch.equal(draft.propose(states), proposals[starts, steps])
    assert longest >= 2, "no chain is long enough: the test shows nothing"


def test_divergence_is_torchs_and_zero_of_a_draft_with_itself(comparison: Comparison) -> None:
    traced = comparison.trace.prompt(0)
    starts = torch.arange(8)
    states = [head_states(draft, traced, starts, torch.zeros_like(starts)) for draft in comparison.drafts]
    ((first, second),) = log_probabilities(comparison.drafts, (states[0], states[1]))
    theirs = torch.nn.functional.kl_div(second, first, log_target=True, reduction="none").sum(dim=-1)
    assert torch.allclose(kl_divergence(first, second), theirs, atol=1e-6)
    assert (kl_divergence(first, second) > 0).all()
    ((same, again),) = log_probabilities((comparison.drafts[0], comparison.drafts[0]), (states[0], states[0]))
    assert kl_divergence(same, again).tolist() == [0.0] * 8


def test_a_probability_is_of_the_target_token_and_zero_outside_the_vocabulary(comparison: Comparison) -> None:
    draft = comparison.drafts[0]
    offsets = draft.weights["d2t"]
    inside = torch.arange(len(offsets)) + offsets
    outside = next(token for token in range(256) if token not in set(inside.tolist()))
    logs = torch.arange(1.0, len(offsets) + 1).log_softmax(dim=0).expand(2, -1)
    assert probabilities_of(draft, logs, torch.tensor([int(inside[3]), outside])) == pytest.approx(
        [float(logs[0, 3].exp()), 0.0]
    )


def test_a_draft_beside_itself_agrees_everywhere(pair: Pair) -> None:
    same = Comparison.open(pair[0], pair[0], pair[1])
    found = show_contexts(same, same.run().prompts)
    assert found.num_step_1_shared == found.num_step_1_compared == 4 * 15
    assert found.divergence_at_step_1.max == 0
    assert all(prompt.as_reported and not prompt.places for prompt in found.prompts)


def test_counts_that_are_not_the_reports_are_said_to_differ(comparison: Comparison, measured: ParityReport) -> None:
    prompt = measured.prompts[0]
    other = prompt.model_copy(update={"candidate": prompt.candidate.model_copy(update={"walk": [15, 0, 0, 0]})})
    as_reported = [one.as_reported for one in show_contexts(comparison, [prompt, other]).prompts]
    assert as_reported == [True, False]


def test_a_broken_candidates_divergence_is_null_and_counted(pair: Pair, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    broken = damaged(pair[0], tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["lm_head.weight"] = torch.full_like(tensors["lm_head.weight"], torch.inf)
    write_tensors(broken, tensors)
    comparison = Comparison.open(pair[0], broken, pair[1])
    found = show_contexts(comparison, comparison.run().prompts)
    assert found.divergence_at_step_1 == Divergence(num_places=60, num_not_finite=60, mean=None, median=None, max=None)
    json.dumps(found.to_json(), allow_nan=False)


def test_drafts_of_different_vocabularies_have_no_divergence(pair: Pair, tmp_path: Path) -> None:
    other = write_tiny_draft(tmp_path / "other", draft_vocab=8, seed=1)
    comparison = Comparison.open(pair[0], other, pair[1])
    assert not same_vocabulary(comparison.drafts)
    found = show_contexts(comparison, comparison.run().prompts[:1])
    assert found.divergence_at_step_1.mean is None
    assert found.prompts[0].places[0].baseline_probability is not None


def test_the_decoder_is_given_what_the_places_hold(comparison: Comparison, measured: ParityReport) -> None:
    def decode(token_ids: object) -> str:
        return f"<{token_ids}>"

    places = [
        place for prompt in show_contexts(comparison, measured.prompts, decode).prompts for place in prompt.places
    ]
    assert places
    for place in places:
        assert place.context == f"<{list(place.context_token_ids)}>"
        assert place.baseline_token == f"<[{place.baseline_token_id}]>"
        assert place.candidate_token == f"<[{place.candidate_token_id}]>"


def test_other_drafts_and_another_trace_are_refused_all_at_once(
    pair: Pair, comparison: Comparison, measured: ParityReport, tmp_path: Path
) -> None:
    right = comparison.sides[1].checkpoint.directory
    require_measured(measured, pair[0], right, pair[1])
    other = write_tiny_draft(tmp_path / "other", draft_vocab=8, seed=1)
    trace = tmp_path / "trace"
    shutil.copytree(pair[1], trace)
    document = trace / "trace.json"
    document.write_text(document.read_text().replace("tiny-target", "other-target"))
    with pytest.raises(TraceMismatchError) as caught:
        require_measured(measured, right, other, trace)
    message = str(caught.value)
    for words in ("baseline", "candidate", "trace"):
        assert words in message
    assert f"wanted sha256 {measured.baseline.weights_sha256[:16]}… (report), found" in message
    assert f"wanted sha256 {measured.provenance.trace_sha256[:16]}… (report), found" in message


def test_a_prompt_that_the_trace_lacks_is_refused_by_name(comparison: Comparison, measured: ParityReport) -> None:
    with pytest.raises(TraceMismatchError, match="has no prompt prompt-0 with sha256 0000"):
        show_contexts(comparison, [measured.prompts[0].model_copy(update={"sha256": "0" * 64})])


def test_drafts_that_drew_their_proposals_are_not_replayed(pair: Pair, measured: ParityReport) -> None:
    drew = measured.provenance.model_copy(update={"draft_sample_method": "probabilistic"})
    with pytest.raises(UsageError, match="which draw their proposals"):
        require_measured(measured.model_copy(update={"provenance": drew}), pair[0], pair[0], pair[1])
