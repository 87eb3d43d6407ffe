"""Training: one loop, its checkpoints and its log."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

import ipr
from ipr import checkpoint, choices, config, loader, model, ops, protocol, validation
from ipr.config import ConfigError, OptimizerConfig, RunConfig, ScheduleConfig
from ipr.distributed import ALONE, Group
from ipr.images import ErrorPolicy, ImageError
from ipr.resume import Progress, refuse_other_config, refuse_other_steps, refuse_unresumable
from ipr.runlog import RunLog, Silence
from ipr.sampler import coverage
from ipr.types import Batch, Failure, Poses, PoseTable
from ipr.validation import Data, RunError

LOG_EVERY = 50  # steps between records of the log
SAVE_EVERY = 1000  # steps between checkpoints inside an epoch, counted in the run; a multiple of LOG_EVERY


class Outcome(NamedTuple):
    """The last validation of a run, and what to compare it with."""

    valid: PoseTable
    poses: Poses
    scores: dict[str, float]
    baselines: dict[str, dict[str, float]]


def train(
    run: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    group: Group = ALONE,
) -> Outcome:
    """Train to the end of the schedule.

    The run's files go to ``out``. ``resume`` continues from out/latest.pt as if the run had never stopped.
    All processes of the group call it alike.
    """
    run = validation.settle(run)
    refuse_blind_loss(run)
    saved = checkpoint.load(out / "latest.pt") if resume else None
    if saved is not None:
        refuse_unresumable(saved, out / "latest.pt")
        refuse_other_config(run, checkpoint.resolved_config(saved, out / "latest.pt"), out)
        refuse_other_steps(run, saved, out, group)

    def begin() -> None:
        out.mkdir(parents=True, exist_ok=True)
        resolved = yaml.safe_dump(config.to_dict(run), sort_keys=False)
        checkpoint.write_atomic(out / "config.yaml", resolved.encode())

    group.from_main(begin)
    try:
        data = group.main_first(lambda: validation.load_data(run, out / "cache"))
        trainer = Trainer(run, out, data, group)
        if saved is not None:
            trainer.restore(saved)
        else:
            trainer.save("latest.pt", {})  # Ctrl-C has something to resume from, a full disk shows at once
    except BaseException:
        if saved is None and group.is_main:  # nothing has begun: the next attempt may have the directory
            (out / "config.yaml").unlink(missing_ok=True)
        raise
    return trainer.finish()


def learning_rate(
    optimizer: OptimizerConfig, schedule: ScheduleConfig, step: int, steps_per_epoch: int
) -> float:
    """Of a step, counted from 0. A milestone's drop is in force in that epoch itself, counted from 1."""
    if step < schedule.warmup_steps:
        return optimizer.lr * (step + 1) / schedule.warmup_steps
    if schedule.kind == "cosine":
        length = schedule.epochs * steps_per_epoch - schedule.warmup_steps
        return optimizer.lr * (1 + math.cos(math.pi * (step - schedule.warmup_steps) / length)) / 2
    epoch = step // steps_per_epoch + 1
    return optimizer.lr * schedule.factor ** sum(epoch >= milestone for milestone in schedule.milestones)


def refuse_blind_loss(run: RunConfig) -> None:
    """A loss of marginals needs a head that makes some; the parts do not know each other."""
    loss, head = run.loss, run.model.head
    if getattr(loss, "needs_volume", False) and not getattr(head, "has_volume", True):
        name, other = choices.name_of(loss), choices.name_of(head)
        raise ConfigError(f"loss: {name} needs the marginals of a volume, the head {other} has none: use l1")


