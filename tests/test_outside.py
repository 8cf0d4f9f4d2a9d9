"""Assets and data outside of a subject's sources: pinned by content, looked at again, read in the jail, found in the hub's cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub_server import COMMIT as FETCHED
from hub_server import hub
from inline import subject as inline_subject

from evolve import commands, config, contents, outside, ray_node, sandbox
from evolve.campaign import subject_version
from evolve.errors import BadInput, EvolveError, TrialFailed
from evolve.executors import LocalExecutor, LocalProcesses, LocalScorer
from evolve.ports import Cancel
from evolve.space import SearchSpace
from evolve.types import Candidate, Subject, Trial, WeightsSpec
from evolve.weights import WeightStore
from evolve.workspace import Snapshot

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_cache(home: Path, kind: str = "models", name: str = "org--tiny") -> Path:
    """A model in the hub's cache as huggingface_hub lays it out; its snapshot folder."""
    repo = home / "hub" / f"{kind}--{name}"
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "snapshots" / COMMIT / "onnx").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for blob, text, links in (("b1", "weights", ["model.bin"]), ("b2", "{}", ["config.json", "onnx/config.json"])):
        (repo / "blobs" / blob).write_text(text)
        for link in links:
            up = "../" * (2 + link.count("/"))
            (repo / "snapshots" / COMMIT / link).symlink_to(f"{up}blobs/{blob}")
    (repo / "blobs" / "b3").write_text("of another revision")
    return repo / "snapshots" / COMMIT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return hub_cache(tmp_path / "hf")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("import this\n")
    return folder


def taken(root: Path, tmp_path: Path, **places: Path) -> Snapshot:
    parent = tmp_path / "campaign" / "code"
    parent.mkdir(parents=True, exist_ok=True)
    return Snapshot.take(root, ["."], parent, outside={f"assets.{name}": str(path) for name, path in places.items()})


# ---------------------------------------------------------------- the pin


def test_a_pin_is_by_content_and_names_no_place(root: Path, model: Path, tmp_path: Path) -> None:
    first = taken(root, tmp_path, base=model)
    text = (first.folder / ".evolve-outside.json").read_text()
    assert set(json.loads(text)) == {"assets.base"} and str(tmp_path) not in text
    assert [p.name for p in first.folder.iterdir() if p.is_dir()] == [], "nothing of the model was copied"
    plain = tmp_path / "elsewhere"
    shutil.copytree(model, plain)  # links become files
    assert taken(root, tmp_path, base=plain).version == first.version
    (plain / "onnx" / "config.json").write_text("{ }")
    changed = taken(root, tmp_path, base=plain).version
    (plain / "onnx" / "config.json").rename(plain / "onnx" / "other.json")
    assert len({first.version, changed, taken(root, tmp_path, base=plain).version}) == 3
    assert taken(root, tmp_path, other=model).version != first.version
    for snapshot in (first, taken(root, tmp_path, base=model)):
        snapshot.verify()


