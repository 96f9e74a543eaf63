"""Class and confidence of pictures, from the newest adapter: ``python predict.py image.jpg``."""

import sys

from vitlora.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
