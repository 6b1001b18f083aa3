"""Data-centric directives: read, costed like the tool that defined them, and turned into loop nests."""

import json
import os
from pathlib import Path

import pytest

import dataflow as df
from dataflow.cluster_cost import ClusterLevel, ClusterLoop, cluster_cost
from dataflow.readers import ClusterHardware, directive_cost, loop_nest, read_hardware, read_network

DATA = Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dataflow" / "maestro"
NETWORK = """
Network tiny { // a comment
  Layer ONE {
    Type: CONV
    Stride { X: 1, Y: 1 }
    Dimensions { K: 8, C: 4, R: 3, S: 3, Y: 10, X: 10 }
    Dataflow {
      SpatialMap(1,1) K;
      TemporalMap(4,4) C;
      TemporalMap(Sz(R),Sz(R)) R;
      TemporalMap(Sz(S),Sz(S)) S;
      TemporalMap(Sz(R),1) Y;
      TemporalMap(Sz(S),1) X;
      Cluster(4, P);
      SpatialMap(1,1) C;
    }
  }
}
"""
HARDWARE = "num_pes: 16\nl1_size_cstr: 100\nl2_size_cstr: 3000 // words\nnoc_bw_cstr: 1000\noffchip_bw_cstr: 1000\n"


def test_network_and_hardware_fields():
    (layer,) = read_network(NETWORK)
    assert (layer.name, layer.kind, layer.cluster_sizes) == ("ONE", "CONV", (4,))
    assert layer.sizes == {"N": 1, "K": 8, "C": 4, "R": 3, "S": 3, "P": 8, "Q": 8}
    assert [len(level) for level in layer.clusters] == [6, 1]
    assert read_hardware(HARDWARE) == ClusterHardware(16, 100.0, 3000.0, 1000.0, 1000.0)


def test_cost_by_hand():
    """Two folds of K and 64 windows: 128 steps of 9 MACs, each after one cycle of sending 4 x (9 + 9) words into a cluster; one
    cycle for the very first words."""
    (layer,) = read_network(NETWORK)
    cost = directive_cost(layer, read_hardware(HARDWARE))
    assert cost.cycles == 128 * (9 + 1) + 1
    assert cost.macs == 8 * 4 * 9 * 64
    assert cost.sent_words["weights"] == 8 * 4 * 9
    rows = 4 * (9 + 7 * 3) + 7 * (4 * (9 + 7 * 3))
    assert cost.sent_words["inputs"] == 2 * rows - 4 * 9  # the first window is still there when K moves on


def test_more_bandwidth_or_units_are_never_slower():
    (layer,) = read_network(NETWORK)
    slow = [directive_cost(layer, ClusterHardware(16, noc_words_per_cycle=b)).cycles for b in (1, 2, 8, 64, 1000)]
    assert slow == sorted(slow, reverse=True)
    wide = [directive_cost(layer, ClusterHardware(n, noc_words_per_cycle=64)).cycles for n in (4, 8, 16, 32)]
    assert wide == sorted(wide, reverse=True)
    assert min(slow) >= directive_cost(layer, ClusterHardware(16)).macs / 16


def test_loop_nest_of_the_directives():
    (layer,) = read_network(NETWORK)
    work, chip, made = loop_nest(layer, read_hardware(HARDWARE))
    result = df.evaluate(work, chip, made)
    assert result.reason == 0
    assert result.counts.macs == directive_cost(layer, read_hardware(HARDWARE)).macs
    assert result.cycles == 128 * 9
    assert result.counts.words["L2"]["Weights"].reads == 8 * 4 * 9
    assert df.walk(work, chip, made).words["L2"]["Inputs"].reads == result.counts.words["L2"]["Inputs"].reads


@pytest.mark.parametrize(
    ("record", "network", "hardware"),
    [
        ("resnet50_kcp_ws.json", "Resnet50_kcp_ws.m", ClusterHardware(256, 100, 3000, 1000, 50)),
        ("eyeriss_alexnet.json", "alexnet_fix.m", ClusterHardware(168, noc_words_per_cycle=14)),
    ],
)
def test_recorded_layers_to_the_cycle(record, network, hardware):
    if not (DATA / record).is_file():
        pytest.skip(f"no recorded layers at {DATA}")
    layers = {layer.name: layer for layer in read_network((DATA / network).read_text())}
    for row in json.loads((DATA / record).read_text())["layers"]:
        cost = directive_cost(layers[row["Layer Number"]], hardware)
        assert cost.cycles == int(row["Runtime (Cycles)"]), row["Layer Number"]
        assert cost.sent_words == {"weights": int(row["filter l2 read"]), "inputs": int(row["input l2 read"])}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SpatialMap(1,1) K", "SpatalMap(1,1) K", r"layers.ONE.Dataflow: 'SpatalMap\(1,1\) K', expected SpatialMap"),
        ("SpatialMap(1,1) K", "SpatialMap(1,1) Z", r"unknown dimension 'Z'"),
        ("SpatialMap(1,1) K", "SpatialMap(0,1) K", r"'0', expected a positive integer or Sz"),
        ("Sz(R),1", "Sz(T),1", r"layers.ONE.Dataflow.Sz: unknown dimension 'T'"),
        ("K: 8", "K: 0", r"layers.ONE.Dimensions.K: 0, expected a positive integer"),
        ("K: 8", "K: -8", r"layers.ONE.Dimensions.K: -8"),
        ("K: 8, ", "", r"layers.ONE.Dimensions.K: missing"),
        ("Y: 10", "Y: 2", r"layers.ONE.Dimensions.Y: 2, expected at least R = 3"),
        ("Type: CONV", "Type: CONVO", r"unknown layer type 'CONVO'; did you mean 'CONV'"),
        ("Stride {", "Strides {", r"layers.ONE: unknown field 'Strides'; did you mean 'Stride'"),
        ("Network tiny {", "Network tiny {{", r"network: '{' is never closed"),
        ("Cluster(4, P)", "Cluster(32, P)", r"clusters of 32 units, expected at most 16"),
        ("TemporalMap(4,4) C", "SpatialMap(2,2) C", r"K and C both spatial over several tiles"),
    ],
)
def test_bad_input_names_the_field(old, new, message):
    assert old in NETWORK
    with pytest.raises(ValueError, match=message) as error:
        directive_cost(read_network(NETWORK.replace(old, new, 1))[0], read_hardware(HARDWARE))
    assert "\n" not in str(error.value)


def test_bad_hardware_and_clusters():
    for text, message in (
        ("num_pes: 0", r"hardware.num_pes: '0', expected a positive number"),
        ("num_pe: 4", r"unknown key 'num_pe'; did you mean 'num_pes'"),
        ("num_pes 4", r"hardware.line 1: 'num_pes 4', expected 'key: value'"),
        ("l1_size: 4", r"hardware.num_pes: missing"),
    ):
        with pytest.raises(ValueError, match=message):
            read_hardware(text)
    sizes = dict.fromkeys("NKCRSPQ", 2)
    with pytest.raises(ValueError, match=r"levels\[0\].units: 0"):
        cluster_cost(sizes, (ClusterLevel((), 0),))
    with pytest.raises(ValueError, match=r"levels\[0\].loops: unknown dimension 'Y'"):
        cluster_cost(sizes, (ClusterLevel((ClusterLoop("Y", 1, 1),), 4),))
    with pytest.raises(ValueError, match=r"sizes.K: 0"):
        cluster_cost(sizes | {"K": 0}, ())
