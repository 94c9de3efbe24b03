"""The training loop: one path for one rank and many, for every optimizer, strategy and workload."""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from paceline import registry
from paceline.data.order import epoch_permutation, indices_digest, rank_part, update_slices
from paceline.errors import DivergedError, UsageError
from paceline.records import End, Epoch, Evaluation, RecordFile, Resumed, Start, Status, rank_file, read_records
from paceline.strategies.base import OPTIMIZER, Strategy
from paceline.strategies.ranks import Ranks
from paceline.strategy_cards import strategy_card
from paceline.train import checkpoint
from paceline.train.clock import DATA, Clock, Totals
from paceline.train.digest import parameters_digest
from paceline.train.elsewhere import go_on_with
from paceline.train.environment import peak_memory_bytes, reset_peak_memory, start_record
from paceline.train.evaluate import Scores, evaluate
from paceline.train.interval import Interval, Keeping
from paceline.train.leave import Leaving
from paceline.train.prefetch import prefetch
from paceline.train.progress import (
    EpochSums,
    Progress,
    generators,
    seed_building,
    seed_generators,
    set_generators,
)
from paceline.train.schedule import lr_factor
from paceline.train.state import common_state, own_state, restore
from paceline.trial import Trial
from paceline.workloads.base import Batch, Split, Workload

EXAMPLES_FETCHED_TOGETHER = 1024  # in one handoff from the prefetching thread, where updates are smaller
LOOK_AT_LOSS_EVERY = 32  # updates, on a GPU, where each look waits for the device
_SAVES = " saves"  # among the sums of metrics: whether rank 0 wants a checkpoint
_SPOILT = " spoilt"  # how many ranks have parameters that are no finite numbers


@dataclass(frozen=True, kw_only=True)
class Update:
    """This rank's part of one update, still on the host; ``num_global`` examples over all ranks.

    ``places``: of each micro-batch's examples among these.
    """

    micro_batches: list[Batch]
    places: list[NDArray[np.int64]]
    num_own: int
    num_global: int


def run_trial(
    trial: Trial,
    workload: Workload,
    ranks: Ranks,
    trial_dir: Path,
    leaving: Leaving | None = None,
    keeping: Keeping | None = None,
) -> End | None:
    """Train one trial to its budget, from its newest checkpoint if it has one. Every rank calls this.

    Returns: the end record; None if the ranks were asked to leave, after a checkpoint.
    Raises: UsageError if the trial cannot be run as asked; DataError if its checkpoints cannot be used. A loss that is
        not finite ends it as ``diverged``.
    """
    began = time.perf_counter()
    for split, count in workload.num_examples.items():
        if count < ranks.world_size:
            raise UsageError(f"{ranks.world_size} ranks cannot share the {count} examples of the {split} split")
    _refuse_too_few_updates(trial, workload)
    reset_peak_memory(ranks.device)
    training = Training(trial, workload, ranks, trial_dir, leaving, keeping)
    try:
        training.begin(began)
        with training.leaving.heeded():
            ended = training.run()
            if ended is None:
                return None
            status, reason, test = ended
            return training.end(status, reason, test, wall_time_s=time.perf_counter() - began)
    finally:
        training.close()


