"""python -m clgrad.testing: random programs, computed in every way there is.

    python -m clgrad.testing --programs 10000 --devices NUMPY --seed 0
    python -m clgrad.testing --programs 1000 --devices NUMPY,CL

Prints progress, every disagreement as a program that can be pasted and run, and at the end the duration and the seed.
Ends with status 1 if there was a disagreement.
"""

from __future__ import annotations

import argparse
import sys
import time

from ..engine.device import Device
from .fuzz import fuzz


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m clgrad.testing", description="Random programs, computed in every way.")
    parser.add_argument("--programs", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--devices", default="NUMPY", help="one device, or two to be compared (default NUMPY)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same programs (default 0)")
    options = parser.parse_args(arguments)
    devices = [Device.canonical(name) for name in options.devices.split(",")]
    for name in devices:
        Device[name]
    start = time.perf_counter()
    found = fuzz(options.programs, devices, options.seed, lambda line: print(line, flush=True))
    spent = time.perf_counter() - start
    print(
        f"{options.programs} programs on {' and '.join(devices)}, seed {options.seed}: "
        f"{len(found) or 'no'} disagreement{'s' if len(found) != 1 else ''} in {spent:.0f} s"
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
