"""Data sets in memory and on disk for the tests."""

from PIL import Image

from sana_core.training.data.example import DataSet, Example
from sana_core.training.data.picture import Picture, Stored, measured


def example(name, width, height, captions=(("x", 1.0),)):
    """One that has no file."""
    picture = Picture(source=Stored(None), width=width, height=height, digest=name)
    return Example(name=name, captions=tuple(captions), picture=picture)


def data_of(*sizes, captions=(("x", 1.0),)):
    return DataSet(tuple(example(f"{i:04}", *size, captions) for i, size in enumerate(sizes)))


def saved(folder, name, size=(64, 64), colour="red", condition=None, **options):
    """One on disk."""
    path = folder / name
    picture = colour if isinstance(colour, Image.Image) else Image.new("RGB", size, colour)
    picture.save(path)
    return Example(name=name, captions=(("x", 1.0),), picture=measured(Stored(path)), condition=condition, **options)
