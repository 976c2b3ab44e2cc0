"""Whether tests notice a fault: one place of a module is changed at a time, and its tests are run.

A mutant has one comparison, operator, number, condition, argument or statement changed. It is
killed where a test fails, or takes far longer than before. The tests are run once, which notes the
functions that each of them calls. Then a process with all of that in memory is forked for each
mutant, and runs the tests that call the changed function. What stands outside functions is changed
when the module is imported, which takes some seconds a mutant.

Prints a line for each mutant that survives and a Markdown table.

    python benchmarks/mutation.py ser_hf/evaluation/metrics.py
"""

import argparse
import ast
import contextlib
import copy
import gc
import importlib
import os
import resource
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    "ser_hf/protocols/*.py": ["tests/protocols", "tests/audio/test_fingerprint.py"],
    "ser_hf/evaluation/metrics.py": ["tests/evaluation/test_metrics.py", "tests/evaluation/test_abstention.py"],
    "ser_hf/evaluation/bootstrap.py": ["tests/evaluation/test_bootstrap.py"],
    "ser_hf/evaluation/compare.py": ["tests/evaluation/test_compare.py"],
    "ser_hf/audio/io.py": [
        f"tests/audio/test_{name}.py" for name in ("io", "arrays", "conditioning", "pyav", "unfinished")
    ],
}
"""The tests of each module; its own examples are run, too."""

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
MEMORY = 4 * 2**30  # bytes that a mutant may take beyond what is in memory


