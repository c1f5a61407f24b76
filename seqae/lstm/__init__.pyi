from .compiled import step_library as step_library
from .layers import Feedback as Feedback
from .layers import LSTMLayer as LSTMLayer
from .layers import LSTMStack as LSTMStack
from .layers import LSTMState as LSTMState
from .linear import ONEDNN_LINEAR as ONEDNN_LINEAR
