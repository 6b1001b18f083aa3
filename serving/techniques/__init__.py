"""Serving techniques as small laws: trees of proposals, early exits, adapters, shared prefixes, fused attention, offload.

Lives here: what turns a phase law or an operator table into that of the technique; each has a setting in which it is the plain one
exactly. Elsewhere: chains of proposals (`serving.speculation`), formats of weights and cache, windows, latent attention (the
model's own description).
"""

from serving.techniques.adapters import TARGETS, Adapters, with_adapters
from serving.techniques.fused_attention import fused_attention_law
from serving.techniques.offloaded_decode import offloaded_decode_law
from serving.techniques.shared_prefix import SharedPrefix, with_shared_prefix
from serving.techniques.token_tree import early_exit_law, tokens_per_tree_step, tree_law, tree_nodes

__all__ = [
    "TARGETS",
    "Adapters",
    "SharedPrefix",
    "early_exit_law",
    "fused_attention_law",
    "offloaded_decode_law",
    "tokens_per_tree_step",
    "tree_law",
    "tree_nodes",
    "with_adapters",
    "with_shared_prefix",
]
