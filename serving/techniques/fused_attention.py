"""Attention of prompts and of decoding sequences in one kernel (POD-Attention): one uses the matrix units, the other memory.

In an iteration with prompts, P seconds of prompt attention and D of decode attention take

    max(P, D) + (1 - f) min(P, D)          f = 0: one after the other (the plain law, exactly); f = 1: the shorter is hidden

Source: Kamath et al., "POD-Attention", ASPLOS 2025. Excludes: slow-down of either by the other beyond what f says. The same factor
is `composition.Deployment.attention_overlap` for single iterations with error terms.
"""

from dataclasses import replace

from composition.argument_checks import check_number
from serving.phase_law import PhaseLaw
from workloads.numeric import Array


def fused_attention_law(law: PhaseLaw, overlap: Array) -> PhaseLaw:
    """`law` with `overlap` = f in [0, 1] of the shorter attention hidden behind the longer; iterations of one kind keep
    their time. ValueError for another share."""
    check_number("overlap", overlap, least=0.0, most=1.0)
    return replace(law, attention_overlap=overlap)
