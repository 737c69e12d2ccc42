"""Names of the vendors' libraries that the code uses exist in the published packages.

Without a driver NVML's binding imports; AMD SMI's does not, and its source is read instead.
"""

import ast
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.scripted_torch import gpu, script_torch

from bench.devices import amd, find, nvidia
from bench.devices.device import LibraryMissing

HERE = Path(nvidia.__file__).parent
NVIDIA = [HERE / name for name in ("nvidia.py", "mig.py", "gpm.py")]
AMD = [HERE / name for name in ("amd.py", "amd_energy.py")]
NVML_NAME = r"nvml[A-Z]\w*|NVML\w+|c_nvml\w+"
AMD_NAME = r"amdsmi_[a-z0-9_]+|AmdSmi\w+"


def installed(module):
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install 'foldperf[test]'")


def names_in(sources, pattern):
    """Return names used as attributes or as whole strings."""
    names = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(name, str) and re.fullmatch(pattern, name):
                names.add(name)
    return names


def read(paths):
    return [path.read_text(encoding="utf-8") for path in paths]


def test_vendor_libraries_are_named_in_their_own_files_only():
    other_files = sorted(set(HERE.glob("*.py")) - {*NVIDIA, *AMD})
    assert names_in(read(other_files), f"{NVML_NAME}|{AMD_NAME}") == set()


class TestNvml:
    @pytest.fixture(autouse=True)
    def pynvml(self):
        installed("pynvml")
        return pytest.importorskip("pynvml")

    def test_every_name_exists_in_the_package(self, pynvml):
        names = names_in(read(NVIDIA), NVML_NAME)
        assert {"nvmlDeviceGetTemperatureV", "NVML_GPM_METRIC_SM_UTIL", "NVMLError"} <= names
        assert len(names) > 40
        fields = {name for name, _ in pynvml.c_nvmlGpmMetric_t._fields_}
        names -= fields
        assert sorted(name for name in names if not hasattr(pynvml, name)) == []

    def test_missing_name_is_detected_as_attribute_or_string(self, pynvml):
        wrong = "self._query('nvmlDeviceGetWarmth'); library.NVML_WARM; {'NVMLError_Warm': 1}"
        names = names_in([wrong], NVML_NAME)
        assert names == {"nvmlDeviceGetWarmth", "NVML_WARM", "NVMLError_Warm"}
        assert not any(hasattr(pynvml, name) for name in names)

    def test_throttle_bits_equal_those_of_the_library(self, pynvml):
        bits = {name: bit for name, (bit, _) in nvidia.THROTTLING.items()} | nvidia.SETTINGS
        assert {name: getattr(pynvml, name) for name in bits} == bits
        every = pynvml.nvmlClocksEventReasonAll | pynvml.nvmlClocksThrottleReasonAll
        assert sum(bits.values()) == every, "no reason of the library is without a name"


class TestAmdSmi:
    @pytest.fixture(autouse=True)
    def package(self):
        installed("amdsmi")
        return Path(find_spec("amdsmi").submodule_search_locations[0])

    @pytest.fixture
    def exported(self, package):
        tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        return {alias.name for node in imports for alias in node.names}

    @pytest.fixture
    def interface(self, package):
        """Return the functions and classes of the binding."""
        tree = ast.parse((package / "amdsmi_interface.py").read_text(encoding="utf-8"))
        return {node.name: node for node in tree.body if hasattr(node, "name")}

    def test_every_name_exists_in_the_package(self, exported):
        names = names_in(read(AMD), AMD_NAME)
        assert {"amdsmi_get_energy_count", "AmdSmiTemperatureType", "AmdSmiException"} <= names
        assert len(names) > 18
        assert sorted(names - exported) == []

    def test_status_codes_equal_those_of_the_library(self, package):
        tree = ast.parse((package / "amdsmi_wrapper.py").read_text(encoding="utf-8"))
        values = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        codes = {name: code for name, (code, _) in amd.STATUS.items()}
        assert {name: values[name] for name in codes} == codes

    def test_members_of_enumerations_exist(self, interface):
        members = {
            (node.value.attr, node.attr)
            for source in read(AMD)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute)
            and node.value.attr.startswith("AmdSmi")
        }
        assert len(members) == 3
        for enumeration, member in members:
            assigned = {
                target.id
                for node in interface[enumeration].body
                if isinstance(node, ast.Assign)
                for target in node.targets
            }
            assert member in assigned, (enumeration, member)

    def test_queried_fields_and_argument_counts_match_the_library(self, interface):
        queried = [call for source in read(AMD) for call in queries(source)]
        assert len(queried) > 15
        older = set()
        for query, fields, arguments in queried:
            function = interface[query]
            if arguments is not None:
                assert len(function.args.args) == 1 + arguments, query
            returned = {node.value for node in ast.walk(function) if isinstance(node, ast.Constant)}
            older |= set(fields) - returned
        assert older <= amd.OLDER_FIELDS, "a field is not in the answer"

    def test_pci_address_has_the_format_of_the_library(self, interface, monkeypatch):
        script_torch(monkeypatch, [gpu("a device", 104, bus=0xC6)], hip=True)
        scope = {"re": re}
        exec(ast.unparse(interface["_parse_bdf"]), scope)
        assert scope["_parse_bdf"](find._pci_address(0)) == [0, 0xC6, 0, 0]

    def test_import_without_rocm_is_one_reason_without_output(self, monkeypatch, capfd):
        for name in [name for name in sys.modules if name.partition(".")[0] == "amdsmi"]:
            monkeypatch.delitem(sys.modules, name)
        device = amd.AmdDevice(0)
        if device.library_error is None:
            pytest.skip("this machine has ROCm")
        assert isinstance(device.library_error, LibraryMissing)
        assert "libamd_smi.so" in str(device.library_error)
        assert capfd.readouterr() == ("", "")

    def test_query_results_are_read_through_fields_only(self):
        for source in read(AMD):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    assert not isinstance(node.slice.value, str), ast.unparse(node)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    literal = node.args and isinstance(node.args[0], ast.Constant)
                    assert not (node.func.attr == "get" and literal), ast.unparse(node)


def queries(source):
    """Return (query, fields, number of arguments after the handle) of each call to AMD SMI."""
    tree = ast.parse(source)
    calls = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.args[0], "value", None) if call.args else None
        if not isinstance(name, str) or not name.startswith("amdsmi_get"):
            continue
        kind = getattr(call.func, "attr", "")
        if kind in {"_fields", "_field"}:
            more = [keyword.value for keyword in call.keywords if keyword.arg == "args"]
            fields = [field for argument in call.args[1:] for field in strings(argument)]
            calls.append((name, fields, len(more[0].elts) if more else 0))
        else:
            assert kind in {"_ask", "_query", "_value"}, ast.unparse(call)
            count = {"_query": len(call.args) - 1, "_known": 0}.get(kind)
            calls.append((name, [], count))
    return calls


def strings(node):
    """Return the literal strings of an argument: one, a tuple's, or the keys of VIOLATIONS."""
    if isinstance(node, ast.Starred) and isinstance(node.value, ast.Name):
        assert node.value.id == "VIOLATIONS"
        return list(amd.VIOLATIONS)
    inner = node.value.elts if isinstance(node, ast.Starred) else [node]
    return [element.value for element in inner if isinstance(element, ast.Constant)]
