"""Chips as pytrees: replaced, scaled, batched, differentiated."""

import math
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware import (
    SCALABLE,
    Accelerator,
    Link,
    dump,
    from_dict,
    get_path,
    load,
    names,
    numeric_paths,
    set_path,
)


def ridge(chip):
    return chip.matrix_flops_per_s["bf16"] / chip.dram.bandwidth_bytes_per_s


def test_replace_by_name_and_by_path():
    chip = load("h100_sxm")
    other = chip.replace({"memory.dram.bandwidth_bytes_per_s": 4e12, "matrix_flops_per_s.fp4": 4e15}, cores=64)
    assert (other.dram.bandwidth_bytes_per_s, other.cores, other.matrix_flops_per_s["fp4"]) == (4e12, 64, 4e15)
    assert chip.dram.bandwidth_bytes_per_s == 3.35e12
    assert "fp4" not in chip.matrix_flops_per_s
    assert other.origin("cores") == ("assumed", "replaced by the user")
    assert chip.origin("cores")[0] == "datasheet"
    assert other.origin("clock_hz") == chip.origin("clock_hz")
    assert chip.replace(name="mine").provenance == chip.provenance


def test_a_replaced_part_is_the_origin_of_its_numbers():
    chip = load("h100_sxm").replace(scale_up=Link(bandwidth_bytes_per_s=1e12))
    assert chip.origin("scale_up.bandwidth_bytes_per_s") == ("assumed", "replaced by the user")
    assert chip.origin("scale_out.bandwidth_bytes_per_s") == load("h100_sxm").origin("scale_out.bandwidth_bytes_per_s")
    again = from_dict(tomllib.loads(dump(chip)))
    assert numeric_paths(again) == pytest.approx(numeric_paths(chip), nan_ok=True)
    assert again.origin("scale_up.bandwidth_bytes_per_s") == ("assumed", "replaced by the user")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("coers", "did you mean 'cores'?"),
        ("memory.dran.latency_s", "did you mean 'dram'?"),
        ("memory.dram.bandwith_bytes_per_s", "did you mean 'bandwidth_bytes_per_s'?"),
        ("scale_up.band", "known: name"),
        ("cores.x", "it has no parts"),
        ("", "known: name"),
    ],
)
def test_unknown_paths_are_refused(path, hint):
    for change in (lambda c: c.replace({path: 1.0}), lambda c: c.scaled({path or ".": 2.0})):
        with pytest.raises(ValueError, match="unknown") as error:
            change(load("h100_sxm"))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unknown path") as error:
        set_path(load("h100_sxm"), path, 1.0)
    assert hint in str(error.value)


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(names()), quantity=st.sampled_from(list(SCALABLE)), factor=st.floats(0.01, 100.0))
def test_scaling_touches_only_what_it_names(name, quantity, factor):
    chip = load(name)
    if quantity in ("l2", "l2_bandwidth") and len(chip.memory) == 1:
        with pytest.raises(ValueError, match="no 'l2'"):
            chip.scaled(**{quantity: factor})
        return
    before, after = numeric_paths(chip), numeric_paths(chip.scaled(**{quantity: factor}))
    assert list(before) == list(after)
    for path, value in before.items():
        touched = any(path == p or path.startswith(p + ".") for p in SCALABLE[quantity])
        expected = value * factor if touched else value
        assert after[path] == expected or math.isnan(expected)


def test_scaling_composes_and_is_marked():
    chip = load("h100_sxm").scaled({"matrix_flops_per_s.fp8": 3.0}, flops=2, matrix_flops=0.5)
    base = load("h100_sxm")
    assert chip.matrix_flops_per_s["bf16"] == base.matrix_flops_per_s["bf16"]
    assert chip.matrix_flops_per_s["fp8"] == 3.0 * base.matrix_flops_per_s["fp8"]
    assert chip.vector_flops_per_s["fp32"] == 2 * base.vector_flops_per_s["fp32"]
    assert chip.origin("matrix_flops_per_s.bf16") == ("assumed", "scaled from h100_sxm")


@pytest.mark.parametrize("name", ["mem_bandwith", "speed", "memory", "name"])
def test_scaling_refuses_what_is_not_a_quantity(name):
    with pytest.raises(ValueError, match="known: mem_bandwidth"):
        load("h100_sxm").scaled(**{name: 2.0})


def test_level_names_the_known_ones():
    with pytest.raises(ValueError, match="no memory level 'l3'; known: dram, l2"):
        load("h100_sxm").level("l3")


def test_one_chip_stands_for_many():
    factors = np.linspace(0.5, 2.0, 1000)
    chips = load("h100_sxm").scaled(mem_bandwidth=factors, matrix_flops=factors[:, None])
    assert ridge(chips).shape == (1000, 1000)
    np.testing.assert_allclose(np.diag(ridge(chips)), ridge(load("h100_sxm")), rtol=1e-12)


def test_jit_vmap_and_grad_over_chips():
    base = load("h100_sxm").anonymous()
    factors = jnp.linspace(0.5, 2.0, 7)
    batched = base.scaled(mem_bandwidth=factors)
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, batched)
    np.testing.assert_allclose(jax.jit(jax.vmap(ridge, in_axes=(axes,)))(batched), ridge(batched), rtol=1e-6)
    slope = jax.grad(lambda f: ridge(load("h100_sxm").scaled(mem_bandwidth=f)))(2.0)
    assert slope == pytest.approx(-ridge(base) / 4.0, rel=1e-6)
    step = jax.grad(lambda b: ridge(base.replace({"memory.dram.bandwidth_bytes_per_s": b})))(3.35e12)
    assert step == pytest.approx(-ridge(base) / 3.35e12, rel=1e-6)


def test_anonymous_chips_share_a_compilation():
    traced = []

    @jax.jit
    def rate(chip):
        traced.append(1)
        return ridge(chip)

    h100, h200 = load("h100_sxm"), load("h200_sxm")
    assert jax.tree.structure(h100) != jax.tree.structure(h200)
    assert rate(h100.anonymous()) != rate(h200.anonymous())
    assert len(traced) == 1
    assert jax.tree.leaves(h100.anonymous()) == pytest.approx(jax.tree.leaves(h100), nan_ok=True)


def test_pytree_round_trip_keeps_everything():
    chip = load("mi300x")
    leaves, structure = jax.tree.flatten(chip)
    again = jax.tree.unflatten(structure, leaves)
    assert numeric_paths(again) == pytest.approx(numeric_paths(chip), nan_ok=True)
    assert (again.name, again.aliases, again.provenance) == (chip.name, chip.aliases, chip.provenance)
    assert isinstance(jax.tree.map(lambda x: 2 * x, chip), Accelerator)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), value=st.floats(1.0, 1e15))
def test_every_numeric_path_can_be_set_and_read(data, value):
    chip = load(data.draw(st.sampled_from(names())))
    path = data.draw(st.sampled_from(list(numeric_paths(chip))))
    changed = set_path(chip, path, value)
    assert get_path(changed, path) == value
    others = {p: v for p, v in numeric_paths(changed).items() if p != path}
    for other, kept in others.items():
        assert kept == get_path(chip, other) or math.isnan(kept)
