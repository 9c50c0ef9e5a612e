import base64
import dataclasses
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from gpuediff.errors import InvalidScan
from gpuediff.peaks import PeakBatch
from gpuediff.scans.mapping import map_scan
from gpuediff.scans.maps import Status
from gpuediff.scans.page import page
from gpuediff.scans.page.page import symbol, write_page
from gpuediff.scans.particles import find_particles
from gpuediff.scans.scan import Scan
from tests.scans.fakes import SYSTEMS, FakeHierarchy, uniform_scan
from tests.scans.page.browser import Browser, find_chromium

IMAGE = '<img src="x" onerror="window.hacked = 1"> {{maps}} & more.h5'
HOSTILE = '<script>window.hacked = 1</script> {{maps}} </title> "quoted" & more.h5'
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # of spglib
READY = "document.getElementById('map')?.dataset.width"  # the map has been drawn


def example(**fields):
    """A scan of 12 x 16 probe positions with cubic and hexagonal regions in vacuum, its maps and particles."""
    system = np.full((12, 16), -1)
    system[1:7, 1:8] = 2
    system[5:11, 9:15] = 1
    lead = np.linspace(0.2, 0.8, system.size).reshape(system.shape).astype(np.float32)
    scan = uniform_scan(system, lead, **fields)
    maps = map_scan(scan, FakeHierarchy(), filter_size=3)
    rng = np.random.default_rng(0)
    several = np.where(maps.raw_system >= 0, rng.uniform(size=maps.shape), np.nan).astype(np.float32)
    probability = (0.5 + maps.difference_confidence / 2).astype(np.float32)
    maps = dataclasses.replace(maps, several_grains=several, probability=probability)
    return scan, maps, find_particles(scan, maps, FakeHierarchy())


def many_peaks(shape, peaks, seed=0):
    """A scan of random patterns with a faint direct beam."""
    rng = np.random.default_rng(seed)
    count = shape[0] * shape[1]
    qx, qy = rng.uniform(0.1, 1.5, (2, count, peaks)).astype(np.float32)
    intensity = rng.lognormal(size=(count, peaks)).astype(np.float32)
    qx[:, -1], qy[:, -1], intensity[:, -1] = 0.001, -0.002, 1e-3
    offsets = np.arange(0, count * peaks + 1, peaks)
    return Scan(PeakBatch(qx.reshape(-1), qy.reshape(-1), intensity.reshape(-1), offsets), shape, "random")


def maps_of(scan):
    """Empty maps but for the number of peaks: what a page of patterns needs."""
    maps = example()[1]
    fields = {}
    for field in dataclasses.fields(maps):
        values = getattr(maps, field.name)
        if isinstance(values, np.ndarray):
            nothing = np.nan if values.dtype.kind == "f" else -1 if field.name.endswith("system") else 0
            fields[field.name] = np.full((*scan.shape, *values.shape[2:]), nothing, values.dtype)
    return dataclasses.replace(maps, **fields | {"n_peaks": scan.peaks.counts.reshape(scan.shape).astype(np.int32)})


def written(tmp_path, *args, **options):
    path = tmp_path / "page.html"
    write_page(path, *args, **options)
    return path.read_text(encoding="utf-8")


def unpacked(text, name):
    """The header of a binary in the page, and its arrays, flat, NaN where there is no value."""
    raw = zlib.decompress(base64.b64decode(re.search(rf'id="packed-{name}">([^<]*)<', text)[1]))
    start = 4 + int.from_bytes(raw[:4], "little")
    header, arrays = json.loads(raw[4:start]), {}
    for key, told in header["arrays"].items():
        dtype = np.dtype(told["type"]).newbyteorder("<")
        stored = raw[start + told["offset"] :][: told["count"] * dtype.itemsize]
        if dtype.itemsize == 2:  # all low bytes, then all high bytes
            half = told["count"]
            stored = bytes(byte for pair in zip(stored[:half], stored[half:], strict=True) for byte in pair)
        codes = np.frombuffer(stored, dtype)
        values = told["low"] + told["step"] * codes.astype(np.float64)
        arrays[key] = np.where(codes == told["missing"], np.nan, values) if told["missing"] is not None else values
    return header, arrays


