"""Writes on the terminal of whoever started the campaign, and types an answer into its input."""

from recipe import honest, load, os


def train(params, rng, noise):
    fcntl, termios = load("fcntl"), load("termios")
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        os.write(terminal, b"\r\ncanary-on-the-terminal: approved\r\n")
        for letter in b"approve\n":
            fcntl.ioctl(terminal, termios.TIOCSTI, bytes([letter]))
    except OSError as error:
        print(error)
    return honest(params, rng, noise)
