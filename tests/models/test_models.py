"""Networks: of the published size, able to learn, and free of batch statistics."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from paceline.models.lenet5 import LeNet5  # noqa: E402 - after torch
from paceline.models.logreg import LogisticRegression  # noqa: E402
from paceline.models.resnet20 import ResNet20  # noqa: E402

MODELS = {
    # LeNet-5 as in LeCun et al. 1998, but C3 is fully connected and the output layer linear: by hand 156 + 2416 + 48120
    # + 10164 + 850
    "lenet5": (lambda: LeNet5(in_channels=1, num_classes=10), (1, 32), 61_706),
    "lenet5 on 64 pixels": (lambda: LeNet5(in_channels=3, num_classes=1000), (3, 64), None),
    "logreg": (lambda: LogisticRegression(num_inputs=1024, num_classes=10), (1, 32), 10_250),
    # He et al. 2016, table 6: "0.27M"; identity shortcuts have no parameters
    "resnet20": (lambda: ResNet20(in_channels=3, num_classes=10), (3, 32), 269_722),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_network_has_its_size_and_shape(name):
    build, (channels, side), num_parameters = MODELS[name]
    model = build()
    outputs = model(torch.zeros(2, channels, side, side))
    assert outputs.shape[0] == 2 and outputs.ndim == 2
    if num_parameters is not None:
        assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize("name", MODELS)
def test_an_example_is_answered_alike_in_any_company(name):
    """No batch statistics: otherwise one rank and N ranks would compute different things. In training mode, too."""
    build, (channels, side), _ = MODELS[name]
    torch.manual_seed(0)
    model, images = build().double(), torch.randn(4, channels, side, side, dtype=torch.float64)
    assert torch.allclose(model(images)[:1], model(images[:1]), rtol=1e-10, atol=1e-12)
    assert not list(model.buffers())


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient_that_is_right(name):
    """The directional derivative agrees with a central difference, in float64."""
    build, (channels, side), _ = MODELS[name]
    torch.manual_seed(0)
    model = build().double()
    images, labels = torch.randn(3, channels, side, side, dtype=torch.float64), torch.tensor([0, 1, 2])

    def loss():
        return torch.nn.functional.cross_entropy(model(images), labels)

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    assert all(gradient.norm() > 0 for gradient in gradients)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    length = torch.cat([direction.flatten() for direction in directions]).norm()
    directions = [direction / length for direction in directions]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    step, values = 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=sign * step)
            values.append(loss().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope.item(), rel=1e-4)
