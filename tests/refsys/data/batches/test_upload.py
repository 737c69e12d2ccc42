"""Upload to the host copies nothing; upload to a device is tested in tests/gpu/test_upload.py."""

import torch

from refsys.batch import Batch
from refsys.data.batches.upload import Upload


def test_upload_to_host_copies_nothing():
    packed = Batch.empty(token=5, cycle=1, alignment_row=3, bond=4).packed()
    sent = Upload(torch.device("cpu")).send(packed)
    assert sent.arrived() is sent.host
    address = packed.buffer.untyped_storage().data_ptr()
    assert {tensor.untyped_storage().data_ptr() for tensor in sent.host.values()} == {address}
    assert sent.host.digest() == packed.unpacked().digest()
