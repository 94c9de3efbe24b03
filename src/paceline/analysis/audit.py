"""The audit: every check that a study must pass before it is believed, in one table.

A check of scope ``study`` that fails withholds the verdict. One of scope ``trial`` names trials that simply lose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paceline.analysis import checks_of_ranks, checks_of_study
from paceline.analysis.cells import cells_of
from paceline.analysis.groups import Calibration, calibrate
from paceline.analysis.load import Run
from paceline.analysis.noise import AaPair, aa_pairs
from paceline.analysis.outcome import Outcome, Status, skipped
from paceline.analysis.seeds import Seeds, declared_pairs, seeds_of
from paceline.analysis.tuning import Tuning, tuning_beside
from paceline.job import ENOUGH_SEEDS

Scope = Literal["study", "trial"]


@dataclass(frozen=True, kw_only=True)
class AuditFinding:
    """What one check found; ``evidence`` is a sentence with the figures that decided."""

    check: str
    scope: Scope
    status: Status
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """A line of the audit. ``question`` is what a pass answers with yes."""

    name: str
    question: str
    scope: Scope
    look: Callable[[Subject], Outcome]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is audited: a run, and what the comparison has made of it already."""

    run: Run
    seeds: Seeds
    noise: Sequence[AaPair]
    tuning: Tuning | None
    groups: Calibration | None

    @classmethod
    def of(cls, run: Run) -> Subject:
        """A run by itself."""
        cells = cells_of(run.results, run.study)
        return cls(
            run=run,
            seeds=seeds_of(cells, declared_pairs(run, cells)),
            noise=aa_pairs(run.results),
            tuning=tuning_beside(run),
            groups=calibrate(run.results),
        )


def _of_run(look: Callable[[Run], Outcome]) -> Callable[[Subject], Outcome]:
    return lambda subject: look(subject.run)


def _of_whole_trials(look: Callable[[Run], Outcome]) -> Callable[[Subject], Outcome]:
    """A check of how ranks worked together: those of a degraded trial did not, and it has a check of its own."""

    def look_at(subject: Subject) -> Outcome:
        whole = tuple(result for result in subject.run.results if result.status != "degraded")
        return look(replace(subject.run, results=whole))

    return look_at


def _made_before(name: str) -> Callable[[Subject], Outcome]:
    """A check that the ranks made before the first trial, and left in ``checks.json``."""

    def look(subject: Subject) -> Outcome:
        checks = subject.run.checks
        if checks is None:
            return skipped("not made: the run was started with --no-check, or not by `paceline run`")
        found = next((one for one in checks.findings if one.check == name), None)
        return Outcome(found.status, found.evidence) if found else skipped("not made before this run")

    return look


def _noise(subject: Subject) -> Outcome:
    return checks_of_study.machine_quiet(subject.run, subject.noise)


def _tuning(subject: Subject) -> Outcome:
    return checks_of_study.equal_tuning(subject.run, subject.tuning)


def _groups(subject: Subject) -> Outcome:
    return checks_of_study.groups_alike(subject.run, subject.groups)


def _seeds(subject: Subject) -> Outcome:
    return checks_of_study.enough_seeds(subject.seeds)


CHECKS: tuple[Check, ...] = (
    Check(
        name="labels and images",
        question="does every example have its own label, whoever asks for it?",
        scope="study",
        look=_made_before("labels and images"),
    ),
    Check(
        name="shuffled-label probe",
        question="does a model learn more from the labels than from shuffled ones?",
        scope="study",
        look=_made_before("shuffled-label probe"),
    ),
    Check(
        name="better than chance is possible",
        question="is the target out of reach of a constant guess?",
        scope="study",
        look=_made_before("better than chance is possible"),
    ),
    Check(
        name="parity of one rank and N ranks",
        question="do N ranks compute what one rank computes?",
        scope="study",
        look=_made_before("parity of one rank and N ranks"),
    ),
    Check(
        name="better than chance",
        question="did any cell learn more than a constant guess scores?",
        scope="study",
        look=_of_run(checks_of_study.better_than_chance),
    ),
    Check(
        name="all values finite",
        question="did every loss stay finite?",
        scope="trial",
        look=_of_run(checks_of_ranks.finite),
    ),
    Check(
        name="number of ranks kept",
        question="did every trial run on as many ranks as it was to, from start to end?",
        scope="trial",
        look=_of_run(checks_of_ranks.size_kept),
    ),
    Check(
        name="records whole",
        question="did every rank of a trial that is over record all of it?",
        scope="study",
        look=_of_whole_trials(checks_of_ranks.whole),
    ),
    Check(
        name="identical replicas",
        question="did all ranks have the same parameters at the end of each epoch?",
        scope="study",
        look=_of_whole_trials(checks_of_ranks.replicas),
    ),
    Check(
        name="shards disjoint and complete",
        question="did the ranks together see each training example once an epoch?",
        scope="study",
        look=_of_whole_trials(checks_of_ranks.shards),
    ),
    Check(
        name="same start, same order",
        question="did trials of one seed begin alike and see the same examples in each update?",
        scope="study",
        look=_of_whole_trials(checks_of_ranks.start_and_order),
    ),
    Check(
        name="one curve at every scale",
        question="did every scale compute the same bits, where that was asked for?",
        scope="study",
        look=_of_whole_trials(checks_of_ranks.one_curve),
    ),
    Check(
        name="same validation set, fully used",
        question="were all trials scored on the whole of one validation set?",
        scope="study",
        look=_of_run(checks_of_ranks.validation_set),
    ),
    Check(
        name="equal tuning budgets",
        question="was every optimizer tuned by as many trials at each scale?",
        scope="study",
        look=_tuning,
    ),
    Check(
        name="same rules",
        question="did all trials have the same data, target, batch rule and budget?",
        scope="study",
        look=_of_run(checks_of_study.same_rules),
    ),
    Check(
        name="same machine",
        question="were threads, versions, processor and number format the same everywhere?",
        scope="study",
        look=_of_run(checks_of_study.same_machine),
    ),
    Check(
        name="seeds on one group",
        question="did all trials of a seed run on the same group of hosts?",
        scope="study",
        look=_of_run(checks_of_study.one_group_a_seed),
    ),
    Check(
        name="groups alike",
        question="did groups of hosts have as many cores, and the same speed?",
        scope="study",
        look=_groups,
    ),
    Check(
        name="clocks monotonic",
        question="did every clock go forward?",
        scope="study",
        look=_of_run(checks_of_ranks.clocks),
    ),
    Check(
        name="machine quiet",
        question="does the same trial take the same time when it is run twice?",
        scope="study",
        look=_noise,
    ),
    Check(
        name="collectives as expected",
        question="did ranks communicate as often as their strategy must?",
        scope="study",
        look=_of_whole_trials(checks_of_ranks.collectives),
    ),
    Check(
        name=ENOUGH_SEEDS,
        question="could the declared comparisons tell anything from chance?",
        scope="study",
        look=_seeds,
    ),
)


def audit(subject: Subject) -> list[AuditFinding]:
    """Make every check of the table."""
    found = [(check, check.look(subject)) for check in CHECKS]
    return [
        AuditFinding(check=check.name, scope=check.scope, status=own.status, evidence=own.evidence)
        for check, own in found
    ]


def spoiling(findings: Sequence[AuditFinding]) -> tuple[str, ...]:
    """The checks whose failure withholds the verdict, by name."""
    return tuple(one.check for one in findings if one.scope == "study" and one.status == "fail")