class Training:
    """The moving parts of one trial on one rank."""

    def __init__(
        self,
        trial: Trial,
        workload: Workload,
        ranks: Ranks,
        trial_dir: Path,
        leaving: Leaving | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        seed_building(trial.seed)
        self.trial, self.workload, self.ranks, self.trial_dir = trial, workload, ranks, trial_dir
        self.autocast = trial.options.autocast == "bf16"
        self.clock, self.totals, self.progress = Clock(ranks.device), Totals(), Progress()
        self.leaving, self.leaves = leaving or Leaving(), False
        self.sums = EpochSums()
        self.keeping = keeping or Keeping()
        self.interval = Interval(self.keeping, ranks, trial.id)
        self.saves, self.saved_at = False, 0
        self.stop = ""  # why training stops before max_epochs; kept in checkpoints, so that it is not resumed
        self.model: nn.Module = workload.build_model().to(ranks.device)
        self.initial_digest = parameters_digest(self.model)
        if trial.options.compile:
            # not model.compile(): that silently does nothing to a torch.nn.Sequential
            self.model.forward = torch.compile(self.model.forward)
        self.strategy: Strategy = registry.resolve("strategies", trial.strategy_of_registry)(
            model=self.model,
            workload=workload,
            ranks=ranks,
            mark=self.clock.mark,
            autocast=self.autocast,
            settings=trial.strategy_settings,
        )
        self.optimizer = self.strategy.build_optimizer(self._build_optimizer)
        self.strategy.attach(self.optimizer)
        if hasattr(
            self.optimizer, "train"
        ):  # of a schedule-free one, which trains other parameters than it answers for
            self.optimizer.train()
        self.lrs = [group["lr"] for group in self.optimizer.param_groups] if trial.schedule else []
        self.records = RecordFile(rank_file(trial_dir, ranks.rank))

    def _build_optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The trial's optimizer; where its builder has parameters ``model`` or ``strategy``, these are given to it."""
        build = registry.resolve("optimizers", self.trial.optimizer)
        offered = {"model": self.model, "strategy": self.strategy}
        wanted = {name: offered[name] for name in offered if name in inspect.signature(build).parameters}
        optimizer: Optimizer = build(parameters, self.trial.hyperparameters, **wanted)
        return optimizer

    def close(self) -> None:
        """Let go of files and of the process group."""
        self.records.close()
        self.strategy.close()

    def begin(self, began: float) -> None:
        """Go on from a checkpoint if there is one; make the discarded passes; write the start record."""
        most_epochs = self._num_recorded_epochs()
        found = self.ranks.from_first(lambda: checkpoint.newest(self.trial_dir, most_epochs=most_epochs))
        before = None
        if found is None and (folder := self.keeping.begins_with):
            before = self.ranks.from_first(lambda: go_on_with(folder, self.trial))
            found = before.newest
        if found is not None:
            restore(self, found)
        if self.records.has_records:
            passed_over = found.passed_over if found is not None else ()
            num_updates = self.progress.num_updates
            self.records.append(Resumed(rank=self.ranks.rank, num_updates=num_updates, passed_over=passed_over))
        self._discarded_passes()
        self.records.append(
            start_record(
                self.trial,
                self.workload,
                self.ranks,
                self.model,
                initial_parameters_digest=self.initial_digest,
                startup_s=time.perf_counter() - began,
                continues=before.trial.id if before else "",
                num_epochs_before=self.progress.epoch if before else 0,
            )
        )
        self.ranks.barrier()  # rank 0 may have looked through the validation labels: not on the others' clocks

    def _num_recorded_epochs(self) -> int:
        """Of how many epochs every rank still has its records: what a checkpoint vouches for may be lost since."""
        records = read_records(rank_file(self.trial_dir, self.ranks.rank))
        elsewhere = max((record.num_epochs_before for record in records if isinstance(record, Start)), default=0)
        own = elsewhere + sum(isinstance(record, Epoch) for record in records)
        return -int(self.ranks.maximum(torch.tensor(-own, device=self.ranks.device)))

    def run(self) -> tuple[Status, str, dict[str, float]] | None:
        """Run epochs until the budget is used up, the loss diverges, or the ranks leave.

        Returns: status, the reason in words, and the score on the test split, touched once, here; None if they leave.
        """
        try:
            while not self._is_finished and not self.leaves:
                self._epoch()
        except DivergedError as error:
            self.clock.drain(self.ranks, self.totals)
            return "diverged", str(error), {}
        if self._is_finished:
            self._checkpoint()
            return "completed", self.stop or "reached max_epochs", self._score("test").means
        self._checkpoint()
        return None

    @property
    def _is_finished(self) -> bool:
        return bool(self.stop) or self.progress.epoch == self.trial.max_epochs

    def advance(self, num_updates: int) -> None:
        """Make the first updates of an epoch and nothing else: no record, no evaluation, no checkpoint.

        Raises: DivergedError if a loss is not finite.
        """
        epoch = self.progress.epoch
        order = epoch_permutation(self.workload.num_examples["train"], seed=self.trial.seed, epoch=epoch)
        for update in islice(self._updates(order, epoch), num_updates):
            self._update(update, EpochSums())

    def end(self, status: Status, reason: str, test: dict[str, float], *, wall_time_s: float) -> End:
        """Write and return the end record."""
        record = End(
            rank=self.ranks.rank,
            status=status,
            reason=reason,
            num_updates=self.progress.num_updates,
            num_samples=self.progress.num_samples,
            num_gradient_evaluations=self.progress.num_gradient_evaluations,
            train_time_s=self.totals.train_time_s,
            wall_time_s=wall_time_s,
            bytes_sent=self.ranks.traffic.bytes_sent,
            num_collectives=self.ranks.traffic.num_collectives,
            peak_memory_bytes=peak_memory_bytes(self.ranks.device),
            parameters_digest=self._digest(),
            test=test,
        )
        self.records.append(record)
        return record

    def _epoch(self) -> None:
        """One epoch, or what is left of it; less if training must stop, or the ranks leave."""
        epoch, total = self.progress.epoch, self.workload.num_examples["train"]
        order = epoch_permutation(total, seed=self.trial.seed, epoch=epoch)
        sums = self.sums
        if sums.num_samples == 0:
            rank = 0 if self.strategy.same_draws else self.ranks.rank
            seed_generators(self.trial.seed, epoch=epoch, rank=rank)
        rank_batch_size = max(1, self.trial.global_batch_size // self.ranks.world_size)
        updates = prefetch(
            self._updates(order, epoch, first=sums.num_samples),
            together=max(1, EXAMPLES_FETCHED_TOGETHER // rank_batch_size),
        )
        while sums.num_samples < total and not self.stop and not self.leaves:
            self.clock.start()
            update = next(updates)
            self._update(update, sums)
            ended = sums.num_samples == total
            if ended:
                self.progress.epoch += 1
            if ended or self._evaluation_is_due(update.num_global):
                self._evaluate(sums, epoch_end=ended)
            if self.leaving.asked:
                self.leaves = self.leaving.is_due(self.progress.num_updates, self._next_meeting, self.ranks)
            self.saves |= self.interval.is_due(self.progress.num_updates, self._next_meeting)
            if self.saves and not ended:
                self._checkpoint()
        updates.close()
        if sums.num_samples == total:
            self._end_epoch(order, epoch)

    @property
    def _next_meeting(self) -> int:
        """The first of the updates to come that no rank ends before all have come to it: they meet after epochs."""
        num_updates, an_epoch = self.progress.num_updates, _updates_an_epoch(self.trial, self.workload)
        return min(self.strategy.next_meeting(num_updates), (num_updates // an_epoch + 1) * an_epoch)

    def _updates(self, order: NDArray[np.int64], epoch: int, *, first: int = 0) -> Iterator[Update]:
        """Gather this rank's part of each update of an epoch; runs in the prefetching thread.

        Args:
            first: the examples that earlier updates took.
        """
        for cut in update_slices(len(order), self.trial.global_batch_size):
            if cut.start < first:
                continue
            indices = order[cut]
            parts = self._fixed_parts(len(indices)) if self.trial.num_microbatches else self._parts(len(indices))
            yield Update(
                micro_batches=[
                    self.workload.batch("train", indices[part], seed=self.trial.seed, epoch=epoch) for part in parts
                ],
                places=parts,
                num_own=len(range(len(indices))[self._own(len(indices))]),
                num_global=len(indices),
            )

    def _own(self, num: int) -> slice:
        """Which of ``num`` in a row are this rank's."""
        return rank_part(num, rank=self.ranks.rank, world_size=self.ranks.world_size)

    def _parts(self, num_global: int) -> list[NDArray[np.int64]]:
        """The places in an update of this rank's micro-batches.

        A rank without a part still takes part in the collectives: it evaluates an example that weighs nothing.
        """
        own = np.arange(num_global)[self._own(num_global)]
        parts = np.array_split(own if len(own) else np.zeros(1, dtype=np.int64), self.trial.options.accumulation_steps)
        return [part for part in parts if len(part)]

    def _fixed_parts(self, num_global: int) -> list[NDArray[np.int64]]:
        """Its share of the microbatches into which an update is cut at every scale; some may be empty."""
        num, places = self.trial.num_microbatches, np.arange(num_global)
        return [places[rank_part(num_global, rank=part, world_size=num)] for part in range(num)[self._own(num)]]

    def _update(self, update: Update, sums: EpochSums) -> None:
        """One update, on the clock until the parameters are updated; then its metrics, off the clock."""
        batches = [self.workload.prepare(batch, self.ranks.device) for batch in update.micro_batches]
        self.clock.mark(DATA)
        divides_by, is_safe = self.strategy.divides_by, getattr(self.optimizer, "reduces", False)
        self._set_lr()
        first: list[tuple[Tensor, list[Tensor]]] = []

        def closure(share: float = 1.0) -> Tensor | tuple[Tensor, int]:
            """Evaluate the objective, on a share of the update's examples if asked."""
            self.clock.mark(OPTIMIZER)
            self.strategy.zero_grad()
            parts, num_own = (batches, update.num_own) if share == 1 else self._in_share(update, batches, share)
            counts = {"global": math.ceil(share * update.num_global), "own": num_own, "nothing": 1}
            loss = self.strategy.objective(parts, num_examples=counts[divides_by] if num_own else math.inf)
            self.progress.num_gradient_evaluations += 1
            if not is_safe and divides_by != "own":  # where ranks have losses of their own, evaluations tell all alike
                self._refuse_non_finite(loss, at_trial_point=bool(first))
            if not first:
                first.append((loss, self.strategy.outputs))
            if divides_by == "nothing":
                return loss, num_own
            if self.trial.options.clip_grad_norm != "off":
                nn.utils.clip_grad_norm_(self.model.parameters(), self.trial.options.clip_grad_norm)
            return loss

        reached: Any = self.optimizer.step(closure)
        self.clock.mark(OPTIMIZER)
        self.progress.num_updates += 1
        self.strategy.after_update(self.progress.num_updates)
        self.progress.num_samples += update.num_global
        sums.num_samples += update.num_global
        loss, outputs = first[0]
        if is_safe:  # it takes no place where the loss is not finite, and says where there is no other
            self._refuse_non_finite(reached, at_trial_point=False)
        weights = {"global": update.num_global / self.ranks.world_size, "own": update.num_own, "nothing": 1.0}
        sums.metrics.add({"loss": loss}, weight=weights[divides_by])
        if update.num_own:
            for output, batch in zip(outputs, (batch for batch in batches if len(batch.targets)), strict=True):
                sums.metrics.add(self.workload.metric_sums(output, batch))

    def _set_lr(self) -> None:
        """The learning rates of the update that comes, by the trial's schedule."""
        if self.trial.schedule is None:
            return
        num_updates = _most_updates(self.trial, self.workload)
        factor = lr_factor(self.trial.schedule, self.progress.num_updates, num_updates)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * factor

    @property
    def trains_elsewhere(self) -> bool:
        """Whether a rank trains other parameters than those that are evaluated and kept."""
        return not self.strategy.keeps_replicas or hasattr(self.optimizer, "eval")

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """The model has the parameters that are evaluated; afterwards those that are trained, bit for bit."""
        if not self.trains_elsewhere:
            yield
            return
        trained = [parameter.detach().clone() for parameter in self.model.parameters()]
        switch: Any = self.optimizer if hasattr(self.optimizer, "eval") else None
        if switch:
            switch.eval()
        with self.strategy.evaluated():
            yield
        if switch:
            switch.train()
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), trained)

    def _in_share(self, update: Update, batches: list[Batch], share: float) -> tuple[list[Batch], int]:
        """An even choice of ceil(share * n) of the n examples of an update, the same ones at every scale.

        Returns: this rank's part as micro-batches, and how many of them count.
        """
        chosen = [np.ceil((places + 1) * share) > np.ceil(places * share) for places in update.places]
        num_own = int(sum(mask.sum() for mask in chosen)) if update.num_own else 0
        parts = [
            Batch(*(values[torch.from_numpy(mask)] for values in batch))
            for batch, mask in zip(batches, chosen, strict=True)
            if self.trial.num_microbatches or mask.any()
        ]
        return parts or [Batch(*(values[:1] for values in batches[0]))], num_own

    def _refuse_non_finite(self, loss: Tensor, *, at_trial_point: bool) -> None:
        if self.ranks.device.type == "cuda" and not at_trial_point and self.progress.num_updates % LOOK_AT_LOSS_EVERY:
            return
        if not math.isfinite(loss.item()):
            raise DivergedError(f"the loss is {loss.item()} in update {self.progress.num_updates + 1}")

    def _evaluation_is_due(self, num_new: int) -> bool:
        every = self.trial.evaluate_every
        return every != "epoch" and self.progress.num_samples // every > (self.progress.num_samples - num_new) // every

    def _evaluate(self, sums: EpochSums, *, epoch_end: bool) -> None:
        """Evaluate and record; decide whether training must stop, alike on every rank."""
        quantiles = self.clock.drain(self.ranks, self.totals)
        scores = self._score("validation")
        validation = scores.means
        saves = epoch_end and self.ranks.rank == 0 and self.interval.wants_epoch(self.totals.train_time_s)
        is_spoilt = not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        totals = sums.metrics.totals(self.ranks, {_SAVES: float(saves), _SPOILT: float(is_spoilt)})
        self.saves |= totals.pop(_SAVES) > 0
        if num_spoilt := totals.pop(_SPOILT):  # a network that saturates has a finite loss all the same
            validation = dict.fromkeys(validation, math.nan)
        train = {name: value / sums.num_samples for name, value in totals.items()}
        if self.ranks.rank == 0:
            self.records.append(
                Evaluation(
                    epoch_end=epoch_end,
                    **vars(self.progress),
                    **self.totals.mean(),
                    train_time_s=self.totals.train_time_s,
                    update_time_s=quantiles,
                    bytes_sent=self.ranks.traffic.bytes_sent,
                    num_collectives=self.ranks.traffic.num_collectives,
                    train=train,
                    validation=validation,
                    num_validation=scores.num_examples,
                )
            )
        if num_spoilt:
            raise DivergedError(f"a parameter is nan or infinite after epoch {self.progress.epoch}")
        for name, loss in (("validation", validation["loss"]), ("training", train["loss"])):
            if not math.isfinite(loss):
                raise DivergedError(f"the {name} loss is {loss} after epoch {self.progress.epoch}")
        if self.trial.max_train_time_s != "unlimited" and self.totals.train_time_s >= self.trial.max_train_time_s:
            self.stop = "reached max_train_time_s"
        elif self.trial.stop_at_target and self.trial.target.reached(validation[self.trial.target_metric]):
            self.stop = "reached the target"

    def _score(self, split: Split) -> Scores:
        began = time.perf_counter()
        with self.evaluated():
            scores = evaluate(self.model, self.workload, split, ranks=self.ranks, autocast=self.autocast)
        self.progress.evaluation_time_s += time.perf_counter() - began
        return scores

    def _end_epoch(self, order: NDArray[np.int64], epoch: int) -> None:
        """Write this rank's account of an epoch, and a checkpoint if one is due."""
        parts = [
            order[cut][rank_part(cut.stop - cut.start, rank=self.ranks.rank, world_size=self.ranks.world_size)]
            for cut in update_slices(len(order), self.trial.global_batch_size)
        ]
        own = np.concatenate(parts)
        seen_in = np.repeat(np.arange(len(parts)), [len(part) for part in parts])  # update of each own example
        self.records.append(
            Epoch(
                rank=self.ranks.rank,
                epoch=epoch,
                num_updates=self.progress.num_updates,
                num_indices=len(own),
                indices_digest=indices_digest(own),
                order_digest=indices_digest(own + len(order) * seen_in),
                parameters_digest=self._digest(),
                train_time_s=self.totals.train_time_s,
                **self.totals.own(),
                bytes_sent=self.ranks.traffic.bytes_sent,
                num_collectives=self.ranks.traffic.num_collectives,
                peak_memory_bytes=peak_memory_bytes(self.ranks.device),
            )
        )
        self.sums = EpochSums()
        if self.saves:
            self._checkpoint()

    def _digest(self) -> str:
        """Of the parameters that are evaluated; every rank calls this."""
        with self.evaluated():
            return parameters_digest(self.model)

    def _checkpoint(self) -> None:
        """Save where training is, unless that was done; what it vouches for, every rank has recorded."""
        if self.saved_at == self.progress.num_updates:
            return
        self.clock.drain(self.ranks, self.totals, goes_on=True)
        began = time.perf_counter()
        own_states, state = self.ranks.gather(own_state(self)), common_state(self)
        with self.evaluated():
            if own_states is not None:
                state |= {"model": self.model.state_dict(), "ranks": own_states}
                kept = self.keeping.kept
                checkpoint.save(self.trial_dir, state, num_updates=self.progress.num_updates, kept=kept)
        self.ranks.barrier()  # the others would wait for rank 0 on the clock
        self.mark_saved(cost_s=time.perf_counter() - began)

    def mark_saved(self, *, cost_s: float | None = None) -> None:
        """There is a checkpoint of where training is; ``cost_s`` was the time it took, if it was written just now."""
        self.saves, self.saved_at = False, self.progress.num_updates
        self.progress.checkpoint_time_s += cost_s or 0.0
        self.interval.written(num_updates=self.saved_at, train_time_s=self.totals.train_time_s, cost_s=cost_s)

    def _discarded_passes(self) -> None:
        """Two forward and backward passes through the strategy whose results are thrown away.

        DDP's first iteration reduces in another order than later ones; before its second, ranks wait for each other to
        rearrange its buckets. What is set up lazily is set up here.
        """
        traffic, carried = dict(vars(self.ranks.traffic)), copy.deepcopy(self.strategy.state_dict())
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        before = generators(self.ranks.device)
        order = epoch_permutation(self.workload.num_examples["train"], seed=self.trial.seed, epoch=self.progress.epoch)
        update = next(self._updates(order, self.progress.epoch))
        batches = [self.workload.prepare(batch, self.ranks.device) for batch in update.micro_batches]
        for _ in range(2):
            self.strategy.objective(batches, num_examples=update.num_global)
            self.strategy.zero_grad()
        set_generators(before, self.ranks.device)
        for buffer, kept in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(kept)
        self.strategy.load_state_dict(carried)
        vars(self.ranks.traffic).update(traffic)
        self.clock.discard()


def _updates_an_epoch(trial: Trial, workload: Workload) -> int:
    return -(-workload.num_examples["train"] // trial.global_batch_size)


def _most_updates(trial: Trial, workload: Workload) -> int:
    """Of all epochs of a trial."""
    return trial.max_epochs * _updates_an_epoch(trial, workload)


def _refuse_too_few_updates(trial: Trial, workload: Workload) -> None:
    """Raises: UsageError on every rank alike, where a strategy's settings want more updates than there can be."""
    settings = strategy_card(trial.strategy_of_registry).settings.model_validate(trial.strategy_settings)
    why_too_short = getattr(settings, "why_too_short", None)
    if why_too_short and (reason := why_too_short(_most_updates(trial, workload))):
        raise UsageError(f"strategy {trial.strategy}: {reason}")
