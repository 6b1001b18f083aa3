"""What a mixture-of-experts all-to-all puts on the wire: tokens go to the ranks that hold their experts, once per rank.

Source: counting; even routing assumed (every set of `topk` distinct experts equally likely).
"""

from workloads.numeric import Array, namespace


def expected_destinations(ranks: Array, topk: Array, experts: Array) -> Array:
    """Expected number of distinct ranks that one token's `topk` experts live on, [...] in [1, min(ranks, topk)].

    p (1 - C(E - E/p, k) / C(E, k)) with E experts spread evenly on p ranks, through log-gamma so that it broadcasts.
    """
    xp = namespace(ranks, topk, experts)
    ranks, topk, experts = (1.0 * xp.asarray(a) for a in (ranks, topk, experts))
    elsewhere = xp.maximum(experts - experts / xp.maximum(ranks, 1.0), 0.0)
    possible = elsewhere >= topk
    safe = xp.where(possible, elsewhere, topk)
    log_none = _log_choose(safe, topk) - _log_choose(experts, topk)
    return ranks * (1.0 - xp.where(possible, xp.exp(log_none), 0.0))


def token_bytes(tokens: Array, hidden: Array, bytes_per_value: Array) -> Array:
    """Bytes of `tokens` activations of width `hidden`, [...]."""
    return tokens * hidden * bytes_per_value


def _log_choose(n: Array, k: Array) -> Array:
    if namespace(n, k).__name__ == "numpy":
        from scipy.special import gammaln
    else:
        from jax.scipy.special import gammaln
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
