"""`ser-hf pretrain` as a script, for `accelerate launch`."""

if __name__ == "__main__":
    from _command import run

    run("pretrain")
