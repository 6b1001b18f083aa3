"""Ridgeline: how long will it take, what bounds it, how sure are we, what should we change.

The facade: `predict` and the packages below it, loaded when first used. No model lives here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import hardware
    import roofline
    import workloads
    from ridgeline.prediction import Prediction, predict

__version__ = "0.1.0"
__all__ = ["Prediction", "__version__", "hardware", "predict", "roofline", "workloads"]

_LAZY = {"predict": "ridgeline.prediction", "Prediction": "ridgeline.prediction"}
_PACKAGES = ("hardware", "workloads", "roofline")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
    elif name in _PACKAGES:
        value = import_module(name)
    else:
        raise AttributeError(f"module 'ridgeline' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
