"""Strategies that reduce gradients at each update: what they give, what they keep for later, what they send."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from paceline.strategies.sign_sgd import packed, unpacked
from paceline.strategy_cards import strategy_card
from strategies.given import NUM_ZEROS, SIZE

PARTS = [[5, 3], [4, 0, 2]]  # examples of each rank
NUM_TOLD = 7  # elements, of the density below
SETTINGS = {"top-k": {"density": 0.05}, "powersgd": {"rank": 2, "start": 2}}
NAMES = ["flat", "fp16", "bf16", "powersgd", "sign-sgd", "top-k"]
WITH_MEMORY = ["powersgd", "sign-sgd", "top-k"]


class Told:
    """What ranks gave; tensors have a row an update, and lists an entry a rank."""

    def __init__(self, answers):
        self.answers = answers
        ranks = [answer["updates"] for answer in answers]
        for what in ("gradient", "loss"):
            assert len({repr([one[what] for one in rank]) for rank in ranks}) == 1, "the same bits on every rank"
        self.gradients = torch.tensor([one["gradient"] for one in ranks[0]])
        self.losses = torch.tensor([one["loss"] for one in ranks[0]])
        self.own = [torch.tensor([one["own"]["gradient"] for one in rank]) for rank in ranks]
        self.own_losses = [torch.tensor([one["own"]["loss"] for one in rank]) for rank in ranks]
        self.untold = sum(torch.tensor(answer["untold"]) for answer in answers) if answers[0]["untold"] else None


def told(rank_pool, strategy, parts, numbers=(1, 2, 3, 4), settings=None, **arguments):
    return Told(
        rank_pool.run(
            "strategies.given:updates",
            num_ranks=len(parts),
            strategy=strategy,
            settings=SETTINGS.get(strategy, {}) if settings is None else settings,
            counts=parts,
            numbers=list(numbers),
            **arguments,
        )
    )


@pytest.mark.parametrize("parts", PARTS)
def test_flat_gives_the_sum(rank_pool, parts):
    """On two ranks to the bit, where there is one addition, and hence with the bits of DDP."""
    flat, ddp = (told(rank_pool, name, parts) for name in ("flat", "ddp"))
    if len(parts) == 2:
        assert torch.equal(flat.gradients, sum(flat.own))
        assert torch.equal(flat.losses, sum(flat.own_losses))
        assert torch.equal(flat.gradients, ddp.gradients)
        assert torch.equal(flat.losses, ddp.losses)
    torch.testing.assert_close(flat.gradients, sum(flat.own), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(flat.losses, sum(flat.own_losses), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("strategy", NAMES)
def test_the_loss_is_not_rounded(rank_pool, strategy):
    """It has the bits of the sum on two ranks; in a model of 16 bits it has 32."""
    answer = told(rank_pool, strategy, PARTS[0])
    assert torch.equal(answer.losses, sum(answer.own_losses))
    small = told(rank_pool, strategy, PARTS[0], (1,), dtype="bfloat16")
    assert small.answers[0]["updates"][0]["dtype_of_loss"] == "torch.float32"


@pytest.mark.parametrize(("strategy", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_sixteen_bits(rank_pool, strategy, dtype):
    """Each rank's gradient is rounded, and so is the sum; with three ranks that of two of them, too."""
    two, three = (told(rank_pool, strategy, parts) for parts in PARTS)
    assert torch.equal(two.gradients, (two.own[0].to(dtype) + two.own[1].to(dtype)).float())
    largest = sum(own.abs() for own in three.own)
    assert ((three.gradients - sum(three.own)).abs() <= 4 * torch.finfo(dtype).eps * largest).all()


