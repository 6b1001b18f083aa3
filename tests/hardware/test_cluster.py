"""Nodes and clusters: sizes multiply, dimensions run outwards, arrays are welcome."""

import jax
import numpy as np
import pytest

from hardware import Cluster, Dimension, Link, Node, cluster_of, load, node_of


def test_the_usual_cluster_of_a_chip():
    chip = load("h100_sxm")
    cluster = cluster_of(chip, nodes=4)
    assert (cluster.node.devices, cluster.nodes, cluster.devices) == (8, 4, 32)
    inner, outer = cluster.dimensions
    assert (inner.kind, inner.link) == ("switch", chip.scale_up)
    assert inner.link.in_switch_reduction
    assert outer.link == chip.scale_out


def test_topology_follows_the_chip():
    assert node_of(load("mi300x")).scale_up[0].kind == "fully_connected"
    assert node_of(load("tpu_v4"), 16).scale_up[0].kind == "ring"


def test_a_torus_is_three_rings():
    link = Link(bandwidth_bytes_per_s=100e9)
    node = Node(
        accelerator=load("tpu_v4"), scale_up=tuple(Dimension(kind="ring", size=s, link=link) for s in (4, 4, 8))
    )
    cluster = Cluster(node=node, scale_out=(Dimension(size=2), Dimension(size=3)))
    assert (node.devices, cluster.nodes, cluster.devices, len(cluster.dimensions)) == (128, 6, 768, 5)
    assert cluster.replace({"scale_out.0.size": 5}).devices == 128 * 15


def test_sizes_may_be_arrays():
    cluster = cluster_of(load("h100_sxm"), nodes=np.array([1, 2, 4]))
    np.testing.assert_array_equal(cluster.devices, [8, 16, 32])
    grown = jax.tree.map(lambda leaf: leaf, cluster)
    np.testing.assert_array_equal(grown.devices, cluster.devices)
    faster = cluster.replace({"node.accelerator.scale_up.bandwidth_bytes_per_s": 1e12})
    assert faster.node.accelerator.scale_up.bandwidth_bytes_per_s == 1e12


def test_wrong_descriptions_are_refused():
    with pytest.raises(ValueError, match="unknown topology 'rign'; did you mean 'ring'"):
        Dimension(kind="rign")
    with pytest.raises(ValueError, match="nodes: 0 is not positive"):
        cluster_of(load("h100_sxm"), nodes=0)
    chip = load("h100_sxm").replace(devices_per_node=float("nan"))
    with pytest.raises(ValueError, match="h100_sxm: devices_per_node: nan"):
        node_of(chip)
