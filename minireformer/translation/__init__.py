"""Translation: `cross_attention`, which lets one sequence read another, and the `encoder_decoder` built with it."""
