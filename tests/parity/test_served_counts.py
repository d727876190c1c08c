from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from quark_eagle.documents.counts import PromptAcceptance
from quark_eagle.documents.served import BlockCounts
from quark_eagle.parity.noise import block_taus, noise_floor
from quark_eagle.parity.served.counting import counted, uncountable
from quark_eagle.parity.served.losslessness import TIE_MARGINS, first_difference, losslessness, tie_margin
from quark_eagle.serving.client import Outcome
from quark_eagle.serving.completion import Completion
from tests.parity.counted import counted as prompt_of
from tests.parity.counted import many
from tests.parity.served_answers import K, answer, failure, prompts, turn

NAMES = ("a", "b", "c")


def passes(changed: Mapping[tuple[str, int, str], Outcome] | None = None) -> list[object]:
    """Two blocks of three prompts, alike everywhere but where it is said."""
    return [
        turn(
            arm,  # type: ignore[arg-type]
            block,
            {name: (changed or {}).get((arm, block, name), answer([1, 0, 2])) for name in NAMES},
        )
        for block in range(2)
        for arm in ("baseline", "candidate")
    ]


def test_a_prompts_walk_is_the_sum_of_its_blocks_each_of_its_own_length() -> None:
    kept, left_out = counted(prompts(*NAMES), passes({("candidate", 1, "b"): answer([3, 3])}), K)  # type: ignore[arg-type]
    candidate = kept[1].candidate
    assert not left_out
    assert candidate.blocks == [
        BlockCounts(num_generated_tokens=7, walk=[1, 1, 1, 0]),
        BlockCounts(num_generated_tokens=9, walk=[0, 0, 0, 2]),
    ]
    assert candidate.walk == [1, 1, 1, 2]
    assert kept[1].baseline.walk == [2, 2, 2, 0]


def test_what_the_engine_accepted_past_the_end_is_not_counted() -> None:
    kept, _ = counted(prompts("a", "b", "c"), passes({("baseline", 0, "a"): answer([3, 3], 6)}), K)  # type: ignore[arg-type]
    assert kept[0].baseline.blocks is not None
    assert kept[0].baseline.blocks[0] == BlockCounts(num_generated_tokens=6, walk=[1, 0, 0, 1])


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        (failure(), "server after 3 attempts: 503: busy"),
        (answer(None, 5), "did not say what its rounds accepted"),
        (answer([1], 3, k=2), "2 tokens a round, but 3 were wanted"),
        (answer([1], 6), "3 of 6 tokens came without a proposal"),
    ],
)
def test_a_prompt_that_one_arm_cannot_count_is_in_neither(outcome: Outcome, why: str) -> None:
    kept, left_out = counted(prompts(*NAMES), passes({("candidate", 1, "b"): outcome}), K)  # type: ignore[arg-type]
    assert [prompt.id for prompt in kept] == ["a", "c"]
    assert [(it.id, it.arm, it.block) for it in left_out] == [("b", "candidate", 1)]
    assert why in left_out[0].why


def test_the_target_alone_has_no_rounds_to_count() -> None:
    assert uncountable(answer(None, 5), "none", K) is None
    assert uncountable(failure(), "none", K) is not None


def alone(tokens: tuple[int, ...], second: float = 0.5) -> Completion:
    """The target's own answer; at each place token 99 is `second` behind its choice, and no other is likely."""
    made = answer(None, tokens=tokens)
    tops = tuple({token: -0.5, 99: -0.5 - second} for token in tokens)
    return Completion(token_ids=made.token_ids, finish_reason="length", seconds=0.1, rounds=None, top_logprobs=tops)


def test_the_first_difference_is_located_with_both_tokens_and_the_targets_preference() -> None:
    found = first_difference("p", 2, alone((5, 6, 7)), answer(None, tokens=(5, 99, 3)))
    assert found is not None
    assert (found.prompt, found.block, found.position, found.expected, found.found) == ("p", 2, 1, 6, 99)
    assert found.margin == pytest.approx(0.5)


def test_equal_answers_do_not_differ() -> None:
    assert first_difference("p", 0, alone((5, 6)), answer(None, tokens=(5, 6))) is None


