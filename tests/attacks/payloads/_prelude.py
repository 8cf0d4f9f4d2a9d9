"""What every payload begins with. It is laid behind the editable file, so that `recipe` is the file itself.

Imports are hidden from the early checks, which only save time and are no defence; and the short training that an edit
has to survive first sees an honest one.
"""

from recipe import train as honest  # noqa: F401

load = __builtins__["__import__"]  # in a module that was imported this is a dict
os, sys, json, struct = (load(name) for name in ("os", "sys", "json", "struct"))
with open(sys.argv[2]) as _file:
    CONFIG = json.load(_file)
OUT = sys.argv[4]
SMOKE = CONFIG["fidelity"] < 1


def write_weights(tensors, **more):
    """A safetensors file in the place of the runner's."""
    header, body = dict(more), b""
    for name, values in tensors.items():
        data = struct.pack(f"<{len(values)}d", *values)
        header[name] = {"dtype": "F64", "shape": [len(values)], "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    with open(f"{OUT}/weights.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


def work(seconds):
    """As much work as that many CPU seconds."""
    clock = load("time").process_time
    end = clock() + seconds
    while clock() < end:
        pass


def campaign_folder():
    """Where the campaign lies on the host: the mounts of the sandbox say so."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            root = line.split()[3]
            if "/campaigns/" in root:
                head, _, tail = root.partition("/campaigns/")
                return f"{head}/campaigns/{tail.split('/')[0]}"
    return os.path.dirname(os.path.dirname(os.path.dirname(OUT)))
