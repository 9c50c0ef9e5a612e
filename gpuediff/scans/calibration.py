"""From stored peak positions to Å⁻¹ around the direct beam, as py4DSTEM does it with what its files hold.

The steps and their order are those of py4DSTEM's `BraggVectors.cal` (0.14.18): origin, ellipse, pixel size, and the
rotation between detector and scan. All of it in float64.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gpuediff.errors import InvalidScan

INVERSE_ANGSTROM = ("A^-1", "Å^-1", "Å⁻¹", "1/A", "1/Å")
ANGSTROM_PER_UNIT = {"A": 1.0, "Å": 1.0, "angstrom": 1.0, "nm": 10.0, "um": 1e4, "µm": 1e4, "μm": 1e4, "micron": 1e4}


@dataclass(frozen=True)
class Calibration:
    """What is done to the stored positions of a scan; a step that is None is left out.

    Parameters
    ----------
    shape : tuple of int
        Probe positions (ny, nx).
    origin : tuple of 2 arrays, each scalar or shape (ny, nx), float64, optional
        Direct beam (qx0, qy0), in stored units (pixels).
    ellipse : tuple of 3 arrays, each scalar or shape (ny, nx), float64, optional
        Semi-axes a, b of the distorted ring and the angle of a, radians.
    pixel_size : float, optional
        Å⁻¹ per stored unit.
    rotation : float, optional
        From the axes of the detector to those of the scan, radians.
    flip : bool
        Exchange qx and qy before the rotation. Without a rotation it does nothing, as in py4DSTEM.
    """

    shape: tuple[int, int]
    origin: tuple[np.ndarray, np.ndarray] | None = None
    ellipse: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    pixel_size: float | None = None
    rotation: float | None = None
    flip: bool = False

    def apply(self, qx: np.ndarray, qy: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Calibrate positions.

        Parameters
        ----------
        qx, qy : array, shape (peaks,), float64
            Stored positions.
        position : array, shape (peaks,), int64
            Row-major index of each peak's probe position.

        Returns
        -------
        tuple of 2 arrays, shape (peaks,), float64
        """
        if self.origin is not None:
            qx0, qy0 = (_of_peaks(value, position) for value in self.origin)
            qx, qy = qx - qx0, qy - qy0
        if self.ellipse is not None:
            a, b, angle = (_of_peaks(value, position) for value in self.ellipse)
            # Along a everything shrinks by b / a: the ellipse becomes a circle of radius b.
            along = (qx * np.cos(angle) + qy * np.sin(angle)) * (b / a - 1)
            qx, qy = qx + along * np.cos(angle), qy + along * np.sin(angle)
        if self.pixel_size is not None:
            qx, qy = qx * self.pixel_size, qy * self.pixel_size
        if self.rotation is not None:
            if self.flip:
                qx, qy = qy, qx
            cos, sin = np.cos(self.rotation), np.sin(self.rotation)
            qx, qy = cos * qx - sin * qy, sin * qx + cos * qy
        return qx, qy

    def describe(self) -> dict[str, str]:
        """Say which steps are applied, with their values, for people and for provenance."""
        steps = {}
        if self.origin is not None:
            steps["origin"] = f"({_summary(self.origin[0])}, {_summary(self.origin[1])}) pixels"
        if self.ellipse is not None:
            a, b, angle = self.ellipse
            steps["ellipse"] = f"a/b = {_summary(a / b)}, angle {_summary(np.degrees(angle))}°"
        if self.pixel_size is not None:
            steps["pixel_size"] = f"{self.pixel_size:.6g} Å⁻¹"
        if self.rotation is not None:
            steps["rotation"] = f"{np.degrees(self.rotation):.4g}°{', qx and qy exchanged' if self.flip else ''}"
        return steps


def _of_peaks(value: np.ndarray, position: np.ndarray) -> np.ndarray:
    return value if value.ndim == 0 else value.reshape(-1)[position]


def _summary(value: np.ndarray) -> str:
    if value.ndim == 0:
        return f"{float(value):.4g}"
    if not np.isfinite(value).any():
        return "not finite"
    return f"{np.nanmin(value):.4g} .. {np.nanmax(value):.4g}"


