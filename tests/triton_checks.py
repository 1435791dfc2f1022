"""Checks of Triton kernels by Triton's interpreter on the CPU.

The interpreter has to be chosen before Triton is imported, so the checks of a file run in a process of their own:
pytest on it again, with TRITON_INTERPRET=1 and the functions called check_* as its tests. The file has to import this
one.
"""

import os
import subprocess
import sys

import numpy as np
import torch


def run_checks(file, only="check"):
    """only: what the names of the checks contain."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "python_functions=check_*"]
    command += ["-W", "ignore", "--durations=5", "-m", "", "-k", only, file]
    found = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout and "skipped" not in found.stdout


def complete_the_interpreter():
    """Triton's interpreter cuts bfloat16 off where a GPU rounds, and cannot multiply matrices of it."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast_impl(self, src, dst_type):
        if (src.dtype.scalar, dst_type.scalar) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.array(src.data)).to(torch.bfloat16)
            return TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)
        return cast(self, src, dst_type)

    def create_dot(self, a, b, *rest):
        a, b = (cast(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return dot(self, a, b, *rest)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast_impl, create_dot


if os.environ.get("TRITON_INTERPRET") == "1":
    complete_the_interpreter()
