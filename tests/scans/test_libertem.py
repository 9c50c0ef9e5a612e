"""In LiberTEM, from a file or live, frames get the labels that they get from their peak lists."""

import importlib
import os
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from gpuediff.diffraction import detector
from gpuediff.errors import GpuediffError, InvalidScan
from gpuediff.features.blocks import RadialBasisBlock
from gpuediff.features.preparation import scale_intensity
from gpuediff.hierarchy.bundle import load_bundle, save_bundle
from gpuediff.hierarchy.hierarchy import Hierarchy
from gpuediff.hierarchy.trained_on import TrainedOn
from gpuediff.peaks import PeakBatch
from gpuediff.scans.calibration import Calibration
from gpuediff.scans.detection.detector import Detection, Detector
from gpuediff.scans.detection.probe import Probe
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.maps import Status
from gpuediff.scans.scan import Scan
from gpuediff.settings import Features, Forest, Split, Training
from tests.oracle.detection.render import expected_counts

needs_libertem = pytest.mark.skipif(
    find_spec("libertem") is None, reason="needs LiberTEM: pip install 'gpuediff[libertem]'"
)
needs_libertem_live = pytest.mark.skipif(
    find_spec("libertem_live") is None, reason="needs LiberTEM-live: pip install libertem-live"
)

PIXEL_SIZE = 0.02  # Å⁻¹
FRAME = (96, 88)  # pixels
CENTRE = (47.3, 43.8)
RADIUS = 2.5  # pixels
SHAPE = (5, 8)  # probe positions
PROBE = Probe.disk(RADIUS)
SAME = ("status", "n_peaks", "raw_system", "confidence", "difference_confidence", "probability")


