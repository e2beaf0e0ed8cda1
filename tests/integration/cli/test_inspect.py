"""`image-pipeline inspect` as people run it: with no variable set, and with a host on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.clients import lazy
from pipeline.settings import Settings
from tests.support.pictures import corners, encoded, png_header
from tests.support.untrusted_servers import answer, remote, settings

JPEG = encoded(corners(60, 40), "JPEG")

#: The keys of each JSON line.
KEYS = {
    *("source", "way", "declared_type", "format", "bytes", "width", "height"),
    *("colours", "profile", "orientation", "warnings", "conditional"),
    *("renditions", "cpu_seconds", "memory_bytes", "refusal"),
}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in [*Settings.model_fields, "environment"]:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    Path("good.jpg").write_bytes(JPEG)
    Path("bomb.png").write_bytes(png_header(20_000, 20_000))
    lazy.forget()
    yield
    lazy.forget()


def run(*arguments: str):
    return CliRunner().invoke(app, ["inspect", *arguments], env={"COLUMNS": "80"})


def test_it_runs_without_any_variable_and_needs_no_service(tmp_path):
    program = Path(sys.executable).parent / "image-pipeline"
    variables = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = subprocess.run([program, "inspect", "good.jpg"], env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "800x800" in done.stdout
    assert [each.name for each in tmp_path.iterdir() if each.name not in {"good.jpg", "bomb.png"}] == []


def test_a_refused_cover_has_a_line_and_the_others_are_shown():
    result = run("bomb.png", "good.jpg")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert [line.strip() for line in lines if line[:1] in "✓✗" and line] == ["✗ bomb.png", "✓ good.jpg"]
    assert "too_large: The image has 20000 x 20000 pixels;" in result.output
    assert max(map(len, lines)) <= 80


def test_the_way_the_host_and_the_renditions_are_shown(monkeypatch):
    settings(monkeypatch, ALLOWED_NETWORKS="127.0.0.1/32")
    bodies = {
        "/old?key=hush": answer(301, b"", "Location: /cover"),
        "/cover": answer(200, JPEG, "Content-Type: image/png"),
    }
    with remote(lambda _, request: [bodies[request.path]]) as host:
        result = run(host.url("/old?key=hush"))

    assert result.exit_code == 0
    for text in (
        f"301 http://127.0.0.1:{host.port}/old",
        f"200 http://127.0.0.1:{host.port}/cover",
        "jpeg, declared as image/png",
        "60 x 40 pixels",
        "not_square, below_1400, wrong_content_type",
        "not supported",
        "quality 80",
        "of CPU",
    ):
        assert text in result.output
    assert "hush" not in result.output


def test_an_address_that_is_not_public_is_refused_as_in_the_service():
    result = run("http://127.0.0.1:8080/cover.jpg")
    assert result.exit_code == 1
    assert "blocked_address: 127.0.0.1 does not have a public address." in " ".join(result.output.split())


def test_each_line_of_json_has_the_same_keys():
    result = run("--json", "good.jpg", "bomb.png")

    good, bad = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1
    assert set(good) == set(bad) == KEYS
    assert [set(each) for each in good["renditions"]] == [{"name", "format", "quality", "bytes"}] * 3
    assert (good["refusal"], bad["renditions"]) == (None, [])
    assert (set(bad["refusal"]), bad["refusal"]["code"]) == ({"code", "message"}, "too_large")


def test_the_sheet_is_a_png_of_all_covers(monkeypatch):
    settings(monkeypatch, RENDITIONS="1200x630,90x90,40x40.webp,400x100,30x30,20x20,10x10,9x9")
    assert run("good.jpg", "bomb.png", "--sheet", "out").exit_code == 1
    with Image.open("out") as sheet:
        assert sheet.format == "PNG"
        assert len(sheet.convert("RGB").getcolors(10_000_000)) > 100


@pytest.mark.parametrize("arguments", [["missing/cover.jpg"], ["."], ["good.jpg", "--sheet", "missing/out.png"]])
def test_a_file_that_cannot_be_read_or_written_is_one_sentence(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"'{arguments[-1]}'" in result.output
    assert "Traceback" not in result.output


def test_a_file_that_cannot_be_read_leaves_the_others_to_be_shown():
    # given a folder among the files, as a wildcard of the shell gives it, and a cover that is refused
    Path("folder").mkdir()
    # when all are inspected
    result = run("--json", "folder", "bomb.png", "good.jpg", "--sheet", "out")
    # then only the folder is left out, and the exit status shows that something could not be read
    assert [json.loads(line)["source"] for line in result.stdout.splitlines()] == ["bomb.png", "good.jpg"]
    assert "'folder'" in result.stderr
    assert result.exit_code == 2
    with Image.open("out") as sheet:
        assert sheet.format == "PNG"
