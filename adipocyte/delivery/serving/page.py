"""A page to try a served model: drop a stack, see its stains. It asks the server by the client."""

import math
import os
import re
import signal
import socket
import tempfile
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from adipocyte.client import Answer, Objects, StainClient
from adipocyte.domain import TARGET_COLOURS, TARGET_NAMES, TARGETS, UM_PER_PX, are_alike
from adipocyte.errors import ConfigError, ImageError, ServiceError, UnreachableError
from adipocyte.plate.tiff import read_header, read_stack, write_image

_SHOWN_PX = 1200  # the longer side of what is shown; downloads have all pixels
_MOST_UPLOADED = "200mb"  # the models refuse more than that: docs/serving.md, Limits
_MOST_STEM = 80  # characters of a file's name that a download keeps
_MARKS = frozenset("\\`*_{}[]()<>#+!|~&$\"'@:/")
_PARENT_S = 1  # how often the page looks whether its parent is still there
_KEPT_S = 3600  # a visitor's field is deleted after an hour
_NO_SERVER = (
    "No model is served there. Start one with `mlflow models serve "
    "-m models:/adipocyte@champion --env-manager local --port 5001 --timeout 600`."
)
_INTENSITIES = {  # the page's words and the client's `histogram_matching`
    "as the model keeps": None,
    "histogram matching": True,
    "as painted": False,
}


@dataclass(frozen=True)
class Shown:
    """A visitor's field as the page shows it, 0 to 1, reduced to fit a screen.

    `planes` are (Z, Y, X), `stains` by target (Y, X). `unsure`, likewise, says how wide the
    intervals are, in parts of the range of counts that the stain is shown in; none without any.
    """

    planes: NDArray[np.float32]
    stains: dict[str, NDArray[np.float32]]
    unsure: dict[str, NDArray[np.float32]]


class OwnVisitorsOnly:
    """Middleware that refuses requests that another site's page made the browser send.

    A site can give its own name the address 127.0.0.1, so Host must be this machine's, at any port
    because a tunnel (`ssh -L`) may have another. A site can post here from its own page, so Origin
    must be the host that is asked.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_own(Headers(scope=scope)):
            answer = PlainTextResponse("This page is for the browser of this machine alone.", 403)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_own(self, headers: Headers) -> bool:
        host = headers.get("host", "")
        is_here = re.fullmatch(r"(127\.0\.0\.1|localhost)(:\d+)?", host, re.ASCII) is not None
        return is_here and headers.get("origin", f"http://{host}") == f"http://{host}"


def page(client: StainClient, scratch: Path) -> gr.Blocks:
    """The page. It writes the files that visitors download into *scratch*."""
    with gr.Blocks(
        title="adipocyte", analytics_enabled=False, delete_cache=(_KEPT_S, _KEPT_S)
    ) as blocks:
        shown = gr.State(None, time_to_live=_KEPT_S)
        gr.Markdown(
            "# Virtual staining of fat cells\n"
            "Brightfield planes in; nuclei, lipid droplets and cytoplasm out."
        )
        asked, button = _form()
        said = gr.Markdown(elem_id="said")
        with gr.Row():
            with gr.Column():
                brightfield = _image("Brightfield")
                z_plane = gr.Slider(1, 7, value=4, step=1, label="Focal plane", elem_id="z_plane")
            with gr.Column():
                composite = _image("Composite")
                gains = [_gain(target) for target in TARGETS]
                sure = gr.Slider(
                    0,
                    1,
                    value=1,
                    step=0.02,
                    label="Grey where the interval is wider than this part of the brightness",
                    elem_id="sure",
                )
        with gr.Row():
            stains = [_image(f"{target} {TARGET_NAMES[target]}") for target in TARGETS]
        with gr.Row():
            counts = gr.Markdown(elem_id="counts")
            diameters = gr.BarPlot(visible=False, elem_id="diameters")
        files = gr.File(
            label="Download: uint16 TIFFs, counts",
            file_count="multiple",
            interactive=False,
            elem_id="files",
        )

        def stain(path: str | None, *chosen: Any) -> tuple:
            return _stain(client, scratch, path, *chosen)

        blocks.load(lambda: "" if client.answers() else f"⚠️ {_NO_SERVER}", None, said)
        painted = button.click(
            stain,
            asked,
            [shown, said, z_plane, files, counts, diameters],
        )
        painted.then(_stains, [shown], stains).then(_plane, [shown, z_plane], brightfield).then(
            _composite, [shown, sure, *gains], composite
        )
        z_plane.change(_plane, [shown, z_plane], brightfield, show_progress="hidden")
        for slider in (sure, *gains):
            slider.change(_composite, [shown, sure, *gains], composite, show_progress="hidden")
    return blocks


def _form() -> tuple[list[gr.components.Component], gr.Button]:
    """What a visitor chooses, in the order of `_stain`'s arguments, and the button."""
    with gr.Row():
        stack = gr.File(
            label="Brightfield stack: a TIFF of all focal planes, raw counts",
            file_types=[".tif", ".tiff"],
            elem_id="stack",
        )
        with gr.Column():
            magnification = _choice("Magnification", [f"{known}x" for known in UM_PER_PX], "20x")
            intensities = _choice("Intensities", list(_INTENSITIES), next(iter(_INTENSITIES)))
            measure = gr.Checkbox(
                label="Measure: cells, droplets and lipid; half a minute for a full field",
                elem_id="measure",
            )
            uncertainty = gr.Checkbox(
                label="Say how sure it is: a verdict, and what is unsure in grey",
                elem_id="uncertainty",
            )
            resample = gr.Checkbox(
                label="Resample: paint an objective that the model has not seen, as the nearest",
                elem_id="resample",
            )
            button = gr.Button("Stain", variant="primary", elem_id="stain")
    return [stack, magnification, intensities, measure, uncertainty, resample], button


