"""What every exact strategy promises: loss and gradient of the mean over the whole global batch, on every rank."""

from __future__ import annotations

import pytest

from paceline.strategy_cards import STRATEGIES

CASES = [
    (name, num_ranks)
    for name, card in STRATEGIES.items()
    for num_ranks in (1, 2, 3)
    # `reproducible` has train/test_reproducible.py; `by-optimizer` leaves the mean to its optimizer
    if card.exact and card.admits(num_ranks) and name not in ("reproducible", "by-optimizer")
]


@pytest.mark.parametrize(("num_examples", "num_micro_batches"), [(50, 1), (50, 3), (1, 1), (2, 2)])
@pytest.mark.parametrize(("strategy", "num_ranks"), CASES)
def test_the_objective_is_the_mean_over_the_whole_batch(
    rank_pool, strategy, num_ranks, num_examples, num_micro_batches
):
    """As plain autograd says, to 1e-12 in float64; unequal parts, and ranks without any, included."""
    answers = rank_pool.run(
        "strategies.objectives:compare",
        num_ranks=num_ranks,
        strategy=strategy,
        num_examples=num_examples,
        num_micro_batches=num_micro_batches,
    )
    for answer in answers:
        assert answer["losses"] == pytest.approx([answer["expected_loss"]] * 2, rel=1e-12)
        assert answer["gradient"] == pytest.approx(answer["expected_gradient"], rel=1e-12, abs=1e-14)
    assert len({answer["losses"][1] for answer in answers}) == 1, "the same bits on every rank"
    assert len({tuple(answer["gradient"]) for answer in answers}) == 1
    if num_examples >= num_ranks:
        assert sum(sum(answer["num_outputs"]) for answer in answers) == num_examples


def test_the_slot_of_the_loss_is_no_parameter_of_the_model(rank_pool):
    (answer,) = rank_pool.run(
        "strategies.objectives:compare", num_ranks=1, strategy="ddp", num_examples=5, num_micro_batches=1
    )
    assert answer["parameter_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("running_mean", [False, True])
@pytest.mark.parametrize("num_micro_batches", [1, 3])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ddp_counts_what_gloo_sends(rank_pool, num_ranks, num_micro_batches, running_mean):
    """One all-reduce of gradients and loss for each evaluation, one broadcast where the model has buffers."""
    answers = rank_pool.run(
        "strategies.objectives:traffic",
        num_ranks=num_ranks,
        num_micro_batches=num_micro_batches,
        running_mean=running_mean,
        num_objectives=4,
    )
    for answer in answers:
        assert answer["counted"]["num_collectives"] == sum(answer["seen"].values())
        ring = 2 * (num_ranks - 1) * (answer["gradient_bytes"] + 4) // num_ranks
        assert answer["counted"]["bytes_sent"] == 4 * (ring + answer["buffer_bytes"])
