"""Static batching: a batch of b requests runs until the last of them is done, then the next starts.

    T(b) = tau(b P, 0) + L tau(0, b S / L),     L = E[largest of b decode steps],     X = b / T(b)

Sequences leave the batch as they finish: over the steps of a request with S_k of them, b E[min(S, S_k)] / S_k are left
on the mean. Open loop: a batch takes what came during the one before it, 1 if nothing did; requests beyond the
largest batch wait as prompts beyond a budget do (`serving.waiting`). A batch is bounded by slots, by the memory of its
requests when they are longest, and by whole prompts in one iteration's budget: C / P - (1 + c_P^2) / 2 of them (the one
that did not fit starts the next batch), the floor of C / P for prompts of one length.
"""

from serving.implicit_root import increasing_root
from serving.lengths import Lengths
from serving.limits import Case, iteration
from serving.steady_result import Bound, Parts, SteadyState, answer
from serving.waiting import budget_backlog
from workloads.numeric import Array, namespace


def whole_prompts(case: Case) -> Array:
    """Prompts that fit whole into one iteration, [...] at least 1."""
    _, limits, m = case
    xp = namespace(case)
    fit = limits.max_batched_tokens / m.prompt
    variation = xp.maximum(m.prompt_square / m.prompt**2 - 1.0, 0.0)
    one_length = xp.exp(-xp.minimum(20.0 * variation * fit * fit, 50.0))
    several = fit - 0.5 * (1.0 + variation) - 1.0
    mixed = 1.0 + 0.5 * xp.log1p(xp.exp(-2.0 * xp.abs(several))) + xp.maximum(several, 0.0)
    return xp.maximum(one_length * xp.floor(fit) + (1.0 - one_length) * mixed, 1.0)


class Batches:
    """Times of batches of `case` over classes of `lengths`; methods take b [...]."""

    def __init__(self, case: Case, lengths: Lengths) -> None:
        xp = namespace(case, lengths)
        steps, share = xp.broadcast_arrays(lengths.steps, lengths.share)
        order = xp.argsort(steps, axis=-1)
        self.case = case
        self.steps, share = xp.take_along_axis(steps, order, -1), xp.take_along_axis(share, order, -1)
        self.below = xp.clip(xp.cumsum(share, axis=-1), 0.0, 1.0)
        # E[min(S, S_k)]: what is at most S_k as it is, the rest as S_k
        least = xp.cumsum(share * self.steps, axis=-1) + self.steps * (1.0 - self.below)
        self.met = xp.sum(share * least, axis=-1) / xp.maximum(case.moments.steps, 1e-9)
        some = xp.where(self.steps > 0.0, share, 0.0)
        left = xp.sum(some * least / xp.maximum(self.steps, 1.0), axis=-1)
        self.left = left / xp.maximum(xp.sum(some, axis=-1), 1e-12)

    def longest(self, batch: Array) -> Array:
        """Mean of the most decode steps among `batch` requests."""
        xp = namespace(self.case, batch)
        power = xp.maximum(self.below, 1e-12) ** batch[..., None]
        before = xp.concatenate([0.0 * power[..., :1], power[..., :-1]], axis=-1)
        return xp.sum(self.steps * (power - before), axis=-1)

    def prompts_s(self, batch: Array) -> Array:
        """Seconds of the prompts' iteration."""
        m = self.case.moments
        return iteration(self.case, batch * m.prompt, 0.0 * batch, batch)

    def steps_s(self, batch: Array, left: Array) -> Array:
        """Mean seconds of a decode iteration where a share `left` of the batch decodes."""
        xp = namespace(self.case, batch)
        n = xp.maximum(batch * left, 1.0)
        return iteration(self.case, 0.0 * n, n, n)

    def total_s(self, batch: Array) -> Array:
        """Seconds of a whole batch."""
        xp = namespace(self.case, batch)
        longest = self.longest(batch)
        share = self.case.moments.steps / xp.maximum(longest, 1e-9)
        return self.prompts_s(batch) + longest * self.steps_s(batch, share)


