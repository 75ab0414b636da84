"""How engine and loss are computed faster: C for CPUs, CUDA graphs, quantized weights, guided decoding."""
