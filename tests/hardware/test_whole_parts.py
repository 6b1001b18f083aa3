"""A chip has whole rows, columns, channels and banks."""

import tomllib
from importlib import resources

import pytest

import hardware


@pytest.mark.parametrize("field", ["systolic.rows", "systolic.cols", "near_memory.channels", "near_memory.banks"])
def test_a_part_of_a_cell_is_refused(field: str) -> None:
    chip = tomllib.loads(resources.files("hardware").joinpath("catalogue/npu_128x128_pim.toml").read_text())
    part, key = field.split(".")
    with pytest.raises(ValueError, match=rf"{part}\.{key}: 0\.5; expected a whole number"):
        hardware.load(chip | {part: chip[part] | {key: 0.5}})
