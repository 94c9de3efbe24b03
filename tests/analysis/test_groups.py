"""Groups of hosts: speeds are found, unlike groups and seeds on two of them are named, like ones raise no alarm."""

import math
import random

import numpy as np
import pytest

from analysis.synthetic import make_run, make_study
from analysis.test_audit import edit, failed, findings_of
from paceline.analysis.checks_of_study import WIDEST_GAP
from paceline.analysis.compare import compare
from paceline.analysis.groups import Timed, calibrate, deviations_of, judged
from paceline.analysis.load import load
from paceline.report import page_tables, tables, words

NUM_STUDIES = 500
GROUPS = {0: ("node1", "node2"), 1: ("node3", "node4")}


def hosts_of(seed):
    return GROUPS[seed % 2]


def noisy(slowness=(1.0, 1.0), noise=0.04, draw=None):
    """How long a trial's updates take: by its group, and by what disturbed all trials of its seed, and it alone."""
    draw = draw or random.Random(5)  # noqa: S311
    shared = {}

    def pace(trial):
        own = shared.setdefault(trial.seed, draw.gauss(0, noise))
        return slowness[trial.seed % 2] * math.exp(own + draw.gauss(0, noise))

    return pace


def two_groups(root, *, slowness=(1.0, 1.0), noise=0.04, draw=None, **changes):
    """Seeds dealt out to two groups of two hosts each."""
    settings = {"seeds": list(range(8)), "aa_pair": True, "max_epochs": 2, "scales": ["1x1", "2x1"]}
    study = make_study(**(settings | {"optimizers": {"sgd": {}, "adam": {}}} | changes))
    folder = make_run(
        root, study, rank_start=lambda trial: {"host": hosts_of(trial.seed)[0]}, pace=noisy(slowness, noise, draw)
    )
    for seed in study.seeds:
        edit(folder, f"*_2x1_seed{seed}_*", rank=1, kind="start", host=hosts_of(seed)[1])
    return folder


def test_each_group_has_its_hosts_its_seeds_and_its_speed(tmp_path):
    found = compare(load(two_groups(tmp_path, slowness=(1.0, 1.05), noise=0.005))).groups
    assert found.num_cells == 4
    assert [(one.name, one.hosts, one.seeds) for one in found.groups] == [
        ("node1", ("node1", "node2"), (0, 2, 4, 6)),
        ("node3", ("node3", "node4"), (1, 3, 5, 7)),
    ]
    for one, speed in zip(found.groups, (1.05**0.5, 1.05**-0.5), strict=True):
        assert one.speed.value == pytest.approx(speed, rel=0.01)
        assert one.speed.low < speed < one.speed.high
    assert found.gap.low < 1.05 < found.gap.high
    assert found.gap.value == pytest.approx(found.groups[0].speed.value / found.groups[1].speed.value)


def test_a_study_on_one_group_has_no_such_part(tmp_path):
    comparison = compare(load(make_run(tmp_path)))
    assert comparison.groups is None
    assert "groups of hosts" not in tables.markdown(comparison)


def test_the_report_says_it_in_a_table_and_in_words(tmp_path):
    comparison = compare(load(two_groups(tmp_path)))
    table = page_tables.groups(comparison.groups)
    assert [[field.text for field in line.fields[:3]] for line in table.lines] == [
        ["node1", "node2", "0, 2, 4, 6"],
        ["node3", "node4", "1, 3, 5, 7"],
    ]
    told = words.groups(comparison.groups)
    assert told.startswith(
        "2 groups of hosts shared the seeds. Speed beside the middle one, over 4 cells: node1, node2"
    )
    for one, line in zip(comparison.groups.groups, table.lines, strict=True):
        assert line.fields[3].text == words.factor(one.speed.value)
        assert f"{words.factor(one.speed.value)} (95 %: {words.factor(one.speed.low)} to " in told
    assert told in tables.markdown(comparison)


def test_no_false_alarm_in_30_clean_studies_of_two_groups(tmp_path):
    draw = random.Random(11)  # noqa: S311
    for number in range(30):
        folder = two_groups(tmp_path, draw=draw, name=f"s{number}", seeds=list(range(draw.choice([7, 8]))), noise=0.02)
        assert failed(folder) == set(), f"study {number}"
        assert {findings_of(folder)[name].status for name in ("groups alike", "seeds on one group")} == {"pass"}


