"""Preparing a store and reading from it: exact, in bounded memory, all or nothing."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from imagenet_source import LABELS, change, dump, load, write_source

from disks import tmpfs
from paceline.data import imagenet
from paceline.data.prepare import prepare
from paceline.data.store import open_store, read_meta, store_digest
from paceline.errors import DataError, UsageError


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


@pytest.fixture
def store(source, tmp_path):
    return prepare("imagenet32", source, tmp_path / "stores")


def published(source: Path, names=imagenet.TRAIN_FILES) -> tuple[np.ndarray, np.ndarray]:
    contents = [load(source / name) for name in names]
    images = np.concatenate([content["data"] for content in contents]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([content["labels"] for content in contents])


def test_a_store_holds_what_was_published(source, store):
    dataset = open_store(store, name="imagenet32")
    for split, names in ((dataset.train, imagenet.TRAIN_FILES), (dataset.test, (imagenet.TEST_FILE,))):
        images, labels = published(source, names)
        order = np.random.default_rng(0).permutation(len(images))
        assert np.array_equal(split.gather(order), images[order])
        assert np.array_equal(np.unique(labels)[split.labels], labels)
    assert dataset.image_shape == (3, 32, 32)
    assert dataset.class_names == ("kit fox", "goldfish", "tench", "dumbbell")  # published labels 1, 7, 449, 1000
    assert read_meta(store).class_labels == sorted(LABELS)


def test_mean_and_deviation_are_of_the_training_images(source, store):
    """The test images get the training mean; the deviation is taken after subtracting it, per channel."""
    dataset = open_store(store, name="imagenet32")
    images = published(source)[0].astype(np.float64)
    assert np.allclose(dataset.mean_image, images.mean(axis=0), atol=1e-4)
    assert np.allclose(dataset.channel_std, (images - images.mean(axis=0)).std(axis=(0, 2, 3)), atol=1e-4)


def test_gather_takes_any_indices_and_refuses_those_out_of_range(source, store):
    train = open_store(store, name="imagenet32").train
    images = published(source)[0]
    for indices in ([], [79], [5, 5, 4], [7, 8, 9, 3, 4, 0], list(range(80))):
        assert np.array_equal(train.gather(np.array(indices, np.int64)), images[indices])
    for index in (-1, 80):
        with pytest.raises(IndexError, match="of 80 images"):
            train.gather(np.array([0, index]))


def test_an_opened_store_outlives_its_folder_but_not_its_bytes(source, store):
    train = open_store(store, name="imagenet32").train
    os.truncate(store / "train-images.u8", 40 * 3072)
    assert len(train.gather(np.arange(40))) == 40
    with pytest.raises(DataError, match="cut short while it was in use"):
        train.gather(np.array([60]))
    shutil.rmtree(store)
    assert len(train.gather(np.arange(40))) == 40


def test_without_name_files_classes_are_called_by_label(tmp_path):
    store = prepare("imagenet32", write_source(tmp_path / "source", names=False), tmp_path)
    assert open_store(store, name="imagenet32").class_names == ("label 1", "label 7", "label 449", "label 1000")


def test_64_pixels(tmp_path):
    source = write_source(tmp_path / "source", image_size=64)
    dataset = open_store(prepare("imagenet64", source, tmp_path), name="imagenet64")
    assert np.array_equal(
        dataset.train.gather(np.array([3]))[0].ravel(), load(source / "train_data_batch_1")["data"][3]
    )
    with pytest.raises(DataError, match="32 x 32"):
        prepare("imagenet32", source, tmp_path)


def test_a_finished_store_of_the_same_source_is_returned(source, store):
    said = []
    before = (store / "meta.json").stat().st_mtime_ns
    assert prepare("imagenet32", source, store.parent, lambda what, *_: said.append(what)) == store
    assert said[-1] == "already prepared"
    assert (store / "meta.json").stat().st_mtime_ns == before


def test_a_store_of_another_source_is_in_the_way(source, store):
    change(source / "train_data_batch_5", labels=[1] * 8)
    with pytest.raises(DataError, match="made from another train_data_batch_5"):
        prepare("imagenet32", source, store.parent)


def test_the_digest_follows_the_content(source, store, tmp_path):
    again = prepare("imagenet32", source, tmp_path / "again")
    assert store_digest(read_meta(again)) == store_digest(read_meta(store))
    change(source / "val_data", labels=[1, 7, 449, 1000, 1, 7, 449, 1])
    other = prepare("imagenet32", source, tmp_path / "other")
    assert store_digest(read_meta(other)) != store_digest(read_meta(store))


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda source: (source / "train_data_batch_7").unlink(), "missing train_data_batch_7"),
        (shutil.rmtree, "no such folder"),
        (
            lambda source: shutil.copy(source / "train_data_batch_2", source / "train_data_batch_9"),
            "train_data_batch_9: repeats train_data_batch_2",
        ),
        (
            lambda source: (source / "train_data_batch_9").write_bytes(
                pickle.dumps(load(source / "train_data_batch_2"), protocol=4)
            ),
            "train_data_batch_9: repeats train_data_batch_2",
        ),
        (lambda source: change(source / "train_data_batch_3", mean=np.zeros(3072)), "train_data_batch_3: its 'mean'"),
        (lambda source: change(source / "val_data", labels=[2] * 8), "label 2, which no training image has"),
        (lambda source: change(source / "val_data", labels=[0] * 8), "val_data: label 0"),
        (lambda source: (source / "val_data").write_bytes(b"x"), "val_data: truncated or no pickle"),
    ],
    ids=["missing", "no-source", "repeated", "repeated-otherwise-pickled", "mean", "stranger", "label", "late"],
)
def test_a_bad_source_leaves_nothing_behind(source, tmp_path, spoil, says):
    spoil(source)
    (tmp_path / "stores").mkdir()
    with pytest.raises(DataError, match=says):
        prepare("imagenet32", source, tmp_path / "stores")
    assert left_behind(tmp_path / "stores") == []


def test_names_that_are_not_prepared_are_refused(source, tmp_path):
    with pytest.raises(UsageError, match="'mnist' is used as published"):
        prepare("mnist", source, tmp_path)
    with pytest.raises(UsageError, match="did you mean 'imagenet32'"):
        prepare("imagenet23", source, tmp_path)


def test_the_published_files_are_never_written_over(tmp_path):
    source = write_source(tmp_path / "imagenet32")
    before = left_behind(source)
    with pytest.raises(DataError, match=r"other files are here already \(the published ones\).*--data-dir"):
        prepare("imagenet32", source, tmp_path)
    assert left_behind(source) == before


@pytest.mark.parametrize("checked_first", [True, False], ids=["foreseen", "while-writing"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, checked_first):
    source = write_source(tmp_path / "source", per_file=60)  # 2 MB
    if not checked_first:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
    with tmpfs(tmp_path / "full", "size=1m") as folder:
        with pytest.raises(DataError, match="no space" if checked_first else "No space left on device"):
            prepare("imagenet32", source, folder)
        assert left_behind(folder) == []


def test_a_read_only_folder_is_an_error(source, tmp_path):
    with tmpfs(tmp_path / "frozen", "ro,size=1m") as folder:
        with pytest.raises(DataError, match=r"cannot write the store: Read-only file system.*--data-dir"):
            prepare("imagenet32", source, folder)
        assert left_behind(folder) == []


def test_a_folder_below_a_file_is_an_error(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the store"):
        prepare("imagenet32", source, tmp_path / "file" / "stores")


KILLED = """
import os, signal, sys
from pathlib import Path
from paceline.data.prepare import prepare
def progress(what, done, total):
    if what == "train_data_batch_6":
        os.kill(os.getpid(), signal.SIGKILL)
