"""Finding and opening data sets by name."""

import gzip
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from imagenet_source import write_source

from paceline.data.catalog import (
    DATASETS,
    IDX_STEMS,
    dataset_digest,
    default_data_dir,
    find_first,
    open_dataset,
    search_path,
)
from paceline.data.prepare import prepare
from paceline.errors import DataError, UsageError

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test sees this machine's own data."""
    monkeypatch.delenv("PACELINE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_idx(folder: Path, *, zipped: bool = True, num_train: int = 40, num_test: int = 20, classes: int = 10) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for (split, what), stem in IDX_STEMS.items():
        count = num_train if split == "train" else num_test
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        array = images if what == "images" else np.arange(count, dtype=np.uint8) % classes
        header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
        content = header + array.tobytes()
        path = folder / (f"{stem}.gz" if zipped else stem)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


def test_the_embedded_set_opens_without_any_folder():
    dataset = open_dataset("mnist-small")
    assert (len(dataset.train), len(dataset.test)) == (5000, 1000)
    assert np.bincount(dataset.train.labels).tolist() == [500] * 10
    assert np.bincount(dataset.test.labels).tolist() == [100] * 10
    assert dataset.class_names == tuple("0123456789")
    assert dataset_digest("mnist-small") == dataset.digest
    assert (dataset.path / "NOTICE.md").read_text().count("CC BY-SA 3.0") >= 1


def test_images_are_padded_and_normalized_as_padded():
    dataset = open_dataset("mnist-small")
    images = dataset.train.gather(np.arange(5000))
    assert images.shape == (5000, *dataset.image_shape) == (5000, 1, 32, 32)
    assert not images[:, :, :2].any()
    assert not images[:, :, :, 30:].any()
    centred = images.astype(np.float64) - images.mean(axis=0)
    assert np.allclose(dataset.mean_image, images.mean(axis=0), atol=1e-4)
    assert np.allclose(dataset.channel_std, centred.std(), atol=1e-4)
    assert dataset.mean_image.dtype == dataset.channel_std.dtype == np.float32


def test_gather_refuses_indices_out_of_range():
    train = open_dataset("mnist-small").train
    with pytest.raises(IndexError, match="5000 images"):
        train.gather(np.array([-1]))
    assert train.gather(np.empty(0, np.int64)).shape == (0, 1, 32, 32)


def test_the_digest_is_the_same_zipped_or_not(tmp_path):
    write_idx(tmp_path / "a" / "mnist", zipped=True)
    write_idx(tmp_path / "b" / "mnist", zipped=False)
    write_idx(tmp_path / "c" / "mnist", num_test=19)
    digests = [dataset_digest("mnist", tmp_path / place) for place in "abc"]
    assert digests[0] == digests[1] == open_dataset("mnist", tmp_path / "b").digest
    assert digests[0] != digests[2]


def test_labels_are_dense_over_the_classes_present(tmp_path):
    write_idx(tmp_path / "fashion-mnist", classes=3)
    dataset = open_dataset("fashion-mnist", tmp_path)
    assert dataset.class_names == ("T-shirt/top", "Trouser", "Pullover")
    assert dataset.train.labels.dtype == np.int64


def test_places_are_searched_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("PACELINE_DATA", str(tmp_path / "env"))
    assert search_path(tmp_path / "named") == [tmp_path / "named", tmp_path / "env", tmp_path / "cache/paceline/data"]
    assert default_data_dir() == tmp_path / "env"
    (tmp_path / "named").mkdir()
    write_idx(tmp_path / "env" / "mnist", num_train=30)
    assert len(open_dataset("mnist", tmp_path / "named").train) == 30
    write_idx(tmp_path / "named" / "mnist", num_train=50)
    assert len(open_dataset("mnist", tmp_path / "named").train) == 50


def test_find_first_prefers_the_first_that_is_there(tmp_path):
    assert find_first(["mnist", "mnist-small"], tmp_path) == "mnist-small"
    write_idx(tmp_path / "mnist")
    assert find_first(["mnist", "mnist-small"], tmp_path) == "mnist"
    with pytest.raises(DataError, match="'imagenet32' or 'fashion-mnist' not found"):
        find_first(["imagenet32", "fashion-mnist"], tmp_path)


def test_a_found_but_damaged_set_is_never_passed_over(tmp_path):
    (tmp_path / "mnist").mkdir()
    assert find_first(["mnist", "mnist-small"], tmp_path) == "mnist"
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        open_dataset("mnist", tmp_path)
    (tmp_path / "mnist-small").mkdir()
    with pytest.raises(DataError, match="four published idx files"):
        open_dataset("mnist-small", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "imagenet32"])
