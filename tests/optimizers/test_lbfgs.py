"""DistributedLBFGS in one process: beside torch's, on problems with a known minimum, and on what it must refuse."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from optimizers.problems import Digits, quadratic, rosenbrock, with_gradient
from paceline.optimizers.lbfgs import DistributedLBFGS, RankFailedError
from paceline.optimizers.quasi_newton.flat import Flat, bits_digest, block_dots, largest
from paceline.optimizers.quasi_newton.history import History

SEARCHES = ["weak_wolfe", "strong_wolfe", "armijo"]


pytestmark = pytest.mark.usefixtures("one_thread")


def vector(*values: float, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def steps(optimizer, closure, num_steps: int) -> tuple[list[float], int]:
    """The losses where steps began, and how often the closure was called."""
    num_calls = 0

    def counted():
        nonlocal num_calls
        num_calls += 1
        return closure()

    return [float(optimizer.step(counted)) for _ in range(num_steps)], num_calls


def double(digits: Digits) -> Digits:
    digits.model.double()
    digits.batch = type(digits.batch)(digits.batch.inputs.double(), digits.batch.targets)
    return digits


# beside torch


@pytest.mark.parametrize(
    ("workload", "line_search", "num_steps"),
    [("logreg-mnist", "strong_wolfe", 2), ("lenet5-mnist", "strong_wolfe", 2), ("logreg-mnist", None, 4)],
)
def test_it_goes_where_torch_goes_on_digits(workload, line_search, num_steps):
    """Full batch: the same losses step by step, and with strong Wolfe the same number of evaluations."""
    settings = {"lr": 1.0 if line_search else 0.1, "max_iter": 10, "history_size": 10, "line_search_fn": line_search}
    found = []
    for build in (torch.optim.LBFGS, DistributedLBFGS):
        digits = double(Digits(workload, num_examples=100))
        found.append(steps(build(digits.model.parameters(), **settings), digits.mean(), num_steps))
    (losses, num_calls), (own_losses, own_calls) = found
    assert own_losses == pytest.approx(losses, rel=1e-7)
    assert own_losses[-1] < 0.2 * own_losses[0]
    assert own_calls == num_calls + (0 if line_search else num_steps)  # it also looks where a fixed step ends


def test_it_goes_where_torch_goes_in_float32():
    """To 1e-5 over 23 evaluations; later, rounding decides."""
    found = []
    for build in (torch.optim.LBFGS, DistributedLBFGS):
        digits = Digits(num_examples=1000)
        optimizer = build(digits.model.parameters(), max_iter=10, line_search_fn="strong_wolfe")
        found.append(steps(optimizer, digits.mean(), 2))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == found[0][1] == 23


def test_it_goes_where_torch_goes_on_a_quadratic():
    """94 evaluations over which the loss falls by five digits."""
    function, _ = quadratic(100, condition=1e3)
    found = []
    for build in (torch.optim.LBFGS, DistributedLBFGS):
        x = torch.zeros(100, dtype=torch.float64, requires_grad=True)
        optimizer = build([x], max_iter=10, history_size=10, line_search_fn="strong_wolfe")
        found.append(steps(optimizer, with_gradient([x], lambda x=x: function(x)), 8))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-9)
    assert found[1][1] == found[0][1] == 94


# problems with a known minimum


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("line_search", SEARCHES)
def test_rosenbrock(line_search, dtype):
    """Its minimum at ones, from the usual start (-1.2, 1), in 2 and 10 dimensions."""
    for pairs in (1, 5):
        x = vector(*[-1.2, 1.0] * pairs, dtype=dtype)
        optimizer = DistributedLBFGS([x], max_iter=300, line_search_fn=line_search)
        optimizer.step(with_gradient([x], lambda x=x: rosenbrock(x)))
        assert optimizer.status == "converged"
        assert (x.detach() - 1).abs().max() < 1e-4
        assert optimizer.num_evaluations < 130


def test_a_quadratic_of_condition_1e6():
    """Relative error of the minimum below 1e-8 where the history spans the space."""
    function, minimum = quadratic(50, condition=1e6)
    x = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    optimizer = DistributedLBFGS([x], max_iter=1000, tolerance_grad=1e-14, tolerance_change=0)
    optimizer.step(with_gradient([x], lambda: function(x)))
    assert (x.detach() - minimum).norm() < 1e-8 * minimum.norm()


@pytest.mark.parametrize("line_search", SEARCHES)
def test_it_fits_digits(line_search):
    """Logistic regression: 1,000 digits can be separated, so that the loss goes to zero."""
    digits = Digits(num_examples=1000)
    DistributedLBFGS(digits.model.parameters(), max_iter=60, line_search_fn=line_search).step(digits.mean())
    assert digits.loss_sum().item() / 1000 < 1e-4


@pytest.mark.parametrize("line_search", SEARCHES)
def test_lenet5_full_batch(line_search):
    """Trains to a small loss within 40 iterations."""
    digits = Digits("lenet5-mnist", num_examples=200)
    DistributedLBFGS(digits.model.parameters(), max_iter=40, line_search_fn=line_search).step(digits.mean())
    assert digits.loss_sum().item() / 200 < 0.05


def test_exclusive_or():
    """A small network learns what no linear one can (torch's own test of its C++ L-BFGS)."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 1), torch.nn.Sigmoid())
    inputs = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    targets = torch.tensor([[0.0], [1], [1], [0]])
    closure = with_gradient(
        model.parameters(), lambda: torch.nn.functional.binary_cross_entropy(model(inputs), targets)
    )
    optimizer = DistributedLBFGS(model.parameters(), max_iter=200)
    optimizer.step(closure)
    assert closure() < 0.1


@pytest.mark.parametrize("line_search", SEARCHES)
def test_the_scale_of_the_loss_does_not_matter(line_search):
    """Times 1e8 and 1e-8: the same numbers of iterations and evaluations, nearly the same parameters."""
    found = {}
    for scale in (1e-8, 1.0, 1e8):
        digits = Digits(num_examples=500)
        optimizer = DistributedLBFGS(digits.model.parameters(), max_iter=15, line_search_fn=line_search)
        optimizer.step(digits.mean(scale=scale))
        found[scale] = (optimizer.num_iterations, optimizer.num_evaluations), digits.model.linear.weight.detach()
    for scale in (1e-8, 1e8):
        assert found[scale][0] == found[1.0][0]
        assert (found[scale][1] - found[1.0][1]).norm() < 1e-2 * found[1.0][1].norm()


@pytest.mark.parametrize("line_search", ["weak_wolfe", "strong_wolfe"])
def test_near_convergence_the_slope_leads_on(line_search):
    """In float32, ten above a parabola, the loss cannot tell 1e-4 from the minimum; its slope can."""
    x = vector(1.0, -2.0, 3.0, dtype=torch.float32)
    scales = torch.tensor([1.0, 3.0, 10.0])
    closure = with_gradient([x], lambda: 10 + (scales * x * x).sum())
    optimizer = DistributedLBFGS(
        [x], max_iter=60, line_search_fn=line_search, tolerance_change=0.0, tolerance_grad=1e-6
    )
    optimizer.step(closure)
    assert optimizer.status == "converged"
    assert x.abs().max() < 1e-5


# the direction


def two_loops(pairs, gradient):
    """Algorithm 7.4 of Nocedal and Wright: -H g."""
    q, weights = gradient.clone(), []
    for s, y in reversed(pairs):
        weights.append(s.dot(q) / y.dot(s))
        q -= weights[-1] * y
    s, y = pairs[-1]
    q *= s.dot(y) / y.dot(y)
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - y.dot(q) / y.dot(s)) * s
    return -q