def test_an_answer_that_ends_early_differs_where_it_ends() -> None:
    found = first_difference("p", 0, alone((5, 6, 7)), answer(None, tokens=(5, 6)))
    assert found is not None
    assert (found.position, found.expected, found.found, found.margin) == (2, 7, None, None)


@pytest.mark.parametrize(
    ("token", "second", "dtype", "kind"),
    [
        (99, 0.0, "bfloat16", "tie"),
        (99, 0.9, "bfloat16", "tie"),
        (99, 1.1, "bfloat16", "real"),
        (50, 0.0, "bfloat16", "real"),  # not among the likeliest at all
        (99, 0.9, "float32", "real"),
        (99, 0.0, "float32", "real"),  # in float32 all must be equal
    ],
)
def test_a_tie_is_told_from_a_real_difference_by_the_targets_preference(
    token: int, second: float, dtype: str, kind: str
) -> None:
    found = losslessness("candidate", {"p": alone((5, 6), second)}, [{"p": answer(None, tokens=(5, token))}], dtype)
    assert (found.num_compared, found.num_equal) == (1, 0)
    assert (found.num_ties, len(found.real)) == ((1, 0) if kind == "tie" else (0, 1))


def test_every_block_is_compared_and_prompts_without_a_reference_are_not() -> None:
    blocks = [{"p": answer(None, tokens=(5, 6)), "q": answer(None, tokens=(1,))}] * 3
    found = losslessness("baseline", {"p": alone((5, 6))}, blocks, "float32")
    assert (found.num_compared, found.num_equal, found.num_ties, found.real) == (3, 3, 0, [])


def test_a_dtype_that_is_not_known_has_the_widest_tie() -> None:
    assert tie_margin("not known") == max(TIE_MARGINS.values())


def rows(*blocks: list[int]) -> PromptAcceptance:
    """One prompt at k = 1 with these walks, block by block."""
    return PromptAcceptance(
        walk=[sum(column) for column in zip(*blocks, strict=True)],
        every_start=None,
        walk_num_drafts=None,
        blocks=[BlockCounts(num_generated_tokens=1 + walk[0] + 2 * walk[1], walk=walk) for walk in blocks],
    )


def test_a_blocks_tau_is_a_ratio_of_sums_over_prompts() -> None:
    found = block_taus([rows([10, 0], [5, 5]), rows([0, 10], [5, 5])])
    assert found is not None
    assert found.tolist() == [1.5, 1.5]


def with_taus(baseline: list[list[int]], candidate: list[list[int]]) -> list[object]:
    made = prompt_of("a", [1, 0], [1, 0])
    return [made.model_copy(update={"baseline": rows(*baseline), "candidate": rows(*candidate)})]


def test_the_floor_is_the_spread_between_blocks_of_the_same_arm_by_hand() -> None:
    baseline, candidate = [[100, 50], [100, 52], [100, 48]], [[100, 20], [100, 20], [100, 20]]
    found = noise_floor(with_taus(baseline, candidate), 0.90)  # type: ignore[arg-type]
    assert found is not None
    taus = np.log([1 + 50 / 150, 1 + 52 / 152, 1 + 48 / 148])
    spread = np.sqrt(((taus - taus.mean()) ** 2).sum() / 4)  # the other arm is steady: no more squares, two degrees
    assert found.degrees_of_freedom == 4
    assert found.standard_error == pytest.approx(spread * np.sqrt(2 / 3))
    assert found.high == pytest.approx(np.expm1(2.1318 * found.standard_error), rel=1e-3)
    assert found.low == pytest.approx(np.expm1(-2.1318 * found.standard_error), rel=1e-3)


def test_a_difference_between_the_arms_is_no_noise() -> None:
    found = noise_floor(with_taus([[100, 50]] * 3, [[100, 10]] * 3), 0.90)  # type: ignore[arg-type]
    assert found is not None
    assert (found.low, found.high, found.block_changes) == (0.0, 0.0, [0.0, 0.0, 0.0])


def test_replayed_counts_have_no_floor() -> None:
    assert noise_floor(many(8), 0.90) is None
