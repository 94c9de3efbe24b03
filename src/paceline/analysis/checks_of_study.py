"""Checks of the study as a whole: chance, tuning, rules, machines, noise, seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from paceline.analysis.alike import machine_differences, rule_differences
from paceline.analysis.groups import Calibration
from paceline.analysis.load import Run, TrialResult
from paceline.analysis.noise import AaPair
from paceline.analysis.outcome import Outcome, failed, passed, skipped
from paceline.analysis.seeds import Seeds
from paceline.analysis.tuning import Tuning
from paceline.records import Start

LOUDEST = 1.25  # noise floor from which on the machine is called too loud to compare anything on
WIDEST_GAP = 1.10  # between groups of hosts, in time per update: hosts of one kind differ by a few per cent
CHANCE_LEVEL = 0.001  # of all cells together: a cell is at chance unless a test says otherwise at this level


def better_than_chance(run: Run) -> Outcome:
    """Some cell scores more than a constant guess would; the cells that do not are named, and simply lose."""
    tested = {name: beats for name, own in _by_cell(run.results).items() if (beats := _beats_chance(own)) is not None}
    if not tested:
        return skipped(
            "no trial that was scored says what chance is: its targets are no classes, or its metric is its own"
        )
    level = CHANCE_LEVEL / len(tested)
    lost = [name for name, p_value in tested.items() if p_value > level]
    if len(lost) == len(tested):
        return failed(
            f"no cell scored better than {_chance(run.results)}: nothing was learned. "
            "Do labels and images belong together?"
        )
    told = f"; at chance, and so without a claim to anything: {', '.join(lost)}" if lost else ""
    return passed(f"{len(tested) - len(lost)} of {len(tested)} cells scored better than {_chance(run.results)}{told}")


def _by_cell(results: Iterable[TrialResult]) -> dict[str, list[TrialResult]]:
    found: dict[str, list[TrialResult]] = {}
    for result in results:
        found.setdefault(result.trial.cell, []).append(result)
    return found


def _beats_chance(results: Sequence[TrialResult]) -> float | None:
    """The p-value of the median seed scoring no better than the commonest class; None where chance is not known.

    Source: the exact binomial test, with the validation examples as draws.
    """
    from scipy.stats import binom

    found = []
    for result in results:
        chance = _chance_of(result).get("accuracy")
        if chance is None or not len(result.evaluations):
            continue
        last = result.evaluations[-1]
        accuracy, number = last.validation.get("accuracy", math.nan), last.num_validation
        if number:
            hits = round(accuracy * number) if math.isfinite(accuracy) else 0
            found.append(float(binom.sf(hits - 1, number, chance)))
    return statistics.median(found) if found else None


def _chance_of(result: TrialResult) -> dict[str, float]:
    return next((start.chance for start in result.starts if start.chance), {})


def _chance(results: Sequence[TrialResult]) -> str:
    known = {round(100 * chance["accuracy"], 2) for one in results if "accuracy" in (chance := _chance_of(one))}
    return f"always guessing the commonest class ({' and '.join(f'{value:g} %' for value in sorted(known))})"


def equal_tuning(run: Run, tuning: Tuning | None) -> Outcome:
    """Every optimizer was tuned by as many trials at each scale, and what was chosen is what ran, on other seeds."""
    if run.study is None or run.study.tuning is None:
        return skipped("nothing was tuned: these settings are compared, not the optimizers at their best")
    if tuning is None or not tuning.is_complete:
        return failed("tuning is not finished, or its folder is gone")
    if not tuning.has_equal_budgets:
        told = ", ".join(f"{one.num_over} for {one.label} at {one.scale}" for one in tuning.searches)
        return failed(f"budgets differ: {told}")
    chosen = tuning.chosen
    for result in run.results:
        trial = result.trial
        if trial.seed in run.study.tuning.seeds:
            return failed(f"seed {trial.seed} of {result.folder.name} was used for tuning")
        if trial.hyperparameters != chosen.get((trial.workload, trial.label, str(trial.scale))):
            return failed(f"{result.folder.name} did not run with the hyperparameters that tuning chose")
    each = len(tuning.searches[0].configurations)
    return passed(
        f"{each} configurations were tried for each of {len(tuning.searches)} pairs of an optimizer and a scale, and "
        "the best of each ran on other seeds"
    )


def same_rules(run: Run) -> Outcome:
    """Data, target, batch rule, budget and hyperparameters are the same wherever they must be."""
    different = next(rule_differences(run.results), None)
    if different:
        return failed(different)
    trial = run.results[0].trial
    if trial.batch_rule == "global":
        sizes = {one.trial.workload: f"{one.trial.global_batch_size:,}" for one in run.results}
        told = " and ".join(dict.fromkeys(sizes.values())) + (", by workload," if len(set(sizes.values())) > 1 else "")
        return passed(f"every update used a global batch of {told} at every scale (strong scaling)")
    rule = {"none": "stays", "linear": "grows in proportion", "sqrt": "grows as the root"}[trial.lr_rule]
    return passed(f"the global batch grows with the ranks (weak scaling), and the learning rate {rule}, as stated")


def same_machine(run: Run) -> Outcome:
    """Threads, torch version, processor, device and number format are the same everywhere."""
    different = next(machine_differences(run.results), None)
    if different:
        return failed(different)
    start = next((start for result in run.results for start in result.starts), None)
    if start is None:
        return skipped("no rank has started yet")
    threads = f"{start.num_threads} thread{'s' * (start.num_threads != 1)} a rank"
    return passed(f"{threads}, torch {start.torch_version}, {start.processor}, {start.dtype} everywhere")


def one_group_a_seed(run: Run) -> Outcome:
    """All trials of a seed ran on one group of hosts, from start to end."""
    seeds: dict[int, tuple[str, str]] = {}
    for result in run.results:
        name = result.folder.name
        if len(result.groups) > 1:
            return failed(
                f"{name} began on the group of {result.groups[0]} and went on on that of {result.groups[-1]}: its "
                "times are of two machines. Remove its folder and run the study again, on the first"
            )
        for group in result.groups:
            first, other = seeds.setdefault(result.trial.seed, (group, name))
            if first != group:
                return failed(
                    f"{name} ran on the group of {group}, {other} on that of {first}: trials of seed "
                    f"{result.trial.seed} do not pair. Remove the folders of that seed's trials and run the study again"
                )
    if len({group for group, _ in seeds.values()}) < 2:
        return skipped("one group of hosts ran all trials")
    return passed(f"each of {len(seeds)} seeds had one group of hosts for all its trials")


def groups_alike(run: Run, groups: Calibration | None) -> Outcome:
    """Groups of hosts have as many cores and took as long for an update; the rest is asked of all ranks alike."""
    if groups is None:
        return skipped("one group of hosts ran all trials")
    if unlike := _unlike_cores(run.results):
        return failed(f"{unlike}. Give unlike hosts a study of their own")
    gap = groups.gap
    if gap is None:
        return skipped("no cell has run on all groups yet")
    slow, fast = (choose(groups.groups, key=lambda one: one.speed.value if one.speed else 1.0) for choose in (min, max))
    told = (
        f"for an update the group of {slow.name} took {_percent(gap.value)} longer than that of {fast.name}, in the "
        f"mean over {groups.num_cells} cell{'s' * (groups.num_cells != 1)}"
    )
    if gap.low is None or gap.high is None:
        return skipped(f"{told}; whether that is noise takes a second seed on one of the groups")
    told += f" (95 %: {gap.low:.3g} to {gap.high:.3g} times as long)"
    if gap.value > WIDEST_GAP and gap.low > 1:
        return failed(f"{told}: seeds carry differences between machines. Give unlike hosts a study of their own")
    return passed(f"{told}, and the same ranks had as many cores")


def _unlike_cores(results: Sequence[TrialResult]) -> str:
    """Where the same rank of a scale may use other numbers of cores in different groups."""
    seen: dict[tuple[str, int], tuple[int, Start]] = {}
    for result in results:
        for start in result.starts:
            cores = len(start.affinity) or start.num_cores
            first, other = seen.setdefault((str(result.trial.scale), start.rank), (cores, start))
            if first != cores:
                return f"rank {start.rank} may use {cores} cores on {start.host}, and {first} on {other.host}"
    return ""


def machine_quiet(run: Run, noise: Sequence[AaPair]) -> Outcome:
    """The same trial takes the same time when it is run twice."""
    if not noise:
        wanted = run.study is not None and run.study.repeats_baseline
        return skipped("no A/A pair is over yet" if wanted else "the study has no A/A pair")
    loudest = max(noise, key=lambda pair: pair.floor or 0.0)
    if loudest.floor is None:
        return skipped(
            f"{loudest.ratio.num_pairs} A/A pair{'s' * (loudest.ratio.num_pairs != 1)} differed by up to "
            f"{_percent(loudest.largest)}; their mean takes 6 pairs to bound"
        )
    told = (
        f"{loudest.cell} run twice differed by {_percent(loudest.ratio.value)} in the mean of "
        f"{loudest.ratio.num_pairs} pairs, and by no more than {_percent(loudest.floor)} with 95 % confidence"
    )
    return failed(f"{told}: too loud to compare anything") if loudest.floor > LOUDEST else passed(told)


def enough_seeds(seeds: Seeds) -> Outcome:
    """The declared comparisons could tell something from chance."""
    if not seeds.num_comparisons:
        return skipped("there is one cell, and nothing to compare it with")
    one = seeds.num_comparisons == 1
    compared = "1 comparison needs" if one else f"{seeds.num_comparisons} comparisons need"
    finished = f"{seeds.num_seeds} seed{'s' * (seeds.num_seeds != 1)} finished in every cell"
    told = f"{finished}; {compared} {seeds.num_needed}"
    return passed(told) if seeds.enough else failed(told)


def _percent(ratio: float) -> str:
    return f"{100 * math.expm1(abs(math.log(ratio))):.2g} %"
