"""Networks: mapping, synthesis, decoders, discriminator."""
