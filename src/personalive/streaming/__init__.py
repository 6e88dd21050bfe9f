"""The micro-chunk denoiser: pure functions of tensors. No threads, no files, no state on modules."""
