"""Fitting the constants of `dataflow.gemmini_overhead` to measured register-transfer cycles, whole layers held out."""

from typing import Any

import numpy as np
from scipy.optimize import least_squares

from dataflow.gemmini import Layer, Mapping, traffic
from dataflow.gemmini_overhead import Overhead, rtl_cycles

#: Constant, start, lowest and highest value.
BOUNDS = {
    "input_request_cycles": (4.0, 0.05, 40.0),
    "weight_request_cycles": (8.0, 0.05, 40.0),
    "output_request_cycles": (8.0, 0.05, 40.0),
    "far_cycles": (10.0, 0.05, 60.0),
    "exposed": (0.2, 0.001, 1.0),
    "least_rows": (7.0, 0.5, 16.0),
}


def fit_overhead(layer: Layer, mapping: Mapping, measured_cycles: np.ndarray, rows: np.ndarray) -> Overhead:
    """Constants that fit the rows [n] (bool or indices) of the measurements, robustly in the logarithm."""

    def pick(values: Any) -> np.ndarray:
        return np.broadcast_to(values, (len(measured_cycles), *np.shape(values)[1:]))[rows]

    some_layer = Layer(sizes=pick(layer.sizes), stride_p=pick(layer.stride_p), stride_q=pick(layer.stride_q))
    some = Mapping(
        temporal=pick(mapping.temporal),
        spatial_c=pick(mapping.spatial_c),
        spatial_k=pick(mapping.spatial_k),
        order=pick(mapping.order),
    )
    words, truth = traffic(some_layer, some), np.log(measured_cycles[rows])

    def misfit(logs: np.ndarray) -> np.ndarray:
        return np.log(rtl_cycles(some_layer, some, overhead_of(logs), words)) - truth

    start, low, high = (np.log([b[i] for b in BOUNDS.values()]) for i in range(3))
    found = least_squares(misfit, start, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    return overhead_of(found.x)


def overhead_of(logs: np.ndarray) -> Overhead:
    """Constants from their logarithms in the order of `BOUNDS`."""
    return Overhead(**dict(zip(BOUNDS, np.exp(logs).tolist())))


def held_out_prediction(
    layer: Layer, mapping: Mapping, measured_cycles: np.ndarray, groups: np.ndarray, folds: int = 10
) -> np.ndarray:
    """Each row predicted by constants fitted without its group (`groups` [n]: the layer a row belongs to)."""
    answer = np.empty(len(measured_cycles))
    for fold in range(folds):
        out = groups % folds == fold
        if out.any():
            answer[out] = rtl_cycles(layer, mapping, fit_overhead(layer, mapping, measured_cycles, ~out))[out]
    return answer
