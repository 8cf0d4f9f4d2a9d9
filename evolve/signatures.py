"""Signatures over approvals, by OpenSSH: `ssh-keygen -Y sign` and `-Y verify`, namespace `evolve-approval`.

A name that a person types is a claim; a signature by a key that the campaign's allowed signers list for that name is none.
What is signed says campaign, candidate, content and decision, so that it holds for nothing else: not for another content of
the candidate (each round of evidence has its own), not for a campaign of the same name.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evolve.errors import BadInput, EvolveError
from evolve.tracking_page import campaign_key, plain
from evolve.types import UID_NAME, CampaignStarted, Command

NAMESPACE = "evolve-approval"
NAME = re.compile(
    r"[^\W_](?:[\w .@+-]{0,58}[\w.@+-])?"
)  # of a person: no pattern and no list of OpenSSH's, no brackets
_SECONDS = 120.0  # a person may have to type the passphrase of the key, or touch it


def message(started: CampaignStarted, command: Command) -> bytes:
    """What is signed, as a text that the person who signs can read."""
    lines = [
        "evolve approval, version 1",
        f"campaign {started.campaign} {campaign_key(started)}",
        f"candidate {command.candidate_id}",
        f"content {command.content_hash}",
        f"decision {command.kind}, confirmed {command.confirmations} time(s)",
    ]
    return ("\n".join(lines) + "\n").encode()


def sign(key: Path, text: bytes) -> str:
    """The armoured signature. ssh-keygen asks for a passphrase at the terminal itself; raises `BadInput` with its words."""
    if not key.is_file():
        raise BadInput(f"--sign must name a private key, or a public one of ssh-agent's, but got {plain(str(key))!r}.")
    done = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], text)
    if done.returncode != 0 or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise BadInput(
            f"--sign needs a key that ssh-keygen can sign with, but it says: {_said(done)}; nothing was decided."
        )
    return done.stdout.decode()


def refusal(allowed: str, started: CampaignStarted, command: Command) -> str:
    """Why the signature of an approval is not enough, or "" where it is.

    Args:
        allowed: the text of an allowed-signers file (`man ssh-keygen`); "" where the campaign asks for no signature. One
            that is there must then fit its content all the same, whoever made it.
    """
    if not allowed and not command.signature:
        return ""
    name = command.by.partition(UID_NAME)[0]
    if not command.signature:
        return (
            f"Approvals of this campaign must be signed, but that of {name!r} is not; use `evolve approve --sign KEY`."
        )
    if not NAME.fullmatch(name):
        return f"An approver's name must be letters, digits, blanks and any of .@+-_, but got {name!r}; use --by NAME."
    with tempfile.TemporaryDirectory(prefix="evolve-") as folder:
        signature, signers = Path(folder, "signature"), Path(folder, "allowed_signers")
        signature.write_text(command.signature)
        signers.write_text(allowed)
        how = ["-Y", "verify", "-f", str(signers), "-I", name] if allowed else ["-Y", "check-novalidate"]
        try:
            done = _ssh_keygen([*how, "-n", NAMESPACE, "-s", str(signature)], message(started, command))
        except EvolveError as error:  # it cannot be checked, so that it does not hold
            return str(error)
    if done.returncode == 0:
        return ""
    return (
        f"An approval must be signed for exactly this content by an allowed signer called {name!r}, but ssh-keygen says:"
        f" {_said(done)}; use --by and --sign of the person who decides."
    )


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return plain((done.stderr or done.stdout).decode(errors="replace")) or f"exit code {done.returncode}"


def _ssh_keygen(arguments: Sequence[str], text: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *arguments], input=text, capture_output=True, timeout=_SECONDS, check=False
        )
    except OSError as error:
        raise EvolveError(f"A signature needs OpenSSH's ssh-keygen, but {error}; install it.") from error
    except subprocess.TimeoutExpired as error:
        raise EvolveError(
            f"ssh-keygen must answer within {_SECONDS:.0f} s, but did not; nothing was decided."
        ) from error
