"""The default objective of mappers, compiled: `evaluate` on blocks of choices of a map space, several blocks at once.

The same formula as the array call; only the temporaries are fused away. Worth its compilation (seconds) from about a
million mappings on.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.evaluation import evaluate
from dataflow.mappers.space import MapSpace
from dataflow.mapping import Mapping
from hardware.processors import usable_cores

#: (energy-delay product, joules, seconds) [n, 3] of split choices [n, dimensions] and loop positions [levels,
#: dimensions] or [n, levels, dimensions].
ChoiceObjective = Callable[[np.ndarray, np.ndarray], np.ndarray]


def compiled_energy_delay(space: MapSpace, *, block: int = 8192, workers: int | None = None) -> ChoiceObjective:
    """A compiled `energy_delay` for one space. Choices must be valid: capacities are not checked again.

    `block`: mappings of one compiled call; `workers`: calls at once, the machine's cores if None.
    """
    tables = [jnp.asarray(table, dtype=float) for table in space.tables]
    levels, names = len(space.architecture.levels), space.architecture.level_names
    ones = jnp.ones((block, len(tables)))

    @jax.jit
    def run(choice, positions):
        factors = jnp.stack([table[choice[:, d]] for d, table in enumerate(tables)], axis=-1)
        slots = {slot: factors[:, i] for i, slot in enumerate(space.slots)}
        parts = [jnp.stack([slots.get((i, axis), ones) for i in range(levels)], axis=1) for axis in ("", "X", "Y")]
        positions = jnp.broadcast_to(positions.astype(float), parts[0].shape)
        mapping = Mapping(
            parts[0], positions, parts[1], parts[2], space.problem.dimensions, names, space.keeps, ragged=False
        )
        found = evaluate(space.problem, space.architecture, mapping, check=False)
        return jnp.stack(jnp.broadcast_arrays(found.edp, found.energy_joules, found.latency_s), axis=-1)

    threads = ThreadPoolExecutor(workers or usable_cores())

    def objective(choice: np.ndarray, positions: np.ndarray) -> np.ndarray:
        choice = choice.astype(np.int32)

        def one(first: int) -> np.ndarray:
            part = choice[first : first + block]
            places = positions if positions.ndim == 2 else positions[first : first + block]
            missing = block - len(part)
            if missing:
                part = np.concatenate([part, np.zeros((missing, part.shape[1]), np.int32)])
                if places.ndim == 3:
                    places = np.concatenate([places, np.repeat(places[:1], missing, axis=0)])
            return np.asarray(run(part, places))[: block - missing]

        return np.concatenate(list(threads.map(one, range(0, len(choice), block))))

    return objective
