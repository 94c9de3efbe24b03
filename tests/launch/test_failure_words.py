"""Which of several failed ranks is the cause."""

from __future__ import annotations

import platform

import pytest

from paceline.errors import DataError, PacelineError, UsageError

pytest.importorskip("torch")
from paceline.train import failure

CLOSED = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:3")


def cause_of(folder, num_ranks):
    ranks = range(num_ranks)
    return failure.merged_cause([failure.last_word(folder, rank, rank, folder / "logs") for rank in ranks], ranks)


@pytest.mark.parametrize(
    "own",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError("the store of images is gone"),
        ConnectionRefusedError("Connection refused by the user's own database"),
        DataError("the image store has gone bad"),
    ],
)
def test_a_rank_with_an_error_of_its_own_is_the_cause(tmp_path, own):
    """However late it says so, and whatever words it uses, before a rank that lost its peer."""
    failure.leave_word(tmp_path, 0, CLOSED)
    failure.leave_word(tmp_path, 1, own)
    cause = cause_of(tmp_path, 2)
    assert cause.startswith("rank 1 on ")
    assert str(own) in cause


def test_the_earliest_of_several_is_the_cause(tmp_path):
    failure.leave_word(tmp_path, 2, ValueError("first"))
    failure.leave_word(tmp_path, 0, ValueError("second"))
    assert cause_of(tmp_path, 3).startswith("rank 2 ")


def test_a_rank_without_a_word_is_the_cause_where_the_others_lost_a_peer(tmp_path):
    failure.leave_word(tmp_path, 0, CLOSED)
    failure.leave_word(tmp_path, 2, CLOSED)
    assert cause_of(tmp_path, 3).startswith(f"rank 1 on {platform.node()} died without a word")


def test_where_all_lost_a_peer_the_first_word_is_shown(tmp_path):
    for rank in range(2):
        failure.leave_word(tmp_path, rank, CLOSED)
    assert "Connection closed by peer" in cause_of(tmp_path, 2)


def test_words_of_an_earlier_attempt_are_forgotten(tmp_path):
    failure.leave_word(tmp_path, 0, ValueError("old"))
    failure.forget(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_an_idle_rank_that_was_killed_is_the_cause_where_the_others_were_asked_to_end(tmp_path):
    """The trial had rank 0 only; rank 1 slept."""
    failure.say_farewell(tmp_path, 0)
    words = [failure.last_word(tmp_path, rank, rank, tmp_path / "logs") for rank in range(2)]
    assert failure.merged_cause(words, [0]).startswith(f"rank 1 (idle) on {platform.node()} died without a word")


def test_an_idle_rank_that_lost_the_store_blames_who_held_it(tmp_path):
    failure.leave_word(tmp_path, 1, RuntimeError("Failed to recv, got 0 bytes. Connection was likely closed. Did the"))
    words = [failure.last_word(tmp_path, rank, rank, tmp_path / "logs") for rank in range(2)]
    assert failure.merged_cause(words, [0]).startswith(f"rank 0 on {platform.node()} died without a word")


@pytest.mark.parametrize(
    ("error", "is_curable"),
    [(UsageError("lr"), False), (DataError("gone bad"), False), (RuntimeError("?"), True), (PacelineError("?"), True)],
)
def test_settings_and_data_are_not_cured_by_trying_again(tmp_path, error, is_curable):
    failure.leave_word(tmp_path, 1, error)
    failure.leave_word(tmp_path, 0, CLOSED)
    words = [failure.last_word(tmp_path, rank, rank, tmp_path / "logs") for rank in range(2)]
    assert failure.is_curable(words) is is_curable


def test_a_rank_that_was_asked_to_end_before_the_others_lost_it_is_the_cause_and_nobody_waited(tmp_path):
    """Somebody ended rank 1 by hand."""
    failure.say_farewell(tmp_path, 1)
    failure.leave_word(tmp_path, 0, CLOSED)
    assert cause_of(tmp_path, 2).startswith(f"rank 1 on {platform.node()}: was asked to end (SIGTERM)\n")