def test_what_is_missing_says_where_it_looked_and_how_to_get_it(tmp_path, name):
    with pytest.raises(DataError) as caught:
        open_dataset(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert str(tmp_path / "cache") in message
    expected = "paceline data prepare imagenet32 --source DIR" if name == "imagenet32" else "train-images-idx3-ubyte"
    assert expected in message


def test_published_files_that_are_seen_are_to_be_prepared(tmp_path):
    source = write_source(tmp_path / "download")
    with pytest.raises(DataError, match=f"prepare imagenet32 --source {source}"):
        open_dataset("imagenet32", tmp_path)
    source.rename(tmp_path / "imagenet32")
    with pytest.raises(DataError, match="not yet prepared"):
        open_dataset("imagenet32", tmp_path)
    with pytest.raises(DataError, match="not yet prepared"):
        dataset_digest("imagenet32", tmp_path)


def test_a_prepared_store_is_found(tmp_path):
    prepare("imagenet32", write_source(tmp_path / "download"), tmp_path / "stores")
    dataset = open_dataset("imagenet32", tmp_path / "stores")
    assert dataset_digest("imagenet32", tmp_path / "stores") == dataset.digest
    assert len(dataset.train) == 80


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_named_folder_that_vanished_is_an_error(tmp_path, monkeypatch, by):
    """A typing error or an unmounted disk must not end in other data than were asked for."""
    folder = tmp_path / "gone"
    write_idx(folder / "mnist")
    shutil.rmtree(folder)
    if by == "environment":
        monkeypatch.setenv("PACELINE_DATA", str(folder))
    for look in (lambda place: find_first(["mnist", "mnist-small"], place), lambda place: open_dataset("mnist", place)):
        with pytest.raises(DataError, match="gone: no such folder"):
            look(folder if by == "argument" else None)


def test_an_unknown_name_gets_the_nearest_and_the_list():
    with pytest.raises(UsageError, match=r"unknown data set 'minst': did you mean 'mnist'\? Allowed: fashion-mnist"):
        open_dataset("minst")


@pytest.mark.parametrize(
    ("stem", "content", "says"),
    [
        ("train-labels-idx1-ubyte", bytes(39), "39 labels for 40 images"),
        ("train-labels-idx1-ubyte", b"\x0a" * 40, "label 10: labels are 0..9"),
        ("t10k-labels-idx1-ubyte", b"\x09" * 20, "label 9, which no training image has"),
    ],
)
def test_labels_are_checked(tmp_path, stem, content, says):
    folder = write_idx(tmp_path / "mnist", zipped=False, classes=3)
    (folder / stem).write_bytes(b"\x00\x00\x08\x01" + struct.pack(">I", len(content)) + content)
    with pytest.raises(DataError, match=says):
        open_dataset("mnist", tmp_path)


def test_images_of_another_size_are_refused(tmp_path):
    folder = write_idx(tmp_path / "mnist", zipped=False)
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03" + struct.pack(">3I", 2, 3, 3) + bytes(18))
    with pytest.raises(DataError, match=r"\(2, 3, 3\).*\(N, 28, 28\)"):
        open_dataset("mnist", tmp_path)


def test_nothing_is_left_open(tmp_path):
    """A dropped store closes its files, without a warning."""
    prepare("imagenet32", write_source(tmp_path / "download"), tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            open_dataset("imagenet32", tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real data in ../shared/data")
def test_the_real_sets():
    """The embedded selection is the published one; deviation and mean are the well-known ones of padded MNIST."""
    assert dataset_digest("mnist-small", SHARED) == dataset_digest("mnist-small")
    mnist = open_dataset("mnist", SHARED)
    assert (len(mnist.train), len(mnist.test)) == (60_000, 10_000)
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    # 0.1307 of 255 is the mean of the 28 x 28 images
    assert mnist.mean_image.mean() * (32 * 32) / (28 * 28) / 255 == pytest.approx(0.1307, abs=5e-5)


def test_every_line_of_the_catalog_says_how_to_get_it():
    for name, known in DATASETS.items():
        assert name in known.how_to_get
        assert (known.class_names is None) == (known.kind == "imagenet")
