"""Data files of any content: an idx file, a pickle, a store and the names of classes are read, or refused in words."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import pickle
import struct

import numpy as np
import pytest
from hypothesis import strategies as st

from data.imagenet_source import MAP, NAMES, write_source
from fuzz.hostile import as_json, spoilt, spoilt_bytes, spoilt_text
from paceline.data.class_names import MAP_FILE, NAMES_FILE, published_names
from paceline.data.idx import read_idx
from paceline.data.imagenet import read_batch
from paceline.data.prepare import prepare
from paceline.data.store import META_FILE, open_store, read_meta

ODD = [b"[" * 200_000, b"9" * 5000, b'"\\ud800"', b"[]", b"null", b"\xff", b""]  # as JSON
SIZES = st.sampled_from([0, 1, 2, 28, 255, 2**16, 2**31, 2**32 - 1])


@st.composite
def idx_files(draw):
    if draw(st.booleans()):
        shape = draw(st.sampled_from([[5], [2, 3, 1]]))
        content = (
            bytes((0, 0, 8, len(shape)))
            + struct.pack(f">{len(shape)}I", *shape)
            + draw(st.binary(min_size=math.prod(shape), max_size=math.prod(shape)))
        )
        packed = gzip.compress(content, mtime=0) if draw(st.booleans()) else content
        return draw(spoilt_bytes(packed)) if draw(st.booleans()) else packed
    shape = draw(st.lists(SIZES, min_size=1, max_size=4))
    content = bytes((0, 0, draw(st.sampled_from([8, 8, 8, 9, 13])), draw(st.sampled_from([len(shape), 1, 3, 255]))))
    content += struct.pack(f">{len(shape)}I", *shape) + draw(st.binary(max_size=64) | st.just(bytes(5000)))
    if draw(st.booleans()):
        content = gzip.compress(content, mtime=0) * draw(st.integers(1, 3))
    return draw(spoilt_bytes(content)) if draw(st.booleans()) else content


@pytest.mark.parametrize("num_dims", [1, 3])
def test_idx_files(survives, tmp_path, num_dims):
    path = tmp_path / "file"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        array = read_idx(path, num_dims=num_dims)
        assert array.ndim == num_dims
        assert array.dtype == np.uint8

    survives(read, idx_files(), num_examples=150)


def test_a_gzip_bomb_is_refused_by_what_it_declares(tmp_path):
    """As many zeros as gzip packs into a megabyte, and a header that tells so."""
    path = tmp_path / "bomb.gz"
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(bytes((0, 0, 8, 1)) + struct.pack(">I", 2**31))
    path.write_bytes(packed.getvalue() + bytes(3_000_000))
    with pytest.raises(ValueError, match=r"bomb\.gz: its header declares 2147483648 values: files of up to 1024 MiB"):
        read_idx(path, num_dims=1)


def test_pickles_of_imagenet(survives, tmp_path):
    source, path = write_source(tmp_path / "source", per_file=2), tmp_path / "train_data_batch_1"
    whole = (source / "train_data_batch_1").read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        batch = read_batch(path, image_size=32, has_mean=True)
        assert batch.images.shape[1:] == (3, 32, 32)
        assert ((batch.labels >= 1) & (batch.labels <= 1000)).all()

    head = spoilt_bytes(whole[:400]).map(lambda start: start + whole[400:])
    survives(read, st.one_of(spoilt_bytes(whole), head), num_examples=150)


OPCODES = [
    *(b"\x80\x03", b"(", b"}", b"]", b")", b"2", b"0", b"1", b"N", b"\x88", b"\x89", b"\x85", b"\x86", b"\x87", b"t"),
    *(b"R", b"b", b"\x81", b"\x92", b"s", b"u", b"a", b"e", b"\x94", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"."),
    *(b"K\x01", b"M\x00\x02", b"J\xff\xff\xff\xff", b"G" + bytes(8), b"\x8a\x02\x00\x02", b"\x8b\xff\xff\xff\x7f"),
    *(
        b"C\x01b",
        b"B\x02\x00\x00\x00ab",
        b"\x8e" + b"\xff" * 8,
        b"X\x01\x00\x00\x00a",
        b"\x8c\x04data",
        b"\x8c\x06labels",
    ),
    *(
        b"\x8d" + b"\xff" * 7 + b"\x7f",
        b"\x95" + b"\xff" * 8,
        b"\x96" + b"\xff" * 8,
        b"\x97",
        b"\x98",
        b"\x8f",
        b"\x90",
    ),
    *(
        b"\x82\x01",
        b"\x84\x01\x00\x00\x00",
        b"P1\n",
        b"Q",
        b"I1\n",
        b"L1L\n",
        b"F1\n",
        b"S'a'\n",
        b"V\\u0061\n",
        b"\x93",
    ),
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cos\nsystem\n"),
    *(
        b"\x8c\x02os\x8c\x06system\x93",
        b"\x8c\x05numpy\x8c\x13testing._private.utils\x93",
        b"ios\nsystem\n",
        b"o",
        b"l",
        b"d",
    ),
]


def test_any_program_of_a_pickle(survives, tmp_path):
    path = tmp_path / "val_data"

    def read(program: list[bytes]) -> None:
        path.write_bytes(b"\x80\x04" + b"".join(program) + b".")
        read_batch(path, image_size=32, has_mean=False)

    survives(read, st.lists(st.sampled_from(OPCODES), max_size=40), num_examples=200)


def array_file(draw) -> bytes:
    kinds = st.sampled_from(["<i8", "<f8", "|O", "|u1", "<U4", "|V8", "<c8", "|b1", "[('a', '<i8'), ('b', '|O')]"])
    header = {"descr": draw(kinds), "fortran_order": draw(st.booleans())}
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 3, 32, 8, 80, 2**40, -1]), max_size=4)))
    text = repr(header | {"shape": shape}).encode() + b"\n"
    return (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(text))
        + text
        + draw(st.sampled_from([b"", bytes(640), bytes(24576)]))
    )


def spoilt_stores(meta, files):
    """What ``meta.json`` says, and an array, of which it tells the true size and digest: nothing gives it away."""

    @st.composite
    def made_of_both(draw):
        made = draw(spoilt(meta)) if draw(st.booleans()) else json.loads(json.dumps(meta))
        name = draw(st.sampled_from(sorted(files)))
        content = draw(spoilt_bytes(files[name])) if draw(st.booleans()) else array_file(draw)
        if isinstance(made, dict) and isinstance(made.get("files"), dict):
            made["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        return made, name, content

    return made_of_both()


def test_stores(survives, tmp_path):
    folder = prepare("imagenet32", write_source(tmp_path / "source"), tmp_path, lambda *_: None)
    meta = json.loads((folder / META_FILE).read_bytes())
    files = {path.name: path.read_bytes() for path in folder.glob("*.npy")}

    def read(store) -> None:
        made, name, content = store
        for file, own in files.items():
            (folder / file).write_bytes(own)
        (folder / name).write_bytes(content)
        (folder / META_FILE).write_bytes(as_json(made))
        dataset = open_store(folder, name="imagenet32")
        dataset.train.gather(np.arange(len(dataset.train)))

    survives(read, spoilt_stores(meta, files), num_examples=120)
    raw = spoilt_bytes(as_json(meta)) | st.integers(0, len(ODD) - 1).map(lambda number: ODD[number])
    survives(lambda content: ((folder / META_FILE).write_bytes(content), read_meta(folder)), raw, num_examples=60)


def test_names_of_classes(survives, tmp_path):
    def read(files: tuple[str, str]) -> None:
        for name, text in zip((MAP_FILE, NAMES_FILE), files, strict=True):
            (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        assert all(isinstance(name, str) for name in (published_names(tmp_path) or {}).values())

    texts = st.tuples(st.just(MAP) | spoilt_text(MAP), st.just(NAMES) | spoilt_text(NAMES))
    survives(read, texts, num_examples=100)


def test_a_pickle_of_each_protocol_is_read(tmp_path):
    """What is refused below is refused for what it asks, not for its protocol."""
    content = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "labels": [1, 1000]}
    for protocol in (3, 4):
        path = tmp_path / "val_data"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        batch = read_batch(path, image_size=32, has_mean=False)
        assert np.array_equal(batch.images.reshape(2, -1), content["data"])
        assert batch.labels.tolist() == [1, 1000]
