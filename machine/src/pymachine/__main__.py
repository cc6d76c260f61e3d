"""`python -m pymachine`."""

from pymachine.main import main

if __name__ == "__main__":
    main()
