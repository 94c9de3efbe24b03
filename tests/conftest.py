"""Fixtures of the whole suite: warm ranks, started once, and the command line in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import CommandLine
from ranks import RankPool


@pytest.fixture(scope="session")
def rank_pool() -> Iterator[RankPool]:
    """Up to four real ranks."""
    pool = RankPool(4)
    yield pool
    pool.stop()


@pytest.fixture
def paceline(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line in ``tmp_path``."""
    command = CommandLine(tmp_path)
    yield command
    assert command.end_all() == [], "agents or ranks outlived their command"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small work on two threads waits more than it computes, the more so on a machine that is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
