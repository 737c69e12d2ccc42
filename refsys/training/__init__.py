"""Training: the step and its phases, batches on their way to the device, loop, checkpoints, log."""
