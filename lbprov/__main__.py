"""`python -m lbprov` is `lbprov`."""

from lbprov.cli.main import main

main()
