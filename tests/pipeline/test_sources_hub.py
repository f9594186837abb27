"""hf:// data sets, through the hub's own client, against a small hub on this machine."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import datasets
import huggingface_hub
import pytest
import yaml
from huggingface_hub import HfFileSystem

from jobs.pipeline.sources import surveyed
from tests.pipeline.corpus import CLASS_NAMES, class_folders, hub_parquet, opened, pictures, read_all, refusal, webdataset

IMAGES = pictures(10)
OPEN, GATED, FOLDERS, TARS, MIXED = "someone/open", "private/gated", "someone/folders", "someone/tars", "someone/mixed"


class Hub(ThreadingHTTPServer):
    """Serves data sets' files, by name; those of GATED to token "hf_member" only."""

    data_sets: dict[str, Path]
    tokens_seen: set[str | None]


class Request(BaseHTTPRequestHandler):
    server: Hub

    def answer(self, status: int, body: bytes | list[dict[str, object]] | dict[str, str], **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response_only(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        path = unquote(urlparse(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.server.tokens_seen.add(token)
        if token not in (None, "hf_member", "hf_stranger"):
            return self.answer(401, {}, X_Error_Message="Invalid credentials in Authorization header")
        for repo, root in self.server.data_sets.items():
            api, files = f"/api/datasets/{repo}", f"/datasets/{repo}/resolve/main/"
            if path in (api, f"{api}/revision/main"):
                return self.answer(200, {"id": repo, "sha": "0" * 40})
            if path.startswith(f"{api}/revision/"):
                return self.answer(404, {}, X_Error_Code="RevisionNotFound")
            if path.startswith(f"{api}/tree/main"):
                return self.tree(root, root / path.removeprefix(f"{api}/tree/main").strip("/"))
            if path == f"{api}/paths-info/main":
                found = [self.info(root, root / name) for name in form["paths"] if (root / name).exists()]
                return self.answer(200, found)
            if path.startswith(files):
                if repo == GATED and token != "hf_member":
                    return self.answer(403 if token else 401, {}, X_Error_Code="GatedRepo")
                return self.content(root / path.removeprefix(files))
        return self.answer(404 if token else 401, {}, X_Error_Code="RepoNotFound")

    do_POST = do_HEAD = do_GET

    def tree(self, root: Path, folder: Path) -> None:
        if folder.is_dir():
            below = parse_qs(urlparse(self.path).query).get("recursive") == ["true"]
            self.answer(200, [self.info(root, path) for path in sorted(folder.rglob("*") if below else folder.iterdir())])
        else:
            self.answer(404, {}, X_Error_Code="EntryNotFound")

    def info(self, root: Path, path: Path) -> dict[str, object]:
        kind = "directory" if path.is_dir() else "file"
        return {"type": kind, "path": str(path.relative_to(root)), "size": path.stat().st_size, "oid": "0" * 40}

    def content(self, path: Path) -> None:
        data = path.read_bytes()
        if span := self.headers.get("Range"):
            first, last = (int(part) for part in span.removeprefix("bytes=").split("-"))
            self.answer(206, data[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}")
        else:
            self.answer(200, data)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    server = Hub(("127.0.0.1", 0), Request)
    server.tokens_seen = set()
    server.data_sets = {repo: root / repo.rpartition("/")[2] for repo in (OPEN, FOLDERS, TARS, MIXED)}
    server.data_sets[GATED] = files = server.data_sets[OPEN]
    hub_parquet(files / "data", IMAGES, CLASS_NAMES)
    hub_parquet(files / "data", IMAGES[:3], CLASS_NAMES, shards=1, split="train")
    hub_parquet(files / "test", IMAGES[:4], CLASS_NAMES, shards=1, split="part")
    (files / "README.md").write_text("a data set")
    class_folders(root / "folders" / "data" / "val", IMAGES)
    class_folders(root / "folders" / "data" / "train", IMAGES[:4])
    webdataset(root / "tars" / "val", IMAGES)
    webdataset(root / "tars" / "train", IMAGES[:2])
    few = [{"split": "validation", "path": ["val/shard-001.tar"]}, {"split": "train", "path": "train/*.tar"}]
    readme = yaml.safe_dump({"configs": [{"config_name": "few", "data_files": few}]})
    (root / "tars" / "README.md").write_text(f"---\n{readme}---\na data set")
    class_folders(root / "mixed" / "all", IMAGES, lambda label: f"{'train' if label else 'validation'}-{label}")
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    endpoint = f"http://127.0.0.1:{served.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    served.tokens_seen.clear()
    HfFileSystem.clear_instance_cache()
    yield served
    HfFileSystem.clear_instance_cache()


def test_the_validation_split_is_read_by_default(hub: Hub) -> None:
    source = opened(f"hf://datasets/{OPEN}")
    survey, images = surveyed(source), read_all(source)
    assert (survey.images, survey.labelled) == (10, True)
    assert [(image.label, bytes(image.data)) for image in images] == [(i.label, i.data) for i in IMAGES]
    assert images[5].image_id == "validation-00001-of-00002.parquet#0"


@pytest.mark.parametrize(
    ("uri", "images"),
    [
        (f"{OPEN}?split=train", 3),
        (f"{OPEN}?split=test", 4),
        (f"{OPEN}@main?split=train", 3),
        (f"{OPEN}/data/train-*.parquet", 3),
        (f"{OPEN}/data/validation-00001-of-00002.parquet", 5),
        (f"{OPEN}@main/test", 4),
        (FOLDERS, 10),
        (f"{FOLDERS}?split=train", 4),
        (TARS, 10),
        (f"{TARS}?split=train", 2),
        (f"{TARS}?config=few", 5),
        (f"{TARS}?config=few&split=train", 2),
        (f"{TARS}@main?split=train&config=few", 2),
    ],
)
def test_splits_paths_revisions_and_configurations_are_found_as_datasets_finds_them(hub: Hub, uri: str, images: int) -> None:
    source = opened(f"hf://datasets/{uri}")
    assert surveyed(source).images in (images, None)
    read = read_all(source)
    assert len(read) == images
    assert {(image.label, bytes(image.data)) for image in read} <= {(image.label, image.data) for image in IMAGES}


def test_a_gated_data_set_is_read_with_the_token_of_the_environment(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    assert surveyed(opened(f"hf://datasets/{GATED}")).images == 10
    assert hub.tokens_seen == {"hf_member"}


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", f"accept its terms at https://huggingface.co/datasets/{GATED}"),
        ("", "create a token at https://huggingface.co/settings/tokens and set HF_TOKEN"),
        ("hf_stranger", "HF_TOKEN has no access; accept the terms"),
        ("hf_expired", "HF_TOKEN was refused; create a valid one at https://huggingface.co/settings/tokens"),
    ],
)
def test_what_is_wrong_with_the_token_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, says: str) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    said = refusal(f"hf://datasets/{GATED}")
    assert says in said
    assert not token or token not in said


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("hf://datasets/someone/else", "no such data set; check the name"),
        (f"hf://datasets/{OPEN}@v9", "no such revision"),
        (f"hf://datasets/{OPEN}?split=dev", "no files of split 'dev' (it has "),
        (f"hf://datasets/{TARS}?config=none", "no files of split 'validation'"),
        (f"hf://datasets/{TARS}?config=few&split=test", "no files of split 'test' (it has train, validation)"),
        (f"hf://datasets/{MIXED}?split=train", "holds files of other splits too"),
        (f"hf://datasets/{OPEN}/nowhere", "no such file or directory"),
        ("hf://datasets/alone", "expected hf://datasets/<owner>/<name>"),
        ("hf://someone/model", "expected hf://datasets/<owner>/<name>"),
    ],
)
def test_what_is_not_on_the_hub_ends_in_one_clear_line(hub: Hub, uri: str, says: str) -> None:
    assert says in refusal(uri)


def test_a_hub_that_does_not_answer_ends_in_one_clear_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    said = refusal("hf://datasets/ILSVRC/imagenet-1k")
    assert "huggingface.co cannot be reached" in said
    assert "give a local copy" in said
