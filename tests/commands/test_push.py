import base64
import dataclasses
import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from runs import train

from vitlora.adapters import LinearProbe, Lora
from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.cli.main import main as vitlora
from vitlora.commands.push import push
from vitlora.errors import BundleError, UsageError, VitloraError

REPO = "jane/photos"
FILES = {
    "vitlora.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "config.yaml",
    "pictures.safetensors",
}


class Hub(ThreadingHTTPServer):
    """The part of the hub's HTTP interface that a push needs, with Git LFS for large files.

    Attributes:
        repos: Name of a repository -> whether it is private.
        commits: For each commit its message and its files.
        asked: Method and path of each request, in order.
        refusals: End of a path -> status to answer there.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, bool] = {}
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refusals: dict[str, int] = {}


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, fields: Any, status: int = 200) -> None:
        content = json.dumps(fields).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refused(self) -> bool:
        """Answers a request of somebody who may not write, as the hub does."""
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "")
        status = next((code for end, code in hub.refusals.items() if path.endswith(end)), None)
        if token == "Bearer reads" and self.command == "POST":
            status = 403
        elif token not in ("Bearer writes", "Bearer reads"):
            status = 401
        if status is None:
            return False
        self._body()
        self._answer({"error": "the hub's own\nreason"}, status)
        return True

    def do_GET(self) -> None:
        if self._refused():
            return
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        private = self.server.repos.get(name)
        known = private is not None
        fields = {"id": name, "sha": "0" * 40, "private": private, "siblings": []}
        self._answer(fields if known else {"error": "Not found"}, 200 if known else 404)

    def do_PUT(self) -> None:  # like the hub's storage, without a token: the URL is signed
        content = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.large[oid] = content
        self._answer({})

    def do_POST(self) -> None:
        if self._refused():
            return
        body, hub = self._body(), self.server
        match self.path.partition("?")[0].strip("/").split("/"):
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                metadata = yaml.safe_load(json.loads(body)["content"].split("---")[1])
                assert metadata["pipeline_tag"] == "image-classification"
                self._answer({"errors": [], "warnings": []})
            case ["api", "models", *name, "preupload", "main"] if "/".join(name) in hub.repos:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith("tensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self._answer({"files": files})
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = json.loads(body)["objects"]
                for entry in objects:
                    entry["actions"] = {"upload": {"href": f"{hub.url}/large/{entry['oid']}"}}
                self._answer({"transfer": "basic", "objects": objects})
            case ["api", "models", *name, "commit", "main"] if "/".join(name) in hub.repos:
                self._commit([json.loads(line) for line in body.splitlines()])
                url = f"{hub.url}/{'/'.join(name)}/commit/{'0' * 40}"
                self._answer({"commitUrl": url, "commitOid": "0" * 40})
            case _:
                self._answer({"error": "no such page"}, 404)

    def _create(self, wanted: dict[str, Any]) -> None:
        hub, name = self.server, f"{wanted['organization']}/{wanted['name']}"
        fields = {"url": f"{hub.url}/{name}"}
        known = name in hub.repos
        if known:
            fields["error"] = "You already created this model repo"
        else:  # older versions of the client say private, newer ones visibility
            hub.repos[name] = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self._answer(fields, 409 if known else 200)

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines[1:]:
            entry = line["value"]
            files[entry["path"]] = (
                base64.b64decode(entry["content"])
                if line["key"] == "file"
                else self.server.large[entry["oid"]]
            )
        self.server.commits.append((lines[0]["value"]["summary"], files))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the hub's own storage protocol
        monkeypatch.setenv("HF_TOKEN", "writes")
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any, make_folder: Any) -> Path:
    where = tmp_path_factory.mktemp("made")
    root = make_folder(where / "photos", classes=("Conservas de café", "tyre"))
    train(root, where / "bundle", adapter=Lora(rank=2))
    return where / "bundle"


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """Returns a bundle as a run leaves it: with logs, and with what a user put there."""
    folder = Path(shutil.copytree(made, tmp_path / "bundle"))
    (folder / "logs").mkdir()
    for name in ("logs/metrics.csv", "last.ckpt", "notes.txt", ".env"):
        (folder / name).write_text("secret")
    return folder


def refused(
    folder: Path, repository: str, private: bool = False, kind: type[VitloraError] = VitloraError
) -> str:
    """Returns what a push says that fails."""
    with pytest.raises(kind) as caught:
        push(folder, repository, private=private)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_push_is_one_commit_of_the_bundles_files_and_nothing_else(
    bundle: Path, hub: Hub, tmp_path: Path, capsys: Any
) -> None:
    (bundle / "README.md").write_text("---\npipeline_tag: image-classification\n---\nmine\n")
    assert vitlora(["push", str(bundle), REPO, "--private", "--message", "first try"]) == 0
    assert hub.repos == {REPO: True}
    ((message, files),) = hub.commits
    assert message == "first try"
    assert files == {name: (bundle / name).read_bytes() for name in {*FILES, "README.md"}}
    large = {files[name] for name in files if name.endswith(".safetensors")}
    assert set(hub.large.values()) == large  # by the large way
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"uploading to the private {hub.url}/{REPO}:"
    assert {line.split()[0] for line in out[1:7]} == files.keys()
    assert out[-1] == f"{hub.url}/{REPO}"

    (tmp_path / "fetched").mkdir()
    for name, content in files.items():
        (tmp_path / "fetched" / name).write_bytes(content)
    assert load_bundle(tmp_path / "fetched").record == load_bundle(bundle).record


def test_a_push_says_what_its_files_give_away(bundle: Path, hub: Hub, capsys: Any) -> None:
    assert vitlora(["push", str(bundle), REPO]) == 0
    said = capsys.readouterr().err
    assert "note: pictures.safetensors reveals whether a given picture was used in training" in said


def test_json_says_where_it_went(bundle: Path, hub: Hub, capsys: Any) -> None:
    assert vitlora(["push", str(bundle), REPO, "--private", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)  # nothing else is printed there
    ((_, files),) = hub.commits
    assert found["files"] == {name: len(content) for name, content in files.items()}
    assert (found["repository"], found["url"]) == (REPO, f"{hub.url}/{REPO}")
    assert (found["private"], found["checkpoint"]) == (True, str(bundle))
    assert said.err.startswith(f"uploading to the private {hub.url}/{REPO}:")


def test_a_bundle_without_a_card_gets_one_on_the_hub_alone(bundle: Path, hub: Hub) -> None:
    (bundle / "README.md").unlink(missing_ok=True)
    assert vitlora(["push", str(bundle), REPO]) == 0
    ((message, files),) = hub.commits
    assert message == "Lora on vitlora/vit_micro_patch8_96, by vitlora"
    assert files.keys() == {*FILES, "README.md"}
    assert "Conservas de café" in files["README.md"].decode()
    assert not (bundle / "README.md").exists()
    assert hub.repos == {REPO: False}


def test_a_second_push_is_a_second_commit_to_the_same_repository(bundle: Path, hub: Hub) -> None:
    assert vitlora(["push", str(bundle), REPO, "--private"]) == 0
    read = load_bundle(bundle)
    tensors = {name: tensor + 1 for name, tensor in read.tensors.items()}
    save_bundle(bundle, read.record, tensors, read.peft, "run: 2\n")
    assert vitlora(["push", str(bundle), REPO]) == 0
    assert len(hub.commits) == 2
    assert hub.commits[1][1]["config.yaml"] == b"run: 2\n"
    assert hub.repos == {REPO: True}


def test_what_an_earlier_bundle_left_in_the_folder_stays_there(
    bundle: Path, hub: Hub, tmp_path: Path, make_folder: Any
) -> None:
    train(make_folder(tmp_path / "data"), tmp_path / "probe", adapter=LinearProbe())
    shutil.copytree(tmp_path / "probe", bundle, dirs_exist_ok=True)
    assert (bundle / "adapter_config.json").exists()  # LoRA's
    assert vitlora(["push", str(bundle), REPO]) == 0
    assert "adapter_config.json" not in hub.commits[0][1]


def test_a_save_that_was_torn_is_pushed_as_it_loads(bundle: Path, hub: Hub) -> None:
    expected = {name: (bundle / name).read_bytes() for name in FILES}
    (bundle / "config.yaml").rename(bundle / ".config.yaml.new")
    (bundle / "config.yaml").write_text("older: 1\n")
    (bundle / ".adapter_config.json.new").write_text("a newer bundle's, which never counted")
    assert vitlora(["push", str(bundle), REPO]) == 0
    files = hub.commits[0][1]
    assert {name: files[name] for name in FILES} == expected


def test_local_paths_are_told_before_they_are_published(
    bundle: Path, hub: Hub, tmp_path: Path, capsys: Any
) -> None:
    read = load_bundle(bundle)
    record = dataclasses.replace(read.record, weights="C:\\Users\\jane\\vit.pth")
    run = "data: {root: photos, classes: [a, /home/jane/b]}\n"
    save_bundle(tmp_path / "told", record, read.tensors, read.peft, run)
    assert vitlora(["push", str(tmp_path / "told"), REPO]) == 0
    (note,) = (line for line in capsys.readouterr().err.splitlines() if "machine: " in line)
    paths = note.partition("machine: ")[2].split(", ")
    assert set(paths) == {"/home/jane/b", "C:\\Users\\jane\\vit.pth", record.split["root"]}


def test_a_run_that_is_none_is_refused_before_a_repository_is_made(
    bundle: Path, hub: Hub, tmp_path: Path
) -> None:
    read = load_bundle(bundle)
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    for number, run in enumerate(("a: [", "\n".join(["a0: &a0 [/x]", *lines]))):
        folder = tmp_path / str(number)
        save_bundle(folder, read.record, read.tensors, read.peft, run)
        assert "describes no run" in refused(folder, REPO)
    assert not hub.repos and not hub.commits


def test_private_is_not_promised_where_the_repository_is_public(bundle: Path, hub: Hub) -> None:
    hub.repos[REPO] = False
    said = refused(bundle, REPO, private=True)
    assert f"{REPO} exists and is public" in said
    assert not hub.commits
    assert not hub.large


@pytest.mark.parametrize(
    ("token", "refusals", "expected"),
    [
        ("wrong", {}, ["(401: the hub's own reason)", "the token is not valid", "hf auth login"]),
        ("reads", {}, ["(403: the hub's own reason)", "the token has no write access"]),
        ("writes", {"/create": 404}, ["(404: the hub's own reason)", "check the owner's name"]),
        ("writes", {"/create": 400}, ["(400: the hub's own reason)"]),
        ("writes", {"/create": 500}, ["(500: the hub's own reason)", "try again later"]),
        ("writes", {"/preupload/main": 403}, ["(403: ", "has no write access"]),
        ("writes", {"/batch": 403}, ["(403: ", "has no write access"]),
        ("writes", {"/commit/main": 409}, ["(409: ", "somebody else is changing it"]),
        ("writes", {"/commit/main": 412}, ["(412: ", "somebody else has just changed it"]),
    ],
)
def test_the_hubs_refusals_are_one_line(
    bundle: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    refusals: dict[str, int],
    expected: list[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    hub.refusals = refusals
    said = refused(bundle, REPO)
    for part in (f"{hub.url}/{REPO} was refused", *expected):
        assert part in said
    assert not hub.commits


def test_no_network_is_one_line(bundle: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    said = refused(bundle, REPO)
    assert said.startswith(f"the push to {url}/{REPO} failed (Connect")
    assert said.endswith("; is there a network?")


def test_without_a_token_nothing_is_asked(
    bundle: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    said = refused(bundle, REPO)
    assert "hf auth login" in said
    assert "HF_TOKEN" in said
    assert not hub.asked


@pytest.mark.parametrize(
    "repo",
    ["photos", "jane/", "/photos", "jane/a/b", "https://huggingface.co/jane/a", "jané/a", ""],
)
def test_a_repository_is_an_owner_and_a_name(bundle: Path, hub: Hub, repo: str) -> None:
    said = refused(bundle, repo, kind=UsageError)
    assert f"REPOSITORY is '{repo}'; expected OWNER/NAME" in said
    assert not hub.asked


def test_a_name_the_hub_does_not_take_is_one_line(bundle: Path, hub: Hub) -> None:
    assert "a--b" in refused(bundle, "jane/a--b")
    assert not hub.commits


def test_a_damaged_bundle_stays_here(bundle: Path, hub: Hub) -> None:
    path = bundle / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert path.name in refused(bundle, REPO, kind=BundleError)
    refused(bundle / "logs", REPO, kind=BundleError)
    assert not hub.asked
