from .beyond_training import digit_counts as digit_counts
from .beyond_training import longer_horizon as longer_horizon
from .labelled import few_labels as few_labels
from .probes import label_probes as label_probes
from .probes import linear_probes as linear_probes
from .weights import gate_shares as gate_shares
from .weights import weight_pictures as weight_pictures
