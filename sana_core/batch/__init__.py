"""Batches of pictures: rows of a prompt file to tars or plain files, on one machine or several.

`rows.py` reads, `draw.py` draws a list of rows, `output.py` writes a shard, `run.py` draws what a folder lacks.
"""

from .draw import Drawing, Drawn, DrawRows, Failed
from .output import Output
from .rows import Row, read_rows
from .run import Batch, Done, draw_batch

__all__ = ["Batch", "Done", "DrawRows", "Drawing", "Drawn", "Failed", "Output", "Row", "draw_batch", "read_rows"]
