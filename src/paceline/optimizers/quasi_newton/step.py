"""One step of L-BFGS: iterations on one batch, each a direction and a line search along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from paceline.optimizers.quasi_newton.exchange import Numbers
from paceline.optimizers.quasi_newton.flat import block_dots, largest
from paceline.optimizers.quasi_newton.history import History
from paceline.optimizers.quasi_newton.line_search import SEARCHES, Rules
from paceline.optimizers.quasi_newton.objective import Closure, Objective

Status = Literal["", "converged", "max_iter", "max_eval", "line_search_failed", "not_finite"]

LEAST_CURVATURE = 1e-8  # a pair is of use where s'y exceeds this share of |s| |y|
DAMPED_BELOW = 0.2  # of s'Bs (Powell 1978)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What governs a step, the same on every rank.

    Raises: ValueError for what is out of range.
    """

    line_search: str
    max_line_search: int
    max_iter: int
    max_eval: int
    tolerance_grad: float
    tolerance_change: float
    damping: bool

    def __post_init__(self) -> None:
        refuse(
            self.line_search in SEARCHES, f"line_search_fn = {self.line_search!r}; give one of {', '.join(SEARCHES)}"
        )
        for name in ("max_line_search", "max_iter", "max_eval"):
            refuse(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}; give at least 1")
        for name in ("tolerance_grad", "tolerance_change"):
            refuse(0 <= getattr(self, name) < 1, f"{name} = {getattr(self, name)}; give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Closures:
    """What a step was given: for loss and gradient; for those of the overlap; for the loss alone."""

    whole: Closure
    overlap: Closure | None
    loss_only: Closure | None


@dataclass(frozen=True, kw_only=True)
class Products:
    """Sums over all blocks for a gradient g, with ``y``, which is g less the gradient where the iteration began.

    ``rows`` are those with the rows of the history, in their order; ``slope`` is that with the direction; ``largest``
    is max |g|, ``total`` sum |g|.
    """

    y: Tensor
    rows: Numbers
    gg: float
    slope: float
    yg: float
    yy: float
    largest: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point on the line from where an iteration began, ``t`` directions away.

    ``gradient`` is that of the blocks owned, None where only the loss was asked for; the slope is NaN then. Where the
    gradient is not finite, the loss counts as infinite, so that no search takes the point.
    """

    t: float
    loss: float
    slope: float
    place: Tensor
    gradient: Tensor | None = None
    products: Products | None = None


@dataclass(frozen=True, kw_only=True)
class End:
    """Where an iteration began or ended; ``largest`` is the largest parameter there."""

    loss: float
    place: Tensor
    largest: float
    gradient: Tensor
    products: Products


@dataclass(frozen=True, kw_only=True)
class Pair:
    """y of a new pair, and its products: with s, with itself, with the gradients at both ends and with the rows."""

    y: Tensor
    sy: float
    yy: float
    yg: float
    yg_before: float
    with_rows: Numbers


@dataclass(kw_only=True)
class Progress:
    """What steps leave to the next one, beside the history.

    ``status`` is why the last one ended; ``steepest`` the largest max |gradient| that one began with; ``length`` how
    far the last search along the negative gradient went, in the 1-norm, or 0.
    """

    status: Status = ""
    num_iterations: int = 0
    steepest: float = 0.0
    length: float = 0.0


class Step:
    """One call of ``DistributedLBFGS.step``, which takes ``progress`` further."""

    def __init__(
        self,
        settings: Settings,
        objective: Objective,
        history: History,
        progress: Progress,
        closures: Closures,
        *,
        lr: float,
    ) -> None:
        self.settings, self.objective, self.history, self.progress = settings, objective, history, progress
        self.closures, self.lr, self.exchange = closures, lr, objective.exchange
        self._iterations_before, self._evaluations_before = progress.num_iterations, objective.num_evaluations
        self._knows_scale = progress.num_iterations > 0
        self._direction = objective.flat.zeros()
        self._largest_of_direction = 0.0
        self._overlap_gradient: Tensor | None = None  # where the iteration begins
        self._closure_of_end = closures.whole
        self._here: End  # where the iteration begins

    def run(self) -> float:
        """Iterate until there is a reason to stop; leave the parameters at the lowest place found, or where they were.

        Returns: the loss where the step began.
        """
        start = place = self.objective.place
        try:
            loss, gradient = self.objective.at(start, self.closures.whole)
            products = self._measure(gradient, gradient, slope=0.0)
            self._here = End(loss=loss, place=start, largest=largest(start), gradient=gradient, products=products)
            self.progress.status = self._why_not_begin()
            while not self.progress.status:
                self._iterate()
                place = self._here.place
        finally:
            self.objective.write(place)
        return loss

    def _why_not_begin(self) -> Status:
        products = self._here.products
        if not math.isfinite(self._here.loss) or not math.isfinite(products.gg):
            return "not_finite"
        self.progress.steepest = max(self.progress.steepest, products.largest)
        return "converged" if products.largest <= self.settings.tolerance_grad * self.progress.steepest else ""

    def _why_stop(self, before: End, moved: float) -> Status:
        """After an iteration that moved no parameter by more than ``moved``."""
        settings, here, tolerance = self.settings, self._here, self.settings.tolerance_change
        if self._closure_of_end is not self.closures.whole:  # its loss and gradient compare with no other
            return "max_iter"
        if (
            here.products.largest <= settings.tolerance_grad * self.progress.steepest
            or abs(here.loss - before.loss) < tolerance * max(abs(here.loss), abs(before.loss))
            or moved <= tolerance * here.largest
        ):
            return "converged"
        if self.progress.num_iterations - self._iterations_before >= settings.max_iter:
            return "max_iter"
        num_evaluations = self.objective.num_evaluations - self._evaluations_before
        return "max_eval" if num_evaluations >= settings.max_eval else ""

    def _iterate(self) -> None:
        """A line search, by steepest descent if need be."""
        before = self._here
        self._closure_of_end = self._choose_closure_of_end()
        found = self._search()
        if found is None and len(self.history):
            self.history.clear()
            self._knows_scale = False
            found = self._search()
        if found is None:
            self.progress.status = "line_search_failed"
            return
        slope_before, point, end = found
        if not len(self.history):
            self.progress.length = point.t * before.products.total
        self._here = self._remember(slope_before, point, end)
        self.progress.num_iterations += 1
        self.progress.status = self._why_stop(before, point.t * self._largest_of_direction)

    def _choose_closure_of_end(self) -> Closure:
        """Where a last fixed step ends, the overlap alone: nobody needs more than the pair made of it."""
        closures, num_iterations = self.closures, self.progress.num_iterations - self._iterations_before
        is_last = self.settings.line_search == "fixed" and num_iterations + 1 >= self.settings.max_iter
        return closures.overlap if is_last and closures.overlap is not None else closures.whole

    def _search(self) -> tuple[float, Point, End] | None:
        """The slope at the beginning, and where a line search ends; None if no place is lower."""
        settings, here = self.settings, self._here
        slope = self._choose_direction()
        t = self._first_length()
        narrowest = settings.tolerance_change * here.largest / self._largest_of_direction
        rules = Rules(most_evaluations=settings.max_line_search, narrowest=narrowest)
        trials = count()

        def evaluate(t: float) -> Point:
            is_first = next(trials) == 0
            return self._evaluate(t, None if is_first or settings.line_search != "armijo" else self.closures.loss_only)

        start = Point(t=0.0, loss=here.loss, slope=slope, place=here.place, gradient=here.gradient)
        point = SEARCHES[settings.line_search](evaluate, start, t, rules).point
        if point is not None and point.gradient is None:
            point = self._evaluate(point.t)
        if point is None or point.gradient is None or not math.isfinite(point.loss):
            return None
        products = point.products or self._measure(point.gradient, here.gradient, slope=point.slope)
        end = End(
            loss=point.loss, place=point.place, largest=largest(point.place), gradient=point.gradient, products=products
        )
        return slope, point, end

    def _first_length(self) -> float:
        """What a search tries first; along the negative gradient, twice what the last such search ended with."""
        total = self._here.products.total
        if self.settings.line_search == "fixed":  # as torch
            knew, self._knows_scale = self._knows_scale, True
            return self.lr if knew else self.lr * min(1.0, 1 / total)
        if len(self.history):
            return self.lr
        return (2 * self.progress.length or self.lr) / total

    def _choose_direction(self) -> float:
        """Set the direction; returns the slope of the loss along it."""
        products = self._here.products
        scale, coefficients = self.history.coefficients(self.history.by_age(products.rows))
        slope = scale * products.gg + float(coefficients @ products.rows[: len(coefficients)])
        if not (math.isfinite(slope) and slope < 0):
            self.history.clear()
            scale, coefficients, slope = -1.0, np.zeros(0), -products.gg
        own = self.history.combine(scale, coefficients, self._here.gradient)
        self._direction = self.exchange.gather_vector(own)
        self._largest_of_direction = largest(self._direction)
        return slope

    def _evaluate(self, t: float, loss_only: Closure | None = None) -> Point:
        """The point ``t`` directions away; its loss only, if there is a closure for that."""
        place = torch.add(self._here.place, self._direction, alpha=t)
        if loss_only is not None:
            return Point(t=t, loss=self.objective.loss_at(place, loss_only), slope=math.nan, place=place)
        loss, gradient = self.objective.at(place, self._closure_of_end)
        products = None
        if self.exchange.shares:  # all that may be wanted of this point, in one exchange
            products = self._measure(gradient, self._here.gradient, slope=None)
            slope = products.slope
        else:
            slope = float(block_dots(gradient, self._direction).sum())
        self.objective.decide(t, slope)
        if not math.isfinite(slope):
            loss = math.inf
        return Point(t=t, loss=loss, slope=slope, place=place, gradient=gradient, products=products)

    def _measure(self, gradient: Tensor, before: Tensor, *, slope: float | None) -> Products:
        """Products of a gradient of the blocks owned, block by block, then over all; the slope, unless known."""
        y = gradient - before
        nothing = np.zeros(len(y))
        columns = [
            block_dots(gradient, gradient),
            block_dots(gradient, y),
            block_dots(y, y),
            block_dots(gradient, self._direction[self.exchange.owned]) if slope is None else nothing,
            block_dots(gradient.abs(), torch.ones_like(y)) if not len(self.history) else nothing,
            nothing + largest(gradient),
        ]
        rows = self.exchange.gather_rows(np.column_stack([*columns, self.history.products(gradient)]))
        sums = rows.sum(0)
        gg, yg, yy, dg, total, _ = sums[:6].tolist()
        most = float(rows[:, 5].max())
        return Products(
            y=y,
            rows=sums[6:],
            gg=gg,
            slope=dg if slope is None else slope,
            yg=yg,
            yy=yy,
            largest=most,
            total=total or max(math.sqrt(gg * self.objective.flat.size), most),
        )

    def _remember(self, slope_before: float, point: Point, end: End) -> End:
        """Keep the pair of this iteration, if it has curvature; returns the end with its products with that pair."""
        t, direction = point.t, self._direction[self.exchange.owned]
        pair = self._pair(slope_before, point, end)
        if self.closures.overlap is not None:
            pair = self._pair_of_overlap(self.closures.overlap, t, end)
        s_b_s = -t * t * slope_before  # B s = -t g, for the direction is -H g
        if self.settings.damping and len(self.history) and pair.sy < DAMPED_BELOW * s_b_s:
            pair = self._damped(pair, t, s_b_s, end)
        length = t * math.sqrt(float(block_dots(self._direction, self._direction).sum()))
        if not pair.sy > LEAST_CURVATURE * length * math.sqrt(pair.yy):
            return end
        with_y = self.history.by_age(pair.with_rows)
        slot = self.history.append(direction, t, pair.y, sy=pair.sy, yy=pair.yy, with_y=with_y)
        rows = np.zeros(2 * len(self.history))
        rows[: len(end.products.rows)] = end.products.rows
        rows[2 * slot], rows[2 * slot + 1] = t * point.slope, pair.yg
        return replace(end, products=replace(end.products, rows=rows))

    def _pair(self, slope_before: float, point: Point, end: End) -> Pair:
        """y from the gradients of the iteration's two ends; nothing new has to be sent."""
        products, before = end.products, self._here.products
        return Pair(
            y=products.y,
            sy=point.t * (point.slope - slope_before),
            yy=products.yy,
            yg=products.yg,
            yg_before=products.gg - products.yg - before.gg,
            with_rows=products.rows - before.rows[: len(products.rows)],
        )

    def _pair_of_overlap(self, closure: Closure, t: float, end: End) -> Pair:
        """y from the examples of the overlap alone, at both ends."""
        before = self._overlap_gradient
        if before is None:
            _, before = self.objective.at(self._here.place, closure)
        self._overlap_gradient = end.gradient
        if self._closure_of_end is self.closures.whole:
            _, self._overlap_gradient = self.objective.at(end.place, closure)
        y = self._overlap_gradient - before
        others = self._direction[self.exchange.owned], y, end.gradient, self._here.gradient
        columns = [block_dots(y, other) for other in others]
        sums = self.exchange.gather_rows(np.column_stack([*columns, self.history.products(y)])).sum(0)
        dy, yy, yg, yg_before = sums[:4].tolist()
        return Pair(y=y, sy=t * dy, yy=yy, yg=yg, yg_before=yg_before, with_rows=sums[4:])

    def _damped(self, pair: Pair, t: float, s_b_s: float, end: End) -> Pair:
        """A share of y and the rest of Bs, so that s'y is ``DAMPED_BELOW`` of s'Bs."""
        share = (1 - DAMPED_BELOW) * s_b_s / (s_b_s - pair.sy)
        rest, before = (1 - share) * t, self._here.products
        cross = end.products.gg - end.products.yg  # of the gradients at both ends
        return Pair(
            y=share * pair.y - rest * self._here.gradient,
            sy=share * pair.sy + (1 - share) * s_b_s,
            yy=share**2 * pair.yy - 2 * share * rest * pair.yg_before + rest**2 * before.gg,
            yg=share * pair.yg - rest * cross,
            yg_before=share * pair.yg_before - rest * before.gg,
            with_rows=share * pair.with_rows - rest * before.rows[: len(pair.with_rows)],
        )


def refuse(is_fine: bool, message: str) -> None:
    """Raises: ValueError with the message, unless all is fine."""
    if not is_fine:
        raise ValueError(message)
