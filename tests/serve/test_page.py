"""The built page is served with its policy; a page that was not built says how to build one."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from chatsmith.serve.page import add_page


def client_of(static: Path) -> TestClient:
    app = FastAPI()
    add_page(app, static)
    return TestClient(app)


@pytest.fixture
def built(tmp_path: Path) -> TestClient:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><p>chat")
    (tmp_path / "icon.svg").write_text("<svg/>")
    (tmp_path / "assets" / "index-abc.js").write_text("1")
    (tmp_path.parent / "secret.txt").write_text("no")
    return client_of(tmp_path)


def test_without_a_page_it_says_how_to_build_one(tmp_path: Path) -> None:
    answer = client_of(tmp_path / "static").get("/")
    assert answer.status_code == 200 and "make web" in answer.text


def test_the_page_is_asked_for_anew_and_its_assets_are_kept(built: TestClient) -> None:
    assert built.get("/").text.endswith("chat")
    assert built.get("/").headers["cache-control"] == "no-cache"
    asset = built.get("/assets/index-abc.js")
    assert "immutable" in asset.headers["cache-control"]
    for path in ("/", "/assets/index-abc.js", "/icon.svg"):
        assert "default-src 'self'" in built.get(path).headers["content-security-policy"]
    assert built.get("/icon.svg").headers["content-type"].startswith("image/svg")


@pytest.mark.parametrize("path", ["/assets/../../secret.txt", "/assets/%2e%2e/%2e%2e/secret.txt", "/assets/"])
def test_nothing_else_is_served(built: TestClient, path: str) -> None:
    assert built.get(path).status_code in (404, 405)
