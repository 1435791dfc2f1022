"""`python FOLDER_OF_THE_PACK` is `python -m sana_core` for a Python that does not look for modules in the current
folder, as that of the portable ComfyUI for Windows.
"""

from runpy import run_module

run_module("sana_core", run_name="__main__", alter_sys=True)
