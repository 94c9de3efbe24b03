"""Random kills of every process of a run: nothing is lost, nothing is left, and every number is that of no kill."""

from __future__ import annotations

import os
import random
import sys

import pytest

from faults.campaign import Campaign

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
]

SEED = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(2**31))
MINUTES = float(os.environ.get("FAULTS_MINUTES") or 1.0)


@pytest.mark.timeout(60 * MINUTES + 180)  # the last rounds are let end
def test_a_study_that_is_killed_at_random_ends_as_if_nothing_had_happened(tmp_path, capsys):
    """``FAULTS_SEED`` repeats a campaign; the seed of a round with a flaw is named."""
    campaign = Campaign(tmp_path, seed=SEED, minutes=MINUTES)
    with capsys.disabled():
        print(f"\nFAULTS_SEED={SEED} FAULTS_MINUTES={MINUTES:g}")  # noqa: T201
        campaign.run()
        print(campaign.table())  # noqa: T201
    assert campaign.flaws == []
    assert campaign.num_kills > 2 * MINUTES, "the campaign is not worth its name"
