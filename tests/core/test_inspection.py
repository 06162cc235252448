"""Masks, defects, rules and inspections."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from inspectd.calibrated import EvenScale, Plane
from inspectd.defect import Defect, find_defects
from inspectd.frame import Frame
from inspectd.inspection import AcceptanceRule, ClassRule, Inspection, Verdict
from inspectd.mask import ClassMap, Mask, from_runs, to_runs

CLASSES = ClassMap(("scratch", "hole"))
masks = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 2))


def defect(name="scratch", score=0.9, area=10, area_mm2=None, length_mm=None):
    return Defect(name, area, (0, 0, 20, 20), (1.0, 1.0), score, area_mm2, length_mm)


def frame(height=8, width=8):
    return Frame("cam1", 1, np.zeros((height, width, 3), np.uint8), 0)


@given(masks)
def test_runs_return(labels):
    lengths, values = to_runs(labels)
    assert (values[1:] != values[:-1]).all()
    assert np.array_equal(from_runs(lengths, values, *labels.shape), labels)


def test_runs_that_do_not_fit_are_refused():
    lengths, values = to_runs(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="runs sum to 16"):
        from_runs(lengths, values, 4, 5)
    # Lengths whose 32-bit sum wraps round to the right number.
    with pytest.raises(ValueError, match="runs sum to"):
        from_runs(np.array([2**32 - 1, 17], np.uint32), np.array([0, 1], np.uint8), 4, 4)


def test_class_map():
    assert CLASSES.name(CLASSES.label("hole")) == "hole"
    for names in ((), ("a", "a"), ("",), (" a",), tuple(str(n) for n in range(255))):
        with pytest.raises(ValueError, match="class"):
            ClassMap(names)
    with pytest.raises(ValueError, match="not one of"):
        CLASSES.label("dent")
    with pytest.raises(ValueError, match="not one of"):
        CLASSES.name(0)


def test_masks_are_checked():
    with pytest.raises(ValueError, match="holds label 3"):
        Mask(np.full((2, 2), 3, np.uint8), CLASSES)
    with pytest.raises(ValueError, match="uint8"):
        Mask(np.zeros((2, 2), np.int64), CLASSES)


def plain_components(labels):
    """Components by flood fill over 8 neighbours: the slow, plain reference."""
    seen, found = set(), []
    for start in itertools.product(*map(range, labels.shape)):
        if labels[start] == 0 or start in seen:
            continue
        region, stack = [], [start]
        seen.add(start)
        while stack:
            row, column = stack.pop()
            region.append((row, column))
            for dr, dc in itertools.product((-1, 0, 1), repeat=2):
                near = row + dr, column + dc
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and near not in seen and labels[near] == labels[start]:
                    seen.add(near)
                    stack.append(near)
        found.append((int(labels[start]), sorted(region)))
    return found


@given(masks, st.integers(0, 99))
def test_defects_are_the_connected_regions(labels, seed):
    confidence = np.random.default_rng(seed).integers(0, 256, labels.shape, dtype=np.uint8)
    got = find_defects(Mask(labels, CLASSES), confidence, scale=EvenScale(0.5))
    expected = []
    for label, region in plain_components(labels):
        rows, columns = [p[0] for p in region], [p[1] for p in region]
        expected.append(
            (
                CLASSES.name(label),
                len(region),
                (min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1),
                max(int(confidence[p]) for p in region) / 255,
                round(sum(columns) / len(region), 6),
                round(sum(rows) / len(region), 6),
            )
        )
    found = [
        (d.class_name, d.area_px, d.bbox_px, d.score, round(d.centroid_px[0], 6), round(d.centroid_px[1], 6))
        for d in got
    ]
    assert sorted(found) == sorted(expected)
    assert all(d.area_mm2 == d.area_px * 0.25 for d in got)


def test_defects_are_measured_where_they_lie():
    """A plane whose columns grow by 1 % each: the same defect is larger on its right."""
    plane = Plane((20, 60), np.array([[0.1, 0, 0], [0, 0.1, 0], [-0.01, 0, 1]]))
    labels = np.zeros((20, 60), np.uint8)
    labels[4:8, 2:12] = labels[4:8, 40:50] = 1
    left, right = find_defects(Mask(labels, CLASSES), labels * 200, scale=plane)
    for found, columns in ((left, slice(2, 12)), (right, slice(40, 50))):
        region = np.zeros(labels.shape, bool)
        region[4:8, columns] = True
        assert found.area_mm2 == pytest.approx(plane.area_mm2(region), rel=1e-6)
        assert found.length_mm == pytest.approx(plane.feret_mm(region), rel=1e-6)
    assert right.area_mm2 > 3 * left.area_mm2
    with pytest.raises(ValueError, match="inside"):
        find_defects(Mask(labels, CLASSES), labels * 200, scale=Plane((20, 45), np.diag([0.1, 0.1, 1])))


@pytest.mark.parametrize(
    "change",
    [{"score": 1.2}, {"score": float("nan")}, {"area": 0}, {"area": 401}, {"area_mm2": 0.0}, {"length_mm": 0.0}],
)
def test_impossible_defects_are_refused(change):
    with pytest.raises(ValueError, match="scratch"):
        defect(**change)


@given(
    st.lists(st.tuples(st.sampled_from(("scratch", "hole", "dent")), st.floats(0, 1), st.integers(1, 400)), max_size=6)
)
def test_the_rule_counts_per_class(found):
    rule = AcceptanceRule(
        default=ClassRule(score=0.5),
        classes={
            "hole": ClassRule(score=0.8, minimum_area_px=50, maximum_count=1),
            "dent": ClassRule(score=0.8, review_score=0.3),
        },
    )
    defects = [defect(name, score, area) for name, score, area in found]
    kept = rule.relevant(defects)
    by_name = {name: [d for d in defects if d.class_name == name] for name in ("scratch", "hole", "dent")}
    by_name["hole"] = [d for d in by_name["hole"] if d.area_px >= 50]
    assert sorted(map(id, kept)) == sorted(id(d) for kind in by_name.values() for d in kind)
    sure = (
        any(d.score >= 0.5 for d in by_name["scratch"])
        or sum(d.score >= 0.8 for d in by_name["hole"]) > 1
        or any(d.score >= 0.8 for d in by_name["dent"])
    )
    possible = by_name["scratch"] or len(by_name["hole"]) > 1 or by_name["dent"]
    expected = Verdict.NG if sure else Verdict.REVIEW if possible else Verdict.OK
    assert rule.judge(kept) is expected


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValidationError, match="cannot be combined"):
        ClassRule(score=0.8, review_score=0.3, maximum_count=1)


def test_thresholds_are_those_of_review():
    rule = AcceptanceRule(classes={"hole": ClassRule(score=0.8, review_score=0.3)})
    assert rule.thresholds(CLASSES) == (0.5, 0.3)
    assert AcceptanceRule(classes={"dent": ClassRule()}).unknown_classes(CLASSES) == ("dent",)


def test_rules_in_mm_need_a_scale():
    rule = AcceptanceRule(default=ClassRule(minimum_area_mm2=2.0))
    assert rule.relevant([defect(area_mm2=1.9), defect(area_mm2=2.0)])[0].area_mm2 == 2.0
    with pytest.raises(ValueError, match="has no scale"):
        rule.relevant([defect()])
    with pytest.raises(ValidationError, match="must be below score"):
        ClassRule(score=0.5, review_score=0.5)


def test_inspections_cannot_hide_a_failure():
    mask = Mask(np.zeros((8, 8), np.uint8), CLASSES)
    Inspection(frame(), Verdict.OK, (), mask, "")
    Inspection(frame(), Verdict.NOT_INSPECTED, (), None, "", reason="camera lost")
    for verdict, defects, shown, reason in (
        (Verdict.OK, (), None, ""),
        (Verdict.OK, (), mask, "because"),
        (Verdict.NOT_INSPECTED, (), None, ""),
        (Verdict.NOT_INSPECTED, (), mask, "because"),
        (Verdict.NOT_INSPECTED, (defect(),), None, "because"),
        (Verdict.NG, (defect(),), Mask(np.zeros((8, 9), np.uint8), CLASSES), ""),
    ):
        with pytest.raises(ValueError, match=r"mask|reason|defects"):
            Inspection(frame(), verdict, defects, shown, "", reason=reason)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 8, 3), np.uint8)[:, ::2],
    ],
)
def test_frames_are_checked(pixels):
    with pytest.raises(ValueError, match="camera 'cam1'"):
        Frame("cam1", 1, pixels, 0)