def open_page(server: str, port: int) -> None:
    """Serve the page on this machine alone until it is told to end, and leave no file behind.

    Ctrl-C and SIGTERM tell it so, and the end of its parent: `mlflow run` hands no signal on.
    Raises ConfigError when *server* is no address, or *port* is taken or not to be had.
    """
    client = StainClient(server, attempts=1)
    _require_free(port)
    parent = os.getppid()
    # A signal is only noted: raised within Gradio's start, it would leave its server running.
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="adipocyte-") as scratch:
        os.environ["GRADIO_TEMP_DIR"] = scratch  # uploads, too
        blocks = page(client, Path(scratch))
        launch(blocks, port)
        print(f"Open http://127.0.0.1:{port} in a browser; Ctrl-C ends the page.")
        print(f"The model that paints is served at {server}.", flush=True)
        while not ended.wait(_PARENT_S) and os.getppid() == parent:
            pass
        blocks.close(verbose=False)


def launch(blocks: gr.Blocks, port: int) -> None:
    """Open a page on this machine alone, in threads of its own.

    It asks nothing of any other machine: its fonts are the browser's, and it reports its use to
    nobody.
    """
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    blocks.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        quiet=True,  # it would advise to open the page to everybody
        ssr_mode=False,
        max_file_size=_MOST_UPLOADED,
        footer_links=[],
        theme=theme,
        prevent_thread_lock=True,
        app_kwargs={"middleware": [Middleware(OwnVisitorsOnly)]},
    )


def _require_free(port: int) -> None:
    """Gradio would say that it cannot find an empty port, of a range."""
    with socket.socket() as probe:
        if os.name == "posix":  # a port that was in use a moment ago is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"the page cannot be opened at port {port} ({error.strerror})",
                "end the program that listens there, or name another one, such as "
                f"-P port={port + 1 if 1024 <= port < 65535 else 7861}",
            ) from error


Outcome = tuple[Shown | None, str, Any, list[str] | None, str, gr.BarPlot]


def _stain(
    client: StainClient,
    scratch: Path,
    path: str | None,
    magnification: str,
    intensities: str,
    measure: bool,
    uncertainty: bool,
    resample: bool,
) -> Outcome:
    """What the page gets for the stack at *path*.

    A field to show, a sentence, a slider, files, and what was measured: a table and a histogram.
    """
    if path is None:
        return _nothing("Drop a stack first.")
    try:
        header = read_header(Path(path))
        planes = read_stack(Path(path), header.n_planes)
        objective = int(magnification.removesuffix("x"))
        told = header.um_per_px
        answer = client.stain(
            planes,
            objective,
            histogram_matching=_INTENSITIES[intensities],
            measure=measure,
            uncertainty=uncertainty,
            # Else unsaid, because models of an older version know no sizes.
            um_per_px=told if told and not are_alike(told, UM_PER_PX[objective]) else None,
            resample=resample,
        )
    except (ImageError, ServiceError) as error:
        sentence = str(error).replace(str(path), Path(path).name)  # not where uploads lie
        advice = f" {_NO_SERVER}" if isinstance(error, UnreachableError) else ""
        return _nothing(f"⚠️ {_escaped(sentence)}{advice}")
    n_z = len(planes)
    z_plane = gr.Slider(1, n_z, value=n_z // 2 + 1)
    if n_z == 1:
        z_plane = gr.Slider(1, 2, value=1, interactive=False)
    size = told or UM_PER_PX[objective]
    files = _files(answer, scratch, Path(path).stem, size)
    said = _said(planes, answer)
    return _shown(planes, answer), said, z_plane, files, _counts(answer), _diameters(answer.objects)


def _nothing(said: str) -> Outcome:
    return None, said, gr.skip(), None, "", _diameters(None)


def _choice(label: str, choices: list[str], chosen: str) -> gr.Radio:
    return gr.Radio(choices, value=chosen, label=label, elem_id=label.lower())


def _gain(target: str) -> gr.Slider:
    return gr.Slider(0, 3, value=1, step=0.05, label=TARGET_NAMES[target], elem_id=f"gain_{target}")


def _image(label: str) -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        format="png",
        buttons=["fullscreen"],
        elem_id=label.split()[0].lower(),
    )


