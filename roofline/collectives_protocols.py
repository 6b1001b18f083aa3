"""The piecewise form of a measured collective: the fastest of a few protocol lines, each latency + traffic / bandwidth.

    T = max(floor_s, min_j [ latency_s r_j g^(c_j) b + traffic / (bandwidth e_j g^(d_j) b') ]),  line j only up to
    limit_j bytes

Communication libraries carry one operation by several protocols (LL, LL128, Simple; one-shot, two-shot; in-switch
reduction): low latency at
a poor bandwidth or the reverse. All constants of a line are dimensionless: `latency_ratio` r and `efficiency` e
multiply the platform's
small-message latency and link bandwidth, `latency_growth` c and `efficiency_growth` d are exponents of g = ranks / 2,
the two bends b, b'
correct the power laws between g = 1 and g = 4 only, so that extrapolation stays a power law.
`limit_bytes` (times g^`limit_growth`) is the payload beyond which the library no longer offers the protocol: times
may jump up there.

Source: protocols: NCCL's documentation, NCCL_PROTO; form: own fit to the measured collectives (see
`profiles.collectives_fit`).
"""

from typing import NamedTuple

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace


class ProtocolLines(NamedTuple):
    """Dimensionless constants of the protocol lines of one operation on one platform, [lines] each; `floor_s` a
    scalar.
    """

    latency_ratio: Array
    latency_growth: Array
    efficiency: Array
    efficiency_growth: Array
    latency_bend: Array
    efficiency_bend: Array
    limit_bytes: Array
    limit_growth: Array
    floor_s: Array = 0.0


def protocol_time_s(
    lines: ProtocolLines,
    payload_bytes: Array,
    traffic_bytes: Array,
    ranks: Array,
    bandwidth_bytes_per_s: Array,
    latency_s: Array,
    *,
    rounding: Rounding = exact,
) -> Array:
    """Seconds of the fastest protocol, [...]. `traffic_bytes`: payload x `wire_fraction`, or n for one pass.
    Arguments broadcast.

    Includes everything the library's own benchmark includes (launch, synchronisation). 0 for ranks <= 1.
    """
    xp = namespace(lines, payload_bytes, traffic_bytes, ranks, bandwidth_bytes_per_s, latency_s)
    payload_bytes, traffic_bytes, ranks = (
        xp.asarray(1.0 * a)[..., None] for a in (payload_bytes, traffic_bytes, ranks)
    )
    bandwidth_bytes_per_s, latency_s = (xp.asarray(1.0 * a)[..., None] for a in (bandwidth_bytes_per_s, latency_s))
    doublings = xp.log2(xp.maximum(ranks, 1.0)) - 1.0
    growth = 2.0**doublings
    bend = xp.maximum(doublings * (2.0 - doublings), 0.0)
    latency = latency_s * lines.latency_ratio * growth**lines.latency_growth * xp.exp(lines.latency_bend * bend)
    rate = (
        bandwidth_bytes_per_s
        * lines.efficiency
        * growth**lines.efficiency_growth
        * xp.exp(lines.efficiency_bend * bend)
    )
    offered = payload_bytes <= lines.limit_bytes * growth**lines.limit_growth
    # A protocol that is not offered costs more than any that is, and stays finite for the smooth minimum.
    times = (latency + traffic_bytes / rate) * xp.where(offered, 1.0, 1e6)
    fastest = rounding.min_over(times, axis=-1)
    fastest = xp.maximum(fastest, lines.floor_s)
    return xp.where(ranks[..., 0] > 1.0, fastest, 0.0)
