"""What the installed wheel must do without the checkout: import, migrate, search, from its own files."""

import subprocess
import sys
import tempfile
from pathlib import Path

import mrl_pg
from mrl_pg.install import resource_dir

program = Path(sys.executable).with_name("mrl-pg")
assert resource_dir("sql").parent == resource_dir("migrations").parent == Path(mrl_pg.__file__).parent


def run(*arguments: str) -> str:
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


with tempfile.TemporaryDirectory() as directory:
    dsn = f"embedded:{directory}/pg"
    assert mrl_pg.__version__ in run("--version")
    run("migrate", "--table", "documents", "--full-dims", "8", "--dims", "4", "--dsn", dsn)
    vector = Path(directory) / "query.json"
    vector.write_text("[1, 2, 3, 4, 5, 6, 7, 8]")
    run("search", "documents", "--vector-file", str(vector), "--dsn", dsn)
    assert "embedding_4" in run("status", "--json", "--dsn", dsn)
print("the wheel works")
