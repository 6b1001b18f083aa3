"""Timeloop's YAML read into our own problem, architecture and mapping, and mappings written back."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dataflow as df
from dataflow.readers import read_timeloop, write_mapping
from dataflow.readers.timeloop_architecture import ReadArchitecture
from dataflow.readers.timeloop_mapping import read_mapping
from dataflow.readers.yaml_fields import load_yaml
from dataflow.recorded import recorded_run

PROBLEM = """
problem:
  version: 0.4
  shape:
    name: CNN_Layer
    dimensions: [C, M, R, S, N, P, Q]
    coefficients:
    - {name: Wstride, default: 1}
    - {name: Hstride, default: 1}
    - {name: Wdilation, default: 1}
    - {name: Hdilation, default: 1}
    data_spaces:
    - {name: Weights, projection: [[[C]], [[M]], [[R]], [[S]]]}
    - {name: Inputs, projection: [[[N]], [[C]], [[R, Wdilation], [P, Wstride]], [[S, Hdilation], [Q, Hstride]]]}
    - {name: Outputs, projection: [[[N]], [[M]], [[Q]], [[P]]], read_write: True}
  instance: {C: 256, M: 384, R: 3, S: 3, N: 1, P: 13, Q: 13}
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
  - !Container
    name: eyeriss
  - !Component
    name: shared_glb
    class: smartbuffer_SRAM
    attributes: {depth: 16384, width: 64, datawidth: 8, n_banks: 32, read_bandwidth: 16, write_bandwidth: 16}
    constraints:
      dataspace: {keep: [Inputs, Outputs], bypass: [Weights]}
  - !Container
    name: PE_column
    spatial: {meshX: 14}
  - !Container
    name: PE
    spatial: {meshY: 12}
    constraints:
      spatial: {no_iteration_over_dims: [N, P], factors: [R=1], permutation: [C, S], split: 0}
  - !Component
    name: ifmap_spad
    class: smartbuffer_RF
    attributes: {depth: 12, width: 16, datawidth: 8, read_bandwidth: 2, write_bandwidth: 2}
    constraints:
      dataspace: {keep: [Inputs], bypass: [Weights, Outputs]}
      temporal: {factors: [M=1, C=1], permutation: [S, Q, R]}
  - !Component
    name: weights_spad
    class: smartbuffer_RF
    attributes: {depth: 192, width: 16, datawidth: 8, read_bandwidth: 2, write_bandwidth: 2}
    constraints:
      dataspace: {keep: [Weights], bypass: [Inputs, Outputs]}
  - !Component
    name: psum_spad
    class: smartbuffer_RF
    attributes: {depth: 16, width: 16, datawidth: 16, read_bandwidth: 2, write_bandwidth: 2}
    constraints:
      dataspace: {keep: [Outputs], bypass: [Weights, Inputs]}
  - !Component
    name: mac
    class: intmac
    attributes: {multiplier_width: 8, datawidth: 16, adder_width: 16}
"""
MAPPING = """
mapping:
- {target: DRAM, type: temporal, factors: [C=16], permutation: [C]}
- {target: shared_glb, type: temporal, factors: R=3 M=8 Q=13 P=13, permutation: PQMR}
- {target: PE_column, type: spatial, factors: [M=12], permutation: [M], split: 1}
- {target: PE, type: spatial, factors: [C=2, S=3], permutation: [C, S], split: 0}
- {target: ifmap_spad, type: temporal, factors: [], permutation: [C]}
- {target: weights_spad, type: temporal, factors: {C: 8}}
- {target: psum_spad, type: temporal, factors: [M=4]}
"""
TABLES = """
ERT:
  version: 0.4
  tables:
  - name: system_top_level.shared_glb[1..1]
    actions: [{name: read, arguments: {}, energy: 18.2}, {name: write, energy: 17.5}, {name: leak, energy: 0.01}]
  - {name: "system_top_level.PE[1..168].mac[1..1]", actions: [{name: compute, energy: 0.2}]}
ART:
  tables: [{name: "system_top_level.shared_glb[1..1]", area: 1000.0}]
