"""The first process of a jail: limits the command, watches it, ends all that is left, and hands out the one file.

Run by `evolve/sandbox.py` as process 1 of the jail's pid namespace: a `python -I -S` that calls `main` with the arguments
SETTINGS COMMAND..., on the few modules of the standard library that load fast. SETTINGS is the JSON of `Settings`. What it says goes as JSON lines to the descriptor
`report`, which the command never holds: {"ready": true}, then {"status", "cpu_seconds", "peak_kb", "killed_for", "kept"}.

It can be trusted beside the command because no process of the jail can touch it: signals from inside do not reach process
1 of a namespace, its memory and descriptors are closed to others (not dumpable), and the filter denies what is left.
"""

import ctypes
import errno
import json
import os
import resource
import select
import signal
import stat
import struct
import sys

LOOKS = 15.0  # a second: how often processes and memory are counted
MOST_THREADS = 1024  # of all processes together
MOST_FILES = 100_000  # in the scratch folder: an empty one takes kernel memory that its size does not count
MOST_OPEN = 4096
EXIT_NOT_STARTED = 127
SCRATCH = "/scratch"
WRITABLE = (SCRATCH, "/tmp", "/dev/shm")  # /tmp is mostly scratch by another name


class Settings:
    """What `sandbox.py` says of this jail; descriptors are numbers that bubblewrap passes on."""

    def __init__(
        self,
        *,
        report: int,  # where to say what happened
        stop: int,  # readable once the controller wants the end, or is dead
        passed: list[int],  # descriptors that the command holds beside 0, 1 and 2
        keep: str | None,  # the file that comes out, below the scratch folder
        keep_fd: int | None,
        keep_bytes: int,
        patterns: list[str],  # of files below the folder `keep`, which come out packed as one; none: it is a file
        file_bytes: int,  # of each file that is written
        memory_mb: int | None,
        processes: int,
        gpu: bool,
    ) -> None:
        self.report, self.stop, self.passed = report, stop, passed
        self.keep, self.keep_fd, self.keep_bytes, self.patterns = keep, keep_fd, keep_bytes, patterns
        self.file_bytes, self.memory_mb, self.processes = file_bytes, memory_mb, processes
        self.gpu = gpu


# ---------------------------------------------------------------- the filter of system calls

ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # of linux/seccomp.h; FAIL is or-ed with an errno
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = (
    0x20,
    0x15,
    0x35,
    0x45,
    0x06,
)  # of linux/filter.h: BPF_LD|W|ABS, BPF_JMP|.., BPF_RET
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data


def low(argument: int) -> int:
    return 16 + 8 * argument


CLONE_THREAD = 0x00010000
CLONE_NEW = 0x7E020000  # namespaces: cgroup, uts, ipc, user, pid, net, mount
X32 = 0x40000000
FIRST_UNKNOWN = 470  # calls that were added since are not there
FAMILIES = (
    1,
    2,
    10,
    16,
)  # unix, inet, inet6, netlink: not vsock, which leaves a virtual machine whatever its namespace

