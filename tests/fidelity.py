"""torch-fidelity where there is no torchvision. torchmetrics imports it, too, where it is installed."""

import importlib
import sys
import types

import pytest


class _StandIn(types.ModuleType):
    """A torchvision of which nothing works: torch-fidelity imports it for networks that nothing here uses."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


STANDS_IN = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")


def import_torch_fidelity():
    """The package. Where there is no torchvision, a stand-in is there while it is imported, and no longer."""
    try:
        return importlib.import_module("torch_fidelity")
    except (ImportError, RuntimeError):
        pass
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        del sys.modules[name]
    modules = {name: _StandIn(name) for name in STANDS_IN}
    for name in STANDS_IN[1:]:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, modules[name])
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        return importlib.import_module("torch_fidelity")
