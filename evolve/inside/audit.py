"""Runs a Python program as the interpreter would, and reports what it reaches for.

    python FLAGS audit.py -m MODULE ARGS...        python FLAGS audit.py SCRIPT ARGS...        python FLAGS audit.py -c CODE ARGS...

`sys.argv`, `sys.path[0]`, `__main__`, tracebacks and exit codes are those of the same command without `audit.py`; what
differs is `sys.orig_argv` and two frames at the bottom of the stack. Archives and .pyc files are not run.

Reports are JSON lines, `{"kind": "open", "what": "/etc/passwd"}`, to the file descriptor that EVOLVE_AUDIT_FD names, each
distinct item once. The kinds, from Python's own audit events (PEP 578):

    import    top-level name of a module
    open      a path outside of the interpreter's folders, the working directory and /scratch; "write PATH" anywhere but in
              /scratch; nothing at or below an absolute path among the program's own arguments
    spawn     another process: subprocess, os.exec, os.fork, os.posix_spawn, os.system
    connect   a socket, an address, a name to look up
    native    what leaves Python's sight: ctypes' libraries and symbols, extension modules outside of the interpreter's folders
    dropped   `what` is a kind of which more came than is kept, `count` how many (told at 1, 2, 4, 8, ...)

It is an indicator and no protection. Code in the same process can silence it, forge lines, or do things that raise no
event (`_posixsubprocess.fork_exec`, an extension module's own system calls); what it may do is decided by the sandbox alone.
So a report is evidence, and the absence of one is not. The standard library alone, and no module that a start of
Python has not loaded already: it adds a few milliseconds to a start of torch.
"""

import os
import sys

TYPE_CHECKING = False  # as `typing` has it, which is not loaded for this
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FD = "EVOLVE_AUDIT_FD"
SCRATCH = "/scratch"
MOST = {"import": 1500, "open": 200, "spawn": 200, "connect": 200, "native": 200}  # torch alone imports some 500 names
MOST_CHARS = 300
MOST_REMEMBERED = 10_000  # paths that were looked at, so that a loop over files costs little


def watch(fd: int) -> None:
    """Installs the hook. It holds what it needs itself, since it runs until the interpreter's very end."""
    write, fstat, realpath, fspath = os.write, os.fstat, os.path.realpath, os.fspath
    writing_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    os.set_blocking(fd, False)  # a reader that is late must not stop the program
    os.set_inheritable(fd, False)
    about_fd = fstat(fd)
    identity = (about_fd.st_dev, about_fd.st_ino)
    seen: dict[str, set[str]] = {kind: set() for kind in MOST}
    dropped, looked_at = dict.fromkeys(MOST, 0), set[str]()
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    prefixes |= {realpath(prefix) for prefix in prefixes}
    library = tuple(prefix.rstrip("/") + "/" for prefix in prefixes if prefix.strip("/"))
    own = f"/proc/{os.getpid()}"
    given = tuple(realpath(word) + "/" for word in sys.argv[1:] if word.startswith("/") and realpath(word) != "/")
    writable = (SCRATCH + "/", "/dev/null/", *given)
    readable = (*library, realpath(os.getcwd()).rstrip("/") + "/", *writable)

    def escaped(text: str) -> str:
        """As the inside of a JSON string, in ASCII."""
        if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
            return text
        codes = ((c, ord(c)) for c in text)
        plain = (c if " " <= c <= "~" and c not in '"\\' else f"\\u{n if n < 0xD800 else 0xFFFD:04x}" for c, n in codes)
        return "".join(plain)

    def send(line: str) -> bool:
        """Whether it was taken. A descriptor of that number that is not ours any more is not written to."""
        try:
            about = fstat(fd)
            return (about.st_dev, about.st_ino) == identity and write(fd, line.encode()) > 0
        except OSError:
            return False

    def report(kind: str, what: str) -> None:
        known = seen[kind]
        what = what[:MOST_CHARS]
        if what in known:
            return
        if len(known) < MOST[kind]:
            known.add(what)
            if send(f'{{"kind": "{kind}", "what": "{escaped(what)}"}}\n'):
                return
            known.discard(what)
        count = dropped[kind] = dropped[kind] + 1
        if count & (count - 1) == 0:
            send(f'{{"kind": "dropped", "what": "{kind}", "count": {count}}}\n')

    def text(value: object) -> str:
        """Of plain values alone: nothing of the program runs for it."""
        if type(value) is str:
            return value[:MOST_CHARS]
        if type(value) is bytes:
            return value[:MOST_CHARS].decode("utf-8", "replace")
        if type(value) is list or type(value) is tuple:
            return " ".join(text(each) for each in value[:8])
        return str(value) if isinstance(value, (int, type(None))) else f"<{type(value).__name__}>"

    def on_import(event: str, args: "tuple[Any, ...]") -> None:
        report("import", args[0].partition(".")[0])
        if type(args[1]) is str and not args[1].startswith(library):  # only extension modules have a file here
            report("native", "extension " + args[1])

    def on_open(event: str, args: "tuple[Any, ...]") -> None:
        path, flags = args[0], args[2]
        if type(path) is int:
            return
        if type(path) is not str:
            path = os.fsdecode(fspath(path))
        writing = type(flags) is int and flags & writing_flags
        if not writing and path.startswith(library) and "/../" not in path:
            return
        key = "write " + path if writing else path
        if key in looked_at:
            return
        if len(looked_at) >= MOST_REMEMBERED:
            looked_at.clear()
        if path.startswith("/"):  # what a relative one means changes with the working directory
            looked_at.add(key)
        place = realpath(path)
        if place.startswith(own + "/"):
            place = "/proc/self" + place[len(own) :]
        if writing:
            if not (place + "/").startswith(writable):
                # names in /tmp are mostly drawn at random: to tell each would only hide what the pristine harness does too
                report("open", "write /tmp" if place.startswith("/tmp/") else "write " + place)
        elif not (place + "/").startswith(readable):
            report("open", place)

    def on_spawn(event: str, args: "tuple[Any, ...]") -> None:
        what = args[1] if event == "subprocess.Popen" else args[:2]  # the environment is nobody's business
        report("spawn", f"{event} {text(what)}".strip())

    def on_socket(event: str, args: "tuple[Any, ...]") -> None:
        plain = [each for each in args if type(each) in (str, bytes, int, tuple)]  # the socket itself is left out
        report("connect", f"{event} {text(plain)}".strip())

    def on_native(event: str, args: "tuple[Any, ...]") -> None:
        if event == "ctypes.dlopen":
            report("native", "dlopen " + text(args[0]))
        else:
            report("native", f"dlsym {text(args[1])} of {text(getattr(args[0], '_name', None))}")

    handlers: dict[str, Callable[[str, tuple[Any, ...]], None]] = {
        "import": on_import,
        "open": on_open,
        "sqlite3.connect": lambda event, args: on_open(event, (args[0], None, os.O_RDWR)),
    }
    spawns = "subprocess.Popen os.exec os.fork os.forkpty os.posix_spawn os.spawn os.system pty.spawn"
    handlers |= dict.fromkeys(spawns.split(), on_spawn)
    sockets = "__new__ bind connect getaddrinfo gethostbyaddr gethostbyname getnameinfo sendmsg sendto"
    handlers |= dict.fromkeys(["socket." + name for name in sockets.split()], on_socket)
    handlers |= dict.fromkeys(["ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle"], on_native)

    def hook(event: str, args: "tuple[Any, ...]") -> None:
        handler = handlers.get(event)
        if handler is not None:
            try:  # noqa: SIM105 (contextlib is not loaded for this)
                handler(event, args)
            except Exception:  # noqa: BLE001 (whatever it is: the program's own call goes on)
                pass

    sys.addaudithook(hook)


