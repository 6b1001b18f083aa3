"""How fast a node's logic runs at a voltage, and the voltage that a clock needs: the alpha-power law.

    clock(v) = nominal_clock * (v - t)^a / v * 1 / (1 - t)^a          v: supply voltage relative to nominal, t: threshold likewise

Source: Sakurai and Newton, Alpha-power law MOSFET model, IEEE JSSC 1990; a = 1.3 (velocity saturation), threshold 0.35 V.
Fits the published curve of AD102 (0.885 V at 2.35 GHz to 1.05 V at 2.82 GHz) within 1 %. Limits: one curve per node
(designs with longer pipeline stages run slower than it); below the floor voltage, SRAM fails, so that slower clocks save no
more voltage.
"""

from explore.technology import process_node
from workloads.numeric import Array, namespace

#: Velocity-saturation exponent and threshold voltage of FinFET logic.
EXPONENT, THRESHOLD_VOLTS = 1.3, 0.35
#: Lowest supply voltage of products, relative to nominal (about 0.68 V).
FLOOR = 0.9
#: Newton steps; the iteration is monotone and converges to rounding error for clocks of 0.05 to 5 times nominal.
_STEPS = 12


def max_clock_hz(voltage: Array, node: str) -> Array:
    """Highest clock of `node` at `voltage` (relative to nominal), [...]; zero at and below the threshold."""
    figures = process_node(node)
    threshold = THRESHOLD_VOLTS / figures.nominal_volts
    xp = namespace(voltage)
    above = voltage > threshold
    overdrive = xp.where(above, voltage - threshold, 1.0)
    speed = overdrive**EXPONENT / xp.where(above, voltage, 1.0) / (1.0 - threshold) ** EXPONENT
    return xp.where(above, figures.nominal_clock_hz * speed, 0.0)


def relative_voltage(clock_hz: Array, node: str) -> Array:
    """Supply voltage relative to nominal at which `node` just holds `clock_hz` (> 0), [...]: the inverse of `max_clock_hz`.

    Solves u^a = c (u + t) for the overdrive u by Newton's method from above; differentiable through its steps.
    """
    figures = process_node(node)
    threshold = THRESHOLD_VOLTS / figures.nominal_volts
    speed = clock_hz / figures.nominal_clock_hz * (1.0 - threshold) ** EXPONENT
    overdrive = threshold + (2.0 * speed) ** (1.0 / (EXPONENT - 1.0))
    for _ in range(_STEPS):
        power = overdrive**EXPONENT
        overdrive = overdrive - (power - speed * (overdrive + threshold)) / (EXPONENT * power / overdrive - speed)
    return overdrive + threshold


def supply_voltage(clock_hz: Array, node: str) -> Array:
    """`relative_voltage`, but no lower than the floor below which SRAM fails, [...]."""
    return namespace(clock_hz).maximum(relative_voltage(clock_hz, node), FLOOR)