@pytest.mark.parametrize("size", [1, 5, 50])
def test_the_direction_is_that_of_the_two_loops(size):
    """In float64 to 1e-9, after every one of more pairs than there is room for."""
    generator = torch.Generator().manual_seed(size)
    shape = (4, 48)
    scales = torch.logspace(-2, 2, 192, dtype=torch.float64).view(shape)
    history = History(size, *shape, dtype=torch.float64, device=torch.device("cpu"))
    pairs = []
    for number in range(2 * size + 3):
        s, noise, gradient = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
        y = scales * s + 0.01 * noise
        with_y = history.by_age(history.products(y).sum(0))
        history.append(s, 1.0, y, sy=float((s * y).sum()), yy=float((y * y).sum()), with_y=with_y)
        pairs = [*pairs, (s.flatten(), y.flatten())][-size:]
        scale, coefficients = history.coefficients(history.by_age(history.products(gradient).sum(0)))
        direction = history.combine(scale, coefficients, gradient).flatten()
        expected = two_loops(pairs, gradient.flatten())
        assert (direction - expected).norm() < 1e-9 * expected.norm(), f"after {number + 1} pairs"


def test_bits_do_not_depend_on_the_number_of_threads():
    """Dots, products with the history, directions, digests and the largest value, on sizes odd and even."""
    generator = torch.Generator().manual_seed(0)
    found: dict[int, list[object]] = {1: [], 2: []}
    for num_blocks, block_size in ((8, 16), (8, 7728), (9, 48016), (16, 65536)):
        left, right, *rest = torch.randn(10, num_blocks, block_size, generator=generator)
        history = History(4, num_blocks, block_size, dtype=torch.float32, device=left.device)
        for s, y in zip(rest[::2], rest[1::2], strict=True):
            with_y = history.by_age(history.products(y).sum(0))
            history.append(s, 1.0, y, sy=float(block_dots(s, y).sum()), yy=1.0, with_y=with_y)
        for num_threads in found:
            torch.set_num_threads(num_threads)
            combined = history.combine(0.3, np.linspace(-1, 1, 8), left)
            found[num_threads] += [
                block_dots(left, right).tobytes(),
                history.products(left).tobytes(),
                combined.numpy().tobytes(),
                bits_digest(combined),
                largest(combined),
            ]
    assert found[1] == found[2]


