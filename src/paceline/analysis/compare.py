"""One comparison of all cells of a run: their numbers, what is claimed of them, and whether the study can bear it."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.analysis.alike import refuse_unlike
from paceline.analysis.audit import AuditFinding, Subject, audit, spoiling
from paceline.analysis.cells import Cell, cells_of
from paceline.analysis.contrasts import Contrast, contrasts_of
from paceline.analysis.groups import Calibration, calibrate
from paceline.analysis.load import Run
from paceline.analysis.noise import AaPair, aa_pairs
from paceline.analysis.notes import notes
from paceline.analysis.seeds import Seeds, declared_pairs, seeds_of
from paceline.analysis.speedups import Speedup, speedups_of
from paceline.analysis.tuning import Tuning, tuning_beside
from paceline.analysis.verdict import Verdict, verdict_on
from paceline.cards import Target
from paceline.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All cells of a run beside each other; ``verdicts`` has one for each workload, ``groups`` is None for one only."""

    study: str
    question: str
    batch_rule: str
    lr_rule: str
    workloads: dict[str, Target]
    cells: tuple[Cell, ...]
    speedups: tuple[Speedup, ...]
    seeds: Seeds
    noise: tuple[AaPair, ...]
    audit: tuple[AuditFinding, ...]
    contrasts: tuple[Contrast, ...]
    tuning: Tuning | None
    groups: Calibration | None
    verdicts: tuple[Verdict, ...]
    num_planned: int
    notes: tuple[str, ...]

    def of(self, workload: str) -> list[Cell]:
        """The cells of one workload."""
        return [cell for cell in self.cells if cell.workload == workload]

    def cell(self, name: str) -> Cell:
        """The cell of a name."""
        return next(cell for cell in self.cells if cell.name == name)

    def speedups_of(self, cell: Cell) -> list[Speedup]:
        """A cell's speed-ups over its baselines, the bare process first."""
        return [speedup for speedup in self.speedups if speedup.cell == cell.name]


def compare(run: Run) -> Comparison:
    """Put the cells of a run beside each other.

    Raises: UsageError if there is no trial, or the trials are not alike; it names the difference.
    """
    if not run.results:
        raise UsageError(f"{run.folder} holds no trial to compare")
    refuse_unlike(run.results)
    cells = cells_of(run.results, run.study)
    pairs, noise = declared_pairs(run, cells), aa_pairs(run.results)
    seeds = seeds_of(cells, pairs)
    tuning, groups = tuning_beside(run), calibrate(run.results)
    findings = audit(Subject(run=run, seeds=seeds, noise=noise, tuning=tuning, groups=groups))
    withheld = spoiling(findings)
    contrasts = contrasts_of(pairs, cells, noise, audit_failed=bool(withheld))
    workloads = {cell.workload: cell.target for cell in cells}
    first = run.results[0].trial
    return Comparison(
        study=run.name,
        question=run.study.question if run.study else "",
        batch_rule=first.batch_rule,
        lr_rule=first.lr_rule,
        workloads=workloads,
        cells=tuple(cells),
        speedups=tuple(speedup for cell in cells for speedup in speedups_of(cell, cells)),
        seeds=seeds,
        noise=tuple(noise),
        audit=tuple(findings),
        contrasts=tuple(contrasts),
        tuning=tuning,
        groups=groups,
        verdicts=tuple(
            verdict_on(
                workload,
                [cell for cell in cells if cell.workload == workload],
                contrasts,
                noise,
                num_comparisons=seeds.num_comparisons,
                withheld=withheld,
            )
            for workload in workloads
        ),
        num_planned=run.num_planned,
        notes=tuple(notes(run)),
    )