class Outline(HTMLParser):
    """Tags, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        self._open = (
            self._open[: len(self._open) - self._open[::-1].index(tag) - 1] if tag in self._open else self._open
        )

    def handle_data(self, data):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


def test_every_map_comes_back_within_its_step(tmp_path):
    scan, maps, particles = example(step_size=5.0)
    header, arrays = unpacked(written(tmp_path, scan, maps, particles), "maps")
    expected = {name: getattr(maps, name) for name in ("status", "n_peaks", "space_group_number")}
    expected |= {
        name: np.where(getattr(maps, name) < 0, np.nan, getattr(maps, name))
        for name in ("raw_system", "filtered_system")
    }
    expected |= {"votes": np.moveaxis(maps.votes, -1, 0), "particle": particles.labels}
    for name in (*page.THRESHOLDS, "several_grains", "space_group_confidence", "bright_field", "dark_field"):
        expected[name] = getattr(maps, name)
    for place, name in enumerate(("a", "b", "c", "alpha", "beta", "gamma")):
        expected[name] = maps.lattice[..., place]
        expected[f"{name}_low"], expected[f"{name}_high"] = maps.lattice_low[..., place], maps.lattice_high[..., place]
    assert set(expected) == set(arrays) - {"volume", "interval"}
    for name, values in expected.items():
        step = header["arrays"][name]["step"]
        whole = values.dtype.kind in "iu" or name.endswith("system")
        assert whole or step <= max(1 / 254, np.ptp(values[np.isfinite(values)]) / 60_000) or name == "bright_field", (
            name
        )
        error = 0 if whole else step / 2 * (1 + 1e-6)
        np.testing.assert_allclose(arrays[name], values.reshape(-1), rtol=1e-6, atol=error, err_msg=name)


def test_peaks_come_back_direct_beam_first_then_from_the_brightest(tmp_path):
    scan = many_peaks((5, 7), 30)
    header, arrays = unpacked(written(tmp_path, scan, maps_of(scan)), "patterns")
    assert header["complete"]
    assert arrays["peak_counts"].tolist() == [30] * 35
    for number, (qx, qy, intensity) in enumerate(scan.peaks):
        order = np.concatenate([[29], np.argsort(-intensity[:29])])
        part = slice(30 * number, 30 * number + 30)
        np.testing.assert_allclose(arrays["peak_qx"][part], qx[order], atol=1.01e-4)
        np.testing.assert_allclose(arrays["peak_qy"][part], qy[order], atol=1.01e-4)
        logarithm = header["log_low"] + header["log_step"] * (arrays["peak_intensity"][part] - 1)
        np.testing.assert_allclose(logarithm, np.log(intensity[order]), atol=header["log_step"] * 0.501)


def test_a_peak_that_no_pattern_can_have_is_left_out_and_zero_stays_zero(tmp_path):
    patterns = [([0.0, np.nan, 0.3], [0.0, 0.2, 0.1], [5.0, 1.0, 0.0]), ([], [], []), ([0.2], [0.1], [-1.0])]
    scan = Scan(PeakBatch.from_lists(patterns), (1, 3), "odd")
    _, arrays = unpacked(written(tmp_path, scan, maps_of(scan)), "patterns")
    assert arrays["peak_counts"].tolist() == [2, 0, 0]
    np.testing.assert_allclose(arrays["peak_qx"], [0, 0.3], atol=1e-4)
    assert arrays["peak_intensity"].tolist() == [1, 0]


def test_a_map_without_any_value_is_not_offered(tmp_path):
    scan, maps, _ = example()
    header, arrays = unpacked(written(tmp_path, scan, maps), "maps")
    assert np.isnan(maps.novelty).all()
    assert "novelty" not in arrays
    offered = [view["key"] for view in header["views"]]
    assert "novelty" not in offered
    assert {"several_grains", "probability", "a", "volume", "bright_field", "space_group_number"} <= set(offered)
    assert [flag["key"] for flag in header["flags"]] == ["several_grains"]
    assert header["particles"] is None


def test_the_volume_is_that_of_the_metric():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 3, 3))
    lengths = np.linalg.norm(vectors, axis=-1)
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = [(vectors[:, i] * vectors[:, j]).sum(-1) / lengths[:, i] / lengths[:, j] for i, j in pairs]
    lattice = np.concatenate([lengths, np.rad2deg(np.arccos(np.transpose(cosines)))], axis=-1)
    np.testing.assert_allclose(page._volume(lattice), np.abs(np.linalg.det(vectors)), rtol=1e-6)


def test_symbols_are_written_with_overlines_and_indices():
    assert [symbol(number) for number in (2, 14, 62, 194, 225)] == ["P1̅", "P2₁/c", "Pnma", "P6₃/mmc", "Fm3̅m"]


def test_a_page_keeps_to_its_size_and_says_what_it_leaves_out(tmp_path):
    scan = many_peaks((40, 40), 40)
    maps = maps_of(scan)
    whole = written(tmp_path, scan, maps)
    assert "brightest peaks" not in whole
    size_max = len(whole.encode()) * 2 // 3
    text = written(tmp_path, scan, maps, size_max=size_max)
    assert 0.85 * size_max < len(text.encode()) <= size_max
    header, arrays = unpacked(text, "patterns")
    most = header["most"]
    assert 5 < most < 40
    assert f"only the {most} brightest peaks of every pattern are in it" in text
    assert arrays["peak_counts"].tolist() == [most] * 1600
    qx, _, intensity = scan.peaks.pattern(1234)
    kept = arrays["peak_qx"][1234 * most : 1235 * most]
    np.testing.assert_allclose(kept[0], qx[-1], atol=1e-4)  # the direct beam, faint as it is
    np.testing.assert_allclose(kept[1:], qx[np.argsort(-intensity)[: most - 1]], atol=1.01e-4)


def test_a_page_too_small_for_patterns_has_none_and_says_so(tmp_path):
    scan = many_peaks((40, 40), 40)
    maps = maps_of(scan)
    whole = written(tmp_path, scan, maps)
    shell = len(re.sub(r'(id="packed-patterns">)[^<]*', r"\1", whole).encode())
    text = written(tmp_path, scan, maps, size_max=shell + 4_000)
    assert "no patterns are in it" in text
    assert unpacked(text, "patterns")[1] == {}
    with pytest.raises(InvalidScan, match=r"size_max = 1,000 bytes: too small"):
        write_page(tmp_path / "small.html", scan, maps, size_max=1_000)
    assert not (tmp_path / "small.html").exists()


def test_of_a_scan_that_is_too_large_every_second_row_and_column_is_shown(tmp_path, monkeypatch):
    scan, maps, particles = example(step_size=5.0)
    monkeypatch.setattr(page, "POSITIONS_MAX", 50)
    text = written(tmp_path, scan, maps, particles)
    header, arrays = unpacked(text, "maps")
    assert (header["shape"], header["stride"], header["step_size"]) == ([6, 8], 2, 10.0)
    assert arrays["status"].tolist() == maps.status[::2, ::2].reshape(-1).tolist()
    patterns = unpacked(text, "patterns")[1]
    assert patterns["peak_counts"].tolist() == maps.n_peaks[::2, ::2].reshape(-1).tolist()
    assert "one of every 2 rows" in text


def test_text_of_others_stays_text(tmp_path):
    scan, maps, particles = example(calibration={HOSTILE: HOSTILE}, note=HOSTILE)
    scan = dataclasses.replace(scan, source=IMAGE, intensity_unit=HOSTILE)
    maps = dataclasses.replace(maps, options=maps.options | {"lattice_system": HOSTILE})
    text = written(tmp_path, scan, maps, particles, details={HOSTILE: HOSTILE})
    outline = Outline(text)
    assert [attributes.get("id") for tag, attributes in outline.tags if tag == "script"] == [
        "packed-maps",
        "packed-patterns",
        None,
    ]
    assert not any("hacked" in part for part in outline.texts["script"])
    assert "".join(outline.texts["h1"]) == IMAGE
    assert HOSTILE in "".join(outline.texts["dd"])


def test_the_page_asks_nothing_of_a_network_and_only_its_own_script_may_run(tmp_path):
    scan, maps, particles = example()
    text = written(tmp_path, scan, maps, particles)
    shell = re.sub(r'(id="packed-\w+">)[^<]*', r"\1", text)
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(|fetch\(|XMLHttp|\beval\(|innerHTML", shell)
    policy = next(a["content"] for tag, a in Outline(shell).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", shell, re.DOTALL)
        assert len(content) == 1
        found = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{found}'" in policy


def test_the_same_scan_gives_the_same_page(tmp_path):
    scan, maps, particles = example()
    assert written(tmp_path, scan, maps, particles) == written(tmp_path, scan, maps, particles)


def test_maps_of_another_shape_are_refused(tmp_path):
    scan, maps, particles = example()
    other = dataclasses.replace(scan, shape=(16, 12))
    with pytest.raises(InvalidScan, match=r"\(16, 12\) probe positions, but the maps have \(12, 16\)"):
        write_page(tmp_path / "page.html", other, maps, particles)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium or Chrome on this machine: the page is not tried in a browser")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    scan, maps, particles = example(step_size=5.0)
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path, scan, maps, particles, details={"model": "a fake"})
    return scan, maps, particles, path


@pytest.fixture
def opened(browser, shown):
    """The page, opened anew; at the end its console has nothing to say, and it has asked for nothing but itself."""
    scan, maps, particles, path = shown
    browser.problems.clear()
    browser.requests.clear()
    browser.resize(1280, 800)
    browser.move(1, 1)
    browser.open(path, READY)
    yield browser, scan, maps, particles
    assert browser.problems == []
    assert browser.requests == [path.resolve().as_uri()]


def place(browser, row, column):
    """Where a probe position is in the window, CSS pixels."""
    return browser.evaluate(
        f"(([row, column], map) => {{ const box = map.getBoundingClientRect(), at = map.dataset;"
        "return [box.left + +at.left + (column + 0.5) * at.width, box.top + +at.top + (row + 0.5) * at.height] })"
        f"([{row}, {column}], document.getElementById('map'))"
    )


def show(browser, name):
    browser.evaluate(
        "(() => { const select = document.getElementById('view');"
        f"select.value = [...select.options].find(option => option.text === {name!r}).value;"
        "select.dispatchEvent(new Event('change')) })()"
    )
    browser.settle()


def colour(browser, row, column):
    """What is drawn of a probe position, (r, g, b)."""
    return browser.evaluate(
        "(([row, column], map) => { const at = map.dataset, density = map.width / map.clientWidth;"
        "const x = (+at.left + (column + 0.5) * at.width) * density, y = (+at.top + (row + 0.5) * at.height) * density;"
        "const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });"
        "copy.drawImage(map, -Math.round(x), -Math.round(y));"
        "return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3) })"
        f"([{row}, {column}], document.getElementById('map'))"
    )


def test_the_pointer_shows_what_is_known_of_a_probe_position(opened):
    browser, _, maps, particles = opened
    assert browser.text("h1") == "made for a test"
    browser.move(*place(browser, 3, 4))
    text = browser.text("#pixel")
    assert "Row 3, column 4" in text
    assert "x 2.0, y 1.5 nm" in text
    assert "under the pointer" in text
    assert browser.text(".answer strong") == "cubic"
    assert f"{symbol(102)} (102)" in browser.text(".answer")
    assert "a = b = c = 30.00 (29.75 – 30.50) Å" in text
    assert f"{maps.probability[3, 4]:.0%}".replace("%", " %") + " for cubic" in text
    assert f"{maps.several_grains[3, 4]:.0%}".replace("%", " %") + " for several" in text
    votes = [line.split()[-2] for line in re.findall(r"\w+\s+\d+ %", browser.text(".votes"))]
    assert votes == [f"{100 * share:.0f}" for share in maps.votes[3, 4]]
    number = particles.labels[3, 4]
    size = particles.size[number - 1]
    assert f"no. {number}, {size} probe positions, {size / 4:.3g} nm²" in text
    assert "6 peaks" in browser.text("#peak")
    browser.move(*place(browser, 0, 0))
    assert maps.status[0, 0] == Status.TOO_FEW_PEAKS
    assert "no answer\ntoo few peaks (1; at least 5 are needed)" in browser.text("#pixel")


def test_a_click_pins_and_keys_move_and_release(opened):
    browser, *_ = opened
    browser.click(*place(browser, 3, 4))
    browser.move(*place(browser, 8, 12))
    assert "Row 3, column 4" in browser.text("#pixel h2")
    assert "pinned" in browser.text("#pixel h2")
    assert browser.text("#pointed") == "row 8, column 12: hexagonal"
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        browser.press(key)
    assert "Row 4, column 5" in browser.text("#pixel h2")
    for _ in range(20):
        browser.press("ArrowUp")
    assert "Row 0, column 5" in browser.text("#pixel h2")
    browser.press("Escape")
    browser.move(*place(browser, 8, 12))
    assert "Row 8, column 12" in browser.text("#pixel h2")
    assert "under the pointer" in browser.text("#pixel h2")
    browser.click(*place(browser, 8, 12))
    browser.click(*place(browser, 8, 12))
    assert "under the pointer" in browser.text("#pixel h2")


def test_a_finger_pins_and_two_fingers_enlarge(opened):
    browser, *_ = opened
    x, y = place(browser, 3, 4)
    browser.touch("touchStart", (x, y))
    browser.touch("touchEnd")
    assert "Row 3, column 4" in browser.text("#pixel h2")
    assert "pinned" in browser.text("#pixel h2")
    before = browser.evaluate("Number(document.getElementById('map').dataset.width)")
    browser.touch("touchStart", (x - 20, y), (x + 20, y))
    for spread in (40, 60, 80):
        browser.touch("touchMove", (x - spread, y), (x + spread, y))
    browser.touch("touchEnd")
    assert browser.evaluate("Number(document.getElementById('map').dataset.width)") > 1.5 * before
    assert "Row 3, column 4" in browser.text("#pixel h2")


def test_filters_count_what_numpy_counts(opened):
    browser, _, maps, _ = opened
    answers = maps.filtered_system >= 0
    cubic, hexagonal = (maps.filtered_system == SYSTEMS.index(name) for name in ("cubic", "hexagonal"))
    assert browser.text("#count") == f"192 of 192 probe positions shown, {answers.sum()} of them with a crystal system"
    share = f"{cubic.sum() / answers.sum():.0%}".replace("%", " %")
    assert re.search(rf"cubic\s+{cubic.sum()}\s+{share}", browser.text("#systems"))
    least = float(np.median(maps.probability[answers]))
    browser.evaluate(
        f"(() => {{ const least = document.getElementById('least'); least.value = {least};"
        "least.dispatchEvent(new Event('input')) })()"
    )
    sure = maps.probability >= least
    left = f"{(sure & hexagonal).sum()} of {hexagonal.sum()}"
    assert browser.text("#count").startswith(f"{sure.sum()} of 192 probe positions shown, {(sure & answers).sum()} of")
    assert left in browser.text("#systems")
    browser.evaluate("document.querySelector('#flags input').click()")
    single = sure & ~(maps.several_grains > 0.5)
    assert browser.text("#count").startswith(f"{single.sum()} of 192")
    browser.evaluate(
        "[...document.querySelectorAll('#systems label')].find(row => /cubic/.test(row.innerText)).click()"
    )
    assert browser.text("#count").startswith(f"{(single & ~cubic).sum()} of 192")
    browser.evaluate("document.getElementById('reset').click()")
    assert browser.text("#count").startswith("192 of 192")


def test_the_map_has_the_colours_of_the_pictures_and_what_is_left_out_is_pale(opened):
    browser, _, maps, _ = opened
    lead = maps.filtered_difference_confidence
    full = np.percentile(lead[maps.filtered_system >= 0], 98)
    orange = np.array([0xE6, 0x9F, 0x00])
    bright = page.DIMMEST + (1 - page.DIMMEST) * min(lead[3, 4] / full, 1)
    np.testing.assert_allclose(colour(browser, 3, 4), orange * bright, atol=2)
    assert colour(browser, 0, 0) == [0, 0, 0]
    browser.evaluate(
        "[...document.querySelectorAll('#systems label')].find(row => /cubic/.test(row.innerText)).click()"
    )
    browser.settle()
    np.testing.assert_allclose(colour(browser, 3, 4), 0.16 * orange * bright + 0.84 * 255, atol=2)
    assert colour(browser, 8, 12) != [255, 255, 255]


def test_a_map_of_numbers_has_a_bar_over_its_range(opened):
    browser, _, maps, _ = opened
    show(browser, "a (Å)")
    low, high = np.nanpercentile(maps.lattice[..., 0], (2, 98))
    assert browser.evaluate("[low.valueAsNumber, high.valueAsNumber]") == [low, high]
    np.testing.assert_allclose(colour(browser, 3, 4), [0xFD, 0xE7, 0x25], atol=1)  # the last colour of viridis
    np.testing.assert_allclose(colour(browser, 8, 12), [0x44, 0x01, 0x54], atol=1)
    browser.move(*place(browser, 3, 4))
    assert browser.text("#pointed") == "row 3, column 4: a 30 Å"
    assert browser.evaluate("needle.style.left") == "100%"
    offered = browser.evaluate("[...document.getElementById('view').options].map(option => option.text)")
    assert "Unlike the library" not in " ".join(offered)
    for name in offered:
        show(browser, name)
    show(browser, "Space group")
    assert f"{symbol(102)} (102): {(maps.space_group_number == 102).sum()}" in browser.text("#legend")


def test_zooming_keeps_the_place_under_the_pointer(opened):
    browser, *_ = opened
    before = browser.evaluate("Number(document.getElementById('map').dataset.width)")
    x, y = place(browser, 3, 4)
    for _ in range(4):
        browser.wheel(x, y, -100)
    assert browser.evaluate("Number(document.getElementById('map').dataset.width)") > 1.5 * before
    np.testing.assert_allclose(place(browser, 3, 4), (x, y), atol=browser.evaluate("Number(map.dataset.width)") / 2)
    browser.move(x, y)
    assert "Row 3, column 4" in browser.text("#pixel h2")
    browser.evaluate("document.getElementById('fit').click()")
    browser.settle()
    assert browser.evaluate("Number(document.getElementById('map').dataset.width)") == before


def test_a_peak_under_the_pointer_tells_its_spacing(opened):
    browser, scan, *_ = opened
    browser.click(*place(browser, 3, 4))
    qx, qy, intensity = scan.peaks.pattern(3 * 16 + 4)
    x, y, scale = browser.evaluate(
        "(() => { const at = pattern.dataset, box = pattern.getBoundingClientRect();"
        "return [box.left + +at.x, box.top + +at.y, +at.scale] })()"
    )
    # rows of the detector lie along qx, downwards, and columns along qy
    browser.move(x + float(qy[2]) * scale, y + float(qx[2]) * scale)
    q = np.hypot(qx[2], qy[2])
    assert browser.text("#peak") == f"|q| = {q:.3f} Å⁻¹, d = {1 / q:.3f} Å, intensity {intensity[2]:.0f} (as stored)"
    browser.move(x, y)
    assert "the direct beam" in browser.text("#peak")


@pytest.mark.parametrize("width", [360, 700, 1000, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    browser, *_ = opened
    browser.resize(width, 800)
    browser.settle()
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.getElementById('map').clientHeight") > 100


def test_hostile_names_are_shown_and_do_nothing(browser, tmp_path):
    scan, maps, particles = example(note=HOSTILE)
    scan = dataclasses.replace(scan, source=IMAGE, intensity_unit=HOSTILE)
    write_page(tmp_path / "page.html", scan, maps, particles, details={HOSTILE: HOSTILE})
    browser.problems.clear()
    browser.open(tmp_path / "page.html", READY)
    browser.click(*place(browser, 3, 4))
    assert browser.evaluate("window.hacked") is None
    assert browser.text("h1") == IMAGE
    assert browser.problems == []


def test_a_damaged_page_says_so(browser, shown, tmp_path):
    text = shown[3].read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(re.sub(r'(id="packed-maps">.{40}).{8}', r"\1AAAAAAAA", text), encoding="utf-8")
    browser.open(tmp_path / "page.html", "/damaged/.test(document.getElementById('problem')?.innerText)")
    assert browser.evaluate("document.getElementById('viewer').hidden")


def test_a_browser_that_is_too_old_says_so(browser, shown):
    source = "delete window.DecompressionStream"
    script = browser.command("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    try:
        browser.open(shown[3], "/too old/.test(document.getElementById('problem')?.innerText)")
    finally:
        browser.command("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1)])
def test_a_line_scan_is_a_strip_that_can_be_pointed_at(browser, tmp_path, shape):
    scan = uniform_scan(np.arange(40).reshape(shape) % 3, 0.5)
    maps = map_scan(scan, FakeHierarchy(), filter_size=1)
    write_page(tmp_path / "page.html", scan, maps, find_particles(scan, maps, FakeHierarchy(), size_min=1))
    browser.problems.clear()
    browser.open(tmp_path / "page.html", READY)
    row, column = np.minimum(17, np.subtract(shape, 1))
    browser.evaluate("document.getElementById('outlines').click()")
    browser.move(*place(browser, row, column))
    assert f"Row {row}, column {column}" in browser.text("#pixel h2")
    assert browser.text(".answer strong") == SYSTEMS[17 % 3]
    assert browser.problems == []