def test_the_digest_tells_rounding_apart():
    """Two values off by one bit each, one up and one down, in one block or two; and two values exchanged."""
    vectors = torch.ones(4, 64)
    digests = {bits_digest(vectors)}
    for changes in ([(0, 0, 1)], [(0, 0, 1), (0, 1, -1)], [(0, 0, 1), (1, 0, -1)], [(0, 1, 1), (1, 0, -1)]):
        changed = vectors.clone()
        for row, column, bits in changes:
            changed.view(torch.int32)[row, column] += bits
        digests.add(bits_digest(changed))
    assert len(digests) == 5
    doubles = torch.ones(4, 64, dtype=torch.float64)
    doubles[0, 0] += 2e-16
    assert bits_digest(doubles) != bits_digest(torch.ones(4, 64, dtype=torch.float64))


# what is not finite


@pytest.mark.parametrize("line_search", [*SEARCHES, None])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_a_number_is_never_accepted(line_search, what):
    """Beyond |x| > 0.9 loss or gradient is NaN, and that is where the first trials land."""
    x = vector(0.0, 0.5)

    def closure():
        x.grad = 2 * (x.detach() - 3.0)
        loss = ((x.detach() - 3.0) ** 2).sum()
        if x.abs().max() > 0.9:
            if what == "loss":
                return loss * math.nan
            x.grad[0] = math.nan
        return loss

    optimizer = DistributedLBFGS([x], lr=1.0, max_iter=20, line_search_fn=line_search)
    before = float(optimizer.step(closure))
    after = float(optimizer.step(closure))
    assert optimizer.status in ("line_search_failed", "converged", "max_eval")
    assert torch.isfinite(x).all() and x.abs().max() <= 0.9
    assert after <= before


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_that_is_not_finite_changes_nothing(bad):
    """Loss or gradient: the status says so, the loss is handed back, and parameters stay; groups of two metrics too."""
    x, other = vector(1.0, 2.0), vector(0.1)
    groups = [{"params": [x]}, {"params": [other], "lr": 0.3}]
    for loss, gradient in ((bad, 1.0), (1.0, bad)):
        optimizer = DistributedLBFGS(groups)

        def closure(loss=loss, gradient=gradient):
            x.grad, other.grad = torch.full_like(x, gradient), torch.ones_like(other)
            return loss

        value = float(optimizer.step(closure))
        assert optimizer.status == "not_finite"
        assert value == loss or (math.isnan(loss) and math.isnan(value))
        assert torch.equal(x.detach(), vector(1.0, 2.0).detach())


@pytest.mark.parametrize("line_search", SEARCHES)
def test_a_search_that_fails_says_so_and_stays(line_search):
    """Gradients that point the wrong way: no place is lower."""
    x = vector(1.0, 2.0)

    def closure():
        x.grad = -2 * x.detach()
        return (x.detach() ** 2).sum()

    optimizer = DistributedLBFGS([x], line_search_fn=line_search)
    optimizer.step(closure)
    assert optimizer.status == "line_search_failed"
    assert x.tolist() == [1.0, 2.0]


def test_an_error_in_the_closure_leaves_the_best_place():
    """Not the place of the trial in which it was raised."""
    x = vector(-1.2, 1.0)
    good = with_gradient([x], lambda: rosenbrock(x))
    places = []

    def closure():
        places.append(x.tolist())
        if len(places) == 12:
            raise RuntimeError("out of order")
        return good()

    optimizer = DistributedLBFGS([x])
    with pytest.raises(RuntimeError, match=r"^out of order$"):
        optimizer.step(closure)
    assert x.tolist() in places[:11]
    assert float(good()) == min(float(rosenbrock(torch.tensor(place, dtype=torch.float64))) for place in places[:11])


# what it is told


