"""Translation: `cross_attention`, by which one sequence reads another, and the `encoder_decoder` built with it."""
