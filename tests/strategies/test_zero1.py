"""ZeRO stage 1: as DDP to the bit, with the optimizer's state shared out."""

from __future__ import annotations

import pytest
import torch

from paceline.models.resnet20 import ResNet20
from paceline.strategies.zero1 import dealt_out

TRAIN = "strategies.contestants:train"
MOMENTUM = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}
ADAM = {"name": "adam", "lr": 0.03}
SIZES = [50, 1, 49, 50]  # unequal parts, and none


def run(rank_pool, strategy, *, num_ranks, optimizer, toy=None, function=TRAIN, **more):
    return rank_pool.run(
        function, num_ranks=num_ranks, strategy=strategy, settings={}, sizes=SIZES, optimizer=optimizer,
        toy={"dtype": "float32"} | (toy or {}), **more,
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM], ids=["momentum", "adam"])
@pytest.mark.parametrize(("num_ranks", "hidden"), [(1, 8), (2, 8), (3, 8), (4, 0)])
def test_it_is_ddp_to_the_bit(rank_pool, num_ranks, hidden, optimizer):
    """After each update and on every rank; at four ranks two have no share of the two parameters."""
    zero1, ddp = (
        run(rank_pool, name, num_ranks=num_ranks, optimizer=optimizer, toy={"hidden": hidden})
        for name in ("zero1", "ddp")
    )
    expected = [update["after"] for update in ddp[0]["updates"]]
    assert all([update["after"] for update in answer["updates"]] == expected for answer in zero1)
    assert all(answer["evaluated"] == expected[-1] for answer in zero1)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_each_rank_keeps_the_state_of_its_share_only(rank_pool, num_ranks):
    """Adam's two moments of each parameter, once over all ranks; at most those of the largest parameter."""
    ddp = run(rank_pool, "ddp", num_ranks=num_ranks, optimizer=ADAM, toy={"hidden": 16})
    zero1 = run(rank_pool, "zero1", num_ranks=num_ranks, optimizer=ADAM, toy={"hidden": 16})
    whole = ddp[0]["state_bytes"]
    assert whole == 2 * 4 * ddp[0]["num_parameters"]
    assert sum(answer["state_bytes"] for answer in zero1) == whole
    assert max(answer["state_bytes"] for answer in zero1) == 2 * 4 * 6 * 16


@pytest.mark.parametrize("num_shares", [2, 3, 4])
def test_shares_of_a_network_are_about_equal(num_shares):
    """ResNet-20: none is more than a tenth above its equal part; each parameter is in one of them."""
    with torch.device("meta"):
        parameters = list(ResNet20(in_channels=3, num_classes=1000).parameters())
    shares = dealt_out(parameters, num_shares)
    sizes = [sum(parameter.numel() for parameter in share) for share in shares]
    assert max(sizes) <= 1.1 * sum(sizes) / num_shares
    assert sorted(map(id, parameters)) == sorted(id(parameter) for share in shares for parameter in share)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_what_is_sent_is_as_declared(rank_pool, num_ranks):
    """What DDP sends, and the updated parameters once."""
    ddp = run(rank_pool, "ddp", num_ranks=num_ranks, optimizer=ADAM)
    for answer in run(rank_pool, "zero1", num_ranks=num_ranks, optimizer=ADAM):
        more = {key: answer["counted"][key] - ddp[0]["counted"][key] for key in answer["counted"]}
        each = 4 * answer["num_parameters"] if num_ranks > 1 else 0
        assert more == {"bytes_sent": 4 * each, "num_collectives": 4 * num_ranks if num_ranks > 1 else 0}
        assert answer["expected"] == answer["counted"]


def test_gloo_sees_the_collectives_that_are_counted(rank_pool):
    answers = run(rank_pool, "zero1", num_ranks=3, optimizer=ADAM, function="strategies.contestants:collectives")
    assert all(answer["seen"] == answer["counted"] == 4 * (1 + 3) for answer in answers)


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAM], ids=["momentum", "adam"])
@pytest.mark.parametrize(("num_ranks", "hidden"), [(2, 8), (4, 0)])
def test_a_resumed_trial_is_an_uninterrupted_one(rank_pool, tmp_path, num_ranks, hidden, optimizer):
    """From the state that was gathered on rank 0."""
    answers = run(
        rank_pool, "zero1", num_ranks=num_ranks, optimizer=optimizer, toy={"hidden": hidden}, num_before=2,
        folder=str(tmp_path), function="strategies.contestants:resume",
    )  # fmt: skip
    assert all(answer["resumed"] == answer["uninterrupted"] for answer in answers)


def test_a_state_of_another_number_of_ranks_is_refused(rank_pool, tmp_path):
    """In words that name both numbers."""
    said = [
        rank_pool.run(
            "strategies.contestants:load_elsewhere", num_ranks=num_ranks, folder=str(tmp_path), strategy="zero1",
            settings={}, optimizer=ADAM, toy={},
        )[0]
        for num_ranks in (2, 3)
    ]  # fmt: skip
    assert said[0] == ""
    assert "of 2 ranks" in said[1]
    assert "has 3" in said[1]


def test_an_optimizer_that_evaluates_other_parameters_is_heard_by_all(rank_pool):
    """One with modes moves its share when asked to evaluate: every rank must evaluate the moved ones."""
    answers = rank_pool.run("strategies.contestants:modes", num_ranks=2)
    assert answers[0]["evaluated"] == answers[1]["evaluated"]
    assert answers[0]["evaluated"] == pytest.approx([value + 1 for value in answers[0]["trained"]])
