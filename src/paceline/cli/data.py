"""``paceline data``: prepare published files, and look at a data set before trusting it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from paceline.cli.output import console, print_json, print_text, say
from paceline.errors import PacelineError

if TYPE_CHECKING:
    from paceline.data.dataset import ImageDataset

app = App(name="data", help="Prepare and look at data sets.", result_action="return_value")


@app.command
def prepare(name: str, /, *, source: Path, data_dir: Path | None = None, json: bool = False) -> None:
    """Convert published ImageNet files, once, to a store that training reads from.

    Prints the folder of the store.

    Parameters
    ----------
    name
        imagenet32 or imagenet64.
    source
        The folder with train_data_batch_1 ... train_data_batch_10 and val_data; the names of the classes are taken from
        map_clsloc.txt and imagenet1000_clsidx_to_labels.txt where both lie there too.
    data_dir
        Where the store is written, in a folder of the data set's name; by default $PACELINE_DATA, else the user's
        cache.
    json
        Print one JSON document.
    """
    from paceline.data.catalog import default_data_dir
    from paceline.data.prepare import prepare as prepare_store
    from paceline.data.store import read_meta, store_digest

    with _progress() as report:
        path = prepare_store(name, source, data_dir or default_data_dir(), report)
    if json:
        meta = read_meta(path)
        print_json({"path": str(path), "digest": store_digest(meta), "num_images": meta.num_images})
    else:
        print_text(str(path))


@app.command
def show(name: str, /, *, data_dir: Path | None = None, sheet: Path | None = None, json: bool = False) -> None:
    """Count a data set's images by class and split, and draw a few of each class on a contact sheet.

    Parameters
    ----------
    name
        As in the catalog: mnist, fashion-mnist, imagenet32 ...
    data_dir
        Where to look first; then in $PACELINE_DATA, then in the user's cache.
    sheet
        The PNG to write; by default NAME.png in the working folder.
    json
        Print one JSON document.
    """
    from paceline.data.catalog import open_dataset

    dataset = open_dataset(name, data_dir)
    facts = _facts(dataset)
    sheet = sheet or Path(f"{name}.png")
    _write_sheet(dataset, sheet)
    if json:
        print_json({**facts, "sheet": str(sheet)})
        return
    print_text(_described(facts))
    say(f"contact sheet: {sheet}")


def _facts(dataset: ImageDataset) -> dict[str, Any]:
    """Everything ``show`` tells, as plain values."""
    import numpy as np

    from paceline.data.splits import stratified_split

    train, validation = stratified_split(dataset.train.labels)
    labels = {
        "train": dataset.train.labels[train],
        "validation": dataset.train.labels[validation],
        "test": dataset.test.labels,
    }
    counts = {split: np.bincount(of, minlength=len(dataset.class_names)).tolist() for split, of in labels.items()}
    return {
        "name": dataset.name,
        "path": str(dataset.path),
        "digest": dataset.digest,
        "image_shape": list(dataset.image_shape),
        "channel_mean": [round(float(mean), 4) for mean in dataset.mean_image.mean(axis=(1, 2))],
        "channel_std": [round(float(std), 4) for std in dataset.channel_std],
        "num_images": {split: len(of) for split, of in labels.items()},
        "classes": [
            {"label": label, "name": name, **{split: counts[split][label] for split in counts}}
            for label, name in enumerate(dataset.class_names)
        ],
    }


def _described(facts: dict[str, Any]) -> str:
    splits = list(facts["num_images"])
    width = max(5, *(len(entry["name"]) for entry in facts["classes"]))
    lines = [
        f"{facts['name']}: {len(facts['classes'])} classes, images {' x '.join(map(str, facts['image_shape']))}",
        f"folder  {facts['path']}",
        f"digest  {facts['digest']}",
        f"mean    {' '.join(map(str, facts['channel_mean']))}   deviation {' '.join(map(str, facts['channel_std']))}"
        "   (per channel, of 0..255)",
        "",
        f"{'label':>5}  {'class':<{width}}" + "".join(f"  {split:>10}" for split in splits),
    ]
    for entry in facts["classes"]:
        counts = "".join(f"  {entry[split]:>10,}" for split in splits)
        lines.append(f"{entry['label']:>5}  {entry['name']:<{width}}{counts}")
    totals = "".join(f"  {facts['num_images'][split]:>10,}" for split in splits)
    return "\n".join([*lines, f"{'':>5}  {'all':<{width}}{totals}"])


def _write_sheet(dataset: ImageDataset, path: Path) -> None:
    import numpy as np

    from paceline.report.contact_sheet import ClassSample, contact_sheet_png

    names, labels = dataset.class_names, dataset.train.labels
    num_shown = 8 if len(names) <= 60 else 4
    samples = []
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label)
        chosen = members[np.unique(np.linspace(0, len(members) - 1, num_shown).astype(int))]
        note = f"label {label}, {len(members):,} images"
        samples.append(ClassSample(name=name, note=note, images=dataset.train.gather(chosen)))
    subtitle = f"{len(names)} classes, {len(labels):,} published training images, digest {dataset.digest[:12]}"
    png = contact_sheet_png(dataset.name, subtitle, samples)
    try:
        path.write_bytes(png)
    except OSError as error:
        raise PacelineError(
            f"{path}: the contact sheet cannot be written: {error.strerror}. Name another file by --sheet"
        ) from error


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Offer a callback (what, done bytes, total bytes): a bar on a terminal, else a line for each new thing."""
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        yield _line_by_line()
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _line_by_line() -> Callable[[str, int, int], None]:
    last = ""

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if what != last:
            say(what if done == total else f"{what} ({done / 1e6:.0f} of {total / 1e6:.0f} MB done)")
        last = what

    return report
