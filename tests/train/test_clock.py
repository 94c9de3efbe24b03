"""The clock: what counts as training time, whose time it is, and what it was spent on."""

from __future__ import annotations

import pytest

from paceline.records import End, Epoch, Evaluation, rank_file, read_records
from train.trials import RUN, toy_trial

PARTS = ("data_s", "compute_s", "communication_s", "optimizer_s")


def run(rank_pool, folder, **settings):
    trial = toy_trial(**settings)
    rank_pool.run(RUN, num_ranks=trial.num_ranks, trial=trial.model_dump(), folder=str(folder))
    return [read_records(rank_file(folder, rank)) for rank in range(trial.num_ranks)]


def of_kind(records, kind):
    return [record for record in records if isinstance(record, kind)]


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_the_parts_add_up_to_the_whole_on_one_rank(rank_pool, tmp_path, strategy):
    """To a microsecond, in every record; each part is there, and time never runs backwards."""
    (records,) = run(rank_pool, tmp_path, strategies=[strategy], max_epochs=3, evaluate_every=200)
    timed = of_kind(records, Epoch | Evaluation)
    for record in timed:
        assert sum(getattr(record, part) for part in PARTS) == pytest.approx(record.train_time_s, abs=1e-6)
        assert record.data_s > 0 and record.compute_s > 0 and record.optimizer_s > 0
        assert (record.communication_s > 0) == (strategy == "ddp")
    times = [record.train_time_s for record in of_kind(records, Evaluation)]
    assert times == sorted(times)
    for record in of_kind(records, Evaluation):
        quantiles = record.update_time_s
        assert 0 < quantiles["p10"] <= quantiles["p50"] <= quantiles["p90"] <= quantiles["max"]


def test_evaluation_is_off_the_clock(rank_pool, tmp_path):
    """Evaluations that take a fifth of a second each are accounted for by themselves, not as training."""
    (records,) = run(rank_pool, tmp_path, toy={"evaluation_sleep_s": 0.2})
    last, (end,) = of_kind(records, Evaluation)[-1], of_kind(records, End)
    assert last.evaluation_time_s >= 2 * 0.2
    assert end.wall_time_s >= 3 * 0.2
    assert end.train_time_s <= end.wall_time_s - 3 * 0.2


def test_waiting_for_data_is_training_time_and_called_so(rank_pool, tmp_path):
    """22 updates whose batches take 20 ms each to gather."""
    (records,) = run(rank_pool, tmp_path, toy={"train_sleep_s": 0.02})
    (end,), last = of_kind(records, End), of_kind(records, Epoch)[-1]
    assert end.train_time_s >= 0.8 * 22 * 0.02
    assert last.data_s >= 0.8 * 22 * 0.02
    assert last.data_s >= 0.8 * end.train_time_s


def test_a_slow_rank_makes_all_wait(rank_pool, tmp_path):
    """Rank 1 waits for its data; rank 0 waits for rank 1, which is called communication."""
    records = run(rank_pool, tmp_path, num_ranks=2, toy={"train_sleep_s": 0.02, "sleep_rank": 1})
    fast, slow = (of_kind(of_rank, Epoch)[-1] for of_rank in records)
    slept = 22 * 0.02
    assert slow.data_s >= 0.8 * slept > 2 * fast.data_s
    assert fast.communication_s >= 0.6 * slept
    assert fast.train_time_s == slow.train_time_s >= 0.8 * slept
    mean = of_kind(records[0], Evaluation)[-1]
    for part in PARTS:
        assert getattr(mean, part) == pytest.approx((getattr(fast, part) + getattr(slow, part)) / 2, abs=1e-9)


def test_training_time_sums_the_slowest_rank_of_each_update(rank_pool):
    """Two ranks that sleep in turn: each spends 0.2 s, the trial 0.4 s."""
    for answer in rank_pool.run("train.trials:sleep_in_turn", num_ranks=2):
        assert 0.4 <= answer["train_time_s"] < 0.65
        assert 0.2 <= answer["own_s"]["optimizer_s"] < 0.45
        assert answer["max"] >= 0.2
        assert answer["mean_s"]["optimizer_s"] == pytest.approx(answer["train_time_s"] / 2, rel=0.2)