def test_learning_rates_of_groups_are_a_metric():
    """The first direction is -lr * gradient, group by group."""
    x, z = vector(1.0, 1.0), vector(1.0)
    optimizer = DistributedLBFGS([{"params": [x], "lr": 0.5}, {"params": [z], "lr": 2.0}], max_iter=1)
    gradient = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    optimizer.step(with_gradient([x, z], lambda: (gradient * torch.cat([x, z])).sum() + 10))
    moved = 1 - torch.cat([x, z]).detach()
    expected = gradient * torch.tensor([0.5, 0.5, 2.0])
    assert torch.allclose(moved / moved[0], expected / expected[0], rtol=1e-12)


@pytest.mark.parametrize("lrs", [(1.0, 1.0), (1.0, 0.25)])
def test_weight_decay_is_a_penalty_in_the_loss(lrs):
    """The same path as with the penalty written into the closure, also with groups of two metrics."""
    paths = []
    for explicit in (False, True):
        x, z = vector(-1.2, 1.0, 0.7), vector(2.0, -1.0)

        def loss(x=x, z=z, explicit=explicit):
            value = rosenbrock(x) + ((z - 1) ** 2).sum() * x[0] ** 2
            return value + 0.15 * (x @ x) + 0.25 * (z @ z) if explicit else value

        decays = (0.0, 0.0) if explicit else (0.3, 0.5)
        groups = [
            {"params": [one], "lr": lr, "weight_decay": decay}
            for one, lr, decay in zip((x, z), lrs, decays, strict=True)
        ]
        optimizer = DistributedLBFGS(groups, max_iter=12)
        optimizer.step(with_gradient([x, z], loss))
        paths.append(torch.cat([x, z]).detach())
    assert torch.allclose(*paths, rtol=1e-8)


def test_another_metric_drops_the_pairs():
    """A schedule that changes learning rates alike keeps them."""
    x, z = vector(-1.2, 1.0), vector(3.0)
    optimizer = DistributedLBFGS([{"params": [x]}, {"params": [z]}], max_iter=5)
    closure = with_gradient([x, z], lambda: rosenbrock(x) + (z * z).sum())
    optimizer.step(closure)
    num_pairs = len(optimizer.state_dict()["state"]["slots"])
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step(closure)
    assert len(optimizer.state_dict()["state"]["slots"]) > num_pairs
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step(closure)
    assert len(optimizer.state_dict()["state"]["slots"]) <= 5
    for _ in range(20):
        optimizer.step(closure)
    assert float(closure()) < 1e-6


