"""On which ranks experts live: `shares[..., rank, expert]`, the part of an expert's rows that a rank runs (columns sum to 1).

Copies of an expert share its rows evenly and in turn, so that copies take from the popularity of an expert and from its chance
alike; an expert with a copy on each of R ranks weighs 1 / R on each. `replicated_placement` adds copies where they help most:

    copies      the next copy goes to the expert with the most rows per copy            (minimises the greatest of them)
    ranks       copies from the heaviest down, each to the lightest rank that has a slot and not yet this expert

Greedy in both; the second is within 4/3 of the best (Graham 1969) where slots do not bind. Excludes: moving copies as popularity
drifts."""

import numpy as np

from serving.experts.routing import Routing
from workloads.numeric import Array


def contiguous_placement(experts: int, ranks: int) -> np.ndarray:
    """Blocks of E / R experts in their order, one block per rank, [ranks, experts]."""
    return _owners(np.repeat(np.arange(ranks), _per_rank(experts, ranks)), ranks)


def dealt_placement(experts: int, ranks: int) -> np.ndarray:
    """Experts dealt to ranks in turn, there and back: with popularity in descending order a good placement, [ranks, experts]."""
    _per_rank(experts, ranks)
    turn = np.arange(experts) % (2 * ranks)
    return _owners(np.minimum(turn, 2 * ranks - 1 - turn), ranks)


def random_placements(experts: int, ranks: int, count: int = 8) -> np.ndarray:
    """`count` placements blind to popularity, as engines start with, [count, ranks, experts]; the same for every caller."""
    each = _per_rank(experts, ranks)
    generator = np.random.default_rng(experts)
    return np.stack([_owners(generator.permutation(experts) // each, ranks) for _ in range(count)])


def replicated_placement(routing: Routing, ranks: int, copies: int = 0) -> np.ndarray:
    """`copies` further copies of hot experts on `ranks`, then all placed by load, [ranks, experts].

    `ValueError` unless experts and copies fill the same number of slots on every rank."""
    load = np.asarray(routing.popularity, dtype=float)
    if load.ndim != 1:
        raise ValueError(f"routing.popularity: shape {load.shape}; expected [experts] for a placement")
    if ranks < 1:
        raise ValueError(f"ranks: {ranks!r}; expected at least 1")
    if copies < 0 or (len(load) + copies) % ranks or copies > len(load) * (ranks - 1):
        raise ValueError(
            f"copies: {copies!r} beside {len(load)} experts on {ranks} ranks; expected as many slots on every rank and at most "
            "one copy of an expert on each"
        )
    number = np.ones(len(load), dtype=int)
    for _ in range(copies):
        number[np.argmax(np.where(number < ranks, load / number, -1.0))] += 1
    slots = np.full(ranks, (len(load) + copies) // ranks)
    taken, shares = np.zeros(ranks), np.zeros((ranks, len(load)))
    for expert in np.lexsort((-number, -load / number)):
        for _ in range(number[expert]):
            free = (slots > 0) & (shares[:, expert] == 0.0)
            if not free.any():  # slots are left only where the expert is: it has a copy less
                break
            rank = np.lexsort((-slots, np.where(free, taken, np.inf)))[0]
            shares[rank, expert] = 1.0
            slots[rank] -= 1
            taken[rank] += load[expert] / number[expert]
    return shares / np.sum(shares, axis=0)


def check_shares(shares: Array, experts: int) -> None:
    """`ValueError` unless `shares` is [..., ranks, experts], not negative, and every expert's rows are all run."""
    shares = np.asarray(shares, dtype=float)
    if shares.ndim < 2 or shares.shape[-1] != experts:
        raise ValueError(f"placement: shape {shares.shape}; expected [..., ranks, {experts} experts]")
    if np.any(shares < 0.0) or not np.allclose(np.sum(shares, axis=-2), 1.0):
        raise ValueError("placement: expected shares of each expert's rows, not negative, that sum to 1 over the ranks")


def _owners(owner: np.ndarray, ranks: int) -> np.ndarray:
    return (owner[None, :] == np.arange(ranks)[:, None]).astype(float)


def _per_rank(experts: int, ranks: int) -> int:
    if ranks < 1 or experts % ranks:
        raise ValueError(f"ranks: {ranks!r} does not divide {experts} experts")
    return experts // ranks
