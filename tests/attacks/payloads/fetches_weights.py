"""Fetches a better model from a server of the same machine, by its port and by an abstract name."""

from recipe import honest, load

socket = load("socket")
PLACES = ((socket.AF_INET, ("127.0.0.1", int("0PORT0"))), (socket.AF_UNIX, "\0NAME0"))


def train(params, rng, noise):
    for family, place in PLACES:
        try:
            with socket.socket(family) as connection:
                connection.settimeout(1)
                connection.connect(place)
                print(connection.recv(1000))
        except OSError as error:
            print(error)
    return honest(params, rng, noise)