def test_bfloat16_parameters_keep_a_float32_history():
    """And float32 places: steps too small for bfloat16 add up over steps."""
    x = torch.full((40,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    target = 1.3
    optimizer = DistributedLBFGS([x], lr=1e-3, max_iter=1, line_search_fn="fixed", history_size=1)

    def closure():
        x.grad = (x.detach() - target).sign()  # a constant slope: no pair has curvature, each step is 1e-3
        return float((x.detach().float() - target).abs().mean())

    assert optimizer.state_dict()["state"]["rows"].dtype == torch.float32
    for _ in range(100):
        optimizer.step(closure)
    assert x.dtype == torch.bfloat16
    assert 1.07 < float(x[0].detach()) < 1.12
    with torch.no_grad():
        x.fill_(0.5)  # somebody else changed them
    optimizer.step(closure)
    assert float(x[0].detach()) == 0.5


def test_bfloat16_digits():
    """The loss falls as far as that precision lets it."""
    digits = Digits(num_examples=500)
    digits.model.bfloat16()
    digits.batch = type(digits.batch)(digits.batch.inputs.bfloat16(), digits.batch.targets)
    optimizer = DistributedLBFGS(digits.model.parameters(), max_iter=30)
    first = float(optimizer.step(digits.mean()))
    assert digits.loss_sum().item() / 500 < 0.1 * first


def test_shapes_of_all_kinds():
    """A scalar, a matrix whose gradient lies otherwise in memory, an empty one, fewer elements than blocks."""
    scalar = torch.tensor(3.0, requires_grad=True)
    matrix = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    nothing = torch.zeros(0, 3, requires_grad=True)

    def closure():
        scalar.grad = 2 * scalar.detach()
        matrix.grad = (2 * matrix.detach()).contiguous(memory_format=torch.channels_last)
        nothing.grad = torch.zeros(0, 3)
        return scalar.detach() ** 2 + (matrix.detach() ** 2).sum()

    DistributedLBFGS([scalar, matrix, nothing]).step(closure)
    assert float(scalar.detach()) == pytest.approx(0, abs=1e-4)
    assert matrix.abs().max() < 1e-4
    one = vector(5.0)
    DistributedLBFGS([one]).step(with_gradient([one], lambda: one @ one))
    assert float(one.detach()) == pytest.approx(0, abs=1e-6)


def test_mixed_precisions_are_kept_in_the_highest():
    """float32 and float64 parameters in one optimizer."""
    x, z = vector(-1.2, 1.0), vector(2.0, dtype=torch.float32)
    optimizer = DistributedLBFGS([x, z], max_iter=100)
    optimizer.step(with_gradient([x, z], lambda: rosenbrock(x) + (z.double() ** 2).sum()))
    assert (x.detach() - 1).abs().max() < 1e-5
    assert z.abs().max() < 1e-5


def test_dropout_is_frozen_within_a_step():
    """Every evaluation of a step sees one network, the next step another."""
    torch.manual_seed(0)
    layer, dropout = torch.nn.Linear(20, 1), torch.nn.Dropout(0.5)
    inputs = torch.ones(30, 20)
    masks: list[tuple[float, ...]] = []

    def loss():
        dropped = dropout(inputs)
        masks.append(tuple(dropped.flatten().tolist()))
        return (layer(dropped) - 1).square().mean()

    optimizer = DistributedLBFGS(layer.parameters(), max_iter=4)
    closure = with_gradient(layer.parameters(), loss)
    optimizer.step(closure)
    in_first = len(masks)
    assert in_first > 3
    optimizer.step(closure)
    assert len(set(masks[:in_first])) == 1
    assert len(set(masks[in_first:])) == 1
    assert masks[0] != masks[-1]


def test_running_statistics_are_updated_once_a_step():
    """As the first evaluation leaves them."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    inputs, targets = torch.randn(16, 3), torch.randn(16, 1)
    closure = with_gradient(model.parameters(), lambda: (model(inputs) - targets).square().mean())
    hidden = model[0](inputs).detach()
    optimizer = DistributedLBFGS(model.parameters(), max_iter=5, buffers=model.buffers())
    optimizer.step(closure)
    assert optimizer.num_evaluations > 5
    assert int(model[1].num_batches_tracked) == 1
    assert torch.allclose(model[1].running_mean, 0.1 * hidden.mean(0), atol=1e-6)
    optimizer.step(closure)
    assert int(model[1].num_batches_tracked) == 2


@pytest.mark.parametrize("damping", [False, True])
def test_minibatches_with_overlap(damping):
    """Each batch shares a third with the one before; pairs come from what both ends have in common."""
    digits = Digits(num_examples=2000)
    optimizer = DistributedLBFGS(
        digits.model.parameters(), lr=0.3, max_iter=1, history_size=10, line_search_fn="armijo", damping=damping
    )
    first = digits.loss_sum().item() / 2000
    num_steps = 40
    for number in range(num_steps):
        begin = number * 200 % 1600
        closures = digits.mean(slice(begin, begin + 300)), digits.mean(slice(begin + 200, begin + 300))
        optimizer.step(closures[0], overlap_closure=closures[1])
    assert digits.loss_sum().item() / 2000 < 0.2 * first
    assert optimizer.num_evaluations >= 4 * num_steps, "two of the batch and two of the overlap"


@pytest.mark.parametrize("max_iter", [1, 3])
def test_the_last_fixed_step_evaluates_only_the_overlap_where_it_ends(max_iter):
    """And keeps as y what the overlap's gradients differ by."""
    digits = Digits(num_examples=300)
    calls = []

    def counted(name, closure):
        return lambda: (calls.append(name), closure())[1]

    optimizer = DistributedLBFGS(
        digits.model.parameters(), lr=0.3, max_iter=max_iter, max_eval=99, line_search_fn="fixed"
    )
    whole, overlap = counted("whole", digits.mean()), counted("overlap", digits.mean(slice(0, 100)))
    places, gradients = [], []
    for _ in range(3):
        places.append(parameters_to_vector(digits.model.parameters()).detach().double())
        overlap()
        gradients.append(torch.cat([one.grad.flatten() for one in digits.model.parameters()]).double())
        calls.clear()
        optimizer.step(whole, overlap_closure=overlap)
        assert calls.count("whole") == max_iter
        assert calls.count("overlap") == max_iter + 1
        assert optimizer.status == "max_iter"
    if max_iter == 1:
        state = optimizer.state_dict()["state"]
        rows = state["rows"].view(-1, 2, state["rows"].shape[1])[state["slots"]].double()[:, :, : places[0].numel()]
        assert torch.allclose(rows[0, 0], places[1] - places[0], atol=1e-6)
        assert torch.allclose(rows[0, 1], gradients[1] - gradients[0], atol=1e-6)


def test_damping_bends_pairs_of_negative_curvature():
    """Where the loss is concave, no pair is left out, and each has a fifth of the curvature expected."""
    num_pairs = []
    for damping in (False, True):
        x = vector(0.3, 1.0, -2.0)
        optimizer = DistributedLBFGS([x], max_iter=12, line_search_fn="armijo", damping=damping)
        optimizer.step(with_gradient([x], lambda x=x: torch.cos(x).sum() + 0.05 * (x @ x)))
        num_pairs.append((len(optimizer.state_dict()["state"]["slots"]), optimizer.num_iterations))
        assert torch.sin(x.detach()).sub(0.1 * x.detach()).abs().max() < 1e-2
    assert num_pairs[1][0] >= num_pairs[1][1] - 1


def test_damped_products_are_those_of_the_damped_vectors():
    """What is kept of s'y and y'y is what the rows give."""
    x = vector(0.3, 1.0, -2.0, 0.1)
    optimizer = DistributedLBFGS([x], max_iter=9, line_search_fn="fixed", lr=0.7, damping=True)
    closure = with_gradient([x], lambda: torch.cos(x).sum() + 0.05 * (x @ x) + 0.1 * x[0] * x[1])
    for _ in range(3):
        optimizer.step(closure, overlap_closure=closure)
    state = optimizer.state_dict()["state"]
    rows = state["rows"].view(-1, 2, state["rows"].shape[1])[state["slots"]]
    assert len(rows) > 3
    s, y = rows[:, 0], rows[:, 1]
    assert torch.allclose(torch.triu(s @ y.T), state["sy"], rtol=1e-9, atol=1e-12)
    assert torch.allclose(y @ y.T, state["yy"], rtol=1e-9, atol=1e-12)


def test_armijo_asks_for_the_loss_alone():
    """After its first trial; and where it ends, the gradient is asked for."""
    x = vector(3.0, -2.0)
    asked = []

    def loss():
        return (x**4).sum() + (x * x).sum()

    whole = with_gradient([x], loss)

    def closure():
        asked.append("whole")
        return whole()

    def loss_closure():
        asked.append("loss")
        x.grad = torch.full_like(x, math.nan)  # nobody may look at it
        return loss()

    optimizer = DistributedLBFGS([x], lr=200.0, max_iter=30, line_search_fn="armijo")
    optimizer.step(closure, loss_closure=loss_closure)
    assert "loss" in asked
    assert asked[-1] == "whole"
    assert all(after == "whole" or "whole" in asked[:place] for place, after in enumerate(asked))
    assert optimizer.num_evaluations == asked.count("whole")
    assert x.abs().max() < 1e-3


# its state


def test_a_state_goes_on_bit_for_bit():
    """After the ring of pairs went round: the same bits as without a pause, also through a file."""
    import io

    def fresh():
        x = vector(*[-1.2, 1.0] * 4, dtype=torch.float32)
        return x, DistributedLBFGS([x], max_iter=4, history_size=5, line_search_fn="strong_wolfe")

    x, optimizer = fresh()
    closure = with_gradient([x], lambda: rosenbrock(x))
    for _ in range(3):
        optimizer.step(closure)
    assert optimizer.num_iterations == 12
    file = io.BytesIO()
    torch.save({"x": x.detach(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, other = fresh()
    with torch.no_grad():
        resumed.copy_(saved["x"])
    other.load_state_dict(saved["optimizer"])
    assert other.num_iterations == 12
    assert other.num_evaluations == optimizer.num_evaluations
    again = with_gradient([resumed], lambda: rosenbrock(resumed))
    for _ in range(4):
        assert float(optimizer.step(closure)) == float(other.step(again))
        assert torch.equal(x, resumed)


def test_a_state_with_more_pairs_than_there_is_room_for():
    """The newest are kept."""
    x = vector(*[-1.2, 1.0] * 4)
    closure = with_gradient([x], lambda: rosenbrock(x))
    optimizer = DistributedLBFGS([x], max_iter=13, history_size=5)
    optimizer.step(closure)
    state = optimizer.state_dict()
    small = DistributedLBFGS([x], max_iter=4, history_size=2)
    small.load_state_dict(state)
    kept, whole = small.state_dict()["state"], state["state"]
    newest = [row for slot in whole["slots"][-2:] for row in (2 * slot, 2 * slot + 1)]
    assert torch.equal(kept["rows"], whole["rows"][newest])
    assert torch.equal(kept["sy"], whole["sy"][-2:, -2:])
    before = float(small.step(closure))
    assert float(closure()) < before


def test_a_state_of_another_model_is_refused():
    """With what was given and what is needed."""
    state = DistributedLBFGS([vector(1.0)]).state_dict()
    with pytest.raises(ValueError, match="the state is of 1 parameters, and the optimizer has 2"):
        DistributedLBFGS([vector(1.0, 2.0)]).load_state_dict(state)


# what it refuses


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"lr": 0.0}, "lr = 0.0 of group 0; give a number above 0"),
        ({"lr": -1.0}, "lr = -1.0 of group 0; give a number above 0"),
        ({"lr": math.nan}, "lr = nan of group 0; give a number above 0"),
        ({"lr": math.inf}, "lr = inf of group 0; give a number above 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1 of group 0; give 0 or more"),
        ({"max_iter": 0}, "max_iter = 0; give at least 1"),
        ({"max_eval": 0}, "max_eval = 0; give at least 1"),
        ({"history_size": 0}, "history_size = 0; give at least 1"),
        ({"max_line_search": 0}, "max_line_search = 0; give at least 1"),
        ({"tolerance_grad": -1e-9}, "tolerance_grad = -1e-09; give a share from 0 to below 1"),
        ({"tolerance_change": 1.0}, "tolerance_change = 1.0; give a share from 0 to below 1"),
        ({"line_search_fn": "wolfe"}, "line_search_fn = 'wolfe'; give one of strong_wolfe, weak_wolfe, armijo, fixed"),
        ({"mode": "shard"}, "mode = 'shard'; give one of auto, replicated, sharded, local"),
    ],
)
def test_settings_out_of_range_are_refused(setting, said):
    """With what was given and what is allowed."""
    with pytest.raises(ValueError) as caught:
        DistributedLBFGS([vector(1.0)], **setting)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: [], "optimizer got an empty parameter list"),
        (lambda: [{"params": [vector(1.0)]}, {"params": []}], "group 1 has no parameters; leave it out"),
        (lambda: [torch.ones(2)], r"parameter 0 of shape \(2,\) is frozen .* leave it out"),
        (
            lambda: [torch.ones(2, dtype=torch.complex64, requires_grad=True)],
            r"parameter 0 of shape \(2,\) is complex; .*view_as_real",
        ),
        (lambda: [torch.eye(2).to_sparse().requires_grad_()], r"parameter 0 of shape \(2, 2\) is sparse; use a dense"),
        (
            lambda: [vector(1.0), torch.ones(1, device="meta", requires_grad=True)],
            "parameters are on cpu and meta; put all on one device",
        ),
    ],
)
def test_parameters_that_cannot_be_optimized_are_refused(build, said):
    """When it is built, with which one and what to do."""
    with pytest.raises(ValueError, match=said):
        DistributedLBFGS(build())