def test_top_k_tells_the_largest_first_and_the_rest_later(rank_pool):
    """After as many idle updates as it takes, all that was put in has come out; also of a rank without a part now."""
    answer = told(rank_pool, "top-k", PARTS[1], [1, 2, 3, 4] + [None] * math.ceil(SIZE / NUM_TOLD))
    first = torch.zeros(SIZE)
    for own in answer.own:
        places = own[0].abs().topk(NUM_TOLD).indices
        first[places] += own[0][places]
    assert torch.equal(answer.gradients[0], first)
    assert ((answer.gradients != 0).sum(1) <= 3 * NUM_TOLD).all()
    assert (answer.untold == 0).all()
    torch.testing.assert_close(answer.gradients.sum(0), sum(answer.own).sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ["top-k", "powersgd"])
@pytest.mark.parametrize("parts", PARTS)
def test_what_is_not_told_is_kept(rank_pool, strategy, parts):
    """What came out and what ranks keep is what was put in, and no little of it is kept."""
    answer = told(rank_pool, strategy, parts, range(1, 9))
    torch.testing.assert_close(answer.gradients.sum(0) + answer.untold, sum(answer.own).sum(0), rtol=1e-5, atol=2e-6)
    assert answer.untold.norm() > 0.1 * sum(answer.own)[-1].norm()


@pytest.mark.parametrize("parts", PARTS)
def test_powersgd_is_that_of_torch(rank_pool, parts):
    """In float64, through updates before compression and after it, with its memory and its warm start."""
    numbers = list(range(1, 8))
    answer = told(rank_pool, "powersgd", parts, numbers, dtype="float64")
    of_torch, *_ = rank_pool.run(
        "strategies.given:powersgd_of_torch",
        num_ranks=len(parts),
        settings=SETTINGS["powersgd"],
        counts=parts,
        numbers=numbers,
    )
    torch.testing.assert_close(answer.gradients, torch.tensor(of_torch), rtol=1e-5, atol=1e-6)


