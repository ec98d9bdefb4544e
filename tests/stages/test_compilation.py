"""Byte code and extension modules."""

from __future__ import annotations

import importlib.util
import marshal
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pipeline import Journal, Project, Store
from stages.compilation import ByteCompiled, NativeExtension
from stages.scripts import extension
from stages.source import WorkingCopy
from tests.conftest import RunStage, StageDidNotPass
from tests.stages.package import run_again

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="no C compiler, or no Python headers",
)
C = """\
#include <Python.h>
static PyObject *where(PyObject *self, PyObject *none) { return PyUnicode_FromString(__FILE__); }
static PyMethodDef methods[] = {{"where", where, METH_NOARGS, ""}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast", "", -1, methods};
PyMODINIT_FUNC PyInit__fast(void) { return PyModule_Create(&module); }
"""


def write(project: Project, **files: str) -> None:
    (project.root / "pkg").mkdir(exist_ok=True)
    for name, text in files.items():
        (project.root / "pkg" / name.replace("_py", ".py").replace("_c", ".c")).write_text(text)


def test_every_module_gets_byte_code_that_is_used_without_its_source_s_date(
    project: Project, run_stage: RunStage, store: Store, tmp_path: Path
) -> None:
    write(project, one_py="WHERE = (lambda: 0).__code__.co_filename\n", two_py="x = {'a', 'b', 'c'}\n")
    tree = run_stage(ByteCompiled(source=WorkingCopy()))
    tag = sys.implementation.cache_tag
    assert {f"pkg/__pycache__/{name}.{tag}.pyc" for name in ("one", "two")} <= {e.path for e in store.entries(tree)}
    store.lay_out(tree, tmp_path / "out")
    code = (tmp_path / "out/pkg/__pycache__" / f"one.{tag}.pyc").read_bytes()
    assert code[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(code[4:8], "little") == 0b01  # a hash, not checked
    (tmp_path / "out/pkg/one.py").write_text("raise SystemExit('compiled again')\n")
    done = subprocess.run(
        [sys.executable, "-c", "import pkg.one; print(pkg.one.WHERE)"],
        cwd=tmp_path / "out",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}/out/pkg/one.py\n"
    assert marshal.loads(code[16:]).co_filename == "pkg/one.py"


def test_compiling_twice_gives_the_same_bytes(project: Project, run_stage: RunStage, store: Store, journal: Journal) -> None:
    write(project, one_py="x = {'a', 'b', 'c'}\n" * 3, two_py="def f(a, *, b=1): return (a, b, 'c')\n")
    stage = ByteCompiled(source=WorkingCopy())
    assert run_stage(stage) == run_again(ByteCompiled(source=WorkingCopy()), project, store, journal)


def test_a_syntax_error_fails_with_file_and_line(project: Project, run_stage: RunStage) -> None:
    write(project, good_py="x = 1\n", wrong_py="x = 1\ny = = 2\n", worse_py="(\n")
    with pytest.raises(StageDidNotPass, match=r"pkg/worse.py:1: .* \(and 1 more files\)"):
        run_stage(ByteCompiled(source=WorkingCopy()))


@pytest.mark.parametrize("text", ["x = '\x00'\n", "# coding: nonsense\n"])
def test_what_cannot_be_read_as_python_fails(project: Project, run_stage: RunStage, text: str) -> None:
    write(project, odd_py=text)
    with pytest.raises(StageDidNotPass, match=r"pkg/odd\.py"):
        run_stage(ByteCompiled(source=WorkingCopy()))


def test_a_tree_without_python_is_no_success(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"no \.py file"):
        run_stage(ByteCompiled(source=WorkingCopy()))


@needs_compiler
def test_a_c_file_becomes_a_module_that_can_be_imported(
    project: Project, run_stage: RunStage, store: Store, tmp_path: Path
) -> None:
    write(project, _fast_c=C)
    tree = run_stage(NativeExtension(source=WorkingCopy()))
    store.lay_out(tree, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", "from pkg import _fast; print(_fast.where())"],
        cwd=tmp_path / "out", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "pkg/_fast.c\n"


@needs_compiler
def test_compiling_c_twice_gives_the_same_bytes(project: Project, run_stage: RunStage, store: Store, journal: Journal) -> None:
    write(project, _fast_c=C)
    assert run_stage(NativeExtension(source=WorkingCopy())) == run_again(
        NativeExtension(source=WorkingCopy()), project, store, journal
    )


@needs_compiler
def test_an_error_in_the_c_fails_the_stage(project: Project, run_stage: RunStage) -> None:
    write(project, _fast_c="int f( {\n")
    with pytest.raises(StageDidNotPass, match=r"pkg/_fast\.c:1:8: error: expected"):
        run_stage(NativeExtension(source=WorkingCopy()))


def test_a_missing_compiler_is_said_clearly(project: Project, run_stage: RunStage) -> None:
    write(project, _fast_c=C)
    with pytest.raises(StageDidNotPass, match=r"no C compiler 'no-such-cc'(.|\n)*expected: a C compiler"):
        run_stage(NativeExtension(source=WorkingCopy(), compiler="no-such-cc"))


def test_the_place_of_the_compilation_is_not_written_into_a_module() -> None:
    command = extension.command("cc", "pkg/_fast.c", "/somewhere/src")
    assert "-ffile-prefix-map=/somewhere/src=." in command
    assert "-Wl,--build-id=none" in command


def test_a_tree_without_c_is_no_success(project: Project, run_stage: RunStage) -> None:
    with pytest.raises(StageDidNotPass, match=r"no \.c file"):
        run_stage(NativeExtension(source=WorkingCopy()))
