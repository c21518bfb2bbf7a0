"""Initialisation by PyTorch's defaults (the authors' code) or as the identity, at two sizes."""

from studies.study import Study, Variant, main

LARGER = (
    "model.features=24",
    "model.heads=6",
    "model.hidden=864",
    "model.encoder_layers=3",
    "model.decoder_layers=3",
)

STUDY = Study(
    "starts",
    "Start as PyTorch does, or as a copy of the input?",
    (
        Variant("identity, 16 features"),
        Variant("torch, 16 features", ("model.start=torch",)),
        Variant("identity, 24 features", LARGER),
        Variant("torch, 24 features", (*LARGER, "model.start=torch")),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