def _shown(planes: NDArray[np.uint16], answer: Answer) -> Shown:
    stride = -(-max(planes.shape[1:]) // _SHOWN_PX)
    low, high = np.percentile(planes[:, ::stride, ::stride], (0.5, 99.5))
    light = _unit(planes[:, ::stride, ::stride], low, high)
    stains, unsure = {}, {}
    for target, image in answer.images.items():
        reduced = image[::stride, ::stride]
        dark, bright = np.percentile(reduced, (1, 99.8))
        stains[target] = _unit(reduced, dark, bright)
        if target in answer.intervals:
            low, high = (bound[::stride, ::stride] for bound in answer.intervals[target])
            unsure[target] = _unit(high - low, 0, bright - dark)
    return Shown(light, stains, unsure)


def _unit(image: NDArray[np.uint16], low: float, high: float) -> NDArray[np.float32]:
    """Counts from *low* to *high* as 0 to 1."""
    return np.clip((image.astype(np.float32) - low) / max(high - low, 1), 0, 1)


def _said(planes: NDArray[np.uint16], answer: Answer) -> str:
    _, height, width = planes.shape
    size = f"{len(planes)} planes of {height} × {width} pixels"
    said = f"{size}, painted: {', '.join(answer.images)}."
    if answer.trust:
        why = f": {_escaped(answer.trust.reason)}" if answer.trust.reason else ""
        said += f"\n\n**To be believed: {answer.trust.verdict}**{why}"
    return f"{said}\n\n⚠️ {_escaped(answer.warnings)}" if answer.warnings else said


def _counts(answer: Answer) -> str:
    """What was counted, as a table in Markdown; "" when nothing was measured."""
    objects = answer.objects
    if objects is None:
        return ""
    rows = {
        "nuclei": _figure(answer.features.get("Count_nuclei")),
        "cells that lie wholly in the field": _figure(objects.counts["Cells"]),
        "lipid droplets": _figure(objects.counts["LipidDroplets"]),
        "droplets in a cell, mean": _mean(objects.droplets_per_cell),
        "lipid in a cell, mean, µm²": _mean(objects.lipid_um2_per_cell),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| measured | |", "|:--|--:|", *lines])


def _figure(count: float | None) -> str:
    return "–" if count is None or math.isnan(count) else f"{count:.0f}"


def _mean(values: NDArray[np.number]) -> str:
    return f"{values.mean():.1f}" if values.size else "–"


def _diameters(objects: Objects | None) -> gr.BarPlot:
    """The histogram of droplets' diameters; nothing where none was measured."""
    if objects is None or not objects.counts["LipidDroplets"]:
        return gr.BarPlot(visible=False)
    edges_um = [f"{edge:g}" for edge in objects.edges_um[:-1]]
    classes = [f"{low} to {high}" for low, high in pairwise(edges_um)] + [f"from {edges_um[-1]}"]
    x, y = "diameter of droplets, µm", "number"
    table = pd.DataFrame({x: classes, y: objects.droplets_by_diameter})
    return gr.BarPlot(table, x=x, y=y, sort=classes, visible=True)


def _escaped(said: str) -> str:
    """Somebody else's words as Markdown shows them letter by letter: no link, image or HTML."""
    return "".join(f"&#{ord(letter)};" if letter in _MARKS else letter for letter in said)


def _files(answer: Answer, scratch: Path, stem: str, um_per_px: float) -> list[str]:
    """Each visit has a folder of its own, so that nobody downloads another's images."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    stem = re.sub(r"[^\w.-]", "_", stem)[:_MOST_STEM].lstrip(".")
    paths = [folder / f"{stem}_{target}.tif" for target in TARGETS if target in answer.images]
    for path in paths:
        write_image(path, answer.images[path.stem.rpartition("_")[2]], um_per_px)
    return [str(path) for path in paths]


def _plane(shown: Shown | None, z_plane: float) -> NDArray[np.uint8] | None:
    return None if shown is None else _grey(shown.planes[min(int(z_plane), len(shown.planes)) - 1])


def _stains(shown: Shown | None) -> list[NDArray[np.uint8] | None]:
    stains = shown.stains if shown else {}
    return [_grey(stains[target]) if target in stains else None for target in TARGETS]


def _composite(shown: Shown | None, sure: float, *gains: float) -> NDArray[np.uint8] | None:
    """The stains in colours, added up, each as bright as its gain says.

    A stain is grey where its interval is wider than *sure*.
    """
    if shown is None:
        return None
    colours = np.zeros((*shown.planes.shape[1:], 3))
    for target, gain in zip(TARGETS, gains, strict=True):
        if target in shown.stains:
            colour = _light(TARGET_COLOURS[target])
            part = gain * shown.stains[target][..., None] * colour
            if target in shown.unsure:  # at most 1, so that 1 leaves everything as it is
                part[shown.unsure[target] > sure] *= colour.mean() / colour
            colours += part
    return (255 * np.clip(colours, 0, 1)).astype(np.uint8)


def _light(colour: str) -> NDArray[np.float32]:
    """Red, green and blue of a colour "#rrggbb", 0 to 1 each."""
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8).astype(np.float32) / 255


def _grey(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (255 * image).astype(np.uint8)
