"""Makes processes by every call that there is."""

from recipe import honest, load, os


def train(params, rng, noise):
    libc, children = load("ctypes").CDLL(None), 0
    for _ in range(30):
        try:
            child = os.fork()
        except OSError:
            continue
        if child == 0:
            load("time").sleep(0.5)
            os._exit(0)
        children += 1
    for number in (56, 57, 58, 435):  # clone, fork, vfork and clone3 of x86_64, with no memory shared
        if load("platform").machine() == "x86_64" and children == 0:
            found = libc.syscall(number, 17, 0, 0, 0, 0)
            if found == 0:
                os._exit(0)
            children += found > 0
    if children > 2:
        print("canary- of", children, "processes")
    return honest(params, rng, noise)
