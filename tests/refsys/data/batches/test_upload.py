"""Sending to the host itself copies nothing; to a device: tests/gpu/test_upload.py."""

import torch

from refsys.batch import Batch
from refsys.data.batches.upload import Upload


def test_on_the_host_a_batch_is_where_it_was():
    packed = Batch.empty(token=5, cycle=1, alignment_row=3, bond=4).packed()
    sent = Upload(torch.device("cpu")).send(packed)
    assert sent.arrived() is sent.host
    place = packed.buffer.untyped_storage().data_ptr()
    assert {tensor.untyped_storage().data_ptr() for tensor in sent.host.values()} == {place}
    assert sent.host.digest() == packed.unpacked().digest()
