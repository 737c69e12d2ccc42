"""The reference system: everything that trains, and nothing that measures.

Imports nothing else of the project. ``model`` is AlphaFold 3 in readable PyTorch, ``ops`` the
operators that it is written in, ``parallel`` how the pair representation is spread over ranks,
``data`` the deterministic pipeline from mmCIF to batch, ``train`` the training step and loop.
"""
