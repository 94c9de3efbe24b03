"""The audit catches each fault by the name of its check, and raises no false alarm."""

import json
import random

import pytest

from analysis.synthetic import make_run, make_study, write_trial
from paceline.analysis.audit import CHECKS, Subject, audit, spoiling
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.records import Checks, Finding, write_json


def clean_study(**changes):
    settings = {"seeds": list(range(6)), "aa_pair": True, "max_epochs": 3, "optimizers": {"sgd": {}}}
    return make_study(**(settings | changes))


def findings_of(folder):
    return {one.check: one for one in audit(Subject.of(load(folder)))}


def failed(folder):
    return {name for name, one in findings_of(folder).items() if one.status == "fail"}


def edit(folder, which, *, rank=0, kind, **changes):
    """Change the records of one kind in one rank's file of the trials whose folder matches ``which``."""
    paths = sorted(folder.glob(f"{which}/rank-{rank:04d}.jsonl"))
    assert paths, f"no trial matches {which}"
    for path in paths:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line["kind"] == kind:
                line |= {key: change(line) if callable(change) else change for key, change in changes.items()}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def leave_checks(folder, **failing):
    """checks.json as the ranks leave it; ``failing`` maps a check's name, _ for space, to its evidence."""
    names = (
        "labels and images",
        "shuffled-label probe",
        "better than chance is possible",
        "parity of one rank and N ranks",
    )
    findings = [
        Finding(check=name, status="fail" if (key := name.replace(" ", "_").replace("-", "_")) in failing else "pass",
                evidence=failing.get(key, "all is well"))
        for name in names
    ]  # fmt: skip
    write_json(folder / "checks.json", Checks(of="x", findings=tuple(findings)).model_dump())


def test_an_unspoilt_study_passes_every_check(tmp_path):
    folder = make_run(tmp_path, clean_study())
    leave_checks(folder)
    found = findings_of(folder)
    assert list(found) == [check.name for check in CHECKS]
    skipped = {"one curve at every scale", "equal tuning budgets", "seeds on one group", "groups alike"}
    assert {name for name, one in found.items() if one.status != "pass"} == skipped
    assert compare(load(folder)).verdicts[0].withheld == ()


def test_no_false_alarm_in_50_clean_studies(tmp_path):
    """Studies of many shapes, with the noise of real ones."""
    draw = random.Random(3)  # noqa: S311
    for number in range(50):
        study = clean_study(
            name=f"s{number}",
            seeds=draw.sample(range(15), draw.choice([6, 7, 8])),
            scales=draw.choice([[1, 2], [1, 3], [2, 4]]),
            optimizers={draw.choice(["sgd", "adam"]): {}},
            batch=draw.choice(
                [
                    {"rule": "global", "global_batch_size": draw.choice([32, 100])},
                    {"rule": "per_rank", "rank_batch_size": 50, "lr_rule": "linear"},
                ]
            ),
            max_epochs=draw.choice([1, 3]),
        )
        folder = make_run(tmp_path, study, evaluations_per_epoch=draw.choice([1, 2]), num_cores=4)
        assert failed(folder) == set(), f"study {number}"


