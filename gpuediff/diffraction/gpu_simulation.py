"""From crystals and their orientations to peak lists on a GPU: many crystals at a time, because one does not fill it.

Structure factors, beams and Bloch waves come from kernels; the host only joins what they give. Crystals whose patterns
have more beams than the kernels take are simulated on the CPU, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuediff.arrays import Device
from gpuediff.diffraction import gpu_beams, gpu_potential, gpu_propagation
from gpuediff.diffraction.beams import Beams, Reflections
from gpuediff.diffraction.kinematic import kinematic_intensities
from gpuediff.diffraction.precession import ConeMean
from gpuediff.diffraction.simulate import (
    SimulatedPatterns,
    above_minimum,
    assembled,
    averaged,
    checked_rotations,
    illumination,
    simulate_orientations,
)
from gpuediff.errors import InvalidStructure
from gpuediff.settings import Simulation

if TYPE_CHECKING:
    from gpuediff.crystals.crystal import Crystal

_log = logging.getLogger(__name__)


def simulate_crystals(
    crystals: Sequence[tuple[Crystal, np.ndarray]], settings: Simulation, device: Device
) -> list[SimulatedPatterns | InvalidStructure]:
    """Simulate the diffraction of several crystals.

    Parameters
    ----------
    crystals : sequence of (Crystal, array of shape (n, 3, 3))
        Each with its orientations, as for `simulate.simulate`.
    settings : Simulation
        `settings.orientations` is not used.
    device : Device
        A GPU.

    Returns
    -------
    list of SimulatedPatterns or InvalidStructure
        For each crystal its patterns, within 5e-6 of the CPU's, or why there are none.

    Raises
    ------
    ValueError
        If a matrix is not a rotation.
    """
    results: dict[int, SimulatedPatterns | InvalidStructure] = {}
    prepared: dict[int, tuple[Reflections, np.ndarray, Beams]] = {}
    for index, (crystal, orientations) in enumerate(crystals):
        orientation = checked_rotations(orientations)
        light = illumination(orientation, settings)
        try:
            potential = gpu_potential.structure_potential(crystal, settings, device)
            reflections = Reflections.of_potential(potential, settings.g_max)
            try:
                beams = gpu_beams.select_beams(
                    reflections, light.zone_axis, settings, device, incidence=light.incidence
                )
                _check_size(beams, settings)
            except InvalidStructure as too_many:
                _log.warning("%s is simulated on the CPU: %s", crystal.material_id, too_many)
                results[index] = simulate_orientations(reflections, orientation, settings)
                continue
        except InvalidStructure as error:
            results[index] = error
            continue
        prepared[index] = (reflections, orientation, beams)
    for index, outcome in _propagated(prepared, settings, device).items():
        if isinstance(outcome, InvalidStructure):
            results[index] = outcome
            continue
        reflections, orientation, beams = prepared[index]
        parts = _of_orientations(reflections, orientation, beams, outcome, settings)
        parts = [above_minimum(reflections, *part, settings) for part in parts]
        results[index] = assembled(reflections, orientation, parts, settings)
    return [results[index] for index in range(len(crystals))]


def _of_orientations(
    reflections: Reflections, orientation: np.ndarray, beams: Beams, intensity: np.ndarray, settings: Simulation
) -> list[tuple[Beams, np.ndarray]]:
    """Average over the directions of every cone, where there are cones."""
    if settings.precession is None:
        return [(beams, intensity)]
    parts = []
    for index, zone_axis in enumerate(orientation[:, 2]):
        bounds = beams.offsets[index * settings.precession.azimuths : (index + 1) * settings.precession.azimuths + 1]
        own = slice(bounds[0], bounds[-1])
        mean = ConeMean(len(settings.thicknesses))
        mean.add(Beams(beams.reflection[own], beams.excitation_error[own], bounds - bounds[0]), intensity[:, own])
        parts.append(averaged(mean, reflections, zone_axis, settings))
    return parts


def _check_size(beams: Beams, settings: Simulation) -> None:
    most, limit = int(np.diff(beams.offsets).max(initial=0)), gpu_propagation.beams_max(np.dtype(settings.precision))
    if settings.theory == "dynamical" and most > limit:
        raise InvalidStructure(f"a pattern has {most} beams, a GPU takes up to {limit}")


def _propagated(
    prepared: dict[int, tuple[Reflections, np.ndarray, Beams]], settings: Simulation, device: Device
) -> dict[int, np.ndarray | InvalidStructure]:
    """Compute the intensities of all crystals together; where that fails, of each alone, to find the one that fails."""
    along_normal = illumination(np.empty((0, 3, 3)), settings).wavelength_along_normal
    thicknesses, precision = np.array(settings.thicknesses), np.dtype(settings.precision)
    if settings.theory == "kinematic":  # a formula for each beam: nothing that a GPU would make faster
        return {
            index: kinematic_intensities(reflections, beams, along_normal, thicknesses, precision)
            for index, (reflections, _, beams) in prepared.items()
        }

    def together(indices: Sequence[int]) -> list[np.ndarray]:
        batch = [(prepared[index][0], prepared[index][2]) for index in indices]
        return gpu_propagation.propagate(batch, along_normal, thicknesses, precision, device)

    try:
        return dict(zip(prepared, together(list(prepared)), strict=True))
    except InvalidStructure:
        outcomes: dict[int, np.ndarray | InvalidStructure] = {}
        for index in prepared:
            try:
                (outcomes[index],) = together([index])
            except InvalidStructure as error:
                outcomes[index] = error
        return outcomes
