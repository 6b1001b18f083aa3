"""Other tools' files, cut, garbled and of wrong types: read, or refused in one line that names the file and the place."""

import re
from pathlib import Path

import pytest
from answered_or_refused import answered_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.gemmini_mapping_text import read_mapping, read_mappings
from dataflow.readers import directive_cost, loop_nest, read_hardware, read_network, read_timeloop

PROBLEM = """
problem:
  version: 0.4
  shape:
    name: CNN_Layer
    dimensions: [C, M, R, P]
    coefficients:
    - {name: Wstride, default: 1}
    data_spaces:
    - {name: Weights, projection: [[[C]], [[M]], [[R]]]}
    - {name: Inputs, projection: [[[C]], [[R], [P, Wstride]]]}
    - {name: Outputs, projection: [[[M]], [[P]]], read_write: True}
  instance: {C: 8, M: 4, R: 3, P: 6, Wstride: 1, densities: {Inputs: 0.5, Weights: {distribution: uniform, density: 0.2}}}
"""
ARCHITECTURE = """
architecture:
  version: 0.4
  nodes:
  - !Container
    name: system
    attributes: {technology: 45nm, global_cycle_seconds: 1e-9}
  - !Component
    name: DRAM
    class: DRAM
    attributes: {width: 64, datawidth: 8, type: LPDDR4}
  - !Component
    name: glb
    class: smartbuffer_SRAM
    attributes: {depth: 16384, width: 64, datawidth: 8, read_bandwidth: 16}
    constraints:
      dataspace: {keep: [Inputs, Outputs], bypass: [Weights]}
      temporal: {factors: [C=2], permutation: [C, M]}
      spatial: {factors: [M=4], split: 4}
  - !Container
    name: PE
    spatial: {meshX: 4}
  - !Component
    name: mac
    class: intmac
    attributes: {datawidth: 8}
"""
MAPPING = """
mapping:
- {target: glb, type: dataspace, keep: [Inputs, Outputs], bypass: [Weights]}
- {target: DRAM, type: temporal, factors: [C=2], permutation: [C]}
- {target: glb, type: temporal, factors: [C=4, R=3, P=6], permutation: [R, C, P]}
- {target: glb, type: spatial, factors: [M=4], permutation: [M], split: 1}
sparse_optimizations:
  targets:
  - name: glb
    representation_format:
      data_spaces:
      - {name: Inputs, ranks: [{format: UOP}, {format: CP, flattened_rankIDs: [[C, R]]}]}
    action_optimization:
    - {type: skipping, options: [{target: Outputs, condition_on: [Inputs]}]}
"""
TABLES = """
ERT:
  version: 0.4
  tables:
  - {name: "system.glb[1..1]", actions: [{name: read, arguments: {}, energy: 18.2}, {name: write, energy: 17.5}]}
  - {name: DRAM, actions: [{name: read, energy: 512}, {name: write, energy: 512}]}
  - {name: mac, actions: [{name: compute, energy: 0.2}]}
ART:
  tables:
  - {name: glb, area: 1000}
"""
NETWORK = """
Network test {
  Layer CONV1 {
    Type: CONV
    Stride { X: 1, Y: 1 }
    Dimensions { K: 8, C: 6, R: 3, S: 3, Y: 10, X: 10 }
    Dataflow {
      SpatialMap(1,1) K;
      TemporalMap(2,2) C;
      TemporalMap(Sz(R),1) Y;
      TemporalMap(Sz(S),1) X;
      Cluster(4, P);
      SpatialMap(1,1) C;
      TemporalMap(Sz(R),Sz(R)) R;
    }
  }
}
"""
HARDWARE = "num_pes: 16\nl1_size_cstr: 100\nl2_size_cstr: 3000 // words\nnoc_bw_cstr: 1000\noffchip_bw_cstr: 1000\n"
GEMMINI = "L3[WIO] P28 K16 - L2[WI] N1 K4X - L1[O] K4 C16X - L0[W] P2"

many = settings(deadline=None, max_examples=60)
WORDS = (
    *("0", "-1", "2.5", "1e400", ".nan", ".inf", "null", "true", "x", "''", "[]", "{}", "[1, 2]", "{a: 1}", "[[C]]"),
    *(
        "!Foo {a: 1}",
        "!Component",
        "!Parallel",
        "2001-99-99",
        "&a [*a]",
        "9" * 5000,
        "²",
        "٣",
        "C",
        "glb",
        "\0",
        "? [1]",
        "<<",
    ),
    *(
        '"\\n"',
        "0x",
        "1:99",
        "- -",
        "mac",
        "Inputs",
        "spatial",
        "C=0",
        "C=2.5",
        "C=4,",
        "=3",
        "C=" + "9" * 30,
        "UOP",
        "0.0",
    ),
)


