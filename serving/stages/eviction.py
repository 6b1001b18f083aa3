"""What a cache keeps: hit rates of eviction policies under independent references, in closed form.

With items referenced at rates r_i (R = sum r_i) and room for C of them,

    lru    sum r_i (1 - exp(-r_i t_C)) / R,  t_C: sum (1 - exp(-r_i t_C)) = C          Che (`serving.che_hit_rate`)
    lfu    sum of the C largest r_i / R                    perfect knowledge of popularity: the best any policy can do here
    ttl    sum r_i (1 - exp(-r_i T)) / R,  T = min(ttl, t_C)                   the clock of an item starts anew at every use

A ttl cache holds sum (1 - exp(-r_i ttl)) items on the mean; with less room than that it drops the least recently used one, as lru
does. Limits: one item's size of room per item makes all of them 1 (ttl: only for ttl to infinity); ttl never above lru, lru never
above lfu. `serving.stages.replay_cache` runs the same policies on references one by one.

Excludes: references that depend on each other (sessions: use a trace), items of different size, LFU's time to learn.
"""

import jax

from composition.argument_checks import check_number
from hardware.paths import nearest
from serving.prefix_cache import characteristic_time, che_hit_rate
from workloads.numeric import Array, namespace

POLICIES = ("lru", "lfu", "ttl")


def hit_rate(rates: Array, capacity: Array, policy: str = "lru", *, ttl_s: Array = float("inf")) -> Array:
    """Share of references to items of `rates` [items] (per second) found by a cache of `capacity` items [...] under `policy`.
    Differentiable; `ttl_s` is for "ttl" alone. `ValueError` for an unknown policy or negative numbers."""
    if policy not in POLICIES:
        raise ValueError(
            f"policy: {policy!r} is unknown{nearest(str(policy), POLICIES)} (known: {', '.join(POLICIES)})"
        )
    if policy == "lru":
        return che_hit_rate(rates, capacity)
    return lfu_hit_rate(rates, capacity) if policy == "lfu" else ttl_hit_rate(rates, capacity, ttl_s)


def lfu_hit_rate(rates: Array, capacity: Array) -> Array:
    """Hit rate of a cache of the `capacity` items [...] of highest `rates` [items]; between whole numbers linear."""
    check_number("rates", rates, least=0.0)
    check_number("capacity", capacity, least=0.0)
    xp = namespace(rates, capacity)
    ordered = xp.flip(xp.sort(xp.asarray(rates) * 1.0))
    found = xp.concatenate([xp.zeros(1), xp.cumsum(ordered)]) / xp.sum(ordered)
    return xp.interp(xp.asarray(capacity) * 1.0, xp.arange(found.shape[0]) * 1.0, found)


def ttl_hit_rate(rates: Array, capacity: Array, ttl_s: Array) -> Array:
    """Hit rate of a cache that forgets an item `ttl_s` [...] after its last use, and the least recently used one where more than
    `capacity` items [...] would be kept, of references at `rates` [items] per second."""
    check_number("rates", rates, least=0.0)
    check_number("capacity", capacity, least=0.0)
    xp = namespace(rates, capacity, ttl_s)
    rates, capacity, ttl_s = (xp.asarray(x) * 1.0 for x in (rates, capacity, ttl_s))
    if xp is not jax.numpy and not bool((ttl_s > 0.0).all()):
        raise ValueError(f"ttl_s: {ttl_s.min():g}; expected seconds above 0")
    total = xp.sum(rates)
    popularity = rates / total
    filled = characteristic_time(popularity, capacity)
    # a cache with room for everything forgets by the clock alone
    filled = xp.where(capacity >= rates.shape[-1], xp.inf, filled)
    kept = xp.minimum(ttl_s * total, filled)
    hit = xp.sum(popularity * -xp.expm1(-popularity * kept[..., None]), axis=-1)
    return xp.where(capacity > 0.0, hit, 0.0)
