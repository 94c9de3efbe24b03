"""Claims and verdicts: nothing is claimed of equals, of noise or of few seeds, and what is claimed follows."""

import itertools
import math

import numpy as np
import pytest

from analysis.paired_studies import make_cells, quiet
from paceline.analysis.contrasts import contrasts_of
from paceline.analysis.verdict import verdict_on


def judged(times, pairs=None, noise=None, *, withheld=()):
    cells = make_cells(times)
    names = [cell.name for cell in cells]
    found = {
        cell.name.partition("/")[2].replace("+single", "").replace("+ddp", "").replace("1x", ""): cell for cell in cells
    }
    declared = [(name, names[0]) for name in names[1:]]
    if pairs is not None:
        declared = [(found[one].name, found[other].name) for one, other in pairs]
    noise = quiet() if noise is None else noise
    contrasts = contrasts_of(declared, cells, noise, audit_failed=bool(withheld))
    return contrasts, verdict_on("w", cells, contrasts, noise, num_comparisons=len(declared), withheld=withheld)


def times_of(center, *, seeds=8, spread=0.05, seed=0):
    return list(center * np.exp(np.random.default_rng(seed).normal(0, spread, seeds)))


def test_a_clear_winner_is_claimed():
    contrasts, verdict = judged({"a@1": times_of(2.0), "b@1": times_of(1.0, seed=1)})
    assert [one.outcome for one in contrasts] == ["sooner"]
    assert (verdict.fastest, verdict.slower, verdict.within_noise) == ("w/b+single@1x1", ("w/a+single@1x1",), ())
    assert contrasts[0].ratio.low < 2.0 < contrasts[0].ratio.high
    assert contrasts[0].probability_of_improvement == 1.0
    assert contrasts[0].log_rank_p_value < 0.01


def test_a_slower_cell_is_called_later():
    contrasts, _ = judged({"a@1": times_of(1.0), "b@1": times_of(2.0, seed=1)})
    assert [one.outcome for one in contrasts] == ["later"]


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_few_seeds_claim_nothing_however_large_the_difference(seeds):
    contrasts, verdict = judged({"a@1": times_of(9.0, seeds=seeds), "b@1": times_of(1.0, seeds=seeds, seed=1)})
    assert [(one.outcome, one.reason) for one in contrasts] == [("no claim", "chance")]
    (undecided,) = verdict.within_noise
    assert undecided.num_more_seeds == 6 - seeds


def test_nothing_is_claimed_below_the_noise_of_the_machine():
    times = {"a@1": times_of(1.0, spread=0.001), "b@1": times_of(1.03, spread=0.001, seed=1)}
    assert [one.outcome for one in judged(times)[0]] == ["later"]
    contrasts, verdict = judged(times, noise=quiet(1.05))
    assert [(one.outcome, one.reason) for one in contrasts] == [("no claim", "noise")]
    assert verdict.within_noise[0].num_more_seeds is None


def test_nothing_is_claimed_where_the_noise_is_unknown():
    times = {"a@1": times_of(2.0), "b@1": times_of(1.0, seed=1)}
    assert [one.reason for one in judged(times, noise=[])[0]] == ["noise unknown"]
    assert [one.reason for one in judged(times, noise=quiet(None))[0]] == ["noise unknown"]


def test_nothing_is_claimed_where_the_audit_failed():
    contrasts, verdict = judged(
        {"a@1": times_of(2.0), "b@1": times_of(1.0, seed=1)}, withheld=("shuffled-label probe",)
    )
    assert [one.reason for one in contrasts] == ["audit"]
    assert verdict.withheld == ("shuffled-label probe",)
    assert verdict.slower == ()


def test_what_follows_from_two_claims_is_claimed():
    """b beats a, and c loses to a: c is not the fastest, though nobody compared it with b."""
    _, verdict = judged({"a@1": times_of(2.0), "b@1": times_of(1.0, seed=1), "c@1": times_of(4.0, seed=2)})
    assert verdict.fastest == "w/b+single@1x1"
    assert set(verdict.slower) == {"w/a+single@1x1", "w/c+single@1x1"}
    assert verdict.within_noise == ()


def test_a_cell_that_nobody_compared_may_be_as_fast():
    times = {"a@1": times_of(2.0), "b@1": times_of(1.0, seed=1), "c@1": times_of(1.5, seed=2)}
    _, verdict = judged(times)
    (undecided,) = verdict.within_noise
    assert (undecided.other, undecided.declared) == ("w/c+single@1x1", False)
    assert undecided.ratio.value == pytest.approx(1.5, rel=0.1)


