"""Batches of pictures: rows of a prompt file to tars or plain files, on one machine or several.

`rows.py` reads, `draw.py` draws a list of rows, `output.py` writes a shard, `worker.py` draws one,
`run.py` draws what a folder lacks; `in_processes.py` and `on_ray.py` let several workers do that.
"""

from .draw import Drawing, Drawn, DrawRows, Failed
from .output import Output
from .rows import Row, read_rows
from .run import Batch, draw_batch
from .worker import Done

__all__ = ["Batch", "Done", "DrawRows", "Drawing", "Drawn", "Failed", "Output", "Row", "draw_batch", "read_rows"]
