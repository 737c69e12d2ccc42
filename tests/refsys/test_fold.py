"""Folding: files as read by other libraries, confidence against plain NumPy, bad input."""

import json
import shlex

import gemmi
import numpy as np
import pytest
import torch
from biotite.structure.io import pdbx
from hypothesis import given
from hypothesis import strategies as st

from bench.cli import main
from refsys.config import preset
from refsys.data.formats.mmcif import read_structure
from refsys.data.formats.write_mmcif import write_mmcif
from refsys.data.vocabulary import ELEMENTS
from refsys.errors import DataError
from refsys.fold import FoldConfig, expected_lddt, fold, predicted_tm_score
from refsys.model.context import Context
from refsys.model.diffusion import SamplerConfig
from refsys.parallel import SingleRank
from refsys.precision import precision
from refsys.training.alphafold3_step import AlphaFold3Training
from refsys.training.checkpoint import CHECKPOINTS, save
from refsys.training.stages import STAGES

CPU = torch.device("cpu")
FEW = "--steps 4 --samples 3 --cycles 1 --alignment-rows 4 --device cpu"
# Positions have three decimals in a file, B factors two.
POSITION, CONFIDENCE = 1e-3, 1e-2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run folder whose averages differ from its weights, and the averaged model."""
    training = AlphaFold3Training(
        preset("tiny"),
        precision("float32"),
        stage=STAGES["initial"],
        samples=1,
        seed=0,
        device=CPU,
    )
    training.initialize()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in training.parameters:
            # Gates and outputs start at zero, which would give all samples the same confidence.
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    training.restart_averages()
    training.materialize_moments()
    with torch.no_grad():
        averages = [parameter.clone() for parameter in training.parameters]
        for parameter in training.parameters:
            parameter.zero_()
    folder = tmp_path_factory.mktemp("run")
    save(folder / CHECKPOINTS, training, 7, {})
    with torch.no_grad():
        for parameter, value in zip(training.parameters, averages, strict=True):
            parameter.copy_(value)
    return folder, training.model


def folded(model, example, **changes):
    settings = {"samples": 3, "cycles": 1, "alignment_rows": 4} | changes
    config = FoldConfig(**settings, sampler=SamplerConfig(steps=4))
    return fold(model, example, config, CPU)


@pytest.fixture(scope="module", params=["1ubq", "2q2k"])
def results(request, run, store, tmp_path_factory):
    """Return the output folder of the command line for an entry, and the expected result."""
    folder, model = run
    out = tmp_path_factory.mktemp("folded")
    entry = request.param
    command = f"fold {entry} --checkpoint {folder} {FEW} --store {store.root} --out {out}"
    assert main(shlex.split(command)) == 0
    example = store.open(entry)
    return out, example, folded(model, example)


def atoms_of(structure, rows):
    """Return (chain, number, component, name, element) of each atom of the record."""
    owner = np.repeat(
        np.arange(len(structure["residue_chain"])), np.diff(structure["residue_first_atom"])
    )
    names = [chain["name"] for chain in structure.facts["chains"]]
    return [
        (
            names[structure["residue_chain"][residue]],
            int(structure["residue_number"][residue]),
            structure["residue_component"][residue].decode(),
            structure["atom_name"][row].decode(),
            ELEMENTS[structure["atom_element"][row]].upper(),
        )
        for row, residue in zip(rows, owner[rows], strict=True)
    ]


def by_gemmi(path):
    """Return atoms, positions and B factors."""
    document = gemmi.cif.read(str(path))
    model = gemmi.make_structure_from_block(document.sole_block())[0]
    rows, positions, b_factors = [], [], []
    for chain in model:
        for residue in chain:
            for atom in residue:
                element = atom.element.name.upper()
                owner = residue.subchain, residue.seqid.num, residue.name
                rows.append((*owner, atom.name, element))
                positions.append(atom.pos.tolist())
                b_factors.append(atom.b_iso)
    return rows, np.array(positions), np.array(b_factors)


def by_biotite(path):
    atoms = pdbx.get_structure(
        pdbx.CIFFile.read(path),
        model=1,
        use_author_fields=False,
        extra_fields=["b_factor", "label_asym_id", "auth_seq_id"],
    )
    parts = (atoms.label_asym_id, map(int, atoms.auth_seq_id), atoms.res_name, atoms.atom_name)
    return list(zip(*parts, atoms.element, strict=True)), atoms.coord, atoms.b_factor


class TestFiles:
    @pytest.mark.parametrize("read", [by_gemmi, by_biotite])
    def test_other_libraries_read_the_predicted_atoms(self, results, read):
        out, example, done = results
        report = json.loads((out / f"{example.entry}.json").read_text(encoding="utf-8"))
        for listed in report["structures"]:
            rows, positions, b_factors = read(out / listed["file"])
            assert rows == atoms_of(example.structure, done.rows)
            sample = listed["sample"]
            assert np.abs(positions - done.positions[sample]).max() < POSITION
            assert np.abs(b_factors - done.plddt[sample]).max() < CONFIDENCE

    def test_own_reader_reads_the_predicted_structures(self, results):
        out, example, _ = results
        structure = example.structure
        chains = structure.facts["chains"]
        for rank in (1, 2, 3):
            found = read_structure(out / f"{example.entry}-{rank}.cif")
            assert found.entry.lower() == example.entry
            assert [chain.name for chain in found.chains] == [chain["name"] for chain in chains]
            assert [chain.kind for chain in found.chains] == [chain["kind"] for chain in chains]
            assert found.names.tolist() == [n.decode() for n in structure["atom_name"].tolist()]
            assert (found.elements == structure["atom_element"]).all()

    def test_report_lists_structures_by_decreasing_plddt(self, results):
        out, example, done = results
        report = json.loads((out / f"{example.entry}.json").read_text(encoding="utf-8"))
        best_first = np.argsort(-done.plddt.mean(axis=1)).tolist()
        assert [listed["sample"] for listed in report["structures"]] == best_first
        for number, listed in enumerate(report["structures"], start=1):
            assert listed["file"] == f"{example.entry}-{number}.cif"
            assert listed["plddt"] == pytest.approx(done.plddt[listed["sample"]].mean(), abs=1e-5)
            assert listed["ptm"] == pytest.approx(done.ptm[listed["sample"]], abs=1e-6)
        assert report["weights"].endswith("step-000000007")


def test_fold_is_a_function_of_its_seed(run, store):
    _, model = run
    example = store.open("1ubq")
    one, two, other = (folded(model, example, seed=seed) for seed in (1, 1, 2))
    assert (one.positions == two.positions).all()
    assert (one.plddt == two.plddt).all()
    assert not (one.positions == other.positions).any(axis=2).all()
    assert not (one.positions[0] == one.positions[1]).any(axis=1).all()
    assert ((one.plddt > 0) & (one.plddt < 100)).all()
    assert ((one.ptm > 0) & (one.ptm < 1)).all()
    assert one.rows.tolist() == list(range(len(example.structure["atom_token"])))


def test_fold_warns_that_weights_are_random_without_a_checkpoint(store, tmp_path, capsys):
    command = f"fold 1ubq {FEW} --seed 5 --store {store.root} --out {tmp_path}"
    assert main(shlex.split(command)) == 0
    assert "foldperf: no --checkpoint: the weights are random\n" in capsys.readouterr().err
    assert (
        json.loads((tmp_path / "1ubq.json").read_text(encoding="utf-8"))["weights"]
        == "random, seed 5"
    )
    assert len(list(tmp_path.iterdir())) == 3 + 1


class TestRanks:
    """Three processes; the tokens of the entry are not a multiple."""

    COMMAND = "fold 1ubq --checkpoint {run} --store {store} --precision float64 --out {out} "
    COMMAND += "--steps 2 --samples 2 --cycles 1 --alignment-rows 4 --device cpu"

    def words(self, run, store, out, *more):
        return [*self.COMMAND.format(run=run[0], store=store.root, out=out).split(), *more]

    def test_files_of_three_ranks_equal_those_of_one(self, run, store, command_server, tmp_path):
        one, three = tmp_path / "one", tmp_path / "three"
        assert main(self.words(run, store, one)) == 0
        words = self.words(run, store, three, "--context-ranks", "3", "--exchange-chunks", "2")
        done = command_server.run_ranks(3, words, folder=tmp_path)
        assert [rank.returncode for rank in done] == [0, 0, 0], done
        assert [len(rank.stdout.splitlines()) for rank in done] == [2, 0, 0]
        names = sorted(path.name for path in one.iterdir())
        assert sorted(path.name for path in three.iterdir()) == names
        structures = [name for name in names if name.endswith(".cif")]
        assert len(structures) == 2
        for name in structures:
            assert (three / name).read_bytes() == (one / name).read_bytes()
        reports = [json.loads((out / "1ubq.json").read_bytes()) for out in (one, three)]
        expected, found = (report.pop("structures") for report in reports)
        assert reports[0] == reports[1]
        for listed, expected_listed in zip(found, expected, strict=True):
            assert listed["file"] == expected_listed["file"]
            for score in ("plddt", "ptm"):
                assert listed[score] == pytest.approx(expected_listed[score], rel=1e-5)

    @pytest.mark.parametrize(
        ("ranks", "out", "message"),
        [
            (3, "folded", "context_ranks=3 need 3 ranks, and 2 were started"),
            (2, "file", "cannot be written: File exists"),
        ],
    )
    def test_every_rank_reports_bad_input_in_one_line(
        self, run, store, command_server, tmp_path, ranks, out, message
    ):
        (tmp_path / "file").write_text("", encoding="utf-8")
        words = self.words(run, store, tmp_path / out, "--context-ranks", str(ranks))
        for rank in command_server.run_ranks(2, words, folder=tmp_path):
            assert rank.returncode == 2
            assert not rank.stdout
            (line,) = rank.stderr.splitlines()
            assert message in line
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestWriting:
    """Deposited coordinates, written as if they were predictions."""

    @pytest.mark.parametrize("entry", ["8vkf", "3en2-assembly1", "5lwx", "6yfy", "4fxd", "10sb"])
    def test_write_mmcif_round_trips_deposited_structures(self, everything, tmp_path, entry):
        structure = everything.open(entry).structure
        rows = np.flatnonzero(structure["atom_resolved"])
        confidence = np.linspace(0, 100, len(rows), dtype=np.float32)
        path = tmp_path / "x.cif"
        write_mmcif(path, structure, rows, structure["atom_position"][rows], confidence)
        found = read_structure(path)
        assert found.names.tolist() == [n.decode() for n in structure["atom_name"][rows].tolist()]
        assert (found.elements == structure["atom_element"][rows]).all()
        assert (found.charges == structure["atom_charge"][rows]).all()
        assert np.abs(found.positions - structure["atom_position"][rows]).max() < POSITION
        kinds = [(chain["name"], chain["kind"]) for chain in structure.facts["chains"]]
        assert [(chain.name, chain.kind) for chain in found.chains] == kinds
        sequence = [component.decode() for component in structure["residue_component"].tolist()]
        assert [residue.component for residue in found.residues] == sequence
        entities = [chain["entity"] for chain in structure.facts["chains"]]
        assert [chain.entity for chain in found.chains] == entities
        assert np.abs(by_gemmi(path)[2] - confidence).max() < CONFIDENCE

    def test_write_mmcif_raises_one_line_when_the_path_is_not_writable(self, store, tmp_path):
        structure = store.open("1ubq").structure
        (tmp_path / "file").write_text("", encoding="utf-8")
        nothing = np.empty(0, np.float32)
        with pytest.raises(DataError, match=r"x\.cif: cannot be written: ") as caught:
            write_mmcif(
                tmp_path / "file" / "x.cif",
                structure,
                np.empty(0, np.int64),
                nothing.reshape(0, 3),
                nothing,
            )
        assert "\n" not in str(caught.value)


WRONG = {
    "an entry that is not prepared": ("fold 1abc", "1abc is not prepared (have: "),
    "a folder that is a file": ("fold 1ubq --out {file}", "cannot be written: File exists"),
    "a folder in a file": ("fold 1ubq --out {file}/x", "cannot be written: Not a directory"),
    "another preset's weights": ("fold 1ubq --preset mini --checkpoint {run}", "step-000000007"),
    "no checkpoint": ("fold 1ubq --checkpoint {empty}", "has no checkpoint"),
    "fewer tokens than ranks": ("fold 1ubq --context-ranks 77", "76 tokens are too few for 77"),
    "a precision that does not exist": ("fold 1ubq --precision fp4", "precision='fp4' does not"),
}


@pytest.mark.parametrize("name", WRONG)
def test_fold_rejects_bad_input_in_one_line_before_sampling(name, run, store, tmp_path, capsys):
    command, message = WRONG[name]
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    paths = {"file": tmp_path / "file", "empty": tmp_path / "empty", "run": run[0]}
    arguments = shlex.split(f"{command} {FEW} --store {store.root}".format(**paths))
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert not out
    assert message in error
    assert error.startswith("foldperf: ")
    assert error.count("\n") == 1


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class TestConfidence:
    """Confidence scores against loops in float64."""

    @given(st.integers(1, 60), st.integers(0, 10**6))
    def test_expected_lddt_equals_a_float64_loop(self, bins, seed):
        logits = np.random.default_rng(seed).normal(size=(2, 5, bins)) * 3
        found = expected_lddt(torch.from_numpy(logits)).numpy()
        for index in np.ndindex(2, 5):
            weights = softmax(logits[index])
            middles = [(number + 0.5) / bins for number in range(bins)]
            expected = 100 * sum(w * m for w, m in zip(weights, middles, strict=True))
            assert found[index] == pytest.approx(expected, abs=1e-3)

    @given(st.integers(1, 30), st.integers(0, 6), st.integers(0, 10**6))
    def test_predicted_tm_score_equals_a_float64_loop(self, tokens, padding, seed):
        random = np.random.default_rng(seed)
        logits = random.normal(size=(2, tokens + padding, tokens + padding, 64)) * 3
        mask = np.arange(tokens + padding) < tokens
        context = Context(layout=SingleRank(len(mask)))
        found = predicted_tm_score(
            torch.from_numpy(logits), torch.from_numpy(np.stack([mask, mask])), context
        ).numpy()
        scale = 1.24 * (max(tokens, 19) - 15) ** (1 / 3) - 1.8
        middles = np.arange(64) * 0.5 + 0.25
        for example in range(2):
            frames = []
            for i in range(tokens):
                scores = [
                    (softmax(logits[example, i, j]) / (1 + (middles / scale) ** 2)).sum()
                    for j in range(tokens)
                ]
                frames.append(np.mean(scores))
            assert found[example] == pytest.approx(max(frames), abs=1e-5)

    def test_scores_reach_the_ends_of_their_scales(self):
        """The first error bin (0.25 Å) scores almost 1 in a large structure."""
        best = torch.full((1, 200, 200, 64), -1e4)
        best[..., 0] = 1e4
        mask = torch.ones(1, 200, dtype=torch.bool)
        worst, context = best.flip(-1), Context(layout=SingleRank(200))
        assert predicted_tm_score(best, mask, context).item() > 0.99
        assert predicted_tm_score(worst, mask, context).item() < 0.05
        assert expected_lddt(worst).min() == pytest.approx(100 - 50 / 64, abs=1e-3)
        assert expected_lddt(best).max() == pytest.approx(50 / 64, abs=1e-3)
