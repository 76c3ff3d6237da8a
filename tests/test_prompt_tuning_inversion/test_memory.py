"""Freed memory and the system, in processes of their own: the switch is for a whole process."""

import platform
import subprocess
import sys

import pytest

# Blocks of 2 MiB from the heap, once freed blocks have raised glibc's own threshold; every other one is freed.
SCRIPT = """
import re, runpy, sys
from pathlib import Path

told = runpy.run_path(sys.argv[1])['return_freed_memory']() if len(sys.argv) > 1 else None
del [bytearray(4 << 20)][:]
blocks = [bytearray(2 << 20) for _ in range(60)]
del blocks[::2]
print(told, int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the switch')
def test_freed_blocks_go_back_to_the_system(repo):
    module = repo / 'projects/prompt_tuning_inversion/memory.py'
    done = [
        subprocess.run([sys.executable, '-c', SCRIPT, *args], check=True, capture_output=True, text=True).stdout.split()
        for args in ([], [str(module)])
    ]
    (_, kept), (told, returned) = done
    assert told == 'True'
    assert int(kept) - int(returned) > 50  # MiB; 60 were freed