CAUGHT = {
    "unsharded ranks": (
        "shards disjoint and complete",
        lambda folder: [
            edit(folder, "*1x2*", rank=rank, kind="epoch", num_indices=5400, indices_digest=whole_digest(5400))
            for rank in (0, 1)
        ],
        "2 times the data",
    ),
    "an example left out": (
        "shards disjoint and complete",
        lambda folder: edit(folder, "*1x1_seed0_*", kind="epoch", indices_digest=whole_digest(5399)),
        "5,399 examples",
    ),
    "a missing rank": (
        "shards disjoint and complete",
        lambda folder: next(iter(folder.glob("*1x2*/rank-0001.jsonl"))).unlink(),
        "no record of rank 1",
    ),
    "ranks out of step": (
        "identical replicas",
        lambda folder: edit(folder, "*1x2_seed1_*", rank=1, kind="epoch", parameters_digest="other"),
        "rank 1 of",
    ),
    "another start": (
        "same start, same order",
        lambda folder: edit(folder, "*1x2_seed1_*", kind="start", initial_parameters_digest="other"),
        "began with other parameters",
    ),
    "another order": (
        "same start, same order",
        lambda folder: edit(folder, "*1x1_seed1_*", kind="epoch", order_digest=whole_digest(7)),
        "in another order",
    ),
    "a tenth of the validation set": (
        "same validation set, fully used",
        lambda folder: edit(folder, "*1x2*", kind="evaluation", num_validation=60),
        "60 validation examples of 600",
    ),
    "another validation set": (
        "same validation set, fully used",
        lambda folder: edit(
            folder, "*1x2*", kind="start", num_examples={"train": 5400, "validation": 500, "test": 1000}
        ),
        "have",
    ),
    "chance level": (
        "better than chance",
        lambda folder: edit(folder, "*", kind="evaluation", validation={"loss": 2.3, "accuracy": 0.105}),
        "nothing was learned",
    ),
    "a clock that jumps back": (
        "clocks monotonic",
        lambda folder: edit(
            folder, "*1x1_seed0_*", kind="evaluation", train_time_s=lambda line: 9.0 - line["num_updates"] / 100
        ),
        "went back at evaluation 2",
    ),
    "a host's clock set back": (
        "clocks monotonic",
        lambda folder: edit(folder, "*1x1_seed0_*", kind="evaluation", time=lambda line: 1e9 - line["num_updates"]),
        "set back",
    ),
    "waiting counted as training": (
        "clocks monotonic",
        lambda folder: edit(folder, "*1x1_seed0_*", kind="evaluation", data_s=lambda line: 2 * line["train_time_s"]),
        "exceed the whole",
    ),
    "a rank that communicates less": (
        "collectives as expected",
        lambda folder: edit(folder, "*1x2_seed1_*", rank=1, kind="epoch", num_collectives=3),
        "other collectives than rank 0",
    ),
    "one more collective an update": (
        "collectives as expected",
        lambda folder: edit(
            folder, "*1x2_seed1_*", kind="evaluation", num_collectives=lambda line: 2 * line["num_gradient_evaluations"]
        ),
        "collectives a gradient evaluation",
    ),
    "other threads": (
        "same machine",
        lambda folder: edit(folder, "*1x2*", rank=1, kind="start", num_threads=4),
        "num_threads differs",
    ),
}


def whole_digest(number):
    import numpy as np

    from paceline.data.order import indices_digest

    return indices_digest(np.arange(number))


@pytest.mark.parametrize("fault", CAUGHT)
def test_a_fault_is_caught_by_name(tmp_path, fault):
    check, inject, evidence = CAUGHT[fault]
    folder = make_run(tmp_path, clean_study())
    inject(folder)
    found = findings_of(folder)
    assert {name for name, one in found.items() if one.status == "fail"} == {check}
    assert evidence in found[check].evidence


def test_an_optimizer_that_sends_more_than_another_is_no_fault(tmp_path):
    """As the all-reduce of the loss by torch's L-BFGS does, in all of its trials alike."""
    folder = make_run(tmp_path, clean_study(optimizers={"sgd": {}, "adam": {}}))
    for kind in ("evaluation", "epoch", "end"):
        for rank in (0, 1):
            edit(
                folder, "*adam*1x2*", rank=rank, kind=kind,
                num_collectives=lambda line: 2 * line.get("num_gradient_evaluations", line["num_updates"]),
            )  # fmt: skip
    found = findings_of(folder)["collectives as expected"]
    assert found.status == "pass", found.evidence
    assert "1 with ddp on 2 ranks, 2 with ddp on 2 ranks" in found.evidence


def test_reproducible_trials_are_one_curve_at_every_scale(tmp_path):
    """Equal digests pass, and the evidence says what that means; one other digest at one scale is named."""
    folder = make_run(tmp_path, clean_study(reproducible=2))
    found = findings_of(folder)["one curve at every scale"]
    assert found.status == "pass", found.evidence
    assert "are one curve, and only time differs" in found.evidence
    edit(folder, "*1x2_seed1_*", rank=0, kind="epoch", parameters_digest="other")
    edit(folder, "*1x2_seed1_*", rank=1, kind="epoch", parameters_digest="other")
    found = findings_of(folder)["one curve at every scale"]
    assert found.status == "fail"
    assert "though reproducible = true asks for the same bits" in found.evidence
    assert findings_of(make_run(tmp_path / "b", clean_study()))["one curve at every scale"].status == "not applicable"


