"""What the transformer does: without it, with half of it, and with LayerNorm where the paper writes
it.
"""

from studies.study import Study, Variant, main

STUDY = Study(
    "body",
    "What does the transformer carry?",
    (
        Variant("encoder and decoder"),
        Variant(
            "no body", ("model.encoder_layers=0", "model.decoder_layers=0", "loss.contrastive=none")
        ),
        Variant(
            "encoder alone, as many layers", ("model.encoder_layers=4", "model.decoder_layers=0")
        ),
        Variant("LayerNorm on the memory", ("model.memory_norm=True",)),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
