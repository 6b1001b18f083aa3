"""What an engine's policies make of a case: the iterations seen, the requests that fit, the time of one's own prompt."""

from typing import Any, NamedTuple

from serving.engine import Engine
from serving.implicit_root import increasing_root
from serving.iteration_mix import CHUNKS, LEAST_BUDGET, Mix, last_piece, mixed
from serving.limits import Case, iteration
from serving.prefill_first import prefill_first
from serving.waiting import budget_backlog
from workloads.numeric import Array, namespace


class Policy(NamedTuple):
    """What is not a number: batching, chunking, planning ahead, memory for outputs set aside, ranks in lockstep."""

    batching: str
    chunked: bool
    lookahead: bool
    reserve_output: bool
    ranks: int

    @classmethod
    def of(cls, engine: Engine, ranks: int) -> "Policy":
        """The engine's own."""
        return cls(engine.batching, engine.chunked, engine.lookahead, engine.reserve_output, ranks)

    def mix(self, case: Case, others: Array, **how: Any) -> Mix:
        """The iterations that a resident with `others` beside it sees."""
        of = mixed if self.batching == "mixed" else prefill_first
        return of(case, others, chunked=self.chunked, ranks=self.ranks, **how)

    def own_s(self, case: Case, prompt: Array, beside: Array, decoding: Array, budget: Array, full_s: Array) -> Array:
        """Seconds from admission to the first token of a prompt of so many computed tokens, [...], with `beside` others'
        prompts in its last iteration."""
        xp = namespace(case, prompt, beside, decoding, budget, full_s)
        if self.batching != "mixed":
            tokens = xp.minimum(prompt + beside * case.moments.prompt, xp.maximum(budget, prompt))
            return iteration(case, tokens, 0.0 * tokens, 1.0 + beside)
        pieces = CHUNKS.ceil(xp.maximum(prompt / budget, 1.0)) if self.chunked else 1.0 + 0.0 * prompt / budget
        tokens = last_piece(case, prompt, pieces, beside, budget, self.chunked)
        return iteration(case, tokens, decoding, decoding + 1.0 + beside) + (pieces - 1.0) * full_s


#: Completions are more regular than at random: memory runs out between them this much less often. Fitted to the replay.
REGULAR = 0.7


class Capacity(NamedTuple):
    """Residents that fit by each limit, [...]: slots, memory, token budget; the least of them; preemptions per request."""

    slots: Array
    memory: Array
    budget: Array
    least: Array
    preemptions: Array


def beyond_backlog(case: Case, policy: Policy, inside: Array) -> tuple[Array, Array]:
    """Of `inside` requests that slots and memory hold in a closed loop, those not waiting for the token budget, and
    the iterations that each prompt waits for it: c (S + m + w) = inside, w = Q(c) / B (see `serving.waiting`)."""
    _, limits, m = case
    xp = namespace(case, inside)
    if policy.batching != "mixed":
        return inside, 0.0 * inside
    steps = m.steps
    budget = xp.maximum(
        limits.max_batched_tokens - inside * steps / (steps + 1.0), LEAST_BUDGET * limits.max_batched_tokens
    )
    stay = steps + (CHUNKS.ceil(xp.maximum(m.prompt / budget, 1.0)) if policy.chunked else 1.0)

    def wait(come, theta):
        # the own prompt waits for those of others only
        budget, m, _, inside = theta
        crowd = come * (1.0 - 1.0 / xp.maximum(inside, 1.0))
        return budget_backlog(crowd * m.prompt, crowd * m.prompt_square, budget, m.prompt_square / m.prompt) / budget

    def excess(come, theta):
        return come * (theta[2] + wait(come, theta)) - theta[3]

    theta = (budget, m, stay, inside + 0.0 * budget)
    most = xp.minimum(inside / stay, budget / m.prompt * (1.0 - 1e-4)) + 0.0 * budget
    come = increasing_root(excess, 0.0 * most, most, theta)
    waiting = wait(come, theta)
    return xp.maximum(inside - come * waiting, 1.0 + 0.0 * inside), waiting


def capacity(case: Case, policy: Policy) -> Capacity:
    """How many residents fit on a replica."""
    _, limits, m = case
    xp = namespace(case)
    steps, prompt, tokens = m.steps, m.prompt, limits.max_batched_tokens
    decoding = xp.minimum(limits.max_sequences * steps / (steps + 1.0), 0.5 * tokens)
    room = xp.maximum(tokens - decoding, LEAST_BUDGET * tokens)
    together = policy.batching == "mixed"
    chunks = CHUNKS.ceil(xp.maximum(prompt / room, 1.0)) if together and policy.chunked else 1.0 + 0.0 * room
    stay = steps + chunks if together else xp.maximum(steps, 1.0)
    held = 1.0 if policy.lookahead else 0.0
    slots = limits.max_sequences / (stay + held)
    half = 0.5 * (limits.block_tokens - 1.0)
    # Memory runs out between completions, while the S tokens of growth that one frees are used up: the youngest goes.
    growth = xp.maximum(steps * m.tokens_per_step, 1e-9) / m.stored
    preempted = 0.0 * growth if policy.reserve_output else REGULAR * growth * -xp.expm1(-1.0 / growth)
    unused = 0.5 * m.prompt_square / m.prompt
    prompts = (1.0 + preempted) * (stay - steps)
    if policy.reserve_output:  # every request holds what it ends with, from its admission on
        decoded = m.held + 0.5 * xp.maximum(m.steps_square * m.tokens_per_step - steps, 0.0)
        tokens_held = decoded + steps * half + (prompts + held) * (m.final + half)
    else:
        tokens_held = m.held + steps * half + prompts * (m.stored + half) + held * (m.final + half)
    memory = xp.maximum(limits.kv_tokens * (1.0 - limits.watermark) - unused, m.final) / tokens_held
    budget = tokens / (prompt + steps) if together else 0.0 * memory + 1e18
    least = xp.minimum(xp.minimum(slots, memory), budget)
    full = memory <= xp.minimum(slots, budget)
    return Capacity(
        slots * stay, memory * (steps + prompts), budget * stay,
        xp.maximum(least * (stay + xp.where(full, prompts - (stay - steps), 0.0)), 1.0), xp.where(full, preempted, 0.0),
    )  # fmt: skip
