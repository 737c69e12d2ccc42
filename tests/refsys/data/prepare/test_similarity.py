"""Template search and clustering: templates are older, clusters have similar chains."""

import json
import shutil
from datetime import date

import numpy as np
import pytest

from bench.cli import main
from refsys.data.prepare.similarity import find_templates_and_clusters
from refsys.data.store.store import Store
from refsys.errors import DataError


@pytest.fixture(scope="module")
def related(store, tmp_path_factory):
    """Return a store of the core packages after the search."""
    root = tmp_path_factory.mktemp("related") / "store"
    shutil.copytree(store.root, root)
    result = Store(root)
    find_templates_and_clusters(result)
    return result


def identity(one, two):
    """Return the identity of a global alignment, relative to the shorter sequence."""
    import gemmi

    letters = [gemmi.expand_one_letter_sequence(s, gemmi.ResidueKind.AA) for s in (one, two)]
    result = gemmi.align_string_sequences(*letters, [], gemmi.AlignmentScoring("b"))
    return result.match_count / min(len(one), len(two))


def proteins(example):
    for number, chain in enumerate(example.structure.facts["chains"]):
        if chain["kind"] == "protein":
            yield number, chain


class TestTemplates:
    def test_templates_are_older_and_of_other_entries(self, everything):
        count = 0
        for entry in everything.entries():
            example = everything.open(entry)
            for chain, templates in example.templates.items():
                sources = [text.split() for text in templates.facts["templates"]]
                assert 1 <= len(sources) == len(templates["residue_type"]) <= 20
                assert entry.partition("-")[0] not in {source for source, _ in sources}
                released = date.fromisoformat(example.structure.facts["released"])
                for source, _ in sources:
                    template_released = everything.open(source).structure.facts["released"]
                    is_given = (entry.partition("-")[0], source) == ("2hyy", "1y57")
                    assert is_given or (released - date.fromisoformat(template_released)).days >= 60
                count += 1
                sequence = example.structure.facts["chains"][chain]["sequence"]
                assert templates["residue_type"].shape[1] == len(sequence)
        assert count > 40

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            ("2y4i", "1y57 A"),  # kinases
            ("7cth", "4nhc B"),  # antibodies
            ("2e84", "19hc A"),  # cytochromes
            ("6zu5", "6rw4 D"),  # ribosomal proteins
            ("3pwp", "1bd2 D"),  # T-cell receptors
        ],
    )
    def test_templates_include_known_homologs(self, everything, entry, expected):
        templates = everything.open(entry).templates.values()
        assert expected in {text for record in templates for text in record.facts["templates"]}

    def test_assembly_has_the_templates_of_its_chains_and_is_no_template(self, everything):
        unit, whole = (everything.open(name) for name in ("2hyy", "2hyy-assembly1"))
        assert whole.templates[0].path == unit.templates[0].path
        for entry in everything.entries():
            for templates in everything.open(entry).templates.values():
                assert not any("assembly" in text for text in templates.facts["templates"])

    def test_given_templates_replace_those_of_the_search(self, sources, tmp_path):
        root = tmp_path / "store"
        for entry in ("1atp", "1y57"):
            path = str(sources[entry].structure.cached)
            assert main(["prepare", path, "--store", str(root)]) == 0
        assert Store(root).open("1y57").templates[0].facts["templates"] == ["1atp A"]
        options = ["--template", f"A={sources['1ubq'].structure.cached}:A"]
        path = str(sources["1y57"].structure.cached)
        assert main(["prepare", path, *options, "--store", str(root)]) == 0
        assert Store(root).open("1y57").templates[0].facts["templates"] == ["1ubq A"]


