"""Losses of the trunk (distogram), the diffusion module and the confidence head."""