def test_one_seed_and_hand_picked_settings_make_no_claim(tmp_path):
    """Fault 4 of the prior study."""
    folder = make_run(tmp_path, clean_study(seeds=[42]))
    found = findings_of(folder)
    assert found["enough seeds"].status == "fail"
    assert "1 seed finished in every cell; 1 comparison needs 6" in found["enough seeds"].evidence
    assert found["equal tuning budgets"].status == "not applicable"


def test_nan_ends_a_trial_and_is_named_but_spoils_nothing_else(tmp_path):
    """Fault 5 of the prior study: the cell loses, and the rest can still be compared."""
    study = clean_study(optimizers={"sgd": {}, "lbfgs": {}}, scales=[1])
    folder = make_run(tmp_path, study, outcome=lambda trial: "diverged" if trial.label == "lbfgs" else "completed")
    found = findings_of(folder)
    assert (found["all values finite"].status, found["all values finite"].scope) == ("fail", "trial")
    assert "diverged and ended at once" in found["all values finite"].evidence
    assert spoiling(list(found.values())) == ()
    assert compare(load(folder)).verdicts[0].slower == ("digits/lbfgs+single@1x1",)


def test_nan_that_did_not_end_a_trial_is_named(tmp_path):
    folder = make_run(tmp_path, clean_study())
    edit(folder, "*1x1_seed0_*", kind="evaluation", validation={"loss": "NaN", "accuracy": 0.97})
    assert "went on after its loss" in findings_of(folder)["all values finite"].evidence


def test_a_cell_at_chance_is_named_and_loses(tmp_path):
    folder = make_run(tmp_path, clean_study(optimizers={"sgd": {}, "adam": {}}, scales=[1]))
    edit(folder, "*adam*", kind="evaluation", validation={"loss": 2.3, "accuracy": 0.11})
    found = findings_of(folder)["better than chance"]
    assert found.status == "pass"
    assert "digits/adam+single@1x1" in found.evidence
    assert compare(load(folder)).verdicts[0].slower == ("digits/adam+single@1x1",)


def test_a_loud_machine_is_named(tmp_path):
    folder = make_run(tmp_path, clean_study())
    for seed in range(6):
        edit(
            folder, f"*seed{seed}_again*", kind="evaluation",
            train_time_s=lambda line, seed=seed: line["train_time_s"] * (1.5 + 0.2 * seed),
        )  # fmt: skip
    found = findings_of(folder)["machine quiet"]
    assert found.status == "fail"
    assert "too loud" in found.evidence


def test_what_the_ranks_found_before_the_first_trial_stands_in_the_audit(tmp_path):
    folder = make_run(tmp_path, clean_study())
    leave_checks(folder, shuffled_label_probe="true labels 2.30, shuffled 2.30, p = 0.4")
    found = findings_of(folder)
    assert (found["shuffled-label probe"].status, found["labels and images"].status) == ("fail", "pass")
    comparison = compare(load(folder))
    assert comparison.verdicts[0].withheld == ("shuffled-label probe",)
    assert all(one.outcome == "no claim" for one in comparison.contrasts)


def test_rules_that_differ_are_named(tmp_path):
    folder = make_run(tmp_path, clean_study())
    run = load(folder)
    other = run.results[0].trial.model_copy(update={"max_epochs": 9, "seed": 99})
    write_trial(folder, other, status="completed", start={})
    assert "max_epochs differs" in findings_of(folder)["same rules"].evidence


@pytest.mark.parametrize("state", ["waiting", "running", "failed"])
def test_an_unfinished_run_can_be_audited(tmp_path, state):
    found = findings_of(make_run(tmp_path, clean_study(), outcome=lambda trial: state))
    assert found["enough seeds"].status == ("pass" if state == "failed" else "fail")
    assert all(one.evidence for one in found.values())
