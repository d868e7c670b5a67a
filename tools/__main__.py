"""`python3 -m edgeface.tools`: the same as `edgeface`."""

from edgeface.tools.main import main

main()