class TestClusters:
    def test_clusters_group_similar_sequences(self, everything):
        cluster_of = {}
        for entry in everything.entries():
            example = everything.open(entry)
            assert len(example.clusters) == len(example.structure.facts["chains"])
            for number, chain in proteins(example):
                cluster_of.setdefault(chain["sequence"], set()).add(example.clusters[number])
        assert {len(clusters) for clusters in cluster_of.values()} == {1}
        names = [next(iter(clusters)) for clusters in cluster_of.values()]
        assert 100 < len(set(names)) < len(names)
        random = np.random.default_rng(0)
        sequences = list(cluster_of)
        pairs = [random.choice(len(sequences), 2, replace=False) for _ in range(300)]
        for one, two in pairs:
            long = min(len(sequences[one]), len(sequences[two])) >= 40
            if long and identity(sequences[one], sequences[two]) > 0.6:
                assert names[one] == names[two]
            if long and names[one] == names[two]:
                assert identity(sequences[one], sequences[two]) > 0.25

    def test_ligands_of_equal_content_share_a_cluster(self, everything):
        heme = {
            example.clusters[number]
            for entry in ("8vkf", "2gtl")
            for example in [everything.open(entry)]
            for number, chain in enumerate(example.structure.facts["chains"])
            if chain["kind"] == "ligand"
            and example.structure["residue_component"][
                int(np.argmax(example.structure["residue_chain"] == number))
            ]
            == b"HEM"
        }
        assert len(heme) == 1


class TestStore:
    def test_repeated_search_changes_nothing(self, related):
        assert related.root.joinpath("relations").is_dir()
        again = find_templates_and_clusters(related)
        assert (again.changed, again.repaired) == (0, ())

    def test_new_entry_gets_templates_and_clusters(self, related, sources, tmp_path):
        root = tmp_path / "store"
        shutil.copytree(related.root, root)
        path = str(sources["7bqu"].structure.cached)
        assert main(["prepare", path, "--store", str(root)]) == 0
        assert (root / "relations" / "7bqu.json").exists()

    def test_relations_of_another_structure_record_are_ignored(self, related, tmp_path):
        root = tmp_path / "store"
        shutil.copytree(related.root, root)
        path = root / "relations" / "8vkf.json"
        said = json.loads(path.read_bytes())
        path.write_text(
            json.dumps(said | {"structure": "another", "clusters": ["x"] * 5}), encoding="utf-8"
        )
        assert "x" not in Store(root).open("8vkf").clusters

    @pytest.mark.parametrize("damage", ["", "{", "[]", "null", "{}"])
    def test_damaged_relations_are_reported_and_rebuilt(self, related, tmp_path, damage):
        root = tmp_path / "store"
        shutil.copytree(related.root, root)
        path = root / "relations" / "8vkf.json"
        whole = path.read_bytes()
        path.write_text(damage, encoding="utf-8")
        with pytest.raises(DataError, match=r"relations/8vkf\.json: unreadable"):
            Store(root).open("8vkf")
        assert find_templates_and_clusters(Store(root)).changed == 1
        assert path.read_bytes() == whole

    def test_damaged_hits_record_is_rebuilt(self, related, tmp_path):
        root = tmp_path / "store"
        shutil.copytree(related.root, root)
        column = next((root / "records" / "hits").rglob("target.npy"))
        content = bytearray(column.read_bytes())
        content[-1] ^= 1
        column.write_bytes(content)
        (repaired,) = find_templates_and_clusters(Store(root)).repaired
        assert "target.npy: altered" in repaired

    def test_search_in_an_empty_store_changes_nothing(self, tmp_path):
        assert find_templates_and_clusters(Store(tmp_path)).changed == 0

    def test_prepare_without_pyhmmer_skips_the_search_with_an_error(
        self, sources, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.setitem(__import__("sys").modules, "pyhmmer", None)
        path = str(sources["1ubq"].structure.cached)
        assert main(["prepare", path, "--store", str(tmp_path)]) == 2
        said = capsys.readouterr()
        assert "sequence search needs pyhmmer: pip install" in said.err
        assert Store(tmp_path).open("1ubq").clusters
