"""The command that uses a trained model on clips of one's own: `seqae predict`."""

from pathlib import Path
from typing import Annotated

import typer

from seqae.commands.messages import errors_in_one_line
from seqae.commands.options import Folder, TrustCode, file_path


def predict_clips(
    run: Folder,
    clips: Annotated[
        Path,
        typer.Argument(
            metavar="CLIPS",
            parser=file_path,
            help=".npy or .npz, (N, T, H, W), (T, N, H, W) or (T, H, W), uint8 or on [0, 1]; a video, a GIF, a folder "
            "of pictures.",
        ),
    ],
    out: Annotated[
        list[Path],
        typer.Option("--out", "-o", metavar="FILE", parser=file_path, help="An .npz or .gif file; may be repeated."),
    ],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Frames to predict; default: as many as the run was trained to.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    trust_code: TrustCode = False,
) -> None:
    """Let a trained RUN predict how clips go on.

    It reconstructs them, too, if it was trained to.
    It sees the first frames of each clip, as many as in training. An .npz file
    gets pred and recon, float32 on [0, 1], a .gif file the first 4 clips:
    output, what was true where CLIPS has it, and the difference.

    \b
    seqae predict reports/losses/0nm-both-output-1a2b3c4d clips.npy -o out.npz
    seqae predict reports/losses/0nm-both-output-1a2b3c4d clips.npy -o out.npz -o out.gif --steps 30
    """
    with errors_in_one_line():
        from seqae.runs import recorded_run, save_clip_outputs
        from seqae.stores import located

        for line in save_clip_outputs(
            recorded_run(located(run), trust_code=trust_code), clips, out, steps=steps, device=device
        ):
            typer.echo(line)