def net(fold, spacing, angle):
    """Peaks of a square or hexagonal plane net around a bright direct beam; Å⁻¹, and shares of the electrons."""
    turn = 2 * np.pi / fold
    a, b = (spacing * np.array([np.cos(angle + part), np.sin(angle + part)]) for part in (0, turn))
    h, k = (index.reshape(-1, 1) for index in np.mgrid[-4:5, -4:5])
    qx, qy = (h * a + k * b).T
    q = np.hypot(qx, qy)
    near = q < 0.7
    intensity = np.exp(-((q / 0.35) ** 2))
    intensity[q < 1e-9] = 3
    return qx[near], qy[near], intensity[near] / intensity[near].sum()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A bundle that tells square nets, called cubic, from hexagonal ones."""
    rng = np.random.default_rng(5)
    fold = np.repeat([4, 6], 80)
    peaks = PeakBatch.from_lists(
        [net(n, s, t) for n, s, t in zip(fold, rng.uniform(0.2, 0.3, 160), rng.uniform(0, 7, 160), strict=True)]
    )
    peaks = detector.lose_peaks(detector.jitter(peaks, 0.003, rng), 0.05, rng)  # no peak is where it should be
    block = RadialBasisBlock.from_settings(Features(rings=14, orders=12))
    small = Forest(trees=15, depth=8)
    trained_on = TrainedOn(split=Split(), crystals_checksum="ab", intensity_sum=0.5)
    hierarchy = Hierarchy(block, Training(crystal_system=small, space_group=small, lattice=small, seed=1), trained_on)
    lattice = np.where(fold[:, None] == 4, [4.0, 4, 4, 90, 90, 90], [4.0, 4, 6, 90, 90, 120])
    lattice[:, :2] += rng.uniform(size=(160, 1))
    lattice[fold == 4, 2] = lattice[fold == 4, 0]
    hierarchy.fit(block.compute(scale_intensity(peaks, 0.5)), np.where(fold == 4, 225, 194), lattice)
    path = tmp_path_factory.mktemp("bundle") / "model"
    save_bundle(hierarchy, path)
    return path


def cube(wander=0.0):
    """Frames of a scan: vacuum in the first row, then square nets on the left and hexagonal ones on the right.

    Returns counts, shape (5, 8, 96, 88), uint16, and how far each direct beam is off the centre, (40, 2) pixels.
    """
    rng = np.random.default_rng(7)
    patterns, off = [], rng.uniform(-wander, wander, (SHAPE[0] * SHAPE[1], 2))
    for number, (row, column) in enumerate(np.ndindex(*SHAPE)):
        qx, qy, intensity = net(4 if column < 4 else 6, 0.25, rng.uniform(0, 7))
        if row == 0:
            qx, qy, intensity = ([0.0] for _ in range(3))
            intensity = [1.0]
        x, y = (np.asarray(q) / PIXEL_SIZE + c + d for q, c, d in zip((qx, qy), CENTRE, off[number], strict=True))
        patterns.append((x, y, 3e4 * np.asarray(intensity)))
    mean = expected_counts(PeakBatch.from_lists(patterns), FRAME, radius=RADIUS, background=500.0)
    return rng.poisson(mean).astype(np.uint16).reshape(*SHAPE, *FRAME), off


def crystal_udf(model, **options):
    from gpuediff.scans.libertem import CrystalUDF

    return CrystalUDF(**{"model": model, "pixel_size": PIXEL_SIZE, "centre": CENTRE, "probe": PROBE} | options)


def by_map_scan(frames, model, **detection):
    """The maps of the same frames, without LiberTEM and without the filter."""
    found = Detector(PROBE, FRAME, Detection(**detection)).detect(frames.reshape(-1, *FRAME)).peaks
    calibration = Calibration(SHAPE, origin=tuple(map(np.asarray, CENTRE)), pixel_size=PIXEL_SIZE)
    qx, qy = calibration.apply(found.qx.astype(float), found.qy.astype(float), found.pattern_of_peak)
    peaks = PeakBatch(qx.astype(np.float32), qy.astype(np.float32), found.intensity, found.offsets)
    return map_scan(Scan(peaks, SHAPE, "test"), load_bundle(model), filter_size=1, difference_confidence_min=0.0)


def assert_same(results, maps):
    for name in (*SAME, "space_group_number", "lattice"):
        # A lead of nothing passes no filter, and so has no space group and lattice in the maps.
        where = maps.status != Status.BELOW_CONFIDENCE if name not in SAME else slice(None)
        expected = maps.status if name != "status" else np.where(maps.status == Status.BELOW_CONFIDENCE, 0, maps.status)
        expected = expected if name == "status" else getattr(maps, name)
        np.testing.assert_array_equal(results[name].data[where], expected[where], err_msg=name)


@pytest.fixture(scope="module")
def inline():
    from libertem.api import Context

    with Context.make_with("inline") as context:
        yield context


@needs_libertem
@pytest.mark.parametrize("partitions", [1, 3])
def test_frames_get_the_labels_of_their_peak_lists(model, inline, partitions):
    frames, _ = cube()
    dataset = inline.load("memory", data=frames, sig_dims=2, num_partitions=partitions)
    results = inline.run_udf(dataset=dataset, udf=crystal_udf(model))
    maps = by_map_scan(frames, model)
    assert_same(results, maps)
    assert (maps.status[0] == Status.TOO_FEW_PEAKS).all()
    assert np.isnan(results["lattice"].data[0]).all()
    assert (results["raw_system"].data[0] == -1).all()
    cubic = load_bundle(model).systems.index("cubic")
    square = results["raw_system"].data[1:] == cubic
    assert square[:, :4].mean() > 0.9
    assert square[:, 4:].mean() < 0.1


@needs_libertem
def test_a_wandering_direct_beam_is_followed(model, inline):
    frames, off = cube(wander=4.0)
    assert np.abs(off).max() > 3
    dataset = inline.load("memory", data=frames, sig_dims=2)
    followed = inline.run_udf(dataset=dataset, udf=crystal_udf(model, max_wander=6.0))
    taken_as_still = inline.run_udf(dataset=dataset, udf=crystal_udf(model))
    truth = np.where(np.arange(8) < 4, 225, 194)
    right = [(one["space_group_number"].data[1:] == truth).mean() for one in (followed, taken_as_still)]
    assert right[0] > 0.9
    assert right[1] < right[0]


def test_peaks_are_calibrated_around_the_brightest_near_the_centre():
    pytest.importorskip("libertem", reason="needs LiberTEM: pip install 'gpuediff[libertem]'")
    from gpuediff.scans.libertem import calibrate

    peaks = PeakBatch.from_lists([([10, 12, 30], [20, 20, 20], [5, 9, 99]), ([30], [20], [1])])
    still = calibrate(peaks, 0.5, (10, 20))
    np.testing.assert_array_equal(still.qx, [0, 1, 10, 10])
    np.testing.assert_array_equal(still.qy, 0)
    followed = calibrate(peaks, 0.5, (10, 20), 3.0)
    np.testing.assert_array_equal(followed.qx, [-1, 0, 9, 10])


@needs_libertem
def test_only_the_frames_of_a_region_are_labelled(model, inline):
    frames, _ = cube()
    region = np.zeros(SHAPE, bool)
    region[2, 3:6] = True
    dataset = inline.load("memory", data=frames, sig_dims=2)
    some = inline.run_udf(dataset=dataset, udf=crystal_udf(model), roi=region)
    every = inline.run_udf(dataset=dataset, udf=crystal_udf(model))
    np.testing.assert_array_equal(some["lattice"].raw_data, every["lattice"].data[region])
    assert np.isnan(some["lattice"].data[~region]).all()


@needs_libertem
def test_the_settings_of_the_detection_reach_the_workers(model, inline):
    frames, _ = cube()
    dataset = inline.load("memory", data=frames, sig_dims=2)
    results = inline.run_udf(dataset=dataset, udf=crystal_udf(model, detection=Detection(max_peaks=7), peaks_min=8))
    assert results["n_peaks"].data.max() == 7
    assert (results["status"].data == Status.TOO_FEW_PEAKS).all()


@needs_libertem
def test_a_process_loads_the_model_once_and_again_when_it_was_replaced(model, tmp_path, monkeypatch):
    from gpuediff.scans import libertem

    loads = []
    monkeypatch.setattr(libertem, "load_bundle", lambda path: loads.append(path) or object())
    libertem._loaded.cache_clear()
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    first = libertem.hierarchy_of(str(tmp_path))
    assert libertem.hierarchy_of(str(tmp_path)) is first
    manifest.write_text("{ }")
    os.utime(manifest, ns=(1, 1))
    assert libertem.hierarchy_of(str(tmp_path)) is not first
    assert loads == [str(tmp_path)] * 2
    libertem._loaded.cache_clear()


@needs_libertem
@pytest.mark.slow
def test_the_workers_of_the_default_executor_give_the_same(model):
    from libertem.api import Context

    frames, _ = cube()
    with Context.make_with(cpus=2) as context:
        dataset = context.load("memory", data=frames, sig_dims=2, num_partitions=4)
        results = context.run_udf(dataset=dataset, udf=crystal_udf(model))
    assert_same(results, by_map_scan(frames, model))


@needs_libertem
@needs_libertem_live
@pytest.mark.slow
def test_a_live_acquisition_gives_the_same_and_grows_on_the_way(model):
    from libertem_live.api import LiveContext

    frames, _ = cube()
    with LiveContext.make_with("inline") as context:
        connection = context.make_connection("memory").open(
            data=frames, extra_kwargs={"sig_dims": 2, "num_partitions": 4}
        )
        with connection:
            acquisition = context.make_acquisition(conn=connection, nav_shape=SHAPE)
            done = []
            for part in context.run_udf_iter(dataset=acquisition, udf=crystal_udf(model)):
                done.append(int(part.damage.data.sum()))
    assert done == [10, 20, 30, 40]
    assert_same(part.buffers[0], by_map_scan(frames, model))


@needs_libertem
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_size": 0}, "pixel_size = 0: expected > 0"),
        ({"centre": (1, float("nan"))}, "centre = .*two numbers"),
        ({"max_wander": -1}, "max_wander = -1"),
        ({"peaks_min": 0}, "peaks_min = 0"),
    ],
)
def test_impossible_parameters_are_refused_before_anything_runs(options, message):
    with pytest.raises(InvalidScan, match=message):
        crystal_udf("absent", **options)


def test_without_libertem_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libertem.udf", None)
    monkeypatch.delitem(sys.modules, "gpuediff.scans.libertem", raising=False)
    with pytest.raises(GpuediffError, match=r"pip install 'gpuediff\[libertem\]'"):
        importlib.import_module("gpuediff.scans.libertem")
