"""The wheel holds what it should, and what it lacks is found."""

import zipfile

import pytest
from helpers.small import ROOT


@pytest.fixture(scope="module")
def check_wheel(load_script):
    return load_script("maintain/check_wheel")


@pytest.fixture(scope="module")
def wheel(check_wheel, tmp_path_factory):
    return check_wheel.build(tmp_path_factory.mktemp("dist"), ROOT, "wheel").path


@pytest.fixture(scope="module")
def names(wheel):
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_the_package_its_templates_and_its_licences(check_wheel, wheel, names):
    assert check_wheel.wrong_files(names) == []
    for kind in (".py", ".jinja", ".safetensors", ".css", ".js", ".html", ".typed"):
        assert any(name.startswith("ser_hf/") and name.endswith(kind) for name in names), kind
    assert not [name for name in names if name.split("/")[0] in ("tests", "scripts", "benchmarks", "studies", "docs")]
    assert not [name for name in names if name.endswith((".wav", ".flac", ".parquet", ".pyc"))]
    assert wheel.stat().st_size < check_wheel.LARGEST


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        ("ser_hf/app/web/index.html", "the wheel lacks ser_hf/app/web/index.html"),
        ("ser_hf/pretrained/model.safetensors", "the wheel lacks ser_hf/pretrained/model.safetensors"),
        ("ser_hf/cards_templates/model.md.jinja", "the wheel lacks ser_hf/cards_templates/model.md.jinja"),
        ("LICENSES/CC-BY-NC-SA-4.0.txt", "the wheel lacks the licence text LICENSES/CC-BY-NC-SA-4.0.txt"),
    ],
)
def test_what_a_wheel_lacks_is_found(check_wheel, names, lost, found):
    assert check_wheel.wrong_files(name for name in names if not name.endswith(lost)) == [found]


@pytest.mark.parametrize("more", ["tests/conftest.py", "ser_hf/runs/clip.wav", "ser_hf/__pycache__/labels.pyc"])
def test_what_a_wheel_holds_besides_is_found(check_wheel, names, more):
    assert check_wheel.wrong_files([*names, more]) == [f"the wheel holds {more}, too"]
