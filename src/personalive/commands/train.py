"""`personalive train`: one stage of a training run, or its export as a checkpoint."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personalive.config import CONFIGS, override
from personalive.errors import ConfigError, OutputError
from personalive.plain_data import assignments
from personalive.reporting import STOPPED, give_up, progress_bar, reported, start_log
from personalive.training.recipe import STAGES

if TYPE_CHECKING:
    from personalive.config import ModelConfig
    from personalive.contracts import Networks

_LAUNCHED = "PERSONALIVE_PROCESS"  # set in the processes that --processes starts


@reported
def train_stage_or_export(
    run: Annotated[Path | None, typer.Option(help="The folder for checkpoints, log and sample pictures.")] = None,
    stage: Annotated[str | None, typer.Option(help=f"One of {', '.join(STAGES)}, in this order.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The folder of rendered people (`personalive data render`).")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="mini (the default), paper, or a TOML file with other numbers."),
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="A single number, e.g. image.optimisation.steps=100; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or begin anew.")
    ] = True,
    budget_minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes; resume later.")] = None,
    people_at_once: Annotated[
        int | None, typer.Option(min=1, help="For data that memory cannot hold: so many people at a time.")
    ] = None,
    steps_at_once: Annotated[int, typer.Option(min=1, help="Steps with them before others come.")] = 1000,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each process.")] = None,
    processes: Annotated[
        int,
        typer.Option(help="Processes that share the work, a GPU each or all on the CPU (accelerate launches them)."),
    ] = 1,
    shard: Annotated[
        bool,
        typer.Option("--shard", help="Processes hold a part of the weights each (FSDP), for what no GPU holds alone."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the batches and the first weights.")] = 0,
    config: Annotated[str, typer.Option(help=f"Sizes of the networks: {' or '.join(CONFIGS)}.")] = "mini",
    config_assign: Annotated[
        list[str] | None,
        typer.Option("--config-set", help="A single size or constant, e.g. stream.keyframes=0; repeatable."),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Print what memory the stage will take; train nothing."),
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(help="Begin from a trained model: a built-in model's name, a checkpoint file, a folder."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the run's networks here (after training, if any): FILE.safetensors, or a new folder."),
    ] = None,
    file_megabytes: Annotated[
        float | None, typer.Option(min=1, help="With --export FOLDER: no file is to be larger than this.")
    ] = None,
    note: Annotated[str, typer.Option(help="What `personalive info` will say about the exported checkpoint.")] = "",
) -> None:
    """Train a stage of a model, or export a checkpoint.

    Ctrl-C saves a checkpoint and ends; the same command goes on from there. For several machines start the command on
    each by `accelerate launch -m personalive train ...` instead of --processes.
    """
    _check_training(run, stage, data, export, config, estimate)
    _check_export(export, note, file_megabytes)
    if processes > 1 and not estimate and _LAUNCHED not in os.environ:
        _launch(processes, device)
        return
    start_log(logging.INFO, "%(asctime)s %(message)s")
    import torch

    from personalive.training.loop import RunOptions
    from personalive.training.recipe import load_recipe
    from personalive.training.run import assemble, train_stage

    sizes = override(CONFIGS[config], assignments(config_assign or []))
    numbers = load_recipe(recipe, assignments(assign or []))
    if threads is not None:
        torch.set_num_threads(max(1, threads))
    if estimate:
        from personalive.training.estimate import estimate as estimated

        assert stage is not None
        typer.echo("\n".join(estimated(stage, sizes, numbers, processes if shard else 1).lines()))
        return
    assert run is not None
    if stage is not None and data is not None:
        start = None if init is None else _trained(init, sizes)
        with progress_bar(stage, "steps") as progress:
            options = RunOptions(
                run,
                budget_minutes=budget_minutes,
                resume=resume,
                seed=seed,
                device=device,
                shard=shard,
                people_at_once=people_at_once,
                steps_at_once=steps_at_once,
                report=progress,
            )
            figures = train_stage(stage, sizes, numbers, data, options, start)
        if not figures:
            return  # not the first of several processes
        typer.echo(f"{run / stage}.safetensors: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if export is not None:
        typer.echo(f"{export}: {_export(assemble(sizes, run), export, note, file_megabytes) / 1e6:.1f} MB")


def _launch(processes: int, device: str) -> None:
    """The same command in several processes of this machine, by torch's launcher. Raises TrainingError if one fails."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from personalive.training.checkpoint import TrainingError

    os.environ[_LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
        run_id=str(os.getpid()), max_restarts=0,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "personalive", *sys.argv[1:])
    except ChildFailedError as error:
        raise TrainingError("a process of the run failed; its own message stands above") from error
    except SignalException:
        give_up("stopped; the checkpoint is saved, the same command goes on from there", STOPPED)


def _export(networks: Networks, path: Path, note: str, file_megabytes: float | None) -> int:
    """Write a checkpoint file, or a model's folder; the bytes that were written."""
    if path.suffix == ".safetensors":
        from personalive.weights.load import save_networks

        save_networks(networks, path, description=note)
        return path.stat().st_size
    from personalive.weights.folder import save_folder

    save_folder(networks, path, file_bytes=None if file_megabytes is None else int(file_megabytes * 1e6))
    return sum(file.stat().st_size for file in path.iterdir())


def _trained(model: str, sizes: ModelConfig) -> Networks:
    """A trained model of the sizes that are to be trained. Raises ConfigError when it has others."""
    from personalive.weights.find import open_model

    networks = open_model(model)
    if networks.config.unet != sizes.unet or networks.config.image_size != sizes.image_size:
        raise ConfigError(f"--init {model} is of config {networks.config.name!r}, not {sizes.name!r}")
    return networks


def _check_export(export: Path | None, note: str, file_megabytes: float | None) -> None:
    """Before anything is trained: what does not go together, and a folder that holds something."""
    whole = export is None or export.suffix == ".safetensors"
    if whole and file_megabytes is not None:
        raise ConfigError("--file-megabytes is for --export FOLDER; a checkpoint FILE.safetensors is one file")
    if not whole and note:
        raise ConfigError("--note goes into a checkpoint FILE.safetensors; a folder has none")
    if not whole and export is not None and export.exists():
        raise OutputError(f"{export} exists: choose a new folder, or FILE.safetensors")


def _check_training(
    run: Path | None, stage: str | None, data: Path | None, export: Path | None, config: str, estimate: bool
) -> None:
    """Raises ConfigError for options that do not go together."""
    if stage is None and export is None:
        raise ConfigError("nothing to do; give --stage to train, --export to write a checkpoint, or both")
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"there is no stage {stage!r}; choose one of {', '.join(STAGES)}")
    if estimate and stage is None:
        raise ConfigError("--estimate needs --stage")
    if run is None and not estimate:
        raise ConfigError("--run is missing, the folder for checkpoints, log and sample pictures")
    if stage is not None and data is None and not estimate:
        raise ConfigError("--stage needs --data, the folder of rendered people; `personalive data render` makes one")
    if config not in CONFIGS:
        raise ConfigError(f"there is no config {config!r}; choose one of {', '.join(CONFIGS)}")
