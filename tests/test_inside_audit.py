"""`evolve/inside/audit.py` as the sandbox runs it. A program behaves as without it, and each report has a silent twin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

AUDIT = str(Path(__file__).parent.parent / "evolve/inside/audit.py")
TELL = """import sys
shown = {k: v for k, v in globals().items() if isinstance(v, (str, dict, list, type(None))) and k != "shown"}
spec = __spec__ and (__spec__.name, __spec__.origin)
kind = getattr(__loader__, "__name__", type(__loader__).__name__)
print(shown, spec, kind, sys.argv, sys.path, sys.modules["__main__"].__dict__ is globals(), __builtins__)
"""
FAIL = "def f():\n    raise ValueError('é')\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    f()\n"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with programs, as a script, a package, a folder and a link."""
    package = tmp_path / "package"
    package.mkdir()
    for place in (tmp_path / "tell.py", package / "tell.py", package / "__main__.py"):
        place.write_text(TELL)
    (package / "__init__.py").touch()
    (package / "link.py").symlink_to("../tell.py")
    for name, text in {
        "fail.py": FAIL,
        "syntax.py": "def (\n",
        "seven.py": "import sys\nsys.exit(7)\n",
        "words.py": "import sys\nsys.exit('the last words')\n",
        "hard.py": "import os\nos._exit(9)\n",
        "hook.py": "import sys\nsys.excepthook = lambda *e: print('mine', e[1])\n1 / 0\n",
        "end.py": "import atexit, threading\natexit.register(print, 'at exit')\n"
        "threading.Timer(0.05, print, ['thread']).start()\n1 / 0\n",
        "interrupted.py": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n",
        "spawn.py": "import multiprocessing as m\ndef f():\n    print(__name__)\n"
        "if __name__ == '__main__':\n    p = m.get_context('spawn').Process(target=f)\n    p.start()\n    p.join()\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(
    words: list[str], cwd: Path, audit: bool, flags: tuple[str, ...] = ()
) -> tuple[subprocess.CompletedProcess[str], list[bytes]]:
    """A program with or without the audit, and its reports."""
    read, write = os.pipe()
    received: list[bytes] = []

    def receive() -> None:
        while data := os.read(read, 65536):
            received.append(data)

    reader = threading.Thread(target=receive)
    reader.start()
    command = [sys.executable, *flags, *([AUDIT] if audit else []), *words]
    environment = os.environ | {"EVOLVE_AUDIT_FD": str(write), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, pass_fds=[write], capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        os.close(write)
        reader.join()
        os.close(read)
    return done, b"".join(received).splitlines()


def reports(code: str, cwd: Path, *words: str) -> dict[str, list[str]]:
    """What the program's code is reported to have reached for, by kind."""
    done, lines = run(["-c", code, *words], cwd, audit=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in lines:
        report = json.loads(line)
        found.setdefault(report["kind"], []).append(report["what"])
    return found


# ---------------------------------------------------------------- as the interpreter would


@pytest.mark.parametrize("flags", [(), ("-S", "-E", "-B"), ("-P",), ("-I",)], ids=" ".join)
@pytest.mark.parametrize(
    "words",
    [
        ["tell.py"],
        ["tell.py", "-m", "a b", "--out", ""],
        ["./package/tell.py", "x"],
        ["package/link.py"],
        ["-m", "tell", "-c"],
        ["-m", "package.tell", "--config", "c.json"],
        ["-m", "package", "x"],
        ["package", "x"],
        ["-c", TELL, "x", "-m"],
        ["-m", "no_such_module"],
        ["no_such_script.py"],
        ["fail.py"],
        ["-m", "fail"],
        ["-c", FAIL],
        ["syntax.py"],
        ["-m", "syntax"],
        ["seven.py"],
        ["words.py"],
        ["hard.py"],
        ["hook.py"],
        ["end.py"],
        ["spawn.py"],
        ["-m", "spawn"],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_program_cannot_be_told_from_one_that_the_interpreter_runs(
    words: list[str], flags: tuple[str, ...], programs: Path
) -> None:
    plain, none = run(words, programs, audit=False, flags=flags)
    audited, lines = run(words, programs, audit=True, flags=flags)
    assert (audited.returncode, audited.stdout, audited.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert not none
    assert all(json.loads(line) for line in lines)


def test_the_comparison_of_programs_sees_an_exit_code_and_a_traceback(programs: Path) -> None:
    assert run(["seven.py"], programs, audit=True)[0].returncode == 7
    assert "line 2, in f" in run(["fail.py"], programs, audit=True)[0].stderr


def test_an_interrupted_program_dies_of_the_interrupt(programs: Path) -> None:
    done, _ = run(["interrupted.py"], programs, audit=True)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_the_descriptor_is_neither_named_to_the_program_nor_left_to_its_children(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\nprint(os.environ.get('EVOLVE_AUDIT_FD'))\n"
        "print(subprocess.run([sys.executable, '-c', 'import os, sys; os.fstat(int(sys.argv[1]))', sys.argv[1]],"
        " close_fds=False, capture_output=True).returncode)"
    )
    read, write = os.pipe()
    command = [sys.executable, AUDIT, "-c", code, str(write)]
    environment = os.environ | {"EVOLVE_AUDIT_FD": str(write)}
    done = subprocess.run(command, env=environment, pass_fds=[write], capture_output=True, text=True, check=False)
    os.close(write), os.close(read)
    assert done.stdout.split() == ["None", "1"]


def test_without_a_descriptor_or_with_a_bad_one_the_program_runs_all_the_same(programs: Path) -> None:
    for value in ("", "nonsense", "77"):
        environment = {k: v for k, v in os.environ.items() if k != "EVOLVE_AUDIT_FD"} | {"EVOLVE_AUDIT_FD": value}
        command = [sys.executable, AUDIT, "seven.py"]
        done = subprocess.run(command, cwd=programs, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 7
        assert ("no audit" in done.stderr) == (value == "77")


# ---------------------------------------------------------------- what is reported


def test_imports_are_reported_by_their_top_level_name_once_and_also_where_they_fail(tmp_path: Path) -> None:
    code = "import xml.dom.minidom, json, json\ntry:\n    import gone.deeper\nexcept ImportError: pass"
    found = reports(code, tmp_path)["import"]
    assert {"xml", "json", "gone"} <= set(found)
    assert len(found) == len(set(found))
    assert not {"xml", "gone"} & set(reports("import json", tmp_path)["import"])


def test_files_outside_are_reported_and_those_of_the_interpreter_and_the_harness_are_not(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    outside = "open('/etc/passwd').close()\nopen(b'/etc/hostname').close()\nimport os, pathlib\n"
    outside += "os.close(os.open('/etc/hosts', os.O_RDONLY))\npathlib.Path('/etc/group').read_text()\nopen('/proc/self/stat').close()"
    assert reports(outside, tmp_path)["open"] == [
        "/etc/passwd", "/etc/hostname", "/etc/hosts", "/etc/group", "/proc/self/stat",
    ]  # fmt: skip
    inside = "open('mine.txt').close()\nimport os, sys, decimal\nopen(os.path.abspath('mine.txt')).close()\nopen(decimal.__file__).close()"
    assert "open" not in reports(inside, tmp_path)


def test_a_way_around_by_dots_or_a_link_is_reported_by_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "near").symlink_to("link2")
    (tmp_path / "link2").write_text("x")
    code = "open('link').close()\nopen('" + "../" * 20 + "etc/hostname').close()\nimport os, json\n"
    code += "open(os.path.dirname(json.__file__) + '" + "/.." * 20 + "/etc/hosts').close()"
    assert reports(code, tmp_path)["open"] == ["/etc/passwd", "/etc/hostname", "/etc/hosts"]
    assert "open" not in reports(
        "open('near').close()\nopen('./../' + __import__('os').path.basename(__import__('os').getcwd()) + '/near')",
        tmp_path,
    )


def test_a_relative_path_means_another_file_after_a_change_of_folder(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("x")
    assert reports("import os\nopen('passwd').close()\nos.chdir('/etc')\nopen('passwd').close()", tmp_path)["open"] == [
        "/etc/passwd"
    ]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder outside of /tmp, where a written file is told of by its own name."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        yield Path(folder)


def test_writing_is_reported_in_the_harness_too_and_reading_there_is_not(elsewhere: Path) -> None:
    code = "open('a', 'w').close()\nopen('a', 'r+').close()\nopen('b', 'ab').close()\nimport os\nos.close(os.open('c', os.O_CREAT))"
    assert reports(code, elsewhere)["open"] == [f"write {elsewhere}/{name}" for name in "abc"]
    assert "open" not in reports("open('a').close()\nopen('/dev/null', 'w').close()", elsewhere)


def test_a_name_drawn_at_random_in_tmp_is_told_of_as_the_folder(tmp_path: Path) -> None:
    code = "import tempfile\ntempfile.TemporaryFile(dir='/tmp')\nopen('/tmp/x', 'w').close()\nimport os\nos.unlink('/tmp/x')"
    assert set(reports(code, tmp_path)["open"]) == {"write /tmp"}


def test_what_the_command_line_names_is_the_programs_own_and_its_neighbour_is_not(
    elsewhere: Path, tmp_path: Path
) -> None:
    (elsewhere / "out").mkdir()
    (elsewhere / "config.json").write_text("{}")
    (elsewhere / "config.jsonx").write_text("{}")
    own = ["--config", str(elsewhere / "config.json"), "--out", str(elsewhere / "out"), "/"]
    code = "import sys\nopen(sys.argv[2]).close()\nopen(sys.argv[4] + '/weights', 'w').close()"
    assert "open" not in reports(code, tmp_path, *own)
    code = "import sys\nopen(sys.argv[2] + 'x').close()\nopen(sys.argv[4] + '2', 'w').close()\nopen(sys.argv[4] + '/../y', 'w').close()"
    assert reports(code, tmp_path, *own)["open"] == [
        f"{elsewhere}/config.jsonx", f"write {elsewhere}/out2", f"write {elsewhere}/y",
    ]  # fmt: skip


def test_writing_to_scratch_is_silent(tmp_path: Path) -> None:
    code = "import contextlib\nwith contextlib.suppress(OSError):\n    open('/scratch/a', 'w')\nwith contextlib.suppress(OSError):\n    open('%s/a', 'w')"
    assert "open" not in reports(code % "/scratch/../scratch", tmp_path)
    assert reports(code % "/scratchy", tmp_path)["open"] == ["write /scratchy/a"]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import subprocess\nsubprocess.run(['true', 'x'])", "subprocess.Popen true x"),
        ("import os\nos.system('true')", "os.system true"),
        ("import os\nif os.fork():\n    os.wait()\nelse:\n    os._exit(0)", "os.fork"),
        ("import os\nos.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)", "os.posix_spawn /bin/true true"),
        ("import os\nos.execv('/bin/true', ['true'])", "os.exec /bin/true true"),
    ],
    ids=["subprocess", "system", "fork", "posix_spawn", "exec"],
)
def test_another_process_is_reported(tmp_path: Path, code: str, what: str) -> None:
    assert reports(code, tmp_path)["spawn"][0] == what


def test_threads_and_the_modules_of_processes_are_no_processes(tmp_path: Path) -> None:
    code = "import subprocess, os, multiprocessing, threading\nt = threading.Thread(target=print)\nt.start()\nt.join()"
    assert "spawn" not in reports(code, tmp_path)


def test_the_network_is_reported_with_its_address_and_the_module_alone_is_not(tmp_path: Path) -> None:
    code = (
        "import contextlib, socket\nwith contextlib.suppress(OSError):\n    socket.create_connection(('127.0.0.1', 1))\n"
        "with contextlib.suppress(OSError):\n    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
    )
    found = reports(code, tmp_path)["connect"]
    assert any(what.startswith("socket.getaddrinfo 127.0.0.1 1") for what in found)
    assert "socket.connect 127.0.0.1 1" in found
    assert "socket.sendto 127.0.0.1 9" in found
    assert "connect" not in reports("import socket, ssl, http.client, urllib.request", tmp_path)


def test_what_leaves_pythons_sight_is_reported_and_the_interpreters_own_extensions_are_not(tmp_path: Path) -> None:
    found = reports("import ctypes\nctypes.CDLL('libc.so.6').getpid", tmp_path)["native"]
    assert {"dlopen libc.so.6", "dlsym getpid of libc.so.6"} <= set(found)
    assert "native" not in reports("import zlib, _json, math, array, select", tmp_path)


def test_an_extension_module_from_elsewhere_is_reported(tmp_path: Path) -> None:
    (tmp_path / "fast.so").write_bytes(b"\x7fELF")
    code = "import contextlib\nwith contextlib.suppress(ImportError):\n    import fast"
    assert reports(code, tmp_path)["native"] == [f"extension {tmp_path}/fast.so"]


def test_each_kind_is_bounded_and_the_rest_counted(tmp_path: Path) -> None:
    code = "import os\nfor i in range(1000):\n    try:\n        open(f'/nowhere/{i}')\n    except OSError: pass\nos.system('true')"
    done, lines = run(["-c", code], tmp_path, audit=True)
    found = [json.loads(line) for line in lines]
    assert done.returncode == 0
    assert len([r for r in found if r["kind"] == "open"]) == 200
    assert [r["count"] for r in found if r["kind"] == "dropped"] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert [r["what"] for r in found if r["kind"] == "spawn"] == ["os.system true"]


def test_odd_text_stays_one_line_of_json_each(tmp_path: Path) -> None:
    names = ['/no/\n"kind": "x', "/no/\\", "/no/\x1b[31m", "/no/é\U0001f600", "/no/\udcff", "/no/" + "x" * 3000]
    code = f"for name in {names!r}:\n    try:\n        open(name)\n    except OSError: pass"
    found = reports(code, tmp_path)["open"]
    assert found[:3] == names[:3]
    assert found[3:5] == ["/no/é\ufffd", "/no/\ufffd"]
    assert len(found[5]) == 300


def test_a_full_pipe_neither_stops_nor_fails_the_program_and_a_closed_one_is_nothing_to_it(tmp_path: Path) -> None:
    code = "for i in range(150):\n    try:\n        open('/no/' + 'x' * 200 + str(i))\n    except OSError: pass\nprint('done')"
    for close in (False, True):
        read, write = os.pipe()
        os.set_blocking(write, False)
        if close:
            os.close(read)
        else:
            while True:
                try:
                    os.write(write, b"x" * 4096)
                except BlockingIOError:
                    break
        os.set_blocking(write, True)  # as a pipe is when it is handed over
        command = [sys.executable, AUDIT, "-c", code]
        environment = os.environ | {"EVOLVE_AUDIT_FD": str(write)}
        done = subprocess.run(
            command, env=environment, pass_fds=[write], capture_output=True, text=True, timeout=30, check=False
        )
        os.close(write)
        if not close:
            os.close(read)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_descriptor_that_the_program_has_given_another_file_is_not_written_to(tmp_path: Path) -> None:
    code = "import os\nos.closerange(3, 100)\nfds = [os.open('mine', os.O_CREAT | os.O_WRONLY) for _ in range(60)]\nos.system('true')"
    done, lines = run(["-c", code], tmp_path, audit=True)
    assert done.returncode == 0
    assert (tmp_path / "mine").read_bytes() == b""
    assert not [line for line in lines if b"os.system" in line]


def test_what_goes_wrong_in_the_audit_is_nothing_to_the_program(tmp_path: Path) -> None:
    code = (
        "import ctypes\nclass Odd(ctypes.CDLL):\n    def __getattribute__(self, name):\n"
        "        if name == '_name':\n            raise KeyError('mine')\n        return super().__getattribute__(name)\n"
        "library = ctypes.CDLL(None)\nlibrary.__class__ = Odd\nprint(library.getpid() > 0)"
    )
    done, _ = run(["-c", code], tmp_path, audit=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_start_of_python_under_audit_loads_no_module_that_it_would_not_have(tmp_path: Path) -> None:
    code = "import sys; print(sorted(sys.modules))"
    (tmp_path / "loaded.py").write_text(code)
    for words in (["-c", code], ["loaded.py"], ["-m", "loaded"]):
        plain, audited = (run(words, tmp_path, audit=audit)[0].stdout for audit in (False, True))
        assert audited == plain
