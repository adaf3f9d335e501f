"""Running Lightning's trainer once, from where a run stands to its end."""

import torch

from longstate._checks import InputError
from longstate.training.config import RunConfig
from longstate.training.interrupted import Interrupted
from longstate.training.keeper import Keeper, Stopped, signals_given_back
from longstate.training.lightning_door import quiet
from longstate.training.progress import ProgressDisplay
from longstate.training.run_folder import RunFolder
from longstate.training.run_module import RunModule


def run(module: RunModule, folder: RunFolder, *, resume: bool, progress: bool) -> None:
    """Train until the last epoch, an early stop, the end of the time or a signal; `folder` holds the outcome.

    The signals of the caller are the same afterwards.

    Raises:
        Interrupted: On SIGINT or SIGTERM, after a checkpoint.
    """
    import lightning as L

    config = module.config
    keeper = Keeper(folder, is_new=not resume)
    display = ProgressDisplay() if progress else None
    interrupted = False
    with quiet(), signals_given_back():
        trainer = L.Trainer(
            accelerator=accelerator(config),
            devices=config.devices,
            strategy=config.strategy,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            max_epochs=config.epochs - module.standing.epoch,
            gradient_clip_val=config.gradient_clip,
            callbacks=[keeper] if display is None else [keeper, display],
            default_root_dir=folder.path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, ckpt_path=folder.checkpoint if resume else None, weights_only=True)
        except Stopped:
            interrupted = True
        except SystemExit:  # how Lightning ends at a second Ctrl-C
            if not keeper.signalled:
                raise
            interrupted = True
        finally:
            if display is not None:
                display.close()
    if interrupted:
        standing = folder.standing()
        raise Interrupted(folder.path, epoch=standing.epoch + 1, epochs=config.epochs, step=standing.step)


def accelerator(config: RunConfig) -> str:
    """Lightning's name of the device, if it is here."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    # The kernels of the layers are computed in float64, which MPS lacks: "auto" does not take it.
    device = ("cuda" if here["cuda"] else "cpu") if config.device == "auto" else config.device
    if not here[device]:
        found = ", ".join(name for name, is_here in here.items() if is_here)
        raise InputError(f"`device` is {device!r}, but this machine has {found} only; choose that or 'auto'.")
    if device == "cuda" and config.devices > torch.cuda.device_count():
        raise InputError(
            f"`devices` is {config.devices}, but this machine has {torch.cuda.device_count()} of them; ask for less."
        )
    return "gpu" if device == "cuda" else device
