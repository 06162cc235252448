"""Configuration: what is accepted, and that every fault is told at once and where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from inspectd.config import (
    Acceptance,
    Archive,
    ButtonsCamera,
    Challenge,
    Control,
    FolderCamera,
    GenicamCamera,
    Golden,
    Health,
    Journal,
    Log,
    ModelSettings,
    Publish,
    Security,
    Station,
    effective_rule,
    load_config,
    parse_config,
)
from inspectd.errors import ConfigError
from inspectd.inspection import AcceptanceRule, ClassRule
from inspectd.mask import ClassMap

ROOT = Path(__file__).parents[2]
SECTIONS = (
    *(Station, GenicamCamera, FolderCamera, ButtonsCamera, ModelSettings, Acceptance, Golden, Challenge),
    *(Publish, Control, Security, Journal, Archive, Health, Log),
)
MINIMAL = '[cameras.cam1]\nsource = "folder"\npath = "pictures"\n[model]\nbundle = "bundle"\n'


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Path("/etc/line.toml"))
    lines = str(caught.value).splitlines()
    assert all(line.startswith("/etc/line.toml: ") for line in lines)
    return [line.removeprefix("/etc/line.toml: ") for line in lines]


def test_the_smallest_file_gets_defaults_and_paths_beside_it():
    config = parse_config(MINIMAL, Path("/etc/inspectd/line.toml"))
    camera = config.cameras["cam1"]
    assert isinstance(camera, FolderCamera)
    assert camera.path == Path("/etc/inspectd/pictures")
    assert config.model.bundle == "/etc/inspectd/bundle"
    assert config.station.state_dir == Path("/etc/inspectd/state")
    assert config.publish.endpoint == "tcp://127.0.0.1:5560"


def test_names_in_place_of_paths_stay_names():
    text = '[cameras.cam1]\nsource = "genicam"\nproducer = "viky"\n[model]\nbundle = "demo"\n'
    config = parse_config(text, Path("/etc/line.toml"))
    camera = config.cameras["cam1"]
    assert isinstance(camera, GenicamCamera)
    assert (camera.producer, config.model.bundle) == ("viky", "demo")


def test_cameras_and_features_keep_the_order_of_the_file():
    text = '[cameras.z]\nsource = "genicam"\nproducer = "viky"\n'
    text += 'features = { Width = 256, Gain = 1.5, A = true, B = "x" }\n'
    text += '[cameras.a]\nsource = "buttons"\n[model]\nbundle = "demo"\n'
    config = parse_config(text, Path("/etc/line.toml"))
    assert list(config.cameras) == ["z", "a"]
    camera = config.cameras["z"]
    assert isinstance(camera, GenicamCamera)
    assert list(camera.features.items()) == [("Width", 256), ("Gain", 1.5), ("A", True), ("B", "x")]
    assert [type(value) for value in camera.features.values()] == [int, float, bool, str]


def test_every_fault_is_told_at_once_with_its_path():
    faults = faults_of(
        '[station]\nnam = "x"\n'
        '[cameras.cam1]\nsource = "folder"\nfps = -1\npatern = "x"\n'
        '[cameras.cam2]\nsource = "foldr"\n'
        "[cameras.cam3]\nfps = 3\n"
        '[cameras.cam4]\nsource = "genicam"\nproducer = "viky"\ntimeout_ms = "5"\n'
        "[cameras.cam4.features]\nWidth = [3]\n"
        '[model]\nbundle = "b"\nbackend = "trt"\n'
        "[acceptance.classes.scratch]\nscore = 3\nmin_area_px = 3\n"
        '[publish]\nendpoint = "5560"\n[extra]\n'
    )
    assert faults == [
        "station.nam: unknown setting; did you mean 'name'?; known: name, state_dir, start",
        "cameras.cam1.path: missing; it has to be set",
        "cameras.cam1.fps: expected a value greater than 0, got -1",
        "cameras.cam1.patern: unknown setting; did you mean 'pattern'?; "
        "known: scale_mm_per_px, scale, flat_field, image_health, image_fault, "
        "queue_frames, deadline_ms, source, path, pattern, bits, fps, loop",
        "cameras.cam2.source: expected one of genicam, folder, buttons, got 'foldr'; did you mean 'folder'?",
        "cameras.cam3.source: missing; expected one of genicam, folder, buttons",
        "cameras.cam4.features.Width: expected a boolean, a number or a string, got [3]",
        "cameras.cam4.timeout_ms: expected a valid integer, got '5'",
        "model.backend: expected 'onnxruntime', 'openvino' or 'tensorrt', got 'trt'",
        "acceptance.classes.scratch.score: expected a value less than or equal to 1, got 3",
        "acceptance.classes.scratch.min_area_px: unknown setting; did you mean 'minimum_area_px'?; "
        "known: score, review_score, minimum_area_px, minimum_area_mm2, maximum_count",
        "publish.endpoint: expected tcp://HOST:PORT (tcp://*:5560 for every interface) or ipc://PATH, got '5560'",
        "extra: unknown setting; known: station, cameras, model, acceptance, golden, challenge, publish, control, "
        "security, journal, archive, augment, health, log",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "cameras: missing; it has to be set"),
        ("cameras = 3\n", "cameras: expected a valid dictionary, got 3"),
        ('model = "x"\n', "model"),
        (MINIMAL.replace("cam1", '"a/b"'), "camera name 'a/b'"),
        (
            MINIMAL + "[acceptance.default]\nminimum_area_mm2 = 0.1\n",
            "needs cameras.cam1.scale or cameras.cam1.scale_mm_per_px, and",
        ),
        (
            MINIMAL.replace("[model]", 'scale_mm_per_px = 0.1\nscale = "scale.json"\n[model]'),
            "cameras.cam1: scale and scale_mm_per_px exclude each other; leave one of them out",
        ),
        (
            MINIMAL + "[acceptance.default]\nscore = 0.8\nreview_score = 0.9\n",
            "acceptance.default: review_score 0.9 must be below",
        ),
        (
            '[cameras.cam1]\nsource = "genicam"\nproducer = "viky"\nfrozen_frames = 1\n[model]\nbundle = "demo"\n',
            "cameras.cam1.frozen_frames: 1 would refuse every picture; expected 2 or more, or 0",
        ),
        (MINIMAL + '[golden]\nat = ["06:00"]\n', "golden: file is missing: the set of `inspectd-calibrate golden`"),
        (MINIMAL + '[golden]\non_failure = "alarm"\n', "golden: file is missing"),
        (MINIMAL + '[golden]\nfile = "set.zip"\nat = ["06:00", "24:00"]\n', "golden.at.1: expected"),
        (MINIMAL + "[golden]\npaint = 3\n", "golden: file is missing"),
        (MINIMAL + '[golden]\nfile = "set.zip"\npaint = 17\n', "golden.paint: expected"),
        (MINIMAL + '[golden]\nfile = "set.zip"\ncamera = "cam2"\n', "golden.camera 'cam2': expected one of cam1"),
        (
            MINIMAL + '[challenge]\nat = ["06:00"]\n',
            "challenge: file is missing: the set of `inspectd-calibrate golden`",
        ),
        (MINIMAL + '[challenge]\nfile = "set.zip"\nat = ["6:00"]\n', "challenge.at.0: expected"),
        (MINIMAL + '[challenge]\nfile = "set.zip"\ncamera = "cam2"\n', "challenge.camera 'cam2': expected one of cam1"),
        (
            '[cameras.cam1]\nsource = "genicam"\nproducer = "simulator"\n[model]\nbundle = "demo"\n'
            '[challenge]\nfile = "set.zip"\n',
            "challenge.camera 'cam1' runs freely, so that nobody knows which of its pictures",
        ),
    ],
)
def test_one_fault(text, fault):
    assert any(fault in line for line in faults_of(text))


@pytest.mark.parametrize("endpoint", ["tcp://*:5560", "tcp://127.0.0.1:*", "tcp://box.local:5560", "ipc:///run/x/pub"])
def test_endpoints_that_are_addresses(endpoint):
    assert Publish(endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("[acceptance.default]\nmaximum_count = true", "acceptance.default.maximum_count: expected"),
        ('[acceptance.default]\nscore = "0.5"', "acceptance.default.score: expected"),
        ("[acceptance.default]\nminimum_area_mm2 = inf", "acceptance.default.minimum_area_mm2: expected"),
        (
            '[station]\nstate_dir = "~nobody-of-this-name/state"',
            "station.state_dir: ~nobody-of-this-name/state: there is no",
        ),
        # An abstract socket has no file, and so no permissions.
        ('[control]\nendpoint = "ipc://@ctl"', "control.endpoint: expected tcp://HOST:PORT"),
    ],
)
def test_values_that_would_let_everything_pass_or_lead_nowhere(setting, where):
    (fault,) = faults_of(f"{MINIMAL}\n{setting}")
    assert where in fault


def test_a_syntax_error_names_its_line():
    (fault,) = faults_of("[station]\nname = \n")
    assert "line 2" in fault


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[station]\nname = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "latin.toml")


def test_another_bundle_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "line.toml").write_text(MINIMAL)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    config = load_config(tmp_path / "line.toml", bundle="other")
    assert config.model.bundle == str(tmp_path / "work" / "other")


@given(text=st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_config_error(text):
    try:
        parse_config(text, Path("line.toml"))
    except ConfigError as error:
        assert str(error).startswith("line.toml: ")  # noqa: PT017 - most texts are refused, a few need not be


CLASSES = ClassMap(("scratch", "hole"))
CARD = {"scratch": 0.7, "hole": 0.3}


def test_scores_come_from_the_class_then_the_default_then_the_bundle():
    assert effective_rule(AcceptanceRule(), CLASSES, CARD).thresholds(CLASSES) == (0.7, 0.3)
    default = AcceptanceRule(default=ClassRule(score=0.4))
    assert effective_rule(default, CLASSES, CARD).thresholds(CLASSES) == (0.4, 0.4)
    both = AcceptanceRule(default=ClassRule(score=0.4), classes={"hole": ClassRule(score=0.6)})
    assert effective_rule(both, CLASSES, CARD).thresholds(CLASSES) == (0.4, 0.6)


def test_a_class_takes_what_it_does_not_say_from_the_default():
    rule = AcceptanceRule(default=ClassRule(minimum_area_px=9), classes={"hole": ClassRule(maximum_count=2)})
    spelt_out = effective_rule(rule, CLASSES, CARD)
    assert spelt_out.rule("hole") == ClassRule(score=0.3, minimum_area_px=9, maximum_count=2)
    assert spelt_out.rule("scratch") == ClassRule(score=0.7, minimum_area_px=9)


def test_rules_that_do_not_fit_the_bundle():
    rule = AcceptanceRule(
        default=ClassRule(review_score=0.4), classes={"scrach": ClassRule(), "dent": ClassRule(score=0.9)}
    )
    with pytest.raises(ConfigError) as caught:
        effective_rule(rule, CLASSES, CARD)
    dent, scrach, review = str(caught.value).splitlines()
    assert "acceptance.classes.dent" in dent
    assert "did you mean 'scratch'" in scrach
    assert "review_score 0.4 of class 'hole'" in review


@pytest.mark.parametrize("example", sorted((ROOT / "deploy" / "config").glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_valid(example):
    load_config(example)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "tests" / "golden" / "config").glob("*.toml")), ids=lambda path: path.stem
)
def test_a_configuration_of_an_earlier_version_is_one_of_this(file):
    load_config(file)


@pytest.mark.parametrize("section", [*SECTIONS, ClassRule])
def test_every_setting_is_documented(section: type[BaseModel]):
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name, setting in section.model_fields.items():
        assert f"| `{name}` |" in page
        if section is not ClassRule:
            assert setting.description, f"{section.__name__}.{name} has no docstring"
            assert f"| {' '.join(setting.description.split())} |" in page