def simulated(rng, *, num_groups, num_seeds, noise, slow=1.0, num_cells=4):
    """The deviations in one study; the last group takes ``slow`` times as long."""
    own = rng.normal(0, noise, num_seeds)
    timed = [
        Timed(
            group=f"g{seed % num_groups}",
            cell=f"c{cell}",
            seed=seed,
            log_s=cell + own[seed] + rng.normal(0, noise) + math.log(slow) * (seed % num_groups == num_groups - 1),
        )
        for seed in range(num_seeds)
        for cell in range(num_cells)
    ]
    return deviations_of(timed, [f"g{group}" for group in range(num_groups)])[0]


def is_refused(deviations):
    gap = judged(deviations)[1]
    return gap.value > WIDEST_GAP and gap.low > 1


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
@pytest.mark.parametrize(("num_groups", "num_seeds"), [(2, 4), (2, 7), (3, 9), (4, 8)])
def test_like_groups_are_refused_in_at_most_5_percent_of_studies(num_groups, num_seeds, noise):
    """However loud the machines are. Within two standard errors of the simulation."""
    rng = np.random.default_rng(1)
    sizes = {"num_groups": num_groups, "num_seeds": num_seeds}
    share = np.mean([is_refused(simulated(rng, **sizes, noise=noise)) for _ in range(NUM_STUDIES)])
    assert share <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / NUM_STUDIES)


@pytest.mark.parametrize(("num_groups", "num_seeds"), [(2, 6), (3, 9)])
def test_a_group_slower_by_a_quarter_is_refused_in_nine_of_ten_studies(num_groups, num_seeds):
    rng = np.random.default_rng(2)
    sizes = {"num_groups": num_groups, "num_seeds": num_seeds}
    share = np.mean([is_refused(simulated(rng, **sizes, noise=0.04, slow=1.25)) for _ in range(NUM_STUDIES)])
    assert share >= 0.9


@pytest.mark.parametrize(("num_groups", "num_seeds"), [(2, 6), (3, 12)])
def test_intervals_of_speeds_and_gaps_cover_the_truth(num_groups, num_seeds):
    rng, covered, slow = np.random.default_rng(3), [], 1.5
    for _ in range(NUM_STUDIES):
        _, gap = judged(simulated(rng, num_groups=num_groups, num_seeds=num_seeds, noise=0.05, slow=slow))
        covered.append(gap.low <= slow <= gap.high)
    assert np.mean(covered) >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / NUM_STUDIES)


def test_a_difference_below_the_limit_is_shown_and_not_refused(tmp_path):
    folder = two_groups(tmp_path, slowness=(1.0, 1.06), noise=0.002)
    found = findings_of(folder)["groups alike"]
    assert found.status == "pass"
    assert "for an update the group of node3 took" in found.evidence