class Trainer:
    """A run in progress: network, optimizer and how far they have come."""

    def __init__(self, run: RunConfig, out: Path, data: Data, group: Group = ALONE) -> None:
        self.run, self.out, self.data, self.group = run, out, data, group
        self.progress = Progress()
        self.device = validation.pick_device()
        torch.manual_seed(run.seed)
        self.network = group.main_first(lambda: model.build(run)).to(self.device)  # it may fetch weights
        self.parallel = group.parallel(self.network)
        self.loss = run.loss.build()
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=run.optimizer.lr,
            weight_decay=run.optimizer.weight_decay,
            fused=True,
        )
        self.batches = loader.make_loader(
            data.train,
            run.patch,
            run.depth,
            run.augment,
            batch=run.data.batch,
            workers=run.data.workers,
            seed=run.seed,
            train=True,
            group=group,
            mixed=run.data.mix,
            device=self.device,
            on_error=run.data.on_error,
        )
        self.policy = ErrorPolicy(run.data.on_error, run.data.max_failures)
        self.listed: list[Failure] = []  # of the last step, for the log
        self.sampler = self.batches.sampler
        self.bone_length_mm = validation.bone_length_mm(data.train)
        self.baselines = validation.baselines(data, run)

    def finish(self) -> Outcome:
        """Train the epochs that are left."""
        rows = self.sampler.num_rows
        outcome = None
        with self.open_log(rows) as log:
            log.write("run", step=self.progress.step, **self.describe())
            for table in (*self.data.train, self.data.valid):
                if table.description:
                    log.say(table.description)
            while self.progress.epoch < self.run.schedule.epochs:
                outcome = self.epoch(log, rows)
            if self.policy.failed:
                log.say(self.policy.summary())
        return outcome or self.validate()

    def open_log(self, rows: int) -> RunLog | Silence:
        if not self.group.is_main:
            return Silence()
        return RunLog(
            self.out,
            step=self.progress.step,
            images=self.progress.epoch * rows + sum(self.sampler.people()[: self.progress.batch]),
            images_total=self.run.schedule.epochs * rows,
        )

    def epoch(self, log: RunLog | Silence, rows: int) -> Outcome:
        """Train on the epoch's rows (or those that are left), validate, log, save."""
        start, (epoch, step, seconds, best, done, _) = time.perf_counter(), self.progress
        images = rows - sum(self.sampler.people()[:done])
        loss = self.train_rows(log)
        trained = time.perf_counter() - start
        outcome = self.validate()
        primary = validation.to_minimize(outcome.scores, self.run)
        step += len(self.batches) - done
        seconds += time.perf_counter() - start
        self.progress = Progress(epoch + 1, step, seconds, min(best, primary))
        log.write(
            "epoch",
            epoch=epoch + 1,
            step=step,
            seconds=seconds,
            lr=self.rate(step - 1),
            loss=loss,
            images_per_second=images / trained,
            failures=self.policy.failed,
            **self.coverage(epoch + 1),
            **outcome.scores,
        )
        replaced = f", {self.policy.failed} rows replaced so far" if self.policy.failed else ""
        log.say(f"epoch {epoch + 1}/{self.run.schedule.epochs}: loss {loss:.4f}, {_brief(outcome)}{replaced}")
        if primary < best:
            self.save("best.pt", outcome.scores)
        self.save("latest.pt", outcome.scores)
        return outcome

    def coverage(self, epochs: int) -> dict[str, float]:
        """The part of each set's rows that was trained on in so many epochs."""
        found = coverage(self.sampler.sizes, self.run.data.mix, epochs)
        return {f"coverage data.train.{index}": part for index, part in enumerate(found)}

    def train_rows(self, log: RunLog | Silence) -> float:
        """One pass over the training rows, from where the epoch stands; its mean loss per person."""
        epoch, step, seconds, best, done, loss_sum = self.progress
        start = last = time.perf_counter()
        counts = self.sampler.people()  # of all processes
        images = logged_images = sum(counts[:done])
        logged_sum = loss_sum
        self.network.train()
        self.sampler.set_epoch(epoch, done)
        for batch, people in zip(self.batches, counts[done:], strict=True):
            value = self.train_batch(batch, self.rate(step), people)
            step, done = step + 1, done + 1
            loss_sum, images = loss_sum + value * people, images + people
            log.bar.update(people)
            for failure in self.listed:
                log.write("failure", epoch=epoch + 1, step=step, **failure._asdict())
                log.say(f"replaced: {failure}")
            if step % LOG_EVERY == 0:
                now = time.perf_counter()
                mean = (loss_sum - logged_sum) / (images - logged_images)
                log.write(
                    "step",
                    epoch=epoch + 1,
                    step=step,
                    seconds=seconds + now - start,
                    lr=self.rate(step - 1),
                    loss=mean,
                    images_per_second=(images - logged_images) / (now - last),
                )
                log.bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                logged_sum, logged_images, last = loss_sum, images, now
            if step % SAVE_EVERY == 0 and done < len(counts):  # the epoch's end saves by itself
                spent = seconds + time.perf_counter() - start
                self.group.average(self.network.buffers())
                self.progress = Progress(epoch, step, spent, best, done, loss_sum)
                self.save("latest.pt", {})  # nothing has scored these weights
        return loss_sum / images

    def train_batch(self, batch: Batch, rate: float, people: int | None = None) -> float:
        """One step of the optimizer with a batch on the device; the loss.

        ``people``: of the step, over all processes (None: these).
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        output = validation.forward([self.parallel], batch, self.run)
        joints_norm, weight = loader.batch_labels(batch, self.run.patch.size, self.data.valid.skeleton)
        # A loss is a mean over this process's people, and gradients are averaged over processes, whose
        # numbers of people may differ by one.
        share = 1.0 if people is None else len(batch.row) * self.group.world / people
        loss = self.loss(output, joints_norm, weight) * share
        self.optimizer.zero_grad()
        loss.backward()
        # The same in all processes, so that all stop where one must
        value, failed = self.group.mean(loss, bool(batch.failures))
        if not math.isfinite(value):  # before the step: the weights are still good
            self.refuse_nonfinite(value, batch, joints_norm.cpu())
        self.count_failures(len(batch.row) if people is None else people, batch.failures if failed else None)
        self.optimizer.step()
        return value

    def count_failures(self, people: int, own: Sequence[Failure] | None) -> None:
        """Judge the rows of a step that could not be loaded; each has cost one more try.

        ``people``: of the step; ``own``: failures of this process, None where none has any.
        """
        found = [] if own is None else [failure for part in self.group.gather(own) for failure in part]
        try:
            self.listed = self.policy.count(people + len(found), found)
        except ImageError as error:
            raise self.group.error(error) from None

    def rate(self, step: int) -> float:
        return learning_rate(self.run.optimizer, self.run.schedule, step, len(self.batches))

    def validate(self) -> Outcome:
        self.group.average(self.network.buffers())
        poses = validation.predict(
            [self.network],
            self.data.valid,
            self.run,
            mean_bone_length_mm=self.bone_length_mm,
            group=self.group,
        )
        return Outcome(
            self.data.valid, poses, validation.score(poses, self.data.valid, self.run), self.baselines
        )

    def refuse_nonfinite(self, value: float, batch: Batch, joints_norm: torch.Tensor) -> None:
        people = [
            {
                "table": f"data.train.{table}",
                "row": row,
                "image": self.data.train[table].image.name(row),
                "labels_finite": bool(labels.isfinite().all()),
            }
            for table, row, labels in zip(batch.table.tolist(), batch.row.tolist(), joints_norm, strict=True)
        ]
        people = [person for share in self.group.gather(people) for person in share]
        record = {"loss": str(value), "epoch": self.progress.epoch + 1, "batch": people}
        path = self.out / "nonfinite.json"
        if self.group.is_main:
            checkpoint.write_atomic(path, json.dumps(record, indent=1).encode())
        raise self.group.error(
            RunError(
                f"the loss is {value} in epoch {self.progress.epoch + 1}: {path} lists the people of the "
                f"batch, {self.out / 'latest.pt'} has the last good weights (a lower optimizer.lr may help; "
                "a new run starts from them with model.weights=...)"
            )
        )

    def save(self, name: str, scores: dict[str, float]) -> None:
        if not self.group.is_main:
            return
        cuda = [torch.cuda.get_rng_state()] if self.device.type == "cuda" else []  # of this process's GPU
        checkpoint.save(
            self.out / name,
            {
                **self.progress._asdict(),
                "world": self.group.world,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
                "failures": self.policy.state(),
                "config": config.to_dict(self.run),
                "decoding": {
                    "version": ipr.__version__,
                    "skeleton": self.run.skeleton,
                    "patch": config.to_dict(self.run.patch),
                    "box_rule": self.data.valid.box_rule._asdict(),
                    "depth_rule": self.run.depth.build()._asdict(),
                    "depth_unit": self.data.valid.depth_unit,
                    "mean_bone_length_mm": self.bone_length_mm,
                    "scores": scores,
                    "baselines": self.baselines,
                    "protocol": protocol.card(self.run, self.data.valid),
                },
            },
        )

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue where ``saved`` was written."""
        checkpoint.restore(self.network, saved["network"], self.out / "latest.pt")
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"]["cpu"])
        if self.device.type == "cuda" and saved["rng"]["cuda"]:
            torch.cuda.set_rng_state(saved["rng"]["cuda"][0])
        self.progress = Progress(**{field: saved[field] for field in Progress._fields if field in saved})
        if "failures" in saved:  # files of earlier versions count none
            self.policy.restore(saved["failures"])

    def describe(self) -> dict[str, Any]:
        """What the log should know of the run."""
        return {
            "versions": {
                "ipr": ipr.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else platform.machine(),
            "processes": self.group.world,
            "threads": torch.get_num_threads(),
            "operators": ops.IMPLEMENTATION,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "train_rows": [len(table) for table in self.data.train],
            "valid_rows": len(self.data.valid),
            "found": [table.description for table in (*self.data.train, self.data.valid)],
            "protocol": protocol.card(self.run, self.data.valid),
            "baselines": self.baselines,
            "config": config.to_dict(self.run),
        }


def _brief(outcome: Outcome) -> str:
    return ", ".join(
        f"{name.removesuffix(' mm')} {value:.1f}" for name, value in outcome.scores.items() if "/" not in name
    )