@st.composite
def garbled(draw, text):
    """The text with one to three of its words, brackets or lines replaced, dropped or doubled, or cut short."""
    for _ in range(draw(st.integers(1, 3))):
        parts = [m for m in re.finditer(r"\[[^\[\]]*\]|\{[^{}]*\}|[\w.=!']+|[:,\[\]{}();-]|\n[^\n]*", text)]
        if not parts:
            break
        part = draw(st.sampled_from(parts))
        new = draw(st.sampled_from(WORDS) | st.text(max_size=4) | st.just("") | st.just(part.group() * 2))
        text = text[: part.start()] + new + text[part.end() :]
    return text[: draw(st.sampled_from((len(text), len(text), len(text) // 2, 3 * len(text) // 4)))]


def test_the_ungarbled_texts_are_read():
    assert read_timeloop(PROBLEM, ARCHITECTURE, MAPPING, TABLES).mapping is not None
    (layer,) = read_network(NETWORK)
    assert directive_cost(layer, read_hardware(HARDWARE)).cycles > 0
    assert read_mapping(GEMMINI).spatial_c == 16


@pytest.mark.parametrize("which", range(4))
@many
@given(st.data())
def test_garbled_timeloop_files(which, data):
    texts = [PROBLEM, ARCHITECTURE, MAPPING, TABLES]
    texts[which] = data.draw(garbled(texts[which]))
    answered_or_refused(lambda: read_timeloop(*texts))


@many
@given(garbled(NETWORK), garbled(HARDWARE))
def test_garbled_maestro_files(network, hardware):
    answered_or_refused(lambda: read_hardware(hardware))
    chip = read_hardware(HARDWARE)
    for layer in answered_or_refused(lambda: read_network(network)) or ():
        cost = answered_or_refused(lambda layer=layer: directive_cost(layer, chip))
        assert cost is None or 0 < cost.cycles < float("inf")
        answered_or_refused(lambda layer=layer: loop_nest(layer, chip))


@many
@given(garbled(GEMMINI) | st.text(max_size=40))
def test_garbled_mappings_of_the_template(text):
    answered_or_refused(lambda: read_mapping(text))


READERS = {"timeloop": lambda path: read_timeloop(path), "network": read_network, "hardware": read_hardware}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@many
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode("utf-8", "replace")))
def test_random_bytes_are_refused_with_their_file(reader, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "input.yaml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"input\.yaml|expected a section"):
        reader(path)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("wrong", [None, 3, b"x", ["a"], {}])
def test_sources_are_paths_or_texts(reader, wrong):
    with pytest.raises(ValueError, match="expected a Path or text"):
        reader(wrong)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_files_that_cannot_be_read(reader, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        reader(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match=r"no \*\.yaml|not a regular file"):
        reader(tmp_path)
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match=r"picture\.yaml: not text"):
        reader(path)


@pytest.mark.parametrize(
    "wrong", [None, 3, [3], ["L3[WIO] P28 -  - L1[O] - L0[W]"], GEMMINI + " - L0[W]", "L3[WIO] - - - "]
)
def test_mappings_of_the_template_are_texts(wrong):
    with pytest.raises(ValueError, match=r"^mapping"):
        read_mappings(wrong)


def test_every_error_names_the_file_it_is_from(tmp_path):
    for name, text in (("p", PROBLEM.replace("C: 8", "C: 0")), ("a", ARCHITECTURE), ("m", MAPPING)):
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"p\.yaml: problem\.instance\.C: 0"):
        read_timeloop(tmp_path)
    (tmp_path / "p.yaml").write_text(PROBLEM)
    (tmp_path / "m.yaml").write_text(MAPPING.replace("R=3", "R=2"))
    with pytest.raises(ValueError, match=r"m\.yaml: mapping\.R: factors 2 = 2, expected 3"):
        read_timeloop(tmp_path)
    (tmp_path / "n.txt").write_text(NETWORK.replace("K: 8", "K: 0"))
    with pytest.raises(ValueError, match=r"n\.txt: layers\.CONV1\.Dimensions\.K: 0"):
        read_network(tmp_path / "n.txt")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("architecture:\n  version: 0.2\n  subtree:\n  - name: System\n", "architecture.subtree"),
        ("architecture: {version: 0.3, nodes: []}\n", "architecture.version 0.3"),
        ("problem:\n  shape: {name: C, dimensions: [C], data-spaces: []}\n", "problem.data-spaces"),
        ("mapspace_constraints: []\n", "timeloop.mapspace_constraints"),
        ("architecture_constraints: {}\n", "timeloop.architecture_constraints"),
        ("arch: {arithmetic: {name: MACs}}\n", "timeloop.arch"),
    ],
)
def test_older_formats_are_named(tmp_path, text, place):
    path = Path(tmp_path) / "old.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"old\.yaml: {re.escape(place)}: Timeloop's format before v0\.4"):
        read_timeloop(path)
