"""`ser-hf finetune` as a script, for `accelerate launch`."""

if __name__ == "__main__":
    from _command import run

    run("finetune")
