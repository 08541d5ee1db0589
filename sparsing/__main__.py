"""`python -m sparsing`: the command line."""

from sparsing.study.commands.main import main

main()