def test_a_group_that_comes_later_is_refused():
    """All groups are laid out when it is built."""
    optimizer = DistributedLBFGS([vector(1.0)])
    with pytest.raises(ValueError, match="give all groups when building"):
        optimizer.add_param_group({"params": [vector(1.0)]})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "the closure returned None; return the mean loss, or"),
        (torch.ones(2), "the closure returned tensor.*; return the mean loss, or"),
        ((1.0, 2.0, 3.0), "the closure returned .*; return the mean loss, or"),
        ((1.0, -1), "the closure returned .*; return the mean loss, or"),
        ((1.0, math.nan), "the closure returned .*; return the mean loss, or"),
    ],
)
def test_closures_that_return_something_else(value, said):
    """Are told what to return."""
    x = vector(1.0)

    def closure():
        x.grad = torch.ones_like(x)
        return value

    with pytest.raises(ValueError, match=said):
        DistributedLBFGS([x]).step(closure)


def test_no_example_at_all():
    """A mean over nothing is no loss."""
    x = vector(1.0)

    def closure():
        x.grad = torch.ones_like(x)
        return 0.0, 0

    with pytest.raises(RankFailedError, match="at least one example"):
        DistributedLBFGS([x]).step(closure)


def test_a_closure_is_needed():
    """As by torch."""
    with pytest.raises(TypeError, match="closure"):
        DistributedLBFGS([vector(1.0)]).step()


