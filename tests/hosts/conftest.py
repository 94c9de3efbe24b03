"""The test bed as fixtures: up once, whole again after every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import slurm as slurm_daemons
from testbed.bed import COMMANDS, Bed, missing

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("hosts")


def _need(reason: str) -> None:
    if reason and os.environ.get("CI"):
        pytest.fail(f"the test bed {reason}; under CI this is a failure", pytrace=False)
    if reason:
        pytest.skip(f"the test bed {reason}")


@pytest.fixture(scope="session")
def hosts() -> Iterator[Bed]:
    """Four hosts and a control host."""
    _need(missing(COMMANDS))
    with Bed() as bed:
        yield bed


@pytest.fixture
def slurm(hosts: Bed) -> Iterator[slurm_daemons.Slurm]:
    """Slurm over the hosts, for one test."""
    _need(missing(slurm_daemons.COMMANDS))
    with slurm_daemons.Slurm(hosts) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def faketime() -> None:
    """For tests that set clocks wrong."""
    _need(missing({"faketime": "faketime"}))


@pytest.fixture(autouse=True)
def _whole_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "hosts" in request.fixturenames:
        request.getfixturevalue("hosts").restore()
