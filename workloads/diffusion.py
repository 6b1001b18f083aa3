"""Built-in diffusion networks: one denoising step of DiT-XL/2 and of a Stable-Diffusion-1.5-like UNet."""

from collections.abc import Callable

from workloads.image_model import Builder, ImageModel


def dit_xl_2(name: str = "dit-xl-2", image: int = 256) -> ImageModel:
    """DiT-XL/2: 28 blocks of width 1152 over (image / 16)^2 patches of a 4-channel latent (Peebles and Xie, 2022,
    table 1).

    Every block: adaptive layer norm (six vectors per image from the condition), 16-head attention, 4x feed-forward
    network.
    """
    hidden, heads, depth, patch, channels = 1152, 16, 28, 2, 4
    latent = image // 8
    tokens = (latent // patch) ** 2
    b = Builder(channels, latent, latent)
    b.linear("patch_embedding", tokens, channels * patch * patch, hidden)
    b.linear("timestep_mlp.0", 1, 256, hidden)
    b.linear("timestep_mlp.1", 1, hidden, hidden)
    b.elementwise("label_embedding.add", hidden, inputs=2)
    b.stages[-1] = b.stages[-1]._replace(
        parameters=1001 * hidden + tokens * hidden
    )  # label table, fixed position table
    for index in range(depth):
        block = f"block{index}"
        b.linear(f"{block}.modulation", 1, hidden, 6 * hidden)
        b.norm(f"{block}.norm1", tokens, hidden, 0)
        b.elementwise(f"{block}.modulate", tokens * hidden, flops=2)
        b.linear(f"{block}.qkv", tokens, hidden, 3 * hidden)
        b.attention(f"{block}.attention", tokens, tokens, heads, hidden // heads)
        b.linear(f"{block}.proj", tokens, hidden, hidden)
        b.elementwise(f"{block}.gate_add", tokens * hidden, inputs=2, flops=2)
        b.norm(f"{block}.norm2", tokens, hidden, 0)
        b.elementwise(f"{block}.modulate", tokens * hidden, flops=2)
        b.linear(f"{block}.fc1", tokens, hidden, 4 * hidden)
        b.elementwise(f"{block}.gelu", tokens * 4 * hidden, flops=8)
        b.linear(f"{block}.fc2", tokens, 4 * hidden, hidden)
        b.elementwise(f"{block}.gate_add", tokens * hidden, inputs=2, flops=2)
    b.linear("final.modulation", 1, hidden, 2 * hidden)
    b.norm("final.norm", tokens, hidden, 0)
    b.linear("final.linear", tokens, hidden, patch * patch * 2 * channels)
    notes = (f"one denoising step at {image} x {image}; the image decoder is left out",)
    return ImageModel(name=name, stages=tuple(b.stages), source="Peebles and Xie, 2022 (arXiv 2212.09748)", notes=notes)


def stable_diffusion_unet(name: str = "sd-1.5-unet", image: int = 512) -> ImageModel:
    """The UNet of Stable Diffusion 1.5: widths 320/640/1280/1280, two residual blocks a level, transformers at three
    levels.

    Source: Rombach et al., 2021 (arXiv 2112.10752); published UNet configuration (layers_per_block 2,
    attention_head_dim 8 heads, cross_attention_dim 768, 77 text tokens).
    """
    widths, text_tokens, text_dim, embedding = (320, 640, 1280, 1280), 77, 768, 1280
    b = Builder(4, image // 8, image // 8)
    b.linear("time_mlp.0", 1, 320, embedding)
    b.linear("time_mlp.1", 1, embedding, embedding)
    b.conv("conv_in", 320, 3, bias=True)
    skips = [320]
    for level, width in enumerate(widths):
        for index in range(2):
            _residual(b, f"down{level}.{index}", b.channels, width, embedding)
            if level < 3:
                _spatial_transformer(b, f"down{level}.{index}.attn", width, text_tokens, text_dim)
            skips.append(width)
        if level < 3:
            b.conv(f"down{level}.downsample", width, 3, 2, 1, bias=True)
            skips.append(width)
    _residual(b, "mid.0", 1280, 1280, embedding)
    _spatial_transformer(b, "mid.attn", 1280, text_tokens, text_dim)
    _residual(b, "mid.1", 1280, 1280, embedding)
    for level, width in reversed(list(enumerate(widths))):
        for index in range(3):
            _residual(b, f"up{level}.{index}", b.channels + skips.pop(), width, embedding)
            if level < 3:
                _spatial_transformer(b, f"up{level}.{index}.attn", width, text_tokens, text_dim)
        if level > 0:
            b.height, b.width = 2 * b.height, 2 * b.width
            b.conv(f"up{level}.upsample", width, 3, bias=True)
    b.norm("norm_out", 32, b.channels * b.pixels // 32, 2 * b.channels)
    b.conv("conv_out", 4, 3, bias=True)
    notes = (f"one denoising step at {image} x {image}; text encoder and image decoder are left out",)
    return ImageModel(
        name=name, stages=tuple(b.stages), source="Rombach et al., 2021; published UNet config", notes=notes
    )


def _residual(b: Builder, label: str, inputs: int, filters: int, embedding: int) -> None:
    """GroupNorm, SiLU, 3 x 3; plus the timestep; GroupNorm, SiLU, 3 x 3; plus the (projected) input."""
    size = (b.height, b.width)
    b.channels = inputs
    b.norm(f"{label}.norm1", 32, inputs * b.pixels // 32, 2 * inputs)
    b.conv(f"{label}.conv1", filters, 3, bias=True)
    b.linear(f"{label}.time", 1, embedding, filters)
    b.norm(f"{label}.norm2", 32, filters * b.pixels // 32, 2 * filters)
    b.conv(f"{label}.conv2", filters, 3, bias=True)
    if inputs != filters:
        b.channels, (b.height, b.width) = inputs, size
        b.conv(f"{label}.shortcut", filters, 1, bias=True)
    b.elementwise(f"{label}.add", filters * b.pixels, inputs=2)


def _spatial_transformer(b: Builder, label: str, width: int, text_tokens: int, text_dim: int) -> None:
    """1 x 1 in; self-attention, cross-attention to the text, gated feed-forward network (GEGLU); 1 x 1 out."""
    n, heads = b.pixels, 8
    b.norm(f"{label}.norm", 32, width * n // 32, 2 * width)
    b.linear(f"{label}.proj_in", n, width, width)
    for kind, keys, dim in (("self", n, width), ("cross", text_tokens, text_dim)):
        b.norm(f"{label}.{kind}.norm", n, width, 2 * width)
        b.linear(f"{label}.{kind}.q", n, width, width, bias=False)
        b.linear(f"{label}.{kind}.k", keys, dim, width, bias=False)
        b.linear(f"{label}.{kind}.v", keys, dim, width, bias=False)
        b.attention(f"{label}.{kind}.attention", n, keys, heads, width // heads)
        b.linear(f"{label}.{kind}.out", n, width, width)
        b.elementwise(f"{label}.{kind}.add", n * width, inputs=2)
    b.norm(f"{label}.ffn.norm", n, width, 2 * width)
    b.linear(f"{label}.ffn.up", n, width, 8 * width)
    b.elementwise(f"{label}.ffn.geglu", n * 4 * width, inputs=2, flops=9)
    b.linear(f"{label}.ffn.down", n, 4 * width, width)
    b.elementwise(f"{label}.ffn.add", n * width, inputs=2)
    b.linear(f"{label}.proj_out", n, width, width)


DIFFUSION: dict[str, Callable[[str], ImageModel]] = {
    "dit-xl-2": dit_xl_2,
    "sd-1.5-unet": stable_diffusion_unet,
}