prepare("imagenet32", Path(sys.argv[1]), Path(sys.argv[2]), progress)
"""


def test_a_killed_run_is_simply_run_again(source, tmp_path):
    stores = tmp_path / "stores"
    killed = subprocess.run([sys.executable, "-c", KILLED, source, stores], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [name.startswith("imagenet32.partial-") for name in left_behind(stores)] == [True]
    open_store(prepare("imagenet32", source, stores), name="imagenet32")
    assert left_behind(stores) == ["imagenet32"]


def test_two_at_once_do_not_meet(source, tmp_path):
    partial = tmp_path / "stores" / "imagenet32.partial-1"
    partial.mkdir(parents=True)
    with FileLock(partial / "lock"), pytest.raises(DataError, match=r"another .* is writing here"):
        prepare("imagenet32", source, tmp_path / "stores")
    assert left_behind(tmp_path / "stores") == [partial.name]


def test_an_interrupted_run_leaves_nothing(source, tmp_path):
    def interrupt(what, done, total):
        if what == "val_data":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("imagenet32", source, tmp_path / "stores", interrupt)
    assert left_behind(tmp_path / "stores") == []


def rewrite_meta(store: Path, **changes) -> None:
    path = store / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda store: (store / "meta.json").write_text("{"), "meta.json: damaged"),
        (lambda store: (store / "meta.json").unlink(), "meta.json: cannot be read"),
        (lambda store: rewrite_meta(store, schema_version=9), "schema version 9, this program reads 1"),
        (lambda store: rewrite_meta(store, channel_std=[0.0]), "damaged: channel_std"),
        (lambda store: rewrite_meta(store, num_images={"train": 79, "test": 8}), "size of the train images"),
        (lambda store: rewrite_meta(store, class_names=["one"]), "disagrees with the arrays"),
        (lambda store: rewrite_meta(store, name="imagenet64"), "holds imagenet64, not imagenet32"),
        (lambda store: os.truncate(store / "test-images.u8", 100), "test-images.u8: has 100 bytes, not the 24576"),
        (lambda store: (store / "train-labels.npy").unlink(), "train-labels.npy: No such file"),
        (
            lambda store: np.save(store / "train-labels.npy", np.full(80, 7, np.int64)),
            "train-labels.npy: its content has changed",
        ),
    ],
)
def test_a_damaged_store_says_what_is_wrong_with_it(store, damage, says):
    damage(store)
    with pytest.raises(DataError, match=says):
        open_store(store, name="imagenet32")


MEASURED = """
import sys
from pathlib import Path
import numpy as np
from paceline.data.prepare import prepare
from paceline.data.store import open_store

