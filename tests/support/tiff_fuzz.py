"""Reads hostile TIFFs as a server and as a scan do: python tiff_fuzz.py <examples>.

test_tiff_fuzz.py runs it in a process of its own, because a codec may crash. It ends with an error
when a TIFF gives anything but the stack that its header tells or an ImageError, takes more memory
than FACTOR times its bytes and SPARE_MB, or opens another file or a connection. It prints what it
saw as JSON. Each example is made from its number alone.
"""

import collections
import faulthandler
import json
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adipocyte.errors import ImageError
from adipocyte.plate.tiff import decode_stack, read_header, read_stack, stack_header
from tests.support.tiffs import (
    FORMATS,
    FORMS,
    GREY,
    HOSTILE_PAGES,
    IDLE,
    PIXELS,
    START,
    Tag,
    idle,
    page,
    tiff,
    tiff_of,
)

FACTOR, SPARE_MB = 4, 300
PATIENCE_S = 20
N_PLANES = 7
NETWORK = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.fork")
# Where code is imported from, at first use.
INSTALLED = (sys.prefix, sys.base_prefix)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"compression": "zlib", "predictor": True},
    {"compression": "lzw", "rowsperstrip": 5},
    {"compression": "zstd", "rowsperstrip": 1},
    {"compression": "packbits"},
    {"tile": (16, 16), "compression": "lzw"},
    {"ome": True},
    {"imagej": True, "metadata": {"Labels": ["label"] * N_PLANES}},
    {"bigtiff": True, "byteorder": ">", "compression": "lzw"},
    {"byteorder": ">", "description": "a note", "metadata": {}},
]
# Planes behind one page.
OPTIONS += [{"truncate": True}, {"truncate": True, "imagej": True, "byteorder": ">"}]
METAMORPH = [Tag(33628, 5, bytes(8)), Tag(33629, 5, bytes(24 * N_PLANES), N_PLANES)]
WHOLE = [tiff_of(GREY, **options) for options in OPTIONS]
WHOLE += [tiff([page(33, 40, counts=[2640], rows=40) + METAMORPH], GREY.tobytes())]
WHOLE += [tiff_of(GREY.astype("u1"), compression=codec) for codec in (None, "zlib", "packbits")]
BORDERS = [0, 1, 2, 8, 16, 64, 9999, 10_000, 40_000, 40_001, 65535, 2**16, 32_000_000, 10**8]
BORDERS += [2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]
CODES = [254, 256, 257, 258, 259, 262, 266, 270, 273, 277, 278, 279, 282, 284, 305, 317, 320, 322]
CODES += [323, 324, 325, 330, 338, 339, 347, 513, 514, 530, 700, 32997, 32998, 33628, 33629, 33723]
CODES += [33922, 34118, 34361, 34362, 34412, 34665, 34680, 34853, 37706, 40965, 42113, 43314]
CODES += [50288, 50838, 50839, 51123, 65000, 65426, 65432, 65459]


def number(choice: random.Random, n_bytes: int = 8) -> int:
    drawn = choice.choice(BORDERS) if choice.random() < 0.5 else choice.randrange(300)
    return drawn % 256**n_bytes


def damaged(choice: random.Random, data: bytes) -> bytes:
    """A TIFF with some bytes and numbers changed, most of them in its first directories."""
    changed = bytearray(data)
    for _ in range(choice.randint(1, 4)):
        kind = choice.choice("BHIQ")
        value = struct.pack(choice.choice("<>") + kind, number(choice, struct.calcsize(kind)))
        place = choice.randrange(min(len(changed), choice.choice([300, 600, 10**6])))
        changed[place : place + len(value)] = value
    if choice.random() < 0.1:
        del changed[choice.randrange(len(changed)) :]
    return bytes(changed)


def mutated(choice: random.Random) -> bytes:
    return damaged(choice, choice.choice(WHOLE))


def lying(choice: random.Random) -> bytes:
    """Seven pages, one or all of which say what they must not."""
    tags, _ = HOSTILE_PAGES[choice.choice(list(HOSTILE_PAGES))]
    good = [page(offsets=[START + i * len(PIXELS)]) for i in range(N_PLANES)]
    pages = [tags] * N_PLANES
    if choice.random() < 0.5:
        pages = good
        pages[choice.randrange(N_PLANES)] = tags
    order, is_big = choice.choice(FORMS)
    data = tiff(pages, PIXELS * N_PLANES, order, is_big, number(choice, 4))
    return damaged(choice, data) if choice.random() < 0.5 else data


def tag(choice: random.Random) -> Tag:
    kind = choice.choice([*FORMATS, 5, 10, 0, 14, 99])
    values = choice.randbytes(choice.choice([1, 2, 4, 8, 8, 64, 3000]))
    n_values = number(choice, 4) if choice.random() < 0.3 else None
    offset = number(choice, 4) if choice.random() < 0.2 else None
    return Tag(choice.choice(CODES), kind, values, n_values, offset)


def crafted(choice: random.Random) -> bytes:
    """Pages that are good but for some tags of any code, type, number and place."""
    pages = []
    for i in range(N_PLANES):
        added = {one.code: one for one in (tag(choice) for _ in range(choice.randrange(4)))}
        kept = [one for one in page(offsets=[START + i * len(PIXELS)]) if one.code not in added]
        pages.append(kept + list(added.values()))
    order, is_big = choice.choice(FORMS)
    return tiff(pages, PIXELS * N_PLANES, order, is_big)