# Name: number on x86_64, number on aarch64 (None: it does not exist there).
DENIED = {
    # other processes' memory and descriptors
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "migrate_pages": (256, 238),
    # large parts of the kernel that no training needs
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "fanotify_init": (300, 262),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # the machine itself
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    # memory that belongs to no process, and so passes every limit on one
    "shmget": (29, 194),
    "msgget": (68, 186),
    "memfd_secret": (447, 447),
}
# The nodes in /dev are the machine's own, and where the controller is root its code in the jail owns them too. A change of
# mode is said to have worked (`shutil.copy` makes one); in the scratch folder, its only other use, it has no meaning.
MODES = {"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452)}
ATTRIBUTES = {
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
FORKS = {"fork": (57, None), "vfork": (58, None)}
# Theirs is the first argument: a process. Only oneself (0) may be meant, so that nobody touches process 1.
OF_ONESELF = {
    "prlimit64": (302, 261),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
SPECIAL = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "memfd_create": (319, 279),
    "socket": (41, 198),
    "rt_sigaction": (13, 134),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH


def filter_program(machine: str, processes: int, gpu: bool) -> bytes:
    """The filter as `struct sock_filter[]`; empty where we have no numbers for this machine."""
    if machine not in MACHINES:
        return b""
    column, architecture = MACHINES[machine]
    code: list[bytes] = []

    def add(what: int, value: int, yes: int = 0, no: int = 0) -> None:
        code.append(struct.pack("=HBBI", what, yes, no, value & 0xFFFFFFFF))

    def on(name: str, *body: tuple[int, ...]) -> None:
        """`body` for one system call: instructions that each end in a RETURN or go on to the next."""
        number = every[name][column]
        if number is not None:
            add(EQUAL, number, 0, len(body))
            for instruction in body:
                add(*instruction)

    every: dict[str, tuple[int | None, int | None]] = {
        **DENIED,
        **MODES,
        **ATTRIBUTES,
        **FORKS,
        **OF_ONESELF,
        **SPECIAL,
    }
    not_permitted, not_there = (RETURN, FAIL | errno.EPERM), (RETURN, FAIL | errno.ENOSYS)
    add(LOAD, ARCHITECTURE)
    add(EQUAL, architecture, 1, 0)
    add(RETURN, KILL)
    add(LOAD, NUMBER)
    if machine == "x86_64":
        add(AT_LEAST, X32, 0, 1)
        add(RETURN, KILL)
    add(AT_LEAST, FIRST_UNKNOWN, 0, 1)
    add(*not_there)
    for name in DENIED:
        on(name, not_permitted)
    for name in MODES:
        on(name, (RETURN, FAIL))
    for name in ATTRIBUTES:
        on(name, (RETURN, FAIL | errno.EOPNOTSUPP))
    on("clone3", not_there)  # its flags are out of a filter's sight; glibc then takes clone
    if not gpu:
        on("memfd_create", not_there)
    for name in OF_ONESELF:
        on(name, (LOAD, low(0)), (EQUAL, 0, 1, 0), not_permitted, (RETURN, ALLOW))
    families = [(EQUAL, family, len(FAMILIES) - i, 0) for i, family in enumerate(FAMILIES)]
    on("socket", (LOAD, low(0)), *families, (RETURN, FAIL | errno.EAFNOSUPPORT), (RETURN, ALLOW))
    if processes == 1:
        for name in FORKS:
            on(name, not_permitted)
        only_threads: list[tuple[int, ...]] = [(ANY_BIT, CLONE_THREAD, 1, 0), not_permitted]
    else:
        only_threads = []
        # A parent that ignores SIGCHLD makes its children's CPU seconds vanish from all counts. The call is said to have
        # worked, because libraries (torch's DataLoader) set a handler that they can do without.
        on(
            "rt_sigaction",
            (LOAD, low(0)),
            (EQUAL, signal.SIGCHLD, 0, 5),
            (LOAD, low(1)),
            (EQUAL, 0, 0, 2),
            (LOAD, low(1) + 4),
            (EQUAL, 0, 1, 0),
            (RETURN, FAIL),
            (RETURN, ALLOW),
        )
    on("clone", (LOAD, low(0)), *only_threads, (ANY_BIT, CLONE_NEW, 0, 1), not_permitted, (RETURN, ALLOW))
    add(RETURN, ALLOW)
    return b"".join(code)


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 4, 38, 22, 2
libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, first: int, second: object = None) -> None:
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(first), second, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


# ---------------------------------------------------------------- the command


def limit(what: int, value: int) -> None:
    """Lowers a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def start(command: list[str], settings: Settings, program: bytes) -> int:
    """Forks the command; returns its process id. Never returns in the child."""
    child = os.fork()
    if child:
        return child
    try:
        # The controller's /dev/null is the machine's own, and would be open to its owner's fchmod.
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_FSIZE, settings.file_bytes)
        limit(resource.RLIMIT_NOFILE, MOST_OPEN)
        limit(resource.RLIMIT_NPROC, MOST_THREADS + settings.processes)  # root is not bound by it; `Watch` is for that
        if settings.memory_mb is not None:
            limit(resource.RLIMIT_AS, settings.memory_mb << 20)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if program:
            prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(program) // 8, program)))
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]} must start in the sandbox, but {error}\n".encode())
    finally:
        os._exit(EXIT_NOT_STARTED)


# ---------------------------------------------------------------- watching it


class Watch:
    """Counts processes, threads, memory and CPU of the jail, from its own /proc."""

    def __init__(self, settings: Settings) -> None:
        self.processes, self.memory_mb = settings.processes, settings.memory_mb
        self.seen: dict[tuple[str, bytes], int] = {}  # (pid, start): CPU in clock ticks, the largest seen
        self.peak_kb = 0

    def look(self) -> str:
        """Why the jail must end now; empty where it may go on."""
        processes, threads, pages = 0, 0, 0
        for name in os.listdir("/proc"):
            if not name.isdigit() or name == "1":
                continue
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # a process gives itself a name of any bytes
                    fields = file.read().rsplit(b")", 1)[1].split()
            except OSError:
                continue
            key, ticks = (name, fields[19]), int(fields[11]) + int(fields[12])
            self.seen[key] = max(self.seen.get(key, 0), ticks)
            processes, threads, pages = processes + 1, threads + int(fields[17]), pages + int(fields[21])
        kb = pages * (resource.getpagesize() // 1024)
        self.peak_kb = max(self.peak_kb, kb)
        found = [os.statvfs(folder) for folder in WRITABLE]
        files = max(f.f_files - f.f_ffree for f in found)
        if processes > self.processes:
            return f"more than {self.processes} process{'' if self.processes == 1 else 'es'}"
        if threads > MOST_THREADS:
            return f"more than {MOST_THREADS} threads"
        if files > MOST_FILES:
            return f"more than {MOST_FILES} files"
        if self.memory_mb is not None and kb > self.memory_mb << 10 and own_kb() > self.memory_mb << 10:
            return f"more than {self.memory_mb} MB of memory"
        return ""

    def cpu_seconds(self) -> float:
        return float(sum(self.seen.values()) / os.sysconf("SC_CLK_TCK"))


def own_kb() -> int:
    """Resident memory of the jail, pages that several processes share counted once (Pss). Slow: asked only when in doubt."""
    return sum(own_kb_of(name) for name in os.listdir("/proc") if name.isdigit() and name != "1")


def own_kb_of(pid: str) -> int:
    try:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                return next((int(line.split()[1]) for line in file if line.startswith(b"Pss:")), 0)
        except PermissionError:  # it made itself unreadable: all that it holds counts
            with open(f"/proc/{pid}/statm") as file:
                return int(file.read().split()[1]) * (resource.getpagesize() // 1024)
    except (OSError, IndexError):
        return 0  # it has ended


def attend(child: int, stop: int, watch: Watch) -> tuple[int, str]:
    """Until the command ends, breaks a rule, or the controller says stop (or dies): its wait status and why it was killed."""
    handle, status, reason = os.pidfd_open(child), None, ""
    while status is None:
        ready, _, _ = select.select([handle, stop], [], [], 1 / LOOKS)
        reason = watch.look()
        if reason or stop in ready:
            break
        status = reap(child, os.WNOHANG)
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return (status if status is not None else signal.SIGKILL), reason  # nobody was left
    ended = reap(child, 0)
    return (status if status is not None else ended if ended is not None else signal.SIGKILL), reason


def reap(child: int, options: int) -> int | None:
    """Waits for whatever has ended, or with no options for everything; the status of `child`, where it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, options)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


# ---------------------------------------------------------------- the one file


def hand_out(path: str, most: int, target: int, patterns: list[str]) -> str:
    """Copies the kept file, or the folder's files packed as one, to the controller's descriptor, now that nobody can change
    it. "" or why not."""
    opened = [os.open(SCRATCH, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        *folders, name = path.split("/")
        for folder in folders:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            opened.append(os.open(folder, flags, dir_fd=opened[-1]))
        if patterns:
            import pack  # type: ignore[import-not-found]  # beside this file

            opened.append(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
            try:
                pack.pack(opened[-1], patterns, most, target)
            except pack.Unpackable as error:
                return str(error)
            return ""
        opened.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[-1]))
        info = os.fstat(opened[-1])
        if not stat.S_ISREG(info.st_mode) or info.st_dev != os.stat(SCRATCH).st_dev:
            return f"{path} must be a regular file, but it is not"
        if info.st_size > most:
            return f"{path} must be at most {most} bytes, but has {info.st_size}"
        while os.sendfile(target, opened[-1], None, 1 << 24):
            pass
        return ""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise  # the controller's disk, no fault of the command's
        return f"{path} must be a regular file, but {error.strerror}"
    finally:
        for descriptor in opened:
            os.close(descriptor)


def main() -> None:
    settings, command = Settings(**json.loads(sys.argv[1])), sys.argv[2:]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which process 1 never gets from inside
    prctl(PR_SET_DUMPABLE, 0)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in settings.passed:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # that of the listing itself is closed by now

    def report(**what: object) -> None:
        os.write(settings.report, json.dumps(what).encode() + b"\n")

    program = filter_program(os.uname().machine, settings.processes, settings.gpu)
    report(ready=True, filtered=bool(program))
    watch = Watch(settings)
    status, reason = attend(start(command, settings, program), settings.stop, watch)
    kept, trouble = "", ""
    if status == 0 and not reason and settings.keep is not None and settings.keep_fd is not None:
        try:
            kept = hand_out(settings.keep, settings.keep_bytes, settings.keep_fd, settings.patterns)
        except OSError as error:
            trouble = str(error)
        if kept:
            os.write(2, f"{kept}\n".encode())
    peak = max(watch.peak_kb, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    report(
        status=status, cpu_seconds=watch.cpu_seconds(), peak_kb=peak, killed_for=reason,
        kept=status == 0 and not reason and not kept, trouble=trouble,
    )  # fmt: skip
