"""`ser-hf evaluate` as a script."""

if __name__ == "__main__":
    from _command import run

    run("evaluate")