def test_a_diverging_cell_loses():
    _, verdict = judged({"a@1": [None] * 8, "b@1": times_of(1.0)})
    assert (verdict.fastest, verdict.slower) == ("w/b+single@1x1", ("w/a+single@1x1",))


def test_nobody_arrives_and_nobody_wins():
    contrasts, verdict = judged({"a@1": [None] * 8, "b@1": [None] * 8})
    assert [one.outcome for one in contrasts] == ["no claim"]
    assert (verdict.fastest, verdict.median_time_s, verdict.node_hours) == (None, None, None)


@pytest.mark.parametrize(
    ("at_two", "outcome", "ranks"), [(0.5, "pays", 2), (3.0, "does not pay", None), (1.0, "open", None)]
)
def test_whether_distributing_pays(at_two, outcome, ranks):
    times = {"a@1": times_of(1.0), "a@2": times_of(at_two, seed=1)}
    _, verdict = judged(times)
    assert (verdict.distributing.outcome, verdict.distributing.num_ranks) == (outcome, ranks)
    assert verdict.distributing.ratio.value == pytest.approx(1 / at_two, rel=0.1)


def test_from_how_many_ranks_on_it_pays():
    times = {
        "a@1": times_of(1.0),
        "a@2": times_of(1.0, seed=1),
        "a@4": times_of(0.4, seed=2),
        "a@8": times_of(0.3, seed=3),
    }
    _, verdict = judged(times, [("a@2", "a@1"), ("a@4", "a@1"), ("a@8", "a@1"), ("a@2", "a@4")])
    assert (verdict.distributing.outcome, verdict.distributing.num_ranks) == ("pays", 4)


def test_one_scale_says_nothing_of_distributing():
    _, verdict = judged({"a@1": times_of(1.0), "b@1": times_of(2.0)})
    assert verdict.distributing.outcome == "one scale"


def test_more_seeds_are_named_that_would_settle_it():
    ratios = [1.4, 1.3, 0.8, 1.2, 1.5, 0.9, 1.1, 1.0]
    contrasts, verdict = judged({"a@1": [1.0] * 8, "b@1": ratios})
    assert contrasts[0].reason == "chance"
    (undecided,) = verdict.within_noise
    assert undecided.declared
    assert 2 <= undecided.num_more_seeds <= 30


def test_equals_are_called_different_in_at_most_5_percent_of_studies():
    """Six equal cells, five comparisons, eight seeds: any claim at all is a false one. 2,000 studies."""
    rng = np.random.default_rng(20261122)
    names = [f"{label}@{ranks}" for label, ranks in itertools.product("abc", (1, 2))]
    false = 0
    for _ in range(2000):
        common = rng.normal(0, 0.3, 8)  # what a seed does to all cells alike
        times = {name: list(np.exp(common + rng.normal(0, 0.1, 8))) for name in names}
        contrasts, verdict = judged(times)
        claimed = any(one.outcome != "no claim" for one in contrasts)
        assert claimed == bool(verdict.slower), "a verdict claims nothing that a comparison does not"
        false += claimed
    assert false / 2000 <= 0.05


def test_intervals_of_the_comparisons_cover_in_at_least_93_percent_of_studies():
    """Known ratio 1.3, skewed noise, and some seeds that miss the target at the horizon of both."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(2000):
        noise = rng.gumbel(0, 0.1, (2, 8))
        common = rng.normal(0, 0.3, 8)
        times = {"a@1": list(1.3 * np.exp(common + noise[0])), "b@1": list(np.exp(common + noise[1]))}
        (contrast,), _ = judged(times)
        covered += contrast.ratio.low <= 1.3 <= contrast.ratio.high
    assert covered / 2000 >= 0.93


def test_the_adjusted_p_value_is_holms():
    times = {
        name: times_of(center, seed=index) for index, (name, center) in enumerate([("a@1", 1), ("b@1", 2), ("c@1", 3)])
    }
    contrasts, _ = judged(times)
    assert [one.p_value for one in contrasts] == [2 / 256, 2 / 256]
    assert [one.adjusted_p_value for one in contrasts] == [4 / 256, 4 / 256]
    assert all(math.isfinite(one.ratio.value) for one in contrasts)