@dataclass(frozen=True)
class Mutant:
    """A module with one place changed."""

    path: Path
    line: int
    before: str
    after: str
    function: str | None
    """Qualified name of the outermost function around it; None outside functions."""
    lines: range
    """Of that function, its decorators included."""
    code: CodeType = field(repr=False)
    """Of the whole module."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {_short(self.before)}  ->  {_short(self.after)}"


def _short(text: str) -> str:
    return textwrap.shorten(text, 90, placeholder=" …")


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    source = path.read_text()
    tree, found = ast.parse(source), []
    for node, name, lines in list(_places(tree)):
        for before, after, changed in _changes(node, name is not None):
            _Replaced(node, changed).visit(tree)
            code = compile(ast.fix_missing_locations(tree), str(path), "exec")
            _Replaced(changed, node).visit(tree)
            line = getattr(node, "lineno", None) or node.target.lineno  # comprehensions have none
            found.append(Mutant(path, line, before, after, name, lines, code))
    return sorted(found, key=lambda mutant: mutant.line)


class _Replaced(ast.NodeTransformer):
    """Puts another node in the place of one."""

    def __init__(self, node: ast.AST, other: ast.AST) -> None:
        self.node, self.other = node, other

    def visit(self, node: ast.AST) -> ast.AST:
        return self.other if node is self.node else self.generic_visit(node)


def _places(
    node: ast.AST, outer: tuple[str, ...] = (), name: str | None = None, lines: range = range(0)
) -> Iterator[tuple[ast.AST, str | None, range]]:
    """Nodes that a program runs, with the function around them: no annotation, no decorator."""
    yield node, name, lines
    for part, value in ast.iter_fields(node):
        if part in ("annotation", "returns", "decorator_list", "format_spec") or _is_for_types(node):
            continue
        inside = (outer, name, lines)
        if isinstance(node, ast.ClassDef) and name is None:
            inside = ((*outer, node.name), None, lines)
        elif isinstance(node, ast.FunctionDef) and name is None and part == "body":
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            inside = (outer, ".".join([*outer, node.name]), range(first, node.end_lineno + 1))
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _places(child, *inside)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _changes(node: ast.AST, inside: bool) -> Iterator[tuple[str, str, ast.AST]]:
    """What stands there, what is put there, and the node that does so."""
    for changed in _changed(node, inside):
        if isinstance(node, ast.If | ast.While):
            yield ast.unparse(node.test), ast.unparse(changed.test), changed
        elif isinstance(node, ast.comprehension):
            yield ast.unparse(node.ifs), ast.unparse(changed.ifs), changed
        elif isinstance(node, ast.Call):
            (lost,) = [keyword for keyword in node.keywords if keyword not in changed.keywords]
            yield f"{ast.unparse(node.func)}(… {lost.arg}={ast.unparse(lost.value)})", "without it", changed
        else:
            yield ast.unparse(node), ast.unparse(changed), changed


def _changed(node: ast.AST, inside: bool) -> Iterator[ast.AST]:
    match node:
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                for other in COMPARISONS[type(operator)]:
                    yield _with(node, ops=[*node.ops[:place], other(), *node.ops[place + 1 :]])
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in OPERATORS:
            yield _with(node, op=OPERATORS[type(node.op)]())
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
            if inside:
                yield ast.Constant(node.value - 1)
        case ast.If() | ast.IfExp() | ast.While() if not isinstance(node.test, ast.Compare) and not _is_for_types(node):
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.comprehension() if node.ifs and not isinstance(node.ifs[0], ast.Compare):
            yield _with(node, ifs=[ast.UnaryOp(ast.Not(), node.ifs[0]), *node.ifs[1:]])
        case ast.Return(value=ast.AST()) if ast.unparse(node.value) != "None":
            yield _with(node, value=ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Call(keywords=[_, *_]):
            for place, keyword in enumerate(node.keywords):
                if keyword.arg:
                    yield _with(node, keywords=[*node.keywords[:place], *node.keywords[place + 1 :]])


def _with(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


class Session:
    """Runs the tests once, then those that reach a mutant in a fork for each; a plugin of pytest.

    Verdicts are appended to a file, since the process is not the one that prints.
    """

    def __init__(self, candidates: list[Mutant], longest: float, verdicts: Path) -> None:
        self.candidates, self.longest, self.verdicts = candidates, longest, verdicts
        self.paths = {str(mutant.path) for mutant in candidates}
        self.called: dict[pytest.Item, set[tuple[str, int]]] = {}
        self.seconds: dict[pytest.Item, float] = {}
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            begin = time.monotonic()
            with self._watched(item):
                self._run(session, item)
            self.seconds[item] = time.monotonic() - begin
            if self.failed:
                raise session.Failed(f"{item.nodeid} fails without a change")
        functions = _functions(self.paths)
        for mutant in self.candidates:
            tests = [item for item, called in self.called.items() if self.seconds[item] < self.longest]
            tests = [item for item in tests if self._reaches(item, mutant)]
            verdict = self._judge(session, mutant, functions, sorted(tests, key=self.seconds.__getitem__))
            with self.verdicts.open("a") as file:
                file.write(f"{verdict}\n")
        return True

    def _run(self, session: pytest.Session, item: pytest.Item) -> None:
        """Run a test and leave fixtures of the session in place."""
        other = session.items[0] if item is not session.items[0] else session.items[-1]
        session._setupstate.teardown_exact(item)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=other)

    @contextlib.contextmanager
    def _watched(self, item: pytest.Item) -> Iterator[None]:
        called = self.called[item] = set()

        def note(frame: FrameType, event: str, argument: object) -> None:
            if frame.f_code.co_filename in self.paths:
                called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        threading.settrace(note)
        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)

    def _reaches(self, item: pytest.Item, mutant: Mutant) -> bool:
        return any(path == str(mutant.path) and line in mutant.lines for path, line in self.called[item])

    def _judge(
        self,
        session: pytest.Session,
        mutant: Mutant,
        functions: dict[tuple[str, str, int], list[FunctionType]],
        tests: list[pytest.Item],
    ) -> str:
        if not tests:
            return "not reached"
        changed = functions[str(mutant.path), mutant.function, mutant.lines[0]]
        code = _code_of(mutant.code, mutant.function, mutant.lines[0])
        assert changed, mutant

        def run() -> bool:
            for function in changed:
                function.__code__ = code
            for item in tests:
                self._run(session, item)
                if self.failed:
                    return False
            return True

        return _in_a_fork(run, 5 + 10 * sum(self.seconds[item] for item in tests))


def _functions(paths: set[str]) -> dict[tuple[str, str, int], list[FunctionType]]:
    """The functions in memory that files define, by file, qualified name and first line."""
    gc.unfreeze()  # what is frozen is not listed
    found = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is FunctionType and (code := thing.__code__).co_filename in paths:
            found[code.co_filename, code.co_qualname, code.co_firstlineno].append(thing)
    return found


def _code_of(code: CodeType, name: str, line: int) -> CodeType:
    """The code of a function inside that of its module."""
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    for one in inner:
        if (one.co_qualname, one.co_firstlineno) == (name, line):
            return one
    return next(_code_of(one, name, line) for one in inner if name.startswith(f"{one.co_qualname}."))


def _in_a_fork(
    run: Callable[[], bool], seconds: float, memory: int | None = MEMORY, log: str | Path = os.devnull
) -> str:
    """What becomes of a mutant that a process of its own runs: survived, killed or timeout."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        survived = False
        try:
            with open(os.devnull, "rb") as nothing, open(log, "ab") as output:
                os.dup2(nothing.fileno(), 0)
                for number in (1, 2):
                    os.dup2(output.fileno(), number)
            if memory is not None:
                size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (size + memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
            survived = run()
        finally:
            os._exit(0 if survived else 1)
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return "survived" if status == 0 else "killed"
        if time.monotonic() > until:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            return "timeout"
        time.sleep(0.01)


def _import_libraries() -> None:
    """Import what all tests need, but nothing of ours, which a mutant may change."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    programs = importlib.import_module("helpers.programs")
    for library in [*programs.LIBRARIES, "transformers.trainer", "datasets", "gradio"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.collect()
    gc.freeze()


def check(candidates: list[Mutant], tests: list[str], longest: float, folder: Path) -> list[str]:
    """The verdict on each mutant."""
    if not candidates:
        return []
    # pytest rewrites files that it is given, by a loader that would not see a mutant
    paths = sorted({str(mutant.path) for mutant in candidates})
    words = [*tests, *paths, "-x", "--assert=plain", "-p", "no:cacheprovider"]
    inside = [mutant for mutant in candidates if mutant.function]
    verdicts = folder / "verdicts"
    verdicts.write_text("")

    def run_session() -> bool:
        return pytest.main([*words, f"--basetemp={folder}/all"], [Session(inside, longest, verdicts)]) == 0

    begin = time.monotonic()
    if _in_a_fork(run_session, 24 * 3600, None, folder / "log") != "survived":
        print((folder / "log").read_text())
        sys.exit(f"the tests fail without a change: pytest {' '.join(words)}")
    longest_run = 60 + 3 * (time.monotonic() - begin)
    found = dict(zip(map(id, inside), verdicts.read_text().split("\n"), strict=False))
    for number, mutant in enumerate(candidates):
        if mutant.function is None:

            def run_anew(mutant: Mutant = mutant, number: int = number) -> bool:
                _import_as(mutant)
                return pytest.main([*words, f"--basetemp={folder}/{number}"]) == 0

            found[id(mutant)] = _in_a_fork(run_anew, longest_run)
    return [found[id(mutant)] for mutant in candidates]


def _import_as(mutant: Mutant) -> None:
    usual = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        return mutant.code if loader.path == str(mutant.path) else usual(loader, name)

    SourceFileLoader.get_code = get_code


def main() -> None:
    """Parse the arguments, check each module and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="paths in ser_hf; all that have an entry in MODULES without any")
    parser.add_argument("--longest", type=float, default=3.0, help="tests that take more seconds are left out")
    parser.add_argument("--tests", nargs="+", help="these in the place of those that MODULES names")
    parser.add_argument("--line", type=int, action="append", help="mutants of this line alone; may be given again")
    args = parser.parse_args()
    os.chdir(ROOT)
    wanted = {Path(name).resolve() for name in args.modules}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # a worker of pytest-xdist shares fixtures and the cache folder with those beside it
        os.environ.update(HF_HOME=f"{folder}/home", PYTEST_XDIST_WORKER="mutants")
        _import_libraries()
        for pattern, tests in MODULES.items():
            paths = [path for path in sorted(ROOT.glob(pattern)) if not wanted or path in wanted]
            found = [mutant for path in paths for mutant in mutants(path) if not args.line or mutant.line in args.line]
            counts: dict[Path, Counter] = {mutant.path: Counter() for mutant in found}
            for mutant, verdict in zip(
                found, check(found, args.tests or tests, args.longest, Path(folder)), strict=True
            ):
                counts[mutant.path][verdict] += 1
                if verdict in ("survived", "not reached"):
                    print(f"{verdict}: {mutant}", flush=True)
            rows += [(path.relative_to(ROOT), count) for path, count in counts.items()]
    print("\n| module | mutants | killed | survived | not reached | score |\n| --- | --- | --- | --- | --- | --- |")
    for path, counts in rows:
        total, killed = sum(counts.values()), counts["killed"] + counts["timeout"]
        figures = f"{total} | {killed} | {counts['survived']} | {counts['not reached']} | {100 * killed / total:.1f} %"
        print(f"| `{path}` | {figures} |")


if __name__ == "__main__":
    main()