def test_a_parameter_without_gradient():
    """Is named, and so is a sparse gradient."""
    x, unused = vector(1.0), vector(1.0)
    with pytest.raises(ValueError, match="parameter 1 got no gradient; leave it out, or let the loss depend on it"):
        DistributedLBFGS([x, unused]).step(with_gradient([x, unused], lambda: x @ x))
    table = torch.nn.Embedding(4, 2, sparse=True)
    closure = with_gradient(table.parameters(), lambda: table(torch.tensor([1, 2])).sum())
    with pytest.raises(ValueError, match="parameter 0 got a sparse gradient; use sparse=False"):
        DistributedLBFGS(table.parameters()).step(closure)


# what torch tests of every optimizer


def linear_problem():
    """Ten sums of five products, to be made zero: torch's own smallest problem."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(10, 5, generator=generator), torch.randn(10, generator=generator)
    inputs = torch.randn(5, generator=generator)
    weight.requires_grad_(), bias.requires_grad_()
    return weight, bias, with_gradient([weight, bias], lambda: (weight.mv(inputs) + bias).pow(2).sum())


def test_loss_goes_down_with_a_schedule_of_learning_rates():
    """Groups of two learning rates, lowered step by step by torch's own schedulers."""
    for build in (
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, gamma=0.9, step_size=10),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=1e-3),
    ):
        weight, bias, closure = linear_problem()
        optimizer = DistributedLBFGS([{"params": [weight]}, {"params": [bias], "lr": 0.01}], lr=0.1, max_iter=2)
        scheduler = build(optimizer)
        first = float(closure())
        for _ in range(20):
            optimizer.step(closure)
            scheduler.step()
        assert float(closure()) < 0.01 * first


