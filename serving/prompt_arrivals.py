"""How prompts come to the iterations of an open loop: clustered or spread by the gaps, and in step with long iterations.

A long iteration meets more arrivals, which make the next one long: with gain rho = r P dT/dp prompts per prompt and
arrivals of squared gap variation c^2, the prompts of an iteration are an autoregressive count of dispersion

    D = D_0 + rho^2 / (1 - rho^2) (E[P^2] / P^2 + c^2 - 1),      D_0 = 1 + (c^2 - 1) (1 - exp(-mean / abs(1 - c^2)))

(D_0: Poisson at c^2 = 1, at most one per iteration when few come regularly). The sequences that decode came in the
iterations before, so that they see iterations longer than the mean one by the covariance

    extra = P dT/dp D rho / (1 - rho) / (S + 1),      and there are r S extra more of them than S per arrival of an iteration.

`repeats`: times a prompt is computed on the mean (1 + preemptions).
"""

from typing import NamedTuple

from serving.limits import Case
from workloads.numeric import Array, namespace


class PromptArrivals(NamedTuple):
    """Burstiness c^2, gain rho, seconds a prompt adds to an iteration (P dT/dp), rate per second, computations per prompt;
    arrays [...]. The default has no feedback."""

    burstiness: Array = 1.0
    gain: Array = 0.0
    prompt_s: Array = 0.0
    rate_per_s: Array = 0.0
    repeats: Array = 1.0

    def dispersion(self, case: Case, mean: Array) -> Array:
        """Variance over mean of the prompts of an iteration, `mean` on the mean."""
        xp = namespace(self, case, mean)
        excess = self.burstiness - 1.0
        size = xp.maximum(xp.abs(excess), 1e-6)
        counts = 1.0 + excess * -xp.expm1(-mean / size)
        return counts + self._innovation(case) / (1.0 - self.gain * self.gain) * self.gain * self.gain

    def extra_s(self, case: Case) -> Array:
        """What decoding sequences see beyond the mean iteration."""
        xp = namespace(self, case)
        square = self.gain * self.gain
        spread = xp.minimum(1.0 + (self.burstiness - 1.0), 1.0) + square / (1.0 - square) * self._innovation(case)
        return self.prompt_s * spread * self.gain / (1.0 - self.gain) / (case.moments.steps + 1.0)

    def crowd(self, case: Case) -> Array:
        """Others decoding beyond what the prompts of a mean iteration lead to."""
        return self.rate_per_s * case.moments.steps * self.extra_s(case)

    def beside(self, mean: Array) -> Array:
        """Others that arrive in an iteration somebody arrives in, `mean` arriving on the mean: fewer if regular."""
        xp = namespace(self, mean)
        regular = xp.maximum(1.0 - self.burstiness, 1e-6)
        return mean + xp.where(self.burstiness < 1.0, regular * xp.expm1(-mean / regular), 0.0)

    def _innovation(self, case: Case) -> Array:
        m = case.moments
        xp = namespace(self, case)
        return xp.maximum(m.prompt_square / m.prompt**2 + self.burstiness - 1.0, 0.05)


NO_FEEDBACK = PromptArrivals()


def rarer(xp, dispersion: Array) -> Array:
    """-ln P(none) per mean count: ln D / (D - 1), 1 at D = 1 (negative binomial above, binomial below)."""
    beyond = xp.where(xp.abs(dispersion - 1.0) > 1e-6, dispersion - 1.0, 1e-6)
    return xp.log1p(xp.maximum(beyond, -0.999)) / beyond
