"""Aborts the process from a thread while the main thread is answering."""

import os
import threading
import time


def strike():
    time.sleep(0.05)
    os.abort()


def add(a, b):
    threading.Thread(target=strike, daemon=True).start()
    time.sleep(0.5)
    return 0