def static_batches(case: Case, lengths: Lengths, rate, clients, burstiness: Array, replicas: float) -> SteadyState:
    """Steady state of static batching; see `serving.steady_state.steady_state`."""
    _, limits, m = case
    offered = rate if clients is None else clients
    xp = namespace(case, lengths, offered, burstiness)
    held = m.final + 0.5 * (limits.block_tokens - 1.0)
    fit = xp.stack(xp.broadcast_arrays(
        xp.asarray(limits.max_sequences) * 1.0, limits.kv_tokens * (1.0 - limits.watermark) / held, whole_prompts(case)
    ))  # fmt: skip
    offered = offered / replicas
    # The whole of the classes is a batch at most of the leading shape of everything else.
    largest = xp.maximum(xp.min(fit, axis=0), 1.0) + 0.0 * offered
    batches = Batches(case, lengths)
    most = largest / batches.total_s(largest)
    limit = xp.argmin(fit, axis=0) + int(Bound.SLOTS)
    if clients is not None:
        batch = xp.maximum(xp.minimum(offered + 0.0 * largest, largest), 1.0)
        total = batches.total_s(batch)
        per_s, stable = xp.minimum(offered, batch) / total, total > 0.0
        load, bound = per_s / most, xp.where(offered > largest, limit, int(Bound.CLIENTS))
        busy = 1.0 + 0.0 * total
    else:
        stable = offered < most
        per_s = xp.minimum(offered, most)
        safe = xp.minimum(offered, most * (1.0 - 1e-3))

        def excess(batch, theta):
            inner, arriving = theta
            mean = arriving * _with(batches, inner).total_s(batch)
            return batch - xp.maximum(mean + xp.exp(-mean), 1.0)

        batch = increasing_root(excess, 1.0 + 0.0 * safe, largest, (case, safe))
        total = batches.total_s(batch)
        load, bound = offered / most, xp.where(stable, int(Bound.ARRIVALS), limit)
        busy = total / (total + xp.exp(-safe * total) / safe)
    decode = batches.steps_s(batch, batches.met)
    step_s = batches.steps_s(batch, batches.left)
    longest = batches.longest(batch)
    if clients is not None:
        ttft = offered / per_s - m.steps * decode
        own = batches.prompts_s(batch)
        queue = xp.maximum(ttft - own, 0.0)
        capacity_s = xp.where(offered > largest, queue, 0.0)
    else:
        arrivals = burstiness / replicas
        slope = batches.total_s(batch + 1.0) - total
        biased = total + slope * slope * safe * arrivals
        beside = 1.0 + busy * safe * biased
        own = batches.prompts_s(xp.minimum(beside, largest))
        crowd = safe * batches.total_s(largest)
        left = budget_backlog(crowd, crowd * arrivals, largest, 1.0 + 0.0 * crowd)
        capacity_s = xp.where(stable, left / most, xp.inf)
        # requests that come regularly one by one seldom find a batch running
        queue = capacity_s + busy * 0.5 * biased * arrivals ** (0.5 / batch**2)
    nothing = 0.0 * total
    waited = xp.where(capacity_s > 0.0, capacity_s, 0.0)
    parts = Parts(
        capacity_s, xp.where(waited > 0.0, 1.0, 0.0), queue - capacity_s if clients is not None else busy * 0.5 * total,
        nothing, nothing, nothing, batch - 1.0, nothing, largest * m.prompt, own, own, own * own, nothing, nothing,
    )  # fmt: skip
    return answer(
        case, parts, rate=per_s, most=most, load=load, stable=stable, step_s=step_s, decode_s=m.steps * decode, own=own,
        queue=queue, residents=batch * busy, iteration_s=total / (longest + 1.0), mixed_share=1.0 / (longest + 1.0),
        busy=busy, bound=bound, preemptions=nothing, replicas=replicas,
    )  # fmt: skip


def _with(batches: Batches, case: Case) -> Batches:
    other = object.__new__(Batches)
    other.__dict__.update(batches.__dict__, case=case)
    return other
