"""What the transformer contributes: models without it, with half of it, or one more LayerNorm.

The paper has a LayerNorm on the memory of the decoder, the authors' code does not.
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
            "encoder alone, as many layers",
            ("model.encoder_layers=4", "model.decoder_layers=0"),
        ),
        Variant("LayerNorm on the memory", ("model.memory_norm=True",)),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
