from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quark_eagle.parity.power import plan


def test_a_smaller_margin_needs_more_conversations_by_its_square() -> None:
    wide, narrow = (plan(0.1, 64, 0.0, margin=margin, alpha=0.05).num_if_unchanged for margin in (0.02, 0.01))
    assert narrow == pytest.approx(4 * wide, rel=0.03)


def test_the_numbers_are_those_of_a_table_of_the_normal_distribution() -> None:
    # (1.6449 + 0.8416)² × 0.1² / ln(0.99)², and five more because the variance is not known but measured
    assert plan(0.1, 64, 0.0, margin=0.01, alpha=0.05).num_if_unchanged == 613 + 5


@given(st.floats(0.001, 1.0), st.integers(10, 5000))
@settings(max_examples=50, deadline=None)
def test_the_detectable_margin_needs_just_these_conversations(deviation: float, num: int) -> None:
    margin = plan(deviation, num, 0.0, margin=0.01, alpha=0.05).detectable_margin
    if 0 < margin < 1:
        assert abs(plan(deviation, num, 0.0, margin=margin, alpha=0.05).num_if_unchanged - num) <= 1


def test_a_loss_on_the_margin_itself_is_never_decided() -> None:
    assert plan(0.1, 64, -0.01, margin=0.01, alpha=0.05).num_if_as_measured is None


def test_a_loss_far_beyond_the_margin_is_decided_sooner() -> None:
    near, far = (plan(0.1, 64, loss, margin=0.01, alpha=0.05).num_if_as_measured for loss in (-0.02, -0.2))
    assert near is not None
    assert far is not None
    assert far < near


def test_more_certainty_needs_more_conversations() -> None:
    usual = plan(0.1, 64, 0.0, margin=0.01, alpha=0.05).num_if_unchanged
    assert plan(0.1, 64, 0.0, margin=0.01, alpha=0.025).num_if_unchanged > usual
    assert plan(0.1, 64, 0.0, margin=0.01, alpha=0.05, power=0.9).num_if_unchanged > usual


def test_fewer_than_the_gate_takes_are_never_asked_for() -> None:
    assert plan(0.0, 64, 0.0, margin=0.01, alpha=0.05, at_least=64).num_if_unchanged == 64
