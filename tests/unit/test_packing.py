import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.packing import plan_micro_batches, split_evenly


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 5), st.integers(50, 200))
def test_every_sequence_is_placed_once_and_fits(lengths, ranks, max_tokens):
    plan = plan_micro_batches(lengths, ranks=ranks, max_tokens=max_tokens)
    assert len(plan) == ranks
    assert len({len(rank) for rank in plan}) == 1, "all ranks take equally many steps"
    assert sorted(i for rank in plan for step in rank for i in step) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in step) <= max_tokens for rank in plan for step in rank)


@given(st.lists(st.integers(1, 50), min_size=20, max_size=60))
def test_ranks_are_balanced(lengths):
    plan = plan_micro_batches(lengths, ranks=2, max_tokens=10_000)
    loads = [sum(lengths[i] for step in rank for i in step) for rank in plan]
    assert abs(loads[0] - loads[1]) <= max(lengths)


def test_a_sequence_that_cannot_fit_is_refused():
    with pytest.raises(ValueError, match=r"micro_batch_tokens must be at least the longest sequence, got 10 .* 11"):
        plan_micro_batches([3, 11], ranks=1, max_tokens=10)


def test_split_evenly():
    assert [list(part) for part in split_evenly(5, 2)] == [[0, 1], [2, 3, 4]]
