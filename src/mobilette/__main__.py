"""``python -m mobilette``."""

from mobilette.cli.main import main

if __name__ == "__main__":
    main()
