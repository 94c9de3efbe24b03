"""The built-in workloads on the embedded digits: what a model is shown, and that sums can be added up."""

from __future__ import annotations

import numpy as np
import pytest

from paceline.errors import UsageError
from paceline.registry import resolve

torch = pytest.importorskip("torch")
from paceline.workloads.base import WorkloadRequest  # noqa: E402 - after torch

CPU = torch.device("cpu")


def open_workload(name: str, **settings):
    return resolve("workloads", name)(WorkloadRequest(dataset="mnist-small", **settings))


@pytest.fixture(scope="module", params=["logreg-mnist", "lenet5-mnist"])
def workload(request):
    return open_workload(request.param)


def test_inputs_are_normalized_by_the_training_images(workload):
    """Over the published training images: mean 0 in each pixel, standard deviation 1."""
    parts = [workload.batch(split, np.arange(workload.num_examples[split]), seed=0, epoch=0)
             for split in ("train", "validation")]  # fmt: skip
    inputs = torch.cat([workload.prepare(part, CPU).inputs for part in parts])
    assert inputs.shape == (5000, 1, 32, 32)
    assert inputs.mean(0).abs().max() < 1e-4
    assert inputs.std().item() == pytest.approx(1.0, abs=1e-3)


def test_splits_are_those_of_the_method(workload):
    """Validation is a stratified tenth of the published training set; test is the published test set."""
    assert workload.num_examples == {"train": 4500, "validation": 500, "test": 1000}
    labels = {
        split: workload.batch(split, np.arange(count), seed=0, epoch=0).targets
        for split, count in workload.num_examples.items()
    }
    published = torch.cat([labels["train"], labels["validation"]]).bincount()
    assert ((published / 10 - labels["validation"].bincount()).abs() <= 1).all()


def test_sums_over_parts_are_the_sum_over_the_whole(workload):
    torch.manual_seed(0)
    model = workload.build_model()

    def sums(indices):
        batch = workload.prepare(workload.batch("train", indices, seed=0, epoch=0), CPU)
        outputs = model(batch.inputs)
        return workload.loss_sum(outputs, batch).item(), workload.metric_sums(outputs, batch)["accuracy"].item()

    whole, parts = sums(np.arange(50)), [sums(np.arange(0, 13)), sums(np.arange(13, 50))]
    assert sum(part[0] for part in parts) == pytest.approx(whole[0], rel=1e-5)
    assert sum(part[1] for part in parts) == whole[1]
    assert whole[0] / 50 == pytest.approx(np.log(10), rel=0.5), "near that of a guess, before training"


def test_initial_parameters_follow_the_generator(workload):
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(torch.cat([parameter.flatten() for parameter in workload.build_model().parameters()]))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_augmentation_is_of_training_alone_and_the_same_at_every_scale():
    plain, cropped = (open_workload("lenet5-mnist", augmentation=how) for how in ("none", "crop"))
    indices = np.arange(20)
    whole = cropped.batch("train", indices, seed=0, epoch=0).inputs
    parts = [cropped.batch("train", part, seed=0, epoch=0).inputs for part in (indices[:7], indices[7:])]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, plain.batch("train", indices, seed=0, epoch=0).inputs)
    assert not torch.equal(whole, cropped.batch("train", indices, seed=0, epoch=1).inputs)
    for split in ("validation", "test"):
        one, other = (each.batch(split, indices, seed=0, epoch=0).inputs for each in (plain, cropped))
        assert torch.equal(one, other)


def test_what_a_workload_does_not_take_is_refused():
    with pytest.raises(UsageError, match="takes no options, given: depth"):
        open_workload("lenet5-mnist", options=(("depth", 3),))
    with pytest.raises(UsageError, match="cannot use the data set 'mnist-small'"):
        open_workload("resnet20-imagenet32")