def test_powersgd_stands_gradients_of_zero(rank_pool):
    """Nothing is divided by their norm, and what comes after them is told again."""
    answer = told(rank_pool, "powersgd", [2, 2], [None, None, 1, *[None] * 9], settings={"start": 0})
    assert (answer.gradients[:2] == 0).all()
    torch.testing.assert_close(answer.gradients.sum(0), sum(answer.own).sum(0), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("parts", [[4, 1], [3, 0], *PARTS, [1, 2, 3, 1]])
def test_the_majority_decides(rank_pool, parts):
    """A rank has one vote, whatever its part, and none without one; ties and zeros cancel over two evaluations."""
    answer = told(rank_pool, "sign-sgd", parts, (1, 1, 2, 2))
    assert (answer.gradients.abs() == 1).all()
    votes = sum(own.sign() for own in answer.own)
    assert (votes[:, NUM_ZEROS:] == 0).any() == (len([part for part in parts if part]) % 2 == 0), "there are ties"
    over_two = (answer.gradients[::2] + answer.gradients[1::2]) / 2
    assert torch.equal(over_two, votes[::2].sign())


def test_eight_votes_are_a_byte():
    bits = torch.rand(8 * 1000) < 0.5
    assert packed(bits).shape == (1000,)
    assert packed(bits).dtype == torch.uint8
    assert torch.equal(unpacked(packed(bits)).bool(), bits)
    assert packed(torch.tensor([True] + [False] * 7 + [True] * 8)).tolist() == [1, 255]


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_as_much_is_sent_as_the_formula_says(rank_pool, strategy, num_ranks):
    """As counted, in as many collectives as gloo saw, and no more than the papers say, but for what lies beside."""
    num_updates, profiled = 4, num_ranks == 2
    answer = told(rank_pool, strategy, [2] * num_ranks, range(num_updates), profiled=profiled)
    if num_ranks == 1:
        assert answer.answers[0]["counted"] == answer.answers[0]["expected"] == {"bytes_sent": 0, "num_collectives": 0}
        return
    ring, to_others = 2 * (num_ranks - 1) / num_ranks, num_ranks - 1
    whole = ring * 4 * SIZE
    thin = ring * 4 * (2 * (12 + 5) + 2 * (3 + 24) + 7 + 1)
    papers = {
        "flat": num_updates * whole,
        "fp16": num_updates * whole / 2,
        "bf16": num_updates * whole / 2,
        "powersgd": 2 * whole + (num_updates - 2) * thin,
        "sign-sgd": num_updates * 2 * SIZE / 8,
        "top-k": num_updates * to_others * 8 * NUM_TOLD,
    }
    beside = num_updates * (to_others * 4 * 3 + 3 * num_ranks)  # loss and two running means; bytes filled up
    for one in answer.answers:
        assert one["counted"] == one["expected"]
        assert one["counted"]["num_collectives"] == one["seen"] or not profiled
        assert one["counted"]["bytes_sent"] <= papers[strategy] + beside


@pytest.mark.parametrize("strategy", WITH_MEMORY)
def test_state_goes_through_a_file(rank_pool, strategy):
    """A resumed run gives the same bits; one that forgot would not."""
    whole, resumed = (told(rank_pool, strategy, PARTS[1], range(1, 7), resumed_after=after) for after in (-1, 3))
    forgetful = told(rank_pool, strategy, PARTS[1], range(4, 7))
    assert torch.equal(resumed.gradients, whole.gradients)
    assert not torch.equal(forgetful.gradients, whole.gradients[3:])


@pytest.mark.parametrize("strategy", NAMES)
def test_running_statistics_become_those_of_the_whole_batch(rank_pool, strategy):
    """As means over ranks, weighted by examples: a rank without a part does not count."""
    answer = told(rank_pool, strategy, PARTS[1], (1,))
    updates = [answer["updates"][0] for answer in answer.answers]
    weights = torch.tensor(PARTS[1]) / sum(PARTS[1])
    expected = weights @ torch.tensor([update["own"]["mean"] for update in updates])
    assert len({tuple(update["mean"]) for update in updates}) == 1
    torch.testing.assert_close(torch.tensor(updates[0]["mean"]), expected)


@pytest.mark.parametrize("strategy", NAMES)
def test_models_of_several_dtypes_are_refused(rank_pool, strategy):
    said = rank_pool.run(
        "strategies.given:refusal",
        num_ranks=2,
        strategy=strategy,
        shapes=[[[3, 2], [3]]] * 2,
        dtypes=[["float32", "float64"]] * 2,
        deadline_s=20,
    )
    assert len(set(said)) == 1
    assert "the model's parameters are float32 and float64" in said[0]
    assert "model.to(dtype)" in said[0]


@pytest.mark.parametrize("strategy", [*NAMES, "by-optimizer", "ddp", "diloco", "local-sgd", "post-local-sgd", "zero1"])
@pytest.mark.parametrize(
    ("other", "dtypes", "words"),
    [
        ([[3, 3], [3]], ["float32"] * 2, ["(3, 2)", "(3, 3)"]),
        ([[3, 2]], ["float32"], ["weights.1 (3,)", "mean"]),
        ([[3, 2], [3]], ["float64", "float32"], ["weights.0 (3, 2) torch.float32", "weights.0 (3, 2) torch.float64"]),
    ],
)
def test_ranks_that_disagree_about_the_model_are_refused(rank_pool, strategy, other, dtypes, words):
    """On every rank, in the same words, without a hang."""
    usual = [[3, 2], [3]]
    said = rank_pool.run(
        "strategies.given:refusal",
        num_ranks=3,
        strategy=strategy,
        shapes=[usual, usual, other],
        dtypes=[["float32"] * 2, ["float32"] * 2, dtypes],
        deadline_s=20,
    )
    assert len(set(said)) == 1
    assert said[0].startswith("ranks disagree about the model: where rank 0 has ")
    assert "rank 2 has" in said[0]
    assert all(word in said[0] for word in words)


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [("top-k", {"density": 0}), ("top-k", {"density": 1.1}), ("powersgd", {"rank": 0}), ("powersgd", {"start": -1}),
     ("fp16", {"rank": 1})],
)  # fmt: skip
def test_settings_out_of_range_are_refused(strategy, settings):
    with pytest.raises(ValidationError):
        strategy_card(strategy).settings(**settings)