def fresh_main(**more: object) -> "dict[str, Any]":
    """An empty `__main__` in the place of this file's."""
    import builtins  # loaded since the start

    module = type(sys)("__main__")
    vars(module).update(__builtins__=builtins, __annotations__={}, **more)
    sys.modules["__main__"] = module
    return vars(module)


def prepare(words: list[str]) -> "Callable[[], object]":
    """Sets `sys.argv` and `sys.path` for the program named by the command line; what is returned runs it."""
    path = sys.path if sys.flags.safe_path else sys.path[1:]  # else its first place is this file's folder

    def take(first: str, argv: list[str], safe: bool = False) -> None:
        sys.path[:] = [first, *path] if safe or not sys.flags.safe_path else path
        sys.argv[:] = argv

    if words[0] == "-m":
        take(os.getcwd(), ["-m", *words[2:]])
        fresh_main()
        import runpy  # as the interpreter does for -m

        return lambda: runpy._run_module_as_main(words[1])  # type: ignore[attr-defined]
    if words[0] == "-c":
        take("", ["-c", *words[2:]])
        space = fresh_main(__loader__=sys.modules["_frozen_importlib"].BuiltinImporter)
        return lambda: exec(compile(words[1], "<string>", "exec", dont_inherit=True), space)
    if os.path.isdir(words[0]):
        take(os.path.join(os.getcwd(), words[0]), words, safe=True)
        fresh_main()
        import runpy

        return lambda: runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
    file = os.path.join(os.getcwd(), words[0])
    take(os.path.dirname(os.path.realpath(file)), words)
    try:
        with open(file, "rb") as opened:
            source = opened.read()
    except OSError as error:
        sys.stderr.write(f"{sys.executable}: can't open file {file!r}: [Errno {error.errno}] {error.strerror}\n")
        sys.exit(2)
    loader = sys.modules["_frozen_importlib_external"].SourceFileLoader("__main__", file)
    space = fresh_main(__file__=file, __cached__=None, __loader__=loader)
    return lambda: exec(compile(source, file, "exec", dont_inherit=True), space)


def main() -> None:
    words = sys.argv[1:]
    if not words or (words[0] in ("-m", "-c") and len(words) < 2):
        sys.exit("usage: python FLAGS audit.py (-m MODULE | -c CODE | SCRIPT) ARGS...")
    fd = os.environ.pop(FD, "")
    run = prepare(words)
    if fd.isdecimal():
        try:
            watch(int(fd))
        except OSError as error:
            sys.stderr.write(f"no audit: {error}\n")
    try:
        run()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 (printed as the interpreter prints it)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        error.__traceback__ = trace
        sys.excepthook(type(error), error, trace)
    else:
        return
    sys.exit(1)


if __name__ == "__main__":
    main()
