"""Ridgeline: how long will it take, what bounds it, how sure are we, what should we change.

The facade: `predict` and the packages below it, loaded when first used. No model lives here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import explore
    import hardware
    import roofline
    import serving
    import workloads
    from explore.sweep_result import load_sweep as load_result
    from ridgeline.prediction import Prediction, predict
    from ridgeline.simulation import simulate

__version__ = "0.1.0"
__all__ = [
    "Prediction",
    "__version__",
    "explore",
    "hardware",
    "load_result",
    "predict",
    "roofline",
    "serving",
    "simulate",
    "workloads",
]

#: Names of the facade: the module each lives in, and what it is called there.
_LAZY = {
    "predict": ("ridgeline.prediction", "predict"),
    "Prediction": ("ridgeline.prediction", "Prediction"),
    "simulate": ("ridgeline.simulation", "simulate"),
    "load_result": ("explore.sweep_result", "load_sweep"),
}
_PACKAGES = ("hardware", "workloads", "roofline", "serving", "explore")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, member = _LAZY[name]
        value = getattr(import_module(module), member)
    elif name in _PACKAGES:
        value = import_module(name)
    else:
        raise AttributeError(f"module 'ridgeline' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
