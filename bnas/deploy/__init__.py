"""From a trained network to a file of bits that runs: trace, pack, file, runtime, verify."""
