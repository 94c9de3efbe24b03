"""What must be known of a study's workloads before its trials can be named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from paceline.cards import WORKLOADS, Target
from paceline.data.catalog import dataset_digest, find_first
from paceline.errors import PacelineError, UsageError
from paceline.job import PARENT_VARIABLE
from paceline.study import Study
from paceline.study_tables import WorkloadEntry
from paceline.trial import WorkloadFacts


def workload_facts(study: Study, data_dir: Path | None) -> dict[str, WorkloadFacts]:
    """Facts of every workload of a study, by label.

    Raises: DataError if its data is missing; UsageError if a workload from outside cannot be built; PacelineError if
        the process was killed that was to build it.
    """
    built_in = {label: entry for label, entry in study.workloads.items() if entry.name in WORKLOADS}
    outside = {label: entry for label, entry in study.workloads.items() if entry.name not in WORKLOADS}
    facts = {label: _of_built_in(entry, data_dir) for label, entry in built_in.items()}
    return facts | (_of_outside(outside, data_dir) if outside else {})


def remarks_on_targets(study: Study, facts: dict[str, WorkloadFacts]) -> list[str]:
    """Targets that nobody is known to have reached on the data at hand."""
    return [
        f"the target of {label}, {facts[label].target.value}, was reached on other data than {facts[label].dataset}"
        for label, entry in study.workloads.items()
        if entry.target == "auto"
        and entry.name in WORKLOADS
        and not WORKLOADS[entry.name].was_reached_on(facts[label].dataset, facts[label].data_digest)
    ]


def _of_built_in(entry: WorkloadEntry, data_dir: Path | None) -> WorkloadFacts:
    card = WORKLOADS[entry.name]
    candidates = card.candidates(entry.name, entry.dataset)
    if entry.options:
        raise UsageError(f"workload {entry.name} takes no options (given: {', '.join(entry.options)}); remove them")
    dataset = find_first(candidates, data_dir)
    return WorkloadFacts(dataset=dataset, data_digest=dataset_digest(dataset, data_dir), target=card.target_on(dataset))


def _of_outside(entries: dict[str, WorkloadEntry], data_dir: Path | None) -> dict[str, WorkloadFacts]:
    """Ask a process of the rank side, since building a workload imports torch."""
    asked = {
        "data_dir": None if data_dir is None else str(data_dir),
        "workloads": {label: entry.model_dump() for label, entry in entries.items()},
    }
    done = subprocess.run(
        [sys.executable, "-m", "paceline.train.describe"],
        input=json.dumps(asked),
        env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        killed = f"the process that was to build the workloads {', '.join(entries)} was ended by signal"
        raise PacelineError(f"{killed} {-done.returncode}: killed, or out of memory? Run the same command again")
    if done.returncode:
        raise UsageError(f"workloads {', '.join(entries)} cannot be built:\n{done.stderr.strip()[-2000:]}")
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return {
        label: WorkloadFacts(
            dataset=answer["dataset"], data_digest=answer["data_digest"], target=Target(**answer["target"])
        )
        for label, answer in answers.items()
    }
