"""Reading the published pickles: nothing they ask for is run, and what they hold is checked."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from imagenet_source import LABELS, MAP, NAMES, change, dump, load, write_source

from paceline.data.class_names import names_of, published_names
from paceline.data.imagenet import read_batch, require_layout
from paceline.errors import DataError

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROW = 3 * 32 * 32


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def read(path: Path, *, has_mean: bool = True):
    return read_batch(path, image_size=32, has_mean=has_mean)


def test_a_batch_comes_back_channel_planar(source):
    path = source / "train_data_batch_3"
    batch = read(path)
    assert np.array_equal(batch.images[2, 1].ravel(), load(path)["data"][2, 1024:2048])
    assert batch.labels.tolist() == load(path)["labels"]
    assert np.allclose(batch.mean.ravel(), load(path)["mean"])
    assert read(source / "val_data", has_mean=False).mean is None


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_spellings_of_numpy_are_read(source, module):
    path = source / "train_data_batch_1"
    content = path.read_bytes()
    for spelling in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        content = content.replace(spelling, module.encode())
    path.write_bytes(content)
    assert len(read(path).images) == 8


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_names_os_system_is_refused_before_it_runs(source, tmp_path):
    path = source / "train_data_batch_1"
    dump(path, {"extra": Malicious(tmp_path / "ran"), **load(path)})
    with pytest.raises(DataError, match=r"train_data_batch_1: refused.*posix\.system"):
        read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.core.multiarray.scalar", "numpy.load", "_codecs.encode"])
def test_every_other_global_is_refused_by_name(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "val_data"
    path.write_bytes(f"\x80\x03c{module}\n{attribute}\n.".encode("latin1"))
    with pytest.raises(DataError, match=f"the global {name}"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"no pickle at all", pickle.dumps([1, 2])], ids=["empty", "text", "list"])
def test_what_is_no_dict_is_refused(tmp_path, content):
    path = tmp_path / "val_data"
    path.write_bytes(content)
    with pytest.raises(DataError, match="val_data"):
        read(path)


def test_a_truncated_pickle_is_refused(source):
    path = source / "train_data_batch_1"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match="train_data_batch_1: truncated or no pickle"):
        read(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": [1] * 7}, "8 images but 7 labels"),
        ({"labels": [1] * 7 + [0]}, "label 0 .*1..1000"),
        ({"labels": [1] * 7 + [1001]}, "label 1001 .*1..1000"),
        ({"labels": [1] * 7 + [2.5]}, "other things than integers"),
        ({"labels": [1] * 7 + [[2]]}, "a list of other things than numbers"),
        ({"labels": None}, "has no 'labels'"),
        ({"data": None, "mean": None}, "has no 'data' and no 'mean'"),
        ({"mean": None}, "has no 'mean'"),
        ({"data": np.zeros((8, ROW), np.float32)}, "dtype float32"),
        ({"data": np.zeros((8, ROW - 1), np.uint8)}, r"\(8, 3071\)"),
        ({"data": np.zeros((8, 4 * ROW), np.uint8)}, "32 x 32"),
        ({"data": [[1]]}, "a list of other things than numbers"),
        ({"data": [1]}, "'data' has list"),
        ({"mean": np.zeros(5)}, r"\(5,\)"),
        ({"mean": np.full(ROW, np.nan)}, "0..255"),
    ],
)
def test_each_fault_of_a_file_is_said(source, changes, says):
    path = source / "train_data_batch_4"
    change(path, **changes)
    with pytest.raises(DataError, match=f"train_data_batch_4: .*{says}"):
        read(path)


@pytest.mark.parametrize("name", ["train_data_batch_7", "val_data"])
def test_a_missing_file_is_named(source, name):
    (source / name).unlink()
    with pytest.raises(DataError, match=f"missing {name}"):
        require_layout(source)


def test_an_eleventh_file_is_refused(source):
    (source / "train_data_batch_11").touch()
    with pytest.raises(DataError, match="unexpected train_data_batch_11"):
        require_layout(source)


@pytest.mark.parametrize(
    "names", [NAMES, f"names = {NAMES}", NAMES.strip("{}"), f"names = {NAMES.strip('{}')}", f"\n{NAMES}\n\n"]
)
def test_names_go_by_way_of_the_wordnet_id(tmp_path, names):
    """The label trap: the names are in the order of sorted WordNet ids, the labels are not."""
    (tmp_path / "map_clsloc.txt").write_text(MAP)
    (tmp_path / "imagenet1000_clsidx_to_labels.txt").write_text(names)
    found = published_names(tmp_path)
    assert found == {1: "kit fox", 449: "tench", 7: "goldfish", 1000: "dumbbell"}
    assert names_of([7, 5], found) == ["goldfish", "label 5"]


def test_without_both_name_files_labels_are_numbers(tmp_path):
    (tmp_path / "map_clsloc.txt").write_text(MAP)
    assert published_names(tmp_path) is None
    assert names_of([449], None) == ["label 449"]


@pytest.mark.parametrize(
    ("map_text", "names_text", "says"),
    [
        (MAP, "{0: 'tench'}", "1 names"),
        (MAP, "open('/etc/passwd')", "no Python dict"),
        (MAP, "{0, 1}", "numbers to names"),
        ("n01 one\n", NAMES, "line 1"),
        (MAP + "n09 7 twice\n", NAMES, "label 7 occurs twice"),
        (MAP + "n01440764 8 twice\n", NAMES, "WordNet id occurs twice"),
    ],
)
def test_name_files_that_cannot_be_understood_are_refused(tmp_path, map_text, names_text, says):
    (tmp_path / "map_clsloc.txt").write_text(map_text)
    (tmp_path / "imagenet1000_clsidx_to_labels.txt").write_text(names_text)
    with pytest.raises(DataError, match=says):
        published_names(tmp_path)


@pytest.mark.skipif(not (SHARED / "imagenet32-small").is_dir(), reason="no real data in ../shared/data")
def test_the_published_name_files():
    """Known facts: 1 is kit fox, 449 is tench, 1000 is dumbbell; 'crane' occurs twice."""
    names = published_names(SHARED / "imagenet32-small")
    assert (names[1], names[449], names[1000]) == ("kit fox", "tench", "dumbbell")
    assert list(names.values()).count("crane") == 2
    assert sorted(names) == list(range(1, 1001))
    assert set(LABELS) <= set(names)
