"""The code version that every row carries."""

import re
import subprocess

from sparsing.study import version


def test_version_and_commit_of_this_checkout():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\+[0-9a-f]{7,}(\+dirty)?)?", version.code_version())
    commit = version._git("rev-parse", "--short=7", "HEAD")
    assert commit in version.code_version()


def test_a_changed_checkout_and_one_without_git(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    monkeypatch.setattr(version, "ROOT", tmp_path)
    plain = version.code_version.__wrapped__()
    assert "+" not in plain
    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    clean = version.code_version.__wrapped__()
    assert re.fullmatch(re.escape(plain) + r"\+[0-9a-f]{7}", clean)
    (tmp_path / "file").write_text("b")
    assert version.code_version.__wrapped__() == f"{clean}+dirty"
    monkeypatch.setattr(version, "ROOT", tmp_path / "inside")
    (tmp_path / "inside").mkdir()
    assert version.code_version.__wrapped__() == plain  # somebody else's repository