def test_a_step_returns_the_loss_where_it_began():
    """Detached, always of one type, whether it stops at once or not; without a warning."""
    x = vector(1.0)
    types = set()
    for value in (torch.tensor([10.0]), torch.tensor(10.0, requires_grad=True), 10.0, 10):

        def closure(value=value):
            x.grad = torch.zeros_like(x)
            return value

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss = DistributedLBFGS([x]).step(closure)
        assert float(loss) == 10.0
        types.add((type(loss), loss.dtype, loss.shape, loss.requires_grad))
    assert types == {(torch.Tensor, torch.float64, torch.Size([]), False)}


def test_nothing_moves_where_the_gradient_is_zero():
    """The step has converged before it began, after one evaluation."""
    x = vector(1.0, 2.0)
    optimizer = DistributedLBFGS([x])
    losses, num_calls = steps(optimizer, with_gradient([x], lambda: 0 * x[0]), 1)
    assert (losses, num_calls, optimizer.status) == ([0.0], 1, "converged")
    assert x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("limits", "most"), [({"max_iter": 3, "max_eval": 9}, 4), ({"max_iter": 50, "max_eval": 5}, 7)]
)
def test_a_step_keeps_to_its_limits(limits, most):
    """Iterations exactly; evaluations are looked at after each line search."""
    x = vector(-1.2, 1.0)
    optimizer = DistributedLBFGS([x], line_search_fn="fixed", lr=1e-3, **limits)
    _, num_calls = steps(optimizer, with_gradient([x], lambda: rosenbrock(x)), 1)
    assert num_calls == optimizer.num_evaluations <= most
    assert optimizer.status == ("max_iter" if limits["max_iter"] == 3 else "max_eval")
    if optimizer.status == "max_iter":
        assert optimizer.num_iterations == 3


def test_it_is_an_optimizer_of_torch():
    """It can be printed, its hooks are called, gradients can be zeroed, and it says that it reduces by itself."""
    weight, bias, closure = linear_problem()
    optimizer = DistributedLBFGS([weight, bias])
    assert "DistributedLBFGS" in repr(optimizer)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    optimizer.step(closure)
    assert called == ["before", "after"]
    optimizer.zero_grad()
    assert weight.grad is None
    assert optimizer.reduces
    assert optimizer.mode == "local"


def test_the_same_twice():
    """Two runs from one start have the same bits."""
    ends = []
    for _ in range(2):
        digits = Digits("lenet5-mnist", num_examples=100)
        DistributedLBFGS(digits.model.parameters(), max_iter=8).step(digits.mean())
        ends.append(torch.cat([one.detach().flatten() for one in digits.model.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("size", [1, 15, 16, 129, 5000])
def test_a_flat_vector_holds_all_and_pads_with_zeros(size):
    """Blocks of equal size, a multiple of 16, as many for each rank."""
    parameters = [torch.randn(size, requires_grad=True), torch.randn(3, 2, requires_grad=True)]
    for num_shares in (1, 2, 3, 4, 7):
        flat = Flat(parameters, num_shares=num_shares)
        assert flat.num_blocks % num_shares == 0
        assert flat.block_size % 16 == 0
        whole = flat.zeros()
        for view, parameter in zip(flat.views(whole), parameters, strict=True):
            view.copy_(parameter.detach())
        joined = torch.cat([one.detach().flatten() for one in parameters])
        assert torch.equal(whole.flatten()[: size + 6], joined)
        assert not whole.flatten()[size + 6 :].any()