"""
GOLDENS = (
    Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data")).parent
    / "goldens"
    / "timeloop"
)


def test_the_inputs_of_a_recorded_run_give_its_counts():
    path = GOLDENS / "run_eyeriss_alex3.json"
    if not path.is_file():
        pytest.skip(f"no recorded run at {path}")
    recorded = recorded_run(json.loads(path.read_text()))
    read = read_timeloop(PROBLEM, ARCHITECTURE, MAPPING)
    assert read.mapping is not None
    assert read.mapping.to_text() == recorded.mapping.to_text()
    ours, theirs = (df.evaluate(case.problem, case.architecture, case.mapping) for case in (read, recorded))
    assert (ours.cycles, ours.utilisation) == (theirs.cycles, theirs.utilisation)
    assert ours.counts == theirs.counts
    assert ours.level_cycles == theirs.level_cycles


def test_architecture_fields():
    chip = read_timeloop(PROBLEM, ARCHITECTURE, TABLES).architecture
    assert chip.level_names == ("DRAM", "shared_glb", "inter_PE_spatial", "ifmap_spad", "weights_spad", "psum_spad")
    buffer = chip.levels[1]
    assert (buffer.capacity_words, buffer.block_words, buffer.word_bits) == (131072.0, 8.0, 8.0)
    assert (buffer.fanout_x, buffer.fanout_y, chip.compute_units, chip.compute.holds_operands) == (
        14.0,
        1.0,
        168.0,
        False,
    )
    assert (buffer.read_joules, buffer.write_joules, buffer.update_joules) == (18.2e-12, 17.5e-12, 17.5e-12)
    assert (buffer.leakage_watts, buffer.area_m2, chip.compute.mac_joules) == pytest.approx((0.01e-3, 1e-9, 0.2e-12))
    assert np.isinf(chip.levels[0].capacity_words)


def test_constraints_become_a_map_space():
    read = read_timeloop(PROBLEM, ARCHITECTURE)
    assert read.mapping is None
    found = read.constraints
    assert found.keeps["shared_glb"] == ["Inputs", "Outputs"]
    assert found.factors["ifmap_spad"] == {"M": 1, "C": 1}
    assert found.factors["inter_PE_spatial"] == {"R:Y": 1}
    assert found.order["ifmap_spad"] == ["P", "N", "M", "C", "R", "Q", "S"]
    assert found.spatial["inter_PE_spatial"] == ["C", "M", "R", "S", "Q"]


def test_sparse_optimisations():
    work = PROBLEM.replace(
        "N: 1,", "N: 1, densities: {Inputs: {distribution: fixed_structured, density: 0.275}, Weights: 0.5},"
    )
    targets = """
sparse_optimizations:
  targets:
  - name: DRAM
    representation_format:
      data_spaces:
      - {name: Inputs, ranks: [{format: UOP, flattened_rankIDs: [[R, S, P, C, M, N, Q]]}, {format: RLE}]}
  - name: weights_spad
    action_optimization:
    - {type: skipping, options: [{target: Weights, condition_on: [Inputs]}]}
