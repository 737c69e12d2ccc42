"""Losses: the trunk's distogram, the diffusion module's and the confidence head's."""