def test_a_single_file_and_one_behind_a_link_are_pinned(root: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("weights")
    assert (
        taken(root, tmp_path, base=model / "model.bin").version == taken(root, tmp_path, base=tmp_path / "file").version
    )


def test_without_anything_outside_a_snapshot_is_what_it_was(root: Path, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    expected = "981630a8fe51dc70d19c4b9c4c523171f494d8aab7ef231ace5a6777a57877c7"
    for given in (None, {}):
        found = Snapshot.take(root, ["."], tmp_path / "code", outside=given)
        assert found.version == expected
        assert [p.name for p in found.folder.iterdir()] == ["train.py"]
        found.verify()


def _set_back(path: Path, content: bytes) -> None:
    before = path.stat()
    time.sleep(0.02)  # the kernel's clock of files is coarse
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file behind a link, its times set back": (lambda m: _set_back(m / "../../blobs/b1", b"weightz"), "has changed"),
    "a file more": (lambda m: (m / "more").write_text(""), "has changed"),
    "a file less": (lambda m: (m / "model.bin").unlink(), "has changed"),
    "another name": (lambda m: (m / "model.bin").rename(m / "model.pt"), "has changed"),
    "a link to other content": (
        lambda m: ((m / "model.bin").unlink(), (m / "model.bin").symlink_to("../../blobs/b2")),
        "has changed",
    ),
    "a link that leads nowhere": (lambda m: (m / "../../blobs/b1").unlink(), "is a link that leads nowhere"),
    "no folder any more": (lambda m: shutil.rmtree(m), "is not there"),
    "a pipe": (lambda m: os.mkfifo(m / "pipe"), "is neither a file nor a folder"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_outside_scores_nothing(name: str, root: Path, model: Path, tmp_path: Path) -> None:
    change, said = CHANGES[name]
    snapshot = taken(root, tmp_path, base=model)
    snapshot.verify()
    change(model)
    with pytest.raises(EvolveError, match=rf"^subject\.assets\.base must stay as it was .*{said}") as error:
        snapshot.verify()
    assert "\n" not in str(error.value) and str(error.value).endswith("start a new campaign.")
    snapshot.verify_copy()


def test_a_pin_that_nobody_looks_at_is_refused(root: Path, model: Path, tmp_path: Path) -> None:
    snapshot = taken(root, tmp_path, base=model)
    with pytest.raises(EvolveError, match=r"must pin what lies outside of it, but assets\.base differs"):
        Snapshot(snapshot.folder, snapshot.version).verify()
    both = Snapshot(snapshot.folder, snapshot.version, {"assets.base": str(model), "data.vault": str(model)})
    with pytest.raises(EvolveError, match=r"but data\.vault differs"):
        both.verify()


def test_content_is_read_once_also_by_several_threads_and_again_where_a_stamp_changed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        time.sleep(0.01)
        return "hash"

    monkeypatch.setattr(contents, "file_hash", counted)
    seen = contents.Contents()
    threads = [threading.Thread(target=seen.hash, args=(model / "model.bin",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == ["model.bin"]
    os.utime(model / "model.bin")
    seen.hash(model / "model.bin")
    assert read == ["model.bin"] * 2


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda p: None, "is not there"),
    "an empty folder": (lambda p: p.mkdir(), "is empty"),
    "a link that leads nowhere": (lambda p: (p.mkdir(), (p / "x").symlink_to("y")), "x is a link that leads nowhere"),
    "a pipe": (lambda p: os.mkfifo(p), "is neither a file nor a folder"),
    "a folder in itself": (lambda p: (p.mkdir(), (p / "x").symlink_to(p)), "is a link to a folder that it lies in"),
    "a link to the campaigns": (
        lambda p: (p.mkdir(), (p / "x").symlink_to(p.parent / "state" / "secret")),
        "which holds what no training may see",
    ),
    "a link that is the campaigns' folder": (
        lambda p: p.symlink_to(p.parent / "state"),
        "which holds what no training may see",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_pinned_is_said_in_one_line(name: str, root: Path, tmp_path: Path) -> None:
    make, said = UNFIT[name]
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "secret").write_text("secret")
    make(tmp_path / "base")
    with pytest.raises(BadInput, match=rf"^subject\.assets\.base must be a file or folder .*{said}") as error:
        Snapshot.take(root, ["."], tmp_path / "state", tmp_path / "state", {"assets.base": str(tmp_path / "base")})
    assert "\n" not in str(error.value)


def test_what_lies_outside_is_not_copied_where_it_lies_below_the_root(root: Path, tmp_path: Path) -> None:
    (root / "models" / "base").mkdir(parents=True)
    (root / "models" / "base" / "model.bin").write_text("weights")
    (root / "models" / "base" / "link.bin").symlink_to("model.bin")
    (root / "models" / "note.txt").write_text("copied")
    snapshot = taken(root, tmp_path, base=root / "models" / "base")
    assert sorted(str(p.relative_to(snapshot.folder)) for p in snapshot.folder.rglob("*") if p.is_file()) == [
        ".evolve-outside.json", "models/note.txt", "train.py",
    ]  # fmt: skip


def test_a_node_that_has_something_else_says_so_and_keeps_the_copy(root: Path, model: Path, tmp_path: Path) -> None:
    snapshot = taken(root, tmp_path, base=model)
    files = {str(p.relative_to(snapshot.folder)): p.read_bytes() for p in snapshot.folder.rglob("*") if p.is_file()}
    there = ray_node.materialise(tmp_path / "node", snapshot.version, files, {"assets.base": str(tmp_path / "none")})
    assert there is not None, "the copy arrived as it was sent"
    with pytest.raises(EvolveError, match=r"subject\.assets\.base must stay as it was .*none is not there"):
        there.verify()
    there = ray_node.materialise(tmp_path / "node", snapshot.version, None, {"assets.base": str(model)})
    assert there is not None
    there.verify()


def test_a_worker_on_a_node_without_it_does_not_begin(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_node, "_base", lambda: tmp_path)
    snapshot = taken(root, tmp_path, base=model)
    files = {str(p.relative_to(snapshot.folder)): p.read_bytes() for p in snapshot.folder.rglob("*") if p.is_file()}
    worker = ray_node.Node()
    setup = ray_node.Setup(project(assets={"base": str(tmp_path / "none")}), snapshot.version, "none", False)
    with pytest.raises(OSError, match=r"^\S+: subject\.assets\.base must stay as it was .*none is not there") as error:
        worker.begin(setup, files)
    assert "\n" not in str(error.value)
    assert worker.begin(replace(setup, subject=project(assets={"base": str(model)}))) is not None


def test_sources_cannot_bring_pins_of_their_own(root: Path, tmp_path: Path) -> None:
    (root / ".evolve-outside.json").write_text("{}")
    with pytest.raises(BadInput, match=r"must not have a \.evolve-outside\.json, which evolve writes"):
        taken(root, tmp_path)


def project(**changes: object) -> Subject:
    return inline_subject(weights=WeightsSpec(files=("*",)), **changes)


def test_the_place_on_disk_is_no_part_of_a_subjects_version() -> None:
    here = project(assets={"base": "/a/model"}, data={"train": "/a/data", "search": "dev"})
    there = replace(here, assets={"base": "/b"}, data={"train": "/c", "search": "dev"})
    inside = replace(here, assets={"base": "model"})
    assert subject_version(here, "e") == subject_version(there, "e") != subject_version(inside, "e")
    assert subject_version(inside, "e") != subject_version(replace(inside, assets={"base": "other"}), "e")
    assert here.outside == {"assets.base": "/a/model", "data.train": "/a/data"} and project().outside == {}


def test_without_anything_outside_a_projects_version_is_what_it_was() -> None:
    subject = project(assets={"base": "models/base"}, data={"train": "a", "search": "b"})
    assert subject_version(subject, "e") == "654154e5411559daf58d77d8abc4d2dbbbf24a64a0fad3d662c279903900aca5"


# ---------------------------------------------------------------- settings

YAML = {
    "train_cmd": "python train.py --base {asset:base} {params:--key value} --seed {seed} --data {data} --out {out}",
    "score_cmd": "python score.py --base {asset:base} --model {weights} --data {data} --config {config} --out {out}",
    "objective": {"accuracy": "maximize"},
    "space": {"x": {"low": 0.0, "high": 1.0, "default": 0.5}},
    "limits": {"train_seconds": 20, "score_seconds": 20, "processes": 1},
    "base": {"epochs": 3},
    "editable": ["train.py"],
}


def loaded(root: Path, **changes: object) -> config.Config:
    (root / "evolve.yaml").write_text(yaml.safe_dump(YAML | changes))
    return config.load([f"subject={root / 'evolve.yaml'}", f"state_dir={root / '.evolve'}"])


def test_a_hub_id_becomes_the_snapshot_in_the_cache_without_a_network(
    root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(model.parents[2]))
    data = hub_cache(model.parents[3], "datasets", "org--sums")
    for value in ("hf://org/tiny", "hf://org/tiny@main", f"hf://org/tiny@{COMMIT}"):
        found = loaded(root, assets={"base": value}, data={"train": "hf://org/sums"}).subject
        assert (found.assets["base"], found.data["train"]) == (str(model), str(data))
        assert found.sources == (".",)


@pytest.mark.parametrize("value", ["hf://org/none", "hf://org/tiny@v2", "hf://a/b/c", "hf://"])
def test_a_hub_id_that_cannot_be_had_is_one_line(
    value: str, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(model.parents[2]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=r"^subject\.assets\.base must name a model of the Hugging Face hub") as error:
        loaded(root, assets={"base": value})
    said = str(error.value)
    assert repr(value) in said and "\n" not in said and said.endswith("fetch it where there is a network.")


def test_a_hub_id_that_the_cache_has_not_is_fetched_once(root: Path, tmp_path: Path) -> None:
    (root / "evolve.yaml").write_text(yaml.safe_dump(YAML | {"assets": {"base": "hf://org/new"}, "data": {}}))
    code = f"from evolve import config; print(config.load(['subject={root / 'evolve.yaml'}']).subject.assets['base'])"
    with hub("org/new", {"config.json": b"{}", "model.safetensors": b"weights"}) as (endpoint, asked):
        more = {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": endpoint,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "NO_PROXY": "127.0.0.1",
        }
        said = []
        for _ in range(2):  # where the hub is, huggingface_hub reads at its import
            done = subprocess.run([sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout.strip())
            fetched = len([line for line in asked if line.startswith("GET") and "/resolve/" in line])
            assert fetched == 2
    assert said[0] == said[1] == str(tmp_path / "cache" / "models--org--new" / "snapshots" / FETCHED)
    assert Path(said[0], "model.safetensors").read_bytes() == b"weights"


def test_paths_inside_join_the_sources_and_those_outside_do_not(root: Path, model: Path) -> None:
    (root / "model.bin").write_text("")
    (root / "dev.json").write_text("")
    found = loaded(
        root, sources=["train.py"], assets={"base": "model.bin", "big": f"{model}/"}, data={"train": "dev.json"}
    )
    assert found.subject.sources == ("train.py", "dev.json", "model.bin")
    assert found.subject.outside == {"assets.big": str(model)}


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "an asset that is not there": ({"assets": {"base": "none"}}, "subject.assets.base must exist, but there is no"),
    "imports of a server that a project has not": (
        {"assets": {"base": "train.py"}, "preload": ["torch"]},
        "subject.preload must be empty for a project",
    ),
    "one outside": ({"assets": {"base": "/none/x"}}, "subject.assets.base must exist, but there is no /none/x"),
    "data outside": (
        {"assets": {"base": "train.py"}, "data": {"train": "/none/x"}},
        "subject.data.train must exist, but there is no /none/x",
    ),
    "an asset that the subject has not": (
        {"assets": {"bse": "train.py"}},
        "subject.train_cmd names the asset 'base', which subject.assets has not; did you mean 'bse'?",
    ),
    "a vault in what a training reads": (
        {"assets": {"base": "train.py"}, "data": {"train": "{outer}", "vault": "{outer}/vault"}},
        "subject.data.vault must be apart from what a training reads",
    ),
    "a vault among the assets": (
        {"assets": {"base": "{outer}"}, "data": {"vault": "{outer}/vault"}},
        "subject.data.vault must be apart from what a training reads",
    ),
    "a vault of the project in what is readable": (
        {"assets": {"base": "train.py"}, "data": {"vault": "held"}, "readable": ["{root}"]},
        "subject.data.vault must be apart from what a training reads",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_line(name: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outer" / "vault").mkdir(parents=True)
    (root / "held").mkdir()
    changes, said = WRONG[name]
    text = yaml.safe_dump(changes).replace("{outer}", str(tmp_path / "outer")).replace("{root}", str(root))
    with pytest.raises(BadInput) as error:
        loaded(root, **yaml.safe_load(text))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_subject_of_ours_keeps_its_assets_among_its_sources() -> None:
    with pytest.raises(BadInput, match=r"subject\.assets\.base must be relative to the subject's root"):
        config.load(["subject=quadratic", "subject.assets.base=/x"])


def test_an_asset_is_a_place_of_both_commands() -> None:
    assert commands.expand(["--base={asset:base}", "{asset:none}"], {"asset:base": "/m"}, {}) == [
        "--base=/m",
        "{asset:none}",
    ]
    for known in (commands.TRAIN, commands.SCORE):
        commands.check(["{asset:base}"], known, [], "r", ["base"])
        with pytest.raises(BadInput, match=r"r may hold .*\{asset:NAME\}.* but has \{asset\}"):
            commands.check(["{asset}"], known, [], "r", ["base"])


def test_fresh_problems_confirm_a_project_and_files_alone_do_not(root: Path) -> None:
    assert loaded(root, assets={"base": "train.py"}).subject.unconfirmed
    assert not loaded(root, assets={"base": "train.py"}, fresh_problems=True).subject.unconfirmed


# ---------------------------------------------------------------- in the jail

TRAIN = """
import json, os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
names = ["model.bin", "config.json", "onnx/config.json"]
seen = [open(os.path.join(given["--base"], name)).read() for name in names]
vault = json.load(open("vault.json"))
train = sorted(os.listdir(given["--data"]))
try:
    open(os.path.join(given["--base"], "model.bin"), "a")
    written = True
except OSError:
    written = False
found = {"base": given["--base"], "seen": seen, "train": train, "written": written,
         "others": [p for p in vault["not seen"] if os.path.exists(p)], "config": json.load(open(os.environ["EVOLVE_CONFIG"]))}
print(json.dumps(found))
open(os.path.join(given["--out"], "found.json"), "w").write(json.dumps(found))
"""
SCORE = """
import json, os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print(json.dumps({"data": sorted(os.listdir(given["--data"])), "base": open(os.path.join(given["--base"], "model.bin")).read(),
                  "others": [p for p in json.load(open("vault.json"))["not seen"] if os.path.exists(p)],
                  "config": json.load(open(given["--config"]))}))
json.dump({"accuracy": 0.5}, open(os.path.join(given["--out"], "evaluation.json"), "w"))
"""

needs_jail = pytest.mark.skipif(sandbox.find().name != "bubblewrap", reason="the sandbox needs bubblewrap")


class Bench:
    """A project whose model and data lie outside, and what trains and scores it."""

    def __init__(self, root: Path, model: Path, level: str = "bubblewrap") -> None:
        base = root.parent
        for split in ("train", "dev", "vault"):
            (base / "data" / split).mkdir(parents=True, exist_ok=True)
            (base / "data" / split / f"{split}.json").write_text("[]")
        (root / "train.py").write_text(TRAIN)
        (root / "score.py").write_text(SCORE)
        self.blob = model.parents[1] / "blobs" / "b3"
        self.places = {split: base / "data" / split for split in ("train", "dev", "vault")}
        (root / "vault.json").write_text(json.dumps({"not seen": [*map(str, self.places.values()), str(self.blob)]}))
        data = {
            "train": str(self.places["train"]),
            "search": str(self.places["dev"]),
            "vault": str(self.places["vault"]),
        }
        self.subject = loaded(root, assets={"base": str(model)}, data=data).subject
        campaign = base / "campaign"
        (campaign / "code").mkdir(parents=True, exist_ok=True)
        self.snapshot = Snapshot.take(root, self.subject.sources, campaign / "code", None, self.subject.outside)
        self.local = LocalProcesses(
            self.subject, self.snapshot, campaign / "trials", WeightStore(campaign / "weights"), level
        )
        self.executor, self.scorer = LocalExecutor(self.local), LocalScorer(self.local, "ab" * 32)
        self.candidate = Candidate(SearchSpace(self.subject.space).default(), "v")
        self.weights = ""

    def trained(self, *, jailed: bool) -> dict[str, object]:
        candidate = self.candidate
        if jailed:
            from evolve import patches
            from evolve.types import Block

            before = self.snapshot.texts(["train.py"])
            after = patches.from_blocks(before, [Block("train.py", "    written = True", "    written = 1 == 1")])
            candidate = replace(candidate, patch=patches.make(before, after))
        found = self.executor.train(Trial(0, "c", "search", 0, 7), candidate, lambda point: None, Cancel())
        self.weights = found.weights
        return dict(json.loads([line for line in found.log_tail.splitlines() if line.startswith("{")][-1]))

    def scored(self, split: str) -> dict[str, object]:
        trial = Trial(0, "c", "search", 0, 7, weights=self.weights)
        self.scorer.score([trial], split, 3, Cancel())  # type: ignore[arg-type]
        log = self.local.trials / "00000" / "score.log"
        return dict(json.loads(log.read_text().splitlines()[0]))


@needs_jail
def test_the_jail_shows_assets_with_their_links_and_the_data_of_its_split_alone(root: Path, model: Path) -> None:
    bench = Bench(root, model)
    found = bench.trained(jailed=True)
    assert found["base"] == str(model) and found["seen"] == ["weights", "{}", "{}"]
    assert found["train"] == ["train.json"] and found["written"] is False
    assert found["others"] == [str(bench.places["train"])], "neither other splits nor another revision's files"
    assert found["config"]["assets"] == {"base": str(model)}  # type: ignore[index]
    scored = bench.scored("search")
    assert scored["data"] == ["dev.json"] and scored["base"] == "weights"
    assert scored["others"] == [str(bench.places["dev"])]


@needs_jail
def test_a_scorer_is_given_key_round_and_assets(root: Path, model: Path) -> None:
    bench = Bench(root, model)
    bench.trained(jailed=False)
    given = bench.scored("search")["config"]
    key = given.pop("key")  # type: ignore[attr-defined]
    assert len(bytes.fromhex(key)) == 32 and key != "ab" * 32
    assert given == {
        "weights": "/weights", "split": "search", "seed": 7, "device": "cpu", "round": 3, "n": 2000, "fixed": {"epochs": 3},
        "assets": {"base": str(model)},
    }  # fmt: skip
    assert not (bench.local.trials / "00000" / "score.json").exists()


def test_without_a_jail_the_paths_are_the_same(root: Path, model: Path) -> None:
    bench = Bench(root, model, "none")
    assert bench.trained(jailed=True)["seen"] == ["weights", "{}", "{}"]
    assert bench.trained(jailed=False)["base"] == str(model)
    assert bench.scored("search")["data"] == ["dev.json"]


@needs_jail
def test_links_through_other_links_and_folders_lead_to_the_same_in_the_jail(
    root: Path, model: Path, tmp_path: Path
) -> None:
    real = tmp_path / "disk" / "hf"
    real.parent.mkdir()
    (tmp_path / "hf").rename(real)
    (tmp_path / "hf").symlink_to(real)  # the home of the cache is a link, so that `..` leads through it
    far = tmp_path / "far" / "onnx"
    far.mkdir(parents=True)
    (far / "config.json").symlink_to(tmp_path / "step")
    (tmp_path / "step").symlink_to("far/config")
    (tmp_path / "far" / "config").write_text("{}")
    shutil.rmtree(model / "onnx")
    (model / "onnx").symlink_to(far)
    assert Bench(root, model).trained(jailed=True)["seen"] == ["weights", "{}", "{}"]


@needs_jail
@pytest.mark.parametrize("to", ["campaign/secret", "data/vault/vault.json", "data"])
def test_a_link_to_what_must_not_be_seen_runs_nothing(to: str, root: Path, model: Path, tmp_path: Path) -> None:
    bench = Bench(root, model)
    (tmp_path / "campaign" / "secret").write_text("secret")
    (model / "more").symlink_to(tmp_path / to)
    bench.local.snapshot = Snapshot.take(
        root, bench.subject.sources, tmp_path / "campaign" / "code", None, bench.subject.outside
    )
    with pytest.raises(TrialFailed, match="What edited code can read must lie apart|must not hold"):
        bench.trained(jailed=True)


def test_too_many_links_are_refused_at_the_start(root: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_MOST_LINKS", 1)
    with pytest.raises(ValueError, match="more than 1 links lead out of"):
        outside.shown(str(model))
