"""The energy roofline: joules of a kernel from its work, traffic and time.

    E = flops e_flop + bytes e_byte + P_static T           balance: e_byte / e_flop  FLOP per byte

Source: Choi, Bedard, Fowler, Vuduc, "A roofline model of energy", IPDPS 2013, eqs. 1-6.
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.bound import peak_flops_per_s
from roofline.kernel_time import KernelTime
from workloads.numeric import Array, namespace

#: DRAM access energy assumed where a chip's catalogue entry has none: HBM2e/HBM3, about 4 pJ/bit at the device and PHY
#: (O'Connor et al., MICRO 2017, give 3.9 pJ/bit for HBM2).
ASSUMED_DRAM_JOULES_PER_BYTE = 4e-12 * 8
#: Share of peak power drawn when idle where unknown (public nvidia-smi idle readings of data-centre parts: 8-15 %).
ASSUMED_IDLE_SHARE = 0.1


class EnergyCoefficients(NamedTuple):
    """Joules per FLOP, joules per byte of DRAM traffic, and static power in watts."""

    joules_per_flop: Array
    joules_per_byte: Array
    static_watts: Array

    @property
    def balance(self) -> Array:
        """Arithmetic intensity at which arithmetic and traffic cost the same energy, FLOP per byte."""
        return self.joules_per_byte / self.joules_per_flop


def energy_coefficients(chip: Accelerator, dtype: str, *, unit: str = "matrix") -> EnergyCoefficients:
    """Coefficients of `chip` such that peak arithmetic in `dtype` with a saturated DRAM draws `peak_watts`.

    DRAM energy and idle power fall back to the assumed values above; an unknown `peak_watts` gives NaN. Raises `ValueError` where
    the chip has no such rate.
    """
    peak = peak_flops_per_s(chip, unit, dtype)
    if peak is None:
        raise ValueError(f"{chip.name or 'chip'}: no {unit} rate for {dtype!r}")
    xp = namespace(chip.peak_watts, chip.dram.bandwidth_bytes_per_s)
    known = xp.isfinite(xp.asarray(chip.idle_watts, dtype=float))
    static = xp.where(known, chip.idle_watts, ASSUMED_IDLE_SHARE * chip.peak_watts)
    per_byte = xp.asarray(chip.dram.energy_joules_per_byte, dtype=float)
    per_byte = xp.where(xp.isfinite(per_byte), per_byte, ASSUMED_DRAM_JOULES_PER_BYTE)
    dynamic = chip.peak_watts - static - per_byte * chip.dram.bandwidth_bytes_per_s
    return EnergyCoefficients(xp.maximum(dynamic, 0.05 * chip.peak_watts) / peak, per_byte, static)


def energy_joules(time: KernelTime, coefficients: EnergyCoefficients) -> Array:
    """Energy of a kernel, joules, [...]: arithmetic + DRAM traffic + static power over its time."""
    dynamic = time.flops * coefficients.joules_per_flop + time.bytes * coefficients.joules_per_byte
    return dynamic + coefficients.static_watts * time.total_s
