"""Species of rows: numbers from headers of real files, equal in all files."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refsys.data.formats.species import species_number

UNIPROT = b">sp|P61769|B2MG_HUMAN/22-119 [subseq from] Beta-2-microglobulin OS=Homo sapiens OX=9606"
UNIREF = (
    b">UniRef100_A0A0D6PAJ9 Cytochrome P454 n=1 Tax=Acidisphaera rubrifaciens HS-AP3 "
    b"TaxID=1231350 RepID=A0A0D6PAJ9_9PROT"
)


def named(name):
    """Return the number of a name, computed independently."""
    bits = int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "big")
    return 2**30 + bits % 2**30


@pytest.mark.parametrize(
    ("header", "number"),
    [
        (UNIPROT, 9606),
        (UNIPROT + b" GN=B2M PE=1 SV=1", 9606),
        (UNIPROT[1:], 9606),
        (UNIREF, 1231350),
        (b">UniRef100_A0A2K6QFJ4\t351\t0.950\t1.419E-105\t0\t260\t261\tTaxId=61622", 61622),
        (
            b">tr|A0A0Q9XW80|A0A0Q9XW80_9STAP Uncharacterized protein OS=Staphylococcus sp. "
            b"NAM3COL9 GN=ACA31_00310 PE=4 SV=1",
            named(b"staphylococcus sp. nam3col9"),
        ),
        (
            b">UniRef100_F9SWE4 Protein N n=1 Tax=Vibrio orientalis CIP 102891 = ATCC 33934 "
            b"RepID=F9SWE4_VIBOR",
            named(b"vibrio orientalis cip 102891 = atcc 33934"),
        ),
        (b">tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-51", named(b"9stap")),
        (b">sp|P61769-2|B2MG_HUMAN", named(b"human")),
        (b">UniRef50_P61769 n=3 RepID=B2MG_HUMAN", named(b"human")),
        (b">x Tax=9606", 9606),
    ],
)
def test_header_with_a_species_has_its_number(header, number):
    assert species_number(header) == number


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b">query",
        b">063698",
        b">query_A/1-253",
        b">UniRef100_UPI000DEC05F8",
        b">UniRef100_A0A4V6JK63\t91\t0.814\t1.694E-18\t0\t96\t103\t0\t92\t207",
        b">SRR5690554_12554\t78\t0.278",
        b">10832|scaffold45522_6|-1812|00\t74\t0.254",
        b">MGYP000048211747/1-51 [subseq from] PL=00 UP=0 BIOMES=0000000011000",
        b">UniRef100_X Protein n=90 Tax=root TaxID=1 RepID=X0A1_HUMAN",
        b">UniRef100_X Protein n=9 Tax=Bacteria TaxID=2",
        b">x BOX=9606 OX=9606a OX=",
        b">x OS= OX=0",
    ],
)
def test_header_without_a_species_has_no_number(header):
    assert species_number(header) == -1


def test_species_numbers_have_golden_values():
    assert species_number(b"x", b"Homo sapiens") == 1_806_524_377
    spellings = {b"Homo sapiens", b" homo  Sapiens", b"HOMO\tSAPIENS"}
    assert {species_number(b"x", name) for name in spellings} == {1_806_524_377}
    assert species_number(b">x OS=Homo sapiens PE=1") == 1_806_524_377
    assert species_number(UNIPROT, b"Homo sapiens") == species_number(b"x", b"9606") == 9606


@given(st.binary(max_size=60), st.binary(max_size=12))
def test_species_number_of_any_bytes_fits_int32(header, name):
    assert -1 <= species_number(header, name) < 2**31


@given(st.integers(3, 10**9 - 1), st.sampled_from([b"OX", b"TaxID", b"TaxId"]))
def test_taxonomy_identifier_is_its_own_number(taxon, key):
    wider = {2157, 2759, 10239, 12908, 28384, 32644, 131567}
    expected = -1 if taxon in wider else taxon
    assert species_number(b">x %s=%d y=1" % (key, taxon)) == expected
