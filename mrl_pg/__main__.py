import sys

from mrl_pg.cli import main

if __name__ == "__main__":
    sys.exit(main())
