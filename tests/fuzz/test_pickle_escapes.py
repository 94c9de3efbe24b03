"""Every known way out of an allow-list for pickles, or to fill memory or time: refused before anything happens."""

from __future__ import annotations

import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from fuzz.hostile import peak_memory_mb
from paceline.data.imagenet import read_batch
from paceline.errors import DataError

NUM_IMAGES = 8
RECONSTRUCT, NDARRAY, DTYPE = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
NUMBER = struct.Struct("<I").pack
U1 = DTYPE + b"X\x02\x00\x00\x00u1\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def text(value: str) -> bytes:
    return b"X" + NUMBER(len(value)) + value.encode()


def item(key: str, value: bytes) -> bytes:
    return text(key) + value + b"s"


def program(*items: bytes) -> bytes:
    return b"\x80\x04}" + b"".join(items) + b"."


def array(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    """What pickle writes of an array."""
    made = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
    return made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def named(module: str, name: str) -> bytes:
    """A global by STACK_GLOBAL, which takes dots in a name for attributes."""
    return text(module) + text(name) + b"\x93"


CALL = b"(" + text("touch owned") + b"tR"
PIXELS = b"B" + NUMBER(NUM_IMAGES * 3072) + bytes(NUM_IMAGES * 3072)
DATA = item("data", array(b"K\x08M\x00\x0c\x86", U1, PIXELS))
LABELS = item("labels", b"](" + b"K\x01" * NUM_IMAGES + b"e")


def nested_lists(levels: int) -> bytes:
    """Eight times eight times eight ... integers, in a few bytes."""
    made = b"](" + b"K\x01" * 8 + b"e\x94"
    for level in range(levels):
        made += b"](" + (b"h" + bytes([level])) * 8 + b"e\x94"
    return made


def object_flags() -> bytes:
    """A dtype of objects whose flags say that it is one of numbers: its bytes would be addresses."""
    dtype = DTYPE + text("O8") + b"\x89\x88\x87R(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return array(b"K\x08M\x00\x0c\x86", dtype, b"B" + NUMBER(NUM_IMAGES * 3072 * 8) + b"A" * (NUM_IMAGES * 3072 * 8))


ESCAPES = {
    # what a name can lead to
    "os.system": program(item("x", b"cos\nsystem\n" + CALL)),
    "os.system by the stack": program(item("x", named("os", "system") + CALL)),
    "os.system by INST": program(item("x", b"(" + text("touch owned") + b"ios\nsystem\n")),
    "os.system by OBJ": program(item("x", b"(cos\nsystem\n" + text("touch owned") + b"o")),
    "an attribute of a module that is allowed": program(item("x", named("numpy", "testing._private.utils.runstring"))),
    "an attribute of a function that is allowed": program(
        item("x", named("numpy.core.multiarray", "_reconstruct.__globals__"))
    ),
    "an attribute of a class that is allowed": program(item("x", named("numpy", "ndarray.__class__.__subclasses__"))),
    "core.multiarray of numpy": program(item("x", named("numpy", "core.multiarray._reconstruct"))),
    "numpy.load": program(item("x", named("numpy", "load") + b"(" + text("owned") + b"NN\x88tR")),
    "numpy.f2py": program(item("x", b"cnumpy.f2py.capi_maps\ngetinit\n")),
    "builtins.getattr": program(item("x", b"cbuiltins\ngetattr\n" + NDARRAY + text("tofile") + b"\x86R")),
    "builtins.eval of Python 2": program(item("x", b"c__builtin__\neval\n" + CALL)),
    "the allow-list itself": program(item("x", b"cpaceline.data.pickled\n_NAMES\n")),
    "a method": program(item("x", named("numpy", "ndarray.tofile") + b"(tR")),
    "an extension": program(item("x", b"\x82\x01")),
    "an extension of two bytes": program(item("x", b"\x83\x01\x00")),
    "an extension of four bytes": program(item("x", b"\x84\x01\x00\x00\x00")),
    "a persistent id": program(item("x", b"Powned\n")),
    "a persistent id from the stack": program(item("x", text("owned") + b"Q")),
    "a buffer from outside": program(item("x", b"\x97")),
    "a buffer made read-only": program(item("x", b"\x97\x98")),
    # what is done with what is allowed
    "the class called": program(item("data", NDARRAY + b"\x8a\x05\x00\x00\x00\x40\x01\x85R"), LABELS),
    "the class made anew": program(item("data", NDARRAY + b"K\x08\x85\x85\x81"), LABELS),
    "the class made anew with keywords": program(item("data", NDARRAY + b"K\x08\x85\x85}\x92"), LABELS),
    "a state for the function": program(item("x", RECONSTRUCT + b"}" + text("__code__") + b"Nsb")),
    "slots for the function": program(item("x", RECONSTRUCT + b"N}" + text("__defaults__") + b"Ns\x86b")),
    "a state for the class": program(item("x", NDARRAY + b"}" + text("__setstate__") + b"Nsb")),
    "a state for a list": program(item("x", b"]}" + text("__class__") + b"Nsb")),
    "a dict as the state of an array": program(
        item("data", RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R}" + text("__class__") + b"Nsb"), LABELS
    ),
    "two states": program(item("data", array(b"K\x08M\x00\x0c\x86", U1, PIXELS) + b"(tb"), LABELS),
    "a state that holds the array": program(
        item("data", RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R\x94(K\x01h\x00h\x00\x89h\x00tb"), LABELS
    ),
    # dtypes
    "objects": program(
        item("data", array(b"K\x08\x85", U1.replace(b"u1", b"O8"), b"](" + b"K\x01" * 8 + b"e")), LABELS
    ),
    "objects that deny it": program(item("data", object_flags()), LABELS),
    "a dtype of fields": program(
        item("data", array(b"K\x08\x85", DTYPE + b"](" + text("a") + text("O") + b"\x86e\x85R", b"C\x08" + bytes(8))),
        LABELS,
    ),
    "a dtype of any length": program(
        item("data", array(b"K\x01\x85", U1.replace(b"u1", b"V9"), b"C\x09" + bytes(9))), LABELS
    ),
    "a dtype without a state": program(
        item("data", array(b"K\x08\x85", DTYPE + text("u1") + b"\x85R", b"C\x08" + bytes(8))), LABELS
    ),
    # sizes
    "a gigantic shape": program(
        item("data", RECONSTRUCT + NDARRAY + b"\x8a\x06" + b"\xff" * 5 + b"\x00\x85C\x01b\x87R"), LABELS
    ),
    "a shape larger than its bytes": program(
        item("data", array(b"\x8a\x06" + b"\xff" * 5 + b"\x00M\x00\x0c\x86", U1, PIXELS)), LABELS
    ),
    "a shape below zero": program(item("data", array(b"J\xff\xff\xff\xffM\x00\x0c\x86", U1, PIXELS)), LABELS),
    "a shape that is no number": program(item("data", array(b"\x88M\x00\x0c\x86", U1, PIXELS)), LABELS),
    "bytes longer than the file": program(item("x", b"B\xff\xff\xff\xff")),
    "bytes of 2**60": program(item("x", b"\x8e" + struct.pack("<Q", 2**60))),
    "a bytearray of 2**60": program(item("x", b"\x96" + struct.pack("<Q", 2**60))),
    "text of 2**62": program(item("x", b"\x8d" + struct.pack("<Q", 2**62))),
    "an integer of 2 GiB": program(item("x", b"\x8b\xff\xff\xff\x7f")),
    "an integer of a million digits": program(item("x", b"I" + b"9" * 1_000_000 + b"\n")),
    "a frame longer than the file": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + program(DATA, LABELS)[2:],
    "a string in quotes without an end": program(item("x", b"S'" + b"a" * 1_000_000)),
    # nesting and time
    "lists of lists of lists": program(DATA, item("labels", nested_lists(20))),
    "tuples of tuples as a key": b"\x80\x04}" + b"K\x01" + b"2\x86" * 60 + b"K\x01s.",
    "tuples of tuples": program(item("x", b"K\x01" + b"2\x86" * 60)),
    "a tuple as a key": b"\x80\x04}K\x01\x85K\x01s.",
    "a deep list": program(item("x", b"]" * 200_000 + b"a" * 199_999)),
    "deep tuples": program(item("x", b")" + b"\x85" * 200_000)),
    "a list that holds itself": program(item("x", b"]\x94h\x00a")),
    "a dict that holds itself": b"\x80\x04}\x94" + text("x") + b"h\x00s.",
    "marks only": program(b"(" * 500_000),
    "two million steps": program(b"N0" * 1_000_000),
    "a million steps that are allowed": program(item("x", b"](" + b"N" * 1_200_000 + b"e")),
    "sets": program(item("x", b"\x8f(K\x01\x90")),
    "a frozen set": program(item("x", b"(K\x01\x91")),
    # what is on the stack, or not
    "nothing": b"",
    "no stop": program(DATA, LABELS)[:-1],
    "an empty stack": b"\x80\x04.",
    "too many values": b"\x80\x04}}.",
    "a memo that nobody filled": program(item("x", b"h\x05")),
    "a memo of a mark": program(item("x", b"(\x94t")),
    "a step that there is not": program(b"\xff"),
    "a protocol of the future": b"\x80\xff" + program(item("x", b"\xff")),
    "labels in an object of numpy": program(DATA, item("labels", RECONSTRUCT)),
    "text as a label, longer than memory times labels": program(
        DATA, item("labels", b"](" + text("a" * 100_000) + b"\x94" + b"h\x00" * (NUM_IMAGES - 1) + b"e")
    ),
    "an integer of 255 bytes as a label": program(
        DATA, item("labels", b"](" + b"K\x01" * (NUM_IMAGES - 1) + b"\x8a\xff" + b"\x7f" * 255 + b"e")
    ),
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_it_is_refused(tmp_path, monkeypatch, escape):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "val_data"
    path.write_bytes(ESCAPES[escape])
    before_mb, began = peak_memory_mb(), time.process_time()
    with pytest.raises(DataError, match="val_data") as caught:
        read_batch(path, image_size=32, has_mean=False)
    assert time.process_time() - began < 10
    assert peak_memory_mb() - before_mb < 200
    assert len(str(caught.value)) < 1000
    assert not Path("owned").exists()


def test_the_same_without_its_sting_is_read(tmp_path):
    """The parts that the programs above are made of are those of a pickle that is read."""
    path = tmp_path / "val_data"
    path.write_bytes(program(DATA, LABELS))
    assert read_batch(path, image_size=32, has_mean=False).labels.tolist() == [1] * NUM_IMAGES
    assert np.array_equal(pickle.loads(program(DATA, LABELS))["data"], np.zeros((NUM_IMAGES, 3072), np.uint8))
