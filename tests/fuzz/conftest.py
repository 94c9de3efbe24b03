"""How long readers are fuzzed: a few examples, always the same, or new ones for FUZZ_MINUTES (``make fuzz``)."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fuzz.hostile import peak_memory_mb
from paceline.errors import PacelineError

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
LONGEST_CPU_S = 5.0  # of one example
MOST_MEMORY_MB = 400.0  # that a whole test adds
LONGEST_MESSAGE = 100_000  # characters

NUM_EXAMPLES: Counter[str] = Counter()
NUM_REFUSED: Counter[str] = Counter()
ANY_HEALTH = list(HealthCheck)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if "survives" in getattr(item, "fixturenames", ())]
    for item in own:
        item.stash[SHARE_S] = 60 * MINUTES / len(own)
        if MINUTES:
            item.add_marker(pytest.mark.timeout(2 * item.stash[SHARE_S] + 120))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, number in sorted(NUM_EXAMPLES.items()):
        terminalreporter.write_line(f"fuzzed {name}: {number} examples, {NUM_REFUSED[name]} refused")


SHARE_S = pytest.StashKey[float]()


@pytest.fixture
def survives(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Call a reader with examples: it is to return, or to raise a PacelineError, soon and in little memory.

    What a reader returns is no matter here; a check of its own may look at it.
    """
    name, share_s = request.node.name, request.node.stash[SHARE_S]

    def check(read: Callable[[Any], object], examples: SearchStrategy[Any], *, num_examples: int = 40) -> None:
        def attempt(example: Any) -> None:
            began = time.process_time()
            NUM_EXAMPLES[name] += 1
            try:
                read(example)
            except PacelineError as error:
                NUM_REFUSED[name] += 1
                assert 0 < len(str(error)) < LONGEST_MESSAGE
            assert time.process_time() - began < LONGEST_CPU_S

        before_mb, until = peak_memory_mb(), time.monotonic() + share_s
        budget = settings(
            max_examples=2 * num_examples if MINUTES else num_examples,
            derandomize=not MINUTES,
            database=None,
            deadline=None,
            suppress_health_check=ANY_HEALTH,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
        )
        while True:
            run = given(examples)(attempt)
            if MINUTES:
                run = seed(random.getrandbits(32))(run)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Generating overly large repr")
                budget(run)()
            if time.monotonic() >= until:
                break
        assert peak_memory_mb() - before_mb < MOST_MEMORY_MB

    return check
