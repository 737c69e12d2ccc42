"""Batches prefetched to an accelerator are complete when they are used."""

import pytest
import torch

from refsys.batch import TRUNK_FIELDS, Batch
from refsys.data.batches.loader import prefetch
from refsys.data.batches.upload import Upload

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator")

SIZES = [(384, 1024), (768, 1024), (64, 16), (512, 4096)] * 8


def batch_of(number):
    tokens, rows = SIZES[number]
    batch = Batch.empty(token=tokens, cycle=1, alignment_row=rows, bond=2 * tokens)
    generator = torch.Generator().manual_seed(number)
    alignment = torch.randint(0, 22, batch["alignment"].shape, generator=generator)
    return batch.replaced(alignment=alignment.to(torch.uint8))


def test_uploaded_batches_equal_the_sent_ones():
    upload = Upload(torch.device("cuda"))
    batches = [batch_of(number).packed() for number in range(len(SIZES))]
    digests = []
    for sent in prefetch((batch for batch in batches), upload.send):
        batch = sent.arrived()
        # Work that is still queued when the next batches are uploaded.
        busy = torch.randn(2048, 2048, device="cuda")
        for _ in range(20):
            busy = torch.nn.functional.normalize(busy @ busy)
        digests.append((batch["alignment"].long().sum(), batch))
    for number, (total, batch) in enumerate(digests):
        expected = batch_of(number)
        assert int(total) == int(expected["alignment"].long().sum())
        assert batch.fields == TRUNK_FIELDS
        assert batch.digest() == expected.digest()
