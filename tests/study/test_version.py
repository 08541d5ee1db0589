"""The code version that every row carries."""

import os
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

    package = tmp_path / "sparsing"
    package.mkdir()
    monkeypatch.setattr(version, "ROOT", package)
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
    inside = tmp_path / "inside" / "sparsing"
    inside.mkdir(parents=True)
    monkeypatch.setattr(version, "ROOT", inside)
    assert version.code_version.__wrapped__() == plain  # somebody else's repository


def test_the_users_index_is_not_locked(tmp_path, monkeypatch):
    """A `git commit` of the user, at the same moment, would fail on the lock."""
    package = tmp_path / "sparsing"
    package.mkdir()
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    file = tmp_path / "file"
    file.write_text("a")
    subprocess.run(["git", "-C", tmp_path, "add", "file"], check=True)
    os.utime(file, (1, 1))  # `git status` would write the index anew
    index = tmp_path / ".git" / "index"
    before = index.stat().st_mtime_ns, index.stat().st_ino
    monkeypatch.setattr(version, "ROOT", package)
    version._git("status", "--porcelain", "--untracked-files=no")
    assert (index.stat().st_mtime_ns, index.stat().st_ino) == before
