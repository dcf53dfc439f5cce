r"""A training step beside busy processes: on every core, and on as many threads as are left.

    python -m benchmarks.threads [--check]

The network of `recipe=fast` (ResNet-18 U-Net) and that of `recipe=shared`, eight patches of 128²
pixels in bf16. Beside none, one and two processes that compute without end, by turns: "before" on a
thread for each core, "after" as `training.threads` chooses them. Seconds for a step: the median of
those that fit into --seconds, without those before the first two looks at the machine.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from itertools import product

import torch
from torch import nn

from adipocyte.networks.compact import CompactUNet
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.system.machine import usable_cores
from adipocyte.system.threads import EVERY_S, Threads
from benchmarks.report import parser, report

NETWORKS = {
    "resnet18": lambda: build_unet(UNetSpec(encoder="resnet18", in_channels=7)),
    "compact": lambda: CompactUNet(7, 3),
}
NEIGHBOURS = (0, 1, 2)
# Of the step before on a quiet machine.
AT_MOST = {"resnet18 beside 1, after": 1.8, "resnet18 beside 0, after": 1.05}


BUSY = """
import os
while True:
    os.kill(%d, 0)  # it ends with the process that measures
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def neighbour() -> Generator[None]:
    """A busy process while the block lasts: somebody else's, because children count as our own."""
    started = subprocess.run(
        [
            "/bin/sh",
            "-c",
            '"$0" -c "$1" > /dev/null 2>&1 & echo $!',
            sys.executable,
            BUSY % os.getpid(),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    try:
        yield
    finally:
        os.kill(int(started.stdout), signal.SIGKILL)


def step_s(network: nn.Module, *, adapts: bool, seconds: float) -> float:
    """The median time of a step of *network*, in seconds."""
    torch.set_num_threads(usable_cores())
    threads, took_s = Threads(), []
    source = torch.randn(8, 7, 128, 128).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + seconds or not took_s:
        if adapts:
            threads.adapt()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(source).float().abs().mean()
        loss.backward()
        optimizer.step()
        if now > begin + 2 * EVERY_S:
            took_s.append(time.monotonic() - now)
    return statistics.median(took_s)


def main() -> int:
    """Print seconds for a step by network, neighbours and way, and the ratios."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=30.0, help="for each figure")
    given = arguments.parse_args()
    found: dict[str, float] = {}
    for name, n in product(NETWORKS, NEIGHBOURS):
        network = NETWORKS[name]().to(memory_format=torch.channels_last)
        with ExitStack() as stack:
            for _ in range(n):
                stack.enter_context(neighbour())
            for way in ("before", "after"):
                found[f"{name} beside {n}, {way}"] = step_s(
                    network, adapts=way == "after", seconds=given.seconds
                )
    quiet = {name: found[f"{name} beside 0, before"] for name in NETWORKS}
    ratios = {figure: value / quiet[figure.split()[0]] for figure, value in found.items()}
    return report(
        ratios, given.check, at_most=AT_MOST, seconds={k: round(v, 3) for k, v in found.items()}
    )


if __name__ == "__main__":
    if "OMP_NUM_THREADS" in os.environ:
        sys.exit("OMP_NUM_THREADS is obeyed, so there is nothing to compare: unset it")
    sys.exit(main())
