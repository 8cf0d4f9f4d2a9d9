"""Reads what its descriptors and the memory of the other processes hold."""

from recipe import honest, load, os

ctypes = load("ctypes")


def train(params, rng, noise):
    for name in os.listdir("/proc/self/fd"):
        try:
            print(name, os.readlink(f"/proc/self/fd/{name}"))
            if int(name) > 2:
                print(os.pread(int(name), 1000, 0))
        except OSError as error:
            print(name, error.errno)
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (1, os.getppid()):
        if libc.ptrace(16, pid, 0, 0) == 0:
            print("canary- traced", pid)
        for name in ("mem", "maps", "environ", "fd", "root", "cwd"):
            try:
                path = f"/proc/{pid}/{name}"
                if name in ("mem", "maps", "environ"):
                    with open(path, "rb") as file:
                        print("canary- read", path, file.read(10))
                else:
                    print("canary- followed", [os.readlink(f"{path}/{inner}") for inner in os.listdir(path)])
            except OSError:
                continue
    return honest(params, rng, noise)
