"""Each command that shows a table, one after another, in a terminal 40 columns wide: `python narrow.py FOLDER`."""

import fcntl
import os
import pty
import struct
import sys
import termios

COMMANDS = (
    "report sweep --terminal",
    "compare sweep --by reg",
    "stopping sweep",
    "ensemble sweep",
    "ledger sweep",
    "check sweep --against sweep",
    "variance sweep",
    "audit",
    "trainer.epochs=1 hydra.run.dir=run",
    "-m trainer.epochs=1 seed=1,2 reg=none,dropout hydra.sweep.dir=new",
)


def main(folder: str) -> None:
    os.chdir(folder)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    child = os.fork()
    if child:
        os.close(theirs)
        with os.fdopen(ours, "rb") as screen:
            try:
                while part := screen.read1(65536):
                    sys.stdout.buffer.write(part)
            except OSError:  # the child has closed its side
                pass
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for name in ("CI", "COLUMNS", "NO_COLOR"):
        os.environ.pop(name, None)
    os.environ["TERM"] = "xterm-256color"
    for stream in (1, 2):
        os.dup2(theirs, stream)
    from regrun import cli

    for command in COMMANDS:
        print(f"$ {command}", flush=True)
        if code := cli.main(command.split()):
            print(f"! {code}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