def find_calibration(group: h5py.Group) -> dict[str, Any]:
    """Collect the values of the py4DSTEM `Calibration` that stands nearest above a group.

    Version 0.14 keeps it in the root's `metadatabundle`, 0.13 directly in the root.

    Returns
    -------
    dict
        Name to number, str, bool or array; empty where there is no calibration.
    """
    place = group
    while True:
        bundle = place.get("metadatabundle")
        for holder in (bundle, place):
            for node in holder.values() if isinstance(holder, h5py.Group) else ():
                if isinstance(node, h5py.Group) and _written_by(node) == "Calibration":
                    return plain_values(node)
        if place.name == "/":
            return {}
        place = place.parent


def plain_values(group: h5py.Group) -> dict[str, Any]:
    """Collect the datasets of a group: name to number, str, bool, array, or None."""
    return {name: _value(item) for name, item in group.items() if isinstance(item, h5py.Dataset)}


def _written_by(group: h5py.Group) -> str:
    name = group.attrs.get("python_class", group.attrs.get("py4dstem_class", ""))
    return name.decode() if isinstance(name, bytes) else str(name)


def _value(item: h5py.Dataset) -> Any:
    value = item[()]
    if isinstance(value, bytes):
        text = value.decode("utf-8", errors="replace")
        return None if text == "_None" else text
    return value


def calibration_from_file(name: str, values: dict[str, Any], shape: tuple[int, int]) -> Calibration:
    """Turn py4DSTEM's values into a `Calibration` whose pixel size is still as stored, whatever its unit.

    Parameters
    ----------
    name : str
        File and dataset, for messages.
    values : dict
        From `find_calibration`.
    shape : tuple of int
        Probe positions (ny, nx).

    Raises
    ------
    InvalidScan
        If a value is not a number, or an array of another shape than the scan.
    """
    numbers = {
        key: _numbers(name, key, values[key], shape)
        for key in ("qx0", "qy0", "a", "b", "theta", "Q_pixel_size", "QR_rotation")
        if values.get(key) is not None
    }
    for key in ("Q_pixel_size", "QR_rotation"):
        if key in numbers and (numbers[key].ndim or not np.isfinite(numbers[key])):
            raise InvalidScan(f"{name}: calibration {key} = {values[key]}: expected one finite number")
    return Calibration(
        shape=shape,
        origin=(numbers["qx0"], numbers["qy0"]) if {"qx0", "qy0"} <= numbers.keys() else None,
        ellipse=(numbers["a"], numbers["b"], numbers["theta"]) if {"a", "b", "theta"} <= numbers.keys() else None,
        pixel_size=float(numbers["Q_pixel_size"]) if "Q_pixel_size" in numbers else None,
        rotation=float(numbers["QR_rotation"]) if "QR_rotation" in numbers else None,
        flip=bool(values.get("QR_flip") or False),
    )


def inverse_angstrom(unit: str) -> float | None:
    """Tell how many Å⁻¹ (1/d, no 2π) one of a unit is, or None where it is not a reciprocal length.

    Spellings of HyperSpy and pyxem: `k_A^-1`, `$A^{-1}$`, `1 / nm`, `nm⁻¹`, and `q_A^-1`, `q_nm^-1` with a 2π.
    """
    plain = re.sub(r"[${}()\s]|\\(?=AA)", "", unit).replace("⁻¹", "^-1").replace("AA", "A").replace("Å", "A")
    plain = re.sub("angstroms?|nanometers?|nanometres?", lambda word: "A" if word[0][0] == "a" else "nm", plain)
    length = re.fullmatch(r"(?P<kind>[kq]_)?(?:1/(?P<below>A|nm)|(?P<power>A|nm)(?:\^|\*\*)?-1)", plain)
    if length is None:
        return None
    size = {"A": 1.0, "nm": 0.1}[length["below"] or length["power"]]
    return size / (2 * np.pi) if length["kind"] == "q_" else size


def _numbers(name: str, key: str, value: Any, shape: tuple[int, int]) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidScan(f"{name}: calibration {key} = {value!r}: expected numbers") from error
    if numbers.ndim and numbers.shape != shape:
        raise InvalidScan(
            f"{name}: calibration {key} has shape {numbers.shape}, but the scan has {shape} probe positions: "
            f"calibrate the file again in py4DSTEM"
        )
    return numbers


def step_size(values: dict[str, Any]) -> float | None:
    """Distance between probe positions, Å, or None where the file does not state it in a unit of length."""
    size, unit = values.get("R_pixel_size"), values.get("R_pixel_units")
    if not isinstance(unit, str) or unit not in ANGSTROM_PER_UNIT or size is None or np.ndim(size):
        return None
    length = float(size) * ANGSTROM_PER_UNIT[unit]
    return length if np.isfinite(length) and length > 0 else None
