"""Line searches on numbers: where along a direction to stop. They see losses and slopes only, never vectors.

Every rank runs them on the same numbers, and so takes the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class OnLine(Protocol):
    """A point on the line: its distance ``t`` in units of the direction, the loss there, and its slope."""

    @property
    def t(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def slope(self) -> float: ...


P = TypeVar("P", bound=OnLine)
Evaluate = Callable[[float], P]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a point must meet. ``sufficient`` and ``curvature`` are c1 and c2 of the Wolfe conditions.

    Where the loss changes by less than ``flat`` of itself, its own rounding decides the Armijo test; the slope is asked
    instead (approximate Wolfe condition, Hager and Zhang 2005). ``narrowest`` is the least width of a bracket.
    """

    sufficient: float = 1e-4
    curvature: float = 0.9
    flat: float = 1e-7
    most_evaluations: int = 25
    narrowest: float = 0.0

    def is_lower(self, start: OnLine, point: OnLine) -> bool:
        """Whether the loss has sunk enough, or as well as can be told."""
        return self.is_sufficient(start, point) or self.is_flat(start, point)

    def is_sufficient(self, start: OnLine, point: OnLine) -> bool:
        """Armijo's test; a loss that is not finite fails it."""
        return math.isfinite(point.loss) and point.loss <= start.loss + self.sufficient * point.t * start.slope

    def is_flat(self, start: OnLine, point: OnLine) -> bool:
        """The approximate condition: the losses differ by their rounding only, and the slope says that it went down."""
        is_close = abs(point.loss - start.loss) <= self.flat * abs(start.loss)
        return is_close and point.slope <= (2 * self.sufficient - 1) * start.slope

    def is_less_steep(self, start: OnLine, point: OnLine) -> bool:
        """The weak curvature condition."""
        return point.slope >= self.curvature * start.slope

    def is_stationary(self, start: OnLine, point: OnLine) -> bool:
        """The strong curvature condition."""
        return abs(point.slope) <= -self.curvature * start.slope


@dataclass(frozen=True, kw_only=True)
class Found(Generic[P]):
    """Where a search ended; ``point`` is None where nothing lower was found, ``is_met`` whether its test is met."""

    point: P | None
    is_met: bool


def fixed(evaluate: Evaluate[P], _start: P, t: float, _rules: Rules) -> Found[P]:
    """Take the step as it is, unless the loss there is not finite."""
    point = evaluate(t)
    is_finite = math.isfinite(point.loss)
    return Found(point=point if is_finite else None, is_met=is_finite)


def armijo(evaluate: Evaluate[P], start: P, t: float, rules: Rules) -> Found[P]:
    """Halve the step until the loss has sunk enough. Slopes may be NaN: unknown."""
    best: P | None = None
    for _ in range(rules.most_evaluations):
        point = evaluate(t)
        is_approximate = rules.is_flat(start, point) and rules.is_less_steep(start, point)
        if rules.is_sufficient(start, point) or is_approximate:
            return Found(point=point, is_met=True)
        best = _lower(start, best, point)
        if t <= rules.narrowest:
            break
        t /= 2
    return Found(point=best, is_met=False)


def weak_wolfe(evaluate: Evaluate[P], start: P, t: float, rules: Rules) -> Found[P]:
    """Bisection for the weak Wolfe conditions (Lewis and Overton 2013): it needs no smoothness and cannot stall."""
    low, high = 0.0, math.inf
    best: P | None = None
    for _ in range(rules.most_evaluations):
        point = evaluate(t)
        if not rules.is_lower(start, point):
            high = t
        elif rules.is_less_steep(start, point):
            return Found(point=point, is_met=True)
        else:
            low = t
        best = _lower(start, best, point)
        if high - low <= rules.narrowest:
            break
        t = (low + high) / 2 if high < math.inf else 2 * low
    return Found(point=best, is_met=False)


def strong_wolfe(evaluate: Evaluate[P], start: P, t: float, rules: Rules) -> Found[P]:
    """Bracket, then narrow by cubics, for the strong Wolfe conditions; evaluates where ``torch.optim.LBFGS`` does."""
    before: P = start
    for number in range(1, rules.most_evaluations + 1):
        point = evaluate(t)
        rises = not rules.is_lower(start, point) or (number > 2 and point.loss >= before.loss)
        if not rises and rules.is_stationary(start, point):
            return Found(point=point, is_met=True)
        if rises or point.slope >= 0:
            return _zoom(evaluate, start, (before, point), rules, most=rules.most_evaluations - number)
        t = _minimum_of_cubic(before, point, t + 0.01 * (t - before.t), t * 10)
        before = point
    return Found(point=_lower(start, None, before), is_met=False)


def _zoom(evaluate: Evaluate[P], start: P, bracket: tuple[P, P], rules: Rules, *, most: int) -> Found[P]:
    """Narrow a bracket that holds a point which meets the strong Wolfe conditions."""
    low, high = sorted(bracket, key=_height)
    was_at_edge = False
    for _ in range(most):
        left, right = (low, high) if low.t <= high.t else (high, low)
        first, last = left.t, right.t
        if last - first <= rules.narrowest:
            break
        t = _minimum_of_cubic(left, right, first, last)
        edge = 0.1 * (last - first)
        if min(last - t, t - first) < edge:
            if was_at_edge or t >= last or t <= first:
                t = last - edge if abs(t - last) < abs(t - first) else first + edge
                was_at_edge = False
            else:
                was_at_edge = True
        else:
            was_at_edge = False
        point = evaluate(t)
        if not rules.is_lower(start, point) or (point.loss >= low.loss and not rules.is_flat(start, point)):
            low, high = sorted((low, point), key=_height)
            continue
        if rules.is_stationary(start, point):
            return Found(point=point, is_met=True)
        if point.slope * (high.t - low.t) >= 0:
            high = low
        low = point
    return Found(point=_lower(start, None, low), is_met=False)


def _minimum_of_cubic(left: OnLine, right: OnLine, least: float, most: float) -> float:
    """Where the cubic through two points has its minimum, within bounds; their middle where it has none."""
    numbers = (left.loss, left.slope, right.loss, right.slope)
    if left.t == right.t or not all(map(math.isfinite, numbers)):
        return (least + most) / 2
    d1 = left.slope + right.slope - 3 * (left.loss - right.loss) / (left.t - right.t)
    square = d1 * d1 - left.slope * right.slope
    if square < 0:
        return (least + most) / 2
    d2 = math.sqrt(square)
    above, below = right.slope + d2 - d1, right.slope - left.slope + 2 * d2
    if below == 0:  # a straight line
        return (least + most) / 2 if above == 0 else most if above < 0 else least
    t = right.t - (right.t - left.t) * (above / below)
    return min(max(t, least), most)


def _height(point: OnLine) -> float:
    return point.loss if math.isfinite(point.loss) else math.inf


def _lower(start: P, best: P | None, point: P) -> P | None:
    """The lowest of the points that lie below the start."""
    bar = start.loss if best is None else best.loss
    return point if math.isfinite(point.loss) and point.loss < bar else best


SEARCHES = {"strong_wolfe": strong_wolfe, "weak_wolfe": weak_wolfe, "armijo": armijo, "fixed": fixed}
