"""``paceline status``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from paceline.analysis.load import Run, TrialResult


def status(run: Path, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Say who runs a study and how far it has come: its trials by state, what runs now, what failed and why.

    Parameters
    ----------
    run:
        The folder of a run, such as runs/demo.
    json:
        Print one JSON object.
    """
    from paceline.cli.output import print_json, print_text
    from paceline.plan import control

    runner = control.who_runs(run)
    found = as_json(_load(run, just_begun=runner is not None))
    alone = _goes_on_alone(run)
    if json:
        print_json({**found, "runner": runner and runner.as_json(), "goes_on_alone": alone})
        return
    print_text(f"{found['study']}: {found['num_over']} of {found['num_planned']} trials over")
    if alone:
        print_text(f"goes on without its controlling process, which was killed; `paceline attach {run}` takes it up")
    else:
        print_text(runner.in_words() if runner else _nobody(run))
    for state, number in found["states"].items():
        if number:
            print_text(f"{number:>6} {state}")
    for trial in found["running"]:
        print_text(_running(trial))
    for trial in found["failures"]:
        print_text(f"{trial['status']}: {trial['trial']}: {trial['cause'] or 'no cause was recorded; see its logs'}")


def _load(run: Path, *, just_begun: bool) -> Run:
    """The run; one that somebody has just begun may have no trial yet."""
    from paceline.analysis.load import Run, load
    from paceline.records import read_versioned, trial_dirs
    from paceline.study import Study

    if just_begun and (run / "study.json").exists() and not any(trial_dirs(run)):
        study = Study.model_validate(read_versioned(run / "study.json"))
        return Run(folder=run, study=study, environment={}, results=())
    return load(run)


def _goes_on_alone(run: Path) -> bool | None:
    """Whether ranks go on that nobody watches; None, and a word why, where that cannot be found out."""
    from paceline.cli.output import say
    from paceline.launch.remote import HostError
    from paceline.plan.control import goes_on_alone

    try:
        return goes_on_alone(run)
    except HostError as error:
        say(f"its controlling process was killed, and whether its ranks go on cannot be found out: {error}")
        return None


def _nobody(run: Path) -> str:
    """That nobody runs it; and of a detached run, how it ended."""
    from paceline.cli.logs import when
    from paceline.plan.control import last_detached

    last = last_detached(run)
    if last is None:
        return "run by nobody now"
    how = "was killed" if last.exit_code is None else f"{last.status} with exit code {last.exit_code}"
    return f"run by nobody now; the last detached run {how}, {when(last.time)}"


def as_json(run: Run) -> dict[str, Any]:
    """States, running trials and failures as one JSON object."""
    from paceline.analysis.load import STATES
    from paceline.records import SCHEMA_VERSION

    states = dict.fromkeys(STATES, 0)
    for result in run.results:
        states[result.status] += 1
    states["waiting"] += run.num_planned - len(run.results)
    failed = [result for result in run.results if result.status in ("failed", "diverged", "degraded", "stopped")]
    return {
        "schema_version": SCHEMA_VERSION,
        "study": run.name,
        "num_planned": run.num_planned,
        "num_over": sum(result.is_over for result in run.results),
        "states": states,
        "running": [_of_running(result) for result in run.results if result.status == "running"],
        "failures": [
            {"trial": result.folder.name, "status": result.status, "cause": result.cause} for result in failed
        ],
    }


def _of_running(result: TrialResult) -> dict[str, Any]:
    last = result.evaluations[-1] if result.evaluations else None
    metric = result.trial.target_metric
    return {
        "trial": result.folder.name,
        "epoch": last.epoch if last else 0,
        "max_epochs": result.trial.max_epochs,
        "num_updates": last.num_updates if last else 0,
        "train_time_s": last.train_time_s if last else 0.0,
        "metric": metric,
        "value": last.validation.get(metric) if last else None,
        "last_record_age_s": max(0.0, time.time() - result.last_record_time),
    }


def _running(trial: dict[str, Any]) -> str:
    from paceline.report.words import score, seconds

    told = f"running: {trial['trial']}: epoch {trial['epoch']} of {trial['max_epochs']}"
    if trial["value"] is not None:
        told += f", {trial['metric']} {score(trial['metric'], trial['value'])}"
    return f"{told}, last record {seconds(trial['last_record_age_s'])} ago"
