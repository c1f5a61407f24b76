"""Whether seqae is right on this machine's GPU, and how fast it is there: `make gpu-check`, docs/gpu.md.

    python -m seqae.benchmark.gpu_check --limit 480 --out gpu-check.json [SECTION ...]

sections: which there are, each in a process of its own with a time limit; section_process: that process; checks: what
it says. correctness, training, forking, commands, timing, grid: the sections; captured: an update as a CUDA graph.
"""
