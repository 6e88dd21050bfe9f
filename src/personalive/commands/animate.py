"""`personalive animate`: a portrait, a driving video, an output file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from personalive import gallery
from personalive.reporting import progress_bar, reported


@reported
def animate_portrait(
    portrait: Annotated[
        str,
        typer.Argument(
            metavar="PORTRAIT", help="A picture, or a built-in portrait's name (`personalive info` lists them)."
        ),
    ],
    driving: Annotated[
        str, typer.Argument(metavar="DRIVING", help=f'A video, or "{gallery.DRIVING}" for the built-in clip.')
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .mp4 (with the driver's sound), .gif or .webp.")
    ] = Path("animated.mp4"),
    model: Annotated[str, typer.Option(help="A built-in model's name or a checkpoint file.")] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    memory: Annotated[str, typer.Option(help="For large models: auto, or the GPU's size: 24GB, 12GB, 8GB.")] = "auto",
    decoder: Annotated[str, typer.Option(help="vae (the model's own), taesd (tiny, downloaded), or a file.")] = "vae",
    runtime: Annotated[
        str,
        typer.Option(
            help="What computes the UNet: auto (the quickest installed; the first time it takes a minute), "
            "eager, compile, aoti (compiled once, kept); on a CPU also onnxruntime, openvino, openvino-bfloat16 "
            "(quickest, rounds), on a GPU cuda-graphs, tensorrt; or a file (or a folder of them) that `personalive "
            "export` wrote."
        ),
    ] = "auto",
    window: Annotated[
        str | None,
        typer.Option(help="LEVELSxFRAMES of the model's window instead of its own, e.g. 2x2: sooner, less steady."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the video in pixels, e.g. 512, where the model can [default: 256].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal videos.")] = 0,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    crop: Annotated[
        str, typer.Option(help="auto: cut picture and driver to the head. none: both are ready-made squares.")
    ] = "auto",
    face: Annotated[int, typer.Option(help="Which face of the picture, from the largest, 0.")] = 0,
    driver_face: Annotated[int, typer.Option(help="Which face of the driver, from the largest, 0.")] = 0,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Show portrait, driver and result in a row.")
    ] = False,
    rotation_gain: Annotated[float | None, typer.Option(help="How strongly the head turns, 0 to 2.")] = None,
    translation_gain: Annotated[float | None, typer.Option(help="How strongly the head moves, 0 to 2.")] = None,
    scale_gain: Annotated[float | None, typer.Option(help="How strongly its size changes, 0 to 2.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the output if it exists.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Try a picture in which no human face can be read: a drawing, an animal.")
    ] = False,
) -> None:
    """Move the person in PORTRAIT as the person in DRIVING moves.

    Gains that are not given are the model's own. A built-in name wins over a file called the same: write ./name.
    """
    from personalive.animate import AnimateOptions, animate, prepare

    options = AnimateOptions(
        seed=seed, max_frames=max_frames, crop=cast(Any, crop), face=face, driver_face=driver_face,
        side_by_side=side_by_side, rotation_gain=rotation_gain, translation_gain=translation_gain,
        scale_gain=scale_gain, overwrite=overwrite, force=force,
    )  # fmt: skip
    job = prepare(portrait, driving, output, options)

    from personalive.device import precision_named
    from personalive.pipeline import PersonaLive

    dtype = precision_named(precision)
    tell = lambda line: typer.echo(line, err=True)  # noqa: E731
    networks = PersonaLive.from_pretrained(model, device, dtype, memory, decoder, runtime, window, size, tell)
    with progress_bar("animating") as progress:
        done = animate(networks, job, progress)
    typer.echo(
        f"{done.path}: {done.frames} frames, {done.seconds:.1f} s at {done.rate:.4g} frames/s, "
        f"{done.width}x{done.height} pixels; made in {done.took:.1f} s ({done.frames / done.took:.1f} frames/s)"
    )