def greedy(choice: random.Random) -> bytes:
    """Pages with a tag, or with tags, that all have the pixels for their values."""
    code, n_tags = choice.choice(CODES), choice.choice([3, 400, 4000])
    step = choice.choice([0, 1])
    kind, n_values = choice.choice([(3, 28_000), (4, 14_000), (16, 7000), (2, 57_000)])
    tags = [Tag((code + i * step) % 2**16, kind, b"", n_values, START) for i in range(n_tags)]
    order, is_big = choice.choice(FORMS)
    return tiff([page() + tags] * choice.choice([1, N_PLANES]), PIXELS * N_PLANES, order, is_big)


def slow(choice: random.Random) -> bytes:
    return damaged(choice, idle(choice.choice(list(IDLE)), choice.randrange(10**5)))


def described(choice: random.Random) -> bytes:
    """A stack with a description that names files, defines entities, nests or is torn."""
    beginning = choice.choice(["", "<?xml version='1.0'?>", "<!DOCTYPE a [<!ENTITY a 'b'>]>"])
    inner = choice.choice(
        [
            "<a>" * choice.randrange(10**5),
            "<BinaryOnly MetadataFile='secret.tif' UUID='urn:uuid:1'/>",
            "<Image><Pixels DimensionOrder='XYZCT' SizeX='33' SizeY='40' SizeZ='7' SizeC='1' "
            "SizeT='1'><TiffData IFD='0'><UUID FileName='secret.tif'>urn:uuid:2</UUID></TiffData>"
            "</Pixels></Image>",
            f"<Image><Pixels SizeZ='{number(choice)}' SizeC='{number(choice)}' SizeT='&a;'/>",
        ]
    )
    ome = f"{beginning}<OME xmlns='http://www.openmicroscopy.org/OME'>{inner}</OME>"
    imagej = f"ImageJ=1.11a\nimages={number(choice)}\nslices={number(choice)}\nfile=secret.tif"
    text = choice.choice([ome, ome, imagej])
    data = tiff_of(GREY, description=text, metadata=None)
    return damaged(choice, data) if choice.random() < 0.3 else data


MAKERS: list[Callable[[random.Random], bytes]] = [
    mutated,
    mutated,
    lying,
    crafted,
    crafted,
    greedy,
    slow,
    described,
]


class Watch:
    """What this process opens while `allowed` is a path: all but that, by audit hook."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.opened: list[tuple[str, str]] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, details: tuple) -> None:
        if self.allowed is None or (event != "open" and event not in NETWORK):
            return
        if event != "open" or not self._is_allowed(details[0]):
            self.opened.append((event, str(details[:1])[:200]))

    def _is_allowed(self, path: int | str | bytes) -> bool:
        if isinstance(path, int):  # open already
            return True
        return Path(os.fsdecode(path)) == self.allowed or os.fsdecode(path).startswith(INSTALLED)


def memory_mb() -> float:
    """The most memory that this process has held since `forget_memory`."""
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000


def forget_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Reader:
    """Reads each TIFF in every way, and counts what became of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.watch = path, Watch()
        self.seen: collections.Counter[str] = collections.Counter()
        self.slowest_s = {"refused": 0.0, "read": 0.0}
        self.most_mb = 0.0

    def __call__(self, data: bytes) -> None:
        self.path.write_bytes(data)
        forget_memory()
        before = memory_mb()
        self.watch.allowed = self.path
        for read in (self._bytes, self._file, lambda _: read_header(self.path)):
            start = time.perf_counter()
            ending = "read"
            try:
                read(data)
            except ImageError as error:
                ending = "refused"
                sentence = str(error)
            assert ending == "read" or (sentence and "MemoryError" not in sentence)
            took_s = time.perf_counter() - start
            assert took_s < PATIENCE_S
            self.slowest_s[ending] = max(self.slowest_s[ending], took_s)
            self.seen[ending] += 1
        self.watch.allowed = None
        assert not self.watch.opened, self.watch.opened
        took_mb = memory_mb() - before
        assert took_mb <= FACTOR * len(data) / 1e6 + SPARE_MB, took_mb
        self.most_mb = max(self.most_mb, took_mb)

    def _bytes(self, data: bytes) -> None:
        shape = stack_header(data, N_PLANES).shape
        stack = decode_stack(data, N_PLANES)
        assert (stack.shape, stack.dtype) == ((N_PLANES, *shape), "uint16")

    def _file(self, _: bytes) -> None:
        stack = read_stack(self.path, N_PLANES)
        assert (len(stack), stack.ndim, stack.dtype) == (N_PLANES, 3, "uint16")


def main() -> None:
    """Read as many TIFFs as are wanted, after each good one."""
    faulthandler.enable()
    read = Reader(Path("image.tif").resolve())
    for data in WHOLE:
        read(data)
    assert read.seen["read"] == 3 * len(WHOLE), read.seen
    for example in range(int(sys.argv[1])):
        choice = random.Random(example)
        maker = choice.choice(MAKERS)
        try:
            read(maker(choice))
        except BaseException:
            print(f"example {example}, {maker.__name__}", file=sys.stderr)
            raise
    read.watch.allowed = read.path
    with open("secret.tif", "wb"):
        assert read.watch.opened, "the watch sees nothing"
    report = {
        "seen": dict(read.seen),
        "slowest_s": {ending: round(s, 2) for ending, s in read.slowest_s.items()},
        "most_mb": round(read.most_mb, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