FAULTS = {
    "slow hosts": ("groups alike", {"slowness": (1.0, 1.3)}, lambda folder: None, "group of node3 took 3"),
    "fewer cores": (
        "groups alike",
        {},
        lambda folder: [edit(folder, f"*seed{seed}_*", kind="start", affinity=[0]) for seed in (1, 3, 5, 7)],
        "rank 0 may use 1 cores on node3, and 2 on node1",
    ),
    "another processor": (
        "same machine",
        {},
        lambda folder: [edit(folder, f"*seed{seed}_*", kind="start", processor="Other CPU") for seed in (1, 3, 5, 7)],
        "processor differs",
    ),
    "a trial on the other group": (
        "seeds on one group",
        {},
        lambda folder: edit(folder, "*adam*_1x1_seed2_*", kind="start", host="node3"),
        "trials of seed 2 do not pair",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_by_name(tmp_path, fault):
    check, changes, inject, evidence = FAULTS[fault]
    folder = two_groups(tmp_path, **changes)
    inject(folder)
    found = findings_of(folder)
    assert {name for name, one in found.items() if one.status == "fail"} == {check}
    assert found[check].scope == "study"
    assert evidence in found[check].evidence


def test_a_trial_resumed_on_another_group_is_named_and_times_no_group(tmp_path):
    folder = two_groups(tmp_path)
    (path,) = folder.glob("*adam*_1x1_seed0_*/rank-0000.jsonl")
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first + first.replace("node1", "node3") + "".join(rest))
    found = findings_of(folder)["seeds on one group"]
    assert found.status == "fail"
    assert f"{path.parent.name} began on the group of node1 and went on on that of node3" in found.evidence
    alone = calibrate([result for result in load(folder).results if result.folder == path.parent])
    assert alone.gap is None


def test_one_seed_a_group_cannot_tell_noise(tmp_path):
    found = findings_of(two_groups(tmp_path, seeds=[0, 1], slowness=(1.0, 2.0)))["groups alike"]
    assert found.status == "not applicable"
    assert "takes a second seed" in found.evidence


@pytest.mark.parametrize("state", ["waiting", "running", "failed"])
def test_groups_of_an_unfinished_run(tmp_path, state):
    """One group is done, the other has not begun, or not got far."""
    study = make_study(seeds=[0, 1, 2, 3], aa_pair=False, scales=["1x1", "2x1"])
    folder = make_run(
        tmp_path,
        study,
        outcome=lambda trial: state if trial.seed % 2 else "completed",
        rank_start=lambda trial: {"host": hosts_of(trial.seed)[0]},
        pace=noisy(),
    )
    comparison = compare(load(folder))
    assert (comparison.groups is None) == (state == "waiting")
    assert {one.check for one in comparison.audit if one.status == "fail"} <= {"enough seeds"}


def change_size(folder, which):
    """As an elastic restart leaves it: rank 0 begins again, alone, and rank 1 has nothing more to say."""
    paths = sorted(folder.glob(f"{which}/rank-0000.jsonl"))
    assert paths, f"no trial matches {which}"
    for path in paths:
        start, first_evaluation, *rest = path.read_text().splitlines(keepends=True)
        resumed = '{"kind":"resumed","time":1.0,"rank":0,"num_updates":0}\n'
        again = start.replace('"world_size":2', '"world_size":1')
        path.write_text("".join([start, first_evaluation, resumed, again, first_evaluation, *rest]))


def test_a_trial_that_changed_size_is_marked_and_not_compared(tmp_path):
    study = make_study(seeds=list(range(8)), aa_pair=True, optimizers={"sgd": {}, "adam": {}}, max_epochs=5)
    folder = make_run(tmp_path, study)
    before = compare(load(folder))
    change_size(folder, "*adam*_1x2_seed3_*")
    after = compare(load(folder))
    (found,) = [one for one in after.audit if one.status == "fail"]
    assert (found.check, found.scope) == ("number of ranks kept", "trial")
    assert "it ran on 2, then on 1, and was to run on 2 ranks" in found.evidence
    assert after.verdicts[0].withheld == ()
    name = "digits/adam+ddp@1x2"
    whole, cut = before.cell(name), after.cell(name)
    (row,) = [row for row in cut.trials if row.seed == 3]
    assert row.status == "degraded"
    assert (row.time_to_target_s, row.time_per_update_s, row.validation) == (None, None, {})
    assert (cut.num_over, cut.num_reached, cut.num_trials) == (7, 7, 8)
    assert cut.arrivals["time"].horizon == whole.arrivals["time"].horizon
    pairs = {one.cell: one.ratio.num_pairs for one in after.contrasts}
    assert pairs == {one.cell: 8 - (one.cell == name) for one in before.contrasts}
    assert all(one.ratio.num_censored == 0 for one in after.contrasts)
    assert after.seeds.num_seeds == 7
    assert not any("not finished" in note for note in after.notes)


def test_every_trial_of_a_cell_may_have_changed_size(tmp_path):
    study = make_study(seeds=[0, 1], aa_pair=False, optimizers={"sgd": {}})
    folder = make_run(tmp_path, study)
    change_size(folder, "*1x2*")
    comparison = compare(load(folder))
    assert comparison.cell("digits/sgd+ddp@1x2").statuses == {"degraded": 2}
    assert all(one.ratio is None for one in comparison.contrasts)
    assert "2 degraded" in tables.markdown(comparison)


def test_a_trial_of_another_size_from_the_start_is_degraded(tmp_path):
    folder = make_run(tmp_path, make_study(seeds=[0], optimizers={"sgd": {}}))
    edit(folder, "*1x1*", kind="start", world_size=4)
    (found,) = [one for one in load(folder).results if one.status == "degraded"]
    assert found.cause == "it ran on 4, and was to run on 1 rank"


def test_a_degraded_trial_spoils_no_other_check(tmp_path):
    """Its ranks did not work together, and nobody says that they did."""
    folder = two_groups(tmp_path)
    change_size(folder, "*adam*_2x1_seed3_*")
    edit(folder, "*adam*_2x1_seed3_*", rank=1, kind="epoch", parameters_digest="other", order_digest="5-0")
    assert failed(folder) == {"number of ranks kept"}
