"""A report is whole in itself, and says under which protocol every number was measured."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from gpuediff.evaluation.html import Page, Row, svg
from gpuediff.evaluation.report import write_report
from gpuediff.hierarchy.calibration import Learned, ProbabilityMap, Threshold
from tests.evaluation.cases import answers, cells, evaluation

SYSTEMS = ("tetragonal", "cubic")
LEARNED = Learned(
    map=ProbabilityMap(gamma=1.5, slope=0.5, floor=1e-3),
    answers=500,
    materials=50,
    thresholds=(
        Threshold(error_rate=0.01, probability=None, coverage=0),
        Threshold(error_rate=0.2, probability=0.625, coverage=0.5),
    ),
)
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Reads a page, checks that tags close in order, and keeps what is asked about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.attributes, self.captions, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "figcaption":
            self.captions.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "figcaption" in self.open:
            self.captions[-1] += data


def case(n, seed, *, calibrated, without_lattice, systems=SYSTEMS):
    generator = np.random.default_rng(seed)
    true, predicted = ([systems[i] for i in generator.integers(0, len(systems), n)] for _ in range(2))
    lattice = cells(n) + generator.normal(0, 0.1, (n, 6))
    lattice[:without_lattice] = np.nan
    probability = generator.dirichlet([2] * len(systems), n) if calibrated else None
    confidence = generator.uniform(0.5, 1, n)
    return answers(
        true,
        predicted,
        systems=systems,
        confidence=confidence,
        probability=probability,
        lattice=lattice,
        material=range(n),
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Write a report on one evaluation with everything that can be in it."""
    told = {
        "single": case(40, 1, calibrated=True, without_lattice=30),
        "aggregate": case(12, 2, calibrated=True, without_lattice=0),
    }
    folder = tmp_path_factory.mktemp("single")
    importances = {f"{part}_R_{n:02d}_{m:02d}": 1 / 12 for n in range(2) for m in range(3) for part in ("abs", "arg")}
    written = write_report(
        folder,
        evaluation(**told, protocol="hard", learned=LEARNED),
        told,
        model="<script>alert('Fe & O')</script>",
        importances=importances,
    )
    return folder, written


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Write a report on two protocols with nothing that can be absent."""
    told = [{"single": case(9, seed, calibrated=False, without_lattice=0, systems=("cubic",))} for seed in (3, 4)]
    evaluations = [
        evaluation(one["single"], protocol=name) for one, name in zip(told, ("any", "measured"), strict=True)
    ]
    folder = tmp_path_factory.mktemp("several")
    return folder, write_report(folder, evaluations, told)


@pytest.fixture(params=["single", "several"])
def page(request):
    folder, _ = request.getfixturevalue(request.param)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_page_is_well_formed_and_its_contents_lead_somewhere(page):
    reader = Reader(page)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    targets = [value.removeprefix("#") for tag, name, value in reader.attributes if (tag, name) == ("a", "href")]
    assert sorted(targets) == sorted(reader.ids)


def test_a_page_asks_for_nothing_from_outside(page):
    reader = Reader(page)
    links = [value for _, name, value in reader.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert all(value.startswith(("#", "data:image/svg+xml;base64,")) for value in links)
    assert not {"script", "link", "iframe"} & {tag for tag, _, _ in reader.attributes}
    assert "<script" not in page
    assert not re.search(r"url\(|@import|https?:", page)
    assert len(page) < 8e6


def test_pictures_ask_for_nothing_from_outside(single):
    page = (single[0] / "report.html").read_text(encoding="utf-8")
    pictures = [base64.b64decode(part).decode() for part in re.findall(r"base64,([^\"]+)", page)]
    assert len(pictures) == 8
    for picture in pictures:
        assert picture.rstrip().endswith("</svg>")
        references = re.findall(r'href="([^"]+)"', picture)
        assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in references)


def test_every_caption_names_protocol_and_thickness_and_number(single, several):
    for folder, protocols in ((single[0], ["hard"]), (several[0], ["any", "measured"])):
        captions = Reader((folder / "report.html").read_text(encoding="utf-8")).captions
        assert len(captions) >= 10
        overview, paper, *others = captions
        assert "the first column" in overview
        assert all(word in paper for word in ("“grid”", "Gleason", "200 Å"))
        for caption in others:
            if "Importance" not in caption:  # the model's, under whatever protocol it was tested
                assert any(f"rotocol “{name}”" in caption for name in protocols)
            assert re.search(r"200\sÅ", caption)
            assert re.search(r"n\s=\s\d", caption)


def test_several_protocols_stand_side_by_side(several):
    page = (several[0] / "report.html").read_text(encoding="utf-8")
    for protocol in ("any", "measured"):
        assert f"“{protocol}”, 200 Å, 1 pattern" in page
    assert "Answers from 1 pattern have no probability" in page


def test_what_was_promised_stands_beside_what_was_kept(single, several):
    words = " ".join(Reader((single[0] / "report.html").read_text(encoding="utf-8")).words)
    for told in ("Errors promised and kept", "calibrated on 50 validation materials", "not to be had", "0.625"):
        assert told in words
    kept = json.loads((single[0] / "metrics.json").read_text())["single"]["abstention"]
    assert [one["error_rate"] for one in kept] == [0.01, 0.2]
    assert kept[1]["coverage"] == kept[1]["answers"] / 40
    assert "Errors promised" not in (several[0] / "report.html").read_text(encoding="utf-8")


def test_a_page_about_validation_materials_says_that_it_proves_nothing(tmp_path):
    one = case(6, 0, calibrated=True, without_lattice=0)
    write_report(tmp_path, evaluation(one, side="validation"), {"single": one})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "These are the validation materials" in page
    assert "as the forest gives it, there were no validation materials" in page
    assert "of 6 unseen materials" not in page
    sides = [evaluation(one, protocol="any"), evaluation(one, protocol="hard", side="validation")]
    with pytest.raises(ValueError, match="sides test and validation"):
        write_report(tmp_path, sides, [{"single": one}] * 2)


def test_what_is_unknown_is_null_in_json(single):
    metrics = json.loads((single[0] / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["protocol"] == "hard"
    medians = metrics["single"]["lattice_error"]
    assert None in [value for system in medians.values() for value in system.values()]
    assert metrics["single"]["probability_calibration"]["log_loss"] > 0
    assert len(metrics["aggregate"]["confidence_calibration"]["coverage"]) == 10


def test_one_evaluation_is_a_dictionary_and_several_are_a_list(several):
    metrics = json.loads((several[0] / "metrics.json").read_text())
    assert [one["protocol"] for one in metrics] == ["any", "measured"]
    assert metrics[0]["aggregate"] is None


def test_the_files_that_are_named_are_those_that_are_there(single, several):
    for folder, written in (single, several):
        assert sorted(written) == sorted(folder.iterdir())
    names = {path.name for path in single[1]}
    assert {"metrics.json", "report.html", "confusion.png", "lattice.png", "classes.png", "importances.png"} <= names
    assert "any-200A-confusion.png" in {path.name for path in several[1]}


def test_two_evaluations_that_cannot_be_told_apart_are_refused(tmp_path):
    one = case(3, 0, calibrated=False, without_lattice=0)
    with pytest.raises(ValueError, match=r"two evaluations of any-200A"):
        write_report(tmp_path, [evaluation(one)] * 2, [{"single": one}] * 2)
    with pytest.raises(ValueError, match="2 evaluations with 1 sets"):
        write_report(tmp_path, [evaluation(one)] * 2, [{"single": one}])


def test_a_number_that_json_does_not_know_is_refused(tmp_path):
    one = case(3, 0, calibrated=False, without_lattice=0)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(tmp_path, dataclasses.replace(evaluation(one), untrained_space_groups=np.nan), {"single": one})
    assert not list(tmp_path.iterdir())


def test_a_figure_is_drawn_to_the_same_bytes_twice():
    def draw():
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([0, 1], [0, 1], label="$a$")
        return svg(figure)

    assert draw() == draw()


def test_a_row_that_does_not_fit_its_table_is_refused():
    with pytest.raises(ValueError, match=r"table 'T', row 'r': 1 cells for 3 columns"):
        Page("title").table("T", "caption", ["", "x", "y"], [Row("r", ["1"])])