def peak_mb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

def measured(step):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mb()
    result = step()
    print(peak_mb() - before)
    return result

def gather_all():
    for part in np.array_split(np.random.default_rng(0).permutation(len(train)), 300):
        train.gather(part)

store = measured(lambda: prepare("imagenet32", Path(sys.argv[1]), Path(sys.argv[2])))
train = open_store(store, name="imagenet32").train
measured(gather_all)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_stays_below_the_largest_file_not_the_data_set(tmp_path):
    """Preparing takes the largest file and some tens of MB; reading every image at random takes next to nothing."""
    source = write_source(tmp_path / "source", per_file=8)
    block = np.random.default_rng(0).integers(0, 256, (5000, 3072), dtype=np.uint8)  # 15 MB a file, 160 MB in all
    mean = np.full(3072, 127.5)
    for number in range(1, 11):
        content = {"data": block ^ np.uint8(number), "labels": [LABELS[0]] * 5000, "mean": mean}
        dump(source / f"train_data_batch_{number}", content)
    change(source / "val_data", labels=[LABELS[0]] * 8)
    command = [sys.executable, "-c", MEASURED, source, tmp_path / "stores"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    prepare_mb, gather_mb = map(float, done.stdout.split())
    assert prepare_mb < 15.4 + 25
    assert gather_mb < 10
