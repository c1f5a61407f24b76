"""The table of architectures: how a frame becomes a vector and back, how wide and deep the LSTMs are.

A model of one's own needs no row: `architecture: module:name`, see docs/your-own.md. To add one for everybody, add a
row. For a new way from frame to vector, write a function in `embeddings` and call it in `models._embedding` and
`models._readout`. A new kind of layer goes to `lstm`; where its state is not h and c, `encode` and `decode`
of `models` and `runs.first_weights` change, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from seqae.lstm import LSTMStack

PIXELS = -1  # as wide as the frame has pixels
HIDDEN = -2  # as wide as the LSTM layers: all positions of a convolution's map together; in a ConvLSTM, its channels


@dataclass(frozen=True)
class Architecture:
    """One row of `ARCHITECTURES`: sizes at 64×64 pixels and width 1.

    hidden, layers: width and number of the LSTM layers. linear: widths of the frame's embedding, ReLU after each; or
    channels, kernel_sizes, strides: of its convolutions, without padding. The last width is HIDDEN. A ReLU follows each
    convolution; relu_last=False omits the last. readout: what the output frame is: the h of the decoder's last layer
    (`h`), which then has as many units as the frame has pixels, a Linear of it, or the embedding mirrored.
    hand_over: the decoder gets the encoder's top h alone, as the h of its first layer, or every layer's h and c.
    lstm_kernel_size: of convolutions inside the LSTMs, over the last feature map, which is then HIDDEN channels deep
    (ConvLSTM); None: the LSTMs are fully connected. lstm_input_kernel_size: of those that read a layer's inputs, if it
    is another. stack: what builds the recurrent layers. Raises ValueError for a row that would build another network
    than it says.
    """

    hidden: int
    layers: int
    linear: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    kernel_sizes: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    relu_last: bool = True
    readout: Literal["h", "linear", "mirror"] = "h"
    hand_over: Literal["top", "all"] = "top"
    lstm_kernel_size: int | None = None
    lstm_input_kernel_size: int | None = None
    stack: Callable[..., Any] = LSTMStack

    def __post_init__(self) -> None:
        given = f"channels {self.channels}, linear {self.linear}, readout {self.readout}"
        if (self.channels and self.readout == "h") or (self.readout == "mirror" and not self.embeds):
            raise ValueError(f"{given}: a mirror needs channels or linear, channels need a mirror or a linear readout")
        one = not (self.channels and self.linear) and (self.channels or not self.lstm_kernel_size)
        if not one or (self.channels or self.linear or (HIDDEN,))[-1] != HIDDEN:
            raise ValueError(f"{given}: give channels, which lstm_kernel_size needs, or linear; the last is HIDDEN")

    @property
    def embeds(self) -> bool:
        """Whether frames are embedded. With `decoder_input: output` the decoder then reads the top h, not the frame."""
        return bool(self.channels or self.linear)

    def reach(self, gain: float) -> float:
        """The largest |pre-activation| that any weights can give.

        A frame that is h itself, which lies in (-1, 1), reaches `gain`; any other readout reaches infinity. With gain 1
        sigmoid(h) lies in (0.27, 0.73), so it is never black. From the pixels of val, `runs.levels` computes the least
        MSE that this leaves, the floor. A loss whose floor is above the mean frame's MSE cannot learn: a run says so
        before it trains.
        """
        return gain if self.readout == "h" else float("inf")


_CNN = Architecture(
    hidden=1024, layers=3, channels=(128, 512, HIDDEN), kernel_sizes=(10, 10, 10), strides=(2, 2, 1), readout="mirror"
)
ARCHITECTURES = {
    "lstm": Architecture(hidden=PIXELS, layers=1),  # in the diary built with torch.nn.LSTM
    "lstmcell": Architecture(hidden=PIXELS, layers=1),  # the same network, in the diary built with torch.nn.LSTMCell
    "lstm_copy": Architecture(hidden=2048, layers=3),
    "fc_lstm": Architecture(hidden=256, layers=3, linear=(1024, HIDDEN), readout="mirror"),
    "cnn_v1": replace(
        _CNN, hidden=512, channels=(128, 256, 256, 256, HIDDEN), kernel_sizes=(4, 5, 4, 4, 3), strides=(2, 2, 2, 1, 1),
        relu_last=False,
    ),
    "cnn_v2": _CNN,
    "cnn_v3": replace(_CNN, hidden=128, channels=(64, 64, HIDDEN)),
    "cnn_flatten": replace(_CNN, kernel_sizes=(10, 10, 3)),
    # Srivastava et al. (2015), §2.2-2.4; two layers and peepholes by parameter.
    "srivastava": Architecture(hidden=2048, layers=1, readout="linear", hand_over="all"),
    # Shi et al. (2015), on patches of 8×8 pixels; one layer of 64 channels, theirs has three of 128, 64 and 64.
    "convlstm": replace(
        _CNN, hidden=64, layers=1, channels=(32, HIDDEN), kernel_sizes=(4, 2), strides=(4, 2), relu_last=False,
        hand_over="all", lstm_kernel_size=3,
    ),
}  # fmt: skip
# Two convolutions have seen a whole patch, and h those around it: inputs need no more of them.
ARCHITECTURES["convlstm_pointwise"] = replace(ARCHITECTURES["convlstm"], lstm_input_kernel_size=1)
