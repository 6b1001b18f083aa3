"""Number formats: storage size and the matrix rate a format computes at."""

from difflib import get_close_matches

#: Storage bytes per element, block scales included (nvfp4: one fp8 scale per 16; mxfp4: one e8m0 scale per 32;
#: fp8_block: one fp32 scale per 128 activations or per 128 x 128 weights, of which the former is counted here, see
#: `weight_element_bytes`; int4: one fp16 scale per 128).
BYTES_PER_ELEMENT: dict[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "int32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / 128.0,
    "int8": 1.0,
    "nvfp4": 0.5 + 1.0 / 16.0,
    "mxfp4": 0.5 + 1.0 / 32.0,
    "fp4": 0.5,
    "int4": 0.5 + 2.0 / 128.0,
}

#: Names other projects use for the same format.
DTYPE_ALIASES: dict[str, str] = {
    "float64": "fp64",
    "float32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float8": "fp8",
    "float8_e4m3fn": "fp8",
    "e4m3": "fp8",
    "float4": "fp4",
}

#: The format whose peak rate a format computes at (block-scaled formats run at their element's rate).
RATE_FORMAT: dict[str, str] = {"fp8_block": "fp8", "nvfp4": "fp4", "mxfp4": "fp4", "fp16": "bf16"}


def canonical_dtype(name: str) -> str:
    """The canonical name of number format `name`; raises `ValueError` with the known names otherwise."""
    if not isinstance(name, str):
        raise ValueError(f"dtype {name!r} is not a name; known: {', '.join(BYTES_PER_ELEMENT)}")
    key = DTYPE_ALIASES.get(name.lower(), name.lower())
    if key not in BYTES_PER_ELEMENT:
        near = get_close_matches(key, BYTES_PER_ELEMENT, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown dtype {name[:60]!r}{hint} (known: {', '.join(BYTES_PER_ELEMENT)})")
    return key


def element_bytes(dtype: str) -> float:
    """Storage bytes per element of `dtype`, block scales included."""
    return BYTES_PER_ELEMENT[canonical_dtype(dtype)]


def weight_element_bytes(dtype: str) -> float:
    """Storage bytes per weight of `dtype`: `element_bytes`, but fp8_block weights share one fp32 scale per 128 x
    128."""
    name = canonical_dtype(dtype)
    return 1.0 + 4.0 / 128.0**2 if name == "fp8_block" else BYTES_PER_ELEMENT[name]
