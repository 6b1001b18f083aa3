"""Families with multi-head latent attention: DeepSeek-V2/V3/R1, V3.2 (sparse), Kimi-K2, GLM-5 (sparse)."""

from workloads.huggingface.checked_fields import CheckedFields
from workloads.huggingface.dense import grouped, layer_total
from workloads.layers import AttentionSpec, FeedForward, FeedForwardSpec, Indexer, LatentAttention, MixtureOfExperts
from workloads.transformer import TransformerModel


def latent_decoder(f: CheckedFields, name: str) -> TransformerModel:
    """`first_k_dense_replace` dense layers, then every `moe_layer_freq`-th a mixture of experts with shared experts."""
    hidden, layers = f.size("hidden_size"), layer_total(f)
    nope, rope = f.size("qk_nope_head_dim"), f.size("qk_rope_head_dim")
    total = f.size("qk_head_dim", nope + rope)
    if total != nope + rope:
        raise ValueError(f"{f.path}.qk_head_dim: {total}; expected qk_nope_head_dim + qk_rope_head_dim = {nope + rope}")
    f.ignore("num_key_value_heads", "head_dim", "rope_parameters")  # one latent serves all heads; rope size is explicit
    f.expect("attention_bias", False)
    indexer = None
    if f.has("index_topk"):
        indexer = Indexer(heads=f.size("index_n_heads"), head_dim=f.size("index_head_dim"), top_k=f.size("index_topk"))
    attention: AttentionSpec = LatentAttention(
        heads=f.size("num_attention_heads"),
        query_rank=f.size("q_lora_rank", 0),
        kv_rank=f.size("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rope,
        value_dim=f.size("v_head_dim"),
        indexer=indexer,
    )
    width = f.size("moe_intermediate_size", 0)
    experts = f.size("n_routed_experts", 0)
    dense = FeedForward(width=f.size("intermediate_size"))
    first, every = f.size("first_k_dense_replace", 0, least=0), f.size("moe_layer_freq", 1)
    top_k, shared = f.size("num_experts_per_tok", 0), f.size("n_shared_experts", 0, least=0)
    sparse: FeedForwardSpec = dense
    if experts:
        check_top_k(f, top_k, experts)
        if not width:
            raise ValueError(f"{f.path}.moe_intermediate_size: missing")
        bias = f.raw.get("topk_method") == "noaux_tc"
        sparse = MixtureOfExperts(
            experts=experts, top_k=top_k, width=width, shared_width=shared * width, router_bias=bias
        )
    specs = [(attention, sparse if i >= first and i % every == 0 else dense) for i in range(layers)]
    return TransformerModel(
        name=name,
        hidden_size=hidden,
        vocab_size=f.size("vocab_size"),
        layers=grouped(specs),
        tied_embeddings=f.flag("tie_word_embeddings", False),
        mtp_layers=f.size("num_nextn_predict_layers", 0, least=0),
        max_context_tokens=f.size("max_position_embeddings", 0, least=0),
    )


def check_top_k(f: CheckedFields, top_k: int, experts: int) -> None:
    """At least one and at most all experts per token."""
    if not 1 <= top_k <= experts:
        raise ValueError(f"{f.path}: {top_k} experts per token; expected 1 to {experts}, the number of experts")
