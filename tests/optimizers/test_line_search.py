"""Line searches on functions of one number, among them such as have no smooth minimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("torch")

from paceline.optimizers.quasi_newton.line_search import (
    Found,
    Rules,
    armijo,
    fixed,
    strong_wolfe,
    weak_wolfe,
)

SEARCHES = {"armijo": armijo, "weak_wolfe": weak_wolfe, "strong_wolfe": strong_wolfe}


@dataclass(frozen=True)
class Point:
    t: float
    loss: float
    slope: float


class Function:
    """A loss and its slope; remembers where it was asked."""

    def __init__(self, loss: Callable[[float], float], slope: Callable[[float], float]) -> None:
        self.loss, self.slope = loss, slope
        self.asked: list[Point] = []

    def __call__(self, t: float) -> Point:
        self.asked.append(Point(t, self.loss(t), self.slope(t)))
        return self.asked[-1]

    @property
    def start(self) -> Point:
        return Point(0.0, self.loss(0.0), self.slope(0.0))


def _pole(t: float) -> float:
    """(t - 1)^2 up to 1.5, and nothing beyond."""
    return (t - 1) ** 2 if t < 1.5 else math.inf


HARD = {
    "parabola": (lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1)),
    "kink": (lambda t: abs(t - 0.3), lambda t: math.copysign(1.0, t - 0.3)),
    "lopsided kink": (lambda t: max(-t, 100 * (t - 0.01)), lambda t: -1.0 if -t > 100 * (t - 0.01) else 100.0),
    "plateau": (lambda t: max(0.0, 1 - t), lambda t: -1.0 if t < 1 else 0.0),
    "pole": (_pole, lambda t: 2 * (t - 1) if t < 1.5 else math.nan),
    "wall": (
        lambda t: -t - 0.1 * math.log(2 - t) if t < 2 else math.nan,
        lambda t: 0.1 / (2 - t) - 1 if t < 2 else math.nan,
    ),
    "log": (lambda t: t - math.log(t + 1e-3), lambda t: 1 - 1 / (t + 1e-3)),
    "slope that jumps": (lambda t: -t if t < 1 else -1 + 3 * (t - 1), lambda t: -1.0 if t < 1 else 3.0),
    "waves": (lambda t: math.cos(9 * t) - t, lambda t: -9 * math.sin(9 * t) - 1),
    "far away": (lambda t: (t / 1e6 - 1) ** 2, lambda t: 2e-6 * (t / 1e6 - 1)),
    "close by": (lambda t: (1e6 * t - 1) ** 2, lambda t: 2e6 * (1e6 * t - 1)),
    "quartic": (lambda t: (t - 2) ** 4, lambda t: 4 * (t - 2) ** 3),
}
SMOOTH = ("parabola", "pole", "wall", "log", "waves", "far away", "close by", "quartic")


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 7.0, 1e3])
@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_ends_lower_than_it_began(search, name, first):
    """Where it says that its test is met, it is; it never takes a loss or slope that is not finite."""
    function, rules = Function(*HARD[name]), Rules(most_evaluations=60)
    found = SEARCHES[search](function, function.start, first, rules)
    assert found.point is not None
    assert found.point.loss < function.start.loss
    assert math.isfinite(found.point.slope)
    assert len(function.asked) <= 60
    if found.is_met:
        assert found.point.loss <= function.start.loss + 1e-4 * found.point.t * function.start.slope
    if found.is_met and search == "weak_wolfe":
        assert found.point.slope >= 0.9 * function.start.slope
    if found.is_met and search == "strong_wolfe":
        assert abs(found.point.slope) <= 0.9 * abs(function.start.slope)


@pytest.mark.parametrize("first", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", HARD)
def test_weak_wolfe_always_meets_its_test(name, first):
    """Lewis and Overton prove it for what is Lipschitz and bounded below: kinks and jumping slopes, too."""
    function = Function(*HARD[name])
    assert weak_wolfe(function, function.start, first, Rules(most_evaluations=60)).is_met


@pytest.mark.parametrize("first", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", SMOOTH)
def test_strong_wolfe_meets_its_test_where_the_slope_is_continuous(name, first):
    """Nocedal and Wright, lemma 3.1."""
    function = Function(*HARD[name])
    assert strong_wolfe(function, function.start, first, Rules(most_evaluations=60)).is_met


@pytest.mark.parametrize("search", SEARCHES)
def test_nothing_is_found_where_everything_is_higher(search):
    """A direction that does not descend, whatever its slope says: None, after no more evaluations than allowed."""
    function = Function(lambda t: t, lambda t: -1.0)
    found = SEARCHES[search](function, function.start, 1.0, Rules(most_evaluations=12))
    assert found == Found(point=None, is_met=False)
    assert len(function.asked) == 12


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("search", [*SEARCHES.values(), fixed])
def test_no_number_is_no_step(search, bad):
    """Everything but the start is NaN or infinite."""
    function = Function(lambda t: bad if t else 1.0, lambda t: math.nan if t else -1.0)
    found = search(function, function.start, 1.0, Rules(most_evaluations=8))
    assert found.point is None
    assert not found.is_met


@pytest.mark.parametrize("search", SEARCHES)
def test_a_bracket_narrower_than_it_may_be_ends_the_search(search):
    """Evaluations that could not move any parameter are not made."""
    function = Function(lambda t: t, lambda t: -1.0)
    SEARCHES[search](function, function.start, 1.0, Rules(most_evaluations=60, narrowest=1e-3))
    assert len(function.asked) < 30


@pytest.mark.parametrize("search", ["weak_wolfe", "strong_wolfe"])
def test_near_convergence_the_slope_decides(search):
    """The change of the loss is below its last bit in float32, and its noise is larger than what Armijo asks for."""

    def loss(t: float) -> float:
        return float(np.float32(1.0 + 1e-9 * (t - 1) ** 2)) + 6e-8 * (t > 0.5)

    function = Function(loss, lambda t: 2e-9 * (t - 1))
    found = SEARCHES[search](function, function.start, 1.0, Rules())
    assert found.is_met
    assert found.point.t == pytest.approx(1.0)
    plain = Function(loss, lambda t: 2e-9 * (t - 1))
    assert not SEARCHES[search](plain, plain.start, 1.0, Rules(flat=-1.0)).is_met


def test_without_a_slope_the_plain_test_of_armijo_holds():
    """A loss that was asked for alone says nothing of the slope, and must have sunk."""
    rules, start = Rules(), Point(0.0, 1.0, -1e-9)
    assert not rules.is_lower(start, Point(1.0, 1.0 + 5e-8, math.nan))
    assert rules.is_lower(start, Point(1.0, 0.9, math.nan))


def test_strong_wolfe_evaluates_where_torch_does():
    """The same trial points as ``torch.optim.lbfgs._strong_wolfe``, bracketing, cubics and all."""
    import torch
    from torch.optim.lbfgs import _strong_wolfe

    for name in set(HARD) - {"pole", "wall"}:  # torch takes what is not finite
        for first in (1e-3, 0.1, 1.0, 7.0):
            function, theirs = Function(*HARD[name]), Function(*HARD[name])

            def evaluate(_x, t, _d, theirs=theirs):
                point = theirs(float(t))
                return point.loss, torch.tensor([point.slope], dtype=torch.float64)

            strong_wolfe(function, function.start, first, Rules())
            slope = torch.tensor([theirs.start.slope], dtype=torch.float64)
            one = torch.ones(1, dtype=torch.float64)
            _strong_wolfe(evaluate, None, first, one, theirs.start.loss, slope, slope[0], tolerance_change=0.0)
            assert [point.t for point in function.asked] == pytest.approx(
                [point.t for point in theirs.asked[:25]], rel=1e-12
            ), f"{name} from {first}"  # torch makes one more than it was allowed