"""
    read = read_timeloop(work, ARCHITECTURE, MAPPING, targets)
    assert read.sparsity.optimisations == (df.Optimisation("skipping", "weights_spad", "Weights", ("Inputs",)),)
    assert [rank.kind for rank in read.sparsity.ranks("DRAM", "Inputs")] == ["UOP", "RLE"]
    assert read.mapping is not None
    result = df.evaluate_sparse(read.problem, read.architecture, read.mapping, read.sparsity)
    assert result.counts.macs.actual == pytest.approx(0.275 * read.problem.macs)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mappings_survive_writing_and_reading(data):
    ragged = data.draw(st.booleans())
    loops, sizes = {"DRAM": [], "Buffer": []}, {}
    for dim in "MNK":
        bounds = [data.draw(st.integers(1, 4)) for _ in range(3)]
        for (level, axis), bound in zip(
            (("DRAM", ""), ("DRAM", data.draw(st.sampled_from("XY"))), ("Buffer", "")), bounds
        ):
            if bound > 1:
                loops[level].append((dim, bound, axis))
        size = int(np.prod(bounds))
        sizes[dim] = data.draw(st.integers(max(1, size - 2), size)) if ragged else size
    loops = {
        level: data.draw(st.permutations([x for x in found if not x[2]])) + [x for x in found if x[2]]
        for level, found in loops.items()
    }
    work = df.gemm(sizes["M"], sizes["N"], sizes["K"])
    chip = df.architecture([df.Storage(name="DRAM", fanout_x=64, fanout_y=64), df.Storage(name="Buffer")])
    keeps = {"Buffer": data.draw(st.sampled_from([["Weights"], ["Weights", "Outputs"], []]))}
    made = df.mapping(work, chip, loops, keeps, ragged)
    text = write_mapping(made, work, chip)
    read = read_mapping(
        load_yaml(text)["mapping"], work, ReadArchitecture(chip, {"DRAM": "DRAM", "Buffer": "Buffer"}, {})
    )
    assert read.to_text().removeprefix("ragged\n") == made.to_text().removeprefix("ragged\n")
    assert read.ragged == (made.ragged and bool(made.loops(0) or made.loops(1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("meshX: 14", "meshZ: 14", r"nodes.PE_column.spatial.meshZ: 14; unknown key 'meshZ'; did you mean"),
        ("depth: 16384", "deepness: 16384", r"shared_glb.attributes.deepness: 16384; unknown key 'deepness'"),
        ("depth: 16384", "depth: 0", r"shared_glb.attributes.depth: 0, expected a number above 0"),
        ("depth: 16384", "depth: -4", r"shared_glb.attributes.depth: -4"),
        ("!Component\n    name: DRAM", "!Componet\n    name: DRAM", r"architecture.nodes\[1\]: unknown node '!Componet'"),
        ("- !Container\n    name: eyeriss", "- !Parallel\n    name: eyeriss", r"'!Parallel' branches, expected one nest"),
        ("version: 0.4\n  nodes", "version: 0.3\n  nodes", r"architecture.version 0.3: .* expected v0.4"),
        ("C: 256", "C: 0", r"problem.instance.C: 0, expected a number above 0"),
        ("C: 256", "C: -3", r"problem.instance.C: -3"),
        ("C: 256", "C: many", r"problem.instance.C: 'many', expected a number"),
        ("C: 256", "C: 256, Z: 2", r"problem.instance.Z: 2; unknown key 'Z'"),
        ("[[C]], [[M]]", "[[X]], [[M]]", r"data_spaces\[0\].projection\[0\]: unknown dimension 'X'"),
        ("[Q, Hstride]", "[Q, Hstrid]", r"projection\[3\]: unknown coefficient 'Hstrid'; did you mean 'Hstride'"),
        ("[C=16]", "[C=15]", r"mapping.C: factors 15\*2\*8 = 240, expected 256"),
        ("[C=16]", "[X=16]", r"mapping\[0\].factors: unknown dimension 'X'"),
        ("[C=16]", "[C=0]", r"'C=0' \(all that remains\), expected the factor"),
        ("[C=16]", "[C<=16]", r"'C<=16', expected DIMENSION=FACTOR"),
        ("target: DRAM, type: temporal", "target: DRAN, type: temporal", r"unknown level 'DRAN'; did you mean 'DRAM'"),
        ("target: DRAM, type: temporal", "target: DRAM, type: timely", r"mapping\[0\].type: unknown type 'timely'"),
        ("target: DRAM, type: temporal", "target: DRAM, typ: temporal", r"mapping\[0\].typ: 'temporal'; unknown key"),
        ("[M=12]", "[M=16]", r"expected at most fanout_x = 14"),
        ("PQMR", "PQMM", r"mapping\[1\].permutation: 'PQMM', expected each dimension once"),
        ("mapping:", "maping:", r"timeloop: unknown section 'maping'; did you mean 'mapping'"),
        ("mapping:", "problem:", r"timeloop.problem: given twice"),
        ("bypass: [Weights]", "bypass: [Wieghts]", r"shared_glb.constraints.dataspace.bypass: unknown tensor 'Wieghts'"),
        ("instance: {", "instance: {densities: {Inputs: 1.5}, ", r"densities.Inputs.density: 1.5, expected a share"),
        ("instance: {", "instance: {densities: {Inputs: {distribution: unifrm}}, ", r"unknown density model 'unifrm'"),
        ("PE_column\n", "PE_{{column}}\n", r"holds a template"),
        ("nodes:", "nodes: [", r"yaml line \d+: not YAML"),
    ],
)  # fmt: skip
def test_bad_input_names_the_field(old, new, message):
    texts = [PROBLEM, ARCHITECTURE, MAPPING]
    assert any(old in text for text in texts)
    with pytest.raises(ValueError, match=message) as error:
        read_timeloop(*(text.replace(old, new, 1) for text in texts))
    assert "\n" not in str(error.value)


def test_a_tensor_kept_nowhere_and_other_mistakes():
    nowhere = "- {target: LEVEL, type: dataspace, bypass: [Weights]}\n"
    levels = ("DRAM", "shared_glb", "ifmap_spad", "weights_spad", "psum_spad")
    text = MAPPING + "".join(nowhere.replace("LEVEL", level) for level in levels)
    with pytest.raises(ValueError, match="tensor 'Weights' bypasses every level"):
        read_timeloop(PROBLEM, ARCHITECTURE, text)
    with pytest.raises(ValueError, match=r"timeloop.architecture: missing"):
        read_timeloop(PROBLEM)
    with pytest.raises(ValueError, match="'system' has one instance, expected factors of 1, not M=12"):
        read_timeloop(PROBLEM, ARCHITECTURE, MAPPING.replace("PE_column", "system"))
