"""Each attack through the command line, on the real program and on the program without its defence; each twin beside it."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from attacks import scene
from attacks.scene import Scene, Stage
from attacks.table import ATTACKS, Attack
from evolve import sandbox
from evolve.policy import seed_for

pytestmark = pytest.mark.skipif(sandbox.find().name == "none", reason=f"no sandbox: {sandbox.find().reason}")
SEED = 3
PAID = ("spends_more_on_fewer_steps",)  # twins that are really better, and go all the way to a person


@pytest.fixture
def planted() -> Iterator[dict[str, str]]:
    """A server on this machine with something worth fetching, and the seed that the journal shows."""
    name = f"\0evolve-{uuid.uuid4().hex}"
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    servers[1].bind(name)
    servers[1].listen()

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.sendall(b"canary-of-the-network")
            connection.close()

    for server in servers:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
    yield {
        "0PORT0": str(servers[0].getsockname()[1]),
        "NAME0": name[1:],
        "0SEED0": str(seed_for(SEED, 0)),
        '"0NEST0"': "(" * 5000 + "1" + ")" * 5000,
    }
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def run(attack: Attack, made: Scene, planted: dict[str, str], twin: bool = True) -> tuple[scene.Outcome, ...]:
    """The outcomes of the attack and of its twin, which is trained after it in the same campaign."""
    made.planted = planted
    ids = [made.propose("twins", attack.twin)] if twin else []  # the last one is trained first
    ids = [made.propose("payloads", attack.payload), *ids]
    made.resume()
    return tuple(made.outcome(candidate) for candidate in ids)


def is_well(twin: scene.Outcome, name: str) -> None:
    """An honest edit passes its checks, is trained, and gets the score that it is worth."""
    assert not twin.check
    assert twin.trial["state"] == "COMPLETE"
    if name in PAID:
        assert twin.score > 0.9 and twin.pending
    else:
        assert 0.05 < twin.score < 0.25
    seen = twin.integrity
    assert seen["canary"] == "untouched", "and no alarm is raised for it"
    assert not [seen[what] for what in ("spawned", "connected", "native") if seen[what]]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.payload)
def test_an_attack_gets_nothing_and_its_honest_twin_is_scored(
    attack: Attack, stage: Stage, tmp_path: Path, planted: dict[str, str]
) -> None:
    made = stage.scene(tmp_path, (), *attack.words)
    found, twin = run(attack, made, planted)
    assert not attack.gain(found), found.said
    if attack.error:
        assert found.error.startswith(attack.error) or found.check
        assert found.trial.get("score") is None
    else:
        assert not found.check
        assert found.trial["state"] == "COMPLETE", found.error
    is_well(twin, attack.twin)
    made.evolve("log")  # the history can be read to its end


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.without], ids=lambda a: a.payload)
def test_without_its_defence_the_attack_gets_through(
    attack: Attack, stage: Stage, tmp_path: Path, planted: dict[str, str]
) -> None:
    (found,) = run(attack, stage.scene(tmp_path, attack.without, *attack.words), planted, twin=False)
    assert attack.gain(found), (found.error, found.said)


LAYERS = [(a, name) for a in ATTACKS if len(a.without) > 1 and a.layers for name in a.without]


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "name"), LAYERS, ids=lambda x: x if isinstance(x, str) else x.payload)
def test_each_of_several_layers_blocks_the_attack_alone(
    attack: Attack, name: str, stage: Stage, tmp_path: Path, planted: dict[str, str]
) -> None:
    (found,) = run(attack, stage.scene(tmp_path, (name,), *attack.words), planted, twin=False)
    assert not attack.gain(found), (found.error, found.said)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5, 6])
@pytest.mark.parametrize("name", sorted({a.twin for a in ATTACKS}))
def test_an_honest_twin_is_never_rejected(name: str, seed: int, stage: Stage, tmp_path: Path) -> None:
    made = stage.scene(tmp_path, (), f"seed={seed}")
    candidate = made.propose("twins", name)
    made.resume()
    is_well(made.outcome(candidate), name)
