"""What holds for every test: Ctrl-C is heard, also where a background shell has told its children to ignore it."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
